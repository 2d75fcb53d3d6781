"""Bytes that a token leaves in the cache, by formula, and two caches that keep less.

cache_bytes(L=32, T=2048, width=kv_width(H_kv=8, D=128))
WindowCache: a sliding window needs no more than its last tokens
LatentCache: multi-head latent attention keeps one small vector for all heads
"""

from __future__ import annotations

import torch
from torch import Tensor


def kv_width(H_kv: int, D: int) -> int:
    """Numbers a token and layer: a key and a value for each of H_kv heads.

    H_kv = H is multi-head, 1 is multi-query, between is grouped-query attention.
    """
    return 2 * H_kv * D


def latent_width(D_latent: int, D_rope: int) -> int:
    """Numbers a token and layer in latent attention: the latent, one rotated key.

    Source: DeepSeek-AI 2024 (DeepSeek-V2), section 2.1 and table 1.
    """
    return D_latent + D_rope


def cache_bytes(
    L: int,
    T: int,
    width: int,
    B: int = 1,
    bytes_per_number: int = 2,
    window: int | None = None,
    global_layers: int = 0,
) -> int:
    """Bytes of the cache of B texts of T tokens in L layers.

    width: numbers a token and layer. window: all but `global_layers` of the layers
    keep only so many tokens. Raises ValueError for more global layers than layers.
    """
    if not 0 <= global_layers <= L:
        raise ValueError(f"global_layers={global_layers} must be 0 ... L={L}")
    local = T if window is None else min(T, window)
    tokens = global_layers * T + (L - global_layers) * local
    return B * tokens * width * bytes_per_number


class WindowCache:
    """Keys and values of the last `window` tokens; stands in for `KVCache`.

    `length` counts all tokens that went through, because the next position is one
    more. Older ones are dropped: keys are rotated before they come here, so a key does
    not have to know its place.
    """

    def __init__(
        self, B: int, H: int, window: int, D: int, dtype=torch.float32, device=None
    ):
        self.window, self.length = window, 0
        self.k = torch.zeros(B, H, 0, D, dtype=dtype, device=device)
        self.v = torch.zeros(B, H, 0, D, dtype=dtype, device=device)

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, H, T_new, D) more; return what the new tokens may look at.

        That is (B, H, T_k, D) each, with T_k at most window - 1 + T_new.
        """
        self.length += k.shape[2]
        first = max(0, self.k.shape[2] - self.window + 1)  # older: out of sight
        k = torch.cat([self.k[:, :, first:], k], dim=2)
        v = torch.cat([self.v[:, :, first:], v], dim=2)
        # Copies: a slice would keep all of the longer tensor in memory.
        self.k = k[:, :, -self.window :].clone()
        self.v = v[:, :, -self.window :].clone()
        return k, v

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order: rows (B_new,) of integers."""
        self.k, self.v = self.k[rows], self.v[rows]


class LatentCache:
    """What latent attention keeps: a latent (B, T, D_latent), a key (B, T, D_rope).

    All heads make their keys and values of the latent, each with its own matrices; the
    rotated key is shared. How, is the chapter on latent attention; here we weigh it.
    """

    def __init__(
        self, B: int, T_max: int, D_latent: int, D_rope: int, dtype=torch.float32
    ):
        self.latent = torch.zeros(B, T_max, D_latent, dtype=dtype)
        self.key = torch.zeros(B, T_max, D_rope, dtype=dtype)
        self.length = 0

    def append(self, latent: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, T_new, ...) more and return all so far, each (B, length, ...)."""
        start, end = self.length, self.length + latent.shape[1]
        if end > self.latent.shape[1]:
            raise ValueError(
                f"the cache has room for {self.latent.shape[1]} tokens, {end} are"
                " needed"
            )
        self.latent[:, start:end], self.key[:, start:end] = latent, key
        self.length = end
        return self.latent[:, :end], self.key[:, :end]


def held_bytes(*caches) -> int:
    """Bytes of all tensors that these caches hold, counted in memory."""
    tensors = [x for c in caches for x in vars(c).values() if isinstance(x, Tensor)]
    return sum(x.untyped_storage().nbytes() for x in tensors)
