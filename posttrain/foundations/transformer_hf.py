"""GPT-2's weights from `transformers` into `GPT2`, and a model of theirs of our shape.

    ours = from_hf(GPT2LMHeadModel.from_pretrained("gpt2"))
    theirs = make_gpt2(config)          # the same shape, fresh weights

Two things differ beside names. Theirs keeps q, k and v in one matrix, and its `Conv1D`
stores a weight as (in, out) where `nn.Linear` has (out, in).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from posttrain.foundations.transformer import GPT2, GPT2Config

if TYPE_CHECKING:  # importing transformers costs a second: only its users pay
    from transformers import GPT2LMHeadModel

NAMES = {  # theirs -> ours, in a layer
    "ln_1": "norm_1",
    "attn.c_proj": "attention.out_proj",
    "ln_2": "norm_2",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}
OUTER = {"wte": "token", "wpe": "position", "ln_f": "norm"}


def config_of(theirs) -> GPT2Config:
    """Our configuration for a `GPT2Config` of theirs.

    Raises ValueError for another kind of model and for what ours does not have.
    """
    if theirs.model_type != "gpt2":
        raise ValueError(f"model_type={theirs.model_type!r}: only gpt2 fits")
    wanted = {
        "activation_function": "gelu_new",
        "n_inner": None,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "add_cross_attention": False,
    }
    for name, value in wanted.items():
        if getattr(theirs, name) != value:
            raise ValueError(
                f"{name}={getattr(theirs, name)!r}: our GPT-2 has {value!r} only"
            )
    return GPT2Config(
        V=theirs.vocab_size,
        T=theirs.n_positions,
        C=theirs.n_embd,
        L=theirs.n_layer,
        H=theirs.n_head,
        tied=theirs.tie_word_embeddings,
        eps=theirs.layer_norm_epsilon,
    )


def from_hf(theirs: GPT2LMHeadModel) -> GPT2:
    """Our model with their weights. Raises ValueError as `config_of` does."""
    ours = GPT2(config_of(theirs.config)).to(theirs.dtype)
    ours.load_state_dict(translated(theirs))
    return ours


def translated(theirs: GPT2LMHeadModel) -> dict[str, torch.Tensor]:
    """Their state dict under our names and in our shapes."""
    from transformers.pytorch_utils import Conv1D

    ours = {"head.weight": theirs.lm_head.weight.detach()}
    for path, module in theirs.transformer.named_modules():
        for kind, p in module.named_parameters(recurse=False):
            value = p.detach()
            if isinstance(module, Conv1D) and kind == "weight":
                value = value.T  # (in, out) -> (out, in)
            ours |= _placed(path, kind, value)
    return ours


def _placed(path: str, kind: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """One of their tensors: one of ours, or the three that it is made of."""
    if path in OUTER:
        return {f"{OUTER[path]}.{kind}": value}
    _, layer, inner = path.split(".", 2)
    block = f"blocks.{layer}"
    if inner == "attn.c_attn":  # (3 C, C) and (3 C,)
        parts = zip("qkv", value.chunk(3), strict=True)
        return {f"{block}.attention.{n}_proj.{kind}": part for n, part in parts}
    return {f"{block}.{NAMES[inner]}.{kind}": value}


def make_gpt2(config: GPT2Config) -> GPT2LMHeadModel:
    """A fresh GPT-2 of `transformers` with the shape of `config`.

    Raises ValueError where theirs has no such option: other positions, post-norm.
    """
    from transformers import GPT2Config as TheirConfig
    from transformers import GPT2LMHeadModel

    if config.positions != "learned" or not config.pre_norm:
        raise ValueError(
            f"positions={config.positions!r}, pre_norm={config.pre_norm}: theirs has"
            " learned positions and pre-norm only"
        )
    theirs = TheirConfig(
        vocab_size=config.V,
        n_positions=config.T,
        n_embd=config.C,
        n_layer=config.L,
        n_head=config.H,
        tie_word_embeddings=config.tied,
        layer_norm_epsilon=config.eps,
        resid_pdrop=config.dropout,
        embd_pdrop=config.dropout,
        attn_pdrop=config.dropout,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng():  # our own draws do not depend on theirs
        return GPT2LMHeadModel(theirs)
