"""What goes wrong in the exercise `triton_kernels`, and the hint for each.

Each mistake is a whole answer: a wrapper and a kernel. Those of a task share one
kernel, which is right where FAULT is "" and has one thing wrong where it names it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from posttrain.checks.task import Mistake

# --------------------------------------------------------------------- scale_add


@triton.jit
def faulty_scale_add(
    x_ptr, y_ptr, out_ptr, alpha, n, BLOCK: tl.constexpr, FAULT: tl.constexpr
):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if FAULT == "same block":
        i = tl.arange(0, BLOCK)
    mask = i < n
    if FAULT == "no mask":
        mask = i >= 0
    x = tl.load(x_ptr + i, mask=mask).to(tl.float32)
    y = tl.load(y_ptr + i, mask=mask).to(tl.float32)
    if FAULT == "other factor":
        x, y = y, x
    result = alpha * x + y
    if FAULT == "rounds twice":
        result = (alpha * x).to(out_ptr.dtype.element_ty).to(tl.float32) + y
    if FAULT == "in place":
        tl.store(y_ptr + i, result, mask=mask)
    else:
        tl.store(out_ptr + i, result, mask=mask)


def launch_scale_add(x, y, alpha, fault="", grid=None):
    out, n = torch.empty_like(x), x.numel()
    grid = grid or triton.cdiv(n, 256)
    faulty_scale_add[(grid,)](x, y, out, alpha, n, BLOCK=256, FAULT=fault)
    return y if fault == "in place" else out


def scale_add_without_mask(x, y, alpha):
    return launch_scale_add(x, y, alpha, "no mask")


def scale_add_always_the_first_block(x, y, alpha):
    return launch_scale_add(x, y, alpha, "same block")


def scale_add_grid_rounded_down(x, y, alpha):
    return launch_scale_add(x, y, alpha, grid=max(1, x.numel() // 256))


def scale_add_one_program(x, y, alpha):
    out, n = torch.empty_like(x), x.numel()
    block = triton.next_power_of_2(n)
    faulty_scale_add[(1,)](x, y, out, alpha, n, BLOCK=block, FAULT="")
    return out


def scale_add_scales_y(x, y, alpha):
    return launch_scale_add(x, y, alpha, "other factor")


def scale_add_over_y(x, y, alpha):
    return launch_scale_add(x, y, alpha, "in place")


def scale_add_rounds_twice(x, y, alpha):
    return launch_scale_add(x, y, alpha, "rounds twice")


def scale_add_scaled_by_pytorch(x, y, alpha):
    return launch_scale_add((alpha * x.float()).to(x.dtype), y, 1.0)


# ----------------------------------------------------------------------- softmax


@triton.jit
def faulty_softmax(
    x_ptr, y_ptr, stride, n_cols, BLOCK: tl.constexpr, FAULT: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < n_cols
    at = x_ptr + row * stride + cols
    if FAULT == "zeros":
        x = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    elif FAULT == "-100":
        x = tl.load(at, mask=mask, other=-100.0).to(tl.float32)
    elif FAULT == "no other":
        x = tl.load(at, mask=mask).to(tl.float32)
    elif FAULT == "no mask":
        x = tl.load(at).to(tl.float32)
    else:
        x = tl.load(at, mask=mask, other=-float("inf")).to(tl.float32)
    if FAULT != "no maximum":
        x = x - tl.max(x, axis=0)
    e = tl.exp2(x) if FAULT == "base 2" else tl.exp(x)
    y = e / tl.sum(e, axis=0)
    if FAULT == "mean":
        y = e / (tl.sum(e, axis=0) / n_cols)
    tl.store(y_ptr + row * n_cols + cols, y, mask=mask)


def launch_softmax(x, fault=""):
    y, (R, C) = torch.empty(x.shape, dtype=x.dtype), x.shape
    stride = C if fault == "packed" else x.stride(0)
    block = triton.next_power_of_2(C)
    faulty_softmax[(R,)](x, y, stride, C, BLOCK=block, FAULT=fault)
    return y


def softmax_with_zeros_in_the_padding(x):
    return launch_softmax(x, "zeros")


def softmax_with_minus_100_in_the_padding(x):
    return launch_softmax(x, "-100")


def softmax_of_a_copy(x):
    return launch_softmax(x.contiguous())


def softmax_without_other(x):
    return launch_softmax(x, "no other")


def softmax_without_mask(x):
    return launch_softmax(x, "no mask")


def softmax_without_maximum(x):
    return launch_softmax(x, "no maximum")


def softmax_to_base_2(x):
    return launch_softmax(x, "base 2")


def softmax_of_packed_rows(x):
    return launch_softmax(x, "packed")


def softmax_divides_by_the_mean(x):
    return launch_softmax(x, "mean")


@triton.jit
def row_maximum(x_ptr, m_ptr, stride, n_cols, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    at = x_ptr + row * stride + cols
    x = tl.load(at, mask=cols < n_cols, other=-float("inf")).to(tl.float32)
    tl.store(m_ptr + row, tl.max(x, axis=0))


@triton.jit
def softmax_below(x_ptr, m_ptr, y_ptr, stride, n_cols, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    at = x_ptr + row * stride + cols
    x = tl.load(at, mask=cols < n_cols, other=-float("inf")).to(tl.float32)
    e = tl.exp(x - tl.load(m_ptr + row))
    tl.store(y_ptr + row * n_cols + cols, e / tl.sum(e, axis=0), mask=cols < n_cols)


def softmax_by_two_kernels(x):
    y, (R, C) = torch.empty(x.shape, dtype=x.dtype), x.shape
    m, block = torch.empty(R), triton.next_power_of_2(C)
    row_maximum[(R,)](x, m, x.stride(0), C, BLOCK=block)
    softmax_below[(R,)](x, m, y, x.stride(0), C, BLOCK=block)
    return y


# ---------------------------------------------------------------------- rms_norm


@triton.jit
def faulty_rms_norm(
    x_ptr,
    w_ptr,
    y_ptr,
    r_ptr,
    stride,
    n_cols,
    eps,
    BLOCK: tl.constexpr,
    FAULT: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < n_cols
    x = tl.load(x_ptr + row * stride + cols, mask=mask, other=0.0)
    if FAULT == "late cast":
        square = (x * x).to(tl.float32)
        x = x.to(tl.float32)
    else:
        x = x.to(tl.float32)
        square = x * x
    if FAULT == "centred":
        mean = tl.sum(x, axis=0) / n_cols
        x = tl.where(mask, x - mean, 0.0)
        square = x * x
    count = BLOCK if FAULT == "block" else n_cols
    if FAULT == "sum":
        count = 1
    mean = tl.sum(square, axis=0) / count
    r = 1 / tl.sqrt(mean + eps)
    if FAULT == "eps outside":
        r = 1 / (tl.sqrt(mean) + eps)
    w = tl.load(w_ptr + cols, mask=mask, other=0.0).to(tl.float32)
    y = x * r
    if FAULT == "rounds twice":
        y = y.to(y_ptr.dtype.element_ty).to(tl.float32)
    y_stride = stride if FAULT == "in place" else n_cols
    tl.store(y_ptr + row * y_stride + cols, y * w, mask=mask)
    if FAULT == "not inverted":
        tl.store(r_ptr + row, 1 / r)
    else:
        tl.store(r_ptr + row, r)


def launch_rms_norm(x, weight, eps, fault=""):
    y, (R, C) = torch.empty(x.shape, dtype=x.dtype), x.shape
    y = x if fault == "in place" else y
    r, block = torch.empty(R), triton.next_power_of_2(C)
    stride = C if fault == "packed" else x.stride(0)
    faulty_rms_norm[(R,)](x, weight, y, r, stride, C, eps, BLOCK=block, FAULT=fault)
    return y, r


def rms_norm_mean_over_the_block(x, weight, eps):
    return launch_rms_norm(x, weight, eps, "block")


def rms_norm_without_mean(x, weight, eps):
    return launch_rms_norm(x, weight, eps, "sum")


def rms_norm_eps_outside(x, weight, eps):
    return launch_rms_norm(x, weight, eps, "eps outside")


def rms_norm_squares_in_half(x, weight, eps):
    return launch_rms_norm(x, weight, eps, "late cast")


def rms_norm_subtracts_the_mean(x, weight, eps):
    return launch_rms_norm(x, weight, eps, "centred")


def rms_norm_keeps_the_root(x, weight, eps):
    return launch_rms_norm(x, weight, eps, "not inverted")


def rms_norm_of_packed_rows(x, weight, eps):
    return launch_rms_norm(x, weight, eps, "packed")


def rms_norm_rounds_twice(x, weight, eps):
    return launch_rms_norm(x, weight, eps, "rounds twice")


def rms_norm_over_x(x, weight, eps):
    return launch_rms_norm(x, weight, eps, "in place")


def rms_norm_of_a_copy(x, weight, eps):
    return launch_rms_norm(x.contiguous(), weight, eps)


# ----------------------------------------------------------------- cross_entropy


@triton.jit
def faulty_cross_entropy(
    x_ptr,
    target_ptr,
    loss_ptr,
    lse_ptr,
    stride,
    vocab,
    BLOCK: tl.constexpr,
    FAULT: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride
    cols = tl.arange(0, BLOCK)
    m = tl.full((), -float("inf"), tl.float32)
    if FAULT == "maximum from 0":
        m = tl.zeros((), tl.float32)
    d = tl.zeros((), tl.float32)
    for start in range(0, vocab, BLOCK):
        mask = start + cols < vocab
        if FAULT == "zeros":
            x = tl.load(x_ptr + start + cols, mask=mask, other=0.0).to(tl.float32)
        else:
            x = tl.load(x_ptr + start + cols, mask=mask, other=-float("inf"))
            x = x.to(tl.float32)
        top = tl.maximum(m, tl.max(x, axis=0))
        if FAULT == "block maximum":
            top = tl.max(x, axis=0)
        shift = tl.where(top == -float("inf"), 0.0, top)
        if FAULT == "no guard":
            shift = top
        factor = tl.exp(m - shift)
        if FAULT == "no rescale":
            factor = tl.where(m == -float("inf"), 0.0, 1.0)
        if FAULT == "wrong way":
            factor = tl.where(m == -float("inf"), 0.0, tl.exp(shift - m))
        d = d * factor + tl.sum(tl.exp(x - shift), axis=0)
        m = top
    lse = m + tl.log(d)
    target = tl.load(target_ptr + row)
    known = target >= 0
    if FAULT == "no ignore":
        known = target < vocab
    chosen = tl.load(x_ptr + target, mask=known, other=0.0).to(tl.float32)
    loss = tl.where(known, lse - chosen, 0.0)
    tl.store(loss_ptr + row, loss)
    tl.store(lse_ptr + row, tl.log(d) if FAULT == "no maximum" else lse)


def launch_cross_entropy(logits, target, block, fault=""):
    N, V = logits.shape
    loss, lse = torch.empty(N), torch.empty(N)
    faulty_cross_entropy[(N,)](
        *(logits, target, loss, lse, logits.stride(0), V), BLOCK=block, FAULT=fault
    )
    return loss, lse


def cross_entropy_never_rescales(logits, target, block):
    return launch_cross_entropy(logits, target, block, "no rescale")


def cross_entropy_rescales_the_wrong_way(logits, target, block):
    return launch_cross_entropy(logits, target, block, "wrong way")


def cross_entropy_maximum_from_zero(logits, target, block):
    return launch_cross_entropy(logits, target, block, "maximum from 0")


def cross_entropy_maximum_of_the_block(logits, target, block):
    return launch_cross_entropy(logits, target, block, "block maximum")


def cross_entropy_nan_for_banned_tokens(logits, target, block):
    return launch_cross_entropy(logits, target, block, "no guard")


def cross_entropy_with_zeros_in_the_padding(logits, target, block):
    return launch_cross_entropy(logits, target, block, "zeros")


def cross_entropy_reads_at_minus_100(logits, target, block):
    return launch_cross_entropy(logits, target, block, "no ignore")


def cross_entropy_lse_without_maximum(logits, target, block):
    return launch_cross_entropy(logits, target, block, "no maximum")


def cross_entropy_repaired_by_pytorch(logits, target, block):
    loss, lse = launch_cross_entropy(logits, target.clamp(min=0), block)
    loss[target == -100] = 0.0
    return loss, lse


def cross_entropy_changes_the_target(logits, target, block):
    ignored = target == -100
    target[ignored] = 0
    loss, lse = launch_cross_entropy(logits, target, block)
    loss[ignored] = 0.0
    return loss, lse


def cross_entropy_whole_row_at_once(logits, target, block):
    return launch_cross_entropy(logits, target, triton.next_power_of_2(logits.shape[1]))


# ---------------------------------------------------------------- softmax_bounds


def bounds(R, C, itemsize, bandwidth, peak, naive, fused=2):
    """Kernels of `naive` (numbers moved, each with R C FLOPs), and the fused one."""
    each = [max(n * itemsize / bandwidth, R * C / peak) for n in naive]
    return sum(each), max(fused * R * C * itemsize / bandwidth, 5 * R * C / peak)


def softmax_bounds_without_columns(R, C, itemsize, bandwidth, peak):
    n = R * C
    return bounds(R, C, itemsize, bandwidth, peak, (n, 2 * n, 2 * n, n, 2 * n))


def softmax_bounds_without_writes(R, C, itemsize, bandwidth, peak):
    n = R * C
    naive = (n, n + R, n, n, n + R)
    return bounds(R, C, itemsize, bandwidth, peak, naive, fused=1)


def softmax_bounds_maximum_of_sums(R, C, itemsize, bandwidth, peak):
    n = R * C
    moved = (n + R, 2 * n + R, 2 * n, n + R, 2 * n + R)
    naive = max(sum(moved) * itemsize / bandwidth, 5 * n / peak)
    return naive, max(2 * n * itemsize / bandwidth, 5 * n / peak)


def softmax_bounds_sum_of_both(R, C, itemsize, bandwidth, peak):
    n = R * C
    moved = (n + R, 2 * n + R, 2 * n, n + R, 2 * n + R)
    naive = sum(moved) * itemsize / bandwidth + 5 * n / peak
    return naive, 2 * n * itemsize / bandwidth + 5 * n / peak


def softmax_bounds_in_numbers(R, C, itemsize, bandwidth, peak):
    n = R * C
    naive = (n + R, 2 * n + R, 2 * n, n + R, 2 * n + R)
    return bounds(R, C, 1, bandwidth, peak, naive)


def softmax_bounds_memory_only(R, C, itemsize, bandwidth, peak):
    n = R * C
    moved = (n + R, 2 * n + R, 2 * n, n + R, 2 * n + R)
    return sum(moved) * itemsize / bandwidth, 2 * n * itemsize / bandwidth


# -------------------------------------------------------------------- dequantize


@triton.jit
def nf4_value(q):
    """What four bits stand for in NF4, by constants."""
    magnitude = tl.where(q == 0, 1.0, 0.0)
    magnitude = tl.where(q == 1, 0.6961928009986877, magnitude)
    magnitude = tl.where(q == 2, 0.5250730514526367, magnitude)
    magnitude = tl.where(q == 3, 0.39491748809814453, magnitude)
    magnitude = tl.where(q == 4, 0.28444138169288635, magnitude)
    magnitude = tl.where(q == 5, 0.18477343022823334, magnitude)
    magnitude = tl.where(q == 6, 0.09105003625154495, magnitude)
    magnitude = tl.where(q == 8, 0.07958029955625534, magnitude)
    magnitude = tl.where(q == 9, 0.16093020141124725, magnitude)
    magnitude = tl.where(q == 10, 0.24611230194568634, magnitude)
    magnitude = tl.where(q == 11, 0.33791524171829224, magnitude)
    magnitude = tl.where(q == 12, 0.44070982933044434, magnitude)
    magnitude = tl.where(q == 13, 0.5626170039176941, magnitude)
    magnitude = tl.where(q == 14, 0.7229568362236023, magnitude)
    magnitude = tl.where(q == 15, 1.0, magnitude)
    return tl.where(q < 7, -magnitude, magnitude)


@triton.jit
def faulty_dequantize(
    packed_ptr,
    absmax_ptr,
    code_ptr,
    nested_ptr,
    nested_code_ptr,
    offset_ptr,
    out_ptr,
    n,
    BLOCK: tl.constexpr,
    FAULT: tl.constexpr,
):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    if FAULT == "no mask":
        mask = i >= 0
    byte = tl.load(packed_ptr + i // 2, mask=mask, other=0).to(tl.int32)
    first = i % 2 == 0
    if FAULT == "low first":
        first = i % 2 == 1
    q = tl.where(first, byte >> 4, byte & 15)
    block = i // 64
    if FAULT == "block of bytes":
        block = i // 128
    group = block // 256
    if FAULT == "group of weights":
        group = i // 256
    level = tl.load(absmax_ptr + block, mask=mask, other=0).to(tl.int32)
    nested = tl.load(nested_ptr + group, mask=mask, other=0.0)
    absmax = tl.load(nested_code_ptr + level) * nested
    if FAULT == "offset first":
        absmax = (tl.load(nested_code_ptr + level) + tl.load(offset_ptr)) * nested
    elif FAULT == "level":
        absmax = level * nested / 255 + tl.load(offset_ptr)
    elif FAULT != "no offset":
        absmax += tl.load(offset_ptr)
    value = tl.load(code_ptr + q)
    if FAULT == "own table":
        value = nf4_value(q)
    tl.store(out_ptr + i, value * absmax, mask=mask)


def launch_dequantize(*arguments, fault=""):
    *given, n, dtype = arguments
    out = torch.empty(n, dtype=dtype)
    grid = (triton.cdiv(n, 1024),)
    faulty_dequantize[grid](*given, out, n, BLOCK=1024, FAULT=fault)
    return out


def dequantize_low_half_first(*arguments):
    return launch_dequantize(*arguments, fault="low first")


def dequantize_without_offset(*arguments):
    return launch_dequantize(*arguments, fault="no offset")


def dequantize_scales_the_offset(*arguments):
    return launch_dequantize(*arguments, fault="offset first")


def dequantize_without_nested_code(*arguments):
    return launch_dequantize(*arguments, fault="level")


def dequantize_blocks_of_64_bytes(*arguments):
    return launch_dequantize(*arguments, fault="block of bytes")


def dequantize_groups_of_256_weights(*arguments):
    return launch_dequantize(*arguments, fault="group of weights")


def dequantize_by_its_own_table(*arguments):
    return launch_dequantize(*arguments, fault="own table")


def dequantize_without_mask(*arguments):
    return launch_dequantize(*arguments, fault="no mask")


@triton.jit
def decode_absmax(
    absmax_ptr, nested_ptr, nested_code_ptr, offset_ptr, out_ptr, n, BLOCK: tl.constexpr
):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    level = tl.load(absmax_ptr + i, mask=i < n, other=0).to(tl.int32)
    nested = tl.load(nested_ptr + i // 256, mask=i < n, other=0.0)
    absmax = tl.load(nested_code_ptr + level) * nested + tl.load(offset_ptr)
    tl.store(out_ptr + i, absmax, mask=i < n)


@triton.jit
def decode_weights(packed_ptr, absmax_ptr, code_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    byte = tl.load(packed_ptr + i // 2, mask=i < n, other=0).to(tl.int32)
    q = tl.where(i % 2 == 0, byte >> 4, byte & 15)
    absmax = tl.load(absmax_ptr + i // 64, mask=i < n, other=0.0)
    tl.store(out_ptr + i, tl.load(code_ptr + q) * absmax, mask=i < n)


def dequantize_by_two_kernels(
    packed, absmax, code, nested_absmax, nested_code, offset, n, dtype
):
    out, scales = torch.empty(n, dtype=dtype), torch.empty(absmax.numel())
    decode_absmax[(triton.cdiv(absmax.numel(), 1024),)](
        *(absmax, nested_absmax, nested_code, offset, scales, absmax.numel()),
        BLOCK=1024,
    )
    grid = (triton.cdiv(n, 1024),)
    decode_weights[grid](packed, scales, code, out, n, BLOCK=1024)
    return out


def dequantize_with_a_table_of_absmax(
    packed, absmax, code, nested_absmax, nested_code, offset, n, dtype
):
    group = torch.arange(absmax.numel()) // 256
    scales = nested_code[absmax.int()] * nested_absmax[group] + offset
    out, grid = torch.empty(n, dtype=dtype), (triton.cdiv(n, 1024),)
    decode_weights[grid](packed, scales, code, out, n, BLOCK=1024)
    return out


def dequantize_through_fp32(*arguments):
    *given, n, dtype = arguments
    return launch_dequantize(*given, n, torch.float32).to(dtype)


MISTAKES = {
    "scale_add": (
        Mistake(
            scale_add_without_mask,
            "the last block goes past the end of the tensors. Lane i may load and "
            "store only where i < n: pass that as `mask`.",
        ),
        Mistake(
            scale_add_always_the_first_block,
            "every program writes the same 256 numbers: add program_id * BLOCK to the "
            "offsets.",
        ),
        Mistake(
            scale_add_grid_rounded_down,
            "n // 256 programs leave the rest of the last block unwritten: round up "
            "(`triton.cdiv`).",
        ),
        Mistake(
            scale_add_one_program,
            "the numbers are right, but one program does all of them: a GPU would use "
            "one of its many multiprocessors. Give each program 256.",
        ),
        Mistake(scale_add_scales_y, "alpha multiplies x; y is added as it is."),
        Mistake(
            scale_add_over_y,
            "the result is written over y. Return a new tensor; y still belongs to the "
            "caller.",
        ),
        Mistake(
            scale_add_rounds_twice,
            "alpha x is rounded to 16 bits before y is added. Compute in float32, and "
            "round once, at the store.",
        ),
        Mistake(
            scale_add_scaled_by_pytorch,
            "PyTorch scaled x before your kernel saw it: one more kernel and one more "
            "tensor. Multiply inside.",
        ),
    ),
    "softmax": (
        Mistake(
            softmax_with_zeros_in_the_padding,
            "lanes past the row's end count as 0: they can be the maximum, and each "
            "adds exp(0 - m) to the sum. `other` must be what changes neither: -inf.",
        ),
        Mistake(
            softmax_with_minus_100_in_the_padding,
            "-100 in the padding is above a row that lies near -500. `other` must lie "
            "below every number: -inf.",
        ),
        Mistake(
            softmax_of_a_copy,
            "PyTorch copied x first (`contiguous`, `clone`): every number is read and "
            "written once more. Take x as it lies, its rows x.stride(0) apart.",
        ),
        Mistake(
            softmax_without_other,
            "a masked load without `other` leaves the lanes that are off undefined, "
            "and maximum and sum look at all lanes. Say `other=-float('inf')`.",
        ),
        Mistake(
            softmax_without_mask,
            "the block is a power of two, the row need not be: mask the columns from C "
            "on.",
        ),
        Mistake(
            softmax_without_maximum,
            "exp of a few hundred overflows: subtract the maximum of the row first.",
        ),
        Mistake(
            softmax_to_base_2,
            "`tl.exp2` is 2 to the power of x. It is what the hardware has; multiply x "
            "by log2(e) first, or use `tl.exp`.",
        ),
        Mistake(
            softmax_of_packed_rows,
            "row r of x begins at r * x.stride(0), which is more than C for a view. "
            "Only the result, which you make, is packed.",
        ),
        Mistake(
            softmax_divides_by_the_mean,
            "divide by the sum of the exponentials, not by their mean: a row adds up "
            "to 1.",
        ),
        Mistake(
            softmax_by_two_kernels,
            "the numbers are right, but two launches read x twice. Fusion means: one "
            "program holds a row from the first read to the only write.",
        ),
    ),
    "rms_norm": (
        Mistake(
            rms_norm_mean_over_the_block,
            "the mean of squares is over C columns. BLOCK, the next power of two, "
            "counts the padding, too.",
        ),
        Mistake(rms_norm_without_mean, "the *mean* of the squares: divide by C."),
        Mistake(
            rms_norm_eps_outside,
            "eps is added to the mean of squares, inside the root.",
        ),
        Mistake(
            rms_norm_squares_in_half,
            "fp16 ends at 65,504, so the square of 300 is inf there: cast to float32 "
            "before you square.",
        ),
        Mistake(
            rms_norm_subtracts_the_mean,
            "RMSNorm does not subtract the mean; LayerNorm does.",
        ),
        Mistake(
            rms_norm_rounds_twice,
            "x r is rounded to 16 bits before it meets the weight. Stay in float32 "
            "until the store.",
        ),
        Mistake(
            rms_norm_over_x,
            "y is written over x, which the backward pass needs. Make a new tensor.",
        ),
        Mistake(
            rms_norm_of_a_copy,
            "PyTorch copied x first (`contiguous`, `clone`): every number is read and "
            "written once more. Take x as it lies, its rows x.stride(0) apart.",
        ),
        Mistake(
            rms_norm_keeps_the_root,
            "r is one over the root mean square, what x is multiplied with: the "
            "backward pass wants that.",
        ),
        Mistake(
            rms_norm_of_packed_rows,
            "row r of x begins at r * x.stride(0), which is more than C for a view. "
            "Only the result, which you make, is packed.",
        ),
    ),
    "cross_entropy": (
        Mistake(
            cross_entropy_never_rescales,
            "the sum so far is in units of exp(old maximum). When the maximum rises to "
            "m', multiply it by exp(m - m').",
        ),
        Mistake(
            cross_entropy_rescales_the_wrong_way,
            "the old sum must shrink when the maximum rises: exp(m - m'), with m' the "
            "larger one.",
        ),
        Mistake(
            cross_entropy_maximum_from_zero,
            "with a maximum that starts at 0, exponentials of logits near -320 vanish "
            "and the sum is 0. Start at -inf.",
        ),
        Mistake(
            cross_entropy_maximum_of_the_block,
            "the maximum so far is the larger one of the old and the block's. With the "
            "block's alone a large old sum overflows or a banned block erases it.",
        ),
        Mistake(
            cross_entropy_nan_for_banned_tokens,
            "a block may hold nothing but -inf, and -inf minus -inf is NaN. Subtract 0 "
            "there: every exponential is 0 anyway.",
        ),
        Mistake(
            cross_entropy_with_zeros_in_the_padding,
            "lanes past the vocabulary count as logits of 0. `other` must add nothing "
            "to the sum: -inf.",
        ),
        Mistake(
            cross_entropy_reads_at_minus_100,
            "a target of -100 is no column. Mask that load.",
        ),
        Mistake(
            cross_entropy_repaired_by_pytorch,
            "PyTorch makes another target before your kernel, and repairs the losses "
            "after it. Treat -100 inside: mask the load, and select with `tl.where`.",
        ),
        Mistake(
            cross_entropy_changes_the_target,
            "the caller's `target` was changed. Treat -100 inside the kernel: mask the "
            "load, and select with `tl.where`.",
        ),
        Mistake(
            cross_entropy_lse_without_maximum,
            "the log-sum-exp is m + log(sum): the sum counts in units of exp(m).",
        ),
        Mistake(
            cross_entropy_whole_row_at_once,
            "a vocabulary of 128,000 fits into no program's registers: walk over it "
            "with at most `block` logits at a time.",
        ),
    ),
    "softmax_bounds": (
        Mistake(
            softmax_bounds_without_columns,
            "maxima and sums are tensors of R numbers: they are written by one kernel "
            "and read by the next.",
        ),
        Mistake(
            softmax_bounds_without_writes,
            "results are moved as well: count what a kernel writes.",
        ),
        Mistake(
            softmax_bounds_maximum_of_sums,
            "kernels run one after the other. Each has a bound of its own; add the "
            "five bounds, and do not take the bound of the sums.",
        ),
        Mistake(
            softmax_bounds_sum_of_both,
            "a kernel can move and compute at the same time: its bound is the longer "
            "of the two times, not their sum.",
        ),
        Mistake(
            softmax_bounds_in_numbers,
            "bandwidth is in bytes a second: multiply by itemsize.",
        ),
        Mistake(
            softmax_bounds_memory_only,
            "the bound is the longer of two times: FLOPs / peak counts, too.",
        ),
    ),
    "dequantize": (
        Mistake(
            dequantize_low_half_first,
            "two weights share a byte, and the earlier one is in the *high* half.",
        ),
        Mistake(
            dequantize_without_offset,
            "before the absmaxes were quantised their mean was subtracted: add "
            "`offset` back.",
        ),
        Mistake(
            dequantize_scales_the_offset,
            "`offset` is added after the product with nested_absmax.",
        ),
        Mistake(
            dequantize_without_nested_code,
            "a quantised absmax is an index into `nested_code`, not a number.",
        ),
        Mistake(
            dequantize_blocks_of_64_bytes,
            "64 *weights* share an absmax; that is 32 bytes.",
        ),
        Mistake(
            dequantize_groups_of_256_weights,
            "256 *blocks* share a nested absmax: block // 256, not weight // 256.",
        ),
        Mistake(
            dequantize_by_its_own_table,
            "what four bits stand for is an argument: look it up in `code`, which need "
            "not hold NF4.",
        ),
        Mistake(
            dequantize_without_mask,
            "n is rarely a multiple of your tile: mask loads and the store.",
        ),
        Mistake(
            dequantize_by_two_kernels,
            "the numbers are right, but there are two launches with a buffer of "
            "absmaxes between. Decode the absmax where it is used, in the same kernel.",
        ),
        Mistake(
            dequantize_with_a_table_of_absmax,
            "the numbers are right, but PyTorch decodes the absmaxes into a buffer "
            "first: three kernels, written and read. Do it inside yours.",
        ),
        Mistake(
            dequantize_through_fp32,
            "the kernel writes a float32 buffer that PyTorch casts afterwards. Let the "
            "store round: the result is made in `dtype`.",
        ),
    ),
}
