"""Softmax over the last dimension: one read and one write, forward and backward.

    y_i = exp(x_i - max x) / Σ_j exp(x_j - max x)        dx = y ⊙ (dy - Σ_j y_j dy_j)

PyTorch written out makes five passes over memory (max, subtract, exp, sum, divide).
Here a program holds whole rows in registers, so each number is read once. (At a few
short odd lengths, as 65 in bf16 on sm_80, the compiler keeps one register in memory.)
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from posttrain_kernels.common import (
    Cost,
    as_rows,
    check_rows,
    check_same_device,
    register,
    row_tile,
)

MAX_COLUMNS = 16384  # the backward pass of longer rows spills registers


def reference(x: Tensor) -> Tensor:
    """Softmax over the last dimension in plain PyTorch, step by step."""
    exponentials = (x - x.amax(dim=-1, keepdim=True)).exp()
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last dimension.

    x: (..., C) in fp32, fp16 or bf16, C at most 16384, rows evenly spaced. Computed in
    fp32. Returns (..., C) of the same dtype, contiguous. A row of -inf gives NaN, as in
    PyTorch.
    Raises TypeError for another dtype, ValueError for another shape or stride.
    Source: Triton's fused softmax tutorial (one row a program); Milakov and Gimelshein
    2018 for the safe form.
    """
    check_same_device(x=x)
    check_rows("x", x, MAX_COLUMNS)
    return _Softmax.apply(x)


def cost(n_rows: int, n_cols: int, dtype: torch.dtype, backward: bool = False) -> Cost:
    """Forward: x read, y written, 5 FLOPs a number (max, subtract, exp, sum, divide).

    Backward: y and dy read, dx written, 4 FLOPs a number.
    """
    numbers = n_rows * n_cols
    passes, flops = (3, 4) if backward else (2, 5)
    return Cost(bytes=passes * numbers * dtype.itemsize, flops=flops * numbers)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.ops.posttrain_kernels.softmax_forward(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        return torch.ops.posttrain_kernels.softmax_backward(dy.contiguous(), y)


@triton.jit
def softmax_forward_kernel(
    x_ptr, y_ptr, x_stride, n_rows, n_cols, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, BLOCK)
    mask = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]  # (ROWS, BLOCK)
    at = rows[:, None] * x_stride + cols[None, :]
    x = tl.load(x_ptr + at, mask=mask, other=-float("inf")).to(tl.float32)
    x = tl.exp(x - tl.max(x, axis=1)[:, None])  # exp(-inf) = 0: the padding adds none
    y = x / tl.sum(x, axis=1)[:, None]
    at = rows[:, None] * n_cols + cols[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def softmax_backward_kernel(
    dy_ptr, y_ptr, dx_ptr, n_rows, n_cols, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, BLOCK)
    mask = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]  # (ROWS, BLOCK)
    at = rows[:, None] * n_cols + cols[None, :]
    y = tl.load(y_ptr + at, mask=mask, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32)
    dx = y * (dy - tl.sum(y * dy, axis=1)[:, None])
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=mask)


def _launch_forward(x: Tensor) -> Tensor:
    rows = as_rows(x)  # (R, C)
    y = x.new_empty(x.shape)
    n_rows, n_cols = rows.shape
    tile = row_tile(n_cols)
    grid = (triton.cdiv(n_rows, tile["ROWS"]),)
    if n_rows:
        softmax_forward_kernel[grid](rows, y, rows.stride(0), n_rows, n_cols, **tile)
    return y


def _launch_backward(dy: Tensor, y: Tensor) -> Tensor:
    dx = torch.empty_like(y)
    n_cols = y.shape[-1]
    n_rows = y.numel() // n_cols
    tile = row_tile(n_cols)
    grid = (triton.cdiv(n_rows, tile["ROWS"]),)
    if n_rows:
        softmax_backward_kernel[grid](dy, y, dx, n_rows, n_cols, **tile)
    return dx


def _forward_in_pytorch(x: Tensor) -> Tensor:
    return x.float().softmax(dim=-1).to(x.dtype).contiguous()


def _backward_in_pytorch(dy: Tensor, y: Tensor) -> Tensor:
    dy32, y32 = dy.float(), y.float()
    dx = y32 * (dy32 - (y32 * dy32).sum(dim=-1, keepdim=True))
    return dx.to(y.dtype)


register(
    "softmax_forward(Tensor x) -> Tensor",
    launch=_launch_forward,
    fallback=_forward_in_pytorch,
    fake=lambda x: x.new_empty(x.shape),
)
register(
    "softmax_backward(Tensor dy, Tensor y) -> Tensor",
    launch=_launch_backward,
    fallback=_backward_in_pytorch,
    fake=lambda dy, y: torch.empty_like(y),
)
