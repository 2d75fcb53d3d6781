"""Four bits need not be sixteen equal steps: code tables, and how to compare them.

    normal_float()      NF4: quantiles of a normal distribution, with an exact zero
    uniform_code(4)     int4: equal steps
    lloyd_max(...)      the table of least squared error for the numbers at hand

A table holds numbers in [-1, 1]; a block is divided by its absmax, and each number
becomes the index of the nearest entry.
"""

from __future__ import annotations

import torch
from posttrain_kernels.nf4 import nearest
from torch import Tensor

from posttrain.infrastructure.quantization import blocks_of

OFFSET = 0.9677083  # the outermost probability that NF4 takes a quantile of


def normal_float(offset: float = OFFSET) -> Tensor:
    """The 16 code points of NF4, ascending, fp32: those of bitsandbytes.

    Nine probabilities from 1/2 to `offset` and eight from 1 - offset to 1/2, at
    equal distances; their normal quantiles; the zero, which both lists hold, once;
    divided by the largest. So the halves are cut differently: there are 8 positive
    codes and 7 negative ones beside the zero.
    Source: Dettmers et al. 2023, section 3; `create_normal_map` of bitsandbytes.
    """
    up = torch.special.ndtri(torch.linspace(offset, 0.5, 9)[:-1].double())
    down = -torch.special.ndtri(torch.linspace(offset, 0.5, 8)[:-1].double())
    code = torch.cat([up, down, torch.zeros(1)]).float().sort().values
    return code / code.max()


def uniform_code(bits: int) -> Tensor:
    """Symmetric integers as a table: k / n for k = -n ... n, n = 2^(bits - 1) - 1."""
    n = 2 ** (bits - 1) - 1
    return torch.arange(-n, n + 1) / n


def decode(x: Tensor, code: Tensor, blocksize: int = 64) -> tuple[Tensor, Tensor]:
    """x in the table `code`: the nearest values, as x, and the indices, uint8 (n,)."""
    q, absmax = nearest(x.float().flatten(), code, blocksize)
    values = blocks_of(code[q.int()], blocksize) * absmax[:, None]
    return values.flatten()[: x.numel()].view(x.shape), q


def entropy(q: Tensor) -> float:
    """Bits a code carries, by how often each is used; log2 of their number at most."""
    share = q.flatten().int().bincount().double() / q.numel()
    share = share[share > 0]
    return -(share * share.log2()).sum().item()


def lloyd_max(
    x: Tensor, start: Tensor, blocksize: int = 64, rounds: int = 60
) -> Tensor:
    """The table that Lloyd's iteration finds from `start`: fp32, as many entries.

    Each round, all numbers go to their nearest entry, then each entry moves to the
    mean of its numbers. Blocks count by absmax², so what falls is the squared error of
    x itself. An entry that nothing goes to stays. Source: Lloyd 1982; Max 1960.
    """
    blocks = blocks_of(x.double(), blocksize)
    absmax = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    scaled = (blocks / absmax).flatten()
    weight = absmax.square().expand_as(blocks).flatten()
    code = start.double()
    for _ in range(rounds):
        q = torch.bucketize(scaled, (code[1:] + code[:-1]) / 2)
        total = torch.zeros_like(code).index_add_(0, q, weight)
        moment = torch.zeros_like(code).index_add_(0, q, weight * scaled)
        code = torch.where(total > 0, moment / total.clamp(min=1e-30), code)
    return code.float()
