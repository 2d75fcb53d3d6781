"""NF4: four bits a weight, and one kernel that turns them back.

    w_i ≈ code[q_i] · absmax_b,   b = i // 64            Dettmers et al. 2023, section 3

A block of 64 weights shares its largest magnitude, absmax. Double quantisation stores
that in 8 bits as well, 256 blocks sharing one fp32:

    absmax_b ≈ nested_code[Q_b] · nested_absmax_{b // 256} + offset

so a weight takes 0.5 + 1/64 + 4/(64 · 256) bytes. The layout is that of bitsandbytes:
two weights a byte, the earlier one in the high half. bitsandbytes undoes the two steps
by two kernels with a buffer between them; here it is one kernel, with the same bits.
(Compiled by triton 3.6 its output passes through 4 KB of shared memory a program; since
3.7 it stays in registers.)
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from posttrain_kernels.common import FLOATS, Cost, check_same_device, register

# quantiles of a normal distribution, scaled to [-1, 1], with an exact zero; these very
# fp32 numbers are those of bitsandbytes
CODE = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
    *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)
BYTES = 1024  # packed bytes of one program: 4 a thread, which become 8 weights
NUM_WARPS = 8


@dataclass(frozen=True)
class NF4:
    """A tensor of n weights in NF4, on one device.

    Double-quantised if `nested_absmax`, `nested_code` and `offset` are given, else
    `absmax` is fp32.
    """

    packed: Tensor  # (⌈n / 2⌉,) uint8, two weights each, the first in the high half
    absmax: Tensor  # (blocks,) uint8, or fp32 if it is not quantised itself
    code: Tensor  # (16,) fp32: what the four bits stand for
    shape: tuple[int, ...]  # of the weights
    dtype: torch.dtype  # of the weights before they were quantised
    blocksize: int = 64  # weights that share an absmax; a power of two
    nested_absmax: Tensor | None = None  # (⌈blocks / nested_blocksize⌉,) fp32
    nested_code: Tensor | None = None  # (256,) fp32: what a quantised absmax stands for
    offset: Tensor | None = None  # () fp32: the mean absmax, added back
    nested_blocksize: int = 256

    @classmethod
    def from_bitsandbytes(cls, packed: Tensor, state) -> "NF4":
        """The same tensor from `bitsandbytes.functional.quantize_4bit`'s two results.

        state: a QuantState; it is only read. Raises ValueError unless it says "nf4".
        """
        if state.quant_type != "nf4":
            raise ValueError(
                f"quant_type={state.quant_type!r}: quantise with quant_type='nf4'"
            )
        nested = state.state2
        return cls(
            packed=packed.view(torch.uint8).reshape(-1),
            absmax=state.absmax,
            code=state.code,
            shape=tuple(state.shape),
            dtype=state.dtype,
            blocksize=state.blocksize,
            nested_absmax=nested and nested.absmax,
            nested_code=nested and nested.code,
            offset=state.offset,
            nested_blocksize=nested.blocksize if nested else 256,
        )


def dequantize(weights: NF4, dtype: torch.dtype | None = None) -> Tensor:
    """The weights as numbers: (weights.shape) in `dtype`, by default weights.dtype.

    dtype: fp32, fp16 or bf16. Products and sums are fp32 and rounded once each, so the
    result equals that of bitsandbytes in every bit. No gradient.
    Raises TypeError for a dtype, ValueError for a shape or device that does not fit.
    Source: Dettmers et al. 2023 (QLoRA), sections 2 and 3.
    """
    dtype = weights.dtype if dtype is None else dtype
    _check(weights, dtype)
    return torch.ops.posttrain_kernels.nf4_dequantize(
        *(weights.packed, weights.absmax, weights.code),
        *(weights.nested_absmax, weights.nested_code, weights.offset),
        *(list(weights.shape), weights.blocksize, weights.nested_blocksize, dtype),
    )


def reference(weights: NF4, dtype: torch.dtype | None = None) -> Tensor:
    """`dequantize` in plain PyTorch, step by step."""
    high, low = weights.packed >> 4, weights.packed & 15
    q = torch.stack([high, low], dim=1).flatten()[: math.prod(weights.shape)]
    absmax = weights.absmax
    if weights.nested_absmax is not None:
        block = torch.arange(absmax.numel(), device=absmax.device)
        nested = weights.nested_absmax[block // weights.nested_blocksize]
        absmax = weights.nested_code[absmax.int()] * nested + weights.offset
    block = torch.arange(q.numel(), device=q.device) // weights.blocksize
    w = weights.code[q.int()] * absmax[block]
    return w.to(weights.dtype if dtype is None else dtype).view(weights.shape)


def quantize(weights: Tensor, blocksize: int = 64, nested: bool = True) -> NF4:
    """Quantise to NF4 in plain PyTorch; this is done once, so there is no kernel.

    weights: any shape, fp32, fp16 or bf16. nested: quantise absmax too.
    Each number goes to the nearest code of its block; ties go to the smaller one. So
    does bitsandbytes, but for the absmax on a CPU: there a table of 65536 entries
    replaces the search, and about 2 in 1000 absmax land one code off.
    Source: Dettmers et al. 2023, section 3; the map of absmax: Dettmers et al. 2022.
    """
    if weights.dtype not in FLOATS:
        raise TypeError(f"weights are {weights.dtype}; cast them to one of {FLOATS}")
    code = torch.tensor(CODE, device=weights.device)
    q, absmax = nearest(weights.float().flatten(), code, blocksize)
    q = torch.nn.functional.pad(q, (0, q.numel() % 2))
    packed = (q[0::2] << 4) | q[1::2]
    shape, dtype = tuple(weights.shape), weights.dtype
    if not nested:
        return NF4(packed, absmax, code, shape, dtype, blocksize)
    offset = absmax.mean()
    nested_code = dynamic_map().to(weights.device)
    q_absmax, nested_absmax = nearest(absmax - offset, nested_code, 256)
    return NF4(
        *(packed, q_absmax, code, shape, dtype, blocksize),
        *(nested_absmax, nested_code, offset),
    )


def nearest(x: Tensor, code: Tensor, blocksize: int) -> tuple[Tensor, Tensor]:
    """For x (n,): index of the nearest code, uint8 (n,); absmax of each block, fp32.

    code: (up to 256,) ascending, in [-1, 1]: what an index stands for, in units of the
    block's absmax. A block of zeros has absmax 0 and the code nearest to 0.
    """
    n = x.numel()
    blocks = torch.nn.functional.pad(x, (0, -n % blocksize)).view(-1, blocksize)
    absmax = blocks.abs().amax(dim=1)
    scaled = blocks * (1 / absmax.clamp(min=1e-38))[:, None]  # in [-1, 1]
    middles = (code[1:] + code[:-1]) / 2
    return torch.bucketize(scaled.flatten()[:n], middles).to(torch.uint8), absmax


def dynamic_map() -> Tensor:
    """The 256 numbers that a quantised absmax stands for, ascending, fp32.

    Seven decades 10^-6 ... 1 of either sign, the larger ones cut finer: decade i has
    2^i numbers, the middles of equal parts of [0.1, 1] · 10^(i - 6); 0 and 1 beside.
    Source: Dettmers et al. 2022 (8-bit optimizers), section 1.3; `create_dynamic_map`
    of bitsandbytes, whose fp32 numbers these are.
    """
    numbers = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1)
        middles = 10 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2)
        numbers += middles.tolist() + (-middles).tolist()
    return torch.tensor(sorted(numbers))


def cost(n: int, dtype: torch.dtype, blocksize: int = 64) -> Cost:
    """Double-quantised: packed weights and absmax read, n weights written, 1 FLOP each.

    The nested absmax (4 bytes in 256 blocks) is counted, the code tables are not.
    """
    blocks = n / blocksize
    moved = n / 2 + blocks + 4 * blocks / 256 + n * dtype.itemsize
    return Cost(bytes=math.ceil(moved), flops=n)


def _check(weights: NF4, dtype: torch.dtype) -> None:
    """Raise unless the parts of an NF4 tensor fit each other."""
    nested = (weights.nested_absmax, weights.nested_code, weights.offset)
    names = ("packed", "absmax", "code", "nested_absmax", "nested_code", "offset")
    parts = dict(
        zip(names, (weights.packed, weights.absmax, weights.code, *nested), strict=True)
    )
    parts = {name: tensor for name, tensor in parts.items() if tensor is not None}
    if len(parts) not in (3, 6):
        raise ValueError(
            f"only {sorted(parts)} are given: nested_absmax, nested_code and offset"
            " belong together, give all or none"
        )
    check_same_device(**parts)
    if dtype not in FLOATS:
        raise TypeError(f"dtype={dtype}; use float32, float16 or bfloat16")
    kinds = (torch.uint8, torch.uint8 if len(parts) == 6 else torch.float32)
    if (weights.packed.dtype, weights.absmax.dtype) != kinds:
        raise TypeError(
            f"packed is {weights.packed.dtype} and absmax {weights.absmax.dtype}, due"
            f" are {kinds[0]} and {kinds[1]}"
        )
    n = math.prod(weights.shape)
    blocks = -(-n // weights.blocksize)
    sizes = {"packed": -(-n // 2), "absmax": blocks, "code": 16}
    if len(parts) == 6:
        sizes |= {"nested_absmax": -(-blocks // weights.nested_blocksize)}
        sizes |= {"nested_code": 256, "offset": 1}
    for name, size in sizes.items():
        if parts[name].numel() != size or not parts[name].is_contiguous():
            raise ValueError(
                f"{name} has shape {tuple(parts[name].shape)} and strides"
                f" {parts[name].stride()}; weights of shape {weights.shape} in blocks"
                f" of {weights.blocksize} need {size} contiguous numbers"
            )


@triton.jit
def nf4_dequantize_kernel(
    packed_ptr,
    absmax_ptr,
    code_ptr,
    nested_absmax_ptr,
    nested_code_ptr,
    offset_ptr,
    out_ptr,
    n,
    n_bytes,
    n_blocks,
    BLOCKS: tl.constexpr,
    HALF: tl.constexpr,
    NESTED_BLOCKSIZE: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    exists = block < n_blocks
    if nested_absmax_ptr is None:
        absmax = tl.load(absmax_ptr + block, mask=exists, other=0.0)
    else:
        q = tl.load(absmax_ptr + block, mask=exists, other=0).to(tl.int32)
        at = nested_absmax_ptr + block // NESTED_BLOCKSIZE
        nested = tl.load(at, mask=exists, other=0.0)
        absmax = tl.load(nested_code_ptr + q) * nested + tl.load(offset_ptr)
    byte = block[:, None] * HALF + tl.arange(0, HALF)[None, :]  # (BLOCKS, HALF)
    q = tl.load(packed_ptr + byte, mask=byte < n_bytes, other=0).to(tl.int32)
    high = tl.load(code_ptr + (q >> 4)) * absmax[:, None]
    low = tl.load(code_ptr + (q & 15)) * absmax[:, None]
    w = tl.interleave(high, low)  # (BLOCKS, 2 · HALF): high, low, high, low ...
    at = block[:, None] * (2 * HALF) + tl.arange(0, 2 * HALF)[None, :]
    tl.store(out_ptr + at, w.to(out_ptr.dtype.element_ty), mask=at < n)


def _launch(
    packed, absmax, code, nested_absmax, nested_code, offset, shape, *sizes_and_dtype
) -> Tensor:
    blocksize, nested_blocksize, dtype = sizes_and_dtype
    out = packed.new_empty(shape, dtype=dtype)
    blocks = max(1, 2 * BYTES // blocksize)
    if out.numel():
        nf4_dequantize_kernel[(triton.cdiv(absmax.numel(), blocks),)](
            *(packed, absmax, code, nested_absmax, nested_code, offset, out),
            *(out.numel(), packed.numel(), absmax.numel()),
            BLOCKS=blocks,
            HALF=blocksize // 2,
            NESTED_BLOCKSIZE=nested_blocksize,
            num_warps=NUM_WARPS,
            enable_fp_fusion=False,  # two roundings, as bitsandbytes does them
        )
    return out


def _in_pytorch(
    packed, absmax, code, nested_absmax, nested_code, offset, shape, *sizes_and_dtype
) -> Tensor:
    blocksize, nested_blocksize, dtype = sizes_and_dtype
    nested = (nested_absmax, nested_code, offset, nested_blocksize)
    return reference(NF4(packed, absmax, code, shape, dtype, blocksize, *nested))


register(
    "nf4_dequantize(Tensor packed, Tensor absmax, Tensor code, Tensor? nested_absmax,"
    " Tensor? nested_code, Tensor? offset, SymInt[] shape, int blocksize,"
    " int nested_blocksize, ScalarType dtype) -> Tensor",
    launch=_launch,
    fallback=_in_pytorch,
    fake=lambda packed, *more: packed.new_empty(more[5], dtype=more[-1]),
)
