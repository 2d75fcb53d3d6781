"""GRPO: policy gradient with the group's mean as its baseline, and no critic.

    advantages = group_advantages(rewards)                  # (P, G) -> (P, G)
    loss = policy_loss(logprobs, old_logprobs, advantages, mask, settings)

The model answers each of P prompts G times. An answer's advantage is its reward minus
the mean of its group: what a critic would have to estimate, the other samples measure.

Source: Shao et al. 2024 (GRPO, section 4.1); Liu et al. 2025 (Dr. GRPO: no division by
the standard deviation nor by the answer's length); Yu et al. 2025 (DAPO: mean over
tokens, a wider upper clip, no groups without a signal); Ye et al. 2020 (dual clip).
Not covered here: one ratio for a whole answer (GSPO), corrections for an engine that
samples with other kernels than training uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from posttrain.alignment import ppo

Aggregate = Literal["sequence", "token", "constant"]
Estimator = Literal["k1", "k2", "k3"]


@dataclass(frozen=True)
class Objective:
    """Which member of the family.

    clip_low, clip_high: the ratio is clipped to 1 - clip_low ... 1 + clip_high.
    dual_clip: with a negative advantage the loss is at most this many advantages.
    beta: weight of the KL estimate to the reference; 0 needs no reference.
    kl: which estimate, see `kl_terms`.
    kl_ratio: weigh each estimate by the ratio policy / old policy, which makes the
        gradient of k1 and k3 that of the KL (TRL's `use_bias_correction_kl`).
    aggregate: "sequence" (GRPO: mean over each answer's tokens, then over answers),
        "token" (DAPO: mean over all tokens), "constant" (Dr. GRPO: the sum over
        `length`, the same for every batch, and over the answers).
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    beta: float = 0.0
    kl: Estimator = "k3"
    kl_ratio: bool = False
    aggregate: Aggregate = "sequence"
    length: int | None = None

    def __post_init__(self):
        if self.aggregate not in ("sequence", "token", "constant"):
            raise ValueError(
                f"aggregate={self.aggregate!r}: use 'sequence', 'token' or 'constant'"
            )
        if (self.length is None) == (self.aggregate == "constant"):
            raise ValueError(
                f"aggregate={self.aggregate!r} with length={self.length}: 'constant'"
                " needs the length to divide by, the others take none"
            )
        if self.kl not in ("k1", "k2", "k3"):
            raise ValueError(f"kl={self.kl!r}: use 'k1', 'k2' or 'k3'")
        if not 0 < self.clip_low < 1 or self.clip_high <= 0:
            raise ValueError(
                f"clip_low={self.clip_low} must lie between 0 and 1,"
                f" clip_high={self.clip_high} above 0"
            )
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError(f"dual_clip={self.dual_clip} must be above 1, or None")


GRPO = Objective(beta=0.04)
DAPO = Objective(clip_high=0.28, aggregate="token")


def group_advantages(rewards: Tensor, std: bool = True, eps: float = 1e-4) -> Tensor:
    """Rewards (P, G) minus their group's mean; with std, over its deviation + eps.

    The deviation is that of a sample (over G - 1), as in TRL. A group in which all
    answers earn the same gives zeros: it teaches nothing.
    Raises ValueError for groups of one: the mean would be the answer itself.
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(
            f"rewards of shape {tuple(rewards.shape)}: (P, G) with G of at least 2"
        )
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (rewards.std(dim=1, keepdim=True) + eps) if std else centred


def kl_terms(logprobs: Tensor, ref_logprobs: Tensor, kind: Estimator = "k3") -> Tensor:
    """An estimate of KL(policy || reference) for each token that the policy drew.

    With d = log policy - log reference: k1 = d (unbiased, may be negative), k2 = d²/2
    (biased), k3 = e^-d - 1 + d (unbiased, never negative). As terms of a loss their
    mean gradients are: k1 zero, k2 that of KL(policy || reference), k3 that of
    KL(reference || policy). Source: Schulman 2020,
    http://joschu.net/blog/kl-approx.html; for the gradients Tang and Munos 2025.
    """
    d = logprobs - ref_logprobs
    if kind == "k1":
        return d
    if kind == "k2":
        return d.square() / 2
    if kind == "k3":
        return torch.expm1(-d) + d
    raise ValueError(f"kind={kind!r}: use 'k1', 'k2' or 'k3'")


def clipped_terms(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, objective: Objective
) -> Tensor:
    """The loss of each token: PPO's, and with a dual clip at most that many A: (B, T).

    advantages: (B, T) or (B, 1). Where the clipped one is taken the gradient is zero:
    the ratio has moved far enough in the direction that its advantage asked for.
    Source: Schulman et al. 2017, eq. 7.
    """
    terms = ppo.clipped_terms(
        logprobs, old_logprobs, advantages, objective.clip_low, objective.clip_high
    )
    if objective.dual_clip is not None:
        ceiling = -objective.dual_clip * advantages
        terms = torch.where(advantages < 0, torch.min(terms, ceiling), terms)
    return terms


def aggregate(terms: Tensor, mask: Tensor, objective: Objective) -> Tensor:
    """One number from the terms of all tokens (B, T); mask: boolean (B, T).

    An answer without tokens counts as one of zeros.
    """
    terms = terms.masked_fill(~mask, 0)
    if objective.aggregate == "sequence":
        return (terms.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()
    if objective.aggregate == "token":
        return terms.sum() / mask.sum().clamp(min=1)
    return terms.sum() / (len(terms) * objective.length)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    objective: Objective = GRPO,
    ref_logprobs: Tensor | None = None,
) -> Tensor:
    """The loss of a batch of answers.

    logprobs, old_logprobs, ref_logprobs: (B, T), of the model in training, of the one
    that wrote the answers, of the reference. advantages: (B,). mask: boolean (B, T).
    Raises ValueError where beta asks for a reference that is not given.
    """
    terms = clipped_terms(logprobs, old_logprobs, advantages[:, None], objective)
    if objective.beta:
        if ref_logprobs is None:
            raise ValueError(f"beta={objective.beta} needs ref_logprobs")
        kl = kl_terms(logprobs, ref_logprobs, objective.kl)
        if objective.kl_ratio:
            kl = kl * torch.exp(logprobs - old_logprobs)
        terms = terms + objective.beta * kl
    return aggregate(terms, mask, objective)
