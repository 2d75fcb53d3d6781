"""Three ways to turn four bits into one of sixteen numbers, inside a kernel.

    table     load it from memory: one load a weight, from a cache
    gather    hold the sixteen numbers in the program, and exchange them between threads
    select    choose by the bits: fifteen selections, no memory at all

The chapter compiles all three and compares what the machine has to do. All start from
a decoded absmax; `posttrain_kernels.nf4` has the whole kernel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

WAYS = ("table", "gather", "select")
BLOCKS = 32  # blocks of 64 weights of one program


def decode(packed: Tensor, absmax: Tensor, code: Tensor, way: str) -> Tensor:
    """The weights in fp16, (2 * packed.numel(),), for whole blocks of 64.

    packed: (n / 2,) uint8, the earlier weight in the high half. absmax: (n / 64,) fp32.
    code: (16,) fp32; `select` has NF4's numbers in its instructions and does not read
    it. Raises ValueError for another way, or for a part of a block.
    """
    if way not in WAYS:
        raise ValueError(f"way={way!r} is none of {', '.join(WAYS)}")
    n = 2 * packed.numel()
    if n != 64 * absmax.numel():
        raise ValueError(
            f"{n} weights and {absmax.numel()} scales: each block has 64 weights"
        )
    out = torch.empty(n, dtype=torch.float16, device=packed.device)
    decode_kernel[(triton.cdiv(n, 64 * BLOCKS),)](
        *(packed, absmax, code, out, n), BLOCKS=BLOCKS, WAY=way, num_warps=8
    )
    return out


@triton.jit
def decode_kernel(
    packed_ptr,
    absmax_ptr,
    code_ptr,
    out_ptr,
    n,
    BLOCKS: tl.constexpr,
    WAY: tl.constexpr,
):
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    absmax = tl.load(absmax_ptr + block, mask=block * 64 < n, other=0.0)
    byte = block[:, None] * 32 + tl.arange(0, 32)[None, :]  # (BLOCKS, 32)
    q = tl.load(packed_ptr + byte, mask=byte * 2 < n, other=0).to(tl.int32)
    q = tl.interleave(q >> 4, q & 15)  # (BLOCKS, 64), in the order of the weights
    if WAY == "table":
        w = tl.load(code_ptr + q)
    elif WAY == "gather":
        code = tl.load(code_ptr + tl.arange(0, 16))
        w = tl.gather(tl.broadcast_to(code[None, :], (BLOCKS, 16)), q, axis=1)
    else:
        w = select_kernel(q)
    i = block[:, None] * 64 + tl.arange(0, 64)[None, :]
    w = (w * absmax[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + i, w, mask=i < n)


@triton.jit
def select_kernel(q):
    """NF4's sixteen numbers by a tree over the bits of q, the highest first."""
    b0, b1, b2, b3 = (q & 1) != 0, (q & 2) != 0, (q & 4) != 0, (q & 8) != 0
    w0 = tl.where(b0, -0.6961928009986877, -1.0)
    w2 = tl.where(b0, -0.39491748809814453, -0.5250730514526367)
    w4 = tl.where(b0, -0.18477343022823334, -0.28444138169288635)
    w6 = tl.where(b0, 0.0, -0.09105003625154495)
    w8 = tl.where(b0, 0.16093020141124725, 0.07958029955625534)
    w10 = tl.where(b0, 0.33791524171829224, 0.24611230194568634)
    w12 = tl.where(b0, 0.5626170039176941, 0.44070982933044434)
    w14 = tl.where(b0, 1.0, 0.7229568362236023)
    low = tl.where(b2, tl.where(b1, w6, w4), tl.where(b1, w2, w0))
    high = tl.where(b2, tl.where(b1, w14, w12), tl.where(b1, w10, w8))
    return tl.where(b3, high, low)
