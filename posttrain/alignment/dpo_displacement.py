"""Likelihood displacement: a step for the chosen reply that makes it less likely.

    pull = pulls(model, pairs.batch([i]))
    pull.own, pull.cross             # <g+, g+> and <g+, g->
    pull.chosen_falls                # what a small step of DPO does to log p(chosen)

With g+ and g- the gradients of log p(chosen) and of log p(rejected) at the weights, a
small step of gradient descent on a pair's loss moves them by eta w (g+ - g-), w > 0. So
log p(chosen) changes by eta w (<g+, g+> - <g+, g->): it falls where the two gradients
share more than g+ has.

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


def _gradient(model: nn.Module, row: Completions) -> Tensor:
    """Gradient of log p of one completion at all weights, as one vector."""
    weights = [p for p in model.parameters() if p.requires_grad]
    logprob = sequence_logprobs(model, row).sum()
    found = torch.autograd.grad(logprob, weights)
    return torch.cat([g.flatten() for g in found])
