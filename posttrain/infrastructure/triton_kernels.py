"""Small Triton kernels, each with one idea: masks, a sum over rows in two ways.

The families that are meant for use live in `posttrain_kernels`; these are the ones that
the chapter takes apart. They run on a GPU, or on CPU tensors inside
`posttrain_kernels.lab.strict()`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def add(x: Tensor, y: Tensor, block: int = 1024) -> Tensor:
    """x + y, for tensors of one shape and dtype, contiguous.

    block: numbers of one program, a power of two.
    Source: the first tutorial of Triton, "Vector Addition".
    """
    out, n = torch.empty_like(x), x.numel()
    add_kernel[(triton.cdiv(n, block),)](x, y, out, n, BLOCK=block)
    return out


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,), which numbers
    mask = i < n  # the last program has lanes past the end
    x = tl.load(x_ptr + i, mask=mask)
    y = tl.load(y_ptr + i, mask=mask)
    tl.store(out_ptr + i, x + y, mask=mask)


def weight_gradient_by_atomics(dy: Tensor, x: Tensor, r: Tensor) -> Tensor:
    """dw = Σ_rows dy ⊙ x r, every program adding to the same (C,) in memory.

    dy, x: (R, C) contiguous; r: (R,) fp32, as RMSNorm keeps it. Returns (C,) fp32. The
    order of the additions, and with it the last bits, change from run to run.
    """
    R, C = x.shape
    dw = torch.zeros(C, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(C)
    atomic_kernel[(R,)](dy, x, r, dw, C, BLOCK=block)
    return dw


@triton.jit
def atomic_kernel(dy_ptr, x_ptr, r_ptr, dw_ptr, n_cols, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < n_cols
    dy = tl.load(dy_ptr + row * n_cols + cols, mask=mask, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + row * n_cols + cols, mask=mask, other=0.0).to(tl.float32)
    tl.atomic_add(dw_ptr + cols, dy * x * tl.load(r_ptr + row), mask=mask)


def weight_gradient_by_parts(dy: Tensor, x: Tensor, r: Tensor, programs: int) -> Tensor:
    """The same; each program adds up its rows in registers and writes one partial sum.

    `programs` partial sums, (programs, C), are added by PyTorch. The result is the same
    every time.
    """
    R, C = x.shape
    partial = torch.empty(programs, C, dtype=torch.float32, device=x.device)
    block, share = triton.next_power_of_2(C), triton.cdiv(R, programs)
    parts_kernel[(programs,)](dy, x, r, partial, R, C, share, BLOCK=block)
    return partial.sum(dim=0)


@triton.jit
def parts_kernel(
    dy_ptr, x_ptr, r_ptr, dw_ptr, n_rows, n_cols, share, BLOCK: tl.constexpr
):
    program = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < n_cols
    dw = tl.zeros((BLOCK,), tl.float32)
    for row in range(program * share, tl.minimum((program + 1) * share, n_rows)):
        at = row * n_cols + cols
        dy = tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
        dw += dy * x * tl.load(r_ptr + row)
    tl.store(dw_ptr + program * n_cols + cols, dw, mask=mask)
