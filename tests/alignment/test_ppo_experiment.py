"""The RLHF pipeline in small, what the experiment returns, and its presets."""

import json
import random
from dataclasses import replace
from statistics import fmean

import pytest
import torch

from posttrain import results
from posttrain.alignment import chat_sft_artifact, ppo_rlhf
from posttrain.alignment import ppo_experiment as experiment
from posttrain.alignment.completions import Completions
from posttrain.alignment.ppo_rlhf import UNREADABLE, Setting, gold, look_at
from posttrain.alignment.ppo_training import ActorCritic, Experience, Recipe
from posttrain.alignment.rollouts import CUT, Rollout
from posttrain.alignment.word_problem_styles import Style
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import Difficulty, problems
from posttrain.foundations.modern_architecture import GPT, GPTConfig

EASY = Difficulty(1)
SMALL = Setting(
    difficulty=EASY,
    C=32,
    L=1,
    T=96,
    demonstrations=150,
    sft_B=32,
    sft_steps=60,
    sft_lr=3e-2,
    pairs=48,
    rm_B=8,
    rm_steps=24,
    test=8,
    max_new=60,
)


def test_gold_orders_right_polite_and_short():
    rng = random.Random(0)
    [problem] = problems(0, 1, EASY)
    best = gold(problem, Style(True, False).reply(rng, problem))
    rude = gold(problem, Style(False, False).reply(rng, problem))
    long = gold(problem, Style(True, True).reply(rng, problem))
    other = replace(problem, start=problem.start + 1)
    wrong = gold(problem, Style(True, False).reply(rng, other))
    assert best > long > rude > wrong > gold(problem, "broken") == UNREADABLE


def test_a_look_counts_what_the_answers_are_like():
    rng = random.Random(1)
    a, b = problems(0, 2, EASY)
    replies = [
        (a, Style(True, False).reply(rng, a)),
        (b, Style(False, False).reply(rng, a)),  # rude, and another sum's answer
        (b, "<think></think>so" + CUT),
    ]
    rollouts = [Rollout(p, [1], [1], [0.0], reply) for p, reply in replies]
    look = look_at(rollouts, proxy=1.5, kl=0.2)
    assert (look.proxy, look.kl) == (1.5, 0.2)
    assert look.readable == pytest.approx(2 / 3)
    assert look.polite == pytest.approx(1 / 3)
    assert look.right == pytest.approx((1 + (a.answer == b.answer)) / 3)
    assert look.gold == pytest.approx(sum(gold(p, r) for p, r in replies) / 3)


@pytest.fixture(scope="module")
def tiny_run():
    """All of `run` with a start that has learned the form and little else."""
    cold = replace(
        chat_sft_artifact.PRESETS["ci"],
        difficulty=EASY,
        C=32,
        L=1,
        T=80,
        demonstrations=150,
        B=32,
        steps=30,
    )
    ppo = Recipe(EASY, prompts=8, rounds=2, max_new=60)
    tiny = replace(
        experiment.PRESETS["cpu"],
        rlhf=SMALL,
        ppo=ppo,
        start=cold,
        verified=replace(ppo, max_new=16),
        penalties=("no penalty", "steered to 2 nats"),
        baselines=("critic, lambda 0", "no critic"),
        test=10,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(experiment.PRESETS, "tiny", tiny)
        yield experiment.run("tiny", 0)


def test_result_holds_what_the_chapter_shows(tiny_run):
    assert json.loads(json.dumps(tiny_run)) == tiny_run
    arms = tiny_run["rlhf"]["arms"]
    assert list(arms) == ["no penalty", "steered to 2 nats"]
    for arm in arms.values():
        assert len(arm["looks"]) == 2
        assert arm["looks"][0]["kl"] == pytest.approx(0, abs=1e-3)
        assert len(arm["samples"]) == 3
    first = [arm["looks"][0]["gold"] for arm in arms.values()]
    assert len(set(first)) == 1  # the same start, problems and draws
    assert 0 < tiny_run["rlhf"]["pairs"] <= SMALL.pairs
    critic = tiny_run["critic"]["arms"]
    assert list(critic) == ["critic, lambda 0", "no critic"]
    assert all(len(arm["accuracy"]) == 2 for arm in critic.values())
    assert set(critic["no critic"]["explained"]) == {0.0}


def test_pairs_are_ordered_by_gold_and_ties_left_out(monkeypatch):
    rng = random.Random(2)
    [a, b] = problems(0, 2, EASY)
    nice, rude = Style(True, False), Style(False, False)
    same = "<think></think>Ugh. The answer is 1."
    replies = [
        *((a, rude.reply(rng, a)), (a, nice.reply(rng, a))),
        *((b, same), (b, same)),
    ]
    drawn = [Rollout(p, [1], [1], [0.0], reply) for p, reply in replies]
    monkeypatch.setattr(ppo_rlhf, "roll_out", lambda *_, **__: drawn)
    config = GPTConfig(V=tokenizer().vocab_size, T=8, C=32, L=1, H=2)
    [pair] = ppo_rlhf.preferences(SMALL, GPT(config), 0)
    assert (pair.chosen, pair.rejected) == (drawn[1].reply, drawn[0].reply)


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match="unknown preset 'huge'.*ci, cpu, t4, h200"):
        experiment.run("huge", 0)


@pytest.mark.parametrize("preset", experiment.PRESETS)
def test_replies_in_every_style_fit(preset):
    setting = experiment.PRESETS[preset].rlhf
    rng, tok = random.Random(0), tokenizer()
    for problem in problems(1, 20, setting.difficulty):
        reply = Style(False, True).reply(rng, problem)
        length = len(tok.encode(reply, "all")) + 1
        assert length <= setting.max_new
        assert len(tok.encode(problem.question)) + 3 + setting.max_new <= setting.T


@pytest.mark.parametrize("preset", ["t4", "h200"])
def test_big_presets_build_and_step(preset):
    sizes = experiment.PRESETS[preset]
    setting, recipe = sizes.rlhf, sizes.ppo
    B, T = recipe.prompts // recipe.updates, setting.T
    V = tokenizer().vocab_size
    with torch.device("meta"):  # shapes and dtypes, no memory
        config = GPTConfig(V=V, T=T, C=setting.C, L=setting.L, H=4, H_kv=2)
        model = ActorCritic(GPT(config))
        tokens = torch.zeros(B, T, dtype=torch.long)
        batch = Completions(tokens, tokens)
        assert model.policy(tokens).shape == (B, T, V)
        values = model.values(batch)
        experience = Experience(batch, values, values, values, values)
        assert experience[torch.arange(2)].returns.shape == (2, T)
        values.sum().backward()
        assert model.critic.head.weight.grad.shape == (1, setting.C)


# --- what the chapter says of the measured runs ---------------------------------------


@pytest.fixture(scope="module")
def runs() -> list[dict]:
    found = [run["result"] for run in results.load("ppo", "cpu")["runs"]]
    assert len(found) >= 3
    return found


def test_measured_over_optimisation_and_the_penalty(runs):
    def late(arm, key):
        return fmean(look[key] for look in arm["looks"][-5:])

    kept = []
    for run in runs:
        free, held, steered = run["rlhf"]["arms"].values()
        begun = free["looks"][0]
        assert late(free, "gold") < begun["gold"] <= late(held, "gold")
        assert late(free, "proxy") > begun["proxy"] + 1.5
        assert late(free, "right") < late(held, "right")
        assert late(free, "kl") > late(held, "kl")
        assert late(steered, "gold") > begun["gold"] - 0.2
        kept.append(late(held, "right") >= begun["right"])
    assert sum(kept) == 1


def test_measured_critics(runs):
    for run in runs:
        after = {name: arm["after"] for name, arm in run["critic"]["arms"].items()}
        assert after["critic, lambda 0"] < run["critic"]["before"] / 2
        assert abs(after["no critic"] - after["critic, lambda 1"]) < 0.02
        for name in ("critic, lambda 0.95", "critic, lambda 1", "no critic"):
            assert after[name] > run["critic"]["before"] + 0.1
        for arm in run["critic"]["arms"].values():
            assert abs(fmean(arm["explained"][-5:])) < 0.05
