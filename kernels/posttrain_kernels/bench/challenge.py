"""The published NF4 challenge, by its own protocol: is it 1.15x as fast as Unsloth?

Three sizes of an MLP. Up, gate and down projection are dequantised one after the other,
the host waiting for the GPU after each, a thousand times, after two rounds of warm-up;
the host's clock counts. So launching and waiting count here, the L2 cache stays warm,
and the sum over the three sizes is compared. Unlike in the original, contestants take
turns in several samples, and the median of each is used.

Source: Unsloth's challenges (2025), A, "Convert nf4 to Triton", `test_dequantize`.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from posttrain_kernels import nf4
from posttrain_kernels.bench import check
from posttrain_kernels.bench.contestants import (
    OURS,
    Contestant,
    Entry,
    LeftOut,
    assemble,
)
from posttrain_kernels.bench.families.nf4 import FAMILY, exact
from posttrain_kernels.bench.runner import Bench, tried
from posttrain_kernels.bench.timing import quantile

NAME = "nf4_challenge"
UNSLOTH = "Unsloth"
# eager and torch.compile are no candidates
NAMES = (OURS, "bitsandbytes", UNSLOTH, "Unsloth ctypes")
OPTIONS = (  # width, hidden width, seed, dtype: of the challenge, in its order
    (2048, 8192, 3407, torch.float16),
    (1024, 4096, 3409, torch.bfloat16),
    (4096, 14336, 3408, torch.bfloat16),
)
REPEATS, SAMPLES, WARM_UP = 1000, 5, 2


def measure(
    bench: Bench,
    repeats: int = REPEATS,
    samples: int = SAMPLES,
    options: Sequence[tuple] = OPTIONS,
    clock: Callable[[], float] = time.perf_counter,
    also: Sequence[Entry] = (),
) -> dict:
    """Seconds of every contestant at every size and in sum, and the speed-ups.

    also: further contestants; their `adapt` gets an NF4 tensor.
    """
    entries = [entry for entry in FAMILY.entries if entry.name in NAMES]
    entries += also
    present, left_out = assemble(entries, cpu=bench.where == "cpu")
    shapes = []
    for width, hidden, seed, dtype in options:
        weights = mlp(width, hidden, seed, dtype, bench.where)
        right, wrong = _checked(present, weights)
        left_out += wrong
        present = right  # a sum needs all sizes
        seconds = _seconds(present, weights, bench, repeats, samples, clock)
        shapes.append((width, hidden, dtype, seconds))
    totals = {
        one.name: sum(quantile(seconds[one.name], 0.5) for *_, seconds in shapes)
        for one in present
    }
    return {
        "repeats": repeats,
        "samples": samples,
        "left_out": [{"contestant": x.name, "reason": x.reason} for x in left_out],
        "shapes": [_shape(*each, list(totals)) for each in shapes],
        "total_seconds": totals,
        "speedup_over_unsloth": {
            name: totals[UNSLOTH] / total
            for name, total in totals.items()
            if UNSLOTH in totals
        },
    }


def mlp(
    width: int, hidden: int, seed: int, dtype: torch.dtype, where: str
) -> list[nf4.NF4]:
    """Up, gate (hidden, width) and down (width, hidden), as torch.nn.Linear starts."""
    torch.manual_seed(seed)
    shapes = ((hidden, width), (hidden, width), (width, hidden))
    return [
        nf4.quantize(
            torch.empty(shape, device=where)
            .uniform_(-1 / math.sqrt(shape[1]), 1 / math.sqrt(shape[1]))
            .to(dtype)
        )
        for shape in shapes
    ]


def _checked(
    contestants: list[Contestant], weights: list[nf4.NF4]
) -> tuple[list[Contestant], list[LeftOut]]:
    """Who dequantises all three rightly."""
    right, wrong = [], []
    for one in contestants:
        said = tried(one.name, partial(_check, one, weights))
        if isinstance(said, LeftOut):
            wrong.append(said)
        else:
            right.append(one)
    return right, wrong


def _check(one: Contestant, weights: list[nf4.NF4]) -> None:
    for weight in weights:
        result = one.call(*one.adapt(weight))
        check.check([result], [exact(weight)], FAMILY.results, [0.0])
        if result.dtype != weight.dtype:
            raise check.Wrong(f"w is {result.dtype}, due is {weight.dtype}")


def _seconds(
    contestants: list[Contestant],
    weights: list[nf4.NF4],
    bench: Bench,
    repeats: int,
    samples: int,
    clock: Callable[[], float],
) -> dict[str, list[float]]:
    """Seconds of `repeats` rounds, `samples` times each, in rotated turns."""
    arguments = {one.name: [one.adapt(w) for w in weights] for one in contestants}
    seconds: dict[str, list[float]] = {one.name: [] for one in contestants}
    for one in contestants:
        _loop(one.call, arguments[one.name], bench, WARM_UP)
    for number in range(samples):
        first = number % max(1, len(contestants))
        for one in contestants[first:] + contestants[:first]:
            bench.device.synchronize()
            start = clock()
            _loop(one.call, arguments[one.name], bench, repeats)
            seconds[one.name].append(clock() - start)
    return seconds


def _loop(call: Callable, arguments: list[tuple], bench: Bench, repeats: int) -> None:
    for _ in range(repeats):
        for each in arguments:
            call(*each).t()
            bench.device.synchronize()


def _shape(
    width: int,
    hidden: int,
    dtype: torch.dtype,
    seconds: dict[str, list[float]],
    names: list[str],
) -> dict:
    quantiles = {"median_s": 0.5, "q20_s": 0.2, "q80_s": 0.8}
    return {
        "shape": {"width": width, "hidden": hidden},
        "dtype": str(dtype).removeprefix("torch."),
        "results": [
            {
                "contestant": name,
                **{key: quantile(seconds[name], q) for key, q in quantiles.items()},
            }
            for name in names
        ],
    }
