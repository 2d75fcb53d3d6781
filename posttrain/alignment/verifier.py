"""The exact verifier: is the reply well formed, and is its answer right?

    parsed = parse("<think>12+3=15</think>15")
    parsed.answer, parsed.well_formed           15, True
    reward = Reward(correct=1.0, well_formed=0.1)(reply, problem.answer)

A reply is one thought and then the answer: `<think>`, text, `</think>`, a number, and
nothing else. A verifier that is content with less ("the number is in there somewhere")
is one that training will exploit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from posttrain.alignment.word_problems import END_THINK, THINK

FORM = re.compile(rf"{THINK}(?P<thinking>[^<>]*){END_THINK}(?P<answer>\d+)", re.ASCII)


@dataclass(frozen=True)
class Parsed:
    """What a reply holds. A reply that is not well formed has no answer."""

    answer: int | None
    thinking: str

    @property
    def well_formed(self) -> bool:
        """Whether the reply has the form that was asked for."""
        return self.answer is not None

    @property
    def thinks(self) -> bool:
        """Whether anything stands between the marks."""
        return bool(self.thinking)


def parse(reply: str) -> Parsed:
    """Read a reply: the text without the token that ends the turn."""
    found = FORM.fullmatch(reply)
    if found is None:
        return Parsed(None, "")
    return Parsed(int(found["answer"]), found["thinking"])


@dataclass(frozen=True)
class Reward:
    """Points for a right answer, and points for the form, added up."""

    correct: float = 1.0
    well_formed: float = 0.1

    def __call__(self, reply: str, answer: int) -> float:
        """The reward of one reply."""
        parsed = parse(reply)
        right = parsed.answer == answer
        return self.correct * right + self.well_formed * parsed.well_formed


STRICT = Reward()
