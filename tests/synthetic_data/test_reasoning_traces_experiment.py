"""The experiment of the chapter: arms, shares, what it returns; presets are built."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from posttrain import results
from posttrain.alignment.chat_template import encode_prompt, encode_reply
from posttrain.alignment.rollouts import Rollout
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import Difficulty, Problem
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.synthetic_data import reasoning_traces_experiment as experiment
from posttrain.synthetic_data.reasoning_traces_filters import MOST_TOKENS
from posttrain.synthetic_data.reasoning_traces_pool import STEPS, draw_pool

TINY = replace(
    experiment.PRESETS["ci"],
    C=32,
    L=1,
    pool=900,
    traces=64,
    B=32,
    sft_steps=20,
    rounds=1,
    prompts=2,
    answers=8,
    asked=(2,),
    problems=4,
    steps=(1, 4),
    arms=("raw", "sound", "no thoughts"),
)


@pytest.fixture(scope="module")
def tiny_run():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(experiment.PRESETS, "tiny", TINY)
        yield experiment.run("tiny", 0)


def test_result_holds_what_the_chapter_shows(tiny_run):
    assert json.loads(json.dumps(tiny_run)) == tiny_run
    assert list(tiny_run["arms"]) == list(TINY.arms)
    for name, arm in tiny_run["arms"].items():
        assert sum(arm["planted"].values()) == sum(arm["steps"].values()) == 64
        assert list(arm["start"]["by steps"]) == ["1", "4"]
        assert arm["start"]["by steps"]["4"] == arm["start"]["accuracy"]
        assert len(arm["usable"]["2"]["right"]) == 2
        assert ("after" in arm) == ("rounds" in arm) == (name != "sound")
    assert len(tiny_run["arms"]["raw"]["rounds"]) == 1
    pool = tiny_run["pool"]
    assert sum(pool["planted"].values()) == pool["rows"][0]["before"] == 900
    dropped = sum(sum(row["dropped"].values()) for row in pool["rows"])
    assert dropped + sum(pool["kept"].values()) == 900


def test_arms_differ_in_their_traces_only():
    pool = draw_pool(0, 2500)
    sets = {name: choose(pool) for name, choose in experiment.ARMS.items()}
    assert sets["raw"] == pool
    faults = {
        name: {t.planted for t in s} - {"", "copy", "copy with other names"}
        for name, s in sets.items()
    }
    assert "slip, wrong answer" in faults["raw"] - faults["verified"]
    assert "false step" in faults["verified"] - faults["sound"]
    assert faults["sound"] == {"problem of the test set"}
    assert faults["curated"] == faults["no thoughts"] == set()
    shares = Counter(len(t.problem.changes) for t in sets["curated"][:300])
    assert set(shares.values()) == {100} and set(shares) == set(STEPS)
    for with_work, without in zip(sets["curated"], sets["no thoughts"], strict=True):
        assert with_work.problem == without.problem
        assert without.text == f"<think></think>{without.problem.answer}"


def test_soundness_tells_luck_from_work():
    problem = Problem("Bo has 12 pens, buys 3. How many now?", 12, (3,))
    replies = (
        "<think>12+3=15</think>15",
        "<think>12+4=15</think>15",
        "<think>12+3=15</think>16",
        "<think>12+3=15",
    )
    rollouts = [Rollout(problem, [], [], [], reply) for reply in replies]
    found = experiment.soundness(rollouts)
    assert found == {"sound": 0.25, "sound if right": 0.5}
    assert experiment.soundness(rollouts[2:])["sound if right"] == 0.0


def test_usable_groups_are_counted(monkeypatch):
    """A policy that is right on every second problem, or on every second answer."""
    setup = replace(TINY, answers=16)

    def replies(rule):
        def answer(model, asked, seed, group):
            return [
                Rollout(p, [], [], [], f"<think>a</think>{p.answer + rule(i, j)}")
                for i, p in enumerate(asked)
                for j in range(group)
            ]

        return answer

    monkeypatch.setattr(experiment, "answer", replies(lambda i, j: i % 2))
    by_problem = experiment.usable(setup, None, 2, 0)
    assert by_problem["right"] == [16, 0]
    assert by_problem["counted"] == by_problem["estimate"] == 0
    assert by_problem["at the mean"] > 0.99
    monkeypatch.setattr(experiment, "answer", replies(lambda i, j: j % 2))
    by_answer = experiment.usable(setup, None, 2, 0)
    assert by_answer["right"] == [8, 8] and by_answer["counted"] == 1
    assert by_answer["estimate"] == pytest.approx(1 - 2 / 12870)


def test_a_pool_that_is_too_small_is_named():
    with pytest.raises(ValueError, match="5 traces are left, 64 are asked for"):
        experiment.run_arm(TINY, draw_pool(0, 5), 0, rl=False)


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match="unknown preset 'huge'.*ci, cpu, t4, h200"):
        experiment.run("huge", 0)


@pytest.mark.parametrize("preset", ["ci", "cpu", "t4", "h200"])
def test_questions_and_answers_fit_the_model(preset):
    setup, tok = experiment.PRESETS[preset], tokenizer()
    for steps in setup.steps:
        for problem in experiment.held_out(setup, steps):
            assert len(encode_reply(tok, problem.demonstration())) <= MOST_TOKENS
            prompt = len(encode_prompt(tok, problem.question))
            assert prompt + MOST_TOKENS <= setup.T
            assert problem.split == "test"
    longest = max(len(encode_reply(tok, t.text)) for t in draw_pool(0, 1000))
    assert longest + 50 <= setup.T
    assert {*setup.asked, setup.rl_steps} <= set(STEPS) and Difficulty(setup.rl_steps)


@pytest.mark.parametrize("preset", ["t4", "h200"])
def test_a_large_preset_can_be_built_and_stepped_without_memory(preset):
    setup = experiment.PRESETS[preset]
    config = GPTConfig(
        V=tokenizer().vocab_size, T=setup.T, C=setup.C, L=setup.L, H=4, H_kv=2
    )
    traces = draw_pool(0, setup.B)
    pairs = [(trace.problem.question, trace.text) for trace in traces]
    batch = experiment.Pool.of(pairs, B=setup.B)(0)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        model = GPT(config)
        tokens = fake.from_tensor(batch.tokens)
        hidden = model.hidden(tokens)
        loss = model.head(hidden).float().logsumexp(-1).sum()
        loss.backward()
        assert hidden.shape == (*batch.tokens.shape, setup.C)
        grads = [p.grad for p in model.parameters()]
        assert all(grad is not None for grad in grads)


# --- what the chapter says of the measured runs ---------------------------------------


def test_measured_starts():
    runs = [run["result"] for run in results.load("reasoning_traces", "cpu")["runs"]]
    assert len(runs) >= 3
    ahead = []
    for run in runs:
        arms = run["arms"]
        start = {name: arm["start"]["accuracy"] for name, arm in arms.items()}
        low, high = ("raw", "verified", "no thoughts"), ("sound", "curated")
        assert max(start[n] for n in low) < 0.25 < 0.6 < min(start[n] for n in high)
        assert arms["raw"]["start"]["sound if right"] < 0.5
        after = {
            n: arm["after"]["accuracy"] for n, arm in arms.items() if "after" in arm
        }
        assert after["raw"] < after["verified"] < after["curated"] - 0.3
        assert abs(after["no thoughts"] - start["no thoughts"]) < 0.05
        assert arms["curated"]["start"]["by steps"]["1"] < 0.34
        ahead.append(start["curated"] > start["sound"])
    assert sum(ahead) == 2
