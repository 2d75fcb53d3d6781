"""Numbers as small integers: the affine quantizer, from scratch.

    q = clamp(round(x / s) + z, q_min, q_max)        x ≈ s (q - z)

s is the scale, z the zero point. Symmetric quantization has z = 0 and takes s from the
largest magnitude (absmax); affine quantization spans [min, max]. What shares a scale is
a choice: the whole tensor, a row (the output channel of a weight, a token of an
activation), or a block of neighbours.

    w8 = absmax_quantize(weight, bits=8, dim=1)      # a scale for each output channel
    error = dequantize(w8) - weight                  # at most w8.scale / 2

Source: Jacob et al. 2018 for the affine map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Quantized:
    """Integers, and what one step of them is worth."""

    codes: Tensor  # as x: int8 if symmetric, uint8 if affine
    scale: Tensor  # fp32, as x but of size 1 where codes share it; never 0
    zero: Tensor | None = None  # int32, as scale: the code of 0; None: it is 0


def absmax_quantize(x: Tensor, bits: int = 8, dim: int | None = None) -> Quantized:
    """Symmetric: codes -n ... n with n = 2^(bits - 1) - 1, and 0 is 0.

    x: any float tensor; computed in fp32. dim: what is reduced away, so dim=1 gives
    each row of a matrix a scale of its own; None: one scale for all. The code
    -2^(bits - 1) is not used, so -x has the codes of x, negated. Ties go to the even
    code. Where all is 0, codes are 0 and the scale is 1.
    Raises TypeError or ValueError for integers, inf, NaN and bits outside 2 ... 8.
    """
    x, n = _checked(x, bits), 2 ** (bits - 1) - 1
    scale = _never_zero(_reduced(x.abs(), torch.amax, dim) / n)
    codes = (x / scale).round().clamp(-n, n)
    return Quantized(codes.to(torch.int8), scale)


def affine_quantize(x: Tensor, bits: int = 8, dim: int | None = None) -> Quantized:
    """With a zero point: codes 0 ... 2^bits - 1 over [min, max], as uint8.

    The range is widened to hold 0, and z is an integer: 0 is exact, so padding and
    masked values stay what they are. Arguments and errors: as `absmax_quantize`.
    """
    x, n = _checked(x, bits), 2**bits - 1
    low = _reduced(x, torch.amin, dim).clamp(max=0)
    high = _reduced(x, torch.amax, dim).clamp(min=0)
    scale = _never_zero((high - low) / n)
    zero = (-low / scale).round()
    codes = ((x / scale).round() + zero).clamp(0, n)
    return Quantized(codes.to(torch.uint8), scale, zero.to(torch.int32))


def dequantize(q: Quantized) -> Tensor:
    """What the codes stand for: s (q - z), fp32."""
    codes = q.codes.float() if q.zero is None else (q.codes.int() - q.zero).float()
    return codes * q.scale


def blocks_of(x: Tensor, blocksize: int) -> Tensor:
    """x in its order of storage, `blocksize` numbers a row; the last filled with 0."""
    flat = x.flatten()
    return F.pad(flat, (0, -flat.numel() % blocksize)).view(-1, blocksize)


def round_trip(x: Tensor, bits: int, share: str | int) -> Tensor:
    """x after symmetric quantization and back, in its dtype.

    share: what has one scale: "tensor", "row" (all but the first dimension), or a
    number of neighbours, as in `blocks_of`.
    """
    if share == "tensor":
        return dequantize(absmax_quantize(x, bits)).to(x.dtype)
    if share == "row":
        return dequantize(absmax_quantize(x, bits, dim=-1)).to(x.dtype)
    if not isinstance(share, int):
        raise ValueError(f"share={share!r}: use 'tensor', 'row' or a number")
    q = absmax_quantize(blocks_of(x, share), bits, dim=1)
    return dequantize(q).flatten()[: x.numel()].view(x.shape).to(x.dtype)


def signal_to_noise(x: Tensor, approximation: Tensor) -> float:
    """10 log10 of the energy of x over that of the error, in decibel."""
    signal = x.double().square().sum()
    noise = (x.double() - approximation.double()).square().sum()
    return 10 * math.log10(signal / noise) if noise > 0 else math.inf


def _checked(x: Tensor, bits: int) -> Tensor:
    if not 2 <= bits <= 8:
        raise ValueError(f"bits={bits}: codes are kept in one byte, use 2 to 8")
    if not x.is_floating_point():
        raise TypeError(f"x is {x.dtype}: quantize floats")
    if not x.isfinite().all():
        bad = int((~x.isfinite()).sum())
        raise ValueError(
            f"{bad} of {x.numel()} numbers are inf or NaN: mend them first"
        )
    return x.float()


def _reduced(x: Tensor, by, dim: int | None) -> Tensor:
    """amax or amin over `dim`, or over all; dimensions stay, with size 1."""
    return by(x, dim=tuple(range(x.ndim)) if dim is None else dim, keepdim=True)


def _never_zero(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 1.0, scale)
