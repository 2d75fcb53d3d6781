"""How large the blocks of flash attention are: the largest that do not spill registers.

Found with `lab.compiled` of triton 3.6 and 3.7, without a GPU; which of those is
fastest, only a GPU can say. Spills that are left, 2 to 4 instructions: bf16 on sm_75,
which has no arithmetic for it, at D = 32; fp32 on sm_80 when triton 3.6 compiles.
"""

from typing import NamedTuple

import torch

from posttrain_kernels.common import architecture


class Blocks(NamedTuple):
    """Rows of queries and of keys in a block, and how a program is run."""

    M: int
    N: int
    num_warps: int
    num_stages: int  # blocks on their way from memory at a time


# By matrix unit and head size. fp32: products in full precision, without tensor cores.
# 75: Triton has no tensor-core path for it, so fp16 takes plain multiply-adds as well.
TABLE = {
    ("fp32", 64, "forward"): Blocks(32, 32, 4, 1),
    ("fp32", 64, "dq"): Blocks(32, 16, 8, 1),
    ("fp32", 64, "dkdv"): Blocks(16, 16, 4, 1),
    ("fp32", 128, "forward"): Blocks(32, 16, 4, 1),
    ("fp32", 128, "dq"): Blocks(16, 16, 8, 1),
    ("fp32", 128, "dkdv"): Blocks(16, 32, 8, 1),
    (75, 64, "forward"): Blocks(32, 32, 4, 1),
    (75, 64, "dq"): Blocks(32, 32, 8, 1),
    (75, 64, "dkdv"): Blocks(16, 32, 8, 1),
    (75, 128, "forward"): Blocks(32, 16, 8, 1),
    (75, 128, "dq"): Blocks(16, 16, 8, 1),
    (75, 128, "dkdv"): Blocks(16, 16, 8, 1),
    (80, 64, "forward"): Blocks(128, 64, 8, 2),
    (80, 64, "dq"): Blocks(64, 64, 8, 2),
    (80, 64, "dkdv"): Blocks(32, 128, 8, 2),
    (80, 128, "forward"): Blocks(128, 32, 8, 2),
    (80, 128, "dq"): Blocks(64, 64, 8, 2),
    (80, 128, "dkdv"): Blocks(64, 64, 8, 2),
    (90, 64, "forward"): Blocks(128, 64, 4, 3),
    (90, 64, "dq"): Blocks(64, 64, 4, 2),
    (90, 64, "dkdv"): Blocks(64, 64, 8, 2),
    (90, 128, "forward"): Blocks(128, 64, 8, 2),
    (90, 128, "dq"): Blocks(64, 64, 8, 2),
    (90, 128, "dkdv"): Blocks(32, 64, 8, 2),
}
INTERPRETED = Blocks(16, 16, 4, 1)  # small, so that small tests have several blocks


def blocks(D: int, dtype: torch.dtype, kernel: str) -> Blocks:
    """For head size D <= 128 and "forward", "dq" or "dkdv", on the GPU at hand."""
    arch = architecture()
    if not arch:
        return INTERPRETED
    unit = max(unit for unit in (75, 80, 90) if unit <= max(arch, 75))
    unit = "fp32" if dtype == torch.float32 else unit
    return TABLE[unit, 64 if D <= 64 else 128, kernel]
