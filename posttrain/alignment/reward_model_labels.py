"""Preference data: pairs of replies, and annotators who label them as people do.

    pairs = draw_pairs(random.Random(0), 1000)
    labels = Annotator(flips=0.1)(random.Random(1), pairs)      # [Preference, ...]

An annotator compares two replies by their gold worth, and errs in four ways that are
found in real preference data: like Bradley and Terry's, more often the closer the two
are (`temperature`); at random (`flips`); by calling close ones a tie (`tie_within`);
with a taste of their own that is not what was asked for (`per_word`: a liking for
length).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.alignment.reward_model_gold import draw_reply, gold, read
from posttrain.alignment.reward_model_training import Preference
from posttrain.alignment.word_problems import Difficulty, Problem, Split, draw

TWO_STEPS = Difficulty(steps=2)


@dataclass(frozen=True)
class Pair:
    """Two replies to a problem, in the order in which they were drawn."""

    problem: Problem
    a: str
    b: str

    @property
    def gap(self) -> float:
        """By how much a is worth more than b, by the gold."""
        return gold(self.problem, self.a) - gold(self.problem, self.b)

    @property
    def more_words(self) -> int:
        """By how many words a is longer than b. Both must be of the grammar."""
        return read(self.a).words - read(self.b).words


def draw_pairs(
    rng: random.Random,
    n: int,
    difficulty: Difficulty = TWO_STEPS,
    split: Split = "train",
) -> list[Pair]:
    """n pairs of the policy's replies, each to a problem of its own."""
    asked = [draw(rng, difficulty, split) for _ in range(n)]
    return [Pair(p, draw_reply(rng, p), draw_reply(rng, p)) for p in asked]


@dataclass(frozen=True)
class Annotator:
    """Who labels pairs. The default is exact, and says so where two are worth alike.

    temperature: the preference is drawn with probability σ(gap / temperature); 0: the
    better reply always wins. flips: this share of labels is turned round. per_word:
    worth that a word more seems to have. tie_within: gaps up to this are called a tie.
    """

    temperature: float = 0.0
    flips: float = 0.0
    per_word: float = 0.0
    tie_within: float = 0.0

    def __call__(self, rng: random.Random, pairs: Sequence[Pair]) -> list[Preference]:
        """A label for each pair; a tie is a `Preference` with target 0.5."""
        return [self.label(rng, pair) for pair in pairs]

    def label(self, rng: random.Random, pair: Pair) -> Preference:
        """Which of the two this annotator prefers."""
        gap = pair.gap + self.per_word * pair.more_words
        if abs(gap) <= self.tie_within:
            return Preference(pair.problem.question, pair.a, pair.b, target=0.5)
        a_wins = rng.random() < self.probability(gap)
        if rng.random() < self.flips:
            a_wins = not a_wins
        chosen, rejected = (pair.a, pair.b) if a_wins else (pair.b, pair.a)
        return Preference(pair.problem.question, chosen, rejected)

    def probability(self, gap: float) -> float:
        """That the first is preferred, before flips, if it seems worth `gap` more."""
        if self.temperature == 0:
            return float(gap > 0)
        return 1 / (1 + math.exp(-gap / self.temperature))


def exact_pairs(pairs: Sequence[Pair]) -> list[Preference]:
    """The better reply first; pairs that are worth alike are left out."""
    labels = Annotator()(random.Random(0), pairs)
    return [label for label in labels if label.target == 1]
