"""Losses of rows for a chunked head: (n, V) logits and row arguments to (n,).

Nothing here knows of chunks or of gradients: each is what you would write for all
logits at once. A reduction is a weight for each row, known before the first chunk.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from posttrain.alignment import grpo
from posttrain.foundations.language_model import IGNORE
from posttrain.infrastructure.memory_efficient_backprop import RowLoss, chunked_sum


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Nats of each row, 0 where the target is IGNORE. targets: (n,)."""
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")


def smoothed(amount: float) -> RowLoss:
    """Cross-entropy whose target gives `amount` of its probability to all words."""

    def loss(logits, targets):
        return F.cross_entropy(
            logits,
            targets,
            ignore_index=IGNORE,
            reduction="none",
            label_smoothing=amount,
        )

    return loss


def with_z_loss(loss: RowLoss, weight: float) -> RowLoss:
    """`loss` plus weight · (log-sum-exp)², which keeps logits from drifting.

    In every row, so give rows that do not count the row weight 0.
    Source: Chowdhery et al. 2022 (PaLM), section 5, with weight 1e-4.
    """

    def both(logits, *rows):
        return loss(logits, *rows) + weight * logits.logsumexp(dim=-1).square()

    return both


def soft_capped(loss: RowLoss, cap: float) -> RowLoss:
    """`loss` of cap · tanh(logits / cap), as in Gemma 2 (Gemma Team 2024)."""
    return lambda logits, *rows: loss(cap * torch.tanh(logits / cap), *rows)


def at_temperature(loss: RowLoss, temperature: float) -> RowLoss:
    """`loss` of logits / temperature, as a policy that samples with it needs."""
    return lambda logits, *rows: loss(logits / temperature, *rows)


def logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """log p of one token a row: what GRPO, PPO and DPO are made of. tokens: (n,)."""
    return -F.cross_entropy(logits, tokens, reduction="none")


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || model) of each row. teacher: (n, V) probabilities."""
    return F.kl_div(logits.log_softmax(-1), teacher, reduction="none").sum(-1)


def grpo_terms(objective: grpo.Objective) -> RowLoss:
    """GRPO's term of each token: loss(logits, tokens, old, advantages, ref).

    All (n,): the token, its log-probability when it was sampled, the advantage of its
    answer, its log-probability under the reference.
    """

    def loss(logits, tokens, old, advantages, ref):
        new = logprobs(logits, tokens)
        terms = grpo.clipped_terms(new, old, advantages, objective)
        if not objective.beta:
            return terms
        kl = grpo.kl_terms(new, ref, objective.kl)
        weight = torch.exp(new - old) if objective.kl_ratio else 1.0
        return terms + objective.beta * weight * kl

    return loss


def mean_weights(targets: Tensor) -> Tensor:
    """1/count where a target counts, 0 elsewhere: the mean of all rows, (N,)."""
    counted = (targets != IGNORE).float()
    return counted / counted.sum()


def grpo_weights(mask: Tensor, objective: grpo.Objective) -> Tensor:
    """What each token of a batch counts: (B, T), as `grpo.aggregate` would take it."""
    if objective.aggregate == "sequence":
        share = 1 / (len(mask) * mask.sum(dim=1, keepdim=True).clamp(min=1))
    elif objective.aggregate == "token":
        share = 1 / mask.sum().clamp(min=1)
    else:
        share = torch.tensor(1 / (len(mask) * objective.length), device=mask.device)
    return mask * share


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    chunk_rows: int | None = None,
) -> Tensor:
    """Mean cross-entropy of the rows that count: (N, d), (V, d), (N,) to a number.

    NaN where no target counts, as in PyTorch.
    """
    return chunked_sum(
        cross_entropy,
        hidden,
        weight,
        targets,
        row_weights=mean_weights(targets),
        bias=bias,
        chunk_rows=chunk_rows,
    )


def grpo_loss(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    objective: grpo.Objective = grpo.GRPO,
    ref: Tensor | None = None,
    chunk_rows: int | None = None,
) -> Tensor:
    """`grpo.policy_loss` from hidden states: logits exist for one chunk at a time.

    hidden: (B, T, d)   tokens, old, ref, mask: (B, T)   advantages: (B,). Only tokens
    under the mask are taken through the head.
    """
    if ref is None:
        if objective.beta:
            raise ValueError(f"beta={objective.beta} needs ref")
        ref = old  # not read
    per_token = advantages[:, None].expand_as(mask)
    given = (x[mask] for x in (tokens, old, per_token, ref))
    return chunked_sum(
        grpo_terms(objective),
        hidden[mask],
        weight,
        *given,
        row_weights=grpo_weights(mask, objective)[mask],
        chunk_rows=chunk_rows,
    )
