"""What every language model pays, and in which unit: nats, bits, perplexity.

    rows = windows(tokens, k)                  k tokens of context, then the target
    losses = token_losses(logits, targets)     -ln p(target), nats
    paid = Score.of(losses, text)              totals of one text; totals add up
    paid.perplexity, paid.bits_per_character, paid.bits_per_byte

A model of this chapter is any function that takes contexts (N, k) and returns logits
(N, V): a table of counts, one matrix, or a small network. `sample` draws from any.
Longer contexts and batches of sequences: `language_model.py` and what builds on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.foundations.language_model import IGNORE


def windows(tokens: Tensor, k: int) -> Tensor:
    """Every k + 1 neighbours of tokens (N,): (N - k, k + 1), the last is the target.

    A view, no copy. Raises ValueError if the text is too short for one.
    """
    if not 0 <= k < len(tokens):
        raise ValueError(
            f"k={k} tokens of context and a target do not fit into {len(tokens)} "
            "tokens; give a longer text or a shorter context"
        )
    return tokens.unfold(0, k + 1, 1)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """-ln p(target) of logits (N, V) at targets (N,), nats; 0 where it is IGNORE."""
    shifted = logits - logits.amax(dim=-1, keepdim=True)  # no overflow, same softmax
    log_z = shifted.exp().sum(dim=-1).log()  # (N,)
    counted = targets != IGNORE
    chosen = shifted.gather(-1, targets.where(counted, 0)[:, None])[:, 0]  # (N,)
    return (log_z - chosen) * counted


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean loss over the targets that count, nats a token."""
    return token_losses(logits, targets).sum() / (targets != IGNORE).sum()


def cross_entropy_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """d cross_entropy / d logits, (N, V): softmax minus one-hot, over their number."""
    counted = targets != IGNORE
    gradient = logits.softmax(dim=-1)
    rows = torch.arange(len(targets), device=targets.device)
    gradient[rows, targets.where(counted, 0)] -= 1.0
    return gradient * counted[:, None] / counted.sum()


@dataclass(frozen=True)
class Score:
    """What a model paid for a text, in nats, and how long that text is.

    Keep totals, add totals, divide last: a mean of means weighs short parts too much.
    """

    nats: float
    tokens: int
    characters: int
    bytes: int

    @classmethod
    def of(cls, losses: Tensor, text: str) -> Score:
        """losses: nats of each token of `text`."""
        nats = losses.double().sum().item()
        return cls(nats, losses.numel(), len(text), len(text.encode()))

    def __add__(self, other: Score) -> Score:
        return Score(
            self.nats + other.nats,
            self.tokens + other.tokens,
            self.characters + other.characters,
            self.bytes + other.bytes,
        )

    @property
    def nats_per_token(self) -> float:
        """The loss that training code prints."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(nats a token): as hard as a fair choice among that many tokens."""
        return math.exp(self.nats_per_token)

    @property
    def bits_per_character(self) -> float:
        return self.nats / math.log(2) / self.characters

    @property
    def bits_per_byte(self) -> float:
        """The only one of them that does not depend on the tokenizer or the script."""
        return self.nats / math.log(2) / self.bytes


@torch.no_grad()
def score(
    model: Callable[[Tensor], Tensor], rows: Tensor, text: str, B: int = 4096
) -> Score:
    """What `model` pays for the targets of windows (N, k + 1), which spell `text`."""
    losses = [token_losses(model(r[:, :-1]), r[:, -1]) for r in rows.split(B)]
    return Score.of(torch.cat(losses), text)


@torch.no_grad()
def sample(
    model: Callable[[Tensor], Tensor],
    prompt: Tensor,
    n: int,
    k: int,
    generator: torch.Generator,
) -> Tensor:
    """Draw n tokens after prompt (T_p,), each from p(. | the last k). (T_p + n,)

    Raises ValueError for a prompt of fewer than k tokens.
    """
    if len(prompt) < k:
        raise ValueError(f"a prompt of {len(prompt)} tokens, the model reads {k}")
    tokens = prompt.clone()
    for _ in range(n):
        logits = model(tokens[len(tokens) - k :][None])[0]  # (V,)
        probs = logits.softmax(dim=-1).cpu()
        drawn = torch.multinomial(probs, 1, generator=generator)
        tokens = torch.cat([tokens, drawn.to(tokens.device)])
    return tokens
