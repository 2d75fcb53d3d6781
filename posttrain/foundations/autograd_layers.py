"""Backward passes of tensor operations, by hand: vector-Jacobian products.

Each operation is a pair. The forward function returns its output and `saved`, all that
its backward function needs. The backward function takes d(loss)/d(output), which has
the shape of the output, and returns d(loss)/d(input) for each input. No Jacobian is
ever built: for a batch of 64 rows of 64 channels it would have 4096 x 4096 entries.

Shapes: N rows in a batch, C channels, K classes. Losses are in nats.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Saved = tuple


def matmul(x: Tensor, W: Tensor) -> tuple[Tensor, Saved]:
    """x @ W: (N, C_in) and (C_in, C_out) give (N, C_out). Saves both factors."""
    return x @ W, (x, W)


def matmul_backward(dy: Tensor, saved: Saved) -> tuple[Tensor, Tensor]:
    """d(loss)/dx (N, C_in) and d(loss)/dW (C_in, C_out) from dy (N, C_out)."""
    x, W = saved
    return dy @ W.T, x.T @ dy


def add_bias(x: Tensor, b: Tensor) -> tuple[Tensor, Saved]:
    """x + b: (N, C) and (C,), the same b for every row. Saves nothing."""
    return x + b, ()


def add_bias_backward(dy: Tensor, saved: Saved) -> tuple[Tensor, Tensor]:
    """Each row used b once, so the gradient of b is the sum over rows."""
    return dy, dy.sum(dim=0)


def tanh(x: Tensor) -> tuple[Tensor, Saved]:
    """tanh of each number. Saves the *output*: the derivative is 1 - y²."""
    y = x.tanh()
    return y, (y,)


def tanh_backward(dy: Tensor, saved: Saved) -> tuple[Tensor]:
    """The Jacobian is diagonal, so the product is number by number."""
    (y,) = saved
    return (dy * (1 - y * y),)


def relu(x: Tensor) -> tuple[Tensor, Saved]:
    """max(0, x) of each number. Saves where x > 0: one byte a number."""
    return x.clamp(min=0), (x > 0,)


def relu_backward(dy: Tensor, saved: Saved) -> tuple[Tensor]:
    """Passes the gradient where x > 0, stops it elsewhere (at the corner too)."""
    (above,) = saved
    return (dy * above,)


def softmax_cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Saved]:
    """The mean of -ln p(target) over a batch: one number.

    logits: (N, K). targets: (N,), class numbers. The largest logit of a row is
    subtracted first, which changes no probability and keeps exp from overflowing.
    Raises ValueError for a wrong number of targets, and (gather does, on a CPU)
    RuntimeError for a target that is no class.
    """
    if targets.shape != logits.shape[:1]:
        raise ValueError(
            f"{len(logits)} rows of logits need as many targets, got a tensor of shape"
            f" {tuple(targets.shape)}"
        )
    shifted = logits - logits.amax(dim=1, keepdim=True)
    log_probs = shifted - shifted.exp().sum(dim=1, keepdim=True).log()  # (N, K)
    loss = -log_probs.gather(1, targets[:, None]).mean()
    return loss, (log_probs.exp(), targets)


def softmax_cross_entropy_backward(dloss: Tensor, saved: Saved) -> tuple[Tensor]:
    """(probabilities - one-hot) / N, scaled by dloss: (N, K)."""
    probs, targets = saved
    one_hot = torch.zeros_like(probs).scatter(1, targets[:, None], 1)
    return (dloss * (probs - one_hot) / len(targets),)


@dataclass
class RunningStats:
    """Mean and variance of each channel over past batches, (C,), for evaluation."""

    mean: Tensor
    var: Tensor

    @classmethod
    def fresh(cls, C: int, **options) -> RunningStats:
        """Mean 0, variance 1. options: dtype, device."""
        return cls(torch.zeros(C, **options), torch.ones(C, **options))

    def update(self, mean: Tensor, var: Tensor, momentum: float) -> None:
        """Move a share `momentum` of the way to the statistics of one more batch."""
        self.mean += momentum * (mean - self.mean)
        self.var += momentum * (var - self.var)


def batch_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    stats: RunningStats,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Saved]:
    """Each channel to mean 0 and variance 1, then times gamma, plus beta.

    x: (N, C). gamma, beta: (C,). training: with mean and variance of *this batch*, and
    `stats` is updated (with the unbiased variance); else with those in `stats`.
    Raises ValueError for a training batch of one row: its variance is 0.
    Source: Ioffe and Szegedy 2015, algorithms 1 and 2; defaults as in PyTorch.
    """
    if not training:
        inv_std = (stats.var + eps).rsqrt()  # (C,)
        x_hat = (x - stats.mean) * inv_std  # (N, C)
        return gamma * x_hat + beta, (x_hat, gamma, inv_std, training)
    N = len(x)
    if N < 2:
        raise ValueError(
            f"batch_norm in training mode needs 2 rows at least, got {N}: the variance"
            " of one row is 0. Use training=False, or drop the last small batch"
        )
    mean = x.mean(dim=0)  # (C,)
    var = (x - mean).square().mean(dim=0)  # (C,), divided by N
    stats.update(mean, var * N / (N - 1), momentum)
    inv_std = (var + eps).rsqrt()  # (C,)
    x_hat = (x - mean) * inv_std  # (N, C)
    return gamma * x_hat + beta, (x_hat, gamma, inv_std, training)


def batch_norm_backward(dy: Tensor, saved: Saved) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (N, C), gamma (C,) and beta (C,) from dy (N, C).

    In training mode a row moves the mean and the variance of its batch, and with them
    every other row: the two means below. In evaluation mode both are constants.
    """
    x_hat, gamma, inv_std, training = saved
    dgamma, dbeta = (dy * x_hat).sum(dim=0), dy.sum(dim=0)  # (C,), (C,)
    dx_hat = dy * gamma  # (N, C)
    if not training:
        return dx_hat * inv_std, dgamma, dbeta
    centred = dx_hat - dx_hat.mean(dim=0) - x_hat * (dx_hat * x_hat).mean(dim=0)
    return centred * inv_std, dgamma, dbeta
