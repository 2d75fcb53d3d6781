"""Muon: momentum for matrices, with all singular values of the step set to about 1.

A gradient of a weight matrix is often nearly of low rank: a few directions carry most
of its length. Muon orthogonalises the momentum, so that rare directions move as far as
common ones. It needs five rounds of three matrix products a step, and no second moment:
half of AdamW's state.

For the matrices inside a network only. Embeddings, the read-out, gains and biases stay
with AdamW: `posttrain.foundations.optimizers_groups` sorts them.

Sources: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon (the update and
its three coefficients); Liu et al. 2025 (the scale to share AdamW's settings).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from posttrain.foundations.optimizers import loss_of, require, with_gradient

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # steep at 0, and bounded on 0 ... 1


@torch.no_grad()
def newton_schulz(G: Tensor, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """U S' Vᵀ for G = U S Vᵀ: the same directions, each singular value about 1.

    G: (..., A, B), any number of matrices at once, in the dtype of the products. Each
    step maps every singular value s to a s + b s³ + c s⁵, with no SVD.
    """
    a, b, c = COEFFICIENTS
    X = G.mT if G.shape[-2] > G.shape[-1] else G  # wide: the smaller Gram matrix
    X = X / X.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)  # now every s <= 1
    for _ in range(steps):
        gram = X @ X.mT  # (..., min(A, B), min(A, B))
        X = a * X + (b * gram + c * gram @ gram) @ X
    return X.mT if G.shape[-2] > G.shape[-1] else X


SCALES: dict[str, Callable[[int, int], float]] = {
    # a step of the same effect on outputs, whatever the shape (Jordan et al. 2024)
    "spectral": lambda A, B: max(1.0, A / B) ** 0.5,
    # root mean square about 0.2, as AdamW's steps have (Liu et al. 2025, section 2.2)
    "adamw": lambda A, B: 0.2 * max(A, B) ** 0.5,
}


class Muon(torch.optim.Optimizer):
    """p (1 - lr * weight_decay) - lr * scale * newton_schulz(nesterov momentum).

    scale: "adamw" (share its learning rate and decay) or "spectral" (lr about 0.02).
    dtype: of the matrix products; None keeps that of the parameters. bfloat16 is
        enough, and faster on a GPU; on most CPUs it is slower.
    Weights of equal shape are stacked, so that their products are one batched matmul.
    Raises ValueError for a parameter that is no matrix.
    """

    def __init__(
        self,
        params,
        lr: float = 3e-4,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        steps: int = 5,
        scale: str = "adamw",
        dtype: torch.dtype | None = None,
    ):
        require("lr", lr, 0)
        require("momentum", momentum, 0, 1)
        require("weight_decay", weight_decay, 0)
        if scale not in SCALES:
            raise ValueError(f"scale={scale!r}: use one of {', '.join(SCALES)}")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "steps": steps,
            "scale": scale,
            "dtype": dtype,
        }
        super().__init__(params, defaults)
        shapes = [tuple(p.shape) for g in self.param_groups for p in g["params"]]
        if wrong := [shape for shape in shapes if len(shape) != 2]:
            raise ValueError(f"Muon takes matrices; give shape {wrong[0]} to AdamW")

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Tensor | None:
        """One step; returns the loss of `closure`, where one is given."""
        loss = loss_of(closure)
        for group in self.param_groups:
            alike: dict[tuple, list[Tensor]] = {}
            for p in with_gradient(group):
                alike.setdefault((p.shape, p.dtype, p.device), []).append(p)
            for params in alike.values():
                self._step_alike(params, group)
        return loss

    def _step_alike(self, params: list[Tensor], group: dict) -> None:
        """Step N parameters of one shape (A, B)."""
        stack = torch.stack([self._momentum(p, group) for p in params])  # (N, A, B)
        stack = stack.to(group["dtype"] or stack.dtype)
        updates = newton_schulz(stack, group["steps"])
        length = group["lr"] * SCALES[group["scale"]](*params[0].shape)
        for p, update in zip(params, updates, strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.sub_(update.to(p.dtype), alpha=length)

    def _momentum(self, p: Tensor, group: dict) -> Tensor:
        """Nesterov's momentum, as a running mean: (A, B)."""
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        mean = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
        return p.grad.lerp(mean, group["momentum"])
