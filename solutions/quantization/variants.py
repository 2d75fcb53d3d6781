"""Answers that the grader of `quantization` must tell apart. Not for students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import math

import torch

# --------------------------------------------------------------- absmax_quantize


def absmax_by_inverse(x, bits, dim):
    n = 2 ** (bits - 1) - 1
    top = x.abs().max() if dim is None else x.abs().max(dim, keepdim=True).values
    top = top.reshape(1, 1) if dim is None else top
    inverse = torch.where(top > 0, n / top, torch.ones_like(top))
    return torch.round(x * inverse).char(), 1 / inverse


def absmax_row_by_row(x, bits, dim):
    """Plain Python, in float64; half away from zero, which no case asks for."""
    n = 2 ** (bits - 1) - 1
    whole = x.reshape(1, -1)
    groups = {None: whole, 0: x.T, 1: x}[dim]
    codes, scales = [], []
    for group in groups.tolist():
        s = max(abs(v) for v in group) / n or 1.0
        codes.append(
            [int(math.copysign(math.floor(abs(v) / s + 0.5), v)) for v in group]
        )
        scales.append([s])
    codes, scales = torch.tensor(codes, dtype=torch.int8), torch.tensor(scales)
    if dim is None:
        return codes.view(x.shape), scales
    return (codes, scales) if dim == 1 else (codes.T, scales.T)


def absmax_with_extremes(x, bits, dim):
    n = (1 << bits - 1) - 1
    over = (0, 1) if dim is None else (dim,)
    top = torch.maximum(x.amax(over, keepdim=True), -x.amin(over, keepdim=True))
    scale = top.double() / n + (top == 0)
    codes = torch.clamp(torch.round(x / scale), -n, n)
    return codes.to(torch.int8), scale.float()


def absmax_squeezed(x, bits, dim):
    codes, scale = absmax_with_extremes(x, bits, dim)
    return codes, scale.squeeze()


def absmax_codes_as_floats(x, bits, dim):
    codes, scale = absmax_with_extremes(x, bits, dim)
    return codes.float(), scale


def absmax_scale_of_two_standard_deviations(x, bits, dim):
    n = 2 ** (bits - 1) - 1
    over = (0, 1) if dim is None else dim
    scale = 2 * x.square().mean(dim=over, keepdim=True).sqrt() / n + 1e-12
    return (x / scale).round().clamp(-n, n).to(torch.int8), scale


def absmax_adds_a_little(x, bits, dim):
    _, scale = absmax_with_extremes(x, bits, dim)
    return torch.round(x / (scale + 1e-5)).to(torch.int8), scale


# --------------------------------------------------------------- affine_quantize


def affine_by_torch(x, bits):
    """PyTorch's own rounding, a row at a time."""
    n, codes, scales, zeros = 2**bits - 1, [], [], []
    for row in x:
        low, high = min(row.min().item(), 0.0), max(row.max().item(), 0.0)
        s = (high - low) / n or 1.0
        z = round(-low / s)
        fake = torch.fake_quantize_per_tensor_affine(row, s, z, 0, n)
        codes.append((fake / s).round() + z)
        scales.append(s)
        zeros.append(z)
    zero = torch.tensor(zeros, dtype=torch.int32)[:, None]
    return torch.stack(codes).to(torch.uint8), torch.tensor(scales)[:, None], zero


def affine_with_a_column_of_zeros(x, bits):
    n = 2**bits - 1
    wide = torch.cat([x, x.new_zeros(len(x), 1)], dim=1).double()
    low, high = wide.aminmax(dim=1, keepdim=True)
    scale = torch.where(high > low, (high - low) / n, 1.0)
    zero = torch.round(-low / scale)
    codes = torch.round(x / scale + zero).clamp(0, n)
    return codes.byte(), scale.float(), zero.int()


def affine_zero_point_in_units_of_x(x, bits):
    codes, scale, zero = affine_with_a_column_of_zeros(x, bits)
    return codes, scale, (zero * scale).to(torch.int32)


def affine_signed_codes(x, bits):
    codes, scale, zero = affine_with_a_column_of_zeros(x, bits)
    half = 2 ** (bits - 1)
    return (codes.int() - half).to(torch.int8), scale, zero - half


def affine_wraps(x, bits):
    """Casts to a byte before the zero point is added."""
    _, scale, zero = affine_with_a_column_of_zeros(x, bits)
    steps = (x / scale).round().clamp(-128, 127)
    return (steps + zero).to(torch.uint8), scale, zero


# ------------------------------------------------------------------- int8_linear


def int8_of_decoded_factors(x, codes, scale):
    """The float product of what the codes stand for."""
    top = x.abs().amax(dim=-1, keepdim=True).double()
    s = torch.where(top > 0, top / 127, 1.0)
    x_hat = torch.round(x / s) * s
    return (x_hat @ (codes * scale.double()).T).float()


def int8_by_einsum(x, codes, scale):
    s = (x.abs().max(dim=1).values / 127).clamp(min=1e-30)
    p = torch.round(x / s[:, None]).long()
    total = torch.einsum("mk,nk->mn", p, codes.long())
    return total.float() * torch.outer(s, scale[:, 0])


def int8_by_the_fast_product(x, codes, scale):
    s = x.abs().amax(1, keepdim=True) / 127
    p = (x / s).nan_to_num(0.0).round().to(torch.int8)
    return torch._int_mm(p, codes.T.contiguous()) * (s * scale.T)


def int8_scale_127_5(x, codes, scale):
    s = x.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 127.5
    p = (x / s).round().clamp(-128, 127).int()
    return (p @ codes.int().T) * s * scale.T


def int8_transposed(x, codes, scale):
    return int8_by_einsum(x, codes, scale).T


# ------------------------------------------------------------------ mixed_linear


def quantized(matrix):
    """A matrix (rows, k) through int8 and back; k may be 0."""
    if not matrix.shape[1]:
        return matrix
    s = (matrix.abs().max(dim=1, keepdim=True).values / 127).clamp(min=1e-30)
    return torch.round(matrix / s) * s


def mixed_by_indices(x, weight, threshold):
    peak = x.abs().max(dim=0).values
    loud, calm = (peak >= threshold).nonzero()[:, 0], (peak < threshold).nonzero()[:, 0]
    y = x[:, loud] @ weight[:, loud].T
    return y + quantized(x[:, calm]) @ quantized(weight[:, calm]).T


def mixed_column_by_column(x, weight, threshold):
    loud = [bool((column.abs() >= threshold).any()) for column in x.T]
    rest = torch.tensor([not one for one in loud])
    x_hat, w_hat = x.clone(), weight.clone()
    x_hat[:, rest], w_hat[:, rest] = quantized(x[:, rest]), quantized(weight[:, rest])
    return (x_hat.double() @ w_hat.double().T).float()


def mixed_in_float(x, weight, threshold):
    return x @ weight.T


def mixed_weight_in_float(x, weight, threshold):
    loud = (x.abs() >= threshold).any(dim=0)
    return quantized(x.masked_fill(loud, 0.0)) @ weight.T + (x * loud) @ weight.T


def mixed_below_not_at_minus(x, weight, threshold):
    loud = (x.amax(dim=0) >= threshold) | (x.amin(dim=0) < -threshold)
    y = x[:, loud] @ weight[:, loud].T
    return y + quantized(x[:, ~loud]) @ quantized(weight[:, ~loud]).T


def mixed_clips(x, weight, threshold):
    return quantized(x.clamp(-threshold, threshold)) @ quantized(weight).T


def mixed_rows_of_outliers(x, weight, threshold):
    loud = (x.abs() >= threshold).any(dim=1, keepdim=True)
    y = quantized(x.masked_fill(loud, 0.0)) @ quantized(weight).T
    return y + (x * loud) @ weight.T


# -------------------------------------------------------------------- nf4_encode


def encode_by_distance(x, code):
    absmax = x.reshape(-1, 64).abs().max(dim=1).values
    by = absmax.repeat_interleave(64)
    scaled = (x / by).nan_to_num(0.0)
    q = (scaled[:, None] - code[None]).abs().argmin(dim=1).view(-1, 2)
    return ((q[:, 0] << 4) | q[:, 1]).byte(), absmax


def encode_by_counting(x, code):
    """How many middles are below; compared in units of x, without a division."""
    blocks = x.view(-1, 64, 1).double()
    absmax = blocks.abs().amax(dim=1)
    middles = (code[1:].double() + code[:-1]) / 2
    q = (blocks > middles * absmax[:, :, None]).sum(dim=-1)
    zero = (middles < 0).sum()
    q = torch.where(absmax == 0, zero, q).flatten().to(torch.uint8)
    return q[0::2] * 16 + q[1::2], absmax[:, 0].float()


def encode_block_by_block(x, code):
    table, packed, tops = code.tolist(), [], []
    for block in x.split(64):
        top = block.abs().max().item()
        q = [
            min(range(16), key=lambda k, v=v: abs(table[k] - v / (top or 1.0)))
            for v in block.tolist()
        ]
        packed += [high * 16 + low for high, low in zip(q[::2], q[1::2], strict=True)]
        tops.append(top)
    return torch.tensor(packed, dtype=torch.uint8), torch.tensor(tops)


def encode_unpacked(x, code):
    packed, absmax = encode_by_distance(x, code)
    return torch.stack([packed >> 4, packed & 15], dim=1).flatten(), absmax


def encode_by_quantile_of_the_block(x, code):
    blocks = x.view(-1, 64)
    rank = blocks.argsort(dim=1).argsort(dim=1)
    q = (rank // 4).flatten()
    return (16 * q[0::2] + q[1::2]).to(torch.uint8), blocks.abs().amax(dim=1)


def encode_smallest_absmax(x, code):
    blocks = x.view(-1, 64)
    absmax = blocks.abs().amax(dim=1)
    scaled = blocks / absmax.clamp(min=1e-4)[:, None]
    q = (scaled[..., None] - code).abs().argmin(dim=-1).flatten()
    return (16 * q[0::2] + q[1::2]).to(torch.uint8), absmax


# -------------------------------------------------------------------- nf4_decode


def decode_by_a_table_of_pairs(packed, absmax, code):
    pairs = torch.cartesian_prod(code, code)  # (256, 2), the high half first
    return (pairs[packed.long()].view(-1, 64) * absmax[:, None]).flatten()


def decode_by_division(packed, absmax, code):
    out = torch.empty(2 * len(packed))
    out[0::2] = code[torch.div(packed, 16, rounding_mode="floor").long()]
    out[1::2] = code[(packed % 16).long()]
    block = torch.arange(len(out)) // 64
    return out * absmax[block]


def decode_by_negative_indices(packed, absmax, code):
    """A signed shift makes -8 ... -1 of the upper codes, and Python counts those from
    the end: the same entries."""
    q = torch.stack([packed.view(torch.int8) >> 4, (packed & 15).char()], dim=1)
    return code[q.flatten().long()] * absmax.repeat_interleave(64)


def decode_in_bf16(packed, absmax, code):
    return decode_by_division(packed, absmax, code).bfloat16().float()


def decode_twice_the_step(packed, absmax, code):
    return decode_by_division(packed, absmax, code) * 2


# --------------------------------------------------------------- double_quantize


def double_padded(absmax, code):
    offset = absmax.double().sum() / len(absmax)
    d = absmax.double() - offset
    blocks = torch.nn.functional.pad(d, (0, -len(d) % 256)).view(-1, 256)
    nested = blocks.abs().amax(dim=1)
    scaled = blocks / nested.clamp(min=1e-30)[:, None]
    distance = (scaled[..., None] - code.double()).abs()
    q = distance.argmin(dim=-1).flatten()[: len(d)]
    return q.to(torch.uint8), nested.float(), offset.float()


def double_by_search(absmax, code):
    offset = absmax.mean()
    d = absmax - offset
    nested = torch.stack([part.abs().max() for part in d.split(256)])
    scaled = (d / nested.repeat_interleave(256)[: len(d)]).nan_to_num(0.0)
    above = torch.searchsorted(code, scaled.contiguous()).clamp(1, 255)
    lower = (scaled - code[above - 1]) <= (code[above] - scaled)
    return (above - lower.long()).to(torch.uint8), nested, offset


def double_offset_is_the_largest(absmax, code):
    q, nested, _ = double_by_search(absmax, code)
    return q, nested, absmax.max()


def double_rounds_down(absmax, code):
    offset = absmax.mean()
    d = absmax - offset
    nested = torch.stack([part.abs().max() for part in d.split(256)])
    scaled = (d / nested.repeat_interleave(256)[: len(d)]).nan_to_num(0.0)
    q = torch.bucketize(scaled, code, right=True).sub(1).clamp(0, 255)
    return q.to(torch.uint8), nested, offset


def double_nested_with_offset(absmax, code):
    q, nested, offset = double_by_search(absmax, code)
    return q, nested + offset, offset


def double_smallest_nested(absmax, code):
    offset = absmax.mean()
    d = absmax - offset
    nested = torch.stack([part.abs().max() for part in d.split(256)])
    scaled = d / nested.clamp(min=1e-3).repeat_interleave(256)[: len(d)]
    q = (scaled[:, None] - code).abs().argmin(dim=1)
    return q.to(torch.uint8), nested, offset


def double_a_block_too_many(absmax, code):
    """A last block that holds nothing where the length is a multiple of 256."""
    offset = absmax.mean()
    d = absmax - offset
    parts = [d[256 * i :][:256] for i in range(len(d) // 256 + 1)]
    nested = torch.stack([part.abs().max() for part in parts])
    scaled = (d / nested.repeat_interleave(256)[: len(d)]).nan_to_num(0.0)
    return (scaled[:, None] - code).abs().argmin(1).to(torch.uint8), nested, offset


# ---------------------------------------------------------------- training_bytes


def bytes_layer_by_layer(linears, other, method, r):
    held = {"weights": 0, "gradients": 0, "optimizer": 0}

    def train(n):
        for name, size in (("weights", 2), ("gradients", 2), ("optimizer", 12)):
            held[name] += size * n

    for N, K in linears:
        if method == "full":
            train(N * K)
            continue
        train(N * r)
        train(K * r)
        if method == "lora":
            held["weights"] += 2 * N * K
        else:
            blocks = (N * K + 63) // 64
            nested = (blocks + 255) // 256
            held["weights"] += (N * K + 1) // 2 + blocks + 4 * (nested + 1)
    if method == "full":
        train(other)
    else:
        held["weights"] += 2 * other
    return held


def bytes_by_ceil(linears, other, method, r):
    n = [N * K for N, K in linears]
    adapters = r * sum(N + K for N, K in linears)
    trained = sum(n) + other if method == "full" else adapters
    weights = {
        "full": 0,
        "lora": 2 * (sum(n) + other),
        "qlora": 2 * other
        + sum(
            math.ceil(x / 2)
            + math.ceil(x / 64)
            + 4 * math.ceil(math.ceil(x / 64) / 256)
            + 4
            for x in n
        ),
    }[method]
    total = {"gradients": 2 * trained, "optimizer": trained * 12}
    return {"weights": weights + 2 * trained, **total}


def bytes_as_floats(linears, other, method, r):
    held = bytes_by_ceil(linears, other, method, r)
    return {name: float(n) for name, n in held.items()}


def bytes_all_layers_in_one(linears, other, method, r):
    held = bytes_by_ceil(linears, other, method, r)
    if method == "qlora":
        n = sum(N * K for N, K in linears)
        adapters = 2 * r * sum(N + K for N, K in linears)
        held["weights"] = 2 * other + adapters + math.ceil(n * 4.126953125 / 8)
    return held


def bytes_in_bits(linears, other, method, r):
    held = bytes_by_ceil(linears, other, method, r)
    return {name: 8 * n for name, n in held.items()}


def bytes_optimizer_of_everything(linears, other, method, r):
    full = bytes_by_ceil(linears, other, "full", r)
    held = bytes_by_ceil(linears, other, method, r)
    return held | {"optimizer": full["optimizer"]}


RIGHT = {
    "absmax_quantize": [absmax_by_inverse, absmax_row_by_row, absmax_with_extremes],
    "affine_quantize": [affine_by_torch, affine_with_a_column_of_zeros],
    "int8_linear": [int8_of_decoded_factors, int8_by_einsum, int8_by_the_fast_product],
    "mixed_linear": [mixed_by_indices, mixed_column_by_column],
    "nf4_encode": [encode_by_distance, encode_by_counting, encode_block_by_block],
    "nf4_decode": [
        decode_by_a_table_of_pairs,
        decode_by_division,
        decode_by_negative_indices,
    ],
    "double_quantize": [double_padded, double_by_search],
    "training_bytes": [bytes_layer_by_layer, bytes_by_ceil, bytes_as_floats],
}
WRONG = {
    "absmax_quantize": [
        absmax_squeezed,
        absmax_codes_as_floats,
        absmax_scale_of_two_standard_deviations,
        absmax_adds_a_little,
    ],
    "affine_quantize": [
        affine_zero_point_in_units_of_x,
        affine_signed_codes,
        affine_wraps,
    ],
    "int8_linear": [int8_scale_127_5, int8_transposed],
    "mixed_linear": [
        mixed_in_float,
        mixed_weight_in_float,
        mixed_clips,
        mixed_below_not_at_minus,
        mixed_rows_of_outliers,
    ],
    "nf4_encode": [
        encode_unpacked,
        encode_by_quantile_of_the_block,
        encode_smallest_absmax,
    ],
    "nf4_decode": [decode_in_bf16, decode_twice_the_step],
    "double_quantize": [
        double_offset_is_the_largest,
        double_rounds_down,
        double_nested_with_offset,
        double_smallest_nested,
        double_a_block_too_many,
    ],
    "training_bytes": [
        bytes_all_layers_in_one,
        bytes_in_bits,
        bytes_optimizer_of_everything,
    ],
}
_TIE = "only a tie at the end of the range can leave it, and no case has one"
_NAN = "NaN becomes some integer, and that is multiplied by the scale 0"
_ZEROS = "a group of zeros is 0, whatever it is divided by"
EQUIVALENT = {
    "affine_quantize: `codes = ((x / scale).round() + zero).clamp(0, n)` -> `codes = "
    "((x / scale).round() + zero).clamp(0)`": _TIE,
    "affine_quantize: `codes = ((x / scale).round() + zero).clamp(0, n)` -> `codes = "
    "(x / scale).round() + zero`": _TIE,
    "affine_quantize: `codes = ((x / scale).round() + zero).clamp(0, n)` -> `codes = "
    "((x / scale).round() + zero).clamp(-1, n)`": _TIE,
    "int8_linear: `s = torch.where(s == 0, 1.0, s)` -> `pass`": _NAN,
    "int8_linear: `s = torch.where(s == 0, 1.0, s)` -> `s = torch.where(s == 0, 2.0, "
    "s)`": _ZEROS,
    "int8_linear: `s = torch.where(s == 0, 1.0, s)` -> `s = torch.where(s == 0, 0.0, "
    "s)`": _NAN,
    "int8_linear: `s = torch.where(s == 0, 1.0, s)` -> `s = torch.where(s == 1, 1.0, "
    "s)`": _NAN,
    "int8_linear: `s = torch.where(s == 0, 1.0, s)` -> `s = torch.where(s == -1, 1.0, "
    "s)`": _NAN,
    "mixed_linear: `scale = torch.where(scale == 0, 1.0, scale)` -> `scale = "
    "torch.where(scale == 0, 2.0, scale)`": _ZEROS,
    "nf4_encode: `scaled = blocks / torch.where(absmax == 0, 1.0, absmax)[:, None]` -> "
    "`scaled = blocks / torch.where(absmax == 0, 2.0, absmax)[:, None]`": _ZEROS,
    "nf4_encode: `return ((16 * q[0::2] + q[1::2]).to(torch.uint8), absmax)` -> "
    "`return ((16 * q[::2] + q[1::2]).to(torch.uint8), absmax)`": (
        "a slice begins at 0 by itself"
    ),
    "double_quantize: `codes.append(torch.bucketize(block / (top if top > 0 else 1.0), "
    "middles))` -> `codes.append(torch.bucketize(block / (top if top > 0 else 2.0), "
    "middles))`": _ZEROS,
}
