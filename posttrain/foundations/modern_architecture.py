"""A small modern GPT: the model that every later part of the book trains.

    model = GPT(GPTConfig.of_depth(4, V=65))
    logits = model(tokens)                              # (B, T) -> (B, T, V)
    cache = model.new_cache(B=1, T_max=256)
    logits = model(prompt, cache=cache)                 # fill the cache
    logits = model(next_token, cache=cache)             # one more token

It is Llama's block (RMSNorm before, rotary positions, grouped-query attention, SwiGLU,
no biases) with two options of younger models: a norm on queries and keys, and layers
that see a sliding window. With `qk_norm=False` and no window it *is* Llama: the weights
of `transformers` fit (`posttrain.foundations.modern_architecture_hf`).

Letters: B batch, T time, C channels, L layers, H heads, H_kv heads of keys and values,
D head size, F hidden size of the MLP, V vocabulary. A mask is boolean, True = may look.

Not covered here: mixture of experts, latent attention, longer contexts by scaled
rotation. A kernel that never builds the table of scores is PyTorch's own
(`scaled_dot_product_attention`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from posttrain.foundations.attention import KVCache, merge_heads, split_heads
from posttrain.foundations.language_model import Cache
from posttrain.foundations.modern_architecture_cache import WindowCache
from posttrain.foundations.modern_architecture_parts import (
    RMSNorm,
    SwiGLU,
    grouped_attention,
    rope_tables,
    rotate,
    within_window,
)

ROUND = 32  # the MLP's hidden size is a multiple of this


@dataclass(frozen=True)
class GPTConfig:
    """Shape of a model. Defaults: 0.7 million parameters beside the embedding."""

    V: int
    T: int = 256  # the longest sequence, in tokens
    C: int = 128
    L: int = 4
    H: int = 4
    H_kv: int = 2  # H: multi-head, 1: multi-query, between: grouped-query attention
    mlp: int | None = None  # the MLP's hidden size F; None: 8 C / 3, rounded up
    tied: bool = True  # one matrix for embedding and read-out
    qk_norm: bool = True
    rope_base: float = 10_000.0
    eps: float = 1e-5
    dropout: float = 0.0
    window: int | None = None  # tokens that a local layer sees; None: no local layers
    global_every: int = 4  # with a window: every 4th layer still sees all

    def __post_init__(self):
        for name in ("V", "T", "C", "L", "H", "H_kv", "global_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.C % self.H or (self.C // self.H) % 2:
            raise ValueError(
                f"C={self.C} over H={self.H} heads must give an even head size: rotary"
                " positions turn pairs of channels"
            )
        if self.H % self.H_kv:
            raise ValueError(
                f"H_kv={self.H_kv} must divide H={self.H}: every group of queries has"
                " one head of keys and values"
            )
        if self.window is not None and self.window < 1:
            raise ValueError(f"window={self.window} must be at least 1, or None")

    @classmethod
    def of_depth(cls, depth: int, V: int, **changes) -> GPTConfig:
        """One dial of size: `depth` layers, 32 channels for each of them.

        depth 4 has 0.7 million parameters, 8 has 6, 16 has 46, 24 has 152 (all beside
        the embedding). Any field may be set on top.
        """
        C = 32 * depth
        D = 64 if C % 64 == 0 and C >= 512 else 32
        H = C // D
        H_kv = next(n for n in range(max(1, H // 2), 0, -1) if H % n == 0)
        return cls(**{"V": V, "C": C, "L": depth, "H": H, "H_kv": H_kv, **changes})

    @property
    def D(self) -> int:
        """Channels of one head."""
        return self.C // self.H

    @property
    def F(self) -> int:
        """Width between the MLP's matrices.

        8 C / 3 and three matrices have the parameters of 4 C and two (Shazeer 2020).
        """
        return self.mlp or math.ceil(8 * self.C / 3 / ROUND) * ROUND

    def window_of(self, layer: int) -> int | None:
        """How many tokens layer 0 ... L - 1 sees, itself included; None: all.

        The last of each `global_every` layers is global.
        """
        return None if (layer + 1) % self.global_every == 0 else self.window


class Attention(nn.Module):
    """Causal self-attention with H heads of queries and H_kv of keys and values.

    Query head h reads the keys of head h // (H / H_kv). Source: Ainslie et al. 2023.
    """

    def __init__(self, config: GPTConfig, window: int | None = None):
        super().__init__()
        self.H, self.H_kv, self.D = config.H, config.H_kv, config.D
        self.window, self.dropout = window, config.dropout
        self.q_proj = nn.Linear(config.C, config.H * config.D, bias=False)
        self.k_proj = nn.Linear(config.C, config.H_kv * config.D, bias=False)
        self.v_proj = nn.Linear(config.C, config.H_kv * config.D, bias=False)
        self.out_proj = nn.Linear(config.H * config.D, config.C, bias=False)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.D, config.eps)
            self.k_norm = RMSNorm(config.D, config.eps)
        else:
            self.q_norm = self.k_norm = nn.Identity()

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None = None,
        cache: KVCache | WindowCache | None = None,
    ) -> Tensor:
        """x: (B, T, C) -> (B, T, C). cos, sin: `rope_tables` at the tokens' positions.

        mask: boolean, broadcastable to (B, H, T, T_k), T_k counting the cache; it
        must be causal by itself. None: causal.
        """
        q = self.q_norm(split_heads(self.q_proj(x), self.H))  # (B, H, T, D)
        k = self.k_norm(split_heads(self.k_proj(x), self.H_kv))  # (B, H_kv, T, D)
        v = split_heads(self.v_proj(x), self.H_kv)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, H_kv, T_k, D)
        mask = within_window(mask, x.shape[1], k.shape[2], self.window, x.device)
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(merge_heads(grouped_attention(q, k, v, mask, dropout)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.norm_1 = RMSNorm(config.C, config.eps)
        self.attention = Attention(config, config.window_of(layer))
        self.norm_2 = RMSNorm(config.C, config.eps)
        self.mlp = SwiGLU(config.C, config.F)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, *attention_arguments) -> Tensor:
        """x: (B, T, C) -> (B, T, C)."""
        x = x + self.dropout(self.attention(self.norm_1(x), *attention_arguments))
        return x + self.dropout(self.mlp(self.norm_2(x)))


class GPT(nn.Module):
    """Embedding, L blocks, a norm, a linear read-out called `head`."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.V, config.C)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.L))
        self.norm = RMSNorm(config.C, config.eps)
        self.head = nn.Linear(config.C, config.V, bias=False)
        if config.tied:
            self.head.weight = self.token.weight
        cos, sin = rope_tables(config.T, config.D, config.rope_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        initialise(self)

    def forward(self, tokens: Tensor, **options) -> Tensor:
        """Logits (B, T, V) for the token after each of tokens (B, T).

        The options are those of `hidden`.
        """
        return self.head(self.hidden(tokens, **options))

    def hidden(
        self,
        tokens: Tensor,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """What the read-out reads: (B, T, C), after the last norm.

        tokens: (B, T), those that follow what is in `cache`.
        mask: boolean, broadcastable to (B, H, T, T_k), causal by itself; None: causal.
        positions: (T,) or (B, T); None: count on from the cache.
        Raises ValueError for more than config.T tokens.
        """
        start = cache.length if cache is not None else 0
        end = start + tokens.shape[1]
        if positions is None:
            if end > self.config.T:
                raise ValueError(
                    f"{end} tokens, but the model was made for T={self.config.T}; cut"
                    " the text or make the model with a larger T"
                )
            cos, sin = self.cos[start:end], self.sin[start:end]  # (T, D)
        else:
            cos, sin = self.cos[positions], self.sin[positions]
            if positions.ndim == 2:
                cos, sin = cos[:, None], sin[:, None]  # (B, 1, T, D)
        x = self.token(tokens)  # (B, T, C)
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin, mask, cache[i] if cache is not None else None)
        return self.norm(x)

    def new_cache(self, B: int, T_max: int) -> Cache:
        """An empty cache for B rows of up to T_max tokens, in the weights' dtype.

        Local layers keep their window only.
        """
        config, weight = self.config, self.token.weight
        like = {"dtype": weight.dtype, "device": weight.device}
        cache = Cache()
        for layer in range(config.L):
            window = config.window_of(layer)
            if window is None or window >= T_max:
                cache.append(KVCache(B, config.H_kv, T_max, config.D, **like))
            else:
                cache.append(WindowCache(B, config.H_kv, window, config.D, **like))
        return cache


@torch.no_grad()
def initialise(model: GPT) -> None:
    """Normal weights, at sizes that keep the variance of activations near 1.

    The two matrices that write into the residual stream are smaller by √(2 L): 2 L of
    them add up. Source: Radford et al. 2019, section 2.3, for that factor.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            std = 0.7 / math.sqrt(module.in_features)
            if name.endswith(("out_proj", "down_proj")):
                std /= math.sqrt(2 * model.config.L)
            nn.init.normal_(module.weight, std=std)
    nn.init.normal_(model.token.weight, std=0.02)
    if not model.config.tied:
        nn.init.normal_(model.head.weight, std=0.02)
