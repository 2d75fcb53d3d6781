"""Random expressions, to compare one differentiation with another.

A program is a list of steps over numbered values. It can be run on anything that has
the operators: `Value`, `Dual`, a torch scalar. Values are used several times, also
twice in one step, so gradients have to add up; every value reaches the result.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.foundations.autograd_forward import Dual

Step = tuple[str, tuple[int, ...], float]  # operation, operands by number, constant

BINARY: dict[str, Callable] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}
UNARY: dict[str, Callable] = {
    "**": lambda a, c: a**c,
    "c+": lambda a, c: c + a,
    "c-": lambda a, c: c - a,
    "c*": lambda a, c: c * a,
    "c/": lambda a, c: c / a,
    "neg": lambda a, c: -a,
    "exp": lambda a, c: a.exp(),
    "log": lambda a, c: a.log(),
    "tanh": lambda a, c: a.tanh(),
    "relu": lambda a, c: a.relu(),
}
EXPONENTS = (2, 3, -1, -2, 0.5, 1.5, 1, 0)


@dataclass(frozen=True)
class Program:
    """Numbers for the leaves, and steps that each make one more value."""

    leaves: tuple[float, ...]
    steps: tuple[Step, ...]


def random_program(rng: random.Random, n_leaves: int, n_steps: int) -> Program:
    """A random program whose values stay finite and away from every singular point."""
    numbers = [rng.uniform(-2, 2) for _ in range(n_leaves)]
    steps: list[Step] = []
    while len(steps) < n_steps:
        step = _draw(rng, numbers)
        if (result := _try(step, numbers)) is not None:
            steps.append(step)
            numbers.append(result)
    return Program(tuple(numbers[:n_leaves]), tuple(steps))


def run_program(program: Program, leaves: Sequence[Any]) -> Any:
    """The result on `leaves`: the sum of all values that no other step used."""
    values = list(leaves)
    for step in program.steps:
        values.append(_apply(step, values))
    used = {i for _, operands, _ in program.steps for i in operands}
    ends = [value for i, value in enumerate(values) if i not in used]
    total = ends[0]
    for value in ends[1:]:
        total = total + value
    return total


def _draw(rng: random.Random, numbers: Sequence[float]) -> Step:
    """Any step; recent values are preferred, so that graphs get deep."""
    name = rng.choice([*BINARY, *UNARY])
    count = 2 if name in BINARY else 1
    pool = range(len(numbers)) if rng.random() < 0.5 else range(len(numbers))[-4:]
    operands = tuple(rng.choice(pool) for _ in range(count))
    constant = rng.choice(EXPONENTS) if name == "**" else round(rng.uniform(-2, 2), 3)
    return name, operands, constant


def _try(step: Step, numbers: Sequence[float]) -> float | None:
    """The result of a step on plain numbers, None where it is unsafe."""
    name, operands, constant = step
    a, last = numbers[operands[0]], numbers[operands[-1]]
    near_zero = (name == "/" and abs(last) < 0.2) or (
        name in ("c/", "**", "relu") and abs(a) < 0.2
    )
    not_real = (name == "log" and a < 0.2) or (
        name == "**" and a < 0 and constant != int(constant)
    )
    if near_zero or not_real or (name == "exp" and a > 3):
        return None
    result = _apply(step, [Dual(x) for x in numbers]).data
    return result if abs(result) < 50 else None


def _apply(step: Step, values: Sequence[Any]) -> Any:
    """What a step makes of the values so far."""
    name, operands, constant = step
    chosen = [values[i] for i in operands]
    return BINARY[name](*chosen) if name in BINARY else UNARY[name](*chosen, constant)
