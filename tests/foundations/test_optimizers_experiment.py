"""One training run, and the experiment of the chapter: what differs between runs."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from posttrain.foundations import optimizers_experiment as experiment
from posttrain.foundations import optimizers_runs as runs
from posttrain.foundations.attention_lm import CharLM, LMConfig
from posttrain.foundations.optimizers_schedules import (
    warmup_constant,
    warmup_cosine,
)


def tiny_preset():
    """All of `run` in about two seconds."""
    return replace(
        experiment.PRESETS["ci"],
        model=LMConfig(V=0, T=6, C=8, H=2, L=1),
        run=runs.Run(steps=10, B=2, log_every=5),
        val_windows=3,
        rates={name: (-6, -4) for name in runs.OPTIMIZERS},
        batches=(2, 4, 8),
        target=5.0,
        noise_batches=2,
        few=100,
        overfit_steps=10,
        patience=1,
    )


@pytest.fixture(scope="module")
def tiny_run():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTTRAIN_OFFLINE", "1")
        patch.setitem(experiment.PRESETS, "tiny", tiny_preset())
        yield experiment.run("tiny", 0)


def test_result_holds_what_the_chapter_shows(tiny_run):
    assert json.loads(json.dumps(tiny_run)) == tiny_run
    assert set(tiny_run["sweep"]) == set(runs.OPTIMIZERS)
    for arm in tiny_run["sweep"].values():
        assert arm["curve"]["step"] == [5, 10]
        assert arm["best_val"] == min(arm["val"]) == arm["curve"]["val"][-1]
        assert arm["lr"][arm["val"].index(arm["best_val"])] == arm["best_lr"]
    assert set(tiny_run["schedules"]) == set(experiment.shapes(10))
    assert set(tiny_run["averages"]) == {"constant", "cosine", "WSD"}
    assert [row["step"] for row in tiny_run["noise"]] == [1, 3, 10]
    assert [row["B"] for row in tiny_run["batches"]["rows"]] == [2, 4, 8]
    assert set(tiny_run["overfit"]) == set(experiment.CURES)


def test_equal_runs_give_equal_numbers(tiny_run):
    """The cosine of the schedules is AdamW of the sweep at that rate."""
    setup = tiny_preset()
    lrs = tiny_run["sweep"]["AdamW"]["lr"]
    at_peak = tiny_run["sweep"]["AdamW"]["val"][lrs.index(setup.peak)]
    assert at_peak == tiny_run["schedules"]["cosine"]["val"][-1]
    assert at_peak == tiny_run["warmup"]["with"][1]
    assert at_peak == tiny_run["averages"]["cosine"]["last"]


def tiny_task(**changes):
    tokens = torch.tensor([0, 1, 2, 0, 1, 3] * 60)
    val = tokens[:28].view(4, 7)
    parts = {"model": LMConfig(V=4, T=6, C=8, H=2, L=1), "train": tokens}
    return runs.Task(**{**parts, "val": val, "seed": 0, **changes})


def test_every_optimizer_learns_the_toy_text():
    rates = {"SGD": 1.0, "momentum": 0.1, "Adam": 1e-2, "AdamW": 1e-2, "Muon": 1e-2}
    for name, make in runs.OPTIMIZERS.items():
        run = runs.Run(steps=60, B=8, log_every=30)
        curve, _ = runs.train(
            partial(make, lr=rates[name]), warmup_constant, tiny_task(), run
        )
        assert curve["val"][-1] < 0.7 < curve["val"][0] or curve["val"][-1] < 0.5, name


def test_a_run_follows_its_schedule():
    rates, made = [], []

    def make(model):
        made.extend(runs.adamw(model, lr=0.5))
        return made

    def watch(step, model):
        rates.append([group["lr"] for group in made[0].param_groups])

    schedule = partial(warmup_cosine, total=6, warmup=2)
    runs.train(make, schedule, tiny_task(), runs.Run(steps=6, B=2), watch)
    assert rates == [[0.5 * schedule(step)] * 2 for step in range(6)]


def test_the_bad_schedules_are_bad_as_the_chapter_says():
    shapes = experiment.shapes(100)
    assert {name: factor for name, (factor, _) in shapes.items() if factor != 1} == {
        "too hot": 10
    }
    last = {name: schedule(99) for name, (_, schedule) in shapes.items()}
    assert last["cosine"] == pytest.approx(0.1, abs=1e-3)
    assert last["WSD"] == pytest.approx(0.05)
    assert last["decay too early"] == shapes["decay too early"][1](30) == 0.01
    assert 0.95 < last["decay too late"] < last["constant"] == 1
    first = {name: schedule(0) for name, (_, schedule) in shapes.items()}
    assert first.pop("no warm-up") == 1
    assert set(first.values()) == {0.1}


def test_each_cure_changes_what_it_says(monkeypatch):
    setup, seen = tiny_preset(), []

    def train(make, schedule, task, run):
        [optimizer] = make(runs.fresh_model(task))
        decay = optimizer.param_groups[0]["weight_decay"]
        seen.append((len(task.train), decay, run.dropout, run.label_smoothing))
        return {"step": [1], "val": [1.0]}, None

    monkeypatch.setattr(experiment, "train", train)
    text = experiment.Text("abcd", torch.zeros(2000, dtype=torch.long), None)
    experiment.run_overfit(setup, text, tiny_task())
    assert dict(zip(experiment.CURES, seen, strict=True)) == {
        "plain": (100, 0, 0, 0),
        "decay": (100, 1.0, 0, 0),
        "dropout": (100, 0, 0.2, 0),
        "smoothing": (100, 0, 0, 0.1),
        "more data": (800, 0, 0, 0),
    }


def test_clipping_bounds_what_the_optimizer_sees():
    seen = []
    model = runs.fresh_model(tiny_task())

    class Spy(torch.optim.SGD):
        def step(self):
            grads = [p.grad for g in self.param_groups for p in g["params"]]
            seen.append(torch.cat([g.flatten() for g in grads]).norm().item())

    run = runs.Run(steps=1, clip=0.01)
    spy = [Spy(model.parameters(), 0.1)]
    _, norm = runs.train_step(model, spy, tiny_task().val, run)
    assert norm > 0.1
    assert seen == [pytest.approx(0.01, rel=1e-3)]


def test_steps_until_interpolates_and_gives_up():
    task, make = tiny_task(), partial(runs.adamw, lr=1e-2)
    run = runs.Run(steps=60, B=8, log_every=20)
    curve, _ = runs.train(make, warmup_constant, task, run)
    middle = (curve["val"][0] + curve["val"][1]) / 2
    found = runs.steps_until(middle, make, warmup_constant, task, run)
    assert found == pytest.approx(30, abs=1)
    assert runs.steps_until(0.0, make, warmup_constant, task, run) is None


def test_measured_noise_leaves_no_gradient_and_the_weights_alone():
    task = tiny_task()
    model = runs.fresh_model(task)
    before = [p.detach().clone() for p in model.parameters()]
    found = runs.measure_noise(model, task, batches=6, B=4, seed=0)
    assert found.variance > 0
    for p, old in zip(model.parameters(), before, strict=True):
        assert p.grad is None
        assert p.equal(old)


def test_numbers_that_are_not_finite_become_none():
    assert runs.short(1.23456) == 1.2346
    assert runs.short(float("nan")) is None


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="'huge'; known presets: ci, cpu, t4, h200"):
        experiment.run("huge", 0)


@pytest.mark.parametrize("preset", ["t4", "h200"])
@pytest.mark.parametrize("name", ["AdamW", "Muon"])
def test_big_presets_build_and_step(preset, name):
    setup = experiment.PRESETS[preset]
    config = replace(setup.model, V=65)
    with FakeTensorMode():
        model = CharLM(config)
        windows = torch.zeros(setup.run.B, config.T + 1, dtype=torch.long)
        optimizers = runs.OPTIMIZERS[name](model, 1e-3)
        loss, norm = runs.train_step(model, optimizers, windows, setup.run)
    assert loss.shape == norm.shape == ()
