"""NF4 dequantisation against eager, torch.compile, bitsandbytes and Unsloth."""

import torch
from torch import Tensor

from posttrain_kernels import nf4
from posttrain_kernels.bench.cases import FORWARD, Family, Inputs
from posttrain_kernels.bench.contestants import (
    EAGER,
    OURS,
    Contestant,
    Entry,
    compiled,
    simple,
)
from posttrain_kernels.common import Cost


def make(rows: int, columns: int, dtype: torch.dtype, device: str) -> Inputs:
    """Normal weights of (rows, columns), double-quantised."""
    weights = torch.randn(rows, columns, device=device).to(dtype)
    return Inputs((nf4.quantize(weights),))


def as_bitsandbytes(weights: nf4.NF4) -> tuple[Tensor, object]:
    """The very same bits as bitsandbytes keeps them: packed (n / 2, 1), QuantState."""
    from bitsandbytes.functional import QuantState

    nested = QuantState(
        absmax=weights.nested_absmax,
        code=weights.nested_code,
        blocksize=weights.nested_blocksize,
        dtype=torch.float32,
    )
    state = QuantState(
        absmax=weights.absmax,
        shape=torch.Size(weights.shape),
        code=weights.code,
        blocksize=weights.blocksize,
        quant_type="nf4",
        dtype=weights.dtype,
        offset=weights.offset,
        state2=nested,
    )
    return weights.packed.view(-1, 1), state


def bitsandbytes() -> Contestant:
    """Two kernels of bitsandbytes with a buffer between."""
    from bitsandbytes.functional import dequantize_4bit

    return Contestant("bitsandbytes", dequantize_4bit, adapt=as_bitsandbytes)


def unsloth() -> Contestant:
    """`fast_dequantize` as the challenge calls it: without the global buffer."""
    from unsloth.kernels.utils import fast_dequantize

    return Contestant("Unsloth", fast_dequantize, adapt=as_bitsandbytes)


def unsloth_by_ctypes() -> Contestant:
    """What `fast_dequantize` was when the challenge was set: bitsandbytes' kernels.

    Newer versions of Unsloth have one kernel of their own, and this as a fallback.
    """
    from unsloth.kernels.utils import _fast_dequantize_ctypes

    return Contestant("Unsloth ctypes", _fast_dequantize_ctypes, adapt=as_bitsandbytes)


def exact(weights: nf4.NF4) -> Tensor:
    """The reference, unrounded."""
    return nf4.reference(weights, torch.float32)


def costs(rows: int, columns: int, dtype: torch.dtype) -> dict[str, Cost]:
    """There is no backward pass."""
    return {FORWARD: nf4.cost(rows * columns, dtype)}


FAMILY = Family(
    name="nf4",
    axes=("rows", "columns"),
    sizes={
        "tiny": (6, 64),
        "small": (1024, 4096),
        "medium": (2048, 8192),
        "large": (4096, 14336),
    },
    make=make,
    exact=exact,
    entries=(
        simple(OURS, nf4.dequantize),
        simple(EAGER, nf4.reference),
        compiled(nf4.reference),
        Entry("bitsandbytes", bitsandbytes, "bitsandbytes", on_cpu=True),
        Entry("Unsloth", unsloth, "unsloth"),
        Entry("Unsloth ctypes", unsloth_by_ctypes, "unsloth"),
    ),
    costs=costs,
    results=("w",),
)
