"""RMSNorm against PyTorch's own, torch.compile, Liger and Unsloth."""

from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from posttrain_kernels import rms_norm
from posttrain_kernels.bench.cases import Family, Inputs, by_pass
from posttrain_kernels.bench.contestants import (
    EAGER,
    OURS,
    Contestant,
    Entry,
    compiled,
    simple,
)

EPS = 1e-6


def make(rows: int, columns: int, dtype: torch.dtype, device: str) -> Inputs:
    """x and dy of (rows, columns), normal; a weight about 1."""
    x, dy = (torch.randn(rows, columns, device=device).to(dtype) for _ in range(2))
    weight = (1 + 0.1 * torch.randn(columns, device=device)).to(dtype)
    return Inputs((x, weight), dy)


def eager(x, weight):
    """PyTorch's own operator."""
    return F.rms_norm(x, weight.shape, weight, EPS)


def liger() -> Contestant:
    """Liger's kernel, all in fp32 as ours ("gemma") and without writing over dy."""
    from liger_kernel.transformers.functional import liger_rms_norm

    def call(x, weight):
        return liger_rms_norm(x, weight, EPS, casting_mode="gemma", in_place=False)

    return Contestant("Liger", call)


def unsloth() -> Contestant:
    """Unsloth's kernel; it takes the layer, of which it reads weight and eps."""
    from unsloth.kernels import fast_rms_layernorm

    def call(x, weight):
        layer = SimpleNamespace(weight=weight, variance_epsilon=EPS)
        return fast_rms_layernorm(layer, x)

    return Contestant("Unsloth", call)


FAMILY = Family(
    name="rms_norm",
    axes=("rows", "columns"),
    sizes={
        "tiny": (6, 40),
        "small": (1024, 2048),
        "medium": (4096, 4096),
        "large": (16384, 8192),
    },
    make=make,
    exact=rms_norm.reference,
    entries=(
        simple(OURS, rms_norm.rms_norm),
        simple(EAGER, eager),
        compiled(eager),
        Entry("Liger", liger, "liger_kernel"),
        Entry("Unsloth", unsloth, "unsloth"),
    ),
    costs=partial(by_pass, rms_norm.cost),
    results=("y", "dx", "dweight"),
    trained=(0, 1),
)
