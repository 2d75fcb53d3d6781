"""Bradley and Terry without a model: one strength for each player of a win table.

strengths = fit_strengths(wins)             # wins[i, j]: how often i beat j
cycles(wins)                                # triples that no strengths can order
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def fit_strengths(wins: Tensor, steps: int = 200) -> Tensor:
    """The likeliest strengths s, with P(i beats j) = σ(s_i - s_j) and mean 0: (K,).

    wins: (K, K), wins[i, j] is how often i beat j; a tie is half a win for each. Each
    round sets p_i = W_i / Σ_j n_ij / (p_i + p_j), with p = exp(s), W_i the wins of i,
    n_ij the games of i and j. Raises ValueError where the likelihood has no maximum:
    some group of players never lost to the others.
    Source: Hunter 2004, equation 3 (Zermelo 1929).
    """
    wins = wins.double().clone().fill_diagonal_(0)
    _demand_connected(wins)
    games, total = wins + wins.T, wins.sum(dim=1)
    p = torch.ones(len(wins), dtype=torch.float64)
    for _ in range(steps):
        p = total / (games / (p[:, None] + p)).sum(dim=1)
        p = p / p.log().mean().exp()
    return p.log()


def _demand_connected(wins: Tensor) -> None:
    """Everybody beat everybody, if only through others."""
    K = len(wins)
    reach = (wins > 0) | torch.eye(K, dtype=torch.bool)
    for k in range(K):  # Warshall: paths through player k
        reach = reach | (reach[:, k, None] & reach[None, k])
    if not reach.all():
        i, j = (~reach).nonzero()[0].tolist()
        raise ValueError(
            f"player {i} has no win over player {j}, not even through others: the"
            " likeliest difference is infinite; add a fraction of a win to every pair"
        )


def cycles(wins: Tensor) -> list[tuple[int, int, int]]:
    """Triples (i, j, k) in which i mostly beats j, j beats k, and k beats i."""
    beats = wins > wins.T
    return [
        (i, j, k)
        for i, j, k in itertools.permutations(range(len(wins)), 3)
        if i < min(j, k) and beats[i, j] and beats[j, k] and beats[k, i]
    ]
