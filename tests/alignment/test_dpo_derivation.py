"""Each step of the derivation, on random finite distributions."""

import math

import pytest
import torch

from posttrain.alignment.dpo import dpo_loss
from posttrain.alignment.dpo_derivation import (
    bradley_terry,
    expected_loss,
    log_partition,
    loss_gradient,
    objective,
    optimal_policy,
    preference,
    reward_of,
)

N, Y = 20, 6


@pytest.fixture
def case() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    ref, policies = draw(N, Y).softmax(-1), draw(50, N, Y).softmax(-1)
    return {"ref": ref, "rewards": 2 * draw(N, Y), "policies": policies}


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_nothing_beats_the_optimal_policy(case, beta):
    ref, rewards = case["ref"], case["rewards"]
    star = optimal_policy(ref, rewards, beta)
    best = objective(star, ref, rewards, beta)
    assert torch.allclose(star.sum(-1), torch.ones(N, dtype=torch.float64))
    assert (objective(case["policies"], ref, rewards, beta) <= best).all()
    near = star * torch.exp(0.01 * case["policies"])
    near = near / near.sum(-1, keepdim=True)
    assert (objective(near, ref, rewards, beta) <= best + 1e-12).all()  # rounding
    assert torch.allclose(best, beta * log_partition(ref, rewards, beta))


def test_the_gap_to_the_optimum_is_a_kl(case):
    """Equation (4) of the chapter, for any policy."""
    ref, rewards, policy = case["ref"], case["rewards"], case["policies"][0]
    star = optimal_policy(ref, rewards, 0.7)
    kl = (policy * (policy / star).log()).sum(-1)
    due = 0.7 * (log_partition(ref, rewards, 0.7) - kl)
    assert torch.allclose(objective(policy, ref, rewards, 0.7), due)


def test_objective_by_hand():
    policy, ref = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    kl = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    found = objective(policy, ref, torch.tensor([2.0, 0.0]), 3.0)
    assert found.item() == pytest.approx(1 - 3 * kl, abs=1e-6)
    certain = objective(torch.tensor([1.0, 0.0]), ref, torch.tensor([2.0, 0.0]), 1.0)
    assert certain.item() == pytest.approx(2 - math.log(4), abs=1e-6)
    never = objective(policy, torch.tensor([1.0, 0.0]), torch.zeros(2), 1.0)
    assert never.item() == -math.inf


def test_limits_of_beta(case):
    ref, rewards = case["ref"], case["rewards"]
    assert torch.allclose(optimal_policy(ref, rewards, 1e9), ref)
    greedy = optimal_policy(ref, rewards, 1e-4)
    assert torch.equal(greedy.argmax(-1), rewards.argmax(-1))
    assert greedy.max(-1).values.min() > 0.99


def test_rewards_come_back_and_z_cancels(case):
    ref, rewards = case["ref"], case["rewards"]
    star = optimal_policy(ref, rewards, 0.3)
    back = reward_of(star, ref, 0.3, log_partition(ref, rewards, 0.3))
    assert torch.allclose(back, rewards)
    other = reward_of(star, ref, 0.3, torch.full((N,), 7.0, dtype=torch.float64))
    assert torch.allclose(bradley_terry(other), bradley_terry(rewards))
    assert torch.allclose(optimal_policy(ref, other, 0.3), star)
    assert torch.allclose(preference(star, ref, 0.3), bradley_terry(rewards))


def test_preferences_are_probabilities(case):
    table = bradley_terry(case["rewards"])
    assert torch.allclose(table + table.mT, torch.ones_like(table))
    one = bradley_terry(torch.tensor([1.0, 0.0]))
    assert one[0, 1].item() == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-6)


def test_the_loss_is_least_at_the_optimal_policy(case):
    """Fit a policy to all pairs; it becomes the optimal one of the true rewards."""
    ref, rewards = case["ref"][0], case["rewards"][0]
    labels = bradley_terry(rewards)
    pairs = torch.full((Y, Y), 1 / Y**2, dtype=torch.float64)
    star = optimal_policy(ref, rewards, 0.5)
    logits = ref.log().clone().requires_grad_()
    for _ in range(600):
        loss = expected_loss(logits.softmax(-1), ref, 0.5, labels, pairs)
        [grad] = torch.autograd.grad(loss, logits)
        with torch.no_grad():
            logits -= 20 * grad
    assert torch.allclose(logits.softmax(-1), star, atol=1e-4)
    least = expected_loss(star, ref, 0.5, labels, pairs)
    for policy in case["policies"][:, 0]:
        assert expected_loss(policy, ref, 0.5, labels, pairs) > least


def test_expected_loss_is_the_mean_of_the_pairs_losses(case):
    ref, policy = case["ref"][0], case["policies"][0, 0]
    labels = torch.zeros(Y, Y, dtype=torch.float64)
    labels[1, 4] = 1
    pairs = labels.clone()
    one = dpo_loss(policy[1].log(), policy[4].log(), ref[1].log(), ref[4].log(), 0.4)
    found = expected_loss(policy, ref, 0.4, labels, pairs)
    assert torch.allclose(found, one)


def test_gradient_equals_finite_differences(case):
    ref, logits = case["ref"][0], case["rewards"][0].clone()
    winner, loser = torch.tensor(2), torch.tensor(5)

    def loss(logits):
        policy = logits.log_softmax(-1)
        four = (policy[winner], policy[loser], ref[winner].log(), ref[loser].log())
        return dpo_loss(*four, beta=0.4)

    found = loss_gradient(logits, ref, 0.4, winner, loser)
    h = 1e-5
    for y in range(Y):
        step = torch.zeros(Y, dtype=torch.float64)
        step[y] = h
        slope = (loss(logits + step) - loss(logits - step)) / (2 * h)
        assert found[y].item() == pytest.approx(slope.item(), abs=1e-9)
