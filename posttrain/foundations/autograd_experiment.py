"""The experiment of the chapter: two toy sets, two modes, and digits.

`run(preset, seed)` returns what it measured, as plain numbers:

    toy       the scalar engine trains an MLP on two moons and on a spiral
    faults    the same on the moons, with and without `zero_grad`
    modes     CPU seconds for a gradient of n inputs, forward mode and reverse mode
    digits    SGD, SGD with momentum and Adam over a range of learning rates: plain,
              with batch normalisation, and with badly scaled inputs
    evaluation  accuracy of the normalised network in the right and the wrong mode

Every gradient in here comes from this book's own backward passes, none from PyTorch's.
Run it over seeds with `python -m ci.measure autograd cpu`.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from posttrain.foundations import autograd_mlp as toy
from posttrain.foundations.autograd import Value, topological_order
from posttrain.foundations.autograd_forward import gradient_forward
from posttrain.foundations.autograd_optim import SGD
from posttrain.foundations.autograd_training import DigitSetup, run_digits
from posttrain.presets import preset_named

VERSION = 2

TOYS = {"moons": (toy.moons, 0.15), "spiral": (toy.spiral, 0.06)}
EDGE, GRID = 1.9, 41  # the square of the decision map, and its points a side
MODES = (4, 16, 64, 256)  # numbers of inputs


@dataclass(frozen=True)
class Preset:
    """Sizes of one run: points of a toy set, channels of its two hidden layers, ..."""

    toy_points: int
    toy_hidden: int
    toy_steps: int
    digits: DigitSetup


PRESETS = {
    "ci": Preset(40, 8, 40, DigitSetup(32, 2000, 150, (-5, -3, -1), log_every=25)),
    "cpu": Preset(100, 12, 100, DigitSetup(64, 10_000, 1000)),
    "t4": Preset(100, 12, 100, DigitSetup(256, 50_000, 4000, B=256, log_every=200)),
    "h200": Preset(100, 12, 100, DigitSetup(512, 100_000, 8000, B=512, log_every=400)),
}


def run(preset: str, seed: int) -> dict:
    """All five parts; a JSON-able dict. Losses are nats, rates shares of 1.

    Raises ValueError for an unknown preset.
    """
    setup = preset_named(PRESETS, preset)
    digits, evaluation = run_digits(setup.digits, seed)
    return {
        "preset": preset,
        "seed": seed,
        "config": asdict(setup),
        "toy": {name: run_toy(name, setup, seed) for name in TOYS},
        "faults": run_faults(setup, seed),
        "modes": [time_modes(n, seed) for n in MODES],
        "digits": digits,
        "evaluation": evaluation,
    }


# ---------------------------------------------------------------- toy sets


def toy_model(setup: Preset, seed: int) -> toy.MLP:
    """The untrained network of scalars: 2 numbers in, 2 logits out."""
    hidden = setup.toy_hidden
    return toy.MLP((2, hidden, hidden, 2), random.Random(seed))


def run_toy(name: str, setup: Preset, seed: int) -> dict:
    """Train on one toy set; returns the curve, the points and the decision map."""
    draw, noise = TOYS[name]
    points, labels = draw(setup.toy_points, noise, random.Random(f"train {seed}"))
    fresh = draw(2 * setup.toy_points, noise, random.Random(f"test {seed}"))
    model = toy_model(setup, seed)
    optimizer = SGD(lr=0.3, momentum=0.9)
    losses = toy.train(model, points, labels, optimizer, setup.toy_steps)
    return {
        "parameters": len(model.parameters()),
        "nodes": count_nodes(toy.mean_loss(model, points, labels)),
        "losses": rounded(losses),
        "train_accuracy": toy.accuracy(model, points, labels),
        "test_accuracy": toy.accuracy(model, *fresh),
        "points": [rounded(point, 3) for point in points],
        "labels": labels,
        "map": decision_map(model),
    }


def count_nodes(root: Value) -> int:
    """How many values a result depends on, itself included."""
    return len(topological_order(root))


def decision_map(model: toy.MLP) -> list[str]:
    """The probability of label 1 on a grid, in whole per cents; `unpack` reads it.

    GRID rows from y = -EDGE to y = EDGE, each from x = -EDGE to x = EDGE.
    """
    ticks = [EDGE * (2 * i / (GRID - 1) - 1) for i in range(GRID)]

    def percent(x: float, y: float) -> int:
        zero, one = model((x, y))
        return round(50 + 50 * math.tanh((one.data - zero.data) / 2))

    return [" ".join(str(percent(x, y)) for x in ticks) for y in ticks]


def unpack(rows: Sequence[str]) -> list[list[float]]:
    """The probabilities of `decision_map`, [y][x] in 0 ... 1."""
    return [[int(p) / 100 for p in row.split()] for row in rows]


def run_faults(setup: Preset, seed: int) -> dict[str, list[float]]:
    """Loss curves on the moons: two optimizers, gradients cleared or kept."""
    draw, noise = TOYS["moons"]
    points, labels = draw(setup.toy_points, noise, random.Random(f"train {seed}"))
    curves = {}
    for name, momentum in (("sgd", 0.0), ("momentum", 0.9)):
        for clear in (True, False):
            model, optimizer = toy_model(setup, seed), SGD(0.3, momentum)
            steps = setup.toy_steps
            losses = toy.train(model, points, labels, optimizer, steps, clear)
            curves[f"{name}, {'cleared' if clear else 'kept'}"] = rounded(losses)
    return curves


# ------------------------------------------------------- forward and reverse


def chain_of_products(x: Sequence) -> object:
    """tanh(x1 x2) + tanh(x2 x3) + ...: about 3 n operations on n inputs."""
    total = x[0]
    for a, b in itertools.pairwise(x):
        total = total + (a * b).tanh()
    return total


def time_modes(n: int, seed: int, repeats: int = 3) -> dict[str, float]:
    """CPU seconds, best of `repeats`: the value alone, its gradient in each mode."""
    rng = random.Random(seed)
    x = [rng.gauss(0, 1) for _ in range(n)]
    return {
        "n": n,
        "record": _best(lambda: chain_of_products([Value(a) for a in x]), repeats),
        "reverse": _best(
            lambda: chain_of_products([Value(a) for a in x]).backward(), repeats
        ),
        "forward": _best(lambda: gradient_forward(chain_of_products, x), repeats),
    }


def _best(work: Callable[[], object], repeats: int) -> float:
    """The least CPU time of several runs: disturbances only ever add."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return float(f"{min(times):.3g}")


def rounded(values: Sequence[float], digits: int = 4) -> list[float]:
    """Short numbers for the result file: so many digits that count."""
    return [float(f"{value:.{digits}g}") for value in values]
