"""GRPO's loss: quantities by enumeration, each branch by hand."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from posttrain.alignment.grpo import (
    DAPO,
    GRPO,
    Objective,
    aggregate,
    clipped_terms,
    group_advantages,
    kl_terms,
    policy_loss,
)
from posttrain.alignment.grpo_enumerated import (
    all_answers,
    difficulty_weight,
    estimated,
    exact_kl,
    expected_reward_gradient,
    gradient_of,
    group_gradient,
    objective_gradient,
    reward_gradient,
)

SEEDS = range(3)
SEQUENCE = Objective()
TOKEN = Objective(aggregate="token")
CONSTANT = Objective(aggregate="constant", length=4)


def two_policies(seed):
    rng = torch.Generator().manual_seed(seed)
    return (torch.randn(8, generator=rng, dtype=torch.float64) for _ in range(2))


# ---------------------------------------------------------------- estimators


@pytest.mark.parametrize("seed", SEEDS)
def test_k1_and_k3_have_the_mean_of_the_kl_and_k2_has_not(seed):
    policy, ref = two_policies(seed)
    exact = exact_kl(policy, ref).item()
    assert estimated(policy, ref, "k1").mean == pytest.approx(exact, abs=1e-12)
    assert estimated(policy, ref, "k3").mean == pytest.approx(exact, abs=1e-12)
    assert abs(estimated(policy, ref, "k2").mean - exact) > 1e-3
    backwards = exact_kl(ref, policy).item()
    assert abs(exact - backwards) > 1e-3  # so a turned log-ratio would be seen


@pytest.mark.parametrize("seed", SEEDS)
def test_which_kl_each_estimator_descends_as_a_loss(seed):
    policy, ref = two_policies(seed)
    ours = gradient_of(lambda logits: exact_kl(logits, ref), policy)
    other = gradient_of(lambda logits: exact_kl(ref, logits), policy)
    assert (ours - other).abs().max() > 1e-2

    def gradient(kind, ratio=False):
        return estimated(policy, ref, kind, ratio).gradient

    close = {"atol": 1e-12, "rtol": 0}
    torch.testing.assert_close(gradient("k1"), torch.zeros_like(ours), **close)
    torch.testing.assert_close(gradient("k2"), ours, **close)
    torch.testing.assert_close(gradient("k3"), other, **close)
    torch.testing.assert_close(gradient("k1", ratio=True), ours, **close)
    torch.testing.assert_close(gradient("k3", ratio=True), ours, **close)
    assert (gradient("k2", ratio=True) - ours).abs().max() > 1e-3


def test_the_exact_kl_is_that_of_torch():
    policy, ref = two_policies(0)
    p, q = (torch.distributions.Categorical(logits=x) for x in (policy, ref))
    due = torch.distributions.kl_divergence(p, q)
    torch.testing.assert_close(exact_kl(policy, ref), due)


def test_k3_is_never_negative_and_k1_is():
    log_p = torch.tensor([-3.0, -1.0, -1.0])
    log_q = torch.tensor([-1.0, -1.0, -3.0])
    assert kl_terms(log_p, log_q, "k1").tolist() == [-2, 0, 2]
    assert kl_terms(log_p, log_q, "k2").tolist() == [2, 0, 2]
    k3 = kl_terms(log_p, log_q, "k3")
    due = [math.exp(2) - 2 - 1, 0, math.exp(-2) + 2 - 1]
    torch.testing.assert_close(k3, torch.tensor(due))
    with pytest.raises(ValueError, match="'k4'"):
        kl_terms(log_p, log_q, "k4")


# ---------------------------------------------------------------- policy gradient


@pytest.mark.parametrize(("seed", "G"), itertools.product(SEEDS, (2, 3, 4)))
def test_a_group_gives_the_gradient_of_the_reward_but_for_a_factor(seed, G):
    policy, rewards = two_policies(seed)
    if G == 4:
        policy, rewards = policy[:5], rewards[:5]
    exact = gradient_of(lambda logits: (logits.softmax(-1) * rewards).sum(), policy)
    torch.testing.assert_close(reward_gradient(policy, rewards), exact)
    step = group_gradient(policy, rewards, G)
    torch.testing.assert_close(step, (G - 1) / G * exact, atol=1e-12, rtol=0)


def test_the_deviation_changes_the_direction():
    policy, rewards = two_policies(0)
    exact = reward_gradient(policy, rewards)
    step = group_gradient(policy, rewards, 3, std=True)
    assert torch.cosine_similarity(step, exact, dim=0) < 0.999


def test_the_deviation_favours_questions_that_are_nearly_solved_or_hopeless():
    for p in (0.05, 0.5, 0.95):
        assert difficulty_weight(p, 8, std=False) == pytest.approx(7 / 8)
    hard, even, easy = (difficulty_weight(p, 8, std=True) for p in (0.05, 0.5, 0.95))
    assert hard == pytest.approx(easy) and hard > 1.2 * even


@pytest.mark.parametrize("right", (-0.8, 0.5))
def test_only_a_constant_length_leaves_the_length_alone(right):
    theta = torch.tensor([right, 0.2, -0.4], dtype=torch.float64)
    exact = expected_reward_gradient(theta)
    assert exact[1:].abs().max() < 1e-15  # the reward does not depend on the length
    step = objective_gradient(theta, CONSTANT)
    torch.testing.assert_close(step, exact / 2 / 4, atol=1e-12, rtol=0)
    for objective in (SEQUENCE, TOKEN):
        _, after_right, after_wrong = objective_gradient(theta, objective)
        assert after_right > 1e-3  # right answers become shorter,
        assert after_wrong < -1e-3  # wrong ones longer


def test_the_mean_over_tokens_is_less_biased_and_less_so_for_more_answers():
    theta = torch.tensor([-0.8, 0.0, 0.0], dtype=torch.float64)

    def bias(objective, G):
        step = objective_gradient(theta, objective, G)
        return (step[1] / step[0]).item()

    assert bias(TOKEN, 2) < 0.6 * bias(SEQUENCE, 2)
    assert bias(TOKEN, 3) < 0.8 * bias(TOKEN, 2)
    assert bias(SEQUENCE, 3) == pytest.approx(bias(SEQUENCE, 2))


def test_the_eight_answers_are_all_there_are():
    answers = all_answers(torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64))
    assert answers.chances.sum().item() == pytest.approx(1)
    assert answers.mask.sum(dim=1).tolist() == [2, 3, 4, 4] * 2
    assert answers.rewards.tolist() == [1] * 4 + [0] * 4


# ---------------------------------------------------------------- advantages


def test_advantages_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    centred = group_advantages(rewards, std=False)
    assert centred.tolist() == [[0.5, -0.5, -0.5, 0.5], [0, 0, 0, 0]]
    scaled = group_advantages(rewards, eps=0.1)
    spread = math.sqrt(4 * 0.25 / 3)  # over G - 1
    torch.testing.assert_close(scaled[0], centred[0] / (spread + 0.1))
    assert scaled[1].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("shape", [(4,), (3, 1)])
def test_no_group_no_advantage(shape):
    with pytest.raises(ValueError, match="G of at least 2"):
        group_advantages(torch.zeros(shape))


# ---------------------------------------------------------------- clip


@pytest.mark.parametrize(
    ("ratio", "advantage", "due", "moves"),
    [
        (1.5, 1.0, -1.2, False),  # has risen enough
        (1.1, 1.0, -1.1, True),
        (0.5, 1.0, -0.5, True),  # wrong way: pulled back
        (0.5, -1.0, 0.8, False),  # has fallen enough
        (0.9, -1.0, 0.9, True),
        (1.5, -1.0, 1.5, True),  # wrong way
        (5.0, -1.0, 3.0, False),  # dual clip: no more than 3 advantages
        (5.0, 1.0, -1.2, False),
    ],
)
def test_each_branch_of_the_clip(ratio, advantage, due, moves):
    logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    objective = Objective(dual_clip=3.0)
    terms = clipped_terms(
        logprobs, torch.zeros(1, 1), torch.tensor([[advantage]]), objective
    )
    assert terms.item() == pytest.approx(due)
    terms.sum().backward()
    assert bool(logprobs.grad.item()) is moves


def test_the_upper_clip_has_its_own_width():
    terms = clipped_terms(
        torch.tensor([[math.log(1.5)]]), torch.zeros(1, 1), torch.ones(1, 1), DAPO
    )
    assert terms.item() == pytest.approx(-1.28)


# ---------------------------------------------------------------- aggregation, loss


def test_three_ways_to_one_number():
    terms = torch.tensor([[1.0, 2.0, 3.0, float("nan")], [7.0, 9.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    assert aggregate(terms, mask, SEQUENCE).item() == (2 + 7) / 2
    assert aggregate(terms, mask, TOKEN).item() == (6 + 7) / 4
    in_all = aggregate(terms, mask, replace(CONSTANT, length=10)).item()
    assert in_all == pytest.approx(13 / 20)
    assert aggregate(terms, mask & False, SEQUENCE).item() == 0


def test_the_whole_loss_is_the_sum_of_its_parts():
    rng = torch.Generator().manual_seed(1)
    new, old, ref = (-torch.rand(3, 4, generator=rng) for _ in range(3))
    advantages, mask = torch.tensor([1.0, -0.5, 0.2]), torch.ones(3, 4).bool()
    terms = clipped_terms(new, old, advantages[:, None], GRPO)
    plain = aggregate(terms, mask, GRPO)
    no_kl = replace(GRPO, beta=0.0)
    assert policy_loss(new, old, advantages, mask, no_kl).item() == plain.item()
    for kind, ratio in itertools.product(("k1", "k2", "k3"), (False, True)):
        weight = (new - old).exp() if ratio else 1
        kl = aggregate(kl_terms(new, ref, kind) * weight, mask, GRPO)
        objective = Objective(beta=0.3, kl=kind, kl_ratio=ratio)
        loss = policy_loss(new, old, advantages, mask, objective, ref)
        torch.testing.assert_close(loss, plain + 0.3 * kl)
    with pytest.raises(ValueError, match="needs ref_logprobs"):
        policy_loss(new, old, advantages, mask, GRPO)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"aggregate": "tokens"}, "'tokens'"),
        ({"aggregate": "constant"}, "needs the length"),
        ({"length": 5}, "needs the length"),
        ({"kl": "k4"}, "'k4'"),
        ({"clip_low": 1.0}, "clip_low=1.0"),
        ({"clip_high": 0.0}, "clip_high=0.0"),
        ({"dual_clip": 1.0}, "dual_clip=1.0"),
    ],
)
def test_settings_that_make_no_sense(options, said):
    with pytest.raises(ValueError, match=said):
        Objective(**options)
