"""The mathematics of rejection sampling, on vocabularies small enough to list."""

import itertools
import math

import pytest
import torch

from posttrain.alignment.grpo_enumerated import group_gradient, reward_gradient
from posttrain.synthetic_data import rejection_sampling_enumerated as E

V = 8


@pytest.fixture(params=range(4))
def case(request):
    """Logits (V,) and which replies are right, at least one and not all."""
    generator = torch.Generator().manual_seed(request.param)
    logits = torch.randn(V, generator=generator, dtype=torch.float64)
    right = torch.zeros(V, dtype=torch.bool)
    right[torch.randperm(V, generator=generator)[: 1 + request.param]] = True
    return logits, right


def solved(logits, right):
    return (logits.softmax(-1) * right).sum()


def test_trying_until_it_is_right_draws_from_the_conditional(case):
    logits, right = case
    policy, p = logits.softmax(-1), solved(*case)
    due = E.accepted_distribution(policy, right)
    assert due.sum() == pytest.approx(1)
    for tries in (1, 3, 20):
        found = E.accepted_by_trying(policy, right, tries)
        coverage = 1 - (1 - p) ** tries
        assert torch.allclose(found, coverage * due)
    forever = E.accepted_by_trying(policy, right, 2000)
    assert torch.allclose(forever, due)


def test_the_mean_number_of_tries_is_one_over_p(case):
    p = solved(*case).item()
    mean = sum(t * (1 - p) ** (t - 1) * p for t in range(1, 5000))
    assert mean == pytest.approx(1 / p)


def test_gradient_of_log_p_is_the_mean_score_of_accepted_replies(case):
    logits, right = case
    accepted = E.accepted_distribution(logits.softmax(-1), right)
    assert torch.allclose(E.score(logits, accepted), E.log_solved_gradient(*case))


def test_reinforce_is_the_same_gradient_times_p(case):
    p = solved(*case)
    assert torch.allclose(E.solved_gradient(*case), p * E.log_solved_gradient(*case))
    rewards = case[1].double()
    assert torch.allclose(E.solved_gradient(*case), reward_gradient(case[0], rewards))


def test_the_bound_is_reached_by_accepted_replies_alone(case):
    logits, right = case
    policy, log_p = logits.softmax(-1), solved(*case).log().item()
    best = E.accepted_distribution(policy, right)
    assert E.evidence_bound(policy, right, best) == pytest.approx(log_p)
    flat = right / right.sum().double()
    if right.sum() > 1:
        assert E.evidence_bound(policy, right, flat) < log_p - 1e-6
    with pytest.raises(ValueError, match="not right"):
        E.evidence_bound(policy, right, policy)


@pytest.mark.parametrize("k", [1, 3])
def test_distinct_right_replies_of_all_draws(case, k):
    logits, right = case
    policy, due = logits.softmax(-1), 0.0
    for draws in itertools.product(range(V), repeat=k):
        found = {y for y in draws if right[y]}
        due += policy[list(draws)].prod().item() * len(found)
    assert E.expected_distinct(policy, right, k) == pytest.approx(due)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_mean_step_of_rft_over_all_draws(case, k):
    logits, right = case
    p = solved(*case).item()
    gradient = E.solved_gradient(*case)
    balanced = E.kept_gradient(logits, right, k)
    assert torch.allclose(balanced, E.question_weight(p, k) * gradient)
    assert torch.allclose(E.kept_gradient(logits, right, k, False), k * gradient)


def test_weight_of_a_question_goes_from_reinforce_to_likelihood():
    for p in (0.05, 0.5, 1.0):
        assert E.question_weight(p, 1) == 1
        assert E.question_weight(p, 4) == pytest.approx((1 - (1 - p) ** 4) / p)
        assert E.question_weight(p, 2000) == pytest.approx(1 / p)


def test_a_balanced_step_climbs_a_harmonic_sum_of_pass_at_k(case):
    """Finite differences of sum over j <= k of pass@j / j."""
    logits, right = case

    def climbed(logits, k):
        p = solved(logits, right).item()
        return sum((1 - (1 - p) ** j) / j for j in range(1, k + 1))

    for k in (1, 3):
        slope = []
        for i in range(V):
            h = torch.zeros(V, dtype=torch.float64)
            h[i] = 1e-6
            slope.append((climbed(logits + h, k) - climbed(logits - h, k)) / 2e-6)
        found = E.kept_gradient(logits, right, k)
        assert torch.allclose(found, torch.tensor(slope).double(), atol=1e-8)


def test_accepted_replies_push_up_only_and_grpo_both_ways():
    """With a lone right reply of chance p the step is p (1 - p) times a weight."""
    logits = torch.tensor([0.1, 0.9], dtype=torch.float64).log()
    right = torch.tensor([True, False])
    ours = E.kept_gradient(logits, right, 2)[0].item()
    assert ours == pytest.approx(0.1 * 0.9 * (1 + 0.9))
    grpo = group_gradient(logits, right.double(), 2)[0].item()
    assert grpo == pytest.approx(0.1 * 0.9 / 2)
    assert not math.isclose(ours, grpo)
