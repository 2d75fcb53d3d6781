"""A small model trained through each head: the same losses, to rounding.

The text is cut into words, most frequent first, so that the vocabulary is large and the
model small: the case in which the head is most of a step. SFT is plain next-token
training; then the model takes some GRPO steps on one batch whose log-probabilities were
taken before the first, so that ratios leave 1 and the clip is at work.
"""

from __future__ import annotations

import copy
import re
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from posttrain.alignment import grpo
from posttrain.foundations.batches import Windows
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.optimizers import AdamW
from posttrain.infrastructure.memory_efficient_backprop import (
    chunked_rows,
    plain_rows,
)
from posttrain.infrastructure.memory_efficient_backprop_losses import (
    cross_entropy,
    grpo_loss,
    linear_cross_entropy,
    logprobs,
)

GRPO = grpo.Objective(beta=0.04, clip_low=0.1, clip_high=0.1)
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # hidden (N, d), weight, targets (N,)


def words_of(text: str, V: int) -> np.ndarray:
    """The text as numbers: 0 is "another word", 1 the most frequent one, below V."""
    words = re.findall(r"\w+|[^\w\s]|\n", text)
    rank = {word: i for i, (word, _) in enumerate(Counter(words).most_common(V - 1), 1)}
    return np.array([rank.get(word, 0) for word in words])


def sft_losses(n: int) -> dict[str, Loss]:
    """The mean cross-entropy by three heads, n rows in a chunk."""
    return {
        "plain": lambda h, w, y: plain_rows(cross_entropy, h, w, y).mean(),
        "chunked_sum": lambda h, w, y: linear_cross_entropy(h, w, y, chunk_rows=n),
        "chunked_rows": lambda h, w, y: chunked_rows(
            cross_entropy, h, w, y, chunk_rows=n
        ).mean(),
    }


def sft(model: GPT, loss: Loss, batches: Windows, steps: int) -> dict:
    """Trains the model: loss of every step, seconds in all, seconds of the head."""
    optimizer = AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    curve, head, begun = [], 0.0, time.process_time()
    for number in range(steps):
        tokens, targets = batches(number)
        hidden = model.hidden(tokens).flatten(0, 1)
        cut = hidden.detach().requires_grad_()
        started = time.process_time()
        value = loss(cut, model.head.weight, targets.flatten())
        value.backward()
        head += time.process_time() - started
        hidden.backward(cut.grad)
        optimizer.step()
        optimizer.zero_grad()
        curve.append(value.item())
    return {
        "losses": curve,
        "seconds": time.process_time() - begun,
        "head_seconds": head,
    }


def grpo_heads(n: int) -> dict[str, Callable]:
    """GRPO's loss of (hidden, weight, tokens, old, advantages, mask, ref)."""

    def through(rows):
        def head(hidden, weight, tokens, old, advantages, mask, ref):
            flat = rows(logprobs, hidden.flatten(0, 1), weight, tokens.flatten())
            new = flat.view(tokens.shape)
            return grpo.policy_loss(new, old, advantages, mask, GRPO, ref)

        return head

    def by_sum(hidden, weight, tokens, old, advantages, mask, ref):
        return grpo_loss(
            hidden, weight, tokens, old, advantages, mask, GRPO, ref, chunk_rows=n
        )

    by_rows = through(partial(chunked_rows, chunk_rows=n))
    return {
        "plain": through(plain_rows),
        "chunked_sum": by_sum,
        "chunked_rows": by_rows,
    }


def grpo_steps(model: GPT, head: Callable, batches: Windows, steps: int) -> dict:
    """Steps on one batch: the loss of each, and the share of tokens that are clipped.

    Windows of text stand for answers of different lengths, and random rewards for a
    verifier: what is compared is arithmetic, not what is learnt.
    """
    model = copy.deepcopy(model)
    tokens, targets = batches(0)
    B, T = tokens.shape
    g = torch.Generator().manual_seed(batches.seed)
    advantages = grpo.group_advantages(torch.rand(B // 4, 4, generator=g)).flatten()
    mask = torch.arange(T) < torch.randint(T // 4, T + 1, (B, 1), generator=g)
    advantages, mask = advantages.to(tokens.device), mask.to(tokens.device)
    old = _logprobs(model, tokens, targets)
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    curve = []
    for _ in range(steps):
        hidden = model.hidden(tokens)
        value = head(hidden, model.head.weight, targets, old, advantages, mask, old)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        curve.append(value.item())
    ratio = torch.exp(_logprobs(model, tokens, targets) - old)[mask]
    clipped = ((ratio - 1).abs() > GRPO.clip_high).float().mean().item()
    return {"losses": curve, "clipped": clipped}


@torch.no_grad()
def _logprobs(model: GPT, tokens: Tensor, targets: Tensor) -> Tensor:
    hidden = model.hidden(tokens).flatten(0, 1)
    flat = plain_rows(logprobs, hidden, model.head.weight, targets.flatten())
    return flat.view(targets.shape)


def new_model(V: int, seed: int) -> GPT:
    """A small model of that vocabulary, head and embedding tied."""
    torch.manual_seed(seed)
    return GPT(GPTConfig(V=V, T=64, C=64, L=2, H=4, H_kv=2))
