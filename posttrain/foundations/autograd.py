"""Reverse-mode automatic differentiation of scalars: a graph, an order, one sweep.

Every operation on a `Value` gives a new one that remembers two things: from which
values it was computed (`parents`) and how it reacts to each of them (`partials`, its
local derivatives). `backward` walks that graph once, from the result to the inputs:

    v.grad = sum over the children c of v:  (dc/dv) * c.grad       the chain rule

Source: Rumelhart, Hinton and Williams 1986; the interface is that of Karpathy's
micrograd. Two things differ on purpose: local derivatives are numbers that you can
look at, not closures, and nothing recurses, so a graph of a million steps is no
problem.

Not covered here: tensors (`autograd_layers` has their backward passes), and
derivatives of derivatives, because the partials are plain numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


class Value:
    """A number, and how it came about.

    data: the number. grad: d(result)/d(this), which `backward` adds to. parents: the
    Values that it was computed from, none for a leaf. partials: d(this)/d(parent), one
    for each parent. op: the name of the operation, "" for a leaf. label: for drawings.
    """

    __slots__ = ("data", "grad", "label", "op", "parents", "partials")

    def __init__(
        self,
        data: float,
        parents: tuple[Value, ...] = (),
        partials: tuple[float, ...] = (),
        op: str = "",
        label: str = "",
    ):
        self.data = float(data)
        self.grad = 0.0
        self.parents = parents
        self.partials = partials
        self.op = op
        self.label = label

    def __add__(self, other: Value | float) -> Value:
        other = as_value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0), "+")

    def __sub__(self, other: Value | float) -> Value:
        other = as_value(other)
        return Value(self.data - other.data, (self, other), (1.0, -1.0), "-")

    def __mul__(self, other: Value | float) -> Value:
        other = as_value(other)
        a, b = self.data, other.data
        return Value(a * b, (self, other), (b, a), "*")

    def __truediv__(self, other: Value | float) -> Value:
        other = as_value(other)
        a, b = self.data, other.data
        if b == 0:
            raise ZeroDivisionError(f"{a:g} / 0: add a small eps to the denominator")
        return Value(a / b, (self, other), (1 / b, -a / b**2), "/")

    def __pow__(self, n: float) -> Value:
        """x ** n for a constant n. Raises ValueError where that is not real."""
        if not isinstance(n, (int, float)):
            raise TypeError(f"the exponent must be a number, got {type(n).__name__}")
        x = self.data
        if (x == 0 and n < 0) or (x < 0 and n != int(n)):
            raise ValueError(f"{x:g} ** {n:g} is not a real number")
        if n == 0:
            slope = 0.0  # at x = 0 too, where x ** -1 is not defined
        elif x == 0 and n < 1:
            slope = math.inf
        else:
            slope = n * x ** (n - 1)
        return Value(x**n, (self,), (slope,), f"**{n:g}")

    def __neg__(self) -> Value:
        return Value(-self.data, (self,), (-1.0,), "neg")

    def __radd__(self, other: float) -> Value:
        return as_value(other) + self

    def __rsub__(self, other: float) -> Value:
        return as_value(other) - self

    def __rmul__(self, other: float) -> Value:
        return as_value(other) * self

    def __rtruediv__(self, other: float) -> Value:
        return as_value(other) / self

    def exp(self) -> Value:
        """e ** x, which is its own derivative. Raises OverflowError above 709."""
        if self.data > 709:
            raise OverflowError(
                f"exp({self.data:g}) is too large for a float: subtract the largest"
                " exponent first"
            )
        y = math.exp(self.data)
        return Value(y, (self,), (y,), "exp")

    def log(self) -> Value:
        """ln x, with derivative 1 / x. Raises ValueError unless x > 0."""
        if self.data <= 0:
            raise ValueError(f"log({self.data:g}): a logarithm needs a number > 0")
        return Value(math.log(self.data), (self,), (1 / self.data,), "log")

    def tanh(self) -> Value:
        """tanh x, with derivative 1 - tanh² x."""
        y = math.tanh(self.data)
        return Value(y, (self,), (1 - y * y,), "tanh")

    def relu(self) -> Value:
        """max(0, x), with derivative 1 above 0, else 0 (at the corner too)."""
        above = self.data > 0
        return Value(max(self.data, 0.0), (self,), (float(above),), "relu")

    def backward(self) -> None:
        """Add d(this)/d(leaf) to the grad of every leaf; see `backward`."""
        backward(self)

    def __repr__(self) -> str:
        name = f"{self.label}: " if self.label else ""
        return f"Value({name}{self.data:g}, grad {self.grad:g})"


def as_value(x: Value | float) -> Value:
    """x itself, or a leaf for a number. Raises TypeError for anything else."""
    if isinstance(x, Value):
        return x
    if isinstance(x, (int, float)):
        return Value(x)
    raise TypeError(f"expected a Value or a number, got {type(x).__name__}: {x!r}")


def dot(a: Sequence[Value], b: Sequence[Value]) -> Value:
    """The sum of a[i] * b[i] as *one* node with 2 n parents.

    An operation may be as large as you like, as long as you know its partials: here
    d/da[i] = b[i] and d/db[i] = a[i]. Raises ValueError for unequal lengths.
    """
    if len(a) != len(b):
        raise ValueError(f"dot of {len(a)} and {len(b)} values: lengths must be equal")
    xs, ys = tuple(x.data for x in a), tuple(y.data for y in b)
    total = sum(x * y for x, y in zip(xs, ys, strict=True))
    return Value(total, (*a, *b), ys + xs, "dot")


def topological_order(root: Value) -> list[Value]:
    """All values that root depends on, each once, parents before children, root last.

    A depth-first walk that appends a node when all its parents are done. The stack is
    a list, not Python's own, so depth is limited by memory only.
    """
    order, seen = [], {root}
    stack = [(root, iter(root.parents))]
    while stack:
        node, parents = stack[-1]
        for parent in parents:  # goes on where it stopped the last time
            if parent not in seen:
                seen.add(parent)
                stack.append((parent, iter(parent.parents)))
                break
        else:
            order.append(node)
            stack.pop()
    return order


def backward(root: Value) -> None:
    """Add d(root)/d(leaf) to the grad of every leaf of the graph.

    Leaves accumulate over calls, like the `.grad` of PyTorch's leaves: call
    `zero_grad` between steps. Inner nodes start from 0 each time; adding to them would
    count the paths of the first call again in the second.
    """
    order = topological_order(root)
    for node in order:
        if node.parents:
            node.grad = 0.0
    root.grad += 1.0  # d(root)/d(root)
    for node in reversed(order):  # children before parents: node.grad is complete
        for parent, partial in zip(node.parents, node.partials, strict=True):
            parent.grad += partial * node.grad


def zero_grad(values: Iterable[Value]) -> None:
    """Set the grad of each to 0, before the next `backward`."""
    for value in values:
        value.grad = 0.0
