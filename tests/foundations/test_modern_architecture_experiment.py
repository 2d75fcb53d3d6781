"""The experiment of the chapter, and what its committed results must show."""

import json
import statistics
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from posttrain import results
from posttrain.foundations import modern_architecture_experiment as experiment
from posttrain.foundations.batches import total_loss
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.modern_architecture_ablation import (
    AblationConfig,
    AblationGPT,
)

TINY_GPT = GPTConfig(V=65, T=80, C=16, L=1, H=2)


def tiny_preset():
    """All of `run` in about three seconds."""
    timing = experiment.Timing(TINY_GPT, 1, 4, 2, 3, 1)
    return replace(
        experiment.PRESETS["ci"],
        model=AblationConfig(V=0, T=8, C=16, L=1, H=4, H_kv=4, F=64),
        B=2,
        steps=20,
        val_windows=3,
        timing={"tiny": timing},
        uncached=timing,
    )


@pytest.fixture(scope="module")
def tiny_run():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTTRAIN_OFFLINE", "1")
        patch.setitem(experiment.PRESETS, "tiny", tiny_preset())
        whole = experiment.bytes_at
        patch.setattr(experiment, "bytes_at", lambda T: whole(300))
        yield experiment.run("tiny", 0)


def test_result_holds_what_the_chapter_shows(tiny_run):
    assert json.loads(json.dumps(tiny_run)) == tiny_run
    assert list(tiny_run["steps"])[:2] == ["GPT-2", "RMSNorm"]
    assert len(tiny_run["steps"]) == 7
    for arm in tiny_run["steps"].values():
        assert len(arm["train"]) == 20
        assert 2.5 < arm["val"] < 5
    kinds = {"RoPE", "RoPE, window T", "learned", "none", "alibi"}
    assert set(tiny_run["lengths"]) == kinds
    for arm in tiny_run["lengths"].values():
        assert len(arm["by_position"]) == experiment.BUCKETS
        mean = statistics.mean(arm["by_position"])
        assert arm["at_length"]["4"] == pytest.approx(mean, abs=1e-3)
    assert tiny_run["speed"]["tiny"]["equal_text"]
    assert tiny_run["cache"]["equal_text"]
    for row in tiny_run["bytes"]:
        assert row["measured"] == row["formula"]


def test_a_window_of_t_changes_nothing_up_to_t(tiny_run):
    whole, windowed = (tiny_run["lengths"][n] for n in ("RoPE", "RoPE, window T"))
    T = experiment.BUCKETS // experiment.LONGER
    assert whole["by_position"][:T] == windowed["by_position"][:T]
    assert whole["by_position"][T:] != windowed["by_position"][T:]


def test_the_long_windows_begin_with_their_short_loss(tiny_run):
    for arm in tiny_run["lengths"].values():
        first = arm["by_position"][: experiment.BUCKETS // experiment.LONGER]
        assert arm["at_length"]["1"] == pytest.approx(statistics.mean(first), abs=1e-3)


def test_unknown_presets_list_the_known_ones():
    with pytest.raises(ValueError, match="'huge'; known presets: ci, cpu, t4, h200"):
        experiment.run("huge", 0)


@pytest.mark.parametrize("preset", ["t4", "h200"])
def test_big_presets_build_and_step(preset):
    setup = experiment.PRESETS[preset]
    setup = replace(setup, model=replace(setup.model, V=65))
    steps, _ = experiment.arms_of(setup)
    windows = torch.zeros(setup.B, setup.model.T, dtype=torch.long)
    timings = [*setup.timing.values(), setup.uncached]
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = AblationGPT(list(steps.values())[-1])
        total_loss(model, (windows, windows)).backward()
    with torch.device("meta"):
        for shape in {timing.model for timing in timings}:
            GPT(shape)(windows[:1].to("meta"))
    assert all(64 + timing.new <= timing.model.T for timing in timings)


# --- the committed results -----------------------------------------------------------


@pytest.fixture(scope="module")
def runs():
    record = results.load("modern_architecture", "cpu")
    assert record["version"] == experiment.VERSION
    assert len(record["runs"]) >= 3
    return [run["result"] for run in record["runs"]]


def pooled(runs, size, what):
    return [pair for run in runs for pair in run["speed"][size][what]["pairs"]]


@pytest.mark.parametrize("what", ["train", "generate"])
@pytest.mark.parametrize("size", ["0.7 M", "4 M"])
def test_as_fast_as_llama_of_transformers(runs, size, what):
    assert statistics.median(pooled(runs, size, what)) >= 1.0
    assert all(run["speed"][size]["equal_text"] for run in runs)


def test_the_cache_is_at_least_four_times_faster(runs):
    for run in runs:
        assert run["cache"]["new"] == 448
        assert 3.5e6 < run["cache"]["parameters"] < 4.5e6
        assert run["cache"]["ratio"] >= 4
        assert run["cache"]["equal_text"]


def test_bytes_in_memory_are_those_of_the_formula(runs):
    for run in runs:
        rows = {row["name"]: row for row in run["bytes"]}
        assert all(row["measured"] == row["formula"] for row in rows.values())
        mha, gqa = rows["MHA, 8 heads"], rows["GQA, 2 heads"]
        assert mha["measured"] == 4 * gqa["measured"]


def test_arms_were_compared_at_equal_parameters(runs):
    for run in runs:
        sizes = [arm["parameters"] for arm in run["steps"].values()]
        assert max(sizes) / min(sizes) < 1.005


def test_what_the_chapter_says_of_the_changes_holds(runs):
    names = list(runs[0]["steps"])
    loss = torch.tensor([[run["steps"][n]["val"] for n in names] for run in runs])
    change = dict(zip(names[1:], (loss[:, 1:] - loss[:, :-1]).T, strict=True))
    spread = (loss.max(0).values - loss.min(0).values).mean()
    assert (change["RoPE"] < -2 * spread).all()
    assert (change["no biases"] > 0).all()
    assert (change["SwiGLU"] > 0).all()
    assert abs(change["RMSNorm"].mean()) < spread / 2
    assert (loss[:, -1] < loss[:, 0]).all()


def test_positions_beyond_the_training_length(runs):
    for run in runs:
        rise = {
            name: arm["at_length"]["4"] - arm["at_length"]["1"]
            for name, arm in run["lengths"].items()
        }
        assert rise["learned"] > 0.5
        assert 0.05 < rise["RoPE"] < rise["learned"]
        assert rise["RoPE, window T"] < rise["RoPE"] / 3
        assert rise["alibi"] < 0
