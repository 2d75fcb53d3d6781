"""Is it right? Nothing is timed that is not."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FACTOR = 4  # times the error of eager PyTorch in the same dtype
EAGER_ROUNDINGS = 8  # eps of the inputs' dtype that eager may be off, of the largest


class Wrong(Exception):
    """A result that is too far from the reference."""


def check_eager(
    results: Sequence[Tensor],
    exact: Sequence[Tensor],
    names: Sequence[str],
    dtype: torch.dtype,
) -> list[float]:
    """The errors of eager PyTorch on inputs of `dtype`; by them the others are judged.

    Raises Wrong where it is itself far off: then the reference must be mistaken.
    """
    found = [_error(*each) for each in zip(results, exact, names, strict=True)]
    for error, due, name in zip(found, exact, names, strict=True):
        _hold(name, error, EAGER_ROUNDINGS * _rounding(dtype, due))
    return found


def check(
    results: Sequence[Tensor],
    exact: Sequence[Tensor],
    names: Sequence[str],
    eager: Sequence[float],
    inside: torch.dtype | None = None,
) -> None:
    """Raise Wrong unless every error is at most FACTOR times that of eager PyTorch.

    Where eager was lucky, rounding counts: two eps of the result's dtype, or of
    `inside`, if on the way to it numbers are rounded to that; 64 eps of fp32, in which
    sums of 10^5 terms differ by their order.
    """
    for result, due, name, peer in zip(results, exact, names, eager, strict=True):
        allowed = 2 * _rounding(inside or result.dtype, due)
        _hold(name, _error(result, due, name), max(FACTOR * peer, allowed))


def _error(result: Tensor, exact: Tensor, name: str) -> float:
    """The largest absolute difference."""
    if result.shape != exact.shape:
        raise Wrong(
            f"{name} has shape {tuple(result.shape)}, due is {tuple(exact.shape)}"
        )
    error = (result.float() - exact).abs().max().item()
    if math.isnan(error):
        raise Wrong(f"{name} holds NaN where the reference is a number")
    return error


def _rounding(dtype: torch.dtype, exact: Tensor) -> float:
    """One eps of the largest number; 32 of fp32."""
    finfo = torch.finfo(dtype)
    return finfo.eps * (32 if finfo.bits == 32 else 1) * exact.abs().max().item()


def _hold(name: str, error: float, allowed: float) -> None:
    if not error <= allowed:
        raise Wrong(f"{name} is off by {error:.3g}, allowed is {allowed:.3g}")
