"""How times are taken: in turns, rotated, each launch with a cold L2 cache.

After `triton.testing.do_bench`, which times one function; here several take turns.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Device(Protocol):
    """What the protocol needs of a GPU; tests put in one with a clock of their own."""

    def flush(self) -> None:
        """Queue an overwrite of the L2 cache."""

    def hold(self) -> None:
        """Queue a pause, in which the host queues the launches to be timed."""

    def mark(self) -> Any:
        """Queue a mark that notes the time when the GPU comes to it."""

    def synchronize(self) -> None:
        """Wait until all that is queued is done."""

    def milliseconds(self, start: Any, end: Any) -> float:
        """Between two marks that were passed."""

    def peak_bytes(self, call: "Call") -> int:
        """The most memory that a call holds beyond what was held before it."""


@dataclass(frozen=True)
class Call:
    """What is timed: `run(prepare())`, of which only `run` counts."""

    run: Callable[[Any], object]
    prepare: Callable[[], Any]


@dataclass(frozen=True)
class Budget:
    """How long to measure one pass of one case."""

    seconds: float = 3.0
    least: int = 20  # rounds
    most: int = 200
    warm_up: int = 3  # calls before the first that counts


def interleaved(
    calls: Mapping[str, Call], device: Device, rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of each call, one a round; round i begins with call i."""
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds if names else 0):
        first = number % len(names)
        turns = names[first:] + names[:first]
        marks = {name: _once(calls[name], device) for name in turns}
        device.synchronize()
        for name, (start, end) in marks.items():
            times[name].append(device.milliseconds(start, end))
    return times


def warm_up(call: Call, device: Device, times: int) -> None:
    """Compile, autotune, fill the caches of the allocator; errors come out here."""
    for _ in range(times):
        call.run(call.prepare())
    device.synchronize()


def rounds_within(
    calls: Mapping[str, Call],
    device: Device,
    budget: Budget,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """How many rounds fit into the budget, judged by one that is thrown away."""
    device.synchronize()
    start = clock()
    interleaved(calls, device, rounds=1)
    fit = int(budget.seconds / max(clock() - start, 1e-9))
    return min(budget.most, max(budget.least, fit))


def quantile(values: Sequence[float], q: float) -> float:
    """The value below which a share q of the values lies, interpolated linearly."""
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low, high = math.floor(at), math.ceil(at)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def summary(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median, quantiles 0.2 and 0.8 and minimum, in microseconds."""
    named = {"median_us": 0.5, "q20_us": 0.2, "q80_us": 0.8, "min_us": 0.0}
    return {name: 1000 * quantile(milliseconds, q) for name, q in named.items()}


def _once(call: Call, device: Device) -> tuple[Any, Any]:
    """One sample: prepare, empty the cache, let the host get ahead, then time."""
    prepared = call.prepare()
    device.flush()
    device.hold()
    start = device.mark()
    call.run(prepared)
    return start, device.mark()
