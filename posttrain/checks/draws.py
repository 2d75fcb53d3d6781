"""Random numbers of the cases: plain ones, from the generator that `cases` is given."""

from __future__ import annotations

import torch


def whole(rng: torch.Generator, low: int, high: int) -> int:
    """A random integer in low ... high - 1."""
    return int(torch.randint(low, high, (), generator=rng))


def uniform(rng: torch.Generator, low: float, high: float) -> float:
    """A random float, low <= x < high."""
    return low + (high - low) * torch.rand((), generator=rng).item()
