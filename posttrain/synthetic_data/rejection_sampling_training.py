"""Learn from accepted replies: one round of RFT, and several: expert iteration.

    kept = keep(rollouts, right, same=by_equations)
    fit(imitation_trainer(model, Accepted(kept, balanced=True), steps=40))
    log = iterate(model, exam, Iteration(rounds=4), seed=0)

The loss is that of SFT. What is decided here is how often each reply is seen, and which
model wrote it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from posttrain.alignment.completions import Completions, count, total_nll
from posttrain.alignment.policy_training import policy_trainer
from posttrain.alignment.rollouts import MAX_NEW, Rollout, batch_of, roll_out
from posttrain.alignment.word_problems import Problem
from posttrain.foundations.sampling import Sampling
from posttrain.foundations.trainer import Trainer, fit
from posttrain.synthetic_data.rejection_sampling import (
    keep,
    right_answer,
    right_steps,
)
from posttrain.synthetic_data.rejection_sampling_paths import Exam

Verdict = Callable[[Rollout], bool]


@dataclass(frozen=True)
class Accepted:
    """Kept replies by question; called with (step, micro), it gives a batch.

    balanced: a batch draws questions, and one reply to each, so that all questions
    count the same. Otherwise it draws replies: a question counts as often as it was
    solved.
    """

    groups: Sequence[Sequence[Rollout]]
    balanced: bool = True
    B: int = 64
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self):
        if not self.groups:
            raise ValueError(
                "no reply was accepted, so there is nothing to learn from; ask easier"
                " questions, draw more replies or begin with a better model"
            )

    def __call__(self, step: int, micro: int = 0) -> Completions:
        """Batch `step`: B replies, drawn with replacement."""
        rng = random.Random(f"{self.seed} {step} {micro}")
        return batch_of([self.pick(rng) for _ in range(self.B)], self.device)

    def pick(self, rng: random.Random) -> Rollout:
        """One reply."""
        sizes = [1 if self.balanced else len(group) for group in self.groups]
        return rng.choice(rng.choices(self.groups, sizes)[0])


def imitation_trainer(
    model: nn.Module, accepted: Accepted, steps: int, lr: float = 1e-3
) -> Trainer:
    """SFT on accepted replies, with the optimizer of this book's other methods."""
    return policy_trainer(
        model,
        accepted,
        total_nll,
        steps=steps,
        lr=lr,
        warmup=min(5, steps // 4),
        size=count,
    )


def answers(
    model: nn.Module,
    problems: Sequence[Problem],
    k: int,
    seed: int,
    temperature: float = 1.0,
    max_new: int = MAX_NEW,
) -> list[Rollout]:
    """k replies to each problem; those to one problem stand together."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    return roll_out(
        model, problems, k, Sampling(temperature), generator, max_new=max_new
    )


# ---------------------------------------------------------------- rounds


@dataclass(frozen=True)
class Iteration:
    """Several rounds: `questions` problems, k replies to each, then `steps` steps.

    same_questions: every round asks what the first one asked. stale: every round's
    replies are written by the model from before the first.
    """

    rounds: int = 4
    questions: int = 64
    k: int = 8
    steps: int = 20
    lr: float = 1e-3
    B: int = 48
    max_new: int = MAX_NEW
    same_questions: bool = False
    stale: bool = False


FOUR_ROUNDS = Iteration()


@dataclass(frozen=True)
class Look:
    """One round: what was drawn in it, and what was accepted."""

    right: float  # share of the replies with a right answer
    accepted: float  # share of the replies
    false: float  # share of the accepted whose steps or answer are wrong
    solved: float  # share of the questions with an accepted reply


def iterate(
    model: nn.Module,
    exam: Exam,
    recipe: Iteration,
    seed: int,
    verdict: Verdict = right_answer,
    after: Callable[[nn.Module], None] = lambda model: None,
) -> list[Look]:
    """Train `model` for some rounds, in place; `after` sees it behind each of them."""
    asked = exam.problems(seed, recipe.questions * recipe.rounds)
    writer = copy.deepcopy(model) if recipe.stale else model
    device = str(next(model.parameters()).device)
    log = []
    for round in range(recipe.rounds):
        first = 0 if recipe.same_questions else round * recipe.questions
        problems = asked[first : first + recipe.questions]
        rollouts = answers(
            writer, problems, recipe.k, 1000 * seed + round, max_new=recipe.max_new
        )
        passed = [verdict(rollout) for rollout in rollouts]
        kept = keep(rollouts, passed)
        log.append(look(rollouts, kept))
        accepted = Accepted(kept, B=recipe.B, seed=round, device=device)
        fit(imitation_trainer(model, accepted, recipe.steps, recipe.lr))
        after(model)
    return log


def look(rollouts: Sequence[Rollout], kept: Sequence[Sequence[Rollout]]) -> Look:
    """What a round drew and kept. Raises ValueError where nothing was kept."""
    replies = [rollout for group in kept for rollout in group]
    if not replies:
        raise ValueError(f"none of {len(rollouts)} replies was accepted")
    asked = {rollout.problem.question for rollout in rollouts}
    return Look(
        right=sum(map(right_answer, rollouts)) / len(rollouts),
        accepted=len(replies) / len(rollouts),
        false=1 - sum(map(right_steps, replies)) / len(replies),
        solved=len(kept) / len(asked),
    )
