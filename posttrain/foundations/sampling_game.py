"""A task with a verifier: make a number from three digits.

    345=23:3*5+8;        no: 8 is not among the digits
    358=23:3*5+8;        yes

The prompt gives three digits and a target, up to the colon. The answer uses each digit
once and +, -, * between them, read from left to right as a pocket calculator does. Most
targets can be reached in more than one way, and whether an answer is right is decided
by arithmetic: what a verifier is for mathematics or code, in twenty characters.

A small model learns the form at once and the arithmetic slowly, so it spreads its
probability over several candidates: greedy decoding and sampling differ, which is what
the chapter needs. One prompt in ten is never trained on.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.foundations.language_model import IGNORE

CHARS = "0123456789+-*=:;"
FORM = re.compile(r"[1-9][-+*][1-9][-+*][1-9];")
END = CHARS.index(";")
T = 12  # tokens that the model reads of the longest text, its last one left out


@dataclass(frozen=True)
class Puzzle:
    """Three digits, in rising order, and the number to make of them."""

    digits: tuple[int, int, int]
    target: int

    @property
    def prompt(self) -> str:
        """Such as 358=23: ."""
        return f"{''.join(map(str, self.digits))}={self.target}:"


def encode(text: str) -> list[int]:
    """A token for each character."""
    return [CHARS.index(char) for char in text]


def decode(tokens: Sequence[int]) -> str:
    """The text of tokens."""
    return "".join(CHARS[token] for token in tokens)


def value(answer: str) -> int:
    """What `3*5+8` gives from left to right: (3 * 5) + 8."""
    total = int(answer[0])
    for sign, digit in zip(answer[1::2], answer[2::2], strict=True):
        number = int(digit)
        total = {"+": total + number, "-": total - number, "*": total * number}[sign]
    return total


def verify(puzzle: Puzzle, answer: str) -> bool:
    """Is it an ended answer with just these digits that gives the target?"""
    if not FORM.fullmatch(answer):
        return False
    same = sorted(map(int, answer[:5:2])) == list(puzzle.digits)
    return same and value(answer[:5]) == puzzle.target


def all_puzzles() -> dict[Puzzle, list[str]]:
    """Every puzzle with a target of 0 to 99, and all its answers."""
    found: dict[Puzzle, list[str]] = {}
    for digits in itertools.product(range(1, 10), repeat=3):
        for first, second in itertools.product("+-*", repeat=2):
            answer = f"{digits[0]}{first}{digits[1]}{second}{digits[2]}"
            if 0 <= (target := value(answer)) <= 99:
                puzzle = Puzzle(tuple(sorted(digits)), target)
                found.setdefault(puzzle, []).append(answer + ";")
    return found


def split(seed: int) -> tuple[dict[Puzzle, list[str]], list[Puzzle]]:
    """Puzzles with their answers to train on, and a tenth of all to test on."""
    puzzles = all_puzzles()
    names = list(puzzles)
    random.Random(seed).shuffle(names)
    cut = len(names) // 10
    return {name: puzzles[name] for name in names[cut:]}, names[:cut]


@dataclass(frozen=True)
class Demonstrations:
    """Batches for a `Trainer`: the batch of a step is a function of seed and step.

    A puzzle is drawn with the probability that random digits and signs make it, and any
    of its answers alike. Only the answer counts in the loss.
    """

    pairs: Tensor  # (N, 2, T) inputs and targets of every (puzzle, answer)
    B: int
    seed: int

    @classmethod
    def of(
        cls, puzzles: dict[Puzzle, list[str]], B: int, seed: int, device: str = "cpu"
    ) -> Demonstrations:
        """All (puzzle, answer) pairs of `puzzles`, as tokens."""
        every = [
            demonstration(puzzle, answer)
            for puzzle, answers in puzzles.items()
            for answer in answers
        ]
        return cls(torch.tensor(every, device=device), B, seed)

    def __call__(self, step: int, micro: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets, (B, T) each."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        rows = torch.randint(len(self.pairs), (self.B,), generator=generator)
        inputs, targets = self.pairs[rows.to(self.pairs.device)].unbind(1)
        return inputs, targets


def demonstration(puzzle: Puzzle, answer: str) -> tuple[list[int], list[int]]:
    """Inputs and targets of one text, both T long; the prompt is not a target."""
    prompt, tokens = encode(puzzle.prompt), encode(puzzle.prompt + answer)
    padding = T + 1 - len(tokens)
    targets = [IGNORE] * (len(prompt) - 1) + tokens[len(prompt) :]
    return tokens[:-1] + [END] * padding, targets + [IGNORE] * padding
