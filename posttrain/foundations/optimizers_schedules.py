"""Learning-rate schedules: plain functions from a step to a factor.

    schedule = partial(warmup_cosine, total=10_000, warmup=500)
    for step in range(10_000):
        set_lr(optimizers, schedule(step))  # before the step
        ...

Steps count from 0. The factor multiplies each group's own learning rate, so groups and
optimizers may differ. A schedule has no state: to resume, all it needs is the step. For
PyTorch's `LambdaLR`, hand over the function itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def warmup_constant(step: int, *, warmup: int = 0) -> float:
    """Rise from 1 / warmup to 1 over `warmup` steps, then stay: the factor at `step`.

    The first factor is not 0, so that no step is wasted.
    """
    if step < 0 or warmup < 0:
        raise ValueError(f"step={step}, warmup={warmup}: neither may be below 0")
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def warmup_cosine(
    step: int, *, total: int, warmup: int = 0, floor: float = 0.1
) -> float:
    """Warm-up, then half a cosine from 1 to `floor` at step `total`, then `floor`."""
    check(total, warmup, floor)
    if step < warmup:
        return warmup_constant(step, warmup=warmup)
    progress = min(1.0, (step - warmup) / (total - warmup))  # 0 ... 1
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def wsd(
    step: int, *, total: int, warmup: int = 0, decay: int, floor: float = 0.0
) -> float:
    """Warm-up, stable, decay: stay at 1, then a line to `floor` in `decay` steps.

    Source: Hu et al. 2024, section 4; the decay here is linear.
    """
    check(total, warmup, floor)
    if not 0 < decay <= total - warmup:
        raise ValueError(
            f"decay={decay} must lie in 1 ... total - warmup = {total - warmup}"
        )
    if step < total - decay:
        return warmup_constant(step, warmup=warmup)
    left = max(0.0, (total - step) / decay)  # 1 ... 0
    return floor + (1 - floor) * left


def check(total: int, warmup: int, floor: float) -> None:
    """Raise ValueError unless 0 <= warmup < total and 0 <= floor <= 1."""
    if not 0 <= warmup < total:
        raise ValueError(f"warmup={warmup} must lie in 0 ... total - 1 = {total - 1}")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor={floor} is a share of the peak: 0 ... 1")


def set_lr(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Set each group's learning rate to `factor` times what it began with.

    The beginning is kept in the group as "initial_lr", as PyTorch's schedulers do, and
    so it is part of a checkpoint.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
