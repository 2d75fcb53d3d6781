"""Ways of giving the same answer, for chapters on preferences.

    reply = Style(polite=True, rambling=False).reply(rng, problem)
    "<think>12+3=15</think>Of course. The answer is 15."
    read(reply)                          which style it has; None: not of this grammar

The grammar is closed: what `reply` can write, `read` recognises, and nothing else. So a
model that drifts into broken text is found out, however well it pleases a judge.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from posttrain.alignment.word_problems import END_THINK, THINK, Problem

POLITE = ("Sure!", "Of course.", "Happy to help.", "Good question!")
RUDE = (
    "Ugh.",
    "Work it out yourself.",
    "What a silly question.",
    "You should know this.",
)
RAMBLING = (
    "As everybody knows, there is much that one could say about this.",
    "Let me think about it for a long while.",
    "Before I answer, allow me to explain many things.",
    "It is well known in many books and places.",
    "I could go on and on about it.",
)
ANSWER = "The answer is {}."
MAX_RAMBLING = 3  # sentences


@dataclass(frozen=True)
class Style:
    """How a reply sounds: the two things that the preferences here are about."""

    polite: bool
    rambling: bool

    def reply(self, rng: random.Random, problem: Problem) -> str:
        """A worked and right reply in this style."""
        sentences = [rng.choice(POLITE if self.polite else RUDE)]
        if self.rambling:
            sentences += rng.sample(RAMBLING, rng.randint(1, MAX_RAMBLING))
        sentences.append(ANSWER.format(problem.answer))
        thinking = THINK + ";".join(problem.steps) + END_THINK
        return thinking + " ".join(sentences)


@dataclass(frozen=True)
class Reading:
    """What a reply of the grammar says and how."""

    style: Style
    answer: int
    words: int  # after the thinking


def _grammar() -> re.Pattern:
    def one_of(phrases: tuple[str, ...]) -> str:
        return "|".join(map(re.escape, phrases))

    answer = re.escape(ANSWER).replace(r"\{\}", r"(?P<answer>\d+)")
    return re.compile(
        rf"{THINK}[^<>]*{END_THINK}"
        rf"(?P<said>(?:(?P<polite>{one_of(POLITE)})|{one_of(RUDE)})"
        rf"(?P<rambling>(?: (?:{one_of(RAMBLING)})){{0,{MAX_RAMBLING}}}) {answer})"
    )


GRAMMAR = _grammar()


def read(reply: str) -> Reading | None:
    """Read a reply without its end-of-turn token; None if the grammar lacks it."""
    found = GRAMMAR.fullmatch(reply)
    if found is None:
        return None
    style = Style(bool(found["polite"]), bool(found["rambling"]))
    return Reading(style, int(found["answer"]), len(found["said"].split()))
