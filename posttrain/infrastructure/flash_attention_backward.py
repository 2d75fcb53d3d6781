"""FlashAttention's backward pass: the weights are computed again, not kept.

    P  = e^(S - L)                     from q, k and one saved number a row
    dV = Pᵀ dO        dP = dO Vᵀ       dS = P ⊙ (dP - delta)
    dQ = dS K / √D    dK = dSᵀ Q / √D  delta_i = Σ_d dO_id O_id

The softmax's gradient needs Σ_j P_ij dP_ij, a sum over a whole row. It equals
dO_i · O_i, so a tile needs nothing from its neighbours. Five products of matrices where
a backward pass that kept P needs four: S is the fifth.

Source: Dao 2023 (FlashAttention-2), algorithm 2; Dao et al. 2022, appendix B.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from posttrain.infrastructure.flash_attention import shift_of
from posttrain.infrastructure.flash_attention_tiled import (
    block_plan,
    grouped,
    spans,
    tiled_forward,
    visible,
)


def tile_gradients(
    q: Tensor, k: Tensor, v: Tensor, do: Tensor, lse: Tensor, delta: Tensor, ok: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What one tile adds to dQ, dK and dV.

    q, do: (..., M, D)   k, v: (..., N, D)   lse, delta: (..., M) of the whole rows
    ok: boolean (M, N), True = may look. Returns tensors shaped like q and, with the
    leading dimensions of q, like k and v.
    """
    scale = 1 / math.sqrt(q.shape[-1])
    s = (q @ k.mT * scale).masked_fill(~ok, -torch.inf)  # (..., M, N)
    p = torch.exp(s - shift_of(lse)[..., None])  # rows without a key: e^-inf = 0
    dv = p.mT @ do
    dp = do @ v.mT  # (..., M, N)
    ds = p * (dp - delta[..., None]) * scale
    return ds @ k, ds.mT @ q, dv


def tiled_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    do: Tensor,
    causal: bool = True,
    M: int = 64,
    N: int = 64,
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv from what `tiled_forward` was given and returned, and do like o.

    Walks over blocks of keys; dk and dv of a block are finished when its walk over the
    queries is, dq grows until the end. Shapes and dtypes of the results: q, k, v.
    """
    T_q, T_k = q.shape[2], k.shape[2]
    dtypes, sums = (q.dtype, k.dtype, v.dtype), lse.dtype
    delta = grouped((o.to(sums) * do.to(sums)).sum(dim=-1), k)  # (B, H_kv, G, T_q)
    lse, do, q = (grouped(x, k) for x in (lse, do, q))
    k, v = k[:, :, None], v[:, :, None]
    dq = torch.zeros_like(q, dtype=sums)
    dk, dv = (torch.zeros_like(x, dtype=sums) for x in (k, v))
    plan = block_plan(T_q, T_k, M, N, causal)
    shift = T_k - T_q if causal else T_k  # so far that nothing is hidden
    for j, cols in enumerate(spans(T_k, N)):
        at = (..., slice(*cols), slice(None))
        k_j, v_j = k[at].to(sums), v[at].to(sums)
        for i, rows in enumerate(spans(T_q, M)):
            if plan[i][j] == "skip":
                continue
            here = slice(*rows)
            dq_i, dk_j, dv_j = tile_gradients(
                q[..., here, :].to(sums),
                *(k_j, v_j, do[..., here, :].to(sums)),
                *(lse[..., here], delta[..., here]),
                visible(rows, cols, shift, q.device),
            )
            dq[..., here, :] += dq_i
            dk[at] += dk_j.sum(dim=2, keepdim=True)  # over the heads that share it
            dv[at] += dv_j.sum(dim=2, keepdim=True)
    results = dq.flatten(1, 2), dk.flatten(1, 2), dv.flatten(1, 2)
    return tuple(x.to(dtype) for x, dtype in zip(results, dtypes, strict=True))


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, causal, M, N):
        o, lse = tiled_forward(q, k, v, causal, M, N)
        ctx.save_for_backward(q, k, v, o, lse)  # all O(T): no table among them
        ctx.options = causal, M, N
        return o

    @staticmethod
    def backward(ctx, do):
        return *tiled_backward(*ctx.saved_tensors, do, *ctx.options), None, None, None


def tiled_attention(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = True, M: int = 64, N: int = 64
) -> Tensor:
    """`tiled_forward` whose gradient is `tiled_backward`. Returns o (B, H, T_q, D)."""
    return _TiledAttention.apply(q, k, v, causal, M, N)
