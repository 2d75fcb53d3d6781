"""Prompts and what came after them, as one batch: what every loss of this part reads.

    batch = collate(prompts, completions, pad)
    logprobs = completion_logprobs(model, batch)        # (B, T), 0 outside `mask`

Rows are padded on the right, so the plain causal mask is enough: what counts never
looks at padding. The read-out is computed only where a target counts; a prompt of forty
tokens costs no logits.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from posttrain.foundations.language_model import IGNORE
from posttrain.foundations.sampling import token_logprobs


@dataclass(frozen=True)
class Completions:
    """B rows; `targets[b, t]` is the token after `tokens[b, t]`, or IGNORE."""

    tokens: Tensor  # (B, T)
    targets: Tensor  # (B, T)

    @property
    def mask(self) -> Tensor:
        """Where a token of the completion is predicted: boolean (B, T)."""
        return self.targets != IGNORE

    @property
    def lengths(self) -> Tensor:
        """How many tokens of each completion count: (B,)."""
        return self.mask.sum(dim=1)

    def __getitem__(self, rows: Tensor | slice | list[int]) -> Completions:
        """Some of the rows."""
        return Completions(self.tokens[rows], self.targets[rows])

    def __len__(self) -> int:
        return len(self.tokens)


def collate(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    pad: int,
    counts: Sequence[Sequence[bool]] | None = None,
    device: str | torch.device = "cpu",
) -> Completions:
    """One row for each prompt and its completion, padded on the right with `pad`.

    counts: for each token of each completion whether it is a target (a tool's words are
    not); None: all are. Raises ValueError for an empty prompt, and for lists of
    different lengths.
    """
    if not all(map(len, prompts)):
        raise ValueError("a prompt is empty: the first token would have no past")
    pairs = list(zip(prompts, completions, strict=True))
    T = max(len(prompt) + len(completion) for prompt, completion in pairs) - 1
    tokens = torch.full((len(pairs), T), pad)
    targets = torch.full((len(pairs), T), IGNORE)
    for row, (prompt, completion) in enumerate(pairs):
        whole = torch.tensor([*prompt, *completion])
        first, last = len(prompt) - 1, len(whole) - 1
        tokens[row, :last] = whole[:-1]
        targets[row, first:last] = whole[first + 1 :]
        if counts is not None:
            out = ~torch.tensor(counts[row], dtype=torch.bool)
            targets[row, first:last][out] = IGNORE
    return Completions(tokens.to(device), targets.to(device))


def collate_pairs(
    prompts: Sequence[Sequence[int]],
    chosen: Sequence[Sequence[int]],
    rejected: Sequence[Sequence[int]],
    pad: int,
    device: str | torch.device = "cpu",
) -> Completions:
    """B pairs as 2 B rows: all the chosen completions, then all the rejected ones."""
    return collate([*prompts, *prompts], [*chosen, *rejected], pad, device=device)


def epoch_rows(n: int, B: int, seed: int, step: int, micro: int = 0) -> list[int]:
    """Which B of n rows batch `micro` of step `step` takes.

    Every epoch shows each row once, in an order of its own; a short rest is left out.
    """
    epoch, place = divmod(step, n // B)
    return _order(n, f"{seed} {epoch} {micro}")[place * B : (place + 1) * B]


@lru_cache(maxsize=8)
def _order(n: int, seed: str) -> list[int]:
    """0 ... n - 1, shuffled; kept, because every batch of an epoch asks for it."""
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return order


def completion_logprobs(
    model: nn.Module, batch: Completions, temperature: float = 1.0
) -> Tensor:
    """log p of each target given all before it: (B, T), 0 where none counts."""
    chosen = batch.targets[batch.mask]  # (N,)
    logits = completion_logits(model, batch)  # (N, V)
    logprobs = torch.zeros(batch.tokens.shape, device=chosen.device)
    logprobs[batch.mask] = token_logprobs(logits, chosen, temperature)
    return logprobs


def completion_logits(model: nn.Module, batch: Completions) -> Tensor:
    """Logits at the N places where a target counts, row after row: (N, V)."""
    return model.head(model.hidden(batch.tokens)[batch.mask])


def total_nll(model: nn.Module, batch: Completions) -> Tensor:
    """Minus the log-probability of all targets, summed: the loss of SFT."""
    return -completion_logprobs(model, batch).sum()


@torch.no_grad()
def perplexity(model: nn.Module, batch: Completions) -> float:
    """The exponential of the mean nats that a target takes the model."""
    return math.exp(total_nll(model, batch).item() / count(batch))


def count(batch: Completions) -> int:
    """How many targets a batch has."""
    return int(batch.mask.sum())
