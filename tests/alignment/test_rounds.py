"""The loops of PPO and of expert iteration: what each step learns from."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from posttrain.alignment import expert_iteration, ppo_training
from posttrain.alignment.completions import completion_logprobs
from posttrain.alignment.policy_training import answer_fresh, questions, share_out
from posttrain.alignment.rollouts import Rollout, roll_out
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import Difficulty, problems
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.trainer import fit

EASY = Difficulty(1)
PPO = ppo_training.Recipe(difficulty=EASY, prompts=32, rounds=40, max_new=2, lr=1e-2)


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    config = GPTConfig(V=tokenizer().vocab_size, T=64, C=32, L=1, H=2, H_kv=1)
    return GPT(config)


def starts_with_a_letter(rollouts: Sequence[Rollout]) -> list[float]:
    """A reward that random replies earn sometimes."""
    return [float(r.reply[0].isalpha()) for r in rollouts]


def test_ppo_raises_its_reward(model):
    trainer, rounds = ppo_training.ppo_trainer(model, PPO, starts_with_a_letter)
    fit(trainer)
    rewards = [round.reward for round in rounds.log]
    assert len(rewards) == PPO.rounds
    assert sum(rewards[:3]) / 3 < 0.6
    assert sum(rewards[-5:]) / 5 > 0.85
    assert rounds.log[0].kl == pytest.approx(0, abs=1e-4)
    assert rounds.log[-1].kl > 0.1


def test_the_first_step_of_a_round_is_on_policy(model):
    _, rounds = ppo_training.ppo_trainer(model, PPO, starts_with_a_letter)
    first, second = rounds(0), rounds(1)
    assert len(first.batch) + len(second.batch) == PPO.prompts
    for share in (first, second):
        now = completion_logprobs(model, share.batch)
        assert torch.allclose(now, share.old_logprobs, atol=1e-6)
        assert not share.old_values.any()  # the critic's read-out starts at zero
    assert rounds(1) is second  # the same answers until the round is over


def test_advantages_of_a_round_are_white(model):
    _, rounds = ppo_training.ppo_trainer(model, PPO, starts_with_a_letter)
    whole = rounds.play(0)
    inside = whole.advantages[whole.batch.mask]
    assert inside.mean() == pytest.approx(0, abs=1e-5)
    assert inside.std() == pytest.approx(1, abs=1e-3)


def test_the_critic_shares_nothing_with_the_policy(model):
    both = ppo_training.ActorCritic(model)
    policy = {id(p) for p in both.policy.parameters()}
    assert not policy & {id(p) for p in both.critic.parameters()}


def test_beta_is_steered_to_its_target(model):
    recipe = replace(PPO, rounds=12, beta=0.1, target_kl=1e3, horizon=PPO.prompts)
    trainer, rounds = ppo_training.ppo_trainer(model, recipe, starts_with_a_letter)
    fit(trainer)  # far below the target: beta falls by a fifth a round
    betas = [round.beta for round in rounds.log]
    assert betas == pytest.approx([0.1 * 0.8**i for i in range(12)])


def test_without_a_critic_the_first_advantage_is_the_reward(model):
    recipe = replace(PPO, critic=False, lam=1.0)
    trainer, rounds = ppo_training.ppo_trainer(model, recipe, starts_with_a_letter)
    trainer.train_step()
    trainer.train_step()
    later = rounds.play(1)
    assert not later.old_values.any()
    points = later.returns.gather(1, later.batch.mask.long().argmax(1, keepdim=True))
    assert set(points[:, 0].tolist()) <= {0.0, 1.0}


def test_the_judge_sees_the_answers_of_each_round(model):
    seen = []
    recipe = replace(PPO, rounds=2)
    trainer, _ = ppo_training.ppo_trainer(
        model, recipe, starts_with_a_letter, on_round=seen.append
    )
    fit(trainer)
    assert [len(rollouts) for rollouts in seen] == [PPO.prompts] * 2


def test_rounds_are_a_function_of_seed_and_model(model):
    _, one = ppo_training.ppo_trainer(model, PPO, seed=3)
    _, two = ppo_training.ppo_trainer(model, PPO, seed=3)
    _, other = ppo_training.ppo_trainer(model, PPO, seed=4)
    assert torch.equal(one(0).batch.tokens, two(0).batch.tokens)
    assert not torch.equal(one(0).batch.tokens[:, :9], other(0).batch.tokens[:, :9])


def test_fresh_answers_are_a_function_of_seed_and_model(model):
    once, again, other = (
        answer_fresh(model, random.Random(seed), PPO, group=2) for seed in (1, 1, 2)
    )
    assert [r.reply for r in once] == [r.reply for r in again]
    assert [r.problem for r in once] != [r.problem for r in other]
    assert len(once) == 2 * PPO.prompts
    assert [r.problem for r in once[::2]] == [r.problem for r in once[1::2]]
    assert all(len(r.tokens) <= PPO.max_new for r in once)
    assert all(len(r.problem.changes) == 1 for r in once)


def test_every_answer_is_in_one_share(model):
    _, rounds = ppo_training.ppo_trainer(model, PPO, starts_with_a_letter)
    whole = rounds.play(0)
    shares = share_out(whole, 5, seed=1)
    assert [len(share.batch) for share in shares] == [7, 7, 6, 6, 6]
    rows = torch.cat([share.returns for share in shares])
    assert sorted(map(tuple, rows.tolist())) == sorted(
        map(tuple, whole.returns.tolist())
    )
    assert not torch.equal(rows, whole.returns)


def rollout(problem, reply: str) -> Rollout:
    tokens = tokenizer().encode(reply, "all")
    return Rollout(problem, [1], tokens, [0.0] * len(tokens), reply)


def test_only_right_answers_are_kept_and_each_once():
    one, two = problems(0, 2, EASY)
    right = rollout(one, one.demonstration())
    also = rollout(one, one.demonstration(thinking=False))
    wrong = rollout(two, f"<think></think>{two.answer + 1}")
    broken = rollout(two, str(two.answer))
    kept = expert_iteration.accepted([wrong, right, broken, right, also])
    assert kept == [right, also]


def test_a_round_without_right_answers_says_so(model):
    recipe = expert_iteration.Recipe(difficulty=EASY, prompts=4, group=2, max_new=2)
    _, rounds = expert_iteration.rft_trainer(model, recipe)
    with pytest.raises(ValueError, match="only 0 of 8 answers are right"):
        rounds(0)


def test_each_kept_answer_is_learned_once_a_round(model, monkeypatch):
    recipe = expert_iteration.Recipe(
        difficulty=EASY, prompts=4, group=2, updates=3, max_new=2
    )

    def perfect(model, rng, recipe, group):
        asked, _ = questions(model, rng, recipe)
        replies = roll_out(model, asked, group, max_new=1)
        return [
            replace(
                rollout(r.problem, r.problem.demonstration(thinking=i % 2 == 0)),
                prompt=r.prompt,
            )
            for i, r in enumerate(replies)
        ]

    monkeypatch.setattr(expert_iteration, "answer_fresh", perfect)
    trainer, rounds = expert_iteration.rft_trainer(model, recipe)
    shares = [rounds(step) for step in range(3)]
    assert rounds.kept == [8]
    assert [len(share) for share in shares] == [3, 3, 2]
    record = trainer.train_step()
    assert record.size == int(shares[0].mask.sum())
