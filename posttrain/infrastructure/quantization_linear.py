"""A linear layer in int8: integers are multiplied, scales come after the sum.

    y_ij = sum_k x_ik w_jk ≈ s_i t_j sum_k p_ik q_jk

p are the codes of x with one scale for each token, q those of the weight with one for
each output channel. Neither scale depends on k, so both leave the sum, and the sum is
one of integers. A scale for each input channel k would have to stay inside.

Source: Dettmers et al. 2022 (LLM.int8()); Xiao et al. 2023 (SmoothQuant).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from posttrain.infrastructure.quantization import absmax_quantize, dequantize


def int_matmul(p: Tensor, q: Tensor) -> Tensor:
    """p (M, K) times the transpose of q (N, K), both int8: int32 (M, N), exact.

    Below K = 2^31 / 127^2, about 133,000, no sum of products of codes can overflow.
    On a GPU K and N must be multiples of 8, and M above 16.
    """
    return torch._int_mm(p, q.mT)


class Int8Linear(nn.Module):
    """y = x Wᵀ with int8 weights and activations that are quantized on the way.

    per_token: a scale for each token; else one for the whole input.
    columns: input channels that stay in float on both sides (the outliers of
    LLM.int8()); None: none. `columns_from_codes` keeps no float copy of the weight's
    columns but reads them back from the int8 codes, as bitsandbytes does.
    """

    def __init__(
        self,
        weight: Tensor,
        per_token: bool = True,
        columns: Tensor | None = None,
        columns_from_codes: bool = False,
    ):
        super().__init__()
        self.per_token = per_token
        if columns is None:
            columns = torch.zeros_like(weight[0], dtype=torch.bool)
        rest = weight.detach().clone()
        if not columns_from_codes:
            rest[:, columns] = 0  # they have no say in the scales of the codes
        w = absmax_quantize(rest, dim=1)
        kept = dequantize(w) if columns_from_codes else weight.detach()
        self.register_buffer("codes", w.codes)  # (N, K) int8
        self.register_buffer("scale", w.scale)  # (N, 1)
        self.register_buffer("columns", columns.nonzero().flatten())  # (outliers,)
        self.register_buffer("kept", kept[:, columns].clone())  # (N, outliers)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N), in x's dtype. No gradient."""
        flat = x.detach().reshape(-1, x.shape[-1]).float()  # (M, K)
        outliers = flat[:, self.columns]
        rest = flat.index_fill(1, self.columns, 0.0)
        p = absmax_quantize(rest, dim=1 if self.per_token else None)
        y = int_matmul(p.codes, self.codes) * p.scale * self.scale.mT
        y = y + outliers @ self.kept.mT
        return y.to(x.dtype).view(*x.shape[:-1], -1)


def outlier_columns(x: Tensor, threshold: float = 6.0) -> Tensor:
    """Which input channels reach `threshold` in any token: boolean (K,)."""
    return (x.abs() >= threshold).flatten(0, -2).any(dim=0)


def smoothing(x_absmax: Tensor, weights: list[Tensor], alpha: float = 0.5) -> Tensor:
    """The factors by which SmoothQuant divides activations: (K,), positive.

    x_absmax: (K,), the largest magnitude of each input channel on sample text.
    weights: all (N, K) that read this input; their columns are to be multiplied.
    alpha 0 leaves the range to the activations, 1 gives all of it to the weights.
    Source: Xiao et al. 2023.
    """
    w_absmax = torch.stack([w.abs().amax(dim=0) for w in weights]).amax(dim=0)
    x_absmax, w_absmax = (v.clamp(min=1e-5) for v in (x_absmax, w_absmax))
    return x_absmax**alpha / w_absmax ** (1 - alpha)
