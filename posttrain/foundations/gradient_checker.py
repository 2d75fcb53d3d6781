"""Check a gradient against finite differences, in float64.

    report = check_gradient(f, gradient, x)      # NumPy: f(x) -> number
    reports = check_autograd(f, *tensors)        # PyTorch: f(*tensors) -> number
    assert report.ok, report

A derivative is a limit, and (f(x + h) - f(x - h)) / 2h is its value a step before the
limit: no formula is used, so it shares no mistake with yours. The step must be neither
large (the curve bends: an error of order h²) nor small (two nearly equal numbers are
subtracted: an error of order eps / h). Both are least for h near eps^(1/3), which is
6e-6 in float64 and leaves about ten right digits. In float32 it would leave four, too
few to tell a right gradient from a nearly right one: such inputs are refused.

Cost: two calls of f for each number in x. For large x use `check_direction`: two calls
in all, for the slope along one random direction.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Function = Callable[[Array], float]

STEP = float(np.finfo(np.float64).eps ** (1 / 3))  # 6.06e-6
TOLERANCE = 1e-6  # well above the 1e-10 of a right gradient, well below any mistake
KINK = 1e-3  # slopes left and right that differ by more than this share: no derivative


@dataclass(frozen=True)
class GradientReport:
    """How a gradient compares with finite differences, at the worst place.

    error: largest |analytic - numeric|, as a share of max(1, largest |numeric|).
    """

    ok: bool
    error: float
    index: tuple[int, ...]
    analytic: float
    numeric: float
    kinks: int  # places where f has no derivative, or too sharp a bend to tell
    name: str = "x"

    def __str__(self) -> str:
        where = f"{self.name}{list(self.index) if self.index else ''}"
        text = (
            f"{'right' if self.ok else 'WRONG'}: largest error {self.error:.1e} at"
            f" {where}, analytic {self.analytic:.8g}, numeric {self.numeric:.8g}"
        )
        if self.kinks and not self.ok:
            text += f"; f has a kink within a step of {self.kinks} entries: move x"
        return text


def numerical_gradient(f: Function, x: Array, step: float = STEP) -> Array:
    """∂f/∂x by central differences, in the shape of x. f: array -> number.

    step: h, times max(1, |x_i|) for each entry. x is not changed.
    Raises TypeError unless x is float64, ValueError where f is random or not finite.
    """
    above, below, h = neighbours(f, x, step)
    return (above - below) / (2 * h)


def neighbours(f: Function, x: Array, step: float) -> tuple[Array, Array, Array]:
    """f one step above and below x in each entry, and the steps: each like x."""
    check_float64("x", x.dtype)
    center = float(f(x.copy()))
    if not math.isfinite(center):
        raise ValueError(f"f(x) is {center}: there is nothing to differentiate")
    if float(f(x.copy())) != center:
        raise ValueError(
            "f gives two values for one x: fix its seed, switch dropout off (.eval())"
        )
    h = (x + step * np.maximum(1, np.abs(x))) - x  # the step that is really taken
    above, below = np.empty_like(x), np.empty_like(x)
    for index in np.ndindex(x.shape):
        for side, values in ((1, above), (-1, below)):
            moved = x.copy()
            moved[index] += side * h[index]
            values[index] = f(moved)
    return above, below, h


def numerical_jacobian(
    f: Callable[[Array], Array], x: Array, step: float = STEP
) -> Array:
    """∂f_i/∂x_j by central differences: (*shape of f(x), *shape of x)."""
    check_float64("x", x.dtype)
    jacobian = np.empty((*np.shape(f(x.copy())), *x.shape))
    for index in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[index] += step * max(1, abs(x[index]))
        below[index] -= step * max(1, abs(x[index]))
        slope = (f(above) - f(below)) / (above[index] - below[index])
        jacobian[(..., *index)] = slope
    return jacobian


def check_gradient(
    f: Function,
    gradient: Array,
    x: Array,
    tolerance: float = TOLERANCE,
    name: str = "x",
) -> GradientReport:
    """Compare a gradient that you worked out with finite differences of f at x.

    gradient: ∂f/∂x at x, in the shape of x. name: what messages call x.
    Raises ValueError for a gradient of another shape, and as `numerical_gradient`.
    """
    if gradient.shape != x.shape:
        raise ValueError(
            f"the gradient has shape {gradient.shape}, {name} has {x.shape}: a gradient"
            " has the shape of what it is taken at"
        )
    above, below, h = neighbours(f, x, STEP)
    center = float(f(x.copy()))
    numeric = (above - below) / (2 * h)
    scale = max(1.0, float(np.abs(numeric).max(initial=0)))
    left, right = (center - below) / h, (above - center) / h
    kinks = int((np.abs(right - left) > KINK * scale).sum())
    errors = np.abs(gradient - numeric) / scale
    worst = np.unravel_index(int(errors.argmax()), x.shape)  # a NaN comes first
    return GradientReport(
        ok=bool(errors.max() <= tolerance),
        error=float(errors[worst]),
        index=tuple(int(i) for i in worst),
        analytic=float(gradient[worst]),
        numeric=float(numeric[worst]),
        kinks=kinks,
        name=name,
    )


def check_autograd(
    f: Callable[..., Tensor], *inputs: Tensor, tolerance: float = TOLERANCE
) -> list[GradientReport]:
    """Compare PyTorch's gradient of f(*inputs), a number, with finite differences.

    One report for each input, in order. For your own `autograd.Function`, and for
    losses. Inputs must be float64; they and their `.grad` stay as they were.
    """
    for i, x in enumerate(inputs):
        check_float64(f"input {i}", x.dtype)
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    gradients = torch.autograd.grad(f(*leaves), leaves, allow_unused=True)
    reports = []
    for i, (x, g) in enumerate(zip(leaves, gradients, strict=True)):

        def value(array: Array, i: int = i, x: Tensor = x) -> float:
            moved = torch.from_numpy(array).to(x.device)
            with torch.no_grad():
                return f(*leaves[:i], moved, *leaves[i + 1 :]).item()

        analytic = torch.zeros_like(x) if g is None else g
        arrays = (a.detach().cpu().numpy() for a in (analytic, x))
        reports.append(
            check_gradient(value, *arrays, tolerance=tolerance, name=f"input {i}")
        )
    return reports


def check_direction(
    f: Function, gradient: Array, x: Array, rng: np.random.Generator
) -> tuple[float, float]:
    """Slope of f at x along a random unit vector u: (gradient · u, measured).

    Two calls of f, however large x is. A wrong gradient agrees by accident only where
    its error is at a right angle to u; ask for a second direction to be sure.
    """
    check_float64("x", x.dtype)
    u = rng.standard_normal(x.shape)
    u /= np.linalg.norm(u)
    h = STEP * max(1.0, float(np.linalg.norm(x)))
    measured = (float(f(x + h * u)) - float(f(x - h * u))) / (2 * h)
    return float((gradient * u).sum()), measured


def check_float64(name: str, dtype: object) -> None:
    """Raise TypeError unless dtype is NumPy's or PyTorch's float64."""
    if dtype not in (np.float64, torch.float64):
        raise TypeError(
            f"{name} has dtype {dtype}: finite differences need float64, because in"
            " float32 their own error hides a wrong gradient. Convert with"
            " .astype(np.float64) or .double()"
        )
