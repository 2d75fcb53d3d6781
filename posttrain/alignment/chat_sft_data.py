"""Demonstrations good and bad, many and few, in one order or another.

    pairs = worked(problems(seed, 4000))               # (question, reply), all right
    pairs = with_slips(problems(seed, 4000), 0.3)      # three in ten make a slip
    batches = Stages([easy, middling, hard], steps=240)

A slip is what a careless annotator writes: one step of the solution is off by a little,
and all that follows builds on it, so the answer is wrong as well. The form stays
perfect; no filter that looks at form alone will find it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.alignment.chat_sft import Pool
from posttrain.alignment.completions import Completions
from posttrain.alignment.word_problems import END_THINK, THINK, Problem

Pair = tuple[str, str]  # question, reply


def worked(problems: Sequence[Problem]) -> list[Pair]:
    """Each problem with its right, worked solution."""
    return [(problem.question, problem.demonstration()) for problem in problems]


def with_slips(problems: Sequence[Problem], share: float, seed: int = 0) -> list[Pair]:
    """The same, but a share of the solutions has a slip. Which ones, the seed decides.

    Raises ValueError for a share outside 0 ... 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share} must lie in 0 ... 1")
    rng = random.Random(f"slips {seed}")
    bad = set(rng.sample(range(len(problems)), round(share * len(problems))))
    return [
        (p.question, slipped(rng, p) if i in bad else p.demonstration())
        for i, p in enumerate(problems)
    ]


def slipped(rng: random.Random, problem: Problem) -> str:
    """A worked solution with one wrong step; the rest goes on from there."""
    where = rng.randrange(len(problem.changes))
    now, steps = problem.start, []
    for i, change in enumerate(problem.changes):
        before, now = now, now + change
        if i == where:
            now += rng.choice([d for d in (-2, -1, 1, 2) if now + d > 0])
        steps.append(f"{before}{change:+d}={now}")
    return f"{THINK}{';'.join(steps)}{END_THINK}{now}"


@dataclass(frozen=True)
class Stages:
    """A curriculum: pools one after the other, each for as many steps."""

    pools: Sequence[Pool]
    steps: int

    def __call__(self, step: int, micro: int = 0) -> Completions:
        """Batch `step` of the run: from the pool whose turn it is."""
        length = -(-self.steps // len(self.pools))
        stage = min(step // length, len(self.pools) - 1)
        return self.pools[stage](step - stage * length, micro)
