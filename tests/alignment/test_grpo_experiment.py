"""The experiment of the chapter: what it returns, and that its presets can be built."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from posttrain import results
from posttrain.alignment import chat_sft_artifact
from posttrain.alignment import grpo_experiment as experiment
from posttrain.alignment.chat_template import encode_prompt, encode_reply
from posttrain.alignment.grpo import policy_loss
from posttrain.alignment.grpo_comparison import METHODS, Method, follow
from posttrain.alignment.grpo_faults import FAULTS
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import problems
from posttrain.foundations.modern_architecture import GPT
from posttrain.foundations.sampling import token_logprobs


def few(n):
    """A cold start that has seen n batches of easy problems."""
    easy = chat_sft_artifact.Difficulty(steps=1, most=9)
    recipe = chat_sft_artifact.PRESETS["ci"]
    return replace(
        recipe, difficulty=easy, C=32, L=1, demonstrations=150, B=32, steps=n, T=80
    )


@pytest.fixture(scope="module")
def tiny_run():
    """All of `run` but faults and tax, from a start that is right now and then."""

    def tax(plan, seed, device):  # tests/alignment/test_grpo_tax.py runs it
        return [{"problems": plan.problems, "seed": seed, "device": device}]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "tax", tax)
        patch.setitem(chat_sft_artifact.PRESETS, "tiny", few(60))
        setup = replace(
            experiment.PRESETS["ci"], cold="tiny", problems=15, faults=(), grpo=3
        )
        patch.setitem(experiment.PRESETS, "tiny", setup)
        yield experiment.run("tiny", 0)


def test_result_holds_what_the_chapter_shows(tiny_run):
    assert json.loads(json.dumps(tiny_run)) == tiny_run
    assert list(tiny_run["methods"]) == list(METHODS)
    for name, method in tiny_run["methods"].items():
        curve = method["curve"]
        assert len(curve) == 3 and curve[0]["cpu_seconds"] == 0
        assert curve[0]["accuracy"] == tiny_run["start"]["sampled"]["accuracy"]
        assert curve[-1]["accuracy"] == method["sampled"]["accuracy"]
        assert curve[-1]["rollouts"] == method["rollouts"]
        assert (method["rollouts"] == 0) == (name == "sft")
        assert (method["demonstrations"] > 0) == (name == "sft")
    assert len(tiny_run["rounds"]) == 3
    assert tiny_run["cost"]["before"]["thinking_perplexity"] > 1
    plan = experiment.PRESETS["ci"].tax
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert tiny_run["tax"] == [{"problems": plan.problems, "seed": 0, "device": device}]


def test_answers_are_counted_for_each_method(tiny_run):
    answers = {name: m["rollouts"] for name, m in tiny_run["methods"].items()}
    assert answers["grpo"] == 3 * 16 * 8
    assert answers["ppo"] == 4 * 128
    assert answers["dpo"] == 4 * 32 * 8
    assert answers["rft"] == 2 * 64 * 8


def test_faults_start_from_the_same_model(monkeypatch):
    recipe = few(20)
    model = GPT(recipe.config())
    artifact = {"model": model.state_dict(), "recipe": {}}
    monkeypatch.setattr(experiment.artifacts, "get", lambda *_: artifact)
    monkeypatch.setattr(
        experiment.chat_sft_artifact,
        "restore",
        lambda artifact: (GPT(recipe.config()), recipe),
    )
    names = ("none", "no mark")
    setup = replace(experiment.PRESETS["ci"], problems=10, fault_rounds=1, faults=names)
    found = experiment.run_faults(setup, 0, "cpu")
    assert tuple(found) == names
    assert all(len(fault["rounds"]) == 1 for fault in found.values())


def test_the_clock_does_not_run_while_the_model_is_evaluated(monkeypatch):
    recipe = few(24)
    trainer = recipe.trainer()
    now = iter(range(100))
    monkeypatch.setattr("time.process_time", lambda: next(now))
    curve = follow(Method(trainer, trainer.model), recipe.test_problems(5), points=2)
    assert [point.cpu_seconds for point in curve] == [0, 1, 2]


def test_every_preset_measures_every_fault_and_method():
    for name in ("ci", "cpu", "t4", "h200"):
        setup = experiment.PRESETS[name]
        assert setup.faults == tuple(FAULTS) and setup.methods == tuple(METHODS)


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match="unknown preset 'huge'.*ci, cpu, t4, h200"):
        experiment.run("huge", 0)


@pytest.mark.parametrize("preset", ["ci", "cpu", "t4", "h200"])
def test_questions_and_answers_fit_the_model(preset):
    setup = experiment.PRESETS[preset]
    recipe = chat_sft_artifact.recipe_of(setup.cold)
    tok = tokenizer()
    for problem in problems(1, 50, recipe.difficulty):
        assert len(encode_reply(tok, problem.demonstration())) <= setup.max_new
        assert len(encode_prompt(tok, problem.question)) + setup.max_new <= recipe.T


@pytest.mark.parametrize("preset", ["t4", "h200"])
def test_big_presets_build_and_step(preset):
    setup = experiment.PRESETS[preset]
    start = chat_sft_artifact.recipe_of(setup.cold)
    recipe = experiment.budget_of(setup, start).grpo
    B = recipe.prompts * recipe.group // recipe.updates
    with FakeTensorMode():
        model = GPT(start.config())
        tokens = torch.zeros(B, start.T, dtype=torch.long)
        logprobs = token_logprobs(model(tokens), tokens)  # (B, T)
        loss = policy_loss(
            logprobs, logprobs.detach(), torch.ones(B), tokens == 0, recipe.objective
        )
        loss.backward()
        assert model.token.weight.grad.shape == model.token.weight.shape


# --- what the issue asks and the chapter says of the measured runs --------------------


@pytest.fixture(scope="module")
def runs() -> list[dict]:
    found = [run["result"] for run in results.load("grpo", "cpu")["runs"]]
    assert len(found) >= 3
    return found


def accuracy(run: dict, method: str) -> float:
    return run["methods"][method]["sampled"]["accuracy"]


def test_measured_grpo_of_the_issue(runs):
    """+0.30 to at least 0.85, in 150 CPU-seconds with SFT; more SFT 0.15 behind."""
    for run in runs:
        start, grpo, sft = run["start"], run["methods"]["grpo"], run["methods"]["sft"]
        ended = accuracy(run, "grpo")
        assert ended >= max(0.85, start["sampled"]["accuracy"] + 0.30)
        assert start["cpu_seconds"] + grpo["cpu_seconds"] <= 150
        assert accuracy(run, "sft") <= ended - 0.15
        assert sft["cpu_seconds"] >= grpo["cpu_seconds"]  # it had no less
    assert chat_sft_artifact.PRESETS["cpu"].precision == "fp32"


def test_measured_methods_had_about_the_same_compute(runs):
    for run in runs:
        seconds = [method["cpu_seconds"] for method in run["methods"].values()]
        assert max(seconds) < 1.5 * min(seconds)
        for method in ("ppo", "dpo", "rft"):
            assert accuracy(run, method) > run["start"]["sampled"]["accuracy"] + 0.2
            assert accuracy(run, "sft") < accuracy(run, method) < accuracy(run, "grpo")


def test_measured_ppo_starts_late(runs):
    def early(run, method):
        return run["methods"][method]["curve"][1]["accuracy"]

    for run in runs:
        assert early(run, "ppo") < min(early(run, m) for m in ("grpo", "dpo", "rft"))
    falls = [early(run, "ppo") < run["start"]["sampled"]["accuracy"] for run in runs]
    assert sum(falls) == 2


def test_measured_tax(runs):
    for run in runs:
        before, after = run["cost"]["before"], run["cost"]["after"]
        assert after["thinking_perplexity"] <= 1.1 * before["thinking_perplexity"]
        stages = {row["stage"]: row for row in run["tax"]}
        base, sft, replay, *on = (row["nats"] for row in run["tax"])
        assert base == pytest.approx(2.25, abs=0.01)
        assert 2 < sft / math.log(475) < 4.2  # a guess costs ln 475
        assert 0.04 < replay - base < 0.06
        assert stages["sft"]["accuracy"] > stages["sft, replay"]["accuracy"]
        assert 0 < on[0] - replay < 0.005
        assert 0.19 < on[-1] - replay < 0.25
        gained = stages["then grpo"]["accuracy"] - stages["sft, replay"]["accuracy"]
        assert 0.085 < gained < 0.355
        moved = [row["drift"] for row in run["tax"][3:]]
        assert moved[0] == max(moved)


def test_measured_faults(runs):
    for run in runs:
        ends = {name: f["sampled"] for name, f in run["faults"].items()}
        right = {name: scores["accuracy"] for name, scores in ends.items()}
        assert right["learning rate"] < 0.1
        assert right["stale, no clip"] < right["stale"] < right["none"]
        assert ends["length price"]["thinks"] < 0.2 and right["length price"] < 0.5
        assert abs(right["best and worst"] - right["none"]) < 0.06
        first = {name: f["rounds"][0]["accuracy"] for name, f in run["faults"].items()}
        assert first["no mark"] < first["none"] / 2
