"""The experiment of the chapter: one training run, what it costs, and how it breaks.

`run(preset, seed)` trains the recipe of the preset and returns numbers:

    train      loss curves, final losses, CPU-seconds, a sample; by precision
    fp16       what loss scaling saves, on the trained model's gradients
    cost       FLOPs, peak, memory by formula and measured, profile, tokens/s over sizes
    restart    a resume that forgets a part of the state, for two optimizers
    uneven     accumulation over micro-batches of uneven size, right and wrong

Run it over seeds with `python -m ci.measure training_loop cpu`.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from statistics import fmean

import torch

from posttrain.foundations import training_loop_cost as cost
from posttrain.foundations.language_model import parameter_count
from posttrain.foundations.training_loop_precision import (
    hidden_gradients,
    lost_in_fp16,
    missing_units,
)
from posttrain.foundations.training_loop_restart import restart_faults
from posttrain.foundations.training_loop_uneven import compare
from posttrain.foundations.training_run import (
    PRESETS as RECIPES,
)
from posttrain.foundations.training_run import (
    Recipe,
    Run,
    Text,
    load_text,
    make_model,
    make_trainer,
)
from posttrain.presets import preset_named

VERSION = 1
SCALES = range(-14, 41, 2)  # loss scales to try, as powers of 2


@dataclass(frozen=True)
class Preset:
    """Sizes of one run of the experiment."""

    recipe: Recipe
    others: tuple[str, ...]  # precisions beside the recipe's, where there are units
    every: int  # steps between two points of a curve
    windows: int  # for the final losses
    grid_B: tuple[int, ...]
    grid_T: tuple[int, ...]
    restart: Recipe
    cut: int  # the step of its checkpoint
    uneven: Recipe


SMALL = Recipe(depth=2, context=256, steps=300, warmup=10, dropout=0.1)
UNEVEN = Recipe(depth=2, context=256, T=192, B=8, micro_batches=4, steps=300)
CPU = Preset(
    recipe=RECIPES["cpu"],
    others=("bf16",),
    every=50,
    windows=512,
    grid_B=(1, 4, 16),
    grid_T=(16, 64, 256),
    restart=SMALL,
    cut=200,
    uneven=UNEVEN,
)
GPU_GRID = {"grid_B": (8, 32, 128), "grid_T": (64, 256, 512)}
PRESETS = {
    "ci": replace(
        CPU,
        recipe=replace(RECIPES["ci"], steps=80),
        others=(),
        every=20,
        windows=64,
        grid_B=(1, 4),
        grid_T=(16, 64),
        restart=replace(SMALL, T=32, B=8, steps=60),
        cut=40,
        uneven=replace(UNEVEN, T=96, B=4, steps=24),
    ),
    "cpu": CPU,
    "t4": replace(CPU, recipe=RECIPES["t4"], others=("fp32",), every=100, **GPU_GRID),
    "h200": replace(
        CPU, recipe=RECIPES["h200"], others=("fp32",), every=100, **GPU_GRID
    ),
}


def run(preset: str, seed: int) -> dict:
    """All of the experiment. Raises ValueError for an unknown preset."""
    setup = preset_named(PRESETS, preset)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = replace(setup.recipe, seed=seed)
    text = load_text(recipe.data)
    trained, curves = train(recipe, setup, text, device)
    trains = {recipe.precision: curves}
    for precision in setup.others:
        if reason := missing_units(precision, device):
            trains[precision] = {"skipped": reason}
            continue
        other = replace(recipe, precision=precision)
        trains[precision] = train(other, setup, text, device)[1]
    return {
        "config": {
            "recipe": asdict(recipe),
            "restart": asdict(setup.restart),
            "cut": setup.cut,
            "uneven": asdict(setup.uneven),
        },
        "data": text.about,
        "device": device,
        "parameters": parameter_count(trained.trainer.model),
        "train": trains,
        "fp16": scaling(trained),
        "cost": costs(recipe, setup, text, device),
        "restart": {
            name: restart_faults(
                replace(setup.restart, optimizer=name, seed=seed),
                text,
                setup.cut,
                device,
            )
            for name in ("muon", "adamw")
        },
        "uneven": compare(replace(setup.uneven, seed=seed), text, device),
    }


def train(recipe: Recipe, setup: Preset, text: Text, device: str) -> tuple[Run, dict]:
    """One run to its end. Only training is timed, not the evaluations between."""
    model = make_model(recipe, text.tokenizer.vocab_size).to(device)
    made = Run(recipe, make_trainer(recipe, model, text), text)
    curve: dict[str, list] = {"step": [], "loss": [], "norm": [], "val": []}
    cpu = wall = 0.0
    while made.trainer.step < recipe.steps:
        steps = min(setup.every, recipe.steps - made.trainer.step)
        before = time.process_time(), time.perf_counter()
        records = [made.trainer.train_step() for _ in range(steps)]
        cost.wait_for(device)
        cpu += time.process_time() - before[0]
        wall += time.perf_counter() - before[1]
        curve["step"].append(made.trainer.step)
        curve["loss"].append(round(fmean(r.loss for r in records), 4))
        curve["norm"].append(round(fmean(r.grad_norm for r in records), 4))
        curve["val"].append(round(made.validate(64), 4))
    tokens = recipe.steps * recipe.micro_batches * recipe.B * recipe.T
    return made, {
        "curve": curve,
        "train": round(made.training_loss(setup.windows), 4),
        "val": round(made.validate(setup.windows), 4),
        "cpu_seconds": round(cpu, 2),
        "wall_seconds": round(wall, 2),
        "tokens": tokens,
        "sample": made.sample("\n", 300),
    }


def scaling(made: Run) -> list[dict]:
    """What is lost in fp16 at each loss scale: the trained model, one batch of it."""
    batch = made.trainer.batches(made.recipe.steps)
    gradients = hidden_gradients(made.trainer.model, batch)
    rows = []
    for power in SCALES:
        lost = lost_in_fp16(gradients, 2.0**power)
        rows.append({"power": power, **{k: round(v, 5) for k, v in lost.items()}})
    return rows


def costs(recipe: Recipe, setup: Preset, text: Text, device: str) -> dict:
    """FLOPs, bytes and seconds of the recipe's step, and tokens/s over sizes."""
    model = make_model(recipe, text.tokenizer.vocab_size).to(device)
    trainer = make_trainer(recipe, model, text)
    B, T, config = recipe.B, recipe.T, model.config
    plain = make_model(replace(recipe, dropout=0.0), config.V).to(device)
    batch = trainer.batches(0)
    profile = cost.step_profile(trainer) if device == "cpu" else None
    return {
        "flops_per_token": cost.flops_per_token(config, T),
        "peak": round(cost.matmul_peak(recipe.precision, device)),
        "memory": cost.state_bytes(trainer) if device == "cpu" else None,
        "activations": {
            "formula": cost.activation_bytes(config, B, T),
            "measured": cost.saved_bytes(plain, batch) if device == "cpu" else None,
        },
        "profile": profile,
        "grid": speeds(recipe, setup, text, device),
    }


def speeds(recipe: Recipe, setup: Preset, text: Text, device: str) -> list[dict]:
    """Tokens a second of whole steps, and their share of the peak, over B and T."""
    rows = []
    for T in setup.grid_T:
        for B in setup.grid_B:
            here = replace(recipe, context=max(T, recipe.context), T=T, B=B)
            model = make_model(here, text.tokenizer.vocab_size).to(device)
            trainer = make_trainer(here, model, text)
            repeats = 3 if device == "cpu" else 10
            each = cost.seconds(trainer.train_step, repeats, device)
            flops = cost.flops_per_token(model.config, T) * B * T
            tokens, flops = round(B * T / each), round(flops / each)
            rows.append({"B": B, "T": T, "tokens": tokens, "flops": flops})
    return rows
