"""Likelihood displacement: steps for the chosen replies that make them less likely.

    pull = pulls(model, pairs.batch([i]))
    pull.chosen_falls                # what a small step on this pair alone would do
    influence(model, replies, loss)  # and a small step on a whole batch: (N,)

With g+ and g- the gradients of log p(chosen) and of log p(rejected) at the weights, a
small step of gradient descent on a pair's loss moves them by eta w (g+ - g-), w > 0. So
log p(chosen) changes by eta w (<g+, g+> - <g+, g->): it falls where the two gradients
share more than g+ has. In a batch every other pair pulls as well.

Source: Razin et al. 2024, https://arxiv.org/abs/2410.08847, section 4 (there for the
hidden states alone); Pal et al. 2024, https://arxiv.org/abs/2402.13228.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from posttrain.alignment.completions import Completions
from posttrain.alignment.dpo import sequence_logprobs


@dataclass(frozen=True)
class Pulls:
    """Inner products of the two gradients, over all weights."""

    own: float  # <g+, g+>
    cross: float  # <g+, g->
    other: float  # <g-, g->

    @property
    def chosen_falls(self) -> bool:
        """Whether a small step lowers the chosen reply's log-probability."""
        return self.cross > self.own


def pulls(model: nn.Module, pair: Completions) -> Pulls:
    """For one pair: a batch of two rows, the chosen reply and the rejected one."""
    if len(pair) != 2:
        raise ValueError(f"{len(pair)} rows: give one pair, the chosen row first")
    up, down = (_gradient(model, pair[[row]]) for row in (0, 1))
    return Pulls((up @ up).item(), (up @ down).item(), (down @ down).item())


def influence(model: nn.Module, replies: Completions, loss: Tensor) -> Tensor:
    """How fast a small step down `loss` changes log p of each reply: (N,).

    Minus the inner product of the two gradients, in nats a unit of learning rate. A
    negative number: the reply gets less likely.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    step = _flat(torch.autograd.grad(loss, weights))
    changes = [
        -(_gradient(model, replies[[row]]) @ step).item() for row in range(len(replies))
    ]
    return torch.tensor(changes)


def _gradient(model: nn.Module, row: Completions) -> Tensor:
    """Gradient of log p of one completion at all weights, as one vector."""
    weights = [p for p in model.parameters() if p.requires_grad]
    return _flat(torch.autograd.grad(sequence_logprobs(model, row).sum(), weights))


def _flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])
