"""The family of gated MLPs, and the plain one, at equal parameters (Shazeer 2020).

mlp = GatedMLP(C, matched_width(4 * C), gate="swish")     # SwiGLU
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,  # GLU, Dauphin et al. 2017
    "relu": F.relu,  # ReGLU
    "gelu": F.gelu,  # GEGLU
    "swish": F.silu,  # SwiGLU
    "identity": lambda x: x,  # bilinear: no nonlinearity but the product
}


class GatedMLP(nn.Module):
    """W_down (gate(W_gate x) * W_up x), with a gate of `GATES`.

    Source: Shazeer 2020, eq. 5 and 6. With gate="swish" it is `SwiGLU`.
    """

    def __init__(self, C: int, F: int, gate: str = "swish", bias: bool = False):
        super().__init__()
        if gate not in GATES:
            raise ValueError(f"gate={gate!r}: use one of {', '.join(GATES)}")
        self.gate = GATES[gate]
        self.gate_proj = nn.Linear(C, F, bias=bias)
        self.up_proj = nn.Linear(C, F, bias=bias)
        self.down_proj = nn.Linear(F, C, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.down_proj(self.gate(self.gate_proj(x)) * self.up_proj(x))


class PlainMLP(nn.Module):
    """W_down gelu(W_up x): GPT-2's."""

    def __init__(self, C: int, F: int, bias: bool = True):
        super().__init__()
        self.up_proj = nn.Linear(C, F, bias=bias)
        self.down_proj = nn.Linear(F, C, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.down_proj(F.gelu(self.up_proj(x), approximate="tanh"))


def matched_width(F: int, multiple: int = 1) -> int:
    """Hidden size of a gated MLP with the weights of a plain one of hidden size F.

    Three matrices instead of two: 2 F / 3, rounded up to a multiple.
    """
    if F < 1 or multiple < 1:
        raise ValueError(f"F={F}, multiple={multiple}: both must be at least 1")
    return -(-2 * F // (3 * multiple)) * multiple
