"""Problems that can be solved in several ways, and a check of every step of a solution.

    problem = Exam((2, 3, 4, 5)).draw(random.Random(0))
    paths(problem)        {"in order": [...], "gains first": [...], "two sums": [...]}
    demonstration(problem, rng)     one of them, written in one of two ways
    equations(thinking)             the same for solutions that differ in writing only
    sound(problem, thinking)        is every step true, and does it lead to the answer?

The verifier of the pillar looks at the answer alone. Here is what it does not see.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from posttrain.alignment.word_problems import (
    END_THINK,
    THINK,
    Difficulty,
    Problem,
    Split,
    draw,
)

EQUATION = re.compile(r"(\d+)([+-])(\d+)=(\d+)", re.ASCII)
Equation = tuple[int, str, int, int]  # 12, "+", 3, 15


@dataclass(frozen=True)
class Exam:
    """Problems of several lengths, each length as often as the others."""

    steps: tuple[int, ...] = (2, 3, 4, 5)
    most: int = 9

    def draw(self, rng: random.Random, split: Split = "train") -> Problem:
        """A fresh problem."""
        return draw(rng, Difficulty(rng.choice(self.steps), self.most), split)

    def problems(self, seed: int, n: int, split: Split = "train") -> list[Problem]:
        """n problems, no two with the same arithmetic.

        Raises ValueError where so many different ones cannot be found.
        """
        rng, found = random.Random(seed), {}
        for _ in range(20 * n + 1000):
            if len(found) == n:
                return list(found.values())
            problem = self.draw(rng, split)
            found.setdefault((problem.start, problem.changes), problem)
        raise ValueError(
            f"only {len(found)} different problems of {self} were found, {n} were"
            " asked for; take fewer, or more steps"
        )


FOUR_LENGTHS = Exam()


def paths(problem: Problem) -> dict[str, list[Equation]]:
    """Three ways to the answer, each of as many equations as there are changes.

    in order: a running total. gains first: a running total too, but all that comes
    before all that goes. two sums: all gains added up, all losses added up, and then
    the two taken together with the start.
    """
    gains = [change for change in problem.changes if change > 0]
    losses = [change for change in problem.changes if change < 0]
    won, lost = _running(gains[:1], gains[1:]), _running(losses[:1], losses[1:])
    sums = [sum(part) for part in (gains, losses) if part]
    return {
        "in order": _running([problem.start], problem.changes),
        "gains first": _running([problem.start], gains + losses),
        "two sums": won + lost + _running([problem.start], sums),
    }


def _running(start: list[int], changes: list[int] | tuple[int, ...]) -> list[Equation]:
    """Add changes up, one by one. Losses alone are added up as what they amount to."""
    equations, now = [], sum(start)
    for change in changes:
        sign = "-" if now > 0 > change else "+"
        equations.append((abs(now), sign, abs(change), abs(now + change)))
        now += change
    return equations


def written(path: list[Equation], swapped: bool = False) -> str:
    """A path as text. swapped: additions with their second number first."""
    return ";".join(
        f"{b}+{a}={c}" if swapped and sign == "+" else f"{a}{sign}{b}={c}"
        for a, sign, b, c in path
    )


def demonstration(problem: Problem, rng: random.Random) -> str:
    """The reply of an expert: any of the paths, in either way of writing."""
    path = rng.choice(list(paths(problem).values()))
    thinking = written(path, swapped=rng.random() < 0.5)
    return f"{THINK}{thinking}{END_THINK}{problem.answer}"


def read(thinking: str) -> list[Equation] | None:
    """The equations that a thought consists of; None if it holds anything else."""
    found = [EQUATION.fullmatch(part) for part in thinking.split(";")]
    if not all(found):
        return None
    return [(int(m[1]), m[2], int(m[3]), int(m[4])) for m in found]


def equations(thinking: str) -> frozenset[Equation] | str:
    """The set of equations, whatever their order; 3+12=15 is 12+3=15.

    The rule for duplicates of Yuan et al. 2023: solutions that calculate the same are
    the same. A thought that holds anything else is only the same as itself.
    """
    path = read(thinking)
    if path is None:
        return thinking
    return frozenset(
        (max(a, b), sign, min(a, b), c) if sign == "+" else (a, sign, b, c)
        for a, sign, b, c in path
    )


def sound(problem: Problem, thinking: str) -> bool:
    """Whether the equations are true, and add up the numbers of this problem.

    Each equation takes two of the numbers at hand away and leaves its result. At the
    end one number is left, the answer. Losses may be added to losses.
    """
    path = read(thinking)
    if path is None or len(path) != len(problem.changes):
        return False
    return _adds_up(path, [problem.start, *problem.changes])


def _adds_up(path: list[Equation], numbers: list[int]) -> bool:
    """Whether each equation is true and takes two of the signed `numbers` at hand.

    Their sum never changes, so the one that is left at the end is the answer.
    """
    if not path:
        return True
    (a, sign, b, c), *rest = path
    readings = [(a, b, c), (-a, -b, -c)] if sign == "+" else [(a, -b, c)]
    for first, second, result in readings:
        left = list(numbers)
        if first + second != result or first not in left:
            continue
        left.remove(first)
        if second not in left:
            continue
        left.remove(second)
        if _adds_up(rest, [*left, result]):
            return True
    return False
