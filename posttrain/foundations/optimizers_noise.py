"""How noisy is a gradient, and which batch size does that call for?

Source: McCandlish et al. 2018, sections 2.2, 2.3 and appendix A.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """What batches of one size say about the gradient.

    signal: |G|², the squared length of the true gradient, estimated without bias
    variance: tr Σ, the summed variance of the gradient of *one* example
    """

    signal: float
    variance: float

    @property
    def scale(self) -> float:
        """B_simple = tr Σ / |G|²: the batch size at which noise equals signal.

        Infinite where the estimate of the signal is not above 0: too few batches.
        """
        return self.variance / self.signal if self.signal > 0 else float("inf")


def flat_gradient(params: Sequence[Tensor]) -> Tensor:
    """All gradients as one vector; a parameter without one counts as zeros."""
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in params]
    )


def gradient_noise(gradients: Tensor, batch_size: int) -> Noise:
    """Noise from the mean gradients (K, P) of K batches of `batch_size` examples.

    A batch of B has E|g|² = |G|² + tr Σ / B. So the mean squared length of the K rows,
    and that of their mean (a batch of K * B), are two equations for two unknowns.
    """
    if gradients.ndim != 2 or len(gradients) < 2:
        raise ValueError(
            f"gradients has shape {tuple(gradients.shape)}, expected (K, P), K >= 2"
        )
    small, big = batch_size, batch_size * len(gradients)
    rows = gradients.double()
    length_small = rows.square().sum(dim=1).mean().item()  # |G|² + tr Σ / small
    length_big = rows.mean(dim=0).square().sum().item()  # |G|² + tr Σ / big
    variance = (length_small - length_big) / (1 / small - 1 / big)
    signal = (big * length_big - small * length_small) / (big - small)
    return Noise(signal, variance)


def pool(noises: Sequence[Noise]) -> Noise:
    """The mean signal and variance: estimate these first, then divide."""
    n = len(noises)
    signal = sum(x.signal for x in noises) / n
    return Noise(signal, sum(x.variance for x in noises) / n)


def steps_to_target(B: float, S_min: float, B_crit: float) -> float:
    """Optimizer steps that a batch of B needs: S_min (1 + B_crit / B)."""
    return S_min * (1 + B_crit / B)


def fit_critical_batch(
    batches: Sequence[float], steps: Sequence[float]
) -> tuple[float, float]:
    """(S_min, B_crit) of `steps_to_target`: a line in 1 / B, by least squares.

    Errors count as shares of the steps, so that small batches do not decide alone.
    """
    x = torch.tensor([1 / b for b in batches], dtype=torch.float64)
    y = torch.tensor(steps, dtype=torch.float64)
    design = torch.stack([torch.ones_like(x), x], dim=1) / y[:, None]  # (n, 2)
    S_min, slope = torch.linalg.lstsq(design, torch.ones_like(y)).solution.tolist()
    return S_min, slope / S_min
