"""One case after the other: build, check, warm up, time, and note what came out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from posttrain_kernels.bench import check
from posttrain_kernels.bench.cases import BACKWARD, BOTH, FORWARD, Family, Inputs
from posttrain_kernels.bench.contestants import (
    EAGER,
    OURS,
    Contestant,
    LeftOut,
    assemble,
    first_line,
)
from posttrain_kernels.bench.limits import Limits
from posttrain_kernels.bench.timing import (
    Budget,
    Call,
    Device,
    interleaved,
    rounds_within,
    summary,
    warm_up,
)
from posttrain_kernels.common import Cost

T = TypeVar("T")
REFERENCE = "reference"


class BenchError(Exception):
    """Ours, eager PyTorch or the reference fails or is wrong: nothing to compare."""


@dataclass(frozen=True)
class Bench:
    """Where and how long to measure."""

    device: Device
    where: str  # torch's name of the device, "cuda"
    dtype: torch.dtype
    limits: Limits
    budget: Budget
    seed: int = 0


def measure(family: Family, size: str, bench: Bench) -> dict:
    """All passes of a family at one size, as they go into the report.

    Raises BenchError where our own kernel, eager PyTorch or the reference fails or is
    wrong. A peer that does, or runs out of memory, is left out, with the reason.
    """
    torch.compiler.reset()  # no more recompilations than one size causes
    torch.manual_seed(bench.seed)
    numbers = family.sizes[size]
    make = partial(family.make, *numbers, dtype=bench.dtype, device=bench.where)
    inputs = tried(REFERENCE, make)
    present, left_out = assemble(family.entries, cpu=bench.where == "cpu")
    right, wrong = _checked(family, inputs, present, bench.dtype)
    costs = family.costs(*numbers, dtype=bench.dtype) if right else {}
    return {
        "family": family.name,
        "size": size,
        "shape": dict(zip(family.axes, numbers, strict=True)),
        "dtype": str(bench.dtype).removeprefix("torch."),
        "left_out": _reasons(left_out + wrong),
        "passes": [
            _timed(family, inputs, right, which, cost, bench)
            for which, cost in costs.items()
        ],
    }


def tried(name: str, action: Callable[[], T]) -> T | LeftOut:
    """What the action returns, or why this contestant cannot go on.

    A peer may fail in any way. Raises BenchError for the others, unless they are
    merely out of memory.
    """
    try:
        return action()
    except torch.OutOfMemoryError:
        reason = "out of memory"
    except Exception as error:
        if name in (OURS, EAGER, REFERENCE):
            raise BenchError(f"{name}: {first_line(error)}") from error
        reason = first_line(error)
    torch.cuda.empty_cache()
    return LeftOut(name, reason)


def _checked(
    family: Family,
    inputs: Inputs | LeftOut,
    contestants: list[Contestant],
    dtype: torch.dtype,
) -> tuple[list[Contestant], list[LeftOut]]:
    """Those whose results and gradients are right, and the others."""
    exact = inputs
    if isinstance(inputs, Inputs):
        exact = tried(REFERENCE, partial(family.expected, inputs))
    if isinstance(exact, LeftOut):
        reason = f"nothing to check it by; inputs and reference: {exact.reason}"
        return [], [LeftOut(one.name, reason) for one in contestants]
    peer = next(one for one in contestants if one.name == EAGER)
    eager = tried(EAGER, partial(_eager_errors, family, inputs, peer, exact, dtype))
    allowance = [0.0] * len(exact) if isinstance(eager, LeftOut) else eager
    right, wrong = [], []
    for one in contestants:
        judge = partial(_judge, family, inputs, one, exact, allowance, dtype)
        said = eager if one is peer else tried(one.name, judge)
        if isinstance(said, LeftOut):
            wrong.append(said)
        else:
            right.append(one)
    return right, wrong


def _eager_errors(
    family: Family,
    inputs: Inputs,
    peer: Contestant,
    exact: list[Tensor],
    dtype: torch.dtype,
) -> list[float]:
    results = family.outcome(peer, inputs)
    return check.check_eager(results, exact, family.results, dtype)


def _judge(
    family: Family,
    inputs: Inputs,
    contestant: Contestant,
    exact: list[Tensor],
    eager: list[float],
    dtype: torch.dtype,
) -> None:
    results = family.outcome(contestant, inputs)
    inside = dtype if family.rounds_inside else None
    check.check(results, exact, family.results, eager, inside)


def _timed(
    family: Family,
    inputs: Inputs,
    contestants: list[Contestant],
    which: str,
    cost: Cost,
    bench: Bench,
) -> dict:
    """One pass of all contestants in turns."""
    calls, left_out = _warm(family, inputs, contestants, which, bench)
    rounds = rounds_within(calls, bench.device, bench.budget) if calls else 0
    times = interleaved(calls, bench.device, rounds)
    limits = bench.limits
    limit = 1e6 * cost.seconds(limits.bytes_per_second, limits.flops_per_second)
    results = [_result(name, times[name], limit) for name in calls]
    if family.memory and which in (FORWARD, BOTH):
        for result in results:
            call = calls[result["contestant"]]
            result["peak_mib"] = bench.device.peak_bytes(call) / 2**20
    return {
        "pass": which,
        "bytes": cost.bytes,
        "flops": cost.flops,
        "limit_us": limit,
        "rounds": rounds,
        "left_out": _reasons(left_out),
        "results": results,
    }


def _warm(
    family: Family,
    inputs: Inputs,
    contestants: list[Contestant],
    which: str,
    bench: Bench,
) -> tuple[dict[str, Call], list[LeftOut]]:
    """The calls that are ready to be timed, and who has none."""
    calls, left_out = {}, []
    for one in contestants:
        if which == BACKWARD and one.gradients_in_forward:
            reason = "makes its gradients in the forward pass: see both"
            left_out.append(LeftOut(one.name, reason))
            continue
        said = tried(one.name, partial(_ready, family, inputs, one, which, bench))
        if isinstance(said, LeftOut):
            left_out.append(said)
        else:
            calls[one.name] = said
    return calls, left_out


def _ready(
    family: Family, inputs: Inputs, one: Contestant, which: str, bench: Bench
) -> Call:
    call = family.call(one, inputs, which)
    warm_up(call, bench.device, bench.budget.warm_up)
    return call


def _result(name: str, milliseconds: list[float], limit_us: float) -> dict:
    numbers = summary(milliseconds)
    return {
        "contestant": name,
        **numbers,
        "share_of_limit": limit_us / numbers["median_us"],
    }


def _reasons(left_out: list[LeftOut]) -> list[dict]:
    return [{"contestant": one.name, "reason": one.reason} for one in left_out]
