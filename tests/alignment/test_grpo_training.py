"""Rounds, faults, pairs, memory and cost: on a tiny model that cannot read yet."""

import copy
import math

import pytest
import torch

from posttrain.alignment import grpo_own_pairs
from posttrain.alignment.chat_template import encode_prompt, encode_reply
from posttrain.alignment.completions import collate, completion_logprobs
from posttrain.alignment.grpo import Objective
from posttrain.alignment.grpo_cost import before_after, drift, perplexity, win_rate
from posttrain.alignment.grpo_faults import (
    FAULTS,
    anywhere,
    best_and_worst,
    faulty_trainer,
    visible_steps,
)
from posttrain.alignment.grpo_memory import FP32, ROLES, held, measured
from posttrain.alignment.grpo_training import Recipe, Rounds, grpo_trainer, loss_of
from posttrain.alignment.rollouts import Rollout
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import Difficulty, problems
from posttrain.foundations.modern_architecture import GPT, GPTConfig

TOK = tokenizer()
EASY = Difficulty(steps=1)
SMALL = Recipe(difficulty=EASY, prompts=3, group=4, rounds=2, max_new=4)


def tiny():
    torch.manual_seed(0)
    return GPT(GPTConfig(V=TOK.vocab_size, T=112, C=16, L=1, H=2, H_kv=1))


def by_length(reply, answer):
    """A reward that even a random model earns in some answers and not in others."""
    return float(len(reply) % 2)


def answered(problem, reply):
    return Rollout(
        problem, encode_prompt(TOK, problem.question), encode_reply(TOK, reply), [], ""
    )


# ---------------------------------------------------------------- rounds


def test_a_round_remembers_what_the_loss_needs():
    model = tiny()
    rounds = Rounds(model, SMALL, by_length, seed=1)
    share = rounds(0)
    assert len(share.batch) + len(rounds(1).batch) <= 12
    torch.testing.assert_close(
        share.old_logprobs, completion_logprobs(model, share.batch)
    )
    assert rounds.reference is None and share.ref_logprobs is None
    ratio_one = loss_of(Objective(), model, share)
    assert ratio_one.item() == pytest.approx(-share.advantages.mean().item(), abs=1e-6)


def test_groups_without_a_difference_are_left_out_unless_all_are():
    rounds = Rounds(tiny(), SMALL, by_length, seed=1)
    kept = rounds.play(0)
    silent = rounds.log[0].silent
    assert len(kept.batch) == round(12 * (1 - silent))
    assert all(a != 0 for a in kept.advantages.tolist())
    nothing = Rounds(tiny(), SMALL, lambda *_: 1.0).play(0)
    assert len(nothing.batch) == 12 and not nothing.advantages.any()


def test_the_reference_stays_while_the_policy_moves():
    recipe = Recipe(
        difficulty=EASY,
        prompts=3,
        group=4,
        rounds=1,
        max_new=4,
        lr=1e-2,
        objective=Objective(beta=0.1),
    )
    model = tiny()
    before = copy.deepcopy(model)
    trainer, rounds = grpo_trainer(model, recipe, by_length, seed=1)
    trainer.train_step()
    second = rounds(1)
    torch.testing.assert_close(
        second.ref_logprobs, completion_logprobs(before, second.batch)
    )
    now = completion_logprobs(model, second.batch)
    assert (now - second.ref_logprobs).abs().max() > 1e-4


def test_the_same_seed_gives_the_same_run():
    losses = []
    for seed in (0, 0, 1):
        trainer, _ = grpo_trainer(tiny(), SMALL, by_length, seed)
        losses.append([trainer.train_step().loss for _ in range(3)])
    assert losses[0] == losses[1] != losses[2]


def test_more_updates_than_answers_in_a_group_are_refused():
    with pytest.raises(ValueError, match="updates=9"):
        Recipe(group=8, updates=9)


# ---------------------------------------------------------------- faults


def test_verifiers_that_are_content_with_too_little():
    assert anywhere("<think>1+2=3;9", 3) == 1 and anywhere("<think></think>13", 3) == 0
    assert visible_steps("=" * 30, 5) == 1 and visible_steps("1=1", 5) == 0.1


def test_best_and_worst_pushes_even_where_all_earn_the_same():
    rewards = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    assert best_and_worst(rewards).tolist() == [[0, 1, 0, -1], [1, 0, 0, -1]]


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_runs(name):
    trainer, rounds = faulty_trainer(name, tiny(), SMALL, seed=0)
    assert math.isfinite(trainer.train_step().loss)
    assert len(rounds.log) == 1


def test_the_prompt_without_a_mark_is_one_token_shorter():
    recipe = Recipe(difficulty=EASY, prompts=1, group=2, max_new=2)
    shapes = []
    for name in ("none", "no mark"):
        _, rounds = faulty_trainer(name, tiny(), recipe, seed=0)
        asked = problems(0, 1, EASY)
        answers = rounds.answers(asked, torch.Generator().manual_seed(0))
        shapes.append(answers[0].prompt)
    whole, cut = shapes
    assert whole[:-1] == cut and whole[-1] == TOK.special_id("<|assistant|>")


def test_an_unknown_fault_is_refused():
    with pytest.raises(ValueError, match="'none of these'"):
        faulty_trainer("none of these", tiny(), SMALL)


# ---------------------------------------------------------------- own pairs


def test_pairs_are_of_one_group_and_no_more_than_asked_for():
    asked = problems(0, 3, EASY)
    right = [f"<think></think>{p.answer}" for p in asked]
    replies = [right[0], "no", right[0], "no", "no", "no", right[2], right[2]]
    owners = [asked[0]] * 4 + [asked[1]] * 2 + [asked[2]] * 2
    rollouts = [
        Rollout(p, [1], [2], [], reply)
        for p, reply in zip(owners, replies, strict=True)
    ]
    chosen, rejected = grpo_own_pairs.paired(rollouts[:4], 4, most=1)
    assert (chosen, rejected) == ([rollouts[0]], [rollouts[1]])
    chosen, rejected = grpo_own_pairs.paired(rollouts[4:], 2, most=3)
    assert chosen == rejected == []


def test_the_loss_of_pairs_is_dpos():
    model, asked = tiny(), problems(0, 2, EASY)
    batch = collate(
        [encode_prompt(TOK, p.question) for p in asked],
        [encode_reply(TOK, "<think></think>1"), encode_reply(TOK, "<think></think>2")],
        0,
    )
    own = completion_logprobs(model, batch).sum(dim=1).detach()
    pairs = grpo_own_pairs.Pairs(batch, own - torch.tensor([1.0, -0.5]))
    loss = grpo_own_pairs.loss_of(0.2, model, pairs)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.2 * 1.5)), rel=1e-4)
    loss.backward()


# ---------------------------------------------------------------- memory, cost


def test_bytes_by_formula():
    assert held("ppo", 10) == {
        "policy": 160,
        "critic": 160,
        "reference": 20,
        "reward model": 20,
    }
    assert sum(held("grpo, no KL", 10).values()) == 160
    assert set(ROLES["grpo"]) < set(ROLES["ppo"])
    with pytest.raises(ValueError, match="'grpo2'"):
        held("grpo2", 1)


def test_bytes_by_formula_are_the_bytes_counted():
    model = tiny()
    P = sum(p.numel() for p in model.parameters())
    trainer, rounds = grpo_trainer(model, SMALL, by_length, seed=1)
    counted = measured(trainer, [tiny()])
    assert counted["frozen"] == held("grpo", P, FP32)["reference"] == 4 * P
    del counted["frozen"]
    assert sum(counted.values()) == held("grpo", P, FP32)["policy"]


def test_what_training_cost():
    start, other, asked = tiny(), tiny(), problems(0, 3, EASY)
    with torch.no_grad():
        other.head.weight.add_(0.5 * torch.randn_like(other.head.weight))
    rollouts = [answered(p, p.demonstration()) for p in asked]
    assert drift(start, start, rollouts) == 0
    assert drift(start, other, rollouts) != 0
    V = TOK.vocab_size
    assert V / 4 < perplexity(start, asked) < 4 * V
    report = before_after(start, start, asked)
    assert report["win_rate"] == 0.5 and report["kl"] == 0
    assert report["before"]["samples"] == report["after"]["samples"]


def test_wins_count_twice_what_equal_answers_count():
    problem = problems(0, 1, EASY)[0]
    good, bad = (
        Rollout(problem, [], [], [], f"<think></think>{problem.answer + off}")
        for off in (0, 1)
    )
    assert win_rate([good, good, bad, bad], [bad, good, bad, good]) == 0.5
    assert win_rate([good, good], [bad, good]) == 0.75
