"""The experiment of the chapter: what does a language model lose in fewer bits?

    formats    validation loss with quantized weights: bits, and what shares a scale
    both       the same with quantized activations as well
    outliers   planted outlier channels, by a rescaling that changes no output; what
               breaks, and what mends it
    tuning     fine-tuning on other text: full, LoRA, QLoRA, LoRA over a poorer base

A seed draws the base's weights and batches, the outlier channels and the adapters.
Losses are nats a character. Over seeds: `python -m ci.measure quantization cpu`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch
from posttrain_kernels import nf4
from torch import Tensor, nn

from posttrain.foundations import training_run
from posttrain.foundations.batches import Batch, Windows, mean_loss
from posttrain.foundations.modern_architecture import GPT
from posttrain.foundations.trainer import fit
from posttrain.foundations.training_run import Recipe, Text
from posttrain.infrastructure import quantization_codebook as codebook
from posttrain.infrastructure import quantization_finetune as tune
from posttrain.infrastructure.quantization import round_trip, signal_to_noise
from posttrain.infrastructure.quantization_linear import Int8Linear, outlier_columns
from posttrain.infrastructure.quantization_model import (
    RoundedInput,
    input_absmax,
    linears,
    plant_outliers,
    replace_linears,
    smooth,
    with_weights,
)
from posttrain.presets import preset_named
from posttrain.results import significant

VERSION = 1

WIDTHS = (8, 6, 5, 4, 3, 2)
SHARES = ("tensor", "row", 64)
SMOOTHED = ("int8 weights", "nf4", "int8 per tensor", "int8 per token")
OUTLIER_ARMS = ("float", *SMOOTHED, "split", "split, columns from codes")


@dataclass(frozen=True)
class Preset:
    """Sizes of one run."""

    base: Recipe
    val_windows: int
    factors: tuple[int, ...]  # by which the planted channels are larger
    planted: int  # channels
    steps: int  # of fine-tuning
    every: int  # steps between two points of a curve
    r: int = 8
    alpha: float = 16
    lr: float = 4e-3  # full fine-tuning; both are the best of four, at another seed
    adapter_lr: float = 1e-2
    device: str = "cpu"


GPU = {"val_windows": 256, "planted": 4, "steps": 1000, "every": 100, "device": "cuda"}
PRESETS = {
    "ci": Preset(
        Recipe(depth=2, context=64, T=32, steps=80), 16, (1, 64), 1, steps=10, every=5
    ),
    "cpu": Preset(Recipe(steps=300), 128, (1, 4, 16, 64, 256), 2, steps=120, every=20),
    "t4": Preset(
        Recipe(depth=8, T=256, B=64, steps=1500),
        factors=(1, 4, 16, 64, 256, 1024),
        **GPU,
    ),
    "h200": Preset(
        Recipe(depth=12, T=256, B=128, steps=2000),
        factors=(1, 4, 16, 64, 256, 1024),
        **GPU,
    ),
}


def run(preset: str, seed: int) -> dict:
    """All parts as a JSON-able dict. Raises ValueError for an unknown preset."""
    p = preset_named(PRESETS, preset)
    recipe = replace(p.base, seed=seed)
    text = training_run.load_text("tinyshakespeare")
    base = trained(recipe, text, p.device)
    val = windows(text.val, p)
    result = {
        "config": asdict(p),
        "base": mean_loss(base, val),
        "formats": formats(base, val),
        "both": both(base, val),
        "tables": tables(base),
        "outliers": outliers(base, text, p, val, seed),
        "tuning": tuning(base, text, p, val, seed),
    }
    return significant(result, 6)


def trained(recipe: Recipe, text: Text, device: str) -> GPT:
    """The base: Shakespeare, by the recipe of `training_loop`."""
    model = training_run.make_model(recipe, text.tokenizer.vocab_size).to(device)
    fit(training_run.make_trainer(recipe, model, text))
    return model.eval()


def windows(tokens: np.ndarray, p: Preset) -> list[Batch]:
    """The windows that all losses are taken on."""
    source = Windows(tokens, 32, p.base.T, device=p.device)
    return source.fixed(p.val_windows)


# --- fewer bits ---------------------------------------------------------------------


def formats(base: GPT, val: list[Batch]) -> dict:
    """Quantized weights: loss, divergence and signal to noise, by "int4 row" ..."""
    ways = {
        f"int{bits} {share}": partial(round_trip, bits=bits, share=share)
        for bits in WIDTHS
        for share in SHARES
    }
    ways["nf4 64"] = lambda w: nf4.reference(nf4.quantize(w, nested=False))
    ways["nf4 64 double"] = lambda w: nf4.reference(nf4.quantize(w))
    weights = torch.cat([w.flatten() for w in matrices(base)])
    result = {}
    for name, way in ways.items():
        model = with_weights(base, way)
        changed = torch.cat([w.flatten() for w in matrices(model)])
        snr = signal_to_noise(weights, changed)
        result[name] = {**beside(base, model, val), "snr": snr}
    return result


@torch.no_grad()
def beside(base: GPT, model: GPT, val: list[Batch]) -> dict[str, float]:
    """The model's "loss", and "kl": how far its predictions are from the base's.

    KL(base || model) is a mean over characters, in nats. It is 0 only for the same
    predictions, while a loss may also fall by luck.
    """
    total = count = 0
    for inputs, targets in val:
        p, q = (m(inputs).float().log_softmax(dim=-1) for m in (base, model))
        total += (p.exp() * (p - q)).sum().item()
        count += targets.numel()
    return {"loss": mean_loss(model, val), "kl": total / count}


def matrices(model: GPT) -> list[Tensor]:
    """The weights that are quantized."""
    return [layer.weight.detach() for _, layer in linears(model)]


def both(base: GPT, val: list[Batch]) -> dict:
    """The same with weights (a scale a row) and activations in as many bits."""
    result = {}
    for bits in (8, 6, 5, 4):
        small = with_weights(base, partial(round_trip, bits=bits, share="row"))
        for share, name in (("tensor", "tensor"), ("row", "token")):

            def rounded(_: str, layer: nn.Linear, bits=bits, share=share):
                return RoundedInput(layer, bits, share)

            model = replace_linears(small, rounded)
            result[f"int{bits} {name}"] = beside(base, model, val)
    int8 = replace_linears(base, lambda _, layer: Int8Linear(layer.weight))
    return result | {"int8 token, in integers": beside(base, int8, val)}


def tables(base: GPT) -> dict:
    """Code tables on the trained weights: signal to noise, entropy of the codes."""
    weights = matrices(base)
    kinds = {"nf4": torch.tensor(nf4.CODE), "int4": codebook.uniform_code(4)}
    everything = torch.cat([w.flatten()[: w.numel() // 64 * 64] for w in weights]).cpu()
    kinds["lloyd"] = codebook.lloyd_max(everything, kinds["nf4"])
    result = {}
    for name, code in kinds.items():
        values, q = codebook.decode(everything, code)
        result[name] = {
            "snr": signal_to_noise(everything, values),
            "entropy": codebook.entropy(q),
        }
    return result


# --- outliers -----------------------------------------------------------------------


def outliers(base: GPT, text: Text, p: Preset, val: list[Batch], seed: int) -> dict:
    """Losses by arm, one for each factor; beside them the largest activation, and the
    share of input channels that are split off.

    What calibrates (outlier columns, smoothing) reads training text.
    """
    draw = torch.Generator().manual_seed(seed)
    channels = torch.randperm(base.config.C, generator=draw)[: p.planted].tolist()
    sample = windows(text.train, p)[:1]
    result = {}
    for factor in p.factors:
        planted = plant_outliers(base, channels, float(factor))
        absmax = input_absmax(planted, sample)
        mended = smooth(planted, absmax)
        seen = torch.cat([x for name, x in absmax.items() if name != "head"])
        losses = {"largest": seen.max().item()}
        losses["split off"] = outlier_columns(seen[None]).float().mean().item()
        for name in OUTLIER_ARMS:
            losses[name] = mean_loss(outlier_arm(planted, name, absmax), val)
        for name in SMOOTHED:
            model = outlier_arm(mended, name, absmax)
            losses[f"smoothed, {name}"] = mean_loss(model, val)
        for name, value in losses.items():
            result.setdefault(name, []).append(value)
    return result


def outlier_arm(model: GPT, name: str, absmax: dict[str, Tensor]) -> GPT:
    """The model quantized in one of the ways OUTLIER_ARMS.

    absmax: of `input_absmax`; it decides which columns are split off.
    """
    if name == "float":
        return model
    if name == "int8 weights":
        return with_weights(model, partial(round_trip, bits=8, share="row"))
    if name == "nf4":
        return with_weights(model, lambda w: nf4.reference(nf4.quantize(w)))

    def int8(layer_name: str, layer: nn.Linear) -> Int8Linear:
        split = name.startswith("split")
        return Int8Linear(
            layer.weight,
            per_token=name != "int8 per tensor",
            columns=outlier_columns(absmax[layer_name][None]) if split else None,
            columns_from_codes=name.endswith("from codes"),
        )

    return replace_linears(model, int8)


# --- fine-tuning --------------------------------------------------------------------


def tuning(base: GPT, text: Text, p: Preset, old: list[Batch], seed: int) -> dict:
    """Curves, bytes and the loss on the old text of the arms `tune.ARMS`."""
    tokens, held_out = tune.questions(text.tokenizer)
    val = windows(held_out, p)
    result = {"steps": list(range(0, p.steps + 1, p.every))}
    for name in tune.ARMS:
        torch.manual_seed(seed)
        model = tune.arm(base, name, p.r, p.alpha)
        lr = p.lr if name == "full" else p.adapter_lr
        shape = {"B": p.base.B, "T": p.base.T, "steps": p.steps, "every": p.every}
        result[name] = tune.fine_tune(model, tokens, val, old, lr, seed=seed, **shape)
    return result
