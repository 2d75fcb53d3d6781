"""The trained model that other chapters start from: the preset's recipe, once.

from posttrain import artifacts
made = artifacts.get("foundations.training_loop", "cpu")
model, tokenizer = restore(made)
"""

from __future__ import annotations

from dataclasses import asdict, replace

import torch

from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.tokenization import Tokenizer
from posttrain.foundations.trainer import fit
from posttrain.foundations.training_run import PRESETS, Run
from posttrain.presets import preset_named

CI_STEPS = 250  # some seconds


def build(preset: str) -> dict:
    """Train with the preset's recipe: `model` (state), `config`, `tokenizer`, losses.

    `ci` is cut to what takes a few seconds. Raises ValueError for an unknown preset.
    """
    recipe = preset_named(PRESETS, preset)
    if preset == "ci":
        recipe = replace(recipe, steps=CI_STEPS)
    run = Run.begin(recipe, device="cuda" if torch.cuda.is_available() else "cpu")
    fit(run.trainer)
    state = run.trainer.model.cpu().state_dict()
    return {
        "model": {name: tensor.clone() for name, tensor in state.items()},
        "config": asdict(run.trainer.model.config),
        "tokenizer": run.text.tokenizer.to_dict(),
        "train_loss": run.training_loss(),
        "val_loss": run.validate(),
        "text": dict(run.text.about),
    }


def restore(artifact: dict) -> tuple[GPT, Tokenizer]:
    """The model, in evaluation mode, and its tokenizer."""
    model = GPT(GPTConfig(**artifact["config"]))
    model.load_state_dict(artifact["model"])
    return model.eval(), Tokenizer.from_dict(artifact["tokenizer"])
