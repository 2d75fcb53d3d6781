"""One reply out of n: the exact distribution, and curves over n from a pool of replies.

    chances = best_of_n_distribution(policy, scores, n)     # (V,), of a finite policy
    kl(chances, policy) <= best_of_n_kl(n)
    vote_curve(answers, due, ns)                            # share right, by a vote

The curve of a scored best of n is `reward_model_measures.best_of_n`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from posttrain.synthetic_data.rejection_sampling import majority

SUBSETS = 40  # that a vote is averaged over, for each question and n


def best_of_n_distribution(policy: Tensor, scores: Tensor, n: int) -> Tensor:
    """Chances of each of V replies to be the best of n independent draws: (V,).

    Of draws with equal scores the first counts. With F(s) the chance that one draw
    scores at most s, the best scores s with chance F(s)^n - F(below s)^n; within equal
    scores the policy's own proportions hold.
    """
    at_most = (policy * (scores <= scores[:, None])).sum(dim=1)  # (V,)
    equal = (policy * (scores == scores[:, None])).sum(dim=1)
    below = (at_most - equal).clamp(min=0)
    return policy / equal * (at_most**n - below**n)


def kl(p: Tensor, q: Tensor) -> float:
    """KL(p || q) in nats; a reply that p never gives counts 0."""
    return torch.special.xlogy(p, p / q).sum().item()


def win_rate(chances: Tensor, policy: Tensor, scores: Tensor) -> float:
    """How often a draw from `chances` outscores one from the policy; a tie is half."""
    gap = scores[:, None] - scores
    wins = (gap > 0).double() + 0.5 * (gap == 0)
    return (chances[:, None] * policy * wins).sum().item()


def vote_curve(
    answers: Sequence[Sequence[int | None]],
    due: Sequence[int],
    ns: Sequence[int],
    weights: Sequence[Sequence[float]] | None = None,
    seed: int = 0,
) -> list[float]:
    """The share of questions that a vote of n answers gets right, for each n.

    answers: N of them for each question; a vote is over n of the N, drawn without
    replacement, averaged over SUBSETS draws. weights: what each vote counts; None: 1.
    """
    rng, curve = random.Random(seed), []
    for n in ns:
        right = 0
        for row, given in enumerate(answers):
            for _ in range(SUBSETS):
                places = rng.sample(range(len(given)), n)
                cast = [given[i] for i in places]
                counts = None if weights is None else [weights[row][i] for i in places]
                right += majority(cast, counts) == due[row]
        curve.append(right / (SUBSETS * len(answers)))
    return curve
