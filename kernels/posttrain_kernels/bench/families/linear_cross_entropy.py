"""The last layer with its loss against eager, torch.compile, Liger and Unsloth.

Forward and backward together only: ours, Liger's and Unsloth's make the gradients on
the way forward.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from posttrain_kernels import linear_cross_entropy
from posttrain_kernels.bench.cases import BOTH, Family, Inputs
from posttrain_kernels.bench.contestants import (
    EAGER,
    OURS,
    Contestant,
    Entry,
    compiled,
    simple,
)
from posttrain_kernels.bench.families.cross_entropy import EXACT_ROWS, targets
from posttrain_kernels.common import Cost
from posttrain_kernels.cross_entropy import IGNORE


def make(
    rows: int, width: int, vocabulary: int, dtype: torch.dtype, device: str
) -> Inputs:
    """x (N, C) normal, weight (V, C) so that logits are normal, targets (N,)."""
    x = torch.randn(rows, width, device=device).to(dtype)
    weight = torch.randn(vocabulary, width, device=device) / math.sqrt(width)
    target = targets(rows, vocabulary, device)
    return Inputs((x, weight.to(dtype), target), torch.ones((), device=device))


def eager(x, weight, target):
    """As training loops do it: all logits, in fp32."""
    return F.cross_entropy(F.linear(x, weight).float(), target)


def exact(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """The reference, some rows at a time."""
    kept = (target != IGNORE).sum()

    def part(x, target):
        mean = linear_cross_entropy.reference(x, weight, target)
        return torch.nan_to_num(mean) * (target != IGNORE).sum() / kept

    parts = zip(x.split(EXACT_ROWS), target.split(EXACT_ROWS), strict=True)
    return sum(checkpoint(part, *each, use_reentrant=False) for each in parts)


def liger() -> Contestant:
    """Liger's chunked loss, the gradient of the weight summed in fp32 as ours is."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    call = partial(liger_fused_linear_cross_entropy, accum_dtype=torch.float32)
    return Contestant("Liger", call)


def unsloth() -> Contestant:
    """Unsloth's chunked loss; it takes a batch of sequences, not to be shifted here."""
    import unsloth  # noqa: F401  unsloth_zoo wants it imported first
    from unsloth_zoo.fused_losses import unsloth_fused_ce_loss

    def call(x, weight, target):
        return unsloth_fused_ce_loss(
            *(None, x[None], weight, None, target[None]), shift_labels=False
        )

    return Contestant("Unsloth", call)


def costs(
    rows: int, width: int, vocabulary: int, dtype: torch.dtype
) -> dict[str, Cost]:
    """Of forward and backward together."""
    return {BOTH: linear_cross_entropy.cost(rows, width, vocabulary, dtype)}


FAMILY = Family(
    name="linear_cross_entropy",
    axes=("rows", "width", "vocabulary"),
    sizes={
        "tiny": (17, 8, 50),
        "small": (1024, 1024, 32000),
        "medium": (4096, 2048, 32000),
        "large": (4 * 4096, 4096, 128 * 1024),  # of the published challenge
    },
    make=make,
    exact=exact,
    entries=(
        simple(OURS, linear_cross_entropy.linear_cross_entropy),
        simple(EAGER, eager),
        compiled(eager),
        Entry("Liger", liger, "liger_kernel"),
        Entry("Unsloth", unsloth, "unsloth_zoo"),
    ),
    costs=costs,
    results=("loss", "dx", "dweight"),
    trained=(0, 1),
    memory=True,
    rounds_inside=True,
)
