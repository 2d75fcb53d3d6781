"""GPT-2 from scratch: embeddings, pre-norm blocks, a tied read-out.

    model = GPT2(GPT2Config(V=65))
    logits = model(tokens)                          # (B, T) -> (B, T, V)

The model of Radford et al. 2019, as nanoGPT writes it down: learned positions (or
sinusoidal ones), LayerNorm before each sublayer, a GELU MLP four times as wide as the
model, biases everywhere but in the read-out, one matrix for embedding and read-out.
The weights of `transformers` fit: `posttrain.foundations.transformer_hf`.

It has the interface of `posttrain.foundations.language_model`, so the trainer and the
sampler of the book take it as they take its successor, `modern_architecture.GPT`.
Letters: B batch, T time, C channels, H heads, D = C / H, L layers, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posttrain.foundations.attention import KVCache, merge_heads, split_heads
from posttrain.foundations.attention_fused import attend
from posttrain.foundations.language_model import Cache


@dataclass(frozen=True)
class GPT2Config:
    """Shape of a model. `GPT2Config.small(V=50257)` is GPT-2's own smallest."""

    V: int
    T: int = 256  # the longest sequence, in tokens
    C: int = 128
    L: int = 4
    H: int = 4
    positions: str = "learned"  # or "sinusoidal", "none"
    pre_norm: bool = True  # False: the norm after each sum, as in 2017
    tied: bool = True
    eps: float = 1e-5
    dropout: float = 0.0

    def __post_init__(self):
        for name in ("V", "T", "C", "L", "H"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.C % self.H:
            raise ValueError(f"C={self.C} cannot be cut into H={self.H} equal heads")
        if self.positions not in POSITIONS:
            known = ", ".join(POSITIONS)
            raise ValueError(f"positions={self.positions!r}: use one of {known}")

    @classmethod
    def small(cls, V: int = 50_257) -> GPT2Config:
        """GPT-2 small: 124 million parameters."""
        return cls(V=V, T=1024, C=768, L=12, H=12)


POSITIONS = ("learned", "sinusoidal", "none")


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / deviation · gain + bias over the last dimension.

    x: (..., C), gain and bias: (C,). The variance divides by C, not by C - 1.
    Source: Ba et al. 2016, eq. 4.
    """
    mean = x.mean(dim=-1, keepdim=True)
    variance = (x - mean).square().mean(dim=-1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * gain + bias


def gelu(x: Tensor) -> Tensor:
    """x · Φ(x) by GPT-2's formula with tanh; Φ is the normal distribution's.

    Source: Hendrycks and Gimpel 2016, section 2.
    """
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + inner.tanh())


def sinusoids(T: int, C: int) -> Tensor:
    """Fixed positions (T, C): sin and cos of T/C-dependent angles, side by side.

    Channel 2i holds sin(t / 10000^(2i/C)), channel 2i + 1 its cosine.
    Source: Vaswani et al. 2017, section 3.5.
    """
    speed = 10_000.0 ** (-torch.arange(0, C, 2) / C)  # (C / 2,)
    angle = torch.arange(T)[:, None] * speed  # (T, C / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :C]


class Attention(nn.Module):
    """Causal multi-head self-attention with biases."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.H, self.dropout = config.H, config.dropout
        self.q_proj = nn.Linear(config.C, config.C)
        self.k_proj = nn.Linear(config.C, config.C)
        self.v_proj = nn.Linear(config.C, config.C)
        self.out_proj = nn.Linear(config.C, config.C)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C). mask None: causal; it counts the cache's tokens."""
        q = split_heads(self.q_proj(x), self.H)  # (B, H, T, D)
        k = split_heads(self.k_proj(x), self.H)
        v = split_heads(self.v_proj(x), self.H)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, H, T_k, D)
        dropout = self.dropout if self.training else 0.0
        y = attend(q, k, v, mask, mask is None, dropout)  # (B, H, T, D)
        return self.out_proj(merge_heads(y))


class MLP(nn.Module):
    """Widen four times, GELU, narrow again: what each position does on its own."""

    def __init__(self, C: int):
        super().__init__()
        self.up_proj = nn.Linear(C, 4 * C)
        self.down_proj = nn.Linear(4 * C, C)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.down_proj(F.gelu(self.up_proj(x), approximate="tanh"))


class Block(nn.Module):
    """Two residual sums: x + attention(norm(x)), x + mlp(norm(x)).

    With pre_norm=False, norm(x + attention(x)) and norm(x + mlp(x)): the residual
    stream itself is normalised, and no path leads around the norms.
    """

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.norm_1 = nn.LayerNorm(config.C, config.eps)
        self.attention = Attention(config)
        self.norm_2 = nn.LayerNorm(config.C, config.eps)
        self.mlp = MLP(config.C)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.norm_1(x), mask, cache))
            return x + self.dropout(self.mlp(self.norm_2(x)))
        x = self.norm_1(x + self.dropout(self.attention(x, mask, cache)))
        return self.norm_2(x + self.dropout(self.mlp(x)))


class GPT2(nn.Module):
    """Token and position embedding, L blocks, a norm, a linear read-out."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.V, config.C)
        if config.positions == "learned":
            self.position = nn.Embedding(config.T, config.C)
        elif config.positions == "sinusoidal":
            table = 0.02 * math.sqrt(2) * sinusoids(config.T, config.C)
            self.register_buffer("sinusoids", table, persistent=False)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.L))
        # post-norm blocks end in a norm of their own
        last = nn.LayerNorm(config.C, config.eps)
        self.norm = last if config.pre_norm else nn.Identity()
        self.head = nn.Linear(config.C, config.V, bias=False)
        if config.tied:
            self.head.weight = self.token.weight
        self.dropout = nn.Dropout(config.dropout)
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
        """What the read-out reads: (B, T, C). Options: see `language_model`.

        Raises ValueError for more than config.T tokens.
        """
        start = cache.length if cache is not None else 0
        end = start + tokens.shape[1]
        if end > self.config.T:
            raise ValueError(
                f"{end} tokens, but the model has {self.config.T} positions; cut the"
                " text or make the model with a larger T"
            )
        if positions is None:
            positions = torch.arange(start, end, device=tokens.device)  # (T,)
        x = self.dropout(self.token(tokens) + self.place(positions))  # (B, T, C)
        for i, block in enumerate(self.blocks):
            x = block(x, mask, cache[i] if cache is not None else None)
        return self.norm(x)

    def place(self, positions: Tensor) -> Tensor | float:
        """What is added to say where a token stands: (..., T) -> (..., T, C)."""
        if self.config.positions == "learned":
            return self.position(positions)
        if self.config.positions == "sinusoidal":
            return self.sinusoids[positions]
        return 0.0

    def new_cache(self, B: int, T_max: int) -> Cache:
        """An empty cache for B rows of up to T_max tokens, in the weights' dtype."""
        config, weight = self.config, self.token.weight
        shape = (B, config.H, T_max, config.C // config.H)
        return Cache(
            KVCache(*shape, dtype=weight.dtype, device=weight.device)
            for _ in range(config.L)
        )


@torch.no_grad()
def initialise(model: GPT2) -> None:
    """GPT-2's: normal with deviation 0.02, biases 0, and 0.02 / √(2 L) for the two
    matrices of each block that write into the residual stream: 2 L of them add up.

    Source: Radford et al. 2019, section 2.3.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            std = 0.02
            if name.endswith(("out_proj", "down_proj")):
                std /= math.sqrt(2 * model.config.L)
            nn.init.normal_(module.weight, std=std)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
