"""From GPT-2 to Llama, one change at a time, at equal parameters.

    arms = steps_from_gpt2(AblationConfig(V=65))    # name -> AblationConfig
    model = AblationGPT(arms["RoPE"])

Every part has a switch, and `steps_from_gpt2` throws them one after the other. A change
that saves weights gives them to the MLP, so that all arms have the same number of
parameters. The last arm is `GPT` itself: its weights fit, its logits are equal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from posttrain.foundations.attention import merge_heads, split_heads
from posttrain.foundations.language_model import parameter_count
from posttrain.foundations.modern_architecture import initialise
from posttrain.foundations.modern_architecture_alibi import alibi_attention
from posttrain.foundations.modern_architecture_glu import (
    GatedMLP,
    PlainMLP,
    matched_width,
)
from posttrain.foundations.modern_architecture_parts import (
    RMSNorm,
    grouped_attention,
    rope_tables,
    rotate,
)

POSITIONS = ("learned", "rope", "alibi", "none")


@dataclass(frozen=True)
class AblationConfig:
    """The switches; the defaults are GPT-2's. Letters as in `GPTConfig`."""

    V: int
    T: int = 64
    C: int = 128
    L: int = 3
    H: int = 8
    H_kv: int = 8
    F: int = 512  # hidden size of the MLP
    norm: str = "layer"  # or "rms"
    position: str = "learned"  # or one of POSITIONS
    mlp: str = "gelu"  # or "swiglu"
    bias: bool = True
    qk_norm: bool = False
    tied: bool = True
    eps: float = 1e-5

    def __post_init__(self):
        for name, known in (
            ("norm", ("layer", "rms")),
            ("position", POSITIONS),
            ("mlp", ("gelu", "swiglu")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: use one of {', '.join(known)}"
                )


def steps_from_gpt2(base: AblationConfig) -> dict[str, AblationConfig]:
    """The arms by name, each with one more change and the parameters of the first.

    base: GPT-2's switches at a size of your choice.
    """
    H_kv = max(1, base.H // 4)
    changes = {
        "GPT-2": {},
        "RMSNorm": {"norm": "rms"},
        "RoPE": {"position": "rope"},
        "SwiGLU": {"mlp": "swiglu", "F": matched_width(base.F)},
        "no biases": {"bias": False},
        f"GQA, {base.H} to {H_kv}": {"H_kv": H_kv},
        "QK norm": {"qk_norm": True},
    }
    target, config, arms = size_of(base), base, {}
    for name, change in changes.items():
        config = replace(config, **change)
        arms[name] = config = with_parameters(config, target)
    return arms


def with_parameters(config: AblationConfig, target: int) -> AblationConfig:
    """The same with an MLP as wide as needed for about `target` parameters."""
    one, two = (size_of(replace(config, F=width)) for width in (1, 2))
    width = 1 + round((target - one) / (two - one))
    if width < 1:
        raise ValueError(f"{one} parameters without an MLP are more than {target}")
    return replace(config, F=width)


def size_of(config: AblationConfig) -> int:
    """Parameters of such a model; none is made."""
    with torch.device("meta"):
        return parameter_count(AblationGPT(config))


def make_norm(config: AblationConfig, width: int) -> nn.Module:
    """LayerNorm with gain and bias, or RMSNorm."""
    kind = nn.LayerNorm if config.norm == "layer" else RMSNorm
    return kind(width, config.eps)


class AblationAttention(nn.Module):
    """Causal self-attention with a choice of positions, biases and shared heads."""

    def __init__(self, config: AblationConfig):
        super().__init__()
        self.config, D = config, config.C // config.H
        self.q_proj = nn.Linear(config.C, config.H * D, bias=config.bias)
        self.k_proj = nn.Linear(config.C, config.H_kv * D, bias=config.bias)
        self.v_proj = nn.Linear(config.C, config.H_kv * D, bias=config.bias)
        self.out_proj = nn.Linear(config.H * D, config.C, bias=config.bias)
        if config.qk_norm:
            self.q_norm, self.k_norm = make_norm(config, D), make_norm(config, D)
        else:
            self.q_norm = self.k_norm = nn.Identity()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None):
        """(B, T, C) -> (B, T, C). mask: causal by itself; None: causal."""
        q = self.q_norm(split_heads(self.q_proj(x), self.config.H))  # (B, H, T, D)
        k = self.k_norm(split_heads(self.k_proj(x), self.config.H_kv))
        v = split_heads(self.v_proj(x), self.config.H_kv)  # (B, H_kv, T, D)
        if self.config.position == "alibi":
            return self.out_proj(merge_heads(alibi_attention(q, k, v)))
        if self.config.position == "rope":
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        return self.out_proj(merge_heads(grouped_attention(q, k, v, mask)))


class AblationBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): in all arms alike."""

    def __init__(self, config: AblationConfig):
        super().__init__()
        make_mlp = PlainMLP if config.mlp == "gelu" else GatedMLP
        self.norm_1 = make_norm(config, config.C)
        self.attention = AblationAttention(config)
        self.norm_2 = make_norm(config, config.C)
        self.mlp = make_mlp(config.C, config.F, bias=config.bias)

    def forward(self, x: Tensor, *attention_arguments) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attention(self.norm_1(x), *attention_arguments)
        return x + self.mlp(self.norm_2(x))


class AblationGPT(nn.Module):
    """Embedding, perhaps of positions too; L blocks, a norm, a tied read-out."""

    def __init__(self, config: AblationConfig):
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.V, config.C)
        if config.position == "learned":
            self.position = nn.Embedding(config.T, config.C)
        self.blocks = nn.ModuleList(AblationBlock(config) for _ in range(config.L))
        self.norm = make_norm(config, config.C)
        self.head = nn.Linear(config.C, config.V, bias=False)
        self.head.weight = self.token.weight
        cos, sin = rope_tables(config.T, config.C // config.H)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        initialise(self)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if config.position == "learned":
            nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) for tokens (B, T). mask: as `AblationAttention` has it."""
        T = tokens.shape[1]
        if T > self.config.T:
            raise ValueError(f"{T} tokens, but the model was made for {self.config.T}")
        if mask is not None and self.config.position == "alibi":
            raise ValueError("mask: the ALiBi arm has its own and takes no other")
        x = self.token(tokens)  # (B, T, C)
        if self.config.position == "learned":
            x = x + self.position.weight[:T]
        for block in self.blocks:
            x = block(x, self.cos[:T], self.sin[:T], mask)
        return self.head(self.norm(x))
