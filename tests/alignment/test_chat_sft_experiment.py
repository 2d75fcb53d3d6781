"""The experiment of the chapter: what it returns, and that its presets can be built."""

import json
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from posttrain.alignment import chat_sft_experiment as experiment
from posttrain.alignment import chat_sft_experiment_parts as parts
from posttrain.alignment.chat_sft import Pool
from posttrain.alignment.chat_sft_data import worked
from posttrain.alignment.chat_template import encode_prompt
from posttrain.alignment.rollouts import Rollout
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import Difficulty, problems
from posttrain.foundations.modern_architecture import GPT

TINY = replace(
    experiment.PRESETS["ci"],
    C=16,
    L=1,
    B=8,
    steps=20,
    demonstrations=32,
    few=(8,),
    hot=(1.0,),
    test=4,
    max_new=6,
    packed=8,
)


@pytest.fixture(scope="module")
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(experiment.PRESETS, "tiny", TINY)
        return experiment.run("tiny", 0)


def test_result_holds_what_the_chapter_shows(tiny):
    assert json.loads(json.dumps(tiny)) == tiny
    names = {"reply", "whole sequence", "no end mark", "slips 0.5", "filtered"}
    assert set(tiny["arms"]) == names | {"pool 8", "easy first", "mixed", "lr 1"}
    for name, curve in tiny["arms"].items():
        assert curve[-1]["step"] == 20
        assert len(curve) == (2 if name in ("reply", "pool 8") else 1)
        for row in curve:
            assert 0 <= row["sampled"] <= row["well_formed"] <= 1
            assert row["sampled"] <= row["right_at_first"] <= 1
    assert [len(losses) for losses in tiny["losses"].values()] == [20]
    assert tiny["mismatch"][0]["template"] == "as trained"
    trained = tiny["arms"]["reply"][-1]
    assert tiny["mismatch"][0]["accuracy"] == trained["sampled"]
    assert [row["model"] for row in tiny["tax"]] == ["base", "reply", "whole sequence"]
    ways = ["padded", "sorted by length", "packed"]
    assert [row["way"] for row in tiny["packing"]] == ways


def test_all_arms_of_a_seed_start_alike_and_seeds_differ():
    first, again, other = (
        experiment.Bench.of(TINY, seed).model().token.weight for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_shown_and_held_out_problems_share_no_arithmetic():
    bench = experiment.Bench.of(TINY, 0)
    assert {p.split for p in bench.shown} == {"train"}
    assert {p.split for p in bench.exam.problems} == {"test"}
    steps = [reply.count(";") + 1 for _, reply in bench.mixed(8)]
    assert steps == [1] * 4 + [2] * 4


def test_without_end_takes_the_end_mark_out_of_the_loss():
    pool = Pool.of(worked(problems(0, 4, Difficulty(2))), B=4)
    end = tokenizer().special_id("<|end|>")
    assert (pool.batch([0, 1]).targets == end).sum() == 2
    assert not (parts.without_end(pool).batch([0, 1]).targets == end).any()


def test_right_at_first_forgives_what_comes_after():
    problem = problems(0, 1, Difficulty(1))[0]
    replies = [
        problem.demonstration(),
        problem.demonstration() + "<think> and on",
        f"<think></think>{problem.answer}1",
        "nothing",
    ]
    rollouts = [Rollout(problem, [], [], [], reply) for reply in replies]
    assert parts.right_at_first(rollouts) == 0.5


def test_changed_prompts_differ_where_they_say():
    tok = tokenizer()
    prompt = encode_prompt(tok, "Mia has 3 pens.")
    seen = {
        name: tok.decode(change(prompt))
        for name, change in parts.changed_templates().items()
    }
    assert seen == {
        "as trained": "<|user|>Mia has 3 pens.<|end|><|assistant|>",
        "no mark of the assistant": "<|user|>Mia has 3 pens.<|end|>",
        "a space before the reply": "<|user|>Mia has 3 pens.<|end|><|assistant|> ",
        "a space behind the question": "<|user|>Mia has 3 pens. <|end|><|assistant|>",
        "no end of the user's turn": "<|user|>Mia has 3 pens.<|assistant|>",
        "no marks at all": "Mia has 3 pens.",
    }


def test_a_run_that_diverges_ends_with_a_row_of_its_own():
    bench = experiment.Bench.of(TINY, 0)
    pool = bench.pool(worked(bench.shown))
    result = bench.train(experiment.Arm(pool, lr=1e30))
    assert result["losses"][-1] == parts.DIVERGED
    (row,) = result["curve"]
    assert row["step"] == len(result["losses"]) < 20
    assert row["train_loss"] >= parts.DIVERGED / 20
    json.dumps(row, allow_nan=False)


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match="unknown preset 'huge'.*ci, cpu, t4, h200"):
        experiment.run("huge", 0)


@pytest.mark.parametrize("preset", ["t4", "h200"])
def test_big_presets_build_and_step(preset):
    setup = experiment.PRESETS[preset]
    pairs = worked(problems(1, 100, setup.difficulty))
    pool = Pool.of(pairs, B=100)
    assert max(map(len, pool.replies)) <= setup.max_new
    tokens = pool.batch(range(8)).tokens
    assert tokens.shape[1] <= setup.T
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = GPT(setup.config())
        model(tokens).sum().backward()
        assert model.token.weight.grad.shape == model.token.weight.shape
