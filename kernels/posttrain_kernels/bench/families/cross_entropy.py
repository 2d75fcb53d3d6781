"""Cross-entropy against PyTorch's own, torch.compile, Liger and Unsloth."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from posttrain_kernels import cross_entropy
from posttrain_kernels.bench.cases import Family, Inputs, by_pass
from posttrain_kernels.bench.contestants import (
    EAGER,
    OURS,
    Contestant,
    Entry,
    compiled,
    simple,
)

EXACT_ROWS = 1024  # of the reference at a time


def targets(rows: int, vocabulary: int, device: str) -> Tensor:
    """Random, every eighth row ignored, as a prompt would be."""
    target = torch.randint(vocabulary, (rows,), device=device)
    target[::8] = cross_entropy.IGNORE
    return target


def make(rows: int, vocabulary: int, dtype: torch.dtype, device: str) -> Inputs:
    """Normal logits, three wide; the loss is the end, so its gradient is 1."""
    logits = (3 * torch.randn(rows, vocabulary, device=device)).to(dtype)
    target = targets(rows, vocabulary, device)
    return Inputs((logits, target), torch.ones((), device=device))


def eager(logits, target):
    """As training loops do it: in fp32."""
    return F.cross_entropy(logits.float(), target)


def exact(logits: Tensor, target: Tensor) -> Tensor:
    """The mean of the reference's losses, some rows at a time."""
    parts = zip(logits.split(EXACT_ROWS), target.split(EXACT_ROWS), strict=True)
    losses = [
        checkpoint(cross_entropy.reference, x, t, use_reentrant=False) for x, t in parts
    ]
    return torch.cat(losses).sum() / (target != cross_entropy.IGNORE).sum()


def liger() -> Contestant:
    """Liger's kernel; its forward pass writes the gradient over the logits."""
    from liger_kernel.transformers.functional import liger_cross_entropy

    return Contestant(
        *("Liger", liger_cross_entropy),
        destroys_inputs=True,
        gradients_in_forward=True,
    )


def unsloth() -> Contestant:
    """Unsloth's kernel; it takes a batch of sequences."""
    from unsloth.kernels import fast_cross_entropy_loss

    def call(logits, target):
        return fast_cross_entropy_loss(logits[None], target[None])

    return Contestant("Unsloth", call)


FAMILY = Family(
    name="cross_entropy",
    axes=("rows", "vocabulary"),
    sizes={
        "tiny": (17, 50),
        "small": (512, 32000),
        "medium": (4096, 32000),
        "large": (8192, 128256),
    },
    make=make,
    exact=exact,
    entries=(
        simple(OURS, cross_entropy.cross_entropy),
        simple(EAGER, eager),
        compiled(eager),
        Entry("Liger", liger, "liger_kernel"),
        Entry("Unsloth", unsloth, "unsloth"),
    ),
    costs=partial(by_pass, cross_entropy.cost),
    results=("loss", "dlogits"),
    trained=(0,),
)
