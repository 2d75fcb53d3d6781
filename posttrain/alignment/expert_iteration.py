"""Expert iteration, or RFT: answer, keep what the verifier accepts, imitate that.

    kept = accepted(rollouts)                       # right answers, each one once
    trainer, rounds = rft_trainer(model, Recipe(), seed=0)
    fit(trainer)

There is no advantage and no negative example: only right answers are imitated, with the
loss of SFT. The data are made by the model, so they are never far from what it does.
Sources: Anthony et al. 2017 (the name), Zelikman et al. 2022 (STaR), Yuan et al. 2023
(rejection-sampling fine-tuning).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from posttrain.alignment.completions import Completions, count, total_nll
from posttrain.alignment.policy_training import answer_fresh, policy_trainer
from posttrain.alignment.rollouts import (
    MAX_NEW,
    Rollout,
    Scores,
    batch_of,
    score,
)
from posttrain.alignment.verifier import parse
from posttrain.alignment.word_problems import FOUR_STEPS, Difficulty
from posttrain.foundations.trainer import Trainer


@dataclass(frozen=True)
class Recipe:
    """One run: `rounds` times, answers to `prompts` problems, then `updates` steps."""

    difficulty: Difficulty = FOUR_STEPS
    prompts: int = 64
    group: int = 8
    rounds: int = 12
    updates: int = 6
    lr: float = 5e-4
    max_new: int = MAX_NEW


def accepted(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The right ones, each different reply to a problem once, in their order."""
    right = [r for r in rollouts if parse(r.reply).answer == r.problem.answer]
    return list({(tuple(r.prompt), tuple(r.tokens)): r for r in right}.values())


class Rounds:
    """The batches of an RFT run: every `updates` steps the model answers anew.

    `log` has the verifier's `Scores` of each round, `kept` how many answers it kept.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, seed: int = 0):
        self.model, self.recipe, self.seed = model, recipe, seed
        self.log: list[Scores] = []
        self.kept: list[int] = []

    def __call__(self, step: int, micro: int = 0) -> Completions:
        """The share of the present round's right answers that step `step` learns."""
        round, update = divmod(step, self.recipe.updates)
        if update == 0:
            self.shares = self._shares(round)
        return self.shares[update]

    def _shares(self, round: int) -> list[Completions]:
        recipe = self.recipe
        rng = random.Random(f"{self.seed} {round}")
        rollouts = answer_fresh(self.model, rng, recipe, recipe.group)
        kept = accepted(rollouts)
        self.log.append(score(rollouts))
        self.kept.append(len(kept))
        if len(kept) < recipe.updates:
            raise ValueError(
                f"round {round}: only {len(kept)} of {len(rollouts)} answers are right,"
                f" fewer than updates={recipe.updates}; begin with easier problems or a"
                " better model"
            )
        rng.shuffle(kept)
        device = next(self.model.parameters()).device
        return [
            batch_of(kept[i :: recipe.updates], device) for i in range(recipe.updates)
        ]


def rft_trainer(
    model: nn.Module, recipe: Recipe, seed: int = 0
) -> tuple[Trainer, Rounds]:
    """A trainer that runs expert iteration, and the rounds that it plays."""
    rounds = Rounds(model, recipe, seed)
    steps = recipe.rounds * recipe.updates
    trainer = policy_trainer(
        model,
        rounds,
        total_nll,
        steps=steps,
        lr=recipe.lr,
        warmup=min(5, steps // 4),
        size=count,
    )
    return trainer, rounds
