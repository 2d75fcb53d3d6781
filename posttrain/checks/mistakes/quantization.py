"""What goes wrong in the exercise `quantization`, and the hint for each.

Each mistake is a whole answer. Where several differ from a right answer in one place
only, they share it as a base and change that place.
"""

from __future__ import annotations

import torch

from posttrain.checks.task import Mistake


def positive(scale):
    """The same, and 1 where it is 0."""
    return torch.where(scale == 0, torch.ones_like(scale), scale)


# --------------------------------------------------------------- absmax_quantize


def absmax_right_but(
    absmax=lambda x: x.abs(), steps=lambda n: n, turn=lambda d: d, to_int=torch.round
):
    """A right `absmax_quantize`, but for one of its steps."""

    def absmax_quantize(x, bits, dim):
        n = 2 ** (bits - 1) - 1
        over = (0, 1) if dim is None else turn(dim)
        scale = positive(absmax(x).amax(dim=over, keepdim=True) / steps(n))
        codes = to_int(x / scale).clamp(-n - 1, n)
        return codes.to(torch.int8), scale

    return absmax_quantize


def absmax_largest_value(x, bits, dim):
    return absmax_right_but(absmax=lambda x: x)(x, bits, dim)


def absmax_128_steps(x, bits, dim):
    return absmax_right_but(steps=lambda n: n + 1)(x, bits, dim)


def absmax_255_steps(x, bits, dim):
    return absmax_right_but(steps=lambda n: n + 0.5)(x, bits, dim)


def absmax_other_dimension(x, bits, dim):
    return absmax_right_but(turn=lambda d: 1 - d)(x, bits, dim)


def absmax_always_one_scale(x, bits, dim):
    return absmax_right_but(turn=lambda d: (0, 1))(x, bits, dim)


def absmax_truncates(x, bits, dim):
    return absmax_right_but(to_int=torch.trunc)(x, bits, dim)


def absmax_rounds_down(x, bits, dim):
    return absmax_right_but(to_int=torch.floor)(x, bits, dim)


def absmax_returns_the_inverse(x, bits, dim):
    codes, scale = absmax_right_but()(x, bits, dim)
    return codes, 1 / scale


def absmax_divides_by_zero(x, bits, dim):
    n = 2 ** (bits - 1) - 1
    over = (0, 1) if dim is None else dim
    scale = x.abs().amax(dim=over, keepdim=True) / n
    return (x / scale).round().to(torch.int8), scale


def absmax_always_8_bits(x, bits, dim):
    return absmax_right_but()(x, 8, dim)


def absmax_small_is_zero(x, bits, dim):
    n = 2 ** (bits - 1) - 1
    over = (0, 1) if dim is None else dim
    scale = x.abs().amax(dim=over, keepdim=True) / n
    scale = torch.where(scale < 1e-5, 1.0, scale)
    return (x / scale).round().to(torch.int8), scale


# --------------------------------------------------------------- affine_quantize


def affine_right_but(
    widen=True, sign=-1, steps=lambda n: n, to_int=torch.round, over=1, order="after"
):
    """A right `affine_quantize`, but for one of its steps."""

    def affine_quantize(x, bits):
        n = 2**bits - 1
        low, high = x.amin(over, keepdim=True), x.amax(over, keepdim=True)
        if widen:
            low, high = low.clamp(max=0), high.clamp(min=0)
        scale = positive((high - low) / steps(n))
        zero = to_int(sign * low / scale)
        if order == "before":
            codes = to_int((x - low) / scale)
        else:
            codes = to_int(x / scale) + zero
        codes = codes.clamp(0, n).to(torch.uint8)
        rows = torch.ones(len(x), 1)
        return codes, scale * rows, (zero * rows).to(torch.int32)

    return affine_quantize


def affine_zero_has_the_wrong_sign(x, bits):
    return affine_right_but(sign=1)(x, bits)


def affine_range_without_zero(x, bits):
    return affine_right_but(widen=False)(x, bits)


def affine_256_steps(x, bits):
    return affine_right_but(steps=lambda n: n + 1)(x, bits)


def affine_truncates(x, bits):
    return affine_right_but(to_int=torch.trunc)(x, bits)


def affine_one_scale_for_all(x, bits):
    return affine_right_but(over=(0, 1))(x, bits)


def affine_from_low(x, bits):
    return affine_right_but(order="before")(x, bits)


def affine_symmetric_scale(x, bits):
    n = 2 ** (bits - 1) - 1
    scale = positive(x.abs().amax(1, keepdim=True) / n)
    zero = torch.full_like(scale, n + 1)
    codes = ((x / scale).round() + zero).to(torch.uint8)
    return codes, scale, zero.to(torch.int32)


def affine_divides_by_zero(x, bits):
    n = 2**bits - 1
    low = x.amin(1, keepdim=True).clamp(max=0)
    high = x.amax(1, keepdim=True).clamp(min=0)
    scale = (high - low) / n
    zero = (-low / scale).round()
    codes = ((x / scale).round() + zero).clamp(0, n)
    return codes.to(torch.uint8), scale, zero.to(torch.int32)


def affine_in_place(x, bits):
    answer = affine_right_but()(x, bits)
    x /= answer[1]
    return answer


def affine_small_is_zero(x, bits):
    n = 2**bits - 1
    low = x.amin(1, keepdim=True).clamp(max=0)
    high = x.amax(1, keepdim=True).clamp(min=0)
    scale = torch.where(high - low < 1e-4, 1.0, (high - low) / n)
    zero = (-low / scale).round()
    codes = ((x / scale).round() + zero).clamp(0, n)
    return codes.to(torch.uint8), scale, zero.to(torch.int32)


# ------------------------------------------------------------------- int8_linear


def int8_right_but(over=1, accumulate=torch.int32, steps=127, undo=True):
    """A right `int8_linear`, but for one of its steps."""

    def int8_linear(x, codes, scale):
        s = positive(x.abs().amax(dim=over, keepdim=True) / steps)
        p = (x / s).round()
        total = (p.double() @ codes.double().T).to(torch.int64).to(accumulate)
        return total.float() * (s if undo else 1.0) * scale.T

    return int8_linear


def int8_one_scale_for_all_tokens(x, codes, scale):
    return int8_right_but(over=(0, 1))(x, codes, scale)


def int8_sums_in_8_bits(x, codes, scale):
    return int8_right_but(accumulate=torch.int8)(x, codes, scale)


def int8_sums_in_16_bits(x, codes, scale):
    return int8_right_but(accumulate=torch.int16)(x, codes, scale)


def int8_forgets_the_scale_of_x(x, codes, scale):
    return int8_right_but(undo=False)(x, codes, scale)


def int8_scale_of_the_weight_on_tokens(x, codes, scale):
    s = positive(x.abs().amax(dim=1, keepdim=True) / 127)
    total = (x / s).round() @ codes.float().T
    if len(scale) != len(x):
        return total * s * scale.T
    return total * s * scale


def int8_leaves_x_in_float(x, codes, scale):
    return x @ (codes.float() * scale).T


def int8_a_scale_for_each_channel_of_x(x, codes, scale):
    s = positive(x.abs().amax(dim=0, keepdim=True) / 127)
    total = (x / s).round() @ codes.float().T
    return total * s.mean() * scale.T


def int8_nan_for_a_zero_token(x, codes, scale):
    s = x.abs().amax(dim=1, keepdim=True) / 127
    return ((x / s).round() @ codes.float().T) * s * scale.T


def int8_in_place(x, codes, scale):
    y = int8_right_but()(x, codes, scale)
    x /= positive(x.abs().amax(dim=1, keepdim=True) / 127)
    return y


def int8_smallest_scale(x, codes, scale):
    s = x.abs().amax(dim=1, keepdim=True).clamp(min=1e-5) / 127
    return ((x / s).round() @ codes.float().T) * s * scale.T


# ------------------------------------------------------------------ mixed_linear


def rounded(matrix, absmax):
    """A matrix through int8 and back, a scale a row from its `absmax`."""
    scale = positive(absmax / 127)
    return (matrix / scale).round().clamp(-127, 127) * scale


def mixed_right_but(
    loud=lambda x, t: (x.abs() >= t).any(dim=0), scales="rest", twice=False
):
    """A right `mixed_linear`, but for one of its steps."""

    def mixed_linear(x, weight, threshold):
        columns = loud(x, threshold)
        quiet = x.masked_fill(columns, 0.0), weight.masked_fill(columns, 0.0)
        x_top, w_top = (m.abs().amax(dim=1, keepdim=True) for m in quiet)
        if scales in ("all", "x"):
            x_top = x.abs().amax(dim=1, keepdim=True)
        if scales in ("all", "weight"):
            w_top = weight.abs().amax(dim=1, keepdim=True)
        y = rounded(quiet[0], x_top) @ rounded(quiet[1], w_top).T
        if twice:
            return y + x @ weight.T
        return y + (x * columns) @ weight.T

    return mixed_linear


def mixed_scale_of_x_with_outliers(x, weight, threshold):
    return mixed_right_but(scales="x")(x, weight, threshold)


def mixed_scale_of_the_weight_with_outliers(x, weight, threshold):
    return mixed_right_but(scales="weight")(x, weight, threshold)


def mixed_scales_with_outliers(x, weight, threshold):
    return mixed_right_but(scales="all")(x, weight, threshold)


def mixed_without_abs(x, weight, threshold):
    return mixed_right_but(lambda x, t: (x >= t).any(dim=0))(x, weight, threshold)


def mixed_above_not_at(x, weight, threshold):
    return mixed_right_but(lambda x, t: (x.abs() > t).any(dim=0))(x, weight, threshold)


def mixed_only_the_entries(x, weight, threshold):
    columns = x.abs() >= threshold
    quiet = x.masked_fill(columns, 0.0)
    y = (
        rounded(quiet, quiet.abs().amax(1, keepdim=True))
        @ rounded(weight, weight.abs().amax(1, keepdim=True)).T
    )
    return y + (x * columns) @ weight.T


def mixed_drops_the_outliers(x, weight, threshold):
    columns = (x.abs() >= threshold).any(dim=0)
    quiet = x.masked_fill(columns, 0.0), weight.masked_fill(columns, 0.0)
    x_hat, w_hat = (rounded(m, m.abs().amax(1, keepdim=True)) for m in quiet)
    return x_hat @ w_hat.T


def mixed_counts_the_rest_twice(x, weight, threshold):
    return mixed_right_but(twice=True)(x, weight, threshold)


def mixed_rounds_the_outliers_too(x, weight, threshold):
    x_hat, w_hat = (rounded(m, m.abs().amax(1, keepdim=True)) for m in (x, weight))
    return x_hat @ w_hat.T


def mixed_threshold_six(x, weight, threshold):
    return mixed_right_but()(x, weight, 6.0)


def mixed_outliers_of_the_weight(x, weight, threshold):
    columns = (x.abs() >= threshold).any(dim=0) | (weight.abs() >= threshold).any(dim=0)
    return mixed_right_but(lambda x, t: columns)(x, weight, threshold)


def mixed_norm_of_the_column(x, weight, threshold):
    return mixed_right_but(lambda x, t: x.norm(dim=0) >= t)(x, weight, threshold)


def mixed_nan_for_zeros(x, weight, threshold):
    columns = (x.abs() >= threshold).any(dim=0)
    y = (x * columns) @ weight.T
    if columns.all():
        return y
    factors = []
    for matrix in (x[:, ~columns], weight[:, ~columns]):
        scale = matrix.abs().amax(dim=1, keepdim=True) / 127
        factors.append((matrix / scale).round() * scale)
    return y + factors[0] @ factors[1].T


# -------------------------------------------------------------------- nf4_encode


def encode_right_but(top=None, find=None, pack=None, guard=True):
    """A right `nf4_encode`, but for one of its steps."""

    def nf4_encode(x, code):
        blocks = x.view(-1, 64)
        absmax = blocks.abs().amax(dim=1) if top is None else top(blocks)
        scaled = blocks / (positive(absmax) if guard else absmax)[:, None]
        if find is None:
            q = (scaled[..., None] - code).abs().argmin(dim=-1)
        else:
            q = find(scaled, code)
        q = q.flatten()
        packed = 16 * q[0::2] + q[1::2] if pack is None else pack(q)
        return packed.to(torch.uint8), absmax

    return nf4_encode


def encode_low_half_first(x, code):
    return encode_right_but(pack=lambda q: q[0::2] + 16 * q[1::2])(x, code)


def encode_far_apart(x, code):
    def halves(q):
        return 16 * q[: len(q) // 2] + q[len(q) // 2 :]

    return encode_right_but(pack=halves)(x, code)


def encode_signed_maximum(x, code):
    return encode_right_but(top=lambda b: b.amax(dim=1))(x, code)


def encode_one_absmax(x, code):
    def same(blocks):
        return blocks.abs().amax().expand(len(blocks)).clone()

    return encode_right_but(top=same)(x, code)


def encode_rounds_down(x, code):
    def below(scaled, code):
        return torch.bucketize(scaled, code, right=True).sub(1).clamp(0, 15)

    return encode_right_but(find=below)(x, code)


def encode_equal_steps(x, code):
    return encode_right_but(find=lambda s, c: ((s + 1) * 7.5).round().long())(x, code)


def encode_nan_in_a_zero_block(x, code):
    def find(scaled, code):
        return torch.bucketize(scaled, (code[1:] + code[:-1]) / 2)

    return encode_right_but(find=find, guard=False)(x, code)


def encode_zero_block_has_absmax_one(x, code):
    return encode_right_but(top=lambda b: positive(b.abs().amax(dim=1)))(x, code)


def encode_zero_is_seven(x, code):
    def find(scaled, code):
        q = (scaled[..., None] - code).abs().argmin(dim=-1)
        return torch.where((scaled == 0).all(dim=1, keepdim=True), 7, q)

    return encode_right_but(find=find)(x, code)


def encode_in_place(x, code):
    answer = encode_right_but()(x, code)
    x /= positive(answer[1]).repeat_interleave(64)
    return answer


# -------------------------------------------------------------------- nf4_decode


def decode_right_but(
    halves=lambda p: (p >> 4, p & 15), spread=lambda a, n: a.repeat_interleave(64)
):
    """A right `nf4_decode`, but for one of its steps."""

    def nf4_decode(packed, absmax, code):
        q = torch.stack(halves(packed), dim=1).flatten()
        return code[q.long()] * spread(absmax, len(q))

    return nf4_decode


def decode_low_half_first(packed, absmax, code):
    return decode_right_but(lambda p: (p & 15, p >> 4))(packed, absmax, code)


def decode_as_integers(packed, absmax, code):
    q = torch.stack([packed >> 4, packed & 15], dim=1).flatten().float()
    return (q - 8) / 7 * absmax.repeat_interleave(64)


def decode_blocks_of_32(packed, absmax, code):
    def spread(absmax, n):
        return absmax.repeat_interleave(32).repeat(2)

    return decode_right_but(spread=spread)(packed, absmax, code)


def decode_absmax_in_turns(packed, absmax, code):
    return decode_right_but(spread=lambda a, n: a.repeat(64))(packed, absmax, code)


def decode_without_absmax(packed, absmax, code):
    return decode_right_but(spread=lambda a, n: torch.ones(n))(packed, absmax, code)


def decode_high_halves_then_low(packed, absmax, code):
    q = torch.cat([packed >> 4, packed & 15])
    return code[q.long()] * absmax.repeat_interleave(64)


def decode_in_place(packed, absmax, code):
    x = decode_right_but()(packed, absmax, code)
    packed &= 15
    return x


# --------------------------------------------------------------- double_quantize


def double_right_but(
    center=torch.mean, size=256, top=lambda d: d.abs(), early=False, guard=True
):
    """A right `double_quantize`, but for one of its steps."""

    def double_quantize(absmax, code):
        offset = center(absmax)
        d = absmax - offset
        source = (absmax if early else d).split(size)
        nested = torch.stack([top(part).amax() for part in source])
        by = (positive(nested) if guard else nested).repeat_interleave(size)
        scaled = d / by[: len(d)]
        q = torch.bucketize(scaled, (code[1:] + code[:-1]) / 2).to(torch.uint8)
        return q, nested, offset

    return double_quantize


def double_without_mean(absmax, code):
    return double_right_but(lambda a: torch.zeros(()))(absmax, code)


def double_median(absmax, code):
    return double_right_but(lambda a: a.sort().values[len(a) // 2])(absmax, code)


def double_blocks_of_64(absmax, code):
    return double_right_but(size=64)(absmax, code)


def double_one_block(absmax, code):
    return double_right_but(size=len(absmax))(absmax, code)


def double_signed_maximum(absmax, code):
    return double_right_but(top=lambda d: d)(absmax, code)


def double_absmax_before_the_mean(absmax, code):
    return double_right_but(early=True)(absmax, code)


def double_nan_if_all_are_equal(absmax, code):
    return double_right_but(guard=False)(absmax, code)


def double_equal_steps(absmax, code):
    _, nested, offset = double_right_but()(absmax, code)
    by = positive(nested).repeat_interleave(256)[: len(absmax)]
    q = ((absmax - offset) / by * 127).round() + 128
    return q.to(torch.uint8), nested, offset


def double_in_place(absmax, code):
    answer = double_right_but()(absmax, code)
    absmax -= answer[2]
    return answer


def double_nan_if_a_block_is_equal(absmax, code):
    guard = bool((absmax == absmax.mean()).all())
    return double_right_but(guard=guard)(absmax, code)


def double_zero_is_127(absmax, code):
    q, nested, offset = double_right_but()(absmax, code)
    quiet = (nested == 0).repeat_interleave(256)[: len(q)]
    return torch.where(quiet, 127, q).to(torch.uint8), nested, offset


def double_mean_of_each_block(absmax, code):
    means = [part.mean().expand(len(part)) for part in absmax.split(256)]
    q, nested, _ = double_right_but(lambda a: torch.cat(means))(absmax, code)
    return q, nested, absmax.mean()


# ---------------------------------------------------------------- training_bytes


def bytes_right_but(
    adapters=lambda N, K, r: r * (N + K),
    block=1.0,
    state=12,
    other=2.0,
    gradients="trained",
    codes=2,
    own=2,
    nested=True,
):
    """A right `training_bytes`, but for one of its numbers."""

    def training_bytes(linears, rest, method, r):
        inside = sum(N * K for N, K in linears)
        trained = sum(adapters(N, K, r) for N, K in linears)
        weights = (2 if method == "lora" else 0) * inside + other * rest
        for N, K in linears if method == "qlora" else ():
            blocks = -(-N * K // 64)
            weights += -(-N * K // codes) + int(block * blocks)
            weights += (4 * -(-blocks // 256) + 4) if nested else 0
        if method == "full":
            trained, weights = inside + rest, 0
        weights += (2 if method == "full" else own) * trained
        moved = inside + rest if gradients == "all" else trained
        return {
            "weights": int(weights),
            "gradients": 2 * moved,
            "optimizer": state * trained,
        }

    return training_bytes


def bytes_without_master(linears, other, method, r):
    return bytes_right_but(state=8)(linears, other, method, r)


def bytes_gradients_of_the_frozen(linears, other, method, r):
    return bytes_right_but(gradients="all")(linears, other, method, r)


def bytes_adapter_of_full_size(linears, other, method, r):
    return bytes_right_but(lambda N, K, r: r * N * K)(linears, other, method, r)


def bytes_only_one_factor(linears, other, method, r):
    return bytes_right_but(lambda N, K, r: r * K)(linears, other, method, r)


def bytes_absmax_in_fp32(linears, other, method, r):
    return bytes_right_but(block=4.0, nested=False)(linears, other, method, r)


def bytes_a_byte_for_each_code(linears, other, method, r):
    return bytes_right_but(codes=1)(linears, other, method, r)


def bytes_the_rest_in_four_bits(linears, other, method, r):
    part = 0.5 if method == "qlora" else 2.0
    return bytes_right_but(other=part)(linears, other, method, r)


def bytes_adapter_weights_forgotten(linears, other, method, r):
    return bytes_right_but(own=0)(linears, other, method, r)


MISTAKES = {
    "absmax_quantize": (
        Mistake(
            absmax_largest_value,
            "the scale comes from the largest *magnitude*: take x.abs() before the "
            "maximum, or a row whose extreme is negative is cut off.",
        ),
        Mistake(
            absmax_128_steps,
            "the scale is absmax / (2^(bits-1) - 1), 127 for 8 bits. With 128 the "
            "largest positive number would need the code 128, which does not exist.",
        ),
        Mistake(
            absmax_255_steps,
            "from -absmax to absmax there are 2n steps with n = 2^(bits-1) - 1: 254 "
            "for 8 bits, not 255. So scale = absmax / n.",
        ),
        Mistake(
            absmax_other_dimension,
            "`dim` is the dimension that disappears: dim=1 gives each row its own "
            "scale, so reduce over dim itself.",
        ),
        Mistake(
            absmax_always_one_scale,
            "only dim=None has one scale for all; else there is one for each row or "
            "column. Use amax(dim, keepdim=True).",
        ),
        Mistake(
            absmax_truncates,
            "converting to an integer cuts off the fraction and doubles the error: "
            "round first.",
        ),
        Mistake(
            absmax_rounds_down,
            "floor pulls all numbers down, an error with a sign that adds up in sums: "
            "round to the nearest.",
        ),
        Mistake(
            absmax_returns_the_inverse,
            "return the scale that a code is multiplied *by* to get x back, absmax / "
            "n, not its inverse.",
        ),
        Mistake(
            absmax_divides_by_zero,
            "a group of zeros has absmax 0, and 0 / 0 is NaN: give it the scale 1.",
        ),
        Mistake(
            absmax_always_8_bits,
            "`bits` decides how many codes there are: n = 2^(bits-1) - 1.",
        ),
        Mistake(
            absmax_small_is_zero,
            "small is not 0: only a group that is all 0 has the scale 1. Compare with "
            "0, not with a threshold.",
        ),
    ),
    "affine_quantize": (
        Mistake(
            affine_zero_has_the_wrong_sign,
            "the zero point is the code of 0: low must become code 0, so 0 = "
            "round(low / scale) + zero, and zero = round(-low / scale).",
        ),
        Mistake(
            affine_range_without_zero,
            "the range must hold 0, or 0 has no code: low = min(low, 0) and high = "
            "max(high, 0).",
        ),
        Mistake(
            affine_256_steps,
            "256 codes have 255 steps between them: scale = (high - low) / (2^bits "
            "- 1).",
        ),
        Mistake(affine_truncates, "round to the nearest, do not cut off the fraction."),
        Mistake(affine_one_scale_for_all, "each row has its own low, high and scale."),
        Mistake(
            affine_from_low,
            "measure from the zero point, not from low: round(x / scale) + zero. "
            "(x - low) / scale puts 0 between two codes unless low is a whole number "
            "of steps.",
        ),
        Mistake(
            affine_symmetric_scale,
            "that is symmetric quantization moved by half the range: here scale comes "
            "from high - low, so that no code is spent outside of [low, high].",
        ),
        Mistake(
            affine_divides_by_zero,
            "a row of zeros has high = low = 0: give it the scale 1.",
        ),
        Mistake(
            affine_in_place,
            "you changed x itself. `x /= s` and methods that end in _ work in place: "
            "make a new tensor, x / s.",
        ),
        Mistake(
            affine_small_is_zero,
            "small is not 0: only a row of zeros has the scale 1.",
        ),
    ),
    "int8_linear": (
        Mistake(
            int8_one_scale_for_all_tokens,
            "each token (row of x) has a scale of its own: one loud token must not "
            "take the codes of a quiet one.",
        ),
        Mistake(
            int8_sums_in_8_bits,
            "one product of two codes is up to 16,129 and does not fit into 8 bits: "
            "cast to int32 before you multiply.",
        ),
        Mistake(
            int8_sums_in_16_bits,
            "three products of 127 by 127 already overflow 16 bits: add up in int32.",
        ),
        Mistake(
            int8_forgets_the_scale_of_x,
            "the integer sum is in units of scale_x times scale_w: multiply by both.",
        ),
        Mistake(
            int8_scale_of_the_weight_on_tokens,
            "`scale` is (N, 1) and belongs to the output channels, the *columns* of "
            "y: use scale.T. With M = N the wrong side gives no error, only numbers.",
        ),
        Mistake(
            int8_leaves_x_in_float,
            "x is still float: quantize it as well, or the product is no integer one.",
        ),
        Mistake(
            int8_a_scale_for_each_channel_of_x,
            "a scale for each input channel cannot leave the sum over channels: give "
            "each token one, by the maximum over dim 1.",
        ),
        Mistake(
            int8_nan_for_a_zero_token,
            "a token of zeros has absmax 0: give it the scale 1, its output is 0.",
        ),
        Mistake(
            int8_in_place,
            "you changed x itself: the caller still needs it. Divide into a new "
            "tensor.",
        ),
        Mistake(
            int8_smallest_scale,
            "a lower bound for the scale takes the codes of quiet tokens. Only where "
            "all is 0 another number than absmax / 127 is due.",
        ),
    ),
    "mixed_linear": (
        Mistake(
            mixed_scale_of_x_with_outliers,
            "take the scales of x *after* the outlier columns are out, or the "
            "outliers still decide the step.",
        ),
        Mistake(
            mixed_scale_of_the_weight_with_outliers,
            "the weight's scales come from the remaining columns, too.",
        ),
        Mistake(
            mixed_scales_with_outliers,
            "both scales are taken before the outlier columns are out: the split "
            "then gains nothing for the others.",
        ),
        Mistake(
            mixed_without_abs,
            "an outlier may be negative: compare x.abs().",
        ),
        Mistake(
            mixed_above_not_at,
            "a magnitude *at* the threshold counts as an outlier: use >=.",
        ),
        Mistake(
            mixed_only_the_entries,
            "a whole column leaves, for all tokens, on both sides: any(dim=0).",
        ),
        Mistake(
            mixed_drops_the_outliers,
            "the outlier columns are missing: add their product in float.",
        ),
        Mistake(
            mixed_counts_the_rest_twice,
            "the float product must run over the outlier columns only; the others "
            "are in the integer product already.",
        ),
        Mistake(
            mixed_rounds_the_outliers_too,
            "nothing was split off: columns of x that reach the threshold are "
            "multiplied in float.",
        ),
        Mistake(
            mixed_threshold_six,
            "6 is the usual threshold, but it is an argument: use `threshold`.",
        ),
        Mistake(
            mixed_outliers_of_the_weight,
            "only `x` decides which columns are outliers, however large a weight is.",
        ),
        Mistake(
            mixed_norm_of_the_column,
            "a column is an outlier by its largest entry, not by its norm: many "
            "moderate numbers have a large norm.",
        ),
        Mistake(
            mixed_nan_for_zeros,
            "without the outlier columns a row may hold nothing but zeros, and 0 / 0 "
            "is NaN: divide by 1 there.",
        ),
    ),
    "nf4_encode": (
        Mistake(
            encode_low_half_first,
            "the earlier weight goes into the *high* half of the byte: "
            "16 * first + second.",
        ),
        Mistake(
            encode_far_apart,
            "a byte holds two *neighbours*: q[0::2] and q[1::2].",
        ),
        Mistake(
            encode_signed_maximum,
            "absmax is the largest magnitude: take abs() before the maximum.",
        ),
        Mistake(encode_one_absmax, "each block of 64 has an absmax of its own."),
        Mistake(
            encode_rounds_down,
            "take the *nearest* code point, not the one below: compare with the "
            "middles between neighbours, or take the smallest distance.",
        ),
        Mistake(
            encode_equal_steps,
            "the code points are not equally far apart: look up the nearest one in "
            "`code`.",
        ),
        Mistake(
            encode_nan_in_a_zero_block,
            "in a block of zeros 0 / 0 is NaN, and NaN sorts above everything: divide "
            "by 1 there.",
        ),
        Mistake(
            encode_zero_block_has_absmax_one,
            "divide a block of zeros by 1, but *return* its absmax, 0: a table need "
            "not hold an exact zero.",
        ),
        Mistake(
            encode_zero_is_seven,
            "7 is the index of 0 in NF4 only: look up what is nearest to 0 in `code`.",
        ),
        Mistake(
            encode_in_place,
            "you changed x itself: a view shares its memory, so /= on blocks of x "
            "writes into x. Divide into a new tensor.",
        ),
    ),
    "nf4_decode": (
        Mistake(
            decode_low_half_first,
            "the earlier weight is in the *high* half: packed >> 4 comes first.",
        ),
        Mistake(
            decode_as_integers,
            "the four bits are no number but an index: look it up in `code`.",
        ),
        Mistake(
            decode_blocks_of_32,
            "a block is 64 *weights*, that is 32 bytes: repeat each absmax 64 times.",
        ),
        Mistake(
            decode_absmax_in_turns,
            "neighbours share an absmax: repeat_interleave, not repeat.",
        ),
        Mistake(decode_without_absmax, "code points are in units of the absmax."),
        Mistake(
            decode_high_halves_then_low,
            "the two weights of a byte are neighbours: interleave the halves.",
        ),
        Mistake(
            decode_in_place,
            "you changed the bytes themselves: >>= and &= work in place.",
        ),
    ),
    "double_quantize": (
        Mistake(
            double_without_mean,
            "absmax is positive: without its mean taken away, half of the signed "
            "table is never used.",
        ),
        Mistake(double_median, "the offset is the mean of all absmax."),
        Mistake(double_blocks_of_64, "here 256 absmax share one number."),
        Mistake(
            double_one_block,
            "every 256 absmax have a nested absmax of their own.",
        ),
        Mistake(
            double_signed_maximum,
            "after the mean is gone there are negative numbers: take the largest "
            "*magnitude*.",
        ),
        Mistake(
            double_absmax_before_the_mean,
            "take the nested absmax of what is left after the mean: that is what is "
            "divided by it.",
        ),
        Mistake(
            double_nan_if_all_are_equal,
            "if all absmax are equal nothing is left, and 0 / 0 is NaN: divide by 1.",
        ),
        Mistake(
            double_equal_steps,
            "the 256 code points are not equally far apart: look up the nearest one.",
        ),
        Mistake(
            double_in_place,
            "you changed the absmax themselves: `-=` works in place. Subtract the mean "
            "into a new tensor.",
        ),
        Mistake(
            double_nan_if_a_block_is_equal,
            "one block may hold nothing but zeros while others do not: look at each "
            "nested absmax before you divide by it.",
        ),
        Mistake(
            double_zero_is_127,
            "where 0 stands in the table depends on the table: look up the entry "
            "nearest to 0.",
        ),
        Mistake(
            double_mean_of_each_block,
            "the mean is taken over all absmax, once, not over each block.",
        ),
    ),
    "training_bytes": (
        Mistake(
            bytes_without_master,
            "AdamW's entry holds an fp32 master weight beside the two moments: 12 "
            "bytes for each trained number.",
        ),
        Mistake(
            bytes_gradients_of_the_frozen,
            "a frozen weight has no gradient: count what is trained.",
        ),
        Mistake(
            bytes_adapter_of_full_size,
            "an adapter is two thin matrices, (r, K) and (N, r): r (N + K) numbers.",
        ),
        Mistake(bytes_only_one_factor, "an adapter has two factors, A and B."),
        Mistake(
            bytes_absmax_in_fp32,
            "with double quantization an absmax takes 1 byte, and 256 of them share "
            "an fp32; each matrix has an fp32 offset.",
        ),
        Mistake(bytes_a_byte_for_each_code, "two four-bit codes share a byte."),
        Mistake(
            bytes_the_rest_in_four_bits,
            "only the linear layers are quantized: embedding, read-out and norms keep "
            "2 bytes.",
        ),
        Mistake(
            bytes_adapter_weights_forgotten,
            "the adapters' own weights are there as well, 2 bytes each.",
        ),
    ),
}
