"""The experiment of the chapter: a GPT-2 on Shakespeare, and what its parts are worth.

    long     one long run: curve, ten samples, tokens a second, peak memory
    arms     shorter runs that differ in one part: positions, norm, tied read-out
    faults   the same with a planted fault: no mask, targets that are not shifted
    deep     12 layers, narrow: norm before or after, warm-up, small residual outputs
    speed    against the GPT-2 of `transformers`, training and cached generation

Run it over seeds with `python -m ci.measure transformer cpu`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from posttrain.foundations.batches import Batch, Windows, mean_loss, total_loss
from posttrain.foundations.language_model import next_token_loss, parameter_count
from posttrain.foundations.sampling import Sampling
from posttrain.foundations.sampling_generate import generate
from posttrain.foundations.trainer import PRECISIONS, StepRecord, Trainer, fit
from posttrain.foundations.training_run import Recipe, Text, load_text, make_trainer
from posttrain.foundations.transformer import GPT2, GPT2Config
from posttrain.foundations.transformer_speed import (
    peak_memory,
    race_generation,
    race_training,
)
from posttrain.presets import preset_named

VERSION = 1

SAMPLES = 10
Loss = Callable[[nn.Module, Batch], Tensor]


def everyone_sees_everyone(model: nn.Module, batch: Batch) -> Tensor:
    """The planted fault "no mask": each position sees the token it has to predict."""
    inputs, targets = batch
    T = inputs.shape[1]
    mask = torch.ones(T, T, dtype=torch.bool, device=inputs.device)
    return next_token_loss(model(inputs, mask=mask), targets, reduction="sum")


def not_shifted(model: nn.Module, batch: Batch) -> Tensor:
    """The planted fault "targets not shifted": predict the token that was just read."""
    inputs, _ = batch
    return next_token_loss(model(inputs), inputs, reduction="sum")


@dataclass(frozen=True)
class Arm:
    """What differs between runs. warmup None: the recipe's."""

    positions: str = "learned"
    pre_norm: bool = True
    tied: bool = True
    scaled: bool = True  # False: the residual outputs start as large as the rest
    warmup: int | None = None
    loss: Loss = total_loss


ARMS = {
    "learned": Arm(),
    "sinusoidal": Arm(positions="sinusoidal"),
    "none": Arm(positions="none"),
    "post-norm": Arm(pre_norm=False),
    "untied": Arm(tied=False),
}
FAULTS = {
    "no mask": Arm(loss=everyone_sees_everyone),
    "not shifted": Arm(loss=not_shifted),
}
DEEP = {
    "pre-norm": Arm(warmup=0),
    "not scaled": Arm(warmup=0, scaled=False),
    "post-norm": Arm(warmup=0, pre_norm=False),
    "post-norm, warm-up": Arm(pre_norm=False),
}


@dataclass(frozen=True)
class Race:
    """The sizes of one comparison with `transformers`."""

    config: GPT2Config
    B: int
    T: int  # of a training step
    rows: int  # written at once
    new: int  # tokens written to each
    pairs: int


@dataclass(frozen=True)
class Preset:
    """Sizes of one run. `V` is set from the text, `depth` of a recipe is not used."""

    model: GPT2Config
    recipe: Recipe
    short: int  # steps of each arm; a fault gets half of them
    deep: GPT2Config
    deep_recipe: Recipe
    races: dict[str, Race]
    log_every: int
    val_windows: int
    sample: int  # characters of each sample


def baby(V: int = 65) -> GPT2Config:
    """The shape of nanoGPT's Shakespeare model, "baby GPT"."""
    return GPT2Config(V=V, T=256, C=384, L=6, H=6)


PRESETS = {
    "ci": Preset(
        GPT2Config(V=65, T=32, C=48, L=2, H=3),
        Recipe(T=32, B=8, steps=120, lr=2e-2, warmup=5),
        short=30,
        deep=GPT2Config(V=65, T=32, C=24, L=6, H=3),
        deep_recipe=Recipe(T=32, B=4, steps=20, lr=1e-3, optimizer="adamw"),
        races={"small": Race(GPT2Config(V=65, T=64, C=64, L=2), 4, 32, 4, 16, 3)},
        log_every=10,
        val_windows=32,
        sample=64,
    ),
    "cpu": Preset(
        GPT2Config(V=65, T=64, C=128, L=4, H=4),
        Recipe(T=64, B=16, steps=800, lr=1e-2),
        short=150,
        deep=GPT2Config(V=65, T=64, C=64, L=12, H=4),
        deep_recipe=Recipe(T=64, B=8, steps=150, lr=1e-3, optimizer="adamw", warmup=50),
        races={
            "4 x 128": Race(GPT2Config(V=65, T=128, C=128), 16, 64, 8, 100, 11),
            "6 x 384": Race(baby(), 4, 128, 4, 100, 7),
        },
        log_every=50,
        val_windows=192,
        sample=200,
    ),
    "t4": Preset(
        replace(baby(), dropout=0.2),
        Recipe(T=256, B=64, steps=2000, lr=1e-2, precision="fp16"),
        short=300,
        deep=GPT2Config(V=65, T=128, C=128, L=24, H=4),
        deep_recipe=Recipe(
            T=128, B=32, steps=400, lr=1e-3, optimizer="adamw", warmup=100
        ),
        races={"6 x 384": Race(baby(), 64, 256, 64, 200, 11)},
        log_every=100,
        val_windows=512,
        sample=200,
    ),
    "h200": Preset(
        replace(baby(), dropout=0.2),
        Recipe(T=256, B=64, steps=4000, lr=1e-2, precision="bf16"),
        short=500,
        deep=GPT2Config(V=65, T=256, C=256, L=48, H=4),
        deep_recipe=Recipe(
            T=256, B=64, steps=600, lr=1e-3, optimizer="adamw", warmup=150
        ),
        races={
            "6 x 384": Race(baby(), 64, 256, 64, 200, 11),
            "GPT-2 small": Race(GPT2Config.small(), 16, 1024, 16, 200, 11),
        },
        log_every=100,
        val_windows=1024,
        sample=200,
    ),
}


def run(preset: str, seed: int) -> dict:
    """Train everything; return a JSON-able dict. Losses are nats a character.

    Raises ValueError for an unknown preset.
    """
    setup = preset_named(PRESETS, preset)
    text = load_text(setup.recipe.data)
    V = text.tokenizer.vocab_size
    setup = replace(
        setup, model=replace(setup.model, V=V), deep=replace(setup.deep, V=V)
    )
    recipe = replace(setup.recipe, seed=seed)
    short = replace(recipe, steps=setup.short)
    faulty = replace(recipe, steps=setup.short // 2)
    deep = replace(setup.deep_recipe, seed=seed)
    return {
        "preset": preset,
        "seed": seed,
        "config": {"model": asdict(setup.model), "recipe": asdict(recipe)}
        | {"deep": asdict(setup.deep), "deep_recipe": asdict(deep)},
        "data": {**text.about, "short": setup.short, "V": V},
        "long": run_long(setup, recipe, text),
        "arms": {
            name: train(setup, setup.model, arm, short, text)[1]
            for name, arm in ARMS.items()
        },
        "faults": {
            name: run_fault(setup, arm, faulty, text) for name, arm in FAULTS.items()
        },
        "deep": {
            name: train(setup, setup.deep, arm, deep, text)[1]
            for name, arm in DEEP.items()
        },
        "speed": {name: run_race(race, recipe) for name, race in setup.races.items()},
    }


def build(config: GPT2Config, arm: Arm, seed: int) -> GPT2:
    """A fresh model of an arm."""
    torch.manual_seed(seed)
    model = GPT2(
        replace(config, positions=arm.positions, pre_norm=arm.pre_norm, tied=arm.tied)
    )
    if not arm.scaled:
        undo_scaling(model)
    return model


@torch.no_grad()
def undo_scaling(model: GPT2) -> None:
    """Give the matrices that write into the stream the deviation of all others."""
    for block in model.blocks:
        for writer in (block.attention.out_proj, block.mlp.down_proj):
            writer.weight.mul_(math.sqrt(2 * model.config.L))


def train(
    setup: Preset, config: GPT2Config, arm: Arm, recipe: Recipe, text: Text
) -> tuple[Trainer, dict]:
    """Train an arm from scratch: the trainer, and its curve with the final losses.

    The curve holds the mean training loss since the last point, and the validation
    loss on fixed windows, both under the arm's own loss.
    """
    model = build(config, arm, recipe.seed).to(device())
    if arm.warmup is not None:
        recipe = replace(recipe, warmup=arm.warmup)
    trainer = make_trainer(recipe, model, text)
    trainer.loss = arm.loss
    first = mean_loss_of(arm.loss, model, validation(setup, recipe, text))
    curve: dict[str, list] = {"step": [], "train": [], "val": []}
    since: list[float] = []

    def note(record: StepRecord) -> None:
        since.append(record.loss)

    def log() -> None:
        val = mean_loss_of(arm.loss, model, validation(setup, recipe, text))
        curve["step"].append(trainer.step)
        curve["train"].append(round(sum(since) / len(since), 4))
        curve["val"].append(round(val, 4))
        since.clear()

    fit(trainer, note, [(setup.log_every, log)])
    return trainer, {
        "parameters": parameter_count(model),
        "first": round(first, 4),
        "curve": curve,
        "val": curve["val"][-1],
    }


def run_long(setup: Preset, recipe: Recipe, text: Text) -> dict:
    """The long run, measured: losses, time, memory, samples and what is new in them."""
    before, start = peak_memory(device()), time.perf_counter()
    cpu_start = time.process_time()
    trainer, result = train(setup, setup.model, Arm(), recipe, text)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    fixed = Windows(text.train, recipe.B, recipe.T, device=device())
    samples = write(trainer.model, text, "\n", SAMPLES, setup.sample, recipe.seed)
    return {
        **result,
        "train": round(mean_loss(trainer.model, fixed.fixed(setup.val_windows)), 4),
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "tokens_per_cpu_second": round(recipe.steps * recipe.B * recipe.T / cpu),
        "memory_before": round(before, 1),
        "memory_peak": round(peak_memory(device()), 1),
        "samples": samples,
        **originality(samples, text),
    }


def run_fault(setup: Preset, arm: Arm, recipe: Recipe, text: Text) -> dict:
    """A fault by its own measure, by the honest one, and in a sample."""
    trainer, result = train(setup, setup.model, arm, recipe, text)
    honest = mean_loss(trainer.model, validation(setup, recipe, text))
    [sample] = write(trainer.model, text, "ROMEO:\n", 1, 60, recipe.seed)
    return {**result, "honest": round(honest, 4), "sample": sample}


def run_race(sizes: Race, recipe: Recipe) -> dict:
    """Training and generation against `transformers`, numbers rounded."""
    dtype = PRECISIONS[recipe.precision] or torch.float32
    where = {"pairs": sizes.pairs, "device": device(), "dtype": dtype}
    found = {
        "training": race_training(sizes.config, sizes.B, sizes.T, **where),
        "generation": race_generation(sizes.config, sizes.rows, 16, sizes.new, **where),
    }
    for result in found.values():
        for key, value in result.items():
            if isinstance(value, float):
                result[key] = float(f"{value:.4g}")
    return {"dtype": str(dtype), **found}


def write(
    model: GPT2, text: Text, prompt: str, n: int, length: int, seed: int
) -> list[str]:
    """n samples after a prompt, at temperature 0.8."""
    where = next(model.parameters()).device
    rows = generate(
        model,
        [text.tokenizer.encode(prompt)] * n,
        length,
        settings=Sampling(temperature=0.8),
        generator=torch.Generator(where).manual_seed(seed),
        slide=True,
    )
    return [text.tokenizer.decode(row.tokens) for row in rows]


def originality(samples: list[str], text: Text) -> dict[str, float]:
    """Two numbers to read samples by, against the text that was trained on.

    known_words: share of their words that it has; the last word may be cut off and is
    left out. longest_copy: characters of the longest piece that stands in it as it is.
    """
    source = text.tokenizer.decode(text.train.tolist())
    vocabulary = set(words(source))
    written = [word for sample in samples for word in words(sample)[:-1]]
    known = sum(word in vocabulary for word in written)
    return {
        "known_words": round(known / max(1, len(written)), 3),
        "longest_copy": max(longest_copy(sample, source) for sample in samples),
    }


def words(text: str) -> list[str]:
    """Runs of letters and apostrophes, in lower case."""
    letters = "".join(c if c.isalpha() or c == "'" else " " for c in text.lower())
    return letters.split()


def longest_copy(sample: str, source: str) -> int:
    """Length of the longest piece of `sample` that occurs in `source`."""
    best, start = 0, 0
    for end in range(1, len(sample) + 1):
        while sample[start:end] not in source:
            start += 1
        best = max(best, end - start)
    return best


def validation(setup: Preset, recipe: Recipe, text: Text) -> list[Batch]:
    """The same windows for every arm and seed."""
    windows = Windows(text.val, recipe.B, recipe.T, device=device())
    return windows.fixed(setup.val_windows)


@torch.no_grad()
def mean_loss_of(loss: Loss, model: nn.Module, batches: list[Batch]) -> float:
    """Nats a token under any loss, in evaluation mode."""
    was_training = model.training
    model.eval()
    total = sum(loss(model, batch).item() for batch in batches)
    model.train(was_training)
    return total / sum(targets.numel() for _, targets in batches)


def device() -> str:
    """Where runs happen: a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
