"""Judges: which of two replies is better, behind one interface.

    judge = ScoreJudge()                             # reads the reply, by fixed rules
    judge(problem, first, second)                    # 1, 0 or 0.5: is the first better?
    win_rate(judge, problems, ours, theirs)          # ties count half

A win-rate is worth what its judge is worth, so the rules of `ScoreJudge` were fixed
before any model was trained: a right answer first, then politeness, then brevity. Any
other function of the same form will do, one that asks a language model included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from posttrain.alignment.word_problem_styles import read
from posttrain.alignment.word_problems import Problem

Judge = Callable[[Problem, str, str], float]  # how sure it is that the first is better


@dataclass(frozen=True)
class ScoreJudge:
    """Points for what a reply says and how; a reply outside the grammar always loses.

    right outweighs all the rest: the longest rude reply that is right beats the best
    one that is wrong.
    """

    right: float = 3.0
    polite: float = 1.0
    word: float = -1 / 40

    def score(self, problem: Problem, reply: str) -> float:
        """The points of one reply; minus infinity where it cannot be read."""
        found = read(reply)
        if found is None:
            return -math.inf
        right = found.answer == problem.answer
        points = self.right * right + self.polite * found.style.polite
        return points + self.word * found.words

    def __call__(self, problem: Problem, first: str, second: str) -> float:
        """1, 0, or 0.5 for a tie; two replies that cannot be read are a tie."""
        a, b = self.score(problem, first), self.score(problem, second)
        return 0.5 if a == b else float(a > b)


def win_rate(
    judge: Judge,
    problems: Sequence[Problem],
    ours: Sequence[str],
    theirs: Sequence[str],
) -> float:
    """The mean verdict for our reply to each problem against theirs to the same."""
    if not len(problems) == len(ours) == len(theirs) > 0:
        raise ValueError(
            f"{len(problems)} problems, {len(ours)} replies of ours, {len(theirs)} of"
            " theirs: one of each a problem, and at least one problem"
        )
    rows = zip(problems, ours, theirs, strict=True)
    return sum(judge(*row) for row in rows) / len(problems)
