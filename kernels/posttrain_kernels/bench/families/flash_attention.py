"""Causal attention with shared key heads against eager, torch.compile and SDPA."""

import torch
from torch import Tensor

# bound here and now: Unsloth, once imported, puts a function of its own in its place
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from posttrain_kernels import flash_attention
from posttrain_kernels.bench.cases import Family, Inputs, by_pass
from posttrain_kernels.bench.contestants import EAGER, OURS, compiled, simple
from posttrain_kernels.common import Cost


def make(
    B: int, H: int, H_kv: int, T: int, D: int, dtype: torch.dtype, device: str
) -> Inputs:
    """q, dy of (B, H, T, D) and k, v of (B, H_kv, T, D), normal."""
    heads = (H, H_kv, H_kv, H)
    q, k, v, dy = (torch.randn(B, h, T, D, device=device).to(dtype) for h in heads)
    return Inputs((q, k, v), dy)


def sdpa(q, k, v):
    """PyTorch's own, which picks a backend: flash attention where it can."""
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The reference, one query head at a time: one table of weights in memory."""
    group = q.shape[1] // k.shape[1]
    heads = [
        checkpoint(
            flash_attention.reference,
            *(q[:, i : i + 1], k[:, i // group, None], v[:, i // group, None]),
            use_reentrant=False,
        )
        for i in range(q.shape[1])
    ]
    return torch.cat(heads, dim=1)


def costs(
    B: int, H: int, H_kv: int, T: int, D: int, dtype: torch.dtype
) -> dict[str, Cost]:
    """By pass."""
    return by_pass(flash_attention.cost, B, H, H_kv, T, T, D, dtype=dtype)


FAMILY = Family(
    name="flash_attention",
    axes=("batch", "heads", "key_heads", "length", "head_size"),
    sizes={
        "tiny": (2, 4, 2, 24, 16),
        "small": (1, 16, 16, 1024, 64),
        "medium": (1, 32, 8, 4096, 128),
        "large": (1, 32, 8, 8192, 128),
    },
    make=make,
    exact=exact,
    entries=(
        simple(OURS, flash_attention.flash_attention),
        simple(EAGER, flash_attention.reference),
        compiled(flash_attention.reference),
        simple("SDPA", sdpa),
    ),
    costs=costs,
    results=("o", "dq", "dk", "dv"),
    trained=(0, 1, 2),
    memory=True,
)
