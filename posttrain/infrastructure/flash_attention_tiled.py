"""FlashAttention's forward pass in plain PyTorch: tiles of scores, never the table.

    for each block of M queries:            one program of a GPU
        for each block of N keys:           skip what the mask hides
            s = q kᵀ / √D                   (M, N), the only piece of the table
            state = update(state, s, v)
        o, lse = finish(state)

What a kernel does in registers is done here by tensors, so that you can read it and
stop in the middle. It is slow: every tile costs a dozen calls of Python. Sums are
float32, or float64 for float64 inputs.

Source: Dao 2023 (FlashAttention-2), algorithm 1; Ainslie et al. 2023 (shared heads).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from posttrain.infrastructure.flash_attention import (
    finish,
    merge_outputs,
    start,
    update,
)

Span = tuple[int, int]  # first row, and one past the last


def spans(T: int, size: int) -> list[Span]:
    """Blocks of `size` rows that cover T; the last may be shorter."""
    if T < 1 or size < 1:
        raise ValueError(f"T={T} rows in blocks of {size}: both must be at least 1")
    return [(first, min(first + size, T)) for first in range(0, T, size)]


def tile_kind(rows: Span, cols: Span, shift: int) -> str:
    """What the causal mask does to a tile: "skip", "full" or "masked".

    Query i sees the keys 0 ... i + shift. The last query sees most: if the first key is
    hidden from it, the tile is empty. The first sees least: if it sees the last key,
    all do. In between, the tile has to be masked.
    """
    if cols[0] > rows[1] - 1 + shift:
        return "skip"
    if cols[1] - 1 <= rows[0] + shift:
        return "full"
    return "masked"


def block_plan(
    T_q: int, T_k: int, M: int, N: int, causal: bool = True
) -> list[list[str]]:
    """The kind of every tile: a list for each block of M queries, a word a key block.

    The queries are the last T_q of T_k positions, so shift = T_k - T_q.
    """
    shift = T_k - T_q if causal else T_q + T_k  # so far that nothing is hidden
    return [
        [tile_kind(rows, cols, shift) for cols in spans(T_k, N)]
        for rows in spans(T_q, M)
    ]


def visible(
    rows: Span, cols: Span, shift: int, device: torch.device | None = None
) -> Tensor:
    """The causal mask of one tile: boolean (rows, cols), True = may look."""
    positions = torch.arange(*rows, device=device)[:, None] + shift
    return torch.arange(*cols, device=device) <= positions


def tiled_forward(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = True, M: int = 64, N: int = 64
) -> tuple[Tensor, Tensor]:
    """Attention by tiles of M queries and N keys.

    q: (B, H, T_q, D)   k, v: (B, H_kv, T_k, D), H a multiple of H_kv. causal: query i
    sees the keys 0 ... T_k - T_q + i. Returns o (B, H, T_q, D) in q's dtype and
    the log-sum-exp of the scaled scores (B, H, T_q) in the dtype of the sums. A query
    that sees no key gets 0 and -inf. Raises ValueError where shapes do not fit.
    """
    check_shapes(q, k, v)
    T_q, T_k, D = q.shape[2], k.shape[2], q.shape[3]
    sums = torch.promote_types(q.dtype, torch.float32)
    q, k, v = grouped(q, k), k[:, :, None], v[:, :, None]  # (B, H_kv, G or 1, T, D)
    o = torch.empty_like(q)
    lse = torch.empty(q.shape[:-1], dtype=sums, device=q.device)
    plan = block_plan(T_q, T_k, M, N, causal)
    for kinds, rows in zip(plan, spans(T_q, M), strict=True):
        q_i = q[..., slice(*rows), :].to(sums) / math.sqrt(D)
        state = start(q_i)
        for kind, cols in zip(kinds, spans(T_k, N), strict=True):
            if kind == "skip":
                continue
            k_j, v_j = (x[..., slice(*cols), :].to(sums) for x in (k, v))
            s = q_i @ k_j.mT  # (B, H_kv, G, M, N)
            if kind == "masked":
                ok = visible(rows, cols, T_k - T_q, q.device)
                s = s.masked_fill(~ok, -torch.inf)
            state = update(state, s, v_j)
        o_i, lse[..., slice(*rows)] = finish(state)
        o[..., slice(*rows), :] = o_i.to(o.dtype)
    return o.flatten(1, 2), lse.flatten(1, 2)


def split_decode(q: Tensor, k: Tensor, v: Tensor, splits: int) -> Tensor:
    """Attention of few queries to many keys, the keys cut into `splits` parts.

    q: (B, H, T_q, D), which see all keys   k, v: (B, H_kv, T_k, D). In decoding T_q is
    1 and there are too few blocks of queries to fill a GPU; each part of the keys can
    go to a program of its own, and a second step merges. Returns (B, H, T_q, D).
    Source: Dao, Haziza, Massa, Sizov 2023, "Flash-Decoding for long-context inference".
    """
    T_k = k.shape[2]
    if not 1 <= splits <= T_k:
        raise ValueError(f"{splits} splits of {T_k} keys: use 1 to {T_k}")
    cuts = [round(i * T_k / splits) for i in range(splits + 1)]
    parts = [
        tiled_forward(q, k[:, :, a:b], v[:, :, a:b], causal=False)
        for a, b in pairwise(cuts)
    ]
    o, lse = parts[0]
    for o_part, lse_part in parts[1:]:
        o, lse = merge_outputs(o, lse, o_part, lse_part)
    return o.to(q.dtype)


def grouped(x: Tensor, k: Tensor) -> Tensor:
    """(B, H, ...) as (B, H_kv, G, ...): the G heads that share a key head, together."""
    return x.unflatten(1, (k.shape[1], -1))


def check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError with the bad shapes and the rule."""
    fits = q.ndim == k.ndim == 4 and k.shape == v.shape
    if not fits or (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3]):
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} must be"
            " (B, H, T_q, D), (B, H_kv, T_k, D) and the same as k"
        )
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(
            f"H={q.shape[1]} query heads cannot share H_kv={k.shape[1]} key heads"
            " evenly"
        )
