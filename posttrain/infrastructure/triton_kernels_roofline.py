"""The roofline: the least time that bytes and FLOPs take, and which of the two decides.

    t >= max(bytes / bandwidth, FLOPs / peak)            Williams et al. 2009

Numbers of GPUs are those of the vendor's data sheets, not measurements: a real kernel
reaches less of both, and `python -m posttrain_kernels.bench` measures how much.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from posttrain_kernels import (
    cross_entropy,
    flash_attention,
    nf4,
    rms_norm,
    softmax,
)
from posttrain_kernels.common import Cost


@dataclass(frozen=True)
class GPU:
    """What a data sheet promises; dense products, half precision in, fp32 sums."""

    name: str
    bandwidth: float  # bytes a second, of the large memory
    vector: float  # FLOPs a second in fp32, without tensor cores
    matrix: float  # FLOPs a second in fp16 (or bf16) by tensor cores

    def ridge(self, matrix: bool = False) -> float:
        """FLOPs a byte above which arithmetic decides, not memory."""
        return (self.matrix if matrix else self.vector) / self.bandwidth

    def least_seconds(self, cost: Cost, matrix: bool = False) -> float:
        """The bound for one kernel; `matrix` if its FLOPs are products."""
        return cost.seconds(self.bandwidth, self.matrix if matrix else self.vector)


# NVIDIA's data sheets of the T4, A100 80 GB SXM and H100 SXM, without sparsity
GPUS = (
    GPU("T4", bandwidth=320e9, vector=8.1e12, matrix=65e12),
    GPU("A100", bandwidth=2039e9, vector=19.5e12, matrix=312e12),
    GPU("H100", bandwidth=3350e9, vector=67e12, matrix=989e12),
)


@dataclass(frozen=True)
class Work:
    """A kernel at a size: what it must move and calculate."""

    name: str
    cost: Cost
    matrix: bool = False  # are most of its FLOPs matrix products?

    @property
    def intensity(self) -> float:
        """FLOPs a byte."""
        return self.cost.flops / self.cost.bytes


def works(rows: int = 8192, columns: int = 4096, vocab: int = 128256) -> list[Work]:
    """The kernels of the chapter at the sizes of a training step, in fp16.

    rows: tokens of a batch; columns: width of the model. Attention: 32 heads of
    128, all tokens one sequence, causal. The product is (rows, columns) by (columns,
    columns); decoding multiplies one row by the same matrix.
    """
    half = torch.float16
    attention = flash_attention.cost(1, 32, 32, rows, rows, 128, half)
    return [
        Work("NF4", nf4.cost(columns * columns, half)),
        Work("cross-entropy", cross_entropy.cost(rows, vocab, half)),
        Work("RMSNorm", rms_norm.cost(rows, columns, half)),
        Work("softmax", softmax.cost(rows, columns, half)),
        Work("product, one row", product(1, columns, columns), matrix=True),
        Work("flash attention", attention, matrix=True),
        Work("product", product(rows, columns, columns), matrix=True),
    ]


def product(m: int, k: int, n: int, itemsize: int = 2) -> Cost:
    """An (m, k) by (k, n) product, each matrix moved once."""
    return Cost(bytes=(m * k + k * n + m * n) * itemsize, flops=2 * m * k * n)


def eager_softmax(rows: int, columns: int, itemsize: int) -> list[Cost]:
    """Softmax written out in PyTorch: five kernels, each with a result in memory."""
    table, column = rows * columns, rows
    moved = {
        "amax": table + column,
        "subtract": 2 * table + column,
        "exp": 2 * table,
        "sum": table + column,
        "divide": 2 * table + column,
    }
    return [Cost(numbers * itemsize, table) for numbers in moved.values()]
