"""The parts that turn GPT-2's block into Llama's: norm, rotation, gate, shared heads.

Each is a few lines, so that you can put it into a model of your own. Letters as in
`modern_architecture`; a mask is boolean and True means "may look".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posttrain.foundations.attention import causal_mask
from posttrain.foundations.attention_fused import attend


def rms_norm(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    """x / rms(x) · gain over the last dimension: LayerNorm without mean and bias.

    x: (..., C), gain: (C,). Source: Zhang and Sennrich 2019, eq. 4.
    """
    rms = (x.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    return x / rms * gain


class RMSNorm(nn.Module):
    """`rms_norm` with a trained gain, by PyTorch's fused kernel."""

    def __init__(self, C: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(C))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def rope_tables(T: int, D: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """cos and sin of the angle of each position and channel: (T, D) each, for `rotate`.

    Pair i turns by base^(-2i / D) radians a token. Both channels of a pair have its
    cosine; the first has the sine with a minus. Source: Su et al. 2021, eq. 15 and 34.
    """
    speed = base ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)  # (D / 2,)
    angle = torch.outer(torch.arange(T, dtype=torch.float64), speed)  # (T, D / 2)
    cos, sin = angle.cos().float(), angle.sin().float()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pair (x[i], x[i + D/2]) of each token by its position's angle.

    x: (B, H, T, D). cos, sin: of `rope_tables`, (T, D), or (B, 1, T, D) where rows of
    the batch stand at different positions. Pairs are Llama's: a channel of the first
    half and its partner in the second. `roll` puts the partner in each channel's place.
    """
    partner = x.roll(x.shape[-1] // 2, dims=-1)  # (B, H, T, D)
    return x * cos.to(x.dtype) + partner * sin.to(x.dtype)


def window_mask(T_q: int, T_k: int, window: int, device=None) -> Tensor:
    """Causal, and at most `window` tokens back, itself included: (T_q, T_k)."""
    full = causal_mask(T_q, T_k, device)
    return full.triu(diagonal=T_k - T_q - window + 1)


def document_mask(documents: Tensor) -> Tensor:
    """Causal, and only within one document: for sequences packed from several.

    documents: (B, T), the same number for tokens of the same document.
    Returns boolean (B, 1, T, T).
    """
    same = documents[:, :, None] == documents[:, None, :]  # (B, T, T)
    return (same & causal_mask(documents.shape[1], device=documents.device))[:, None]


class SwiGLU(nn.Module):
    """W_down (silu(W_gate x) * W_up x): an MLP that gates its own hidden channels.

    Source: Shazeer 2020, eq. 6.
    """

    def __init__(self, C: int, F: int):
        super().__init__()
        self.gate_proj = nn.Linear(C, F, bias=False)
        self.up_proj = nn.Linear(C, F, bias=False)
        self.down_proj = nn.Linear(F, C, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def within_window(
    mask: Tensor | None, T_q: int, T_k: int, window: int | None, device
) -> Tensor | None:
    """`mask` of the last T_k keys, narrowed to a window where one bites."""
    if mask is not None:
        mask = mask[..., -T_k:]  # a `WindowCache` has dropped the others
    if window is None or T_k <= window:
        return mask
    near = window_mask(T_q, T_k, window, device)
    return near if mask is None else mask & near


def grouped_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """Attention where H / H_kv query heads share each head of keys and values.

    q: (B, H, T_q, D), k and v: (B, H_kv, T_k, D). mask None: causal.
    Returns (B, H, T_q, D).
    """
    B, H, T_q, D = q.shape
    H_kv = k.shape[1]
    if T_q == 1 and (mask is None or mask.shape[1] == 1):
        # One new token: its H / H_kv heads become queries of one head, and no key or
        # value is copied. All of them may look at the same keys.
        q = q.view(B, H_kv, H // H_kv, D)
        return attend(q, k, v, mask, False, dropout).view(B, H, 1, D)
    return attend(q, k, v, mask, mask is None, dropout)
