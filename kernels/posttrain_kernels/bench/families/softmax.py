"""Softmax against PyTorch's own, torch.compile and Liger."""

from functools import partial

import torch

from posttrain_kernels import softmax
from posttrain_kernels.bench.cases import Family, Inputs, by_pass
from posttrain_kernels.bench.contestants import (
    EAGER,
    OURS,
    Contestant,
    Entry,
    compiled,
    simple,
)


def make(rows: int, columns: int, dtype: torch.dtype, device: str) -> Inputs:
    """x and dy of (rows, columns), normal."""
    x, dy = (torch.randn(rows, columns, device=device).to(dtype) for _ in range(2))
    return Inputs((x,), dy)


def eager(x):
    """PyTorch's own kernel."""
    return torch.softmax(x, dim=-1)


def liger() -> Contestant:
    """Liger's kernel; one row a program, as ours."""
    from liger_kernel.transformers.functional import liger_softmax

    return Contestant("Liger", liger_softmax)


FAMILY = Family(
    name="softmax",
    axes=("rows", "columns"),
    sizes={
        "tiny": (6, 33),
        "small": (1024, 1024),
        "medium": (4096, 4096),
        "large": (8192, 16384),
    },
    make=make,
    exact=softmax.reference,
    entries=(
        simple(OURS, softmax.softmax),
        simple(EAGER, eager),
        compiled(eager),
        Entry("Liger", liger, "liger_kernel"),
    ),
    costs=partial(by_pass, softmax.cost),
    results=("y", "dx"),
    trained=(0,),
)
