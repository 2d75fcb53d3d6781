"""Attention from scratch: one formula, many heads, a cache, and what it costs.

    Attention(Q, K, V) = softmax(Q Kᵀ / √d_k) V        Vaswani et al. 2017, eq. 1

Everything here is plain PyTorch that you can read top to bottom: no fused kernel, the
whole table of attention weights is built and returned. Letters: B batch, T time, C
channels, H heads, D = C / H head size. A mask is boolean and True means "may look".

Not covered here: dropout on the weights, rotary positions, grouped heads, kernels that
never build the table.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Mix the values by how well each query matches each key.

    q: (..., T_q, D)   k: (..., T_k, D)   v: (..., T_k, D_v)
    mask: boolean, broadcastable to (..., T_q, T_k), True = this query may look at
    this key. scale: factor on the scores, 1/√D if None.
    Returns the output (..., T_q, D_v) and the weights (..., T_q, T_k). Each row of the
    weights sums to 1; a query that may look at nothing gets a row of zeros.
    Raises ValueError where shapes do not fit, TypeError for a mask that is not boolean.
    Source: Vaswani et al. 2017, eq. 1.
    """
    check_shapes(q, k, v, mask)
    if scale is None:
        scale = 1 / math.sqrt(q.shape[-1])
    scores = q @ k.transpose(-2, -1) * scale  # (..., T_q, T_k)
    if mask is not None:
        # the lowest finite number, not -inf: a row of -inf alone would be 0/0 = NaN
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1)  # over the keys: each query has 1 to give away
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)
    return weights @ v, weights  # (..., T_q, D_v), (..., T_q, T_k)


def multi_head_einsum(
    x: Tensor,
    memory: Tensor,
    W_q: Tensor,
    W_k: Tensor,
    W_v: Tensor,
    W_o: Tensor,
    mask: Tensor,
) -> Tensor:
    """The whole layer with every index named: b batch, t query, s key, h head, c, d.

    x: (B, T_q, C)   memory: (B, T_k, C)   W_q, W_k, W_v: (H, C, D)   W_o: (H, D, C)
    mask: boolean, broadcastable to (B, H, T_q, T_k), at least one key for each query.
    Returns (B, T_q, C). The sum over h is the paper's Concat(head_1 ... head_H) W_O.
    Source: Vaswani et al. 2017, section 3.2.2.
    """
    q = torch.einsum("btc,hcd->bhtd", x, W_q)
    k = torch.einsum("bsc,hcd->bhsd", memory, W_k)
    v = torch.einsum("bsc,hcd->bhsd", memory, W_v)
    scores = torch.einsum("bhtd,bhsd->bhts", q, k) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    y = torch.einsum("bhts,bhsd->bhtd", weights, v)
    return torch.einsum("bhtd,hdc->btc", y, W_o)


def causal_mask(
    T_q: int, T_k: int | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Which keys a query may look at when no token may see the future.

    The queries are the last T_q of T_k tokens, so query i stands at position
    T_k - T_q + i and may look at keys 0 ... T_k - T_q + i ("bottom-right" aligned).
    Returns a boolean (T_q, T_k), True = may look. T_k defaults to T_q.
    Raises ValueError if T_q > T_k: the first queries would have nothing to look at.
    """
    T_k = T_q if T_k is None else T_k
    if not 1 <= T_q <= T_k:
        raise ValueError(
            f"causal_mask needs 1 <= T_q <= T_k, got T_q={T_q}, T_k={T_k}: the queries"
            " are the last T_q of the T_k tokens"
        )
    full = torch.ones(T_q, T_k, dtype=torch.bool, device=device)
    return full.tril(diagonal=T_k - T_q)


def split_heads(x: Tensor, H: int) -> Tensor:
    """Cut the channels into H heads: (B, T, C) -> (B, H, T, D), D = C / H.

    Head h gets channels h·D ... (h+1)·D - 1. Raises ValueError if H does not divide C.
    """
    B, T, C = x.shape
    if C % H != 0:
        raise ValueError(f"C={C} channels cannot be cut into H={H} equal heads")
    return x.view(B, T, H, C // H).transpose(1, 2)  # (B, T, H, D) -> (B, H, T, D)


def merge_heads(x: Tensor) -> Tensor:
    """Put the heads side by side again: (B, H, T, D) -> (B, T, H·D)."""
    B, H, T, D = x.shape
    return x.transpose(1, 2).reshape(B, T, H * D)  # (B, T, H, D) -> (B, T, C)


class KVCache:
    """Room for the keys and values of T_max tokens, filled from the left.

    Holds two tensors of (B, H, T_max, D); `length` tokens of them are filled.
    """

    def __init__(
        self,
        B: int,
        H: int,
        T_max: int,
        D: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ):
        self.k = torch.zeros(B, H, T_max, D, dtype=dtype, device=device)
        self.v = torch.zeros(B, H, T_max, D, dtype=dtype, device=device)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, H, T_new, D) more and return all so far, (B, H, length, D) each.

        Raises ValueError when the cache is too short for them.
        """
        start, end, T_max = self.length, self.length + k.shape[2], self.k.shape[2]
        if end > T_max:
            raise ValueError(f"the cache has room for {T_max} tokens, {end} are needed")
        self.k[:, :, start:end] = k
        self.v[:, :, start:end] = v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order: rows (B_new,) of integers."""
        self.k, self.v = self.k[rows], self.v[rows]


class MultiHeadAttention(nn.Module):
    """H attentions in parallel, each on D = C / H channels, mixed by a last matrix.

    Source: Vaswani et al. 2017, section 3.2.2. No biases unless you ask for them.
    """

    def __init__(self, C: int, H: int, bias: bool = False):
        super().__init__()
        if C % H != 0:
            raise ValueError(f"C={C} channels cannot be cut into H={H} equal heads")
        self.H = H
        self.q_proj = nn.Linear(C, C, bias=bias)
        self.k_proj = nn.Linear(C, C, bias=bias)
        self.v_proj = nn.Linear(C, C, bias=bias)
        self.out_proj = nn.Linear(C, C, bias=bias)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Let each token of x (B, T_q, C) look at memory (B, T_k, C).

        memory None: x looks at itself (self-attention); given: cross-attention.
        mask: boolean, broadcastable to (B, H, T_q, T_k). cache: x is what follows the
        tokens already in it, T_k counts them all; the mask is still yours to give.
        Returns the output (B, T_q, C) and the weights (B, H, T_q, T_k).
        """
        memory = x if memory is None else memory
        q = split_heads(self.q_proj(x), self.H)  # (B, H, T_q, D)
        k = split_heads(self.k_proj(memory), self.H)  # (B, H, T_k, D)
        v = split_heads(self.v_proj(memory), self.H)  # (B, H, T_k, D)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, H, length, D)
        y, weights = scaled_dot_product_attention(q, k, v, mask)  # (B, H, T_q, D)
        return self.out_proj(merge_heads(y)), weights  # (B, T_q, C)


@dataclass(frozen=True)
class AttentionCost:
    """What one attention layer costs in a forward pass. One multiply-add = 2 FLOPs."""

    projection_flops: int  # q, k, v and output matrices
    score_flops: int  # Q Kᵀ
    mix_flops: int  # weights times V
    weight_bytes: int  # the four matrices
    io_bytes: int  # layer input read, output written
    kv_bytes: int  # keys and values of all T_k tokens: the cache of this layer
    table_bytes: int  # one copy of the H tables of T_q x T_k weights

    @property
    def flops(self) -> int:
        """All FLOPs of the matrix products; softmax and mask are left out."""
        return self.projection_flops + self.score_flops + self.mix_flops

    @property
    def bytes(self) -> int:
        """Least traffic to memory: each input once, the table never written."""
        return self.weight_bytes + self.io_bytes + self.kv_bytes

    @property
    def intensity(self) -> float:
        """FLOPs per byte. Below your chip's ratio, memory sets the pace."""
        return self.flops / self.bytes


def attention_cost(
    B: int,
    T_q: int,
    T_k: int,
    C: int,
    H: int,
    cached: bool = False,
    bytes_per_number: int = 2,
) -> AttentionCost:
    """Cost of `MultiHeadAttention(C, H)`, T_q queries over T_k keys, mask ignored.

    cached: keys and values of the T_k - T_q earlier tokens come from a cache, so only
    T_q tokens are projected. Units: FLOPs and bytes, one layer, forward.
    """
    T_new = T_q if cached else T_k  # tokens whose keys and values are computed now
    product = 2 * B * T_q * T_k * C  # H heads of 2 · T_q · T_k · D: H cancels
    return AttentionCost(
        projection_flops=2 * B * C * C * (2 * T_q + 2 * T_new),
        score_flops=product,
        mix_flops=product,
        weight_bytes=4 * C * C * bytes_per_number,
        io_bytes=2 * B * T_q * C * bytes_per_number,
        kv_bytes=2 * B * T_k * C * bytes_per_number,
        table_bytes=B * H * T_q * T_k * bytes_per_number,
    )


def check_shapes(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
    """Raise with the bad shape and the rule, before a broadcast can hide the fault."""
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"q {tuple(q.shape)} and k {tuple(k.shape)} need the same last dimension D:"
            " a score is a dot product of a query and a key"
        )
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(
            f"k {tuple(k.shape)} and v {tuple(v.shape)} need the same T_k (dimension"
            " -2): every key has one value"
        )
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be boolean, True = may look; got {mask.dtype}")
    T_q, T_k = q.shape[-2], k.shape[-2]
    if mask.shape[-2] not in (1, T_q) or mask.shape[-1] not in (1, T_k):
        raise ValueError(
            f"mask {tuple(mask.shape)} must end in (T_q, T_k) = {(T_q, T_k)} or"
            " broadcast to it"
        )
