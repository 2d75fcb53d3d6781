"""Forward mode: carry the derivative along with the number.

A `Dual` is a number and its rate of change along *one* direction of the inputs. Each
operation moves both. One pass gives the derivative of everything along that direction
(a Jacobian-vector product); the gradient of n inputs takes n passes.

Source: Baydin et al. 2018, section 3.1. The same operations as `autograd.Value`, so a
function that is written with operators runs on either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Dual:
    """data, and tangent: d(data)/dt while the inputs move along a direction."""

    data: float
    tangent: float = 0.0

    def __add__(self, other: Dual | float) -> Dual:
        other = as_dual(other)
        return Dual(self.data + other.data, self.tangent + other.tangent)

    def __sub__(self, other: Dual | float) -> Dual:
        other = as_dual(other)
        return Dual(self.data - other.data, self.tangent - other.tangent)

    def __mul__(self, other: Dual | float) -> Dual:
        other = as_dual(other)
        moved = self.tangent * other.data + self.data * other.tangent
        return Dual(self.data * other.data, moved)

    def __truediv__(self, other: Dual | float) -> Dual:
        other = as_dual(other)
        y = self.data / other.data
        return Dual(y, (self.tangent - y * other.tangent) / other.data)

    def __pow__(self, n: float) -> Dual:
        slope = 0.0 if n == 0 else n * self.data ** (n - 1)
        return Dual(self.data**n, slope * self.tangent)

    def __neg__(self) -> Dual:
        return Dual(-self.data, -self.tangent)

    def __radd__(self, other: float) -> Dual:
        return as_dual(other) + self

    def __rsub__(self, other: float) -> Dual:
        return as_dual(other) - self

    def __rmul__(self, other: float) -> Dual:
        return as_dual(other) * self

    def __rtruediv__(self, other: float) -> Dual:
        return as_dual(other) / self

    def exp(self) -> Dual:
        """e ** x."""
        y = math.exp(self.data)
        return Dual(y, y * self.tangent)

    def log(self) -> Dual:
        """ln x."""
        return Dual(math.log(self.data), self.tangent / self.data)

    def tanh(self) -> Dual:
        """tanh x."""
        y = math.tanh(self.data)
        return Dual(y, (1 - y * y) * self.tangent)

    def relu(self) -> Dual:
        """max(0, x)."""
        above = self.data > 0
        return Dual(max(self.data, 0.0), self.tangent if above else 0.0)


def as_dual(x: Dual | float) -> Dual:
    """x itself, or a constant, which does not move."""
    return x if isinstance(x, Dual) else Dual(float(x))


def jvp(
    f: Callable[[list[Dual]], Dual], x: Sequence[float], direction: Sequence[float]
) -> tuple[float, float]:
    """f(x), and how fast it changes when x moves along `direction` (both of length n).

    Raises ValueError for unequal lengths.
    """
    y = f([Dual(a, t) for a, t in zip(x, direction, strict=True)])
    return y.data, y.tangent


def gradient_forward(
    f: Callable[[list[Dual]], Dual], x: Sequence[float]
) -> list[float]:
    """The gradient of f at x: one whole pass for each of the n inputs."""
    n = len(x)
    return [jvp(f, x, [float(i == j) for j in range(n)])[1] for i in range(n)]
