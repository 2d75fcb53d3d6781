"""What a graded task is. Every exercise uses this contract and nothing else."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

# Largest error accepted, as a share of max(1, largest value due), by dtype. Each is
# well above the rounding of sums over some hundred terms (about sqrt(n) * eps) and
# well below what any of the planted mistakes changes.
#   eps: float64 2.2e-16, float32 1.2e-7, float16 9.8e-4, bfloat16 7.8e-3
TOLERANCE: Mapping[str, float] = types.MappingProxyType(
    {"float64": 1e-9, "float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}
)


@dataclass(frozen=True)
class Mistake:
    """An answer that a learner would plausibly write, and the hint that it earns."""

    answer: Any
    hint: str


@dataclass(frozen=True)
class Task:
    """One graded task: how to try an answer and what is due.

    cases(rng, hidden) -> iterable of tuples of plain data (see `plain`): the edges
        first, then fresh random inputs drawn from the `torch.Generator` `rng`.
        `hidden=True` asks for more of them. Cases are public; what is secret when a
        class is graded is the seed.
    drive(answer, *case) -> plain data: the only code that touches the answer. It
        builds the module, loads the weights, calls backward, runs the loop, and
        returns everything that is judged. Self-contained: its *source* is shipped
        to where the answer runs, so it imports what it needs itself.
    reference(*case) -> plain data: what `drive` should have returned, computed by
        other means: a production library, a closed form, an enumeration. The names
        of its parameters name the parts of a case in messages.
    mistakes: known wrong answers, each with a hint.
    tolerance: largest error by dtype name, see TOLERANCE.
    forbid: dotted names that the answer's source may not use, such as
        "F.scaled_dot_product_attention" when that is what the task asks for.
    """

    cases: Callable[[torch.Generator, bool], Iterable[tuple]]
    drive: Callable[..., Any]
    reference: Callable[..., Any]
    mistakes: tuple[Mistake, ...]
    tolerance: Mapping[str, float] = field(default_factory=lambda: TOLERANCE)
    forbid: tuple[str, ...] = ()
