"""Batches of language modelling: windows of a long sequence of tokens.

A batch is a pure function of (seed, step, micro). There is no iterator whose place
would have to be saved: step 1,000 gets the same windows whether the run came there in
one go, after a crash, or on another machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from posttrain.foundations.language_model import IGNORE, next_token_loss

Batch = tuple[Tensor, Tensor]  # inputs (B, T) and targets (B, T)


@dataclass(frozen=True)
class Windows:
    """Random windows of `tokens` (N,): B of them, T tokens each.

    tokens: a NumPy array of integers; of a memory map only what is needed is read.
    Windows start anywhere, so they overlap and an epoch is only a manner of speaking.
    """

    tokens: np.ndarray
    B: int
    T: int
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self):
        if self.B < 1 or self.T < 1:
            raise ValueError(
                f"B={self.B}, T={self.T}: a batch needs at least 1 of each"
            )
        if len(self.tokens) < self.T + 1:
            raise ValueError(
                f"the text has {len(self.tokens)} tokens, a window of T={self.T} needs"
                f" {self.T + 1}; take a longer text or a smaller T"
            )

    def __call__(self, step: int, micro: int = 0) -> Batch:
        """Batch `micro` of step `step`: inputs and, one token on, targets."""
        random = np.random.default_rng((self.seed, step, micro))
        starts = random.integers(len(self.tokens) - self.T, size=(self.B, 1))
        return self._cut(starts)

    def fixed(self, N: int) -> list[Batch]:
        """N windows at equal distances, in batches: the same for every measurement."""
        starts = np.linspace(0, len(self.tokens) - self.T - 1, N).astype(np.int64)
        cuts = range(self.B, N, self.B)
        return [self._cut(part[:, None]) for part in np.split(starts, cuts)]

    def _cut(self, starts: np.ndarray) -> Batch:
        windows = self.tokens[starts + np.arange(self.T + 1)].astype(np.int64)
        both = torch.from_numpy(windows).to(self.device)  # (B, T + 1)
        return both[:, :-1], both[:, 1:]


def total_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy in nats, *summed* over the targets that count."""
    inputs, targets = batch
    return next_token_loss(model(inputs), targets, reduction="sum")


def target_count(batch: Batch) -> int:
    """How many targets of a batch count."""
    return int((batch[1] != IGNORE).sum())


@torch.no_grad()
def mean_loss(model: nn.Module, batches: list[Batch]) -> float:
    """Nats a token over all the batches, in evaluation mode."""
    was_training = model.training
    model.eval()
    total = sum(total_loss(model, batch).item() for batch in batches)
    model.train(was_training)
    return total / sum(target_count(batch) for batch in batches)
