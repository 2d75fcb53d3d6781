"""The experiment: its pairs and measures by hand, one run, the big presets stepped."""

import json
import random
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from posttrain import results
from posttrain.alignment import dpo_experiment as X
from posttrain.alignment.chat_template import encode_prompt, encode_reply
from posttrain.alignment.dpo_judge import ScoreJudge
from posttrain.alignment.dpo_measures import Exam, perplexity
from posttrain.alignment.dpo_preferences import (
    style_pairs,
    unlike_pairs,
    with_labels_turned,
)
from posttrain.alignment.dpo_training import Recipe
from posttrain.alignment.reward_model_measures import accuracy
from posttrain.alignment.rollouts import Rollout
from posttrain.alignment.word_problem_styles import Style, read
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import Difficulty, draw, problems
from posttrain.foundations.batches import total_loss
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.tokenization import PAD

TINY = replace(
    X.PRESETS["ci"],
    C=16,
    L=1,
    demonstrations=64,
    sft_B=16,
    sft_steps=20,
    pairs=16,
    recipe=Recipe(steps=20, B=2, lr=1e-3, nll=1.0),
    every=10,
    held_out=4,
    test=4,
    looks=(0, 1),
    looked_at=2,
)


def test_style_pairs_differ_in_one_thing():
    pairs = style_pairs(0, 200)
    about = []
    for pair in pairs:
        better, worse = read(pair.chosen), read(pair.rejected)
        assert better.answer == worse.answer
        manners = better.style.polite != worse.style.polite
        assert manners != (better.style.rambling != worse.style.rambling)
        assert better.style.polite >= worse.style.polite
        assert better.style.rambling <= worse.style.rambling
        thoughts = [text.split("</think>")[0] for text in (pair.chosen, pair.rejected)]
        assert thoughts[0] == thoughts[1]
        about.append(manners)
    assert 70 < sum(about) < 130
    assert pairs == style_pairs(0, 200) != style_pairs(1, 200)


def test_unlike_pairs():
    made = unlike_pairs(0, 50)
    assert set(made) == {"both", "conflict", "answer", "broken"}
    for pair in made["both"]:
        better, worse = read(pair.chosen).style, read(pair.rejected).style
        assert (better.polite, better.rambling) == (True, False)
        assert (worse.polite, worse.rambling) == (False, True)
    for pair in made["answer"]:
        assert read(pair.chosen).style == read(pair.rejected).style
        assert read(pair.chosen).answer != read(pair.rejected).answer > 0
    for pair in made["broken"]:
        assert read(pair.chosen) is not None
        assert read(pair.rejected) is None
        assert sorted(pair.chosen) == sorted(pair.rejected)
    for pair in made["conflict"]:
        styles = read(pair.chosen).style, read(pair.rejected).style
        assert styles[0].polite != styles[1].polite
        assert all(style.polite == style.rambling for style in styles)


def test_the_judge_agrees_with_every_label():
    judge = ScoreJudge()
    asked = {p.question: p for p in problems(0, 100, Difficulty(2), "test")}
    for kind, pairs in unlike_pairs(3, 40).items():
        for pair in pairs:
            problem = asked.get(pair.question)
            if problem is not None:
                assert judge(problem, pair.chosen, pair.rejected) == 1, kind


def test_turned_labels():
    pairs = style_pairs(0, 400)
    turned = with_labels_turned(pairs, 0.2)
    changed = [a != b for a, b in zip(pairs, turned, strict=True)]
    assert 50 < sum(changed) < 110
    first = changed.index(True)
    assert turned[first].chosen == pairs[first].rejected
    assert turned[first].rejected == pairs[first].chosen


def test_padding_that_counts():
    pairs = X.pairs_of(style_pairs(0, 20))
    wrong = X.padding_counted(pairs)
    pad = tokenizer().special_id(PAD)
    for i in range(20):
        longest = max(len(pairs.chosen[i]), len(pairs.rejected[i]))
        assert len(wrong.chosen[i]) == len(wrong.rejected[i]) == longest
        n = len(pairs.chosen[i])
        assert wrong.chosen[i][:n] == pairs.chosen[i]
        assert set(wrong.chosen[i][n:]) <= {pad}


class Scripted(Exam):
    """An exam whose models are lists of replies."""

    def answers(self, model):
        return [
            Rollout(p, [1], [*tokenizer().encode(text), 6], [], text)
            for p, text in zip(self.problems, model, strict=True)
        ]


def test_grades_by_hand(monkeypatch):
    monkeypatch.setattr("posttrain.alignment.dpo_measures.perplexity", lambda *_: 2.0)
    asked = problems(0, 4, Difficulty(2))
    rude = [f"<think></think>Ugh. The answer is {p.answer}." for p in asked]
    ours = [reply.replace("Ugh.", "Sure!") for reply in rude]
    ours[1] = "broken"
    ours[2] = rude[2]
    ours[3] = f"<think></think>Sure! The answer is {asked[3].answer + 1}."
    exam = Scripted(rude, asked)
    grades = exam.grade(exam.answers(ours))
    assert grades.win_rate == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert grades.parses == 0.75
    assert grades.accuracy == 0.5
    assert grades.polite == 0.5
    assert grades.terse == 0.75
    assert exam.grade(exam.answers(rude)).win_rate == 0.5


def test_perplexity_of_an_even_model():
    torch.manual_seed(0)
    V = tokenizer().vocab_size
    model = GPT(GPTConfig(V=V, T=16, C=8, L=1, H=2, H_kv=1))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    rollout = Rollout(problems(0, 1)[0], [1, 2], [3, 4, 5], [], "")
    assert perplexity(model, [rollout, rollout]) == pytest.approx(V, rel=1e-4)


def test_agreement_counts_ties_half():
    assert accuracy(torch.tensor([1.0, -2.0, 0.0, 3.0])) == pytest.approx(0.625)


def test_one_run(monkeypatch):
    monkeypatch.setitem(X.PRESETS, "ci", TINY)
    ways = {k: v for k, v in X.recipes(TINY).items() if k in ("dpo", "no nll", "noisy")}
    monkeypatch.setattr(X, "recipes", lambda setup: ways)
    found = X.run("ci", 0)
    assert json.loads(json.dumps(found)) == found
    assert set(found["ways"]) == set(ways)
    for way in found["ways"].values():
        assert way["curve"]["step"] == [0, 10, 20]
        assert way["curve"]["chosen"][0] == way["curve"]["rejected"][0] == 0
        assert way["curve"]["loss"][0] is None
    assert found["sft"]["win_rate"] == 0.5
    assert [row["step"] for row in found["displacement"]] == [0, 1]
    assert set(found["rewards"]) == {"style", "both", "conflict", "answer", "broken"}
    with pytest.raises(ValueError, match="unknown preset 'tpu'"):
        X.run("tpu", 0)


def test_the_ways_differ_in_one_thing():
    ways = X.recipes(X.PRESETS["cpu"])
    right = ways["dpo"]
    assert ways["no nll"] == replace(right, nll=0.0)
    assert ways["small beta"] == replace(right, nll=0.0, beta=right.beta / 10)
    assert ways["high lr"] == replace(right, lr=right.lr * 10)
    assert ways["padding"] == ways["noisy"] == right


@pytest.mark.parametrize("preset", ["t4", "h200"])
def test_big_presets_build_and_step(preset):
    """Shapes only: nothing is computed, nothing takes memory."""
    setup, V = X.PRESETS[preset], tokenizer().vocab_size
    with FakeTensorMode():
        model = GPT(GPTConfig(V=V, T=setup.T, C=setup.C, L=setup.L, H=4, H_kv=2))
        for B in (setup.sft_B, 2 * setup.recipe.B):
            batch = torch.zeros(2, B, setup.T, dtype=torch.long)
            total_loss(model, tuple(batch)).backward()
        assert model.token.weight.grad.shape == (V, setup.C)


@pytest.mark.parametrize("preset", list(X.PRESETS))
def test_conversations_fit(preset):
    setup, longest = X.PRESETS[preset], Style(polite=False, rambling=True)
    rng, tok = random.Random(0), tokenizer()
    for _ in range(200):
        problem = draw(rng, setup.difficulty)
        reply = encode_reply(tok, longest.reply(rng, problem))
        assert len(reply) <= setup.max_new
        assert len(encode_prompt(tok, problem.question)) + len(reply) <= setup.T


def test_measured_claims_of_the_issue():
    """Three seeds: win-rate, correctness, grammar, perplexity."""
    runs = results.load("dpo", "cpu")["runs"]
    assert len(runs) >= 3
    for run in runs:
        sft, dpo = run["result"]["sft"], run["result"]["ways"]["dpo"]
        assert dpo["win_rate"] >= 0.75
        assert dpo["accuracy"] >= sft["accuracy"] - 0.05
        assert dpo["parses"] >= 0.95
        assert dpo["perplexity"] <= 1.2 * sft["perplexity"]
