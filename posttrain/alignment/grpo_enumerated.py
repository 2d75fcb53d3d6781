"""What an estimator estimates: all outcomes of a small vocabulary, one by one.

    policy = logits.softmax(-1)                             # (V,), V = 8
    estimated(logits, ref_logits, "k3").gradient    # against that of `exact_kl`
    group_gradient(logits, rewards, G=2)            # the mean over all V^G groups
    objective_gradient(theta, Objective(), G=2)     # of whole answers, by policy_loss

Nothing here is sampled. An expectation is a sum over everything that can be drawn,
weighted by its probability, so an unbiased estimator is equal to its target to the last
digits, and a biased one is not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.alignment.grpo import (
    Estimator,
    Objective,
    group_advantages,
    kl_terms,
    policy_loss,
)

LONGEST = 4  # tokens of an answer


@dataclass(frozen=True)
class Estimated:
    """An estimator's mean and variance, and the mean gradient of it as a loss."""

    mean: float
    variance: float
    gradient: Tensor  # (V,), at the policy's logits


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL(policy || reference), summed over the vocabulary."""
    log_p, log_q = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum()


def gradient_of(function: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """The gradient of a scalar function of the logits, by autograd."""
    leaf = logits.detach().clone().requires_grad_()
    function(leaf).backward()
    return leaf.grad


def estimated(
    logits: Tensor, ref_logits: Tensor, kind: Estimator, ratio: bool = False
) -> Estimated:
    """A KL estimator over all V tokens that the policy could draw.

    The gradient is that of training: the tokens are drawn first, by a copy of the
    policy that has no gradient; then the estimate at those tokens is differentiated.
    ratio: weigh it by policy / that copy, as `Objective(kl_ratio=True)` does.
    """
    weights = logits.softmax(-1).detach()  # (V,), how often each token is drawn
    log_q = ref_logits.log_softmax(-1)

    def loss(leaf: Tensor) -> Tensor:
        log_p = leaf.log_softmax(-1)
        terms = kl_terms(log_p, log_q, kind)
        if ratio:
            terms = terms * (log_p - log_p.detach()).exp()
        return (weights * terms).sum()

    values = kl_terms(logits.log_softmax(-1), log_q, kind)
    mean = (weights * values).sum()
    variance = (weights * (values - mean).square()).sum()
    return Estimated(mean.item(), variance.item(), gradient_of(loss, logits))


def reward_gradient(logits: Tensor, rewards: Tensor) -> Tensor:
    """The gradient of the expected reward of one token: p (r - mean r), (V,)."""
    p = logits.softmax(-1)
    return p * (rewards - (p * rewards).sum())


def group_gradient(
    logits: Tensor, rewards: Tensor, G: int, std: bool = False, eps: float = 1e-4
) -> Tensor:
    """The mean over all V^G groups of GRPO's step: mean of A_i grad log p(o_i), (V,).

    Answers of one token, rewards (V,). Without std it is (G - 1) / G times
    `reward_gradient`: an answer's own reward is a G-th of the baseline.
    """
    V = len(logits)
    groups = torch.tensor(list(itertools.product(range(V), repeat=G)))  # (V^G, G)
    p = logits.softmax(-1)
    chance = p[groups].prod(dim=1)  # (V^G,)
    advantages = group_advantages(rewards[groups], std, eps)  # (V^G, G)
    weights = chance[:, None] * advantages / G
    pushes = torch.zeros_like(p).scatter_add_(0, groups.flatten(), weights.flatten())
    return pushes - p * pushes.sum()  # grad log p(v) = onehot(v) - p


def difficulty_weight(p: float, G: int, std: bool) -> float:
    """How much of the gradient of p GRPO follows on a question solved with chance p.

    1 would be the gradient of the expected reward itself. Rewards are 0 and 1.
    """
    logits = torch.tensor([p, 1 - p], dtype=torch.float64).log()
    right = torch.tensor([1.0, 0.0], dtype=torch.float64)
    step = group_gradient(logits, right, G, std, eps=0.0 if not std else 1e-4)
    return (step[0] / reward_gradient(logits, right)[0]).item()


# ---------------------------------------------------------------- whole answers


@dataclass(frozen=True)
class Answers:
    """The eight answers that the policy `theta` can give.

    theta: (3,), logits of: the first token is the right one; stop here, after a right
    first token; stop here, after a wrong one. An answer is its first token, then 0 to
    2 words, then a stop, or 3 words, at which it is cut. Only the first token decides
    the reward. rewards: (8,); logprobs, mask: (8, LONGEST).
    """

    rewards: Tensor
    logprobs: Tensor
    mask: Tensor

    @property
    def chances(self) -> Tensor:
        """How often each answer comes: (8,)."""
        return self.logprobs.sum(dim=1).exp()


def all_answers(theta: Tensor) -> Answers:
    """Every answer, with log-probabilities that theta has a gradient through."""
    yes, no = torch.nn.functional.logsigmoid(torch.stack([theta, -theta]))  # (3,) each
    zero = torch.zeros_like(theta[0])
    rows, rewards, lengths = [], [], []
    for right, words in itertools.product((True, False), range(LONGEST)):
        start, stop = (yes[0], 1) if right else (no[0], 2)
        row = [start] + words * [no[stop]]
        if words < LONGEST - 1:
            row.append(yes[stop])
        rows.append(torch.stack(row + (LONGEST - len(row)) * [zero]))
        rewards.append(float(right))
        lengths.append(len(row))
    mask = torch.arange(LONGEST) < torch.tensor(lengths)[:, None]
    return Answers(torch.tensor(rewards).to(theta), torch.stack(rows), mask)


def expected_reward_gradient(theta: Tensor) -> Tensor:
    """The gradient of the expected reward: what a policy gradient should be, (3,)."""

    def expected(leaf: Tensor) -> Tensor:
        answers = all_answers(leaf)
        return (answers.chances * answers.rewards).sum()

    return gradient_of(expected, theta)


def objective_gradient(
    theta: Tensor, objective: Objective, G: int = 2, std: bool = False
) -> Tensor:
    """The mean step of `policy_loss` over all 8^G groups, on policy: (3,).

    It is minus the gradient of the loss, so it points where the policy goes.
    """

    def negative_loss(leaf: Tensor) -> Tensor:
        answers = all_answers(leaf)
        old, chances = answers.logprobs.detach(), answers.chances.detach()
        total = torch.zeros_like(leaf[0])
        for group in itertools.product(range(len(chances)), repeat=G):
            rows = list(group)
            advantages = group_advantages(answers.rewards[rows][None], std)[0]
            loss = policy_loss(
                answers.logprobs[rows],
                old[rows],
                advantages,
                answers.mask[rows],
                objective,
            )
            total = total - chances[rows].prod() * loss
        return total

    return gradient_of(negative_loss, theta)
