"""Number formats that NumPy does not have, rounded as a GPU rounds them.

The stock interpreter keeps bfloat16 as 16-bit integers and computes on those, and it
drops the low bits instead of rounding. Here a bfloat16 is widened to fp32, exactly,
before every operation and rounded to the nearest, ties to even, after it.
"""

import numpy as np


def bf16_to_fp32(bits: np.ndarray) -> np.ndarray:
    """The numbers that these bfloat16 bit patterns (uint16) stand for. Exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def fp32_to_bf16(x: np.ndarray, truncate: bool = False) -> np.ndarray:
    """bfloat16 bit patterns (uint16) of x: to nearest even, or towards zero.

    NaN stays NaN; what is too large for bfloat16 becomes infinite.
    """
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32).reshape(x.shape)
    half = np.uint32(0) if truncate else 0x7FFF + ((bits >> 16) & 1)
    rounded = ((bits + half) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)


def round_to_tf32(x: np.ndarray) -> np.ndarray:
    """fp32 with the 10 bits of mantissa that a tensor core looks at in tf32 mode."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32).reshape(x.shape)
    rounded = (bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(x), rounded.view(np.float32), x)
