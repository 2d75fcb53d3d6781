"""What imitating accepted replies does: all outcomes of a small vocabulary, listed.

    policy = logits.softmax(-1)                 # (V,), V = 8 replies to one question
    accepted_distribution(policy, right)        # policy, given that the reply is right
    log_solved_gradient(logits, right)          # gradient of log p, p = P(right)
    kept_gradient(logits, right, k)             # a step on k draws, mean over all V^k
    question_weight(p, k)                       # (1 - (1 - p)^k) / p

Nothing here is sampled. `right` is a boolean tensor (V,): the replies that the verifier
accepts.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def accepted_distribution(policy: Tensor, right: Tensor) -> Tensor:
    """policy(y | right) = policy(y) 1[y right] / p: what is left by the verifier."""
    return policy * right / (policy * right).sum()


def accepted_by_trying(policy: Tensor, right: Tensor, tries: int) -> Tensor:
    """The chance that y is the first right reply within so many tries: (V,).

    The sum over t of "t - 1 wrong ones, then y"; it falls short of 1 by (1 - p)^tries.
    """
    p = (policy * right).sum()
    first = sum((1 - p) ** t for t in range(tries))
    return first * policy * right


def expected_distinct(policy: Tensor, right: Tensor, k: int) -> float:
    """How many different right replies k draws find on average.

    The sum over right replies of 1 - (1 - policy(y))^k, the chance to be drawn at all.
    """
    return (1 - (1 - policy) ** k)[right].sum().item()


def evidence_bound(policy: Tensor, right: Tensor, q: Tensor) -> float:
    """E_q[log policy(y)] + H(q), for a q that gives right replies only: at most log p.

    Equal where q is `accepted_distribution`: the E-step of expectation maximisation.
    Raises ValueError for a q that gives a wrong reply.
    """
    if (q[~right] > 0).any():
        raise ValueError("q gives a reply that is not right: the bound is -inf")
    return torch.special.xlogy(q, policy / q).nan_to_num(0.0).sum().item()


def score(logits: Tensor, chosen: Tensor) -> Tensor:
    """The mean gradient of log policy(y) over `chosen`, (V,) chances of y: (V,).

    The gradient of one reply is onehot(y) - policy.
    """
    return chosen - logits.softmax(-1)


def log_solved_gradient(logits: Tensor, right: Tensor) -> Tensor:
    """The gradient of log p at the logits, by autograd: (V,)."""
    leaf = logits.detach().clone().requires_grad_()
    (leaf.softmax(-1) * right).sum().log().backward()
    return leaf.grad


def solved_gradient(logits: Tensor, right: Tensor) -> Tensor:
    """The gradient of p, by REINFORCE over all replies: E[1[right] grad log policy]."""
    policy = logits.softmax(-1)
    weights = policy * right
    return weights - weights.sum() * policy


def kept_gradient(
    logits: Tensor, right: Tensor, k: int, balanced: bool = True
) -> Tensor:
    """The mean step of RFT with k draws for this question, over all V^k of them: (V,).

    balanced: the mean over the accepted draws, 0 if there is none. Otherwise their sum:
    every accepted reply counts once, in whichever question it stands.
    """
    V = len(logits)
    policy = logits.softmax(-1)
    draws = torch.tensor(list(itertools.product(range(V), repeat=k)))  # (V^k, k)
    chance = policy[draws].prod(dim=1)  # (V^k,)
    passed = right[draws].to(policy.dtype)  # (V^k, k)
    kept = passed.sum(dim=1, keepdim=True)
    weights = chance[:, None] * passed
    if balanced:
        weights = weights / kept.clamp(min=1)
    pushes = torch.zeros_like(policy)
    pushes.scatter_add_(0, draws.flatten(), weights.flatten())
    return pushes - pushes.sum() * policy


def question_weight(p: float, k: int) -> float:
    """How much of grad p a balanced step on k draws follows: (1 - (1 - p)^k) / p.

    1 for k = 1, as REINFORCE; 1 / p for very many, as maximum likelihood. It is the sum
    of (1 - p)^j over j < k, and so the step climbs the sum of pass@j / j over j <= k.
    Source: MaxRL, 2026, arXiv 2602.02710.
    """
    return sum((1 - p) ** j for j in range(k))
