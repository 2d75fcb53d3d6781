"""Weights from `transformers` into our model and back, and a fresh model of theirs.

    ours = from_hf(LlamaForCausalLM.from_pretrained(folder))
    theirs = to_hf(ours)                # and back, to save_pretrained for others
    theirs = make_llama(config)         # the same shape, fresh weights

Llama is `GPT` without a norm on queries and keys; Qwen3 has that norm, with a gain
shared by the heads. The names differ, the numbers do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from posttrain.foundations.modern_architecture import GPT, GPTConfig

if TYPE_CHECKING:  # importing transformers costs a second: only its users pay
    from transformers import LlamaForCausalLM, PreTrainedModel, Qwen3ForCausalLM

NAMES = {  # ours -> theirs, in a layer
    "norm_1": "input_layernorm",
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.out_proj": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "norm_2": "post_attention_layernorm",
    "mlp.gate_proj": "mlp.gate_proj",
    "mlp.up_proj": "mlp.up_proj",
    "mlp.down_proj": "mlp.down_proj",
}
KINDS = ("llama", "qwen3")


def config_of(theirs) -> GPTConfig:
    """Our configuration for a `LlamaConfig` or `Qwen3Config`.

    Raises ValueError for another kind, and for what our model does not have: biases, a
    scaled rotation, a head size that is not C / H, sliding windows.
    """
    if theirs.model_type not in KINDS:
        raise ValueError(
            f"model_type={theirs.model_type!r}: only {' and '.join(KINDS)} fit"
        )
    H = theirs.num_attention_heads
    rope = theirs.rope_parameters
    head_dim = getattr(theirs, "head_dim", None) or theirs.hidden_size // H
    for name, wrong in {
        "attention_bias": getattr(theirs, "attention_bias", False),
        "mlp_bias": getattr(theirs, "mlp_bias", False),
        "rope_type": rope.get("rope_type", "default") != "default",
        "head_dim": head_dim != theirs.hidden_size // H,
        "use_sliding_window": getattr(theirs, "use_sliding_window", False),
    }.items():
        if wrong:
            raise ValueError(f"{name} of this configuration has no counterpart in GPT")
    return GPTConfig(
        V=theirs.vocab_size,
        T=theirs.max_position_embeddings,
        C=theirs.hidden_size,
        L=theirs.num_hidden_layers,
        H=H,
        H_kv=theirs.num_key_value_heads,
        mlp=theirs.intermediate_size,
        tied=theirs.tie_word_embeddings,
        qk_norm=theirs.model_type == "qwen3",
        rope_base=rope["rope_theta"],
        eps=theirs.rms_norm_eps,
    )


def from_hf(theirs: PreTrainedModel) -> GPT:
    """Our model with their weights. Raises ValueError as `config_of` does."""
    ours = GPT(config_of(theirs.config))
    saved = theirs.state_dict()
    ours.load_state_dict({name: saved[their_name(name)] for name in ours.state_dict()})
    return ours.to(theirs.dtype)


def their_name(name: str) -> str:
    """The name that a parameter of ours has in `transformers`."""
    outer = {
        "token.weight": "model.embed_tokens.weight",
        "norm.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
    }
    if name in outer:
        return outer[name]
    _, layer, *rest, kind = name.split(".")
    return f"model.layers.{layer}.{NAMES['.'.join(rest)]}.{kind}"


def to_hf(ours: GPT) -> PreTrainedModel:
    """Their model with our weights: a Qwen3 where queries and keys have a norm, a Llama
    where not. Raises ValueError for windows, which these two do not have.
    """
    config = ours.config
    if config.window is not None:
        raise ValueError(f"window={config.window} has no counterpart here; use None")
    theirs = make_qwen3(config) if config.qk_norm else make_llama(config)
    saved = {their_name(name): value for name, value in ours.state_dict().items()}
    if config.tied:
        saved["lm_head.weight"] = saved["model.embed_tokens.weight"]
    theirs.load_state_dict(saved)
    return theirs


def make_llama(config: GPTConfig) -> LlamaForCausalLM:
    """A fresh Llama of `transformers` with the shape of `config`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():  # our own draws do not depend on theirs
        return LlamaForCausalLM(LlamaConfig(**_shape(config)))


def make_qwen3(config: GPTConfig) -> Qwen3ForCausalLM:
    """A fresh Qwen3 of `transformers` with the shape of `config`."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = Qwen3Config(**_shape(config), head_dim=config.C // config.H)
    with torch.random.fork_rng():
        return Qwen3ForCausalLM(shape)


def _shape(config: GPTConfig) -> dict:
    """What the configurations of both say in the same words."""
    return {
        "vocab_size": config.V,
        "max_position_embeddings": config.T,
        "hidden_size": config.C,
        "intermediate_size": config.F,
        "num_hidden_layers": config.L,
        "num_attention_heads": config.H,
        "num_key_value_heads": config.H_kv,
        "tie_word_embeddings": config.tied,
        "rms_norm_eps": config.eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "attn_implementation": "sdpa",
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
