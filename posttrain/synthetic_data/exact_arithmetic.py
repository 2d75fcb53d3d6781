"""Arithmetic that is read exactly, and never run.

    value("48/2")                    Fraction(24, 1)
    step = read_step("0.2*50=10")
    step.true                        True

A trace is text from a model or from the web, so `eval` is out of the question. Four
operations, brackets, signs and decimal numbers are a grammar of three rules; numbers
become fractions, so 0.1+0.2=0.3 is true and 1/3=0.33 is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

TOKEN = re.compile(r"\s*(?:(?P<number>\d+(?:\.\d*)?|\.\d+)|(?P<mark>[-+*/()]))", re.A)
MAX_CHARACTERS = 200  # of an expression; no step of a worked solution has so many


class NotArithmetic(ValueError):
    """A text that is no expression of numbers, + - * / and brackets."""


def value(text: str, number: Callable[[str], Any] = Fraction) -> Any:
    """What an expression is worth, exactly. * and / bind before + and -.

    number: what a number as it is written becomes; another kind is less exact. Raises
    NotArithmetic for any other text, and for a division by zero.
    """
    reader = _Reader(_tokens(text), number)
    try:
        result = reader.sum()
    except ZeroDivisionError:
        raise NotArithmetic(f"{text!r} divides by zero") from None
    if reader.left:
        raise NotArithmetic(f"{text!r}: {reader.left[0]!r} cannot stand there")
    return result


def numbers(text: str) -> list[Fraction]:
    """The numbers of an expression as they stand, without their signs."""
    return [Fraction(token) for token in _tokens(text) if token not in "+-*/()"]


@dataclass(frozen=True)
class Step:
    """One line of a worked solution: an expression and what it is said to be."""

    left: str
    said: Fraction

    @property
    def true(self) -> bool:
        """Whether the two sides are the same number, with no tolerance."""
        return value(self.left) == self.said

    @property
    def numbers(self) -> list[Fraction]:
        """The numbers that the step works with, in their order."""
        return numbers(self.left)


def read_step(text: str) -> Step:
    """A step such as "12+3=15": one equals sign, an expression on each side.

    Raises NotArithmetic for anything else.
    """
    sides = text.split("=")
    if len(sides) != 2:
        raise NotArithmetic(f"{text!r} has {len(sides) - 1} equals signs, a step has 1")
    value(sides[0])
    return Step(sides[0], value(sides[1]))


def _tokens(text: str) -> list[str]:
    """Numbers and marks. Raises NotArithmetic where something else stands."""
    if len(text) > MAX_CHARACTERS:
        raise NotArithmetic(f"{len(text)} characters are too many for an expression")
    tokens, place, text = [], 0, text.rstrip()
    while place < len(text):
        found = TOKEN.match(text, place)
        if found is None:
            raise NotArithmetic(f"{text!r}: {text[place]!r} is no arithmetic")
        tokens.append(found["number"] or found["mark"])
        place = found.end()
    return tokens


class _Reader:
    """Recursive descent: a sum of products of factors."""

    def __init__(self, tokens: list[str], number: Callable[[str], Any]):
        self.left, self.number = tokens, number

    def sum(self) -> Any:
        total = self.product()
        while self.left and self.left[0] in "+-":
            sign = self.left.pop(0)
            term = self.product()
            total = total + term if sign == "+" else total - term
        return total

    def product(self) -> Any:
        total = self.factor()
        while self.left and self.left[0] in "*/":
            mark = self.left.pop(0)
            factor = self.factor()
            total = total * factor if mark == "*" else total / factor
        return total

    def factor(self) -> Any:
        if not self.left:
            raise NotArithmetic("the expression ends where a number is due")
        token = self.left.pop(0)
        if token in "+-":  # a sign
            return self.factor() if token == "+" else -self.factor()
        if token == "(":
            inside = self.sum()
            if not self.left or self.left.pop(0) != ")":
                raise NotArithmetic("a bracket is not closed")
            return inside
        if token in "*/)":
            raise NotArithmetic(f"{token!r} stands where a number is due")
        return self.number(token)
