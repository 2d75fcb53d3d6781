"""How good is a reward model? Accuracy, calibration, and what best-of-n makes of it.

    accuracy(margins)                   margins: reward of the better minus the other
    calibration_error(probabilities, wins)
    fit_temperature(margins, wins)
    best_of_n(proxy, gold, n)           expected gold of the proxy's favourite among n

All work on tensors of rewards and need no model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 10


def accuracy(margins: Tensor) -> float:
    """The share of pairs in which the better reply has the higher reward.

    margins: (N,), reward of the better reply minus that of the other. An equal pair
    counts one half: a model that gives all replies the same has no opinion.
    """
    return ((margins > 0).double() + 0.5 * (margins == 0)).mean().item()


@dataclass(frozen=True)
class Bin:
    """Pairs whose predicted probability lies in one tenth of the range."""

    predicted: float  # mean probability
    won: float  # share that won
    n: int


def reliability(probabilities: Tensor, wins: Tensor, bins: int = BINS) -> list[Bin]:
    """Pairs by predicted probability, in `bins` equal parts of [0, 1]; empty ones out.

    probabilities, wins: (N,); wins is 1, 0, or 0.5 for a tie.
    """
    place = (probabilities * bins).long().clamp(0, bins - 1)  # 1.0 is in the last
    found = []
    for i in range(bins):
        here = place == i
        if here.any():
            p, won = probabilities[here].mean(), wins[here].double().mean()
            found.append(Bin(p.item(), won.item(), int(here.sum())))
    return found


def calibration_error(probabilities: Tensor, wins: Tensor, bins: int = BINS) -> float:
    """Mean |predicted - won| over bins, each weighted by its pairs (ECE).

    Source: Guo et al. 2017, equation 3.
    """
    found = reliability(probabilities, wins, bins)
    gaps = [bin.n * abs(bin.predicted - bin.won) for bin in found]
    return sum(gaps) / len(probabilities)


def fit_temperature(margins: Tensor, wins: Tensor) -> float:
    """The T for which σ(margin / T) has the smallest loss on these pairs.

    One number, by bisection on the derivative with respect to 1 / T: the loss is convex
    in it. Order, and so accuracy, stay as they are. Returns a value from 0.01 to 100.
    Source: Guo et al. 2017, section 4.2.
    """
    margins, wins = margins.double(), wins.double()
    low, high = 0.01, 100.0  # of 1 / T
    for _ in range(60):
        middle = math.sqrt(low * high)
        slope = (margins * (torch.sigmoid(margins * middle) - wins)).mean()
        low, high = (middle, high) if slope <= 0 else (low, middle)
    return 1 / math.sqrt(low * high)


def pair_loss(margins: Tensor, wins: Tensor) -> float:
    """Mean loss in nats: the negative log-likelihood of these labels."""
    losses = F.binary_cross_entropy_with_logits(margins.double(), wins.double())
    return losses.item()


def best_of_n(proxy: Tensor, gold: Tensor, n: int) -> float:
    """Expected gold of the reply that the proxy likes best among n, without bias.

    proxy, gold: (P, N), N replies to each of P prompts; n <= N. The reply of rank i
    (1 is the lowest) is the best of C(i - 1, n - 1) of the C(N, n) subsets; among
    replies of equal proxy the place is shared. Raises ValueError for n outside 1 ... N.
    """
    N = proxy.shape[1]
    if not 1 <= n <= N:
        raise ValueError(f"n={n} must be between 1 and the {N} replies to each prompt")
    total = math.comb(N, n)
    chance = [math.comb(i, n - 1) / total for i in range(N)]
    weights = torch.tensor(chance, dtype=torch.float64)
    order = proxy.argsort(dim=1, stable=True)
    ranked = _level(proxy.gather(1, order), gold.double().gather(1, order))
    return (ranked * weights).sum(dim=1).mean().item()


def _level(proxy: Tensor, gold: Tensor) -> Tensor:
    """Sorted rows: the gold of equal proxies replaced by its mean."""
    new = F.pad((proxy[:, 1:] != proxy[:, :-1]).long(), (1, 0))
    group = new.cumsum(dim=1)  # which run of equals
    sums = torch.zeros_like(gold).scatter_add_(1, group, gold)
    sizes = torch.zeros_like(gold).scatter_add_(1, group, torch.ones_like(gold))
    return (sums / sizes.clamp(min=1)).gather(1, group)


def best_of_n_kl(n: int) -> float:
    """log n - (n - 1) / n nats: how far best-of-n is from the policy, at most.

    Exact where no two replies have the same probability and reward (a continuous
    policy), an upper bound else. Sources: Stiennon et al. 2020, appendix G.3; Beirami
    et al. 2024 for the bound.
    """
    if n < 1:
        raise ValueError(f"n={n} must be at least 1")
    return math.log(n) - (n - 1) / n
