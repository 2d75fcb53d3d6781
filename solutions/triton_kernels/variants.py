"""Answers that the grader of `triton_kernels` must tell apart. Not for students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import torch
import triton
import triton.language as tl

# --------------------------------------------------------------------- scale_add


@triton.jit
def fma_kernel(out_ptr, alpha, n, x_ptr, y_ptr, BLOCK: tl.constexpr):
    base = tl.program_id(axis=0).to(tl.int64) * BLOCK
    lanes = tl.arange(0, BLOCK)
    left = n - base
    x = tl.load(x_ptr + base + lanes, mask=lanes < left, other=0).to(tl.float32)
    y = tl.load(y_ptr + base + lanes, mask=lanes < left, other=0).to(tl.float32)
    factor = tl.full((BLOCK,), 0.0, tl.float32) + alpha
    result = tl.fma(factor, x, y).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + base + lanes, result, mask=lanes < left)


def scale_add_by_fma(x, y, alpha):
    out = torch.zeros_like(x)
    fma_kernel[lambda given: (triton.cdiv(x.numel(), given["BLOCK"]),)](
        out, alpha, x.numel(), x, y, BLOCK=256
    )
    return out


@triton.jit
def quarters_kernel(x_ptr, y_ptr, out_ptr, alpha, n, BLOCK: tl.constexpr):
    """The 256 numbers of a program in four steps."""
    for step in range(4):
        i = tl.program_id(0) * BLOCK + step * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
        x = tl.load(x_ptr + i, i < n, 0.0)
        y = tl.load(y_ptr + i, i < n, 0.0)
        tl.store(out_ptr + i, y + x * alpha, i < n)


def scale_add_in_quarters(x, y, alpha):
    out = x.new_empty(x.shape)
    grid = (-(-x.shape[0] // 256),)
    quarters_kernel[grid](x, y, out, alpha, len(x), 256, num_warps=2)
    return out


def scale_add_into_a_copy_of_y(x, y, alpha):
    out, n = y.clone(), x.numel()
    quarters_kernel[(triton.cdiv(n, 256),)](x, out, out, alpha, n, 256)
    return out


def scale_add_by_pytorch(x, y, alpha):
    return (alpha * x.float() + y.float()).to(x.dtype)


def scale_add_in_float32(x, y, alpha):
    out, n = torch.empty(x.shape), x.numel()
    grid = (triton.cdiv(n, 256),)
    quarters_kernel[grid](x, y, out, alpha, n, 256)
    return out


@triton.jit
def mask_on_store_alone(x_ptr, y_ptr, out_ptr, alpha, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i).to(tl.float32)
    y = tl.load(y_ptr + i).to(tl.float32)
    tl.store(out_ptr + i, alpha * x + y, mask=i < n)


def scale_add_masks_only_the_store(x, y, alpha):
    out, n = torch.empty_like(x), x.numel()
    mask_on_store_alone[(triton.cdiv(n, 256),)](x, y, out, alpha, n, BLOCK=256)
    return out


# ----------------------------------------------------------------------- softmax


@triton.jit
def tile_softmax(
    x_ptr, y_ptr, stride, n_rows, n_cols, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, BLOCK)[None, :]
    inside = (rows < n_rows) & (cols < n_cols)
    x = tl.load(x_ptr + rows * stride + cols, mask=inside, other=float("-inf"))
    x = x.to(tl.float32) * 1.4426950408889634
    top = tl.max(x, axis=1, keep_dims=True)
    e = tl.where(inside, tl.exp2(x - top), 0.0)
    y = e * (1.0 / tl.sum(e, axis=1, keep_dims=True))
    tl.store(y_ptr + rows * n_cols + cols, y, mask=inside)


def softmax_two_rows_a_program(x):
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    R, C = x.shape
    tile_softmax[(triton.cdiv(R, 2),)](
        x, y, x.stride(0), R, C, ROWS=2, BLOCK=triton.next_power_of_2(C)
    )
    return y


@triton.jit
def log_softmax_kernel(x_ptr, y_ptr, stride, n_cols, BLOCK: tl.constexpr):
    x_ptr += tl.program_id(0) * stride
    y_ptr += tl.program_id(0) * n_cols
    cols = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + cols, cols < n_cols, -float("inf"))
    z = x - tl.max(x)  # tl.max gives float32, so z is float32
    tl.store(y_ptr + cols, tl.exp(z - tl.log(tl.sum(tl.exp(z)))), cols < n_cols)


def softmax_through_its_logarithm(x):
    R, C = x.shape
    y = torch.empty((R, C), dtype=x.dtype)
    block = max(16, triton.next_power_of_2(C))  # larger than it needs to be
    log_softmax_kernel[(R,)](x, y, x.stride(0), C, BLOCK=block, num_warps=1)
    return y


@triton.jit
def twice_kernel(x_ptr, y_ptr, stride, n_cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    at = x_ptr + row * stride + cols
    top = tl.max(tl.load(at, mask=cols < n_cols, other=-float("inf")))
    x = tl.load(at, mask=cols < n_cols, other=-float("inf")).to(tl.float32)
    e = tl.exp(x - top)
    tl.store(y_ptr + row * n_cols + cols, e / tl.sum(e), mask=cols < n_cols)


def softmax_reads_twice(x):
    y, (R, C) = torch.empty(x.shape, dtype=x.dtype), x.shape
    block = triton.next_power_of_2(C)
    twice_kernel[(R,)](x, y, x.stride(0), C, BLOCK=block)
    return y


def softmax_of_the_difference(x):
    """PyTorch subtracts the maximum before the kernel."""
    return softmax_through_its_logarithm(x - x.amax(dim=1, keepdim=True))


def softmax_laid_out_like_x(x):
    y, (R, C) = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype), x.shape
    block = triton.next_power_of_2(C)
    strided_kernel[(R,)](x, y, x.stride(0), C, BLOCK=block)
    return y


@triton.jit
def strided_kernel(x_ptr, y_ptr, stride, n_cols, BLOCK: tl.constexpr):
    at = tl.program_id(0) * stride + tl.arange(0, BLOCK)
    mask = tl.arange(0, BLOCK) < n_cols
    x = tl.load(x_ptr + at, mask=mask, other=-float("inf")).to(tl.float32)
    e = tl.exp(x - tl.max(x))
    tl.store(y_ptr + at, e / tl.sum(e), mask=mask)


# ---------------------------------------------------------------------- rms_norm


@triton.jit
def tile_rms_norm(
    x_ptr,
    w_ptr,
    y_ptr,
    r_ptr,
    stride,
    n_rows,
    n_cols,
    eps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, BLOCK)
    mask = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]
    at = rows[:, None] * stride + cols[None, :]
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    r = 1.0 / tl.sqrt_rn(tl.sum(x * x, axis=1) / n_cols + eps)
    w = tl.load(w_ptr + cols, mask=cols < n_cols, other=0.0).to(tl.float32)
    y = (x * w[None, :]) * r[:, None]
    at = rows[:, None] * n_cols + cols[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(r_ptr + rows, r, mask=rows < n_rows)


def rms_norm_two_rows_a_program(x, weight, eps):
    R, C = x.shape
    y = torch.empty((R, C), dtype=x.dtype)
    r = torch.zeros(R, dtype=torch.float32)
    tile_rms_norm[(triton.cdiv(R, 2),)](
        *(x, weight, y, r, x.stride(0), R, C, eps),
        ROWS=2,
        BLOCK=triton.next_power_of_2(C),
    )
    return y, r


@triton.jit
def scaled_squares_kernel(
    x_ptr, w_ptr, y_ptr, r_ptr, stride, n_cols, inverse, eps, BLOCK: tl.constexpr
):
    row, cols = tl.program_id(0), tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * stride + cols, cols < n_cols, 0).to(tl.float32)
    mean = tl.sum(x * (x * inverse))
    r = tl.exp2(-0.5 * tl.log2(mean + eps))
    tl.store(r_ptr + row, r)
    w = tl.load(w_ptr + cols, cols < n_cols)
    tl.store(y_ptr + row * n_cols + cols, w * (r * x), cols < n_cols)


def rms_norm_by_logarithms(x, weight, eps):
    y, (R, C) = torch.empty(x.shape, dtype=x.dtype), x.shape
    r = torch.empty(R)
    scaled_squares_kernel[(R,)](
        *(x, weight, y, r, x.stride(0), C, 1 / C, eps),
        BLOCK=triton.next_power_of_2(C),
    )
    return y, r


def rms_norm_r_in_the_dtype_of_x(x, weight, eps):
    y, r = rms_norm_two_rows_a_program(x, weight, eps)
    return y, r.to(x.dtype)


def rms_norm_of_a_rounded_weight(x, weight, eps):
    return rms_norm_two_rows_a_program(x, weight.to(x.dtype), eps)


def rms_norm_without_weight(x, weight, eps):
    return rms_norm_two_rows_a_program(x, torch.ones_like(weight), eps)


def rms_norm_by_abs(x, weight, eps):
    y, (R, C) = torch.empty(x.shape, dtype=x.dtype), x.shape
    r = torch.empty(R)
    mean_of_magnitudes[(R,)](
        *(x, weight, y, r, x.stride(0), C, eps), BLOCK=triton.next_power_of_2(C)
    )
    return y, r


@triton.jit
def mean_of_magnitudes(
    x_ptr, w_ptr, y_ptr, r_ptr, stride, n_cols, eps, BLOCK: tl.constexpr
):
    row, cols = tl.program_id(0), tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * stride + cols, cols < n_cols, 0).to(tl.float32)
    r = 1 / (tl.sum(tl.abs(x)) / n_cols + eps)
    tl.store(r_ptr + row, r)
    w = tl.load(w_ptr + cols, cols < n_cols)
    tl.store(y_ptr + row * n_cols + cols, w * (r * x), cols < n_cols)


# ----------------------------------------------------------------- cross_entropy


@triton.jit
def one_number_kernel(x_ptr, target_ptr, loss_ptr, lse_ptr, vocab, BLOCK: tl.constexpr):
    """Keeps one log-sum-exp, and picks the target's logit as it comes by."""
    row = tl.program_id(0)
    target = tl.load(target_ptr + row)
    lse = tl.full((), -1e30, tl.float32)
    chosen = tl.zeros((), tl.float32)
    for start in range(0, vocab, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        at = x_ptr + row * vocab + cols
        x = tl.load(at, mask=cols < vocab, other=-float("inf")).to(tl.float32)
        top = tl.maximum(lse, tl.max(x))
        lse = top + tl.log(tl.exp(lse - top) + tl.sum(tl.exp(x - top)))
        chosen += tl.sum(tl.where(cols == target, x, 0.0))
    tl.store(lse_ptr + row, lse)
    tl.store(loss_ptr + row, tl.where(target == -100, 0.0, lse - chosen))


def cross_entropy_keeps_one_number(logits, target, block):
    N, V = logits.shape
    loss, lse = logits.new_empty(2, N, dtype=torch.float32)
    one_number_kernel[(N,)](logits, target, loss, lse, V, BLOCK=block)
    return loss, lse


@triton.jit
def lanes_kernel(
    x_ptr, target_ptr, loss_ptr, lse_ptr, stride, vocab, BLOCK: tl.constexpr
):
    """A maximum and a sum for each lane; they are joined once, at the end."""
    row = tl.program_id(0).to(tl.int64)
    m = tl.full((BLOCK,), -float("inf"), tl.float32)
    d = tl.zeros((BLOCK,), tl.float32)
    for start in tl.range(0, vocab, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        at = x_ptr + row * stride + cols
        x = tl.load(at, mask=cols < vocab, other=-float("inf")).to(tl.float32)
        top = tl.maximum(m, x)
        seen = top > -float("inf")
        d = tl.where(seen, d * tl.exp(m - top) + tl.exp(x - top), 0.0)
        m = top
    top = tl.max(m)
    total = tl.sum(tl.where(m > -float("inf"), d * tl.exp(m - top), 0.0))
    target = tl.load(target_ptr + row)
    chosen = tl.load(x_ptr + row * stride + target, mask=target >= 0, other=0.0)
    loss = tl.log(total) + (top - chosen.to(tl.float32))
    tl.store(loss_ptr + row, tl.where(target < 0, 0.0, loss))
    tl.store(lse_ptr + row, top + tl.log(total))


def cross_entropy_by_lanes(logits, target, block):
    N, V = logits.shape
    loss, lse = torch.zeros(N), torch.zeros(N)
    lanes_kernel[(N,)](logits, target, loss, lse, V, V, BLOCK=max(1, block // 2))
    return loss, lse


@triton.jit
def only_whole_blocks(x_ptr, target_ptr, loss_ptr, lse_ptr, vocab, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    target = tl.load(target_ptr + row)
    lse = tl.full((), -1e30, tl.float32)
    for number in range(vocab // BLOCK):
        cols = number * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * vocab + cols).to(tl.float32)
        top = tl.maximum(lse, tl.max(x))
        lse = top + tl.log(tl.exp(lse - top) + tl.sum(tl.exp(x - top)))
    x = tl.load(x_ptr + row * vocab + target, mask=target >= 0, other=0.0)
    tl.store(lse_ptr + row, lse)
    tl.store(loss_ptr + row, tl.where(target == -100, 0.0, lse - x.to(tl.float32)))


def cross_entropy_forgets_the_last_block(logits, target, block):
    N, V = logits.shape
    loss, lse = torch.zeros(N), torch.zeros(N)
    only_whole_blocks[(N,)](logits, target, loss, lse, V, BLOCK=block)
    return loss, lse


# ---------------------------------------------------------------- softmax_bounds


def softmax_bounds_by_tensors(R, C, itemsize, bandwidth, peak):
    x, column = float(R * C), float(R)
    moved = torch.tensor(
        [x + column, x + column + x, 2 * x, x + column, x + column + x],
        dtype=torch.float64,
    )
    times = torch.maximum(moved * itemsize / bandwidth, moved * 0 + x / peak)
    fused = max([5 * x / peak, (x + x) * itemsize / bandwidth])
    return times.sum().item(), fused


def softmax_bounds_by_rows(R, C, itemsize, bandwidth, peak):
    """Seconds a row, times rows."""
    naive = 0.0
    for numbers in (C + 1, 2 * C + 1, 2 * C, C + 1, 2 * C + 1):
        moving, computing = numbers * itemsize / bandwidth, C / peak
        naive += moving if moving > computing else computing
    return R * naive, R * max(2 * C * itemsize / bandwidth, 5 * C / peak)


def softmax_bounds_one_flop_in_the_fused(R, C, itemsize, bandwidth, peak):
    naive, _ = softmax_bounds_by_rows(R, C, itemsize, bandwidth, peak)
    return naive, max(2 * R * C * itemsize / bandwidth, R * C / peak)


def softmax_bounds_the_other_way_round(R, C, itemsize, bandwidth, peak):
    naive, fused = softmax_bounds_by_rows(R, C, itemsize, bandwidth, peak)
    return fused, naive


# -------------------------------------------------------------------- dequantize


@triton.jit
def blocks_kernel(
    packed_ptr,
    absmax_ptr,
    code_ptr,
    nested_ptr,
    nested_code_ptr,
    offset_ptr,
    out_ptr,
    n,
    BLOCKS: tl.constexpr,
):
    """A tile of whole blocks: each scale is decoded once."""
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    exists = block * 64 < n
    level = tl.load(absmax_ptr + block, mask=exists, other=0).to(tl.int32)
    nested = tl.load(nested_ptr + (block >> 8), mask=exists, other=0.0)
    scale = tl.load(nested_code_ptr + level) * nested + tl.load(offset_ptr)
    byte = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    q = tl.load(packed_ptr + byte, mask=2 * byte < n, other=0)
    high = tl.load(code_ptr + (q >> 4)) * scale[:, None]
    low = tl.load(code_ptr + (q & 0xF)) * scale[:, None]
    kind = out_ptr.dtype.element_ty
    tl.store(out_ptr + 2 * byte, high.to(kind), mask=2 * byte < n)
    tl.store(out_ptr + 2 * byte + 1, low.to(kind), mask=2 * byte + 1 < n)


def dequantize_by_blocks(
    packed, absmax, code, nested_absmax, nested_code, offset, n, dtype
):
    out = packed.new_empty(n, dtype=dtype)
    blocks_kernel[(triton.cdiv(absmax.numel(), 16),)](
        *(packed, absmax, code, nested_absmax, nested_code, offset, out, n),
        BLOCKS=16,
    )
    return out


@triton.jit
def gather_kernel(
    packed_ptr,
    absmax_ptr,
    code_ptr,
    nested_ptr,
    nested_code_ptr,
    offset,
    out_ptr,
    n,
    WEIGHTS: tl.constexpr,
):
    """A weight a lane; the sixteen codes stay in registers, offset is a float."""
    i = tl.program_id(0).to(tl.int64) * WEIGHTS + tl.arange(0, WEIGHTS)
    table = tl.load(code_ptr + tl.arange(0, 16))
    byte = tl.load(packed_ptr + (i >> 1), mask=i < n, other=0).to(tl.int32)
    q = (byte >> ((1 - i % 2) * 4).to(tl.int32)) & 15
    level = tl.load(absmax_ptr + (i >> 6), mask=i < n, other=0)
    scale = tl.load(nested_code_ptr + level)
    scale = scale * tl.load(nested_ptr + (i >> 14), mask=i < n, other=0.0) + offset
    tl.store(out_ptr + i, tl.gather(table, q, 0) * scale, mask=i < n)


def dequantize_by_gather(
    packed, absmax, code, nested_absmax, nested_code, offset, n, dtype
):
    out = torch.empty((n,), dtype=dtype)
    gather_kernel[(triton.cdiv(n, 2048),)](
        *(packed, absmax, code, nested_absmax, nested_code, offset.item(), out, n),
        WEIGHTS=2048,
    )
    return out


def dequantize_by_pytorch(
    packed, absmax, code, nested_absmax, nested_code, offset, n, dtype
):
    q = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:n]
    group = torch.arange(absmax.numel()) // 256
    scale = nested_code[absmax.int()] * nested_absmax[group] + offset
    return (code[q.int()] * scale[torch.arange(n) // 64]).to(dtype)


def dequantize_a_block_too_far(
    packed, absmax, code, nested_absmax, nested_code, offset, n, dtype
):
    """Decodes whole blocks into a longer tensor, and cuts it."""
    whole = absmax.numel() * 64
    padded = torch.nn.functional.pad(packed, (0, whole // 2 - packed.numel()))
    out = packed.new_empty(whole, dtype=dtype)
    blocks_kernel[(triton.cdiv(absmax.numel(), 16),)](
        *(padded, absmax, code, nested_absmax, nested_code, offset, out, whole),
        BLOCKS=16,
    )
    return out[:n]


RIGHT = {
    "scale_add": [scale_add_by_fma, scale_add_in_quarters],
    "softmax": [softmax_two_rows_a_program, softmax_through_its_logarithm],
    "rms_norm": [rms_norm_two_rows_a_program, rms_norm_by_logarithms],
    "cross_entropy": [cross_entropy_keeps_one_number, cross_entropy_by_lanes],
    "softmax_bounds": [softmax_bounds_by_tensors, softmax_bounds_by_rows],
    "dequantize": [dequantize_by_blocks, dequantize_by_gather],
}

WRONG = {
    "scale_add": [
        scale_add_by_pytorch,
        scale_add_in_float32,
        scale_add_into_a_copy_of_y,
        scale_add_masks_only_the_store,
    ],
    "softmax": [
        softmax_reads_twice,
        softmax_of_the_difference,
        softmax_laid_out_like_x,
    ],
    "rms_norm": [
        rms_norm_r_in_the_dtype_of_x,
        rms_norm_without_weight,
        rms_norm_by_abs,
        rms_norm_of_a_rounded_weight,
    ],
    "cross_entropy": [
        cross_entropy_forgets_the_last_block,
    ],
    "softmax_bounds": [
        softmax_bounds_one_flop_in_the_fused,
        softmax_bounds_the_other_way_round,
    ],
    "dequantize": [
        dequantize_by_pytorch,
        dequantize_a_block_too_far,
    ],
}

CAST = "alpha is float32, so the product and the sum are, whatever x and y are"
WIDE = "program_id is an int32, which is wide enough for tensors of the checks"
FILL = "these lanes are never stored; the filler only has to be a valid index"
EQUIVALENT = {
    "scale_add: `x = tl.load(x_ptr + i, mask=i < n).to(tl.float32)` -> "
    "`x = tl.load(x_ptr + i, mask=i < n)`": CAST,
    "scale_add: `y = tl.load(y_ptr + i, mask=i < n).to(tl.float32)` -> "
    "`y = tl.load(y_ptr + i, mask=i < n)`": CAST,
    "softmax: `row = tl.program_id(0).to(tl.int64)` -> `row = tl.program_id(0)`": WIDE,
    "softmax: `x = tl.load(at, mask=mask, other=-float('inf')).to(tl.float32)` -> "
    "`x = tl.load(at, mask=mask, other=-float('inf'))`": "tl.max gives float32, so the "
    "difference is float32 anyway",
    "rms_norm: `row = tl.program_id(0).to(tl.int64)` -> `row = tl.program_id(0)`": WIDE,
    "rms_norm: `w = tl.load(w_ptr + cols, mask=mask).to(tl.float32)` -> "
    "`w = tl.load(w_ptr + cols, mask=mask)`": "x * r is float32, so the product is",
    "cross_entropy: `row = tl.program_id(0).to(tl.int64)` -> "
    "`row = tl.program_id(0)`": WIDE,
    "cross_entropy: `top = tl.maximum(m, tl.max(x))` -> "
    "`top = tl.maximum(tl.max(x), m)`": "the order of a maximum does not matter",
    "cross_entropy: `shift = tl.where(top == -float('inf'), 0.0, top)` -> "
    "`shift = tl.where(top == -float('inf'), 1.0, top)`": "any finite shift serves, "
    "where every exponential is 0",
    "cross_entropy: `shift = tl.where(top == -float('inf'), 0.0, top)` -> "
    "`shift = tl.where(top == -float('inf'), -1.0, top)`": "any finite shift serves, "
    "where every exponential is 0",
    "softmax_bounds: `return (naive, max(2 * n * itemsize / bandwidth, 5 * n / peak))`"
    " -> `return (naive, max(5 * n / peak, 2 * n * itemsize / bandwidth))`": (
        "the order of a maximum does not matter"
    ),
    "softmax_bounds: `naive = sum((max(k * itemsize / bandwidth, n / peak) for k in "
    "moved))` -> `naive = sum((max(n / peak, k * itemsize / bandwidth) for k in "
    "moved))`": "the order of a maximum does not matter",
    "dequantize: `out = torch.empty(n, dtype=dtype, device=packed.device)` -> "
    "`out = torch.empty(n, dtype=dtype)`": "the checks run on the CPU",
    "dequantize: `q = tl.load(packed_ptr + byte, mask=exists, other=0).to(tl.int32)`"
    " -> `q = tl.load(packed_ptr + byte, mask=exists, other=0)`": (
        "uint8 holds both halves"
    ),
    "dequantize: `level = tl.load(absmax_ptr + block, mask=exists, other=0)"
    ".to(tl.int32)` -> `level = tl.load(absmax_ptr + block, mask=exists, other=0)`": (
        "a uint8 is an index as well"
    ),
    "dequantize: `nested = tl.load(nested_ptr + block // 256, mask=exists)` -> "
    "`nested = tl.load(nested_ptr + block // 256)`": "a tile of 16 blocks never "
    "reaches into the next 256",
    "dequantize: `start = tl.program_id(0).to(tl.int64) * BYTES` -> "
    "`start = tl.program_id(0) * BYTES`": WIDE,
    "dequantize: `nf4_kernel[triton.cdiv(packed.numel(), 512),](*(packed, absmax, "
    "code, nested_absmax, nested_code, offset, out), *(n, packed.numel()), BYTES=512)`"
    " -> `nf4_kernel[triton.cdiv(packed.numel(), 511),](*(packed, absmax, code, "
    "nested_absmax, nested_code, offset, out), *(n, packed.numel()), BYTES=512)`": (
        "at most one program more, which finds nothing to do"
    ),
    **{
        f"dequantize: `{name} = tl.load({at}, mask=exists, other=0).to(tl.int32)` -> "
        f"`{name} = tl.load({at}, mask=exists, other={other}).to(tl.int32)`": FILL
        for name, at in (("q", "packed_ptr + byte"), ("level", "absmax_ptr + block"))
        for other in (1, -1)
    },
}
