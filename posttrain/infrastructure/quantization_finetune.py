"""Fine-tuning arms of the experiment: full, LoRA, QLoRA, LoRA over a poorer base.

The base read Shakespeare; the new text are the questions of GSM8K, in which characters
that Shakespeare does not use (digits most of all) are left out, so that the vocabulary
stays. All arms see the same batches. Only the learning rate differs: adapters want a
larger one than full fine-tuning.
"""

from __future__ import annotations

import copy
import json
from functools import partial

import numpy as np
from torch import nn

from posttrain import data
from posttrain.foundations.batches import Batch, Windows, mean_loss
from posttrain.foundations.modern_architecture import GPT
from posttrain.foundations.optimizers import AdamW
from posttrain.foundations.optimizers_groups import parameter_groups
from posttrain.foundations.optimizers_schedules import wsd
from posttrain.foundations.tokenization import Tokenizer
from posttrain.foundations.trainer import Trainer, fit
from posttrain.infrastructure.quantization import round_trip
from posttrain.infrastructure.quantization_lora import LoRA, NF4Linear
from posttrain.infrastructure.quantization_memory import held_bytes
from posttrain.infrastructure.quantization_model import replace_linears, with_weights

ARMS = ("full", "lora", "qlora", "lora over int2")


def questions(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """GSM8K's questions as the tokens of another text's characters: (train, val)."""
    lines = data.load("gsm8k_train").text.splitlines()
    text = "\n\n".join(json.loads(line)["question"] for line in lines if line.strip())
    known = {c for c in set(text) if _is_known(c, tokenizer)}
    kept = "".join(c for c in text if c in known)
    tokens = np.array(tokenizer.encode(kept), dtype=np.uint16)
    cut = len(tokens) * 9 // 10
    return tokens[:cut], tokens[cut:]


def arm(base: GPT, name: str, r: int, alpha: float) -> GPT:
    """What is trained in the arm `name` of ARMS, a copy of `base` or built on it."""
    if name == "full":
        return copy.deepcopy(base)
    if name not in ARMS:
        raise ValueError(f"arm {name!r}: use one of {ARMS}")
    if name.endswith("int2"):
        base = with_weights(base, partial(round_trip, bits=2, share=64))

    def adapted(_: str, layer: nn.Linear) -> LoRA:
        N, K = layer.weight.shape
        if name == "qlora":
            layer = NF4Linear.from_float(layer.weight)
        return LoRA(layer, N, K, r, alpha)

    model = copy.deepcopy(base).requires_grad_(False)
    return replace_linears(model, adapted)


def fine_tune(
    model: GPT,
    tokens: np.ndarray,
    val: list[Batch],
    old: list[Batch],
    lr: float,
    steps: int,
    every: int,
    B: int,
    T: int,
    seed: int,
) -> dict:
    """Train `model` in place; its losses on new and old text, and the bytes held."""
    device = str(next(model.parameters()).device)
    groups = parameter_groups(model.parameters(), weight_decay=0.0)
    optimizer = AdamW([group for group in groups if group["params"]], lr=lr)
    trainer = Trainer(
        model,
        [optimizer],
        Windows(tokens, B, T, seed, device),
        schedule=partial(wsd, total=steps, warmup=5, decay=steps // 2, floor=0.02),
        steps=steps,
    )
    curve, held = [mean_loss(model, val)], {}

    def look(record) -> None:
        if record.step == 1:
            held.update(held_bytes(model, [optimizer]))
        if record.step % every == 0:
            curve.append(mean_loss(model, val))

    fit(trainer, on_step=look)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "curve": curve,
        "old": mean_loss(model, old),
        "trained": trained,
        "bytes": held,
    }


def _is_known(character: str, tokenizer: Tokenizer) -> bool:
    try:
        return len(tokenizer.encode(character)) == 1
    except ValueError:
        return False
