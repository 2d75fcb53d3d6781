"""Accuracy, calibration, best-of-n and strengths, each against another way."""

import itertools
import math

import pytest
import torch

from posttrain.alignment.reward_model_measures import (
    accuracy,
    best_of_n,
    best_of_n_kl,
    calibration_error,
    fit_temperature,
    pair_loss,
    reliability,
)
from posttrain.alignment.reward_model_strengths import cycles, fit_strengths


def test_a_tie_is_half_right():
    assert accuracy(torch.tensor([2.0, -1.0, 0.0, 0.1])) == 0.625


def test_calibration_by_hand():
    p = torch.tensor([0.95, 1.0, 0.0, 0.15, 0.12])
    wins = torch.tensor([1.0, 0.0, 0.0, 0.5, 0.0])
    bins = reliability(p, wins)
    assert [bin.n for bin in bins] == [1, 2, 2]
    assert [bin.won for bin in bins] == [0, 0.25, 0.5]
    due = (1 * 0 + 2 * abs(0.135 - 0.25) + 2 * (0.975 - 0.5)) / 5
    assert calibration_error(p, wins) == pytest.approx(due, abs=1e-6)


def test_the_temperature_that_made_the_labels_is_found():
    generator = torch.Generator().manual_seed(0)
    margins = 3 * torch.randn(40_000, generator=generator)
    wins = (torch.rand(40_000, generator=generator) < (margins / 2.5).sigmoid()).float()
    T = fit_temperature(margins, wins)
    assert pytest.approx(2.5, rel=0.03) == T
    best = pair_loss(margins / T, wins)
    assert best < min(pair_loss(margins / t, wins) for t in (0.97 * T, 1.03 * T))
    before = calibration_error(margins.sigmoid(), wins)
    assert calibration_error((margins / T).sigmoid(), wins) < 0.02 < 0.1 < before


def test_the_temperature_stays_in_its_range():
    assert fit_temperature(torch.ones(3), torch.zeros(3)) == pytest.approx(100)
    assert fit_temperature(torch.ones(3), torch.ones(3)) == pytest.approx(0.01)


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_best_of_n_is_the_mean_over_all_subsets(n):
    generator = torch.Generator().manual_seed(n)
    proxy = torch.randint(4, (3, 6), generator=generator).double()  # with ties
    gold = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    means = []
    for row in range(3):
        for some in itertools.combinations(range(6), n):
            top = max(proxy[row, i].item() for i in some)
            best = [i for i in some if proxy[row, i] == top]
            means.append(sum(gold[row, i].item() for i in best) / len(best))
    due = sum(means) / len(means)
    if n in (1, 6):
        assert best_of_n(proxy, gold, n) == pytest.approx(due)
    ranked = torch.argsort(torch.rand(3, 6, generator=generator)).double()  # no ties
    due = []
    for row in range(3):
        for some in itertools.combinations(range(6), n):
            best = max(some, key=lambda i: ranked[row, i].item())
            due.append(gold[row, best].item())
    assert best_of_n(ranked, gold, n) == pytest.approx(sum(due) / len(due))


def test_equal_proxies_share_the_place():
    proxy, gold = torch.zeros(1, 4), torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    assert best_of_n(proxy, gold, 3) == pytest.approx(3)
    with pytest.raises(ValueError, match="n=5 must be between 1 and the 4"):
        best_of_n(proxy, gold, 5)


def test_kl_of_best_of_n_is_the_limit_of_many_replies():
    """Exact for V equally likely replies: the closed form is approached from below."""
    for n in (1, 2, 8):
        gaps = []
        for V in (10, 100, 10_000):
            at_most = torch.arange(1, V + 1, dtype=torch.float64) / V
            q = at_most**n - (at_most - 1 / V) ** n
            kl = torch.special.xlogy(q, q * V).sum().item()
            gaps.append(best_of_n_kl(n) - kl)
        assert gaps[0] + 1e-9 >= gaps[1] >= gaps[2] - 1e-9 >= -1e-6
        assert gaps[2] < 1e-2
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(4) == pytest.approx(math.log(4) - 0.75)
    with pytest.raises(ValueError, match="n=0"):
        best_of_n_kl(0)


def test_strengths_solve_the_likelihood_equations():
    generator = torch.Generator().manual_seed(0)
    wins = torch.randint(1, 20, (5, 5), generator=generator).double()
    s = fit_strengths(wins)
    p = torch.sigmoid(s[:, None] - s)
    wins.fill_diagonal_(0)
    expected = ((wins + wins.T) * p).sum(dim=1)
    torch.testing.assert_close(expected, wins.sum(dim=1), rtol=1e-6, atol=1e-6)
    assert s.mean().item() == pytest.approx(0, abs=1e-12)


def test_two_players_and_one_without_a_win():
    s = fit_strengths(torch.tensor([[0.0, 3.0], [1.0, 0.0]]))
    assert (s[0] - s[1]).item() == pytest.approx(math.log(3))
    with pytest.raises(ValueError, match="player 1 has no win over player 0"):
        fit_strengths(torch.tensor([[0.0, 3.0], [0.0, 0.0]]))


def test_cycles_are_found_once():
    stone_paper_scissors = torch.tensor([[0, 1, 4], [4, 0, 1], [1, 4, 0]])
    assert cycles(stone_paper_scissors) == [(0, 2, 1)]
    torch.testing.assert_close(
        fit_strengths(stone_paper_scissors), torch.zeros(3, dtype=torch.float64)
    )
    assert cycles(torch.tensor([[0, 3, 3], [1, 0, 3], [1, 1, 0]])) == []
