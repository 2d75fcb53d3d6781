"""RMSNorm over the last dimension, forward and backward, each number moved once.

    y = x̂ ⊙ w,   x̂ = x · r,   r = 1 / √(mean(x²) + eps)            Zhang, Sennrich 2019

    dx = r · (g - x̂ · mean(g ⊙ x̂)),   g = dy ⊙ w                     dw = Σ_rows dy ⊙ x̂

The forward pass keeps r (one fp32 a row), so the backward pass recomputes x̂ from x. The
sum over rows for dw needs no atomics: each program adds up its own rows in registers
and writes one partial sum, and PyTorch adds those. The result is the same every time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from posttrain_kernels.common import (
    FLOATS,
    Cost,
    as_rows,
    check_rows,
    check_same_device,
    multiprocessors,
    register,
    row_tile,
)

MAX_COLUMNS = 8192  # the backward pass of longer rows spills registers


def reference(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """RMSNorm in plain PyTorch: x (..., C) and weight (C,) give (..., C)."""
    return x / (x.pow(2).mean(dim=-1, keepdim=True) + eps).sqrt() * weight


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Divide each row by its root mean square, then scale the columns by `weight`.

    x: (..., C) in fp32, fp16 or bf16, C at most 8192, rows evenly spaced. weight: (C,)
    in any of these dtypes. eps is added to the mean of squares. Computed in fp32 and
    rounded once. Returns (..., C) in the dtype of x, contiguous.
    Raises TypeError for another dtype, ValueError for another shape, stride or device.
    Source: Zhang and Sennrich 2019, eq. 4; the partial sums are those of Liger Kernel.
    """
    check_same_device(x=x, weight=weight)
    check_rows("x", x, MAX_COLUMNS)
    if weight.dtype not in FLOATS:
        raise TypeError(f"weight is {weight.dtype}; cast it to one of {FLOATS}")
    if weight.shape != x.shape[-1:] or not weight.is_contiguous():
        raise ValueError(
            f"weight has shape {tuple(weight.shape)} and strides {weight.stride()};"
            f" x {tuple(x.shape)} needs a contiguous weight of ({x.shape[-1]},)"
        )
    return _RMSNorm.apply(x, weight, eps)


def cost(n_rows: int, n_cols: int, dtype: torch.dtype, backward: bool = False) -> Cost:
    """Forward: x read, y written, 4 FLOPs a number (square, add, two products).

    Backward: x and dy read, dx written, 10 FLOPs a number. The weight, its gradient
    and r are counted, the partial sums of the gradient are not.
    """
    numbers = n_rows * n_cols
    passes, flops, weights = (3, 10, 2) if backward else (2, 4, 1)
    moved = (passes * numbers + weights * n_cols) * dtype.itemsize + 4 * n_rows
    return Cost(bytes=moved, flops=flops * numbers)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        y, r = torch.ops.posttrain_kernels.rms_norm_forward(x, weight, eps)
        ctx.save_for_backward(x, weight, r)
        return y

    @staticmethod
    def backward(ctx, dy):
        dx, dweight = torch.ops.posttrain_kernels.rms_norm_backward(
            dy.contiguous(), *ctx.saved_tensors
        )
        return dx, dweight, None


@triton.jit
def rms_norm_forward_kernel(
    x_ptr,
    w_ptr,
    y_ptr,
    r_ptr,
    x_stride,
    n_rows,
    n_cols,
    eps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, BLOCK)
    mask = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]  # (ROWS, BLOCK)
    at = rows[:, None] * x_stride + cols[None, :]
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    w = tl.load(w_ptr + cols, mask=cols < n_cols, other=0.0).to(tl.float32)
    r = tl.rsqrt(tl.sum(x * x, axis=1) / n_cols + eps)  # (ROWS,)
    y = x * r[:, None] * w[None, :]
    tl.store(r_ptr + rows, r, mask=rows < n_rows)
    at = rows[:, None] * n_cols + cols[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def rms_norm_backward_kernel(
    dy_ptr,
    x_ptr,
    w_ptr,
    r_ptr,
    dx_ptr,
    dw_ptr,
    x_stride,
    n_rows,
    n_cols,
    rows_per_program,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    dw = tl.zeros((ROWS, BLOCK), tl.float32)
    first = program * rows_per_program
    last = tl.minimum(first + rows_per_program, n_rows)
    for start in range(first, last, ROWS):
        rows = start + tl.arange(0, ROWS)
        mask = (rows < last)[:, None] & (cols < n_cols)[None, :]  # (ROWS, BLOCK)
        at_x = rows[:, None] * x_stride + cols[None, :]
        at = rows[:, None] * n_cols + cols[None, :]
        x = tl.load(x_ptr + at_x, mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32)
        r = tl.load(r_ptr + rows, mask=rows < last, other=0.0)[:, None]
        # again in each round, from the cache: kept, it costs registers
        w = tl.load(w_ptr + cols, mask=cols < n_cols, other=0.0).to(tl.float32)
        x_hat = x * r
        g = dy * w[None, :]
        mean = tl.sum(g * x_hat, axis=1)[:, None] / n_cols
        dx = r * (g - x_hat * mean)
        dw += dy * x_hat
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    at = program * n_cols + cols
    tl.store(dw_ptr + at, tl.sum(dw, axis=0), mask=cols < n_cols)


def _launch_forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    y, r = _fake_forward(x, weight, eps)
    rows = as_rows(x)  # (R, C)
    n_rows, n_cols = rows.shape
    tile = row_tile(n_cols)
    grid = (triton.cdiv(n_rows, tile["ROWS"]),)
    if n_rows:
        rms_norm_forward_kernel[grid](
            rows, weight, y, r, rows.stride(0), n_rows, n_cols, eps, **tile
        )
    return y, r


def _launch_backward(
    dy: Tensor, x: Tensor, weight: Tensor, r: Tensor
) -> tuple[Tensor, Tensor]:
    rows = as_rows(x)  # (R, C)
    n_rows, n_cols = rows.shape
    dx = torch.empty_like(dy)
    if not n_rows:
        return dx, torch.zeros_like(weight)
    tile = row_tile(n_cols)
    if tile["BLOCK"] == MAX_COLUMNS and n_cols % 16:
        tile["num_warps"] = 32  # narrow loads take more registers: these rows spill
    tiles = triton.cdiv(n_rows, tile["ROWS"])
    wanted = multiprocessors(x.device) * max(1, 32 // tile["num_warps"])
    tiles_per_program = triton.cdiv(tiles, wanted)
    programs = triton.cdiv(tiles, tiles_per_program)
    partial = dx.new_empty(programs, n_cols, dtype=torch.float32)  # (P, C)
    share = tiles_per_program * tile["ROWS"]
    rms_norm_backward_kernel[(programs,)](
        *(dy, rows, weight, r, dx, partial, rows.stride(0)),
        *(n_rows, n_cols, share),
        **tile,
    )
    return dx, partial.sum(dim=0).to(weight.dtype)


def _forward_in_pytorch(x: Tensor, weight: Tensor, eps: float):
    x32 = x.float()
    r = (x32.square().mean(dim=-1, keepdim=True) + eps).rsqrt()  # (..., 1)
    y = (x32 * r * weight.float()).to(x.dtype)
    return y.contiguous(), r.flatten()


def _backward_in_pytorch(dy: Tensor, x: Tensor, weight: Tensor, r: Tensor):
    dy32, r = dy.float(), r.view(*x.shape[:-1], 1)
    x_hat, g = x.float() * r, dy32 * weight.float()
    dx = r * (g - x_hat * (g * x_hat).mean(dim=-1, keepdim=True))
    dw = (dy32 * x_hat).view(-1, x.shape[-1]).sum(dim=0)
    return dx.to(x.dtype).contiguous(), dw.to(weight.dtype)


def _fake_forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    r = x.new_empty(x.numel() // x.shape[-1], dtype=torch.float32)
    return x.new_empty(x.shape), r


def _fake_backward(dy: Tensor, x: Tensor, weight: Tensor, r: Tensor):
    return torch.empty_like(dy), torch.empty_like(weight)


register(
    "rms_norm_forward(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)",
    launch=_launch_forward,
    fallback=_forward_in_pytorch,
    fake=_fake_forward,
)
register(
    "rms_norm_backward(Tensor dy, Tensor x, Tensor weight, Tensor r)"
    " -> (Tensor, Tensor)",
    launch=_launch_backward,
    fallback=_backward_in_pytorch,
    fake=_fake_backward,
)
