"""One round of RFT with one knob turned at a time.

    pool = Draws(start, problems, k=16, seed=0)         # drawn once, for all arms
    learn(model, pool, ARMS["one a calculation"], steps=30)

All arms ask the same questions and take the same number of steps. What differs is which
replies are kept, and how often each of them is seen.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from posttrain.alignment.rollouts import MAX_NEW, Rollout
from posttrain.alignment.word_problems import Problem
from posttrain.foundations.trainer import fit
from posttrain.synthetic_data.rejection_sampling import (
    Key,
    by_equations,
    by_reply,
    keep,
    right_answer,
    right_steps,
)
from posttrain.synthetic_data.rejection_sampling_measures import composition
from posttrain.synthetic_data.rejection_sampling_training import (
    Accepted,
    Verdict,
    answers,
    imitation_trainer,
)


@dataclass(frozen=True)
class Arm:
    """What is kept of the draws.

    k: so many replies to a question; None: all. same, most: as for `keep`. balanced: as
    for `Accepted`. wrong: the share of wrong replies that the verifier lets pass.
    """

    verdict: Verdict = right_answer
    k: int | None = None
    temperature: float = 1.0
    same: Key | None = None
    most: int | None = None
    balanced: bool = True
    wrong: float = 0.0


ARMS = {
    "every reply": Arm(),
    "by replies": Arm(balanced=False),
    "one a wording": Arm(same=by_reply),
    "one a calculation": Arm(same=by_equations),
    "one a question": Arm(most=1),
    "steps checked": Arm(verdict=right_steps),
    "k = 1": Arm(k=1),
    "k = 4": Arm(k=4),
    "k = 4, T = 0.3": Arm(k=4, temperature=0.3),
    "k = 4, T = 1.3": Arm(k=4, temperature=1.3),
    "5 % of the wrong": Arm(wrong=0.05),
    "20 % of the wrong": Arm(wrong=0.2),
    "no verifier": Arm(wrong=1.0),
}


@dataclass
class Draws:
    """k replies of a policy to each problem, drawn when they are first asked for."""

    policy: nn.Module
    problems: Sequence[Problem]
    k: int
    seed: int
    max_new: int = MAX_NEW
    drawn: dict[tuple[int, float], list[Rollout]] = field(default_factory=dict)

    def rollouts(self, k: int | None = None, temperature: float = 1.0) -> list[Rollout]:
        """The first k replies to each problem; None: all of them.

        At temperature 1 every k takes a part of the same replies.
        """
        k = self.k if k is None else min(k, self.k)
        size = self.k if temperature == 1 else k
        if (size, temperature) not in self.drawn:
            self.drawn[size, temperature] = answers(
                *(self.policy, self.problems, size, self.seed),
                temperature=temperature,
                max_new=self.max_new,
            )
        rows = self.drawn[size, temperature]
        return [row for i, row in enumerate(rows) if i % size < k]


def kept_by(arm: Arm, draws: Draws) -> list[list[Rollout]]:
    """The replies that an arm learns from, by question."""
    rollouts = draws.rollouts(arm.k, arm.temperature)
    rng = random.Random(draws.seed)
    slips = [rng.random() < arm.wrong for _ in rollouts]
    passed = [slip or arm.verdict(r) for slip, r in zip(slips, rollouts, strict=True)]
    return keep(rollouts, passed, arm.same, arm.most)


def learn(model: nn.Module, draws: Draws, arm: Arm, steps: int) -> dict:
    """Train `model` in place on what the arm keeps; says what that consists of."""
    kept = kept_by(arm, draws)
    device = str(next(model.parameters()).device)
    accepted = Accepted(kept, arm.balanced, seed=draws.seed, device=device)
    fit(imitation_trainer(model, accepted, steps))
    return composition(kept)
