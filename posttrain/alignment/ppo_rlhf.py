"""RLHF end to end on one core: imitate, learn what is liked, optimise that.

    start = imitate(setting, seed)                      # SFT on replies in all styles
    proxy = learn_to_judge(setting, start, seed)        # a reward model from pairs
    curve = optimise(setting, start, proxy, recipe, seed)       # PPO against it

People's preferences are played by a fixed function, the *gold* judge: right answers
first, then politeness, then brevity. The reward model sees some hundred verdicts of it,
and PPO sees the reward model only. So what the policy gains by the proxy and what it
gains by gold can be told apart.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import nn

from posttrain.alignment import reward_model_measures
from posttrain.alignment.chat_sft import Pool, sft_trainer
from posttrain.alignment.dpo_judge import ScoreJudge
from posttrain.alignment.ppo_training import Recipe, ppo_trainer
from posttrain.alignment.reward_model import RewardModel
from posttrain.alignment.reward_model_training import (
    PairPool,
    Preference,
    reward_trainer,
    rewards_of,
)
from posttrain.alignment.rollouts import Rollout, roll_out
from posttrain.alignment.word_problem_styles import Style, read
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import Difficulty, Problem, problems
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.trainer import fit

GOLD = ScoreJudge()
TWO_STEPS = Difficulty(steps=2, most=9)
UNREADABLE = -1.0  # gold points of a reply that is broken text
TEST_SEED = 10_000


@dataclass(frozen=True)
class Setting:
    """Sizes of the three stages."""

    difficulty: Difficulty = TWO_STEPS
    C: int = 64
    L: int = 2
    T: int = 160
    demonstrations: int = 2000
    sft_B: int = 64
    sft_steps: int = 250
    sft_lr: float = 2e-2
    pairs: int = 512
    rm_B: int = 32
    rm_steps: int = 120
    rm_lr: float = 5e-3
    test: int = 128
    max_new: int = 80


def gold(problem: Problem, reply: str) -> float:
    """What the gold judge gives a reply; UNREADABLE for broken text."""
    points = GOLD.score(problem, reply)
    return points if math.isfinite(points) else UNREADABLE


def imitate(setting: Setting, seed: int, device: str = "cpu") -> GPT:
    """A model that was fine-tuned on right replies, in a style drawn for each."""
    rng = random.Random(seed)
    pool = problems(seed, setting.demonstrations, setting.difficulty)
    pairs = [(p.question, _any_style(rng).reply(rng, p)) for p in pool]
    torch.manual_seed(seed)
    V = tokenizer().vocab_size
    config = GPTConfig(V=V, T=setting.T, C=setting.C, L=setting.L, H=4, H_kv=2)
    model = GPT(config).to(device)
    data = Pool.of(pairs, B=setting.sft_B, seed=seed, device=device)
    fit(sft_trainer(model, data, setting.sft_steps, setting.sft_lr))
    return model


def _any_style(rng: random.Random) -> Style:
    return Style(polite=rng.random() < 0.5, rambling=rng.random() < 0.5)


def preferences(setting: Setting, start: nn.Module, seed: int) -> list[Preference]:
    """Two of the model's own replies to each problem, ordered by the gold judge.

    Ties are left out: they say nothing about which is better.
    """
    asked = problems(seed + 1, setting.pairs, setting.difficulty)
    generator = torch.Generator(_device(start)).manual_seed(seed)
    drawn = roll_out(start, asked, 2, generator=generator, max_new=setting.max_new)
    found = []
    for first, second in zip(drawn[::2], drawn[1::2], strict=True):
        a, b = (gold(r.problem, r.reply) for r in (first, second))
        if a != b:
            better, worse = (first, second) if a > b else (second, first)
            question = first.problem.question
            found.append(Preference(question, better.reply, worse.reply))
    return found


def learn_to_judge(
    setting: Setting, start: GPT, seed: int
) -> tuple[RewardModel, list[Preference]]:
    """A reward model with the start's body, and the pairs that it was trained on."""
    pairs = preferences(setting, start, seed)
    torch.manual_seed(seed)
    proxy = RewardModel(start)
    pool = PairPool.of(pairs, B=setting.rm_B, seed=seed, device=str(_device(start)))
    fit(reward_trainer(proxy, pool, setting.rm_steps, setting.rm_lr))
    return proxy.eval(), pairs


def accuracy(proxy: RewardModel, pairs: Sequence[Preference]) -> float:
    """How often the reward model orders a pair as the gold judge does."""
    chosen = rewards_of(proxy, [(p.question, p.chosen) for p in pairs])
    rejected = rewards_of(proxy, [(p.question, p.rejected) for p in pairs])
    return reward_model_measures.accuracy(chosen - rejected)


@dataclass(frozen=True)
class Look:
    """The answers of one round, seen by both judges.

    proxy: mean reward, 0 is that of the start. kl: nats a reply from the start.
    """

    proxy: float
    gold: float
    kl: float
    right: float
    polite: float
    readable: float
    words: float  # of the readable ones, after the thinking


def look_at(rollouts: Sequence[Rollout], proxy: float, kl: float) -> Look:
    """Count what the answers are like."""
    readings = [read(r.reply) for r in rollouts]
    readable = [found for found in readings if found is not None]
    right = [
        found is not None and found.answer == r.problem.answer
        for found, r in zip(readings, rollouts, strict=True)
    ]
    n = len(rollouts)
    return Look(
        proxy=proxy,
        gold=sum(gold(r.problem, r.reply) for r in rollouts) / n,
        kl=kl,
        right=sum(right) / n,
        polite=sum(found.style.polite for found in readable) / n,
        readable=len(readable) / n,
        words=sum(found.words for found in readable) / max(1, len(readable)),
    )


def optimise(
    setting: Setting, start: GPT, proxy: RewardModel, recipe: Recipe, seed: int
) -> tuple[GPT, list[dict]]:
    """PPO from `start` against `proxy`: the policy, and a `Look` at each round."""
    policy, answers = copy.deepcopy(start), []
    baseline = _mean_reward(setting, start, proxy, seed)

    def judge(rollouts: Sequence[Rollout]) -> list[float]:
        asked = [(r.problem.question, r.reply) for r in rollouts]
        return (rewards_of(proxy, asked) - baseline).tolist()

    trainer, rounds = ppo_trainer(policy, recipe, judge, seed, answers.append)
    fit(trainer)
    looks = [
        asdict(look_at(rollouts, round.reward, round.kl))
        for rollouts, round in zip(answers, rounds.log, strict=True)
    ]
    return policy, looks


def samples(setting: Setting, model: nn.Module, seed: int, n: int = 3) -> list[dict]:
    """Answers to the first test problems, to be read by a person."""
    asked = problems(TEST_SEED, n, setting.difficulty, "test")
    generator = torch.Generator(_device(model)).manual_seed(seed)
    drawn = roll_out(model, asked, generator=generator, max_new=setting.max_new)
    return [
        {"question": r.problem.question, "answer": r.problem.answer, "reply": r.reply}
        for r in drawn
    ]


def _mean_reward(
    setting: Setting, start: nn.Module, proxy: RewardModel, seed: int
) -> float:
    """What the reward model gives the start's answers: its zero is arbitrary."""
    asked = problems(TEST_SEED, setting.test, setting.difficulty, "test")
    generator = torch.Generator(_device(start)).manual_seed(seed)
    drawn = roll_out(start, asked, generator=generator, max_new=setting.max_new)
    return (
        rewards_of(proxy, [(r.problem.question, r.reply) for r in drawn]).mean().item()
    )


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
