"""ALiBi: no positions at all, but a price for distance (Press et al. 2022).

    y = alibi_attention(q, k, v)        # causal; q, k, v (B, H, T, D)

Each head subtracts `slope * distance` from its scores, and every head has its own
slope. Nothing is learned and nothing is rotated, so no position is new to the model
when the text gets longer than those it was trained on.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from posttrain.foundations.attention import causal_mask


def alibi_slopes(H: int) -> Tensor:
    """One slope for each head, (H,), in 1 / tokens.

    H a power of 2: the geometric sequence 2^(-8/H), 2^(-16/H), ..., 2^-8. Any other H:
    the slopes of the largest power of 2 below it, then every other slope of twice that
    number. Source: Press et al. 2022, section 3, and their code for the second rule.
    """
    if H < 1:
        raise ValueError(f"H={H} heads: at least 1 is needed")
    n = 2 ** math.floor(math.log2(H))  # the largest power of 2 in H
    slopes = [2 ** (-8 * i / n) for i in range(1, n + 1)]
    between = [2 ** (-8 * i / (2 * n)) for i in range(1, 2 * n + 1, 2)]
    return torch.tensor(slopes + between[: H - n])


def alibi_bias(H: int, T_q: int, T_k: int, device=None) -> Tensor:
    """What is added to the scores: (H, T_q, T_k), -slope * distance, -inf ahead.

    The queries are the last T_q of T_k tokens.
    """
    query = torch.arange(T_k - T_q, T_k, device=device)[:, None]
    distance = query - torch.arange(T_k, device=device)  # (T_q, T_k)
    bias = -alibi_slopes(H).to(device)[:, None, None] * distance
    return bias.masked_fill(~causal_mask(T_q, T_k, device), float("-inf"))


def alibi_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention with ALiBi; k and v may have fewer heads than q.

    q: (B, H, T_q, D), k and v: (B, H_kv, T_k, D). Returns (B, H, T_q, D).
    """
    H, T_q, T_k = q.shape[1], q.shape[2], k.shape[2]
    bias = alibi_bias(H, T_q, T_k, q.device).to(q.dtype)
    k, v = (x.repeat_interleave(H // x.shape[1], dim=1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
