"""Two optimizers in a few lines each. The chapter on optimizers goes further.

They use only + - * / and **, so a parameter may be a float or a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

Number = TypeVar("Number", float, torch.Tensor)


@dataclass
class SGD:
    """p - lr * u, where u = g + momentum * (u of the step before).

    Without momentum u is the gradient. Source: PyTorch's form, without dampening.
    """

    lr: float
    momentum: float = 0.0
    _u: list = field(default_factory=list)

    def step(self, params: Sequence[Number], grads: Sequence[Number]) -> list[Number]:
        """The new parameters; the given ones are not changed."""
        before = self._u or [0.0] * len(params)
        self._u = [g + self.momentum * u for g, u in zip(grads, before, strict=True)]
        return [p - self.lr * u for p, u in zip(params, self._u, strict=True)]


@dataclass
class Adam:
    """p - lr * m̂ / (√v̂ + eps): a step of about lr for each number.

    m is a running mean of the gradient, v of its square. Both start at 0, so they are
    too small at first; dividing by 1 - beta^t mends that. Source: Kingma and Ba 2015,
    algorithm 1.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    _m: list = field(default_factory=list)
    _v: list = field(default_factory=list)
    _t: int = 0

    def step(self, params: Sequence[Number], grads: Sequence[Number]) -> list[Number]:
        """The new parameters; the given ones are not changed."""
        b1, b2 = self.betas
        zeros = [0.0] * len(params)
        ms, vs = self._m or zeros, self._v or zeros
        self._t += 1
        self._m = [b1 * m + (1 - b1) * g for m, g in zip(ms, grads, strict=True)]
        self._v = [b2 * v + (1 - b2) * g * g for v, g in zip(vs, grads, strict=True)]
        fix1, fix2 = 1 - b1**self._t, 1 - b2**self._t
        return [
            p - self.lr * (m / fix1) / ((v / fix2) ** 0.5 + self.eps)
            for p, m, v in zip(params, self._m, self._v, strict=True)
        ]
