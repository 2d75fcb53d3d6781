"""PPO on word problems: answer, score, estimate advantages with a critic, learn.

    trainer, rounds = ppo_trainer(model, Recipe(), verified, seed=0)
    fit(trainer)
    rounds.log[-1].reward, rounds.log[-1].kl

The layout is that of `grpo_training`: a round is one batch of answers, `updates` steps
are taken on it. What is new is the critic, a second model of the policy's size, and a
reference for the KL. `judge` is any function from answers to points, a verifier or a
reward model; with the latter these are the four models of RLHF.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from posttrain.alignment.completions import Completions, completion_logprobs
from posttrain.alignment.policy_training import answer_fresh, policy_trainer, share_out
from posttrain.alignment.ppo import (
    clipped_terms,
    explained_variance,
    gae,
    masked_mean,
    next_beta,
    token_rewards,
    value_loss,
    whiten,
)
from posttrain.alignment.rollouts import (
    MAX_NEW,
    Rollout,
    Scores,
    batch_of,
    score,
)
from posttrain.alignment.verifier import STRICT
from posttrain.alignment.word_problems import FOUR_STEPS, Difficulty
from posttrain.foundations.trainer import Trainer


@dataclass(frozen=True)
class Recipe:
    """One run.

    beta: weight of the KL to the model that training began with; target_kl: nats a
    reply that beta is steered to (`ppo.next_beta`), None leaves beta as it is.
    critic: False puts zeros in the place of its values.
    """

    difficulty: Difficulty = FOUR_STEPS
    prompts: int = 128  # problems a round, one answer each
    rounds: int = 60
    updates: int = 2  # optimizer steps a round
    lr: float = 5e-4
    critic_lr: float = 1e-3
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float | None = None
    value_weight: float = 1.0
    beta: float = 0.0
    target_kl: float | None = None
    horizon: int = 2000  # answers over which beta changes by a fifth at most
    critic: bool = True
    max_new: int = MAX_NEW


class ActorCritic(nn.Module):
    """The policy, and a critic that starts from the policy's body.

    The critic's read-out starts at zero, so the first advantages are the rewards.
    """

    def __init__(self, policy: nn.Module):
        super().__init__()
        self.policy = policy
        self.critic = copy.deepcopy(policy)
        self.critic.head = nn.Linear(policy.config.C, 1)
        nn.init.zeros_(self.critic.head.weight)
        nn.init.zeros_(self.critic.head.bias)

    def values(self, batch: Completions) -> Tensor:
        """V of the text before each token of a reply: (B, T), 0 outside the mask."""
        values = self.critic.head(self.critic.hidden(batch.tokens))[..., 0]  # (B, T)
        return values * batch.mask


@dataclass(frozen=True)
class Experience:
    """Answers and all that a PPO step needs to know about them: (B, T) each."""

    batch: Completions
    old_logprobs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor

    def __getitem__(self, rows: Tensor) -> Experience:
        """Some of the answers."""
        parts = (self.batch, self.old_logprobs, self.old_values)
        return Experience(
            *(part[rows] for part in parts), self.advantages[rows], self.returns[rows]
        )


@dataclass(frozen=True)
class Round:
    """What one round looked like: the verifier's scores and the mean reward.

    kl: nats a reply from the reference, by the answers themselves (k1).
    explained: how much of the returns' variance the critic foresaw.
    """

    scores: Scores
    reward: float
    kl: float
    explained: float
    beta: float  # the penalty's weight in this round


Judge = Callable[[Sequence[Rollout]], Sequence[float]]


def verified(rollouts: Sequence[Rollout]) -> list[float]:
    """The strict verifier's points for each answer."""
    return [STRICT(r.reply, r.problem.answer) for r in rollouts]


class Rounds:
    """The batches of a PPO run: every `updates` steps the policy answers anew.

    judge: judge(answers) -> points for each. `log` has a `Round` for each round;
    `on_round`, where given, is called with the round's answers.
    """

    def __init__(
        self,
        model: ActorCritic,
        recipe: Recipe,
        judge: Judge = verified,
        seed: int = 0,
        on_round: Callable[[list[Rollout]], None] | None = None,
    ):
        self.model, self.recipe, self.judge, self.seed = model, recipe, judge, seed
        self.on_round, self.beta = on_round, recipe.beta
        self.reference = copy.deepcopy(model.policy).eval()
        self.log: list[Round] = []

    def __call__(self, step: int, micro: int = 0) -> Experience:
        """The share of the present round's answers that step `step` learns from."""
        round, update = divmod(step, self.recipe.updates)
        if update == 0:
            self.shares = share_out(self.play(round), self.recipe.updates, round)
        return self.shares[update]

    @torch.no_grad()
    def play(self, round: int) -> Experience:
        """Answers to fresh problems, their values, advantages and returns."""
        recipe, policy = self.recipe, self.model.policy
        rng = random.Random(f"{self.seed} {round}")
        rollouts = answer_fresh(policy, rng, recipe)
        if self.on_round:
            self.on_round(rollouts)
        device = next(policy.parameters()).device
        points = torch.tensor(self.judge(rollouts), device=device)  # (B,)
        batch = batch_of(rollouts, device)
        old = completion_logprobs(policy, batch)
        ref = completion_logprobs(self.reference, batch)
        values = self.model.values(batch) * recipe.critic
        rewards = token_rewards(points, old, ref, batch.mask, self.beta)
        advantages, returns = gae(rewards, values, batch.mask, recipe.gamma, recipe.lam)
        kl = (old - ref).sum(dim=1).mean().item()
        self.log.append(
            Round(
                score(rollouts),
                points.mean().item(),
                kl,
                explained_variance(values, returns, batch.mask).item(),
                self.beta,
            )
        )
        if recipe.target_kl is not None:
            n = len(rollouts)
            self.beta = next_beta(self.beta, kl, recipe.target_kl, n, recipe.horizon)
        return Experience(batch, old, values, whiten(advantages, batch.mask), returns)


def loss_of(recipe: Recipe, model: ActorCritic, experience: Experience) -> Tensor:
    """The policy's clipped loss and the critic's, on a share of the answers."""
    mask = experience.batch.mask
    terms = clipped_terms(
        completion_logprobs(model.policy, experience.batch),
        experience.old_logprobs,
        experience.advantages,
        recipe.clip,
        recipe.clip,
    )
    critic = value_loss(
        model.values(experience.batch),
        experience.old_values,
        experience.returns,
        mask,
        recipe.value_clip,
    )
    return masked_mean(terms, mask) + recipe.value_weight * critic


def ppo_trainer(
    policy: nn.Module,
    recipe: Recipe,
    judge: Judge = verified,
    seed: int = 0,
    on_round: Callable[[list[Rollout]], None] | None = None,
) -> tuple[Trainer, Rounds]:
    """A trainer that runs PPO on `policy`, and the rounds that it plays."""
    model = ActorCritic(policy)
    rounds = Rounds(model, recipe, judge, seed, on_round)
    steps = recipe.rounds * recipe.updates
    groups = [
        {"params": list(model.policy.parameters()), "lr": recipe.lr},
        {"params": list(model.critic.parameters()), "lr": recipe.critic_lr},
    ]
    trainer = policy_trainer(
        model,
        rounds,
        partial(loss_of, recipe),
        steps=steps,
        lr=recipe.lr,
        warmup=min(5, steps // 4),
        groups=groups,
    )
    return trainer, rounds
