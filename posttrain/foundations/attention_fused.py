"""PyTorch's fused attention: the same numbers as `attention.py`, no table of weights.

Models that are trained use this one. `scaled_dot_product_attention` there is the one to
read, and what the tests compare with.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from posttrain.foundations.attention import causal_mask


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """q: (B, H, T_q, D), k and v: (B, H_kv, T_k, D) -> (B, H, T_q, D).

    H_kv divides H: H / H_kv heads of queries share one of keys and values.
    mask: boolean, True = may look, broadcastable to (B, H, T_q, T_k). causal: no token
    sees a later one; the queries are the last T_q of T_k tokens. One of the two.
    On a CPU it works in float32: there its backward pass in bfloat16 takes about 4
    times as long. And there its kernel reads shared heads where they lie; elsewhere not
    every kernel can, so they are copied.
    """
    T_q, T_k = q.shape[-2], k.shape[-2]
    causal = causal and T_q > 1  # the last token may see all: no mask
    if causal and T_q < T_k:  # the kernel would align the mask with the first key
        mask, causal = causal_mask(T_q, T_k, q.device), False
    options = {"attn_mask": mask, "dropout_p": dropout, "is_causal": causal}
    if q.device.type != "cpu":
        if (shared := q.shape[1] // k.shape[1]) > 1:
            k, v = (x.repeat_interleave(shared, dim=1) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v, **options)
    dtype = q.dtype
    if dtype != torch.float64:
        q, k, v = q.float(), k.float(), v.float()
    with torch.autocast("cpu", enabled=False):
        y = F.scaled_dot_product_attention(q, k, v, **options, enable_gqa=True)
    return y.to(dtype)
