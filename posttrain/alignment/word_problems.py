"""The task of this pillar: word problems, their worked solutions, an exact answer.

    problem = draw(random.Random(0), Difficulty(steps=4))
    problem.question      "Mia has 12 coins, finds 3 more, loses 5, ... How many now?"
    problem.demonstration()         "<think>12+3=15;15-5=10;...</think>14"

Problems are generated, so there is no end of them, their difficulty is a dial, and the
answer is known exactly. A problem belongs to "train" or to "test" by a checksum of its
arithmetic alone: no other name, object or seed brings the sum of a test problem into
the training set.

The tokens are those of `word_problem_tokenizer`; other ways of answering, which people
may prefer or not, are in `word_problem_styles`.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from typing import Literal

NAMES = ("Mia", "Tom", "Ann", "Ben", "Zoe", "Sam", "Eva", "Leo")
OBJECTS = ("coins", "apples", "books", "cards", "shells", "pens")
MORE = ("finds {} more", "buys {} more", "gets {} more", "wins {} more")
LESS = ("loses {}", "gives away {}", "sells {}", "drops {}")

THINK, END_THINK = "<think>", "</think>"
Split = Literal["train", "test"]
TEST_SHARE = 10  # one problem in ten is for testing


@dataclass(frozen=True)
class Difficulty:
    """steps: how many times the number changes. most: the largest change."""

    steps: int = 4
    most: int = 9

    def __post_init__(self):
        if self.steps < 1 or self.most < 2:
            raise ValueError(
                f"steps={self.steps} must be at least 1, most={self.most} at least 2"
            )


FOUR_STEPS = Difficulty()


@dataclass(frozen=True)
class Problem:
    """A question in words; start and changes are its arithmetic."""

    question: str
    start: int
    changes: tuple[int, ...]

    @property
    def answer(self) -> int:
        """The number at the end."""
        return self.start + sum(self.changes)

    @property
    def steps(self) -> list[str]:
        """The worked solution: "12+3=15", "15-5=10", ..."""
        now, steps = self.start, []
        for change in self.changes:
            steps.append(f"{now}{change:+d}={now + change}")
            now += change
        return steps

    @property
    def split(self) -> Split:
        """Which set the problem belongs to: decided by its arithmetic, for ever."""
        sums = repr((self.start, self.changes)).encode()
        return "test" if zlib.crc32(sums) % TEST_SHARE == 0 else "train"

    def demonstration(self, thinking: bool = True) -> str:
        """The reply that an expert would write: steps, if any, and the answer."""
        steps = ";".join(self.steps) if thinking else ""
        return f"{THINK}{steps}{END_THINK}{self.answer}"


def draw(
    rng: random.Random, difficulty: Difficulty = FOUR_STEPS, split: Split = "train"
) -> Problem:
    """A fresh problem of a set. The number never falls below 1."""
    while True:
        problem = _draw(rng, difficulty)
        if problem.split == split:
            return problem


def problems(
    seed: int, n: int, difficulty: Difficulty = FOUR_STEPS, split: Split = "train"
) -> list[Problem]:
    """n problems, no two with the same arithmetic.

    Raises ValueError where so many different ones cannot be found.
    """
    rng, found = random.Random(seed), {}
    for _ in range(20 * n + 1000):
        if len(found) == n:
            return list(found.values())
        problem = draw(rng, difficulty, split)
        found.setdefault((problem.start, problem.changes), problem)
    raise ValueError(
        f"only {len(found)} different problems of {difficulty} were found, {n} were"
        " asked for; take fewer, or more steps"
    )


def _draw(rng: random.Random, difficulty: Difficulty) -> Problem:
    start = now = rng.randint(5, 20)
    clauses, changes = [f"{rng.choice(NAMES)} has {start} {rng.choice(OBJECTS)}"], []
    for _ in range(difficulty.steps):
        less = now > difficulty.most + 1 and rng.random() < 0.5
        change = rng.randint(2, difficulty.most)
        clauses.append(rng.choice(LESS if less else MORE).format(change))
        changes.append(-change if less else change)
        now += changes[-1]
    question = ", ".join(clauses) + ". How many now?"
    return Problem(question, start, tuple(changes))
