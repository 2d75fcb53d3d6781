"""Which parameter gets which optimizer, and how long a gradient may be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from posttrain.foundations.optimizers import AdamW
from posttrain.foundations.optimizers_muon import Muon


def parameter_groups(params: Iterable[Tensor], weight_decay: float = 0.1) -> list[dict]:
    """Two groups for AdamW: what has two dimensions or more decays, the rest does not.

    A gain or a bias has few numbers and a meaning at its size (a norm's gain is about
    1): pulling it to 0 takes away capacity and saves nothing. Frozen parameters are
    left out.
    """
    trained = [p for p in params if p.requires_grad]
    return [
        {
            "params": [p for p in trained if p.ndim >= 2],
            "weight_decay": weight_decay,
        },
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def split_hidden(
    model: nn.Module, read_out: Sequence[str] = ("head",)
) -> tuple[list[Tensor], list[Tensor]]:
    """(hidden matrices, all other trained parameters): the first are Muon's.

    Not hidden: embeddings, what is tied to one, and modules whose name ends in one of
    `read_out`. Raises ValueError where a name of `read_out` is no module of the model.
    """
    modules = dict(model.named_modules())
    outer = {id(m.weight) for m in modules.values() if isinstance(m, nn.Embedding)}
    for name in read_out:
        found = [m for path, m in modules.items() if path.split(".")[-1] == name]
        if not found:
            known = ", ".join(path for path, _ in model.named_children())
            raise ValueError(f"no module is named {name!r}; the model has: {known}")
        outer |= {id(p) for module in found for p in module.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    hidden = [p for p in trained if p.ndim == 2 and id(p) not in outer]
    taken = {id(p) for p in hidden}
    return hidden, [p for p in trained if id(p) not in taken]


def muon_and_adamw(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.1,
    read_out: Sequence[str] = ("head",),
) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for the rest, one learning rate for both."""
    hidden, rest = split_hidden(model, read_out)
    return [
        Muon(hidden, lr=lr, weight_decay=weight_decay),
        AdamW(parameter_groups(rest, weight_decay), lr=lr),
    ]


@torch.no_grad()
def clip_grad_norm(params: Iterable[Tensor], max_norm: float) -> Tensor:
    """Shorten all gradients together to length max_norm if they are longer.

    Returns the length before, a tensor (reading its value waits for the device). The
    direction does not change. Like `torch.nn.utils.clip_grad_norm_`: a NaN anywhere
    makes the length NaN, so look at what is returned.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm={max_norm} must be above 0; 1.0 is common")
    grads = [p.grad for p in params if p.grad is not None]
    if not grads:
        raise ValueError("no parameter has a gradient; call backward before clipping")
    norm = torch.stack([g.norm() for g in grads]).norm()
    shrink = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(shrink)
    return norm
