"""Rewards for replies like `<think>12 + 3 = 15</think>15`, as TRL calls them.

    reply = read("<think>12 + 3</think> 15")         # Reply("12 + 3", Fraction(15))
    rewards = reward_functions(end_ids={2})          # [tags, number, correct]

A real model was never shown our grammar, so this verifier lets blanks, `$`, `%`,
thousands commas and a last full stop pass, and nothing else: one thought first, then
one number. A reply that was cut off by the limit earns nothing, whatever it holds:
nobody knows what it would have said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction

THINK, END_THINK = "<think>", "</think>"
FORM = re.compile(
    r"\s*<think>(?P<thinking>(?:(?!</?think>).)*)</think>"
    r"\s*(?P<rest>(?:(?!</?think>).)*?)\s*",
    re.DOTALL,
)
NUMBER = re.compile(
    r"\$?\s?(?P<sign>-?)\$?(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?P<part>\.\d+)?\s?%?\.?",
    re.ASCII,
)

RewardFunction = Callable[..., list[float]]


@dataclass(frozen=True)
class Reply:
    """What a reply holds: None for what is not there, or not as it was asked for."""

    thinking: str | None
    number: Fraction | None


def read(text: str) -> Reply:
    """One thought, then one number. No number counts without the thought before it."""
    found = FORM.fullmatch(text)
    if found is None:
        return Reply(None, None)
    return Reply(found["thinking"], number_of(found["rest"]))


def number_of(text: str) -> Fraction | None:
    """The exact value of a text that is a number and nothing else, None otherwise.

    "1,234" "$1,234.50" "-3" "50 %" and "15." are numbers; "15 coins" and "12 + 3" not.
    """
    found = NUMBER.fullmatch(text.strip())
    if found is None:
        return None
    digits = found["whole"].replace(",", "") + (found["part"] or "")
    return Fraction(found["sign"] + digits)


def reward_functions(end_ids: Collection[int]) -> list[RewardFunction]:
    """`tags`, `number` and `correct`, each 0 or 1 a reply, with the signature of TRL.

    end_ids: the tokens that end a turn; a reply that does not end in one was cut off.
    The names are those under which TRL logs the means.
    """
    if not end_ids:
        raise ValueError("end_ids is empty: name the tokens that end a turn")

    def replies(completions, completion_ids) -> list[Reply]:
        texts = [text_of(completion) for completion in completions]
        return [
            read(text) if ids and ids[-1] in end_ids else Reply(None, None)
            for text, ids in zip(texts, completion_ids, strict=True)
        ]

    def tags(completions, completion_ids, **_) -> list[float]:
        found = replies(completions, completion_ids)
        return [float(reply.thinking is not None) for reply in found]

    def number(completions, completion_ids, **_) -> list[float]:
        found = replies(completions, completion_ids)
        return [float(reply.number is not None) for reply in found]

    def correct(completions, completion_ids, answer, **_) -> list[float]:
        found = replies(completions, completion_ids)
        due = [number_of(str(text)) for text in answer]
        if None in due:
            raise ValueError(f"answer={answer[due.index(None)]!r} is not a number")
        return [
            float(reply.number == value)
            for reply, value in zip(found, due, strict=True)
        ]

    return [tags, number, correct]


def text_of(completion: str | Sequence[dict]) -> str:
    """The text of a completion: TRL gives messages where the prompt was messages."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


UP_TO_20 = " ".join(map(str, range(1, 21)))


@dataclass(frozen=True)
class Probe:
    """A reply made by hand to "12 coins, finds 3 more", whose answer is 15.

    deserves: whether a reward for correctness should pay. ends: not cut off.
    """

    name: str
    reply: str
    deserves: bool
    ends: bool = True


PROBES = (
    Probe("right, with a thought", "<think>12+3=15</think>15", True),
    Probe("the same with blanks", "<think>\n12 + 3 = 15\n</think>\n\n15", True),
    Probe("right value, written 15.0", "<think>12+3</think>15.0", True),
    Probe("no thought at all", "15", False),
    Probe("answer inside the thought", "<think>12+3=15</think>", False),
    Probe("every number from 1 to 20", f"<think></think>{UP_TO_20}", False),
    Probe("wrong, right number nearby", "<think>12+3=15</think>16 or 15", False),
    Probe("tags twice", "<think>a</think><think>b</think>15", False),
    Probe("text before the thought", "Sure! <think>12+3</think>15", False),
    Probe("cut off after 1 of 15 2", "<think>12+3=15</think>15", False, ends=False),
    Probe("wrong", "<think>12+3=14</think>14", False),
)


def probe(reward: RewardFunction, end_id: int = 0) -> list[tuple[Probe, float]]:
    """What a reward pays for each of `PROBES`: look before a policy finds it out."""
    completions = [[{"role": "assistant", "content": p.reply}] for p in PROBES]
    ids = [[end_id + 1, end_id if p.ends else end_id + 1] for p in PROBES]
    paid = reward(
        completions=completions, completion_ids=ids, answer=["15"] * len(PROBES)
    )
    if len(paid) != len(PROBES):
        raise ValueError(
            f"the reward gave {len(paid)} values for {len(PROBES)} replies; it must"
            " give one a reply"
        )
    return list(zip(PROBES, map(float, paid), strict=True))
