"""The experiment of the chapter: what it returns, and that its presets can be built."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from posttrain.foundations import sampling_experiment as experiment
from posttrain.foundations import training_run
from posttrain.foundations.batches import total_loss
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.training_run import Recipe


def tiny_preset():
    """All of `run` in about a second."""
    return replace(
        experiment.PRESETS["ci"],
        recipe=Recipe(depth=1, context=40, T=16, B=4, steps=4, warmup=1),
        prompts=6,
        beam_prompts=2,
        game_depth=1,
        game_B=4,
        game_steps=24,
        puzzles=3,
        tries=4,
        ks=(1, 4),
    )


@pytest.fixture(scope="module")
def tiny_run():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTTRAIN_OFFLINE", "1")
        patch.setitem(experiment.PRESETS, "tiny", tiny_preset())
        yield partial(experiment.run, "tiny"), experiment.run("tiny", 0)


def test_result_holds_what_the_chapter_shows(tiny_run):
    _, result = tiny_run
    assert json.loads(json.dumps(result)) == result
    text = result["text"]
    assert set(text["families"]) == set(experiment.FAMILIES)
    for name, rows in text["families"].items():
        assert [row["value"] for row in rows] == list(experiment.FEW[name])
    for row in (text["human"], text["greedy"], *text["beam"]):
        assert len(row["nats_by_position"]) == experiment.BINS
        assert len(row["samples"]) == 2
    assert text["greedy"]["entropy"] == 0
    assert text["human"]["log_kept"] == pytest.approx(0, abs=1e-6)
    for row in result["game"]["temperature"] + result["game"]["top-p"]:
        assert len(row["pass"]) == 2
        assert row["pass"][0] <= row["pass"][1] <= 1
        assert 1 <= row["different"] <= 4


def test_one_beam_is_greedy_text(tiny_run):
    _, result = tiny_run
    one = result["text"]["beam"][0]
    assert one["value"] == 1
    assert one["samples"] == result["text"]["greedy"]["samples"]


def test_runs_repeat_and_follow_the_seed(tiny_run):
    run, result = tiny_run
    assert run(0) == result
    other = run(1)
    assert other["text"]["val"] != result["text"]["val"]
    assert other["text"]["human"]["samples"] != result["text"]["human"]["samples"]


def test_every_preset_draws_as_often_as_it_counts():
    for setup in experiment.PRESETS.values():
        assert max(setup.ks) <= setup.tries
        assert setup.recipe.context >= setup.recipe.T
        assert setup.beams[0] == 1


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match="unknown preset 'huge'.*ci, cpu, t4, h200"):
        experiment.run("huge", 0)


@pytest.mark.parametrize("preset", ["t4", "h200"])
def test_big_presets_build_and_step(preset):
    setup = experiment.PRESETS[preset]
    recipe = setup.recipe
    with FakeTensorMode():
        models = [
            (training_run.make_model(recipe, V=65), recipe.B, recipe.T),
            (GPT(GPTConfig.of_depth(setup.game_depth, V=16, T=16)), setup.game_B, 12),
        ]
        for model, B, T in models:
            batch = torch.zeros(2, B, T, dtype=torch.long)
            total_loss(model, tuple(batch)).backward()
            assert model.token.weight.grad.shape == model.token.weight.shape
