"""The experiment of the chapter: optimizers, schedules, batches, averages, overfitting.

`run(preset, seed)` trains one small character model in many ways and returns numbers:

    sweep      five optimizers, each over its own range of learning rates
    schedules  shapes of the learning rate, the right ones and four faults, at one peak
    warmup     final loss over peaks, with warm-up and without
    averages   weights of the last step, EMA, and mean of checkpoints, for three shapes
    noise      noise scale of the gradient along the run at constant rate
    batches    steps to a target loss, over batch sizes and learning rates
    overfit    little data: plain, more decay, dropout, label smoothing, more data

Within a seed all runs start from equal weights; those of equal batch size and text see
the same batches. Run it over seeds with `python -m ci.measure optimizers cpu`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch

from posttrain import data
from posttrain.foundations.attention_experiment import Text, encode
from posttrain.foundations.attention_lm import CharLM, LMConfig, sample_windows
from posttrain.foundations.optimizers_averaging import (
    EMA,
    EarlyStopping,
    average_checkpoints,
)
from posttrain.foundations.optimizers_noise import fit_critical_batch
from posttrain.foundations.optimizers_runs import (
    OPTIMIZERS,
    Run,
    Schedule,
    Task,
    adamw,
    measure_noise,
    short,
    steps_until,
    train,
    validation_loss,
)
from posttrain.foundations.optimizers_schedules import (
    warmup_constant,
    warmup_cosine,
    wsd,
)
from posttrain.presets import preset_named

VERSION = 1


@dataclass(frozen=True)
class Preset:
    """Sizes of one run of the experiment. `model.V` is set from the text."""

    model: LMConfig
    run: Run
    val_windows: int
    rates: dict[str, tuple[int, ...]]  # learning rates 10 ** (k / 2), by optimizer
    peak: float  # of AdamW, for all but the sweep
    batches: tuple[int, ...]
    target: float  # nats, for steps over batch sizes
    noise_batches: int
    few: int  # characters of the small training text
    overfit_steps: int
    patience: int


CPU_RATES = {
    "SGD": (-1, 0, 1, 2),
    "momentum": (-3, -2, -1, 0, 1),
    "Adam": (-6, -5, -4, -3),
    "AdamW": (-6, -5, -4, -3),
    "Muon": (-5, -4, -3, -2),
}
PRESETS = {
    "ci": Preset(
        model=LMConfig(V=0, T=16, C=32, L=1),
        run=Run(steps=40, B=8, log_every=10),
        val_windows=32,
        rates={name: (-5, -3, -1) for name in OPTIMIZERS},
        peak=1e-2,
        batches=(4, 16),
        target=3.0,
        noise_batches=4,
        few=2_000,
        overfit_steps=40,
        patience=2,
    ),
    "cpu": Preset(
        model=LMConfig(V=0, T=32, C=64, L=2),
        run=Run(steps=300, B=16, log_every=25),
        val_windows=128,
        rates=CPU_RATES,
        peak=1e-2,
        batches=(4, 8, 16, 32, 64),
        target=2.3,
        noise_batches=24,
        few=8_000,
        overfit_steps=400,
        patience=3,
    ),
    "t4": Preset(
        model=LMConfig(V=0, T=128, C=256, H=8, L=4),
        run=Run(steps=2000, B=64, log_every=100),
        val_windows=512,
        rates={
            "SGD": (-3, -2, -1, 0, 1, 2),
            "momentum": (-5, -4, -3, -2, -1, 0),
            **{name: (-8, -7, -6, -5, -4) for name in ("Adam", "AdamW", "Muon")},
        },
        peak=1e-3,
        batches=(8, 16, 32, 64, 128, 256),
        target=1.9,
        noise_batches=32,
        few=100_000,
        overfit_steps=3000,
        patience=5,
    ),
}
PRESETS["h200"] = replace(
    PRESETS["t4"],
    model=LMConfig(V=0, T=256, C=384, H=6, L=6),
    run=Run(steps=5000, B=64, log_every=250),
    batches=(8, 16, 32, 64, 128, 256, 512),
    target=1.7,
)


def run(preset: str, seed: int) -> dict:
    """All seven parts; a JSON-able dict. Losses are nats a character.

    Raises ValueError for an unknown preset.
    """
    setup = preset_named(PRESETS, preset)
    corpus = data.load("tinyshakespeare")
    text = encode(corpus.text)
    setup = replace(setup, model=replace(setup.model, V=len(text.chars)))
    task = make_task(setup, text, seed)
    schedules, averages, noise = run_schedules(setup, task)
    config = asdict(setup)
    del config["rates"], config["batches"]  # they stand beside their results
    return {
        "preset": preset,
        "seed": seed,
        "config": config,
        "data": {"name": corpus.name, "source": corpus.source, "sha256": corpus.sha256},
        "sweep": {name: sweep(name, setup, task) for name in OPTIMIZERS},
        "schedules": schedules,
        "averages": averages,
        "noise": noise,
        "warmup": run_warmup(setup, task),
        "batches": run_batches(setup, task),
        "overfit": run_overfit(setup, text, task),
    }


def make_task(setup: Preset, text: Text, seed: int) -> Task:
    """Text on the device; the validation windows are the same for every seed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fixed = torch.Generator().manual_seed(0)
    val = sample_windows(text.val, setup.val_windows, setup.model.T, fixed)
    return Task(setup.model, text.train, val.to(device), seed)


# ---------------------------------------------------------------- optimizers


def cosine(steps: int) -> Schedule:
    """The recipe of most runs here: a tenth warm-up, cosine down to a tenth."""
    return partial(warmup_cosine, total=steps, warmup=steps // 10)


def sweep(name: str, setup: Preset, task: Task) -> dict:
    """One optimizer over its learning rates; the curve of the best one."""
    rows = []
    for k in setup.rates[name]:
        lr = 10 ** (k / 2)
        make = partial(OPTIMIZERS[name], lr=lr)
        curve, _ = train(make, cosine(setup.run.steps), task, setup.run)
        rows.append({"lr": float(f"{lr:.3g}"), "curve": curve})
    finals = [row["curve"]["val"][-1] for row in rows]
    best = min(rows, key=lambda row: row["curve"]["val"][-1] or float("inf"))
    return {
        "lr": [row["lr"] for row in rows],
        "val": finals,
        "best_lr": best["lr"],
        "best_val": best["curve"]["val"][-1],
        "curve": best["curve"],
    }


# ---------------------------------------------------------------- schedules


def shapes(steps: int) -> dict[str, tuple[float, Schedule]]:
    """By name: a factor on the peak, and the schedule. The last four are faults."""
    warm, tail = steps // 10, steps // 5
    early = partial(warmup_cosine, total=steps * 3 // 10, warmup=warm, floor=0.01)
    endless = partial(warmup_cosine, total=10 * steps, warmup=warm)
    return {
        "constant": (1.0, partial(warmup_constant, warmup=warm)),
        "cosine": (1.0, cosine(steps)),
        "WSD": (1.0, partial(wsd, total=steps, warmup=warm, decay=tail)),
        "no warm-up": (1.0, partial(warmup_cosine, total=steps)),
        "too hot": (10.0, cosine(steps)),
        "decay too early": (1.0, early),
        "decay too late": (1.0, endless),
    }


def run_schedules(setup: Preset, task: Task) -> tuple[dict, dict, list]:
    """Each shape's curve; averages for the sound ones; noise along the constant one."""
    curves, averages, noise = {}, {}, []
    for name, (factor, schedule) in shapes(setup.run.steps).items():
        kept = Kept(setup)
        watches: list[Callable] = []
        if name in ("constant", "cosine", "WSD"):
            watches.append(kept)
        if name == "constant":
            watches.append(partial(watch_noise, setup=setup, task=task, into=noise))
        make = partial(adamw, lr=factor * setup.peak)

        def watch(step: int, model: CharLM, watches=watches) -> None:
            for each in watches:
                each(step, model)

        curves[name], model = train(make, schedule, task, setup.run, watch)
        if kept.states:
            averages[name] = kept.losses(model, task)
    return curves, averages, noise


class Kept:
    """Collects an EMA and, over the last fifth of a run, ten checkpoints."""

    def __init__(self, setup: Preset):
        self.steps, self.states, self.ema = setup.run.steps, [], None
        self.tail = self.steps // 5
        self.every = max(1, self.tail // 10)
        self.decay = 1 - 10 / self.steps  # about the last tenth of the run

    def __call__(self, step: int, model: CharLM) -> None:
        """After each step."""
        if self.ema is None:
            self.ema = EMA(model, self.decay)
        else:
            self.ema.update(model)
        left = self.steps - step - 1
        if left < self.tail and left % self.every == 0:
            self.states.append(copy.deepcopy(model.state_dict()))

    def losses(self, model: CharLM, task: Task) -> dict:
        """Validation loss of the last weights, of their EMA, of the mean checkpoint."""
        last = validation_loss(model, task)
        with self.ema.swapped_in(model):
            smooth = validation_loss(model, task)
        model.load_state_dict(average_checkpoints(self.states))
        mean = validation_loss(model, task)
        return {"last": short(last), "ema": short(smooth), "mean": short(mean)}


def watch_noise(
    step: int, model: CharLM, *, setup: Preset, task: Task, into: list
) -> None:
    """At a tenth, a third and the end of the run: the noise scale, in windows."""
    steps = setup.run.steps
    if step + 1 not in (steps // 10, steps // 3, steps):
        return
    b = max(1, setup.run.B // 2)
    found = measure_noise(model, task, setup.noise_batches, b, seed=step)
    into.append(
        {
            "step": step + 1,
            "signal": float(f"{found.signal:.4g}"),
            "variance": float(f"{found.variance:.4g}"),
        }
    )


def run_warmup(setup: Preset, task: Task) -> dict:
    """Final loss of AdamW over peaks, with a tenth of warm-up and with none."""
    factors = (0.3, 1.0, 3.0, 10.0)
    rows: dict[str, list] = {"factor": list(factors)}
    steps = setup.run.steps
    for name, warm in (("with", steps // 10), ("without", 0)):
        schedule = partial(warmup_cosine, total=steps, warmup=warm)
        rows[name] = [
            train(partial(adamw, lr=f * setup.peak), schedule, task, setup.run)[0][
                "val"
            ][-1]
            for f in factors
        ]
    return rows


# ---------------------------------------------------------------- batch size


def run_batches(setup: Preset, task: Task) -> dict:
    """Fewest steps to the target for each batch size, over two learning rates.

    Adam's best rate grows about like the square root of the batch, so the rates tried
    are the peak times (B / B of the preset) ** 0.5, and half of that.
    """
    rows = []
    for B in setup.batches:
        steps = setup.run.steps * max(1, round(2 * (setup.run.B / B) ** 0.5))
        limit = replace(setup.run, B=B, steps=steps, log_every=20)
        found = []
        for factor in (0.5, 1.0):
            lr = factor * setup.peak * (B / setup.run.B) ** 0.5
            schedule = partial(warmup_constant, warmup=20)
            make = partial(adamw, lr=lr)
            found.append(steps_until(setup.target, make, schedule, task, limit))
        rows.append({"B": B, "tried": found})
    best = [min((s for s in row["tried"] if s), default=None) for row in rows]
    done = [(row["B"], s) for row, s in zip(rows, best, strict=True) if s]
    fit = None
    if len(done) >= 3:
        S_min, B_crit = fit_critical_batch(*zip(*done, strict=True))
        fit = {"S_min": round(S_min, 2), "B_crit": round(B_crit, 2)}
    return {"rows": rows, "steps": best, "fit": fit}


# ---------------------------------------------------------------- little data

CURES = {
    "plain": {},
    "decay": {"weight_decay": 1.0},
    "dropout": {"dropout": 0.2},
    "smoothing": {"label_smoothing": 0.1},
    "more data": {"more": 8},
}


def run_overfit(setup: Preset, text: Text, task: Task) -> dict:
    """Curves on a small text, and where early stopping would have stopped."""
    return {name: overfit(setup, text, task, **cure) for name, cure in CURES.items()}


def overfit(
    setup: Preset,
    text: Text,
    task: Task,
    *,
    weight_decay: float = 0.0,
    dropout: float = 0.0,
    label_smoothing: float = 0.0,
    more: int = 1,
) -> dict:
    """Train on `more * setup.few` characters at a constant rate."""
    little = replace(task, train=text.train[: more * setup.few])
    each = replace(
        setup.run,
        steps=setup.overfit_steps,
        dropout=dropout,
        label_smoothing=label_smoothing,
    )
    schedule = partial(warmup_constant, warmup=setup.run.steps // 10)
    make = partial(adamw, lr=setup.peak, weight_decay=weight_decay)
    curve, _ = train(make, schedule, little, each)
    rule, stop = EarlyStopping(setup.patience), None
    for step, value in zip(curve["step"], curve["val"], strict=True):
        if rule.update(step, float("nan") if value is None else value):
            stop = step
            break
    return {
        "curve": curve,
        "stop": stop,
        "kept_step": rule.best_step,
        "kept_val": rule.best,
        "best_val": min(v for v in curve["val"] if v is not None),
    }
