"""A multilayer perceptron made of `Value`s, and two toy sets to train it on.

Nothing here knows about derivatives. The forward pass is plain arithmetic; the graph
that it leaves behind is what `backward` walks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from posttrain.foundations.autograd import Value, as_value, dot, zero_grad

Point = tuple[float, float]


class Neuron:
    """tanh(w · x + b), or w · x + b alone where `linear`."""

    def __init__(self, n_in: int, rng: random.Random, linear: bool = False):
        # variance 1 / n_in: w · x varies as much as one input does
        self.w = [Value(rng.gauss(0, 1) / math.sqrt(n_in)) for _ in range(n_in)]
        self.b = Value(0.0)
        self.linear = linear

    def __call__(self, x: Sequence[Value]) -> Value:
        """One number from n_in numbers."""
        z = dot(self.w, x) + self.b
        return z if self.linear else z.tanh()

    def parameters(self) -> list[Value]:
        """The n_in weights, then the bias."""
        return [*self.w, self.b]


class MLP:
    """Layers of neurons. sizes: numbers in, in each hidden layer, out.

    The last layer is linear: its numbers are logits, which may be of any size.
    """

    def __init__(self, sizes: Sequence[int], rng: random.Random):
        last = len(sizes) - 2
        self.layers = [
            [Neuron(sizes[i], rng, linear=i == last) for _ in range(sizes[i + 1])]
            for i in range(len(sizes) - 1)
        ]

    def __call__(self, x: Sequence[Value | float]) -> list[Value]:
        """The outputs for one input of sizes[0] numbers."""
        values = [as_value(number) for number in x]
        for layer in self.layers:
            values = [neuron(values) for neuron in layer]
        return values

    def parameters(self) -> list[Value]:
        """All weights and biases, layer by layer."""
        return [p for layer in self.layers for n in layer for p in n.parameters()]


def cross_entropy(logits: Sequence[Value], target: int) -> Value:
    """-ln of the probability that softmax gives to the class `target`, in nats.

    The largest logit is subtracted as a constant, so that exp does not overflow; the
    probabilities do not change. Raises IndexError for a target that is no class.
    """
    if not 0 <= target < len(logits):
        raise IndexError(f"target {target} is not one of {len(logits)} classes")
    largest = max(z.data for z in logits)
    total = as_value(0.0)
    for z in logits:
        total = total + (z - largest).exp()
    return total.log() - (logits[target] - largest)


def mean_loss(model: MLP, points: Sequence[Point], labels: Sequence[int]) -> Value:
    """The mean cross-entropy over a set of points: the root of one big graph."""
    total = as_value(0.0)
    for point, label in zip(points, labels, strict=True):
        total = total + cross_entropy(model(point), label)
    return total / len(points)


def train(
    model: MLP,
    points: Sequence[Point],
    labels: Sequence[int],
    optimizer: object,
    steps: int,
    clear: bool = True,
) -> list[float]:
    """Full-batch training; the loss before each step, then the last one.

    optimizer: `SGD` or `Adam` of `autograd_optim`. clear=False leaves out `zero_grad`:
    the planted fault of the chapter.
    """
    losses, params = [], model.parameters()
    for _ in range(steps):
        if clear:
            zero_grad(params)
        loss = mean_loss(model, points, labels)
        loss.backward()
        news = optimizer.step([p.data for p in params], [p.grad for p in params])
        for p, new in zip(params, news, strict=True):
            p.data = new
        losses.append(loss.data)
    return [*losses, mean_loss(model, points, labels).data]


def accuracy(model: MLP, points: Sequence[Point], labels: Sequence[int]) -> float:
    """The share of points whose largest logit is that of their label."""
    right = 0
    for point, label in zip(points, labels, strict=True):
        logits = [z.data for z in model(point)]
        right += logits.index(max(logits)) == label
    return right / len(points)


def moons(n: int, noise: float, rng: random.Random) -> tuple[list[Point], list[int]]:
    """Two half circles that reach into each other, n points in turn, labels 0 and 1."""

    def place(label: int) -> Point:
        angle = math.pi * rng.random()
        x, y = math.cos(angle), math.sin(angle)
        return (x - 0.5, y - 0.25) if label == 0 else (0.5 - x, 0.25 - y)

    return _scatter(n, noise, rng, place)


def spiral(n: int, noise: float, rng: random.Random) -> tuple[list[Point], list[int]]:
    """Two arms that wind round each other once, n points in turn, labels 0 and 1."""

    def place(label: int) -> Point:
        turn = math.sqrt(rng.random())  # more room outside, so more points there
        angle = 2 * math.pi * turn + math.pi * label
        return 1.5 * turn * math.cos(angle), 1.5 * turn * math.sin(angle)

    return _scatter(n, noise, rng, place)


def _scatter(
    n: int, noise: float, rng: random.Random, place: Callable[[int], Point]
) -> tuple[list[Point], list[int]]:
    """Labels in turn, and their places with normal noise of that deviation."""
    labels = [i % 2 for i in range(n)]
    places = [place(label) for label in labels]
    points = [(x + rng.gauss(0, noise), y + rng.gauss(0, noise)) for x, y in places]
    return points, labels
