"""The experiment of the chapter, the race, and what the measured file must show."""

import json
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from posttrain import results
from posttrain.foundations import transformer_experiment as experiment
from posttrain.foundations import transformer_speed as speed
from posttrain.foundations.batches import total_loss
from posttrain.foundations.language_model import next_token_loss
from posttrain.foundations.optimizers import AdamW
from posttrain.foundations.optimizers_schedules import wsd
from posttrain.foundations.training_run import Recipe
from posttrain.foundations.transformer import GPT2, GPT2Config

TINY = GPT2Config(V=65, T=8, C=12, L=2, H=3)


def tiny_preset():
    """All of `run` in about two seconds."""
    return experiment.Preset(
        TINY,
        Recipe(T=8, B=2, steps=4, lr=1e-2, warmup=1),
        short=4,
        deep=TINY,
        deep_recipe=Recipe(T=8, B=2, steps=2, optimizer="adamw", warmup=1),
        races={"tiny": experiment.Race(replace(TINY, T=24), 2, 8, 2, 4, 1)},
        log_every=2,
        val_windows=3,
        sample=12,
    )


@pytest.fixture(scope="module")
def tiny_run():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTTRAIN_OFFLINE", "1")
        patch.setitem(experiment.PRESETS, "tiny", tiny_preset())
        yield experiment.run("tiny", 0)


def test_result_holds_what_the_chapter_shows(tiny_run):
    assert json.loads(json.dumps(tiny_run)) == tiny_run
    assert set(tiny_run["arms"]) == set(experiment.ARMS)
    assert set(tiny_run["deep"]) == set(experiment.DEEP)
    for arm in tiny_run["arms"].values():
        assert arm["curve"]["step"] == [2, 4]
        assert arm["val"] == arm["curve"]["val"][-1]
    long = tiny_run["long"]
    assert len(long["samples"]) == experiment.SAMPLES
    assert all(len(s) >= 12 for s in long["samples"])  # a special token is longer
    assert long["memory_peak"] >= long["memory_before"] > 10
    assert 0 <= long["known_words"] <= 1
    assert {"honest", "sample"} < set(tiny_run["faults"]["no mask"])
    assert tiny_run["speed"]["tiny"]["generation"]["equal"] is True
    assert tiny_run["arms"]["untied"]["parameters"] > long["parameters"]


def test_same_seed_same_losses(tiny_run):
    setup = tiny_preset()
    text = experiment.load_text("tinyshakespeare")
    model = replace(setup.model, V=text.tokenizer.vocab_size)
    arm = experiment.ARMS["learned"]
    _, again = experiment.train(setup, model, arm, setup.recipe, text)
    assert again["curve"] == tiny_run["long"]["curve"]


def test_faults_are_what_they_say():
    torch.manual_seed(0)
    model = GPT2(TINY).eval()
    batch = torch.randint(65, (2, 8)), torch.randint(65, (2, 8))
    honest = total_loss(model, batch)
    same = next_token_loss(model(batch[0]), batch[0], reduction="sum")
    assert experiment.not_shifted(model, batch) == same
    leak = experiment.everyone_sees_everyone(model, batch)
    assert leak != honest
    changed = batch[0].clone()
    changed[:, -1] = (changed[:, -1] + 1) % 65
    only_first = torch.full((2, 8), -100)
    only_first[:, 0] = batch[1][:, 0]
    for loss, moves in ((total_loss, False), (experiment.everyone_sees_everyone, True)):
        a, b = (loss(model, (x, only_first)) for x in (batch[0], changed))
        assert (a != b) == moves


def test_not_scaled_writers_are_as_wide_as_the_rest():
    config = replace(TINY, C=96, L=8)
    for arm, std in (
        (experiment.Arm(), 0.02 / 4),
        (experiment.Arm(scaled=False), 0.02),
    ):
        model = experiment.build(config, arm, 0)
        for block in model.blocks:
            for writer in (block.attention.out_proj, block.mlp.down_proj):
                assert writer.weight.std().item() == pytest.approx(std, rel=0.1)


def test_longest_copy_and_words():
    assert experiment.longest_copy("xxthe catyy", "in the cat's hat") == len("the cat")
    assert experiment.longest_copy("zz", "abc") == 0
    assert experiment.words("I'll go,\nGo!") == ["i'll", "go", "go"]


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="'huge'; known presets: ci, cpu, t4, h200"):
        experiment.run("huge", 0)


@pytest.mark.parametrize("preset", ["t4", "h200"])
def test_big_presets_build_and_step(preset):
    """At full width. Their layers are alike, so that two stand for 24 or 48."""
    setup = experiment.PRESETS[preset]
    setup = replace(setup, deep=replace(setup.deep, L=2))
    arms = [(setup.model, setup.recipe, experiment.Arm())]
    arms += [(setup.deep, setup.deep_recipe, arm) for arm in experiment.DEEP.values()]
    with FakeTensorMode():
        for config, recipe, arm in arms:
            model = experiment.build(config, arm, 0)
            tokens = torch.zeros(recipe.B, recipe.T, dtype=torch.long)
            loss = arm.loss(model, (tokens, tokens))
            loss.backward()
            AdamW(model.parameters(), lr=1e-3).step()
            assert loss.shape == ()


@pytest.mark.parametrize("preset", experiment.PRESETS)
def test_every_run_of_a_preset_has_room_for_its_schedule(preset):
    """Faults get half the steps of an arm: warm-up and decay must still fit."""
    setup = experiment.PRESETS[preset]
    lengths = [setup.recipe.steps, setup.short, setup.short // 2]
    recipes = [replace(setup.recipe, steps=steps) for steps in lengths]
    for recipe in [*recipes, setup.deep_recipe]:
        decay = max(1, round(recipe.decay * recipe.steps))
        wsd(0, total=recipe.steps, warmup=recipe.warmup, decay=decay)


def test_race_divides_theirs_by_ours(monkeypatch):
    clock = iter([0.0, 1.0, 1.0, 4.0, 4.0, 6.0, 6.0, 8.0])
    monkeypatch.setattr(speed.time, "process_time", lambda: next(clock))
    order = []
    found = speed.race(lambda: order.append("a"), lambda: order.append("b"), 2)
    assert order == ["a", "b", "b", "a", "a", "b"]
    # pair 1: theirs 1, ours 3; pair 2: ours 2, theirs 2
    assert found == {
        "ours": 2.5,
        "theirs": 1.5,
        "ratio": pytest.approx(2 / 3),
        "lowest": pytest.approx(1 / 3),
        "highest": 1.0,
    }


# --- what was measured ---------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    return [run["result"] for run in results.load("transformer", "cpu")["runs"]]


def test_measured_loss_in_time(measured):
    for run in measured:
        assert run["long"]["val"] < 1.75
        assert run["long"]["cpu_seconds"] < 150


def test_measured_as_fast_as_transformers(measured):
    """The median pair of every seed, training and cached generation, both shapes."""
    for run in measured:
        for race in run["speed"].values():
            assert race["generation"]["equal"] is True
            for kind in ("training", "generation"):
                assert race[kind]["ratio"] >= 1.0, (run["seed"], kind, race)


def test_measured_arms_and_faults(measured):
    for run in measured:
        arms = {name: arm["val"] for name, arm in run["arms"].items()}
        deep = {name: arm["val"] for name, arm in run["deep"].items()}
        assert arms["learned"] == min(arms.values())
        assert deep["pre-norm"] < deep["post-norm"] - 0.3
        assert run["faults"]["not shifted"]["val"] < 0.01
        assert run["faults"]["no mask"]["honest"] > 2 * run["faults"]["no mask"]["val"]
