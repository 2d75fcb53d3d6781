"""DPO on pairs that the model makes itself: a right answer against a wrong one.

    trainer, rounds = own_pairs_trainer(model, Recipe(), seed=0)
    fit(trainer)

Each round the present model answers anew, the verifier sorts, and the pairs come from
one group: same problem, one answer right, one wrong. The loss is that of Rafailov et
al. 2023, eq. 7; the reference is the model that training began with.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posttrain.alignment.completions import Completions
from posttrain.alignment.dpo import implicit_rewards, sequence_logprobs
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
    """One run: in each round answers, pairs, and one step on all of them."""

    difficulty: Difficulty = FOUR_STEPS
    prompts: int = 32
    group: int = 8
    pairs: int = 3  # at most, of one group
    rounds: int = 30
    lr: float = 3e-4
    beta: float = 0.1
    max_new: int = MAX_NEW


@dataclass(frozen=True)
class Pairs:
    """N right answers, then the N wrong ones to the same problems, as one batch.

    ref_logprobs: (2 N,), of whole answers under the reference.
    """

    batch: Completions
    ref_logprobs: Tensor


def paired(
    rollouts: Sequence[Rollout], group: int, most: int
) -> tuple[list[Rollout], list[Rollout]]:
    """Right and wrong answers of the same groups, as many of each, at most `most`."""
    chosen, rejected = [], []
    for first in range(0, len(rollouts), group):
        answers = rollouts[first : first + group]
        right = [parse(r.reply).answer == r.problem.answer for r in answers]
        ups = [r for r, good in zip(answers, right, strict=True) if good]
        downs = [r for r, good in zip(answers, right, strict=True) if not good]
        n = min(len(ups), len(downs), most)
        chosen += ups[:n]
        rejected += downs[:n]
    return chosen, rejected


class Rounds:
    """The batches of a run: at every step the model answers anew.

    `log` has the verifier's `Scores` of each round, `found` the number of pairs.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, seed: int = 0):
        self.model, self.recipe, self.seed = model, recipe, seed
        self.reference = copy.deepcopy(model).eval()
        self.log: list[Scores] = []
        self.found: list[int] = []

    @torch.no_grad()
    def __call__(self, step: int, micro: int = 0) -> Pairs:
        """The pairs of round `step`. Raises ValueError where there is none."""
        recipe = self.recipe
        rng = random.Random(f"{self.seed} {step}")
        rollouts = answer_fresh(self.model, rng, recipe, recipe.group)
        chosen, rejected = paired(rollouts, recipe.group, recipe.pairs)
        self.log.append(score(rollouts))
        self.found.append(len(chosen))
        if not chosen:
            raise ValueError(
                f"round {step}: no group has a right and a wrong answer; ask more"
                " prompts, or end the run here"
            )
        batch = batch_of(chosen + rejected, next(self.model.parameters()).device)
        ref = sequence_logprobs(self.reference, batch)
        return Pairs(batch, ref)


def loss_of(beta: float, model: nn.Module, pairs: Pairs) -> Tensor:
    """DPO's loss: minus log sigmoid of the difference of implicit rewards, a mean."""
    logprobs = sequence_logprobs(model, pairs.batch)  # (2 N,)
    chosen, rejected = implicit_rewards(logprobs, pairs.ref_logprobs, beta).chunk(2)
    return -F.logsigmoid(chosen - rejected).mean()


def own_pairs_trainer(
    model: nn.Module, recipe: Recipe, seed: int = 0
) -> tuple[Trainer, Rounds]:
    """A trainer that runs DPO on own pairs, and the rounds that it plays."""
    rounds = Rounds(model, recipe, seed)
    trainer = policy_trainer(
        model,
        rounds,
        partial(loss_of, recipe.beta),
        steps=recipe.rounds,
        lr=recipe.lr,
        warmup=min(5, recipe.rounds // 3),
    )
    return trainer, rounds
