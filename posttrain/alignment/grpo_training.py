"""GRPO on word problems: answer, verify, compare within the group, learn.

    trainer, rounds = grpo_trainer(model, Recipe(), seed=0)
    fit(trainer)
    rounds.log[-1].accuracy                     # of the answers of the last round

A *round* is one batch of answers by the present model; `updates` steps are taken on it,
each on its share of the answers, so that only the first is exactly on-policy.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from posttrain.alignment.completions import Completions, completion_logprobs
from posttrain.alignment.grpo import DAPO, Objective, group_advantages, policy_loss
from posttrain.alignment.policy_training import policy_trainer, questions, share_out
from posttrain.alignment.rollouts import (
    MAX_NEW,
    Rollout,
    Scores,
    batch_of,
    roll_out,
    score,
)
from posttrain.alignment.verifier import STRICT
from posttrain.alignment.word_problems import FOUR_STEPS, Difficulty, Problem
from posttrain.foundations.trainer import Trainer


@dataclass(frozen=True)
class Recipe:
    """One run. Defaults: what the book's small model learns with in under a minute."""

    difficulty: Difficulty = FOUR_STEPS
    prompts: int = 16  # problems a round
    group: int = 8  # answers to each
    rounds: int = 60
    updates: int = 2  # optimizer steps a round
    lr: float = 5e-4
    objective: Objective = DAPO
    std: bool = True  # divide advantages by the group's deviation
    drop_silent: bool = True  # leave out groups whose answers all earn the same
    max_new: int = MAX_NEW

    def __post_init__(self):
        if not 1 <= self.updates <= self.group:
            raise ValueError(
                f"updates={self.updates} must lie in 1 ... group={self.group}: where"
                " all other groups are left out, each update still needs an answer"
            )


@dataclass(frozen=True)
class Experience:
    """Answers, what the model thought of them when it wrote them, and what they earned.

    old_logprobs, ref_logprobs: (B, T); advantages: (B,).
    """

    batch: Completions
    old_logprobs: Tensor
    advantages: Tensor
    ref_logprobs: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> Experience:
        """Some of the answers."""
        ref = None if self.ref_logprobs is None else self.ref_logprobs[rows]
        return replace(
            self,
            batch=self.batch[rows],
            old_logprobs=self.old_logprobs[rows],
            advantages=self.advantages[rows],
            ref_logprobs=ref,
        )


@dataclass(frozen=True)
class Round:
    """What one round looked like: the verifier's scores and the mean reward."""

    scores: Scores
    reward: float
    silent: float  # the share of groups in which all answers earned the same


class Rounds:
    """The batches of a GRPO run: every `updates` steps the model answers anew.

    reward: reward(reply, right answer) -> points. `log` has a `Round` for each round.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        reward: Callable[[str, int], float] = STRICT,
        seed: int = 0,
    ):
        self.model, self.recipe, self.reward, self.seed = model, recipe, reward, seed
        keeps = recipe.objective.beta > 0
        self.reference = copy.deepcopy(model).eval() if keeps else None
        self.log: list[Round] = []

    def __call__(self, step: int, micro: int = 0) -> Experience:
        """The share of the present round's answers that step `step` learns from."""
        round, update = divmod(step, self.recipe.updates)
        if update == 0:
            self.shares = share_out(self.play(round), self.recipe.updates, round)
        return self.shares[update]

    def play(self, round: int) -> Experience:
        """Answers to fresh problems, and their advantages."""
        recipe = self.recipe
        rng = random.Random(f"{self.seed} {round}")
        asked, generator = questions(self.model, rng, recipe)
        rollouts = self.answers(asked, generator)
        earned = [self.reward(r.reply, r.problem.answer) for r in rollouts]
        device = next(self.model.parameters()).device
        rewards = torch.tensor(earned, device=device).view(-1, recipe.group)  # (P, G)
        silent = rewards.amax(dim=1) == rewards.amin(dim=1)
        self.log.append(
            Round(score(rollouts), rewards.mean().item(), silent.float().mean().item())
        )
        advantages = self.advantages(rewards)
        if recipe.drop_silent and not silent.all():
            rows = (~silent).repeat_interleave(recipe.group).nonzero()[:, 0]
            rollouts = [rollouts[i] for i in rows]
            advantages = advantages[~silent]
        return self._remember(rollouts, advantages.flatten())

    def answers(
        self, asked: list[Problem], generator: torch.Generator
    ) -> list[Rollout]:
        """`group` answers of the present model to each problem."""
        group, max_new = self.recipe.group, self.recipe.max_new
        return roll_out(self.model, asked, group, generator=generator, max_new=max_new)

    def advantages(self, rewards: Tensor) -> Tensor:
        """Of the rewards of a round: (P, G) -> (P, G)."""
        return group_advantages(rewards, self.recipe.std)

    @torch.no_grad()
    def _remember(self, rollouts: list[Rollout], advantages: Tensor) -> Experience:
        """Log-probabilities as training computes them, not those of generation: the two
        differ in the last digits, and a ratio should begin at exactly 1."""
        batch = batch_of(rollouts, advantages.device)
        old = completion_logprobs(self.model, batch)
        ref = None
        if self.reference is not None:
            ref = completion_logprobs(self.reference, batch)
        return Experience(batch, old, advantages, ref)


def loss_of(objective: Objective, model: nn.Module, experience: Experience) -> Tensor:
    """`policy_loss` of the present model on a share of the answers."""
    return policy_loss(
        completion_logprobs(model, experience.batch),
        experience.old_logprobs,
        experience.advantages,
        experience.batch.mask,
        objective,
        experience.ref_logprobs,
    )


def grpo_trainer(
    model: nn.Module,
    recipe: Recipe,
    reward: Callable[[str, int], float] = STRICT,
    seed: int = 0,
) -> tuple[Trainer, Rounds]:
    """A trainer that runs GRPO, and the rounds that it plays."""
    rounds = Rounds(model, recipe, reward, seed)
    return trainer_of(rounds, partial(loss_of, recipe.objective)), rounds


def trainer_of(
    rounds: Rounds, loss: Callable[[nn.Module, Experience], Tensor]
) -> Trainer:
    """AdamW, five steps of warm-up, the last third of the steps decaying to a tenth."""
    model, recipe = rounds.model, rounds.recipe
    steps = recipe.rounds * recipe.updates
    return policy_trainer(
        model,
        rounds,
        loss,
        steps=steps,
        lr=recipe.lr,
        warmup=min(5, steps // 3),
    )
