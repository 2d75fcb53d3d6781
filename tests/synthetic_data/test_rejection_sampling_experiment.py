"""The experiment of the chapter: what it returns, and that its presets can be built."""

import json
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from posttrain import results
from posttrain.alignment import chat_sft_artifact
from posttrain.alignment.chat_template import encode_prompt, encode_reply
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.foundations.modern_architecture import GPT
from posttrain.foundations.sampling import token_logprobs
from posttrain.synthetic_data import rejection_sampling_artifact as start
from posttrain.synthetic_data import rejection_sampling_experiment as experiment
from posttrain.synthetic_data.rejection_sampling_arms import ARMS
from posttrain.synthetic_data.rejection_sampling_paths import Exam, paths, written

TINY = start.Start(exam=Exam((1,)), C=32, L=1, demonstrations=100, B=32, steps=80)


@pytest.fixture(scope="module")
def tiny_run():
    """All of `run` with a start that is right now and then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(start.PRESETS, "tiny", TINY)
        patch.setattr(experiment.artifacts, "get", artifact)
        setup = replace(
            experiment.PRESETS["ci"],
            questions=48,
            k=4,
            problems=12,
            n=8,
            steps=2,
            shared="tiny",
            iteration=replace(experiment.Iteration(), rounds=2, questions=24, steps=2),
        )
        patch.setitem(experiment.PRESETS, "tiny", setup)
        yield experiment.run("tiny", 0)


def artifact(name, preset):
    """What `artifacts.get` gives, of tiny models."""
    if name == "synthetic_data.rejection_sampling":
        return start.build(preset)
    easy = replace(
        chat_sft_artifact.PRESETS["ci"],
        difficulty=chat_sft_artifact.Difficulty(steps=1, most=9),
        **{"C": 32, "L": 1, "demonstrations": 150, "B": 32, "steps": 60, "T": 80},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(chat_sft_artifact.PRESETS, preset, easy)
        return chat_sft_artifact.build(preset)


def test_result_holds_what_the_chapter_shows(tiny_run):
    assert json.loads(json.dumps(tiny_run)) == tiny_run
    assert list(tiny_run["arms"]) == ["every reply", "no verifier"]
    for arm in tiny_run["arms"].values():
        assert arm["learned"]["replies"] >= arm["learned"]["questions"] > 0
        assert arm["pass"]["1"] == pytest.approx(arm["right"], abs=1e-4)
    everything = tiny_run["arms"]["no verifier"]["learned"]
    assert everything["replies"] == 48 * 4 and everything["questions"] == 48
    fresh = tiny_run["rounds"]["fresh"]
    assert len(fresh["looks"]) == 2 and len(fresh["curve"]) == 3
    shared = tiny_run["shared"]
    assert shared["rollouts"] == 512 and len(shared["rounds"]) == 1
    assert set(shared["before"]) == set(shared["after"]) >= {"thinks", "greedy"}


def test_curves_of_choice(tiny_run):
    choice = tiny_run["choice"]
    assert choice["n"] == [1, 2, 4, 8]
    scored = [choice["curves"][name] for name in ("exact", "likely", "learned")]
    assert len({curve[0] for curve in scored}) == 1  # of one reply there is no choice
    assert choice["curves"]["exact"] == sorted(choice["curves"]["exact"])


def test_the_start_of_seed_0_is_the_artifact(monkeypatch):
    monkeypatch.setitem(start.PRESETS, "tiny", replace(TINY, steps=20))
    monkeypatch.setattr(experiment.artifacts, "get", artifact)
    zero, recipe = experiment.start_of("tiny", 0)
    again = start.recipe_of("tiny", 0).trainer()
    experiment.fit(again)
    assert recipe == start.recipe_of("tiny", 0)
    assert torch.equal(zero.token.weight, again.model.token.weight)
    one, recipe = experiment.start_of("tiny", 1)
    assert recipe.seed == 1
    assert not torch.equal(zero.token.weight, one.token.weight)


def test_every_preset_measures_every_arm():
    for name in ("cpu", "t4", "h200"):
        assert experiment.PRESETS[name].arms == tuple(ARMS)
        assert len(experiment.PRESETS[name].rounds) == 5


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match="unknown preset 'huge'.*ci, cpu, t4, h200"):
        experiment.run("huge", 0)
    with pytest.raises(ValueError, match="unknown preset 'huge'.*ci, cpu, t4, h200"):
        start.recipe_of("huge")


@pytest.mark.parametrize("preset", ["ci", "cpu", "t4", "h200"])
def test_questions_and_answers_fit_the_model(preset):
    setup, recipe = experiment.PRESETS[preset], start.recipe_of(preset)
    tok = tokenizer()
    for problem in recipe.exam.problems(1, 60):
        for path in paths(problem).values():
            text = f"<think>{written(path)}</think>{problem.answer}"
            assert len(encode_reply(tok, text)) <= setup.max_new
        assert len(encode_prompt(tok, problem.question)) + setup.max_new <= recipe.T


@pytest.mark.parametrize("preset", ["t4", "h200"])
def test_big_presets_build_and_step(preset):
    recipe, B = start.recipe_of(preset), experiment.PRESETS[preset].iteration.B
    with FakeTensorMode():
        model = GPT(recipe.config())
        tokens = torch.zeros(B, recipe.T, dtype=torch.long)
        (-token_logprobs(model(tokens), tokens)).sum().backward()
        assert model.token.weight.grad.shape == model.token.weight.shape


# --- what the chapter says of the measured runs ---------------------------------------


@pytest.fixture(scope="module")
def runs() -> list[dict]:
    found = [run["result"] for run in results.load("rejection_sampling", "cpu")["runs"]]
    assert len(found) >= 3
    return found


def test_measured_choice(runs):
    for run in runs:
        at = {n: i for i, n in enumerate(run["choice"]["n"])}
        curves = run["choice"]["curves"]
        exact, learned = curves["exact"], curves["learned"]
        assert exact == sorted(exact) and exact[-1] >= 0.99
        assert learned[at[4]] > learned[0] > learned[at[64]]
        assert curves["vote"][at[64]] > curves["likely"][at[64]]
        assert curves["likely"][at[4]] > max(curves["vote"][at[4]], learned[at[4]])


def test_measured_filters(runs):
    for run in runs:
        start, arms = run["start"]["right"], run["arms"]
        gain = {name: arm["right"] - start for name, arm in arms.items()}
        false = {name: arm["learned"]["false"] for name, arm in arms.items()}
        assert gain["steps checked"] > gain["every reply"] > 0 > gain["no verifier"]
        assert gain["every reply"] > gain["5 % of the wrong"]
        assert gain["every reply"] > 2 * gain["20 % of the wrong"]
        assert gain["every reply"] > gain["one a calculation"]
        assert false["one a calculation"] > 3 * false["every reply"]
        assert gain["k = 4, T = 0.3"] > max(gain["k = 4"], gain["k = 4, T = 1.3"])
        lower = [n for n in arms if arms[n]["pass"]["16"] < run["start"]["pass"]["16"]]
        assert {"k = 1", "k = 4, T = 1.3"} <= set(lower)


def test_measured_rounds(runs):
    for run in runs:
        curves = {way: found["curve"] for way, found in run["rounds"].items()}
        last = {way: curve[-1]["right"] for way, curve in curves.items()}
        assert max(last, key=last.get) == "steps checked"
        assert last["fresh"] > max(last["stale"], last["same questions"])
        assert last["no verifier"] < curves["no verifier"][0]["right"]
        assert run["rounds"]["same questions"]["looks"][-1]["right"] > 0.88
        for way in ("fresh", "steps checked"):
            begun, ended = curves[way][0], curves[way][-1]
            assert 0.4 < ended["nats"] / begun["nats"] < 0.6
            assert 0.75 <= ended["distinct"] / begun["distinct"] <= 0.9
        before, after = run["shared"]["before"], run["shared"]["after"]
        assert before["thinks"] == 0.25 and 0.7 < after["thinks"] < 0.85
        assert before["pass"]["16"] == 1 and after["pass"]["16"] >= 0.98
