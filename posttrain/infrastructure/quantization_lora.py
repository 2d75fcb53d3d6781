"""QLoRA: a frozen weight in four bits, and a small trained matrix beside it.

    y = x dec(W)ᵀ + (alpha / r) (x Aᵀ) Bᵀ        A (r, K), B (N, r), B = 0 at first

W is stored as NF4 and decoded when it is needed: once forward, once backward. The
decoded weight is never kept between the two. Only A and B are trained, and the one
gradient that passes through W is that of its input, dx = dy dec(W) + ..., since the
layers below have adapters of their own.

Source: Hu et al. 2021 (LoRA); Dettmers et al. 2023 (QLoRA).
"""

from __future__ import annotations

import math

import torch
from posttrain_kernels import nf4
from torch import Tensor, nn


class FrozenProduct(torch.autograd.Function):
    """x Wᵀ for a frozen NF4 weight: what is kept for the backward pass is its codes."""

    @staticmethod
    def forward(ctx, x: Tensor, weights: nf4.NF4) -> Tensor:
        ctx.weights = weights  # 0.52 bytes a weight, and they live anyway
        return x @ nf4.dequantize(weights, x.dtype).mT

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None]:
        return dy @ nf4.dequantize(ctx.weights, dy.dtype), None


class NF4Linear(nn.Module):
    """A frozen linear layer, y = x dec(W)ᵀ, its weight in NF4.

    The decoding is one Triton kernel on a GPU and PyTorch's operations elsewhere.
    """

    def __init__(self, weights: nf4.NF4):
        super().__init__()
        self.shape, self.dtype = weights.shape, weights.dtype
        self.sizes = {"blocksize": weights.blocksize}
        self.sizes |= {"nested_blocksize": weights.nested_blocksize}
        for name, value in vars(weights).items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value)

    @classmethod
    def from_float(cls, weight: Tensor, blocksize: int = 64, nested: bool = True):
        """The layer of a float weight (N, K)."""
        return cls(nf4.quantize(weight.detach(), blocksize, nested))

    @property
    def weights(self) -> nf4.NF4:
        """The stored weight, as the kernel takes it."""
        return nf4.NF4(
            **dict(self.named_buffers()),
            **self.sizes,
            shape=self.shape,
            dtype=self.dtype,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N), in x's dtype."""
        return FrozenProduct.apply(x, self.weights)


class LoRA(nn.Module):
    """base(x) + (alpha / r) (x Aᵀ) Bᵀ; only A and B are trained.

    base: a linear layer, (..., K) -> (..., N); it is frozen here. With B = 0 the
    first output is that of `base`, exactly.
    """

    def __init__(self, base: nn.Module, N: int, K: int, r: int = 8, alpha: float = 16):
        super().__init__()
        self.base = base.requires_grad_(False)
        like = [*base.parameters(), *base.buffers()][0]
        bound = 1 / math.sqrt(K)
        self.A = nn.Parameter(torch.empty(r, K, device=like.device))
        nn.init.uniform_(self.A, -bound, bound)
        self.B = nn.Parameter(torch.zeros(N, r, device=like.device))
        self.scale = alpha / r

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        return self.base(x) + self.scale * ((x @ self.A.mT) @ self.B.mT)
