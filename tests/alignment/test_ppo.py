"""PPO's parts against closed forms, and the gradient against an enumeration."""

import itertools

import pytest
import torch

from posttrain.alignment.ppo import (
    clipped_terms,
    explained_variance,
    gae,
    last_place,
    masked_mean,
    next_beta,
    token_rewards,
    value_loss,
    whiten,
)

MASK = torch.tensor(
    [
        [False, True, True, True, False],
        [False, False, True, False, False],
        [True, True, True, True, True],
    ]
)


@pytest.fixture
def numbers():
    torch.manual_seed(0)
    return lambda: torch.randn(MASK.shape, dtype=torch.float64)


def test_the_score_stands_at_the_last_token_and_the_kl_everywhere(numbers):
    logprobs, ref = numbers(), numbers()
    scores = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    rewards = token_rewards(scores, logprobs, ref, MASK, beta=0.1)
    assert last_place(MASK).tolist() == [3, 2, 4]
    for row in range(3):
        places = MASK[row].nonzero()[:, 0].tolist()
        for t in range(5):
            due = -0.1 * (logprobs - ref)[row, t] if t in places else 0.0
            due = due + (scores[row] if t == places[-1] else 0.0)
            assert rewards[row, t] == pytest.approx(float(due))
    with pytest.raises(ValueError, match="row 1 has no token"):
        last_place(torch.tensor([[True], [False]]))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.9, 0), (1, 1)])
def test_gae_is_the_sum_of_discounted_errors(numbers, gamma, lam):
    """The closed form of eq. 16, Schulman et al. 2015, with no recursion."""
    rewards, values = numbers() * MASK, numbers()
    advantages, returns = gae(rewards, values, MASK, gamma, lam)
    assert not advantages[~MASK].any()
    assert not returns[~MASK].any()
    for row in range(3):
        places = MASK[row].nonzero()[:, 0].tolist()
        r = [float(rewards[row, t]) for t in places]
        v = [float(values[row, t]) for t in places] + [0.0]
        n = len(places)
        delta = [r[i] + gamma * v[i + 1] - v[i] for i in range(n)]
        for i, t in enumerate(places):
            due = sum((gamma * lam) ** (k - i) * delta[k] for k in range(i, n))
            assert advantages[row, t] == pytest.approx(due)
            assert returns[row, t] == pytest.approx(due + v[i])


def test_lam_1_is_the_rest_of_the_reward_minus_the_value(numbers):
    rewards, values = numbers() * MASK, numbers()
    _, returns = gae(rewards, values, MASK, 1.0, 1.0)
    rest = rewards.flip(1).cumsum(1).flip(1)
    assert torch.allclose(returns[MASK], rest[MASK])


def test_gae_ignores_values_outside_the_mask(numbers):
    rewards, values = numbers() * MASK, numbers()
    other = torch.where(MASK, values, torch.full_like(values, 1e6))
    assert torch.equal(gae(rewards, values, MASK)[0], gae(rewards, other, MASK)[0])


@pytest.mark.parametrize("wrong", [{"gamma": 1.1}, {"lam": -0.1}])
def test_gae_refuses_a_discount_that_is_none(numbers, wrong):
    with pytest.raises(ValueError, match="must lie in 0"):
        gae(numbers(), numbers(), MASK, **wrong)


def test_whitening_by_hand(numbers):
    x = 3 * numbers() + 5
    inside = x[MASK]
    white = whiten(x, MASK)
    assert torch.allclose(white[MASK], (inside - inside.mean()) / inside.std())
    assert not white[~MASK].any()
    kept = whiten(x, MASK, centre=False)
    assert masked_mean(kept, MASK) == pytest.approx(float(inside.mean()))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.1, 2.0, -2.2, -2.2),  # inside: as it is
        (1.5, 2.0, -2.4, 0.0),  # far enough up
        (0.5, 2.0, -1.0, -1.0),  # too low for a good token: pull
        (0.5, -2.0, 1.6, 0.0),  # far enough down
        (1.5, -2.0, 3.0, 3.0),  # too high for a bad token: push
    ],
)
def test_the_clip_has_five_cases(ratio, advantage, loss, slope):
    new = torch.tensor(ratio, dtype=torch.float64).log().requires_grad_()
    old, a = torch.zeros((), dtype=torch.float64), torch.tensor(advantage)
    term = clipped_terms(new, old, a.double())
    term.backward()
    assert term.item() == pytest.approx(loss)
    assert new.grad.item() == pytest.approx(slope)


def test_the_two_sides_of_the_clip_are_different():
    new = torch.tensor([1.25, 1.25, 0.75, 0.75]).log()
    a = torch.tensor([1.0, 1.0, -1.0, -1.0])
    term = clipped_terms(new, torch.zeros(4), a, clip_low=0.1, clip_high=0.3)
    assert torch.allclose(term, torch.tensor([-1.25, -1.25, 0.9, 0.9]))


def test_the_value_loss_by_hand():
    mask = torch.tensor([[True, True, False]])
    values = torch.tensor([[1.0, 0.0, 9.0]])
    old = torch.tensor([[0.0, 0.0, 9.0]])
    returns = torch.tensor([[2.0, 1.0, -9.0]])
    assert value_loss(values, old, returns, mask, clip=None) == pytest.approx(0.5)
    # clipped: the first counts as 0.2, an error of 1.8² in place of 1²
    clipped = value_loss(values, old, returns, mask, clip=0.2)
    assert clipped == pytest.approx((1.8**2 + 1) / 4)
    # a jump past the return does not look better than it is
    closer = value_loss(torch.tensor([[0.1, 0.0, 0.0]]), old, returns, mask, clip=0.2)
    assert closer == pytest.approx((1.9**2 + 1) / 4)


def test_the_controller_by_hand():
    assert next_beta(0.2, 6.0, 6.0, 256, 1000) == pytest.approx(0.2)
    assert next_beta(0.2, 6.6, 6.0, 500, 1000) == pytest.approx(0.2 * 1.05)
    assert next_beta(0.2, 99.0, 6.0, 1000, 1000) == pytest.approx(0.24)
    assert next_beta(0.2, 0.0, 6.0, 1000, 1000) == pytest.approx(0.16)
    with pytest.raises(ValueError, match="target=0"):
        next_beta(0.2, 1.0, 0, 1, 1)


def test_explained_variance(numbers):
    returns = numbers()
    mean = returns[MASK].mean().expand_as(returns)
    assert explained_variance(returns, returns, MASK) == pytest.approx(1)
    assert explained_variance(mean, returns, MASK) == pytest.approx(0)
    assert explained_variance(-returns, returns, MASK) == pytest.approx(-3)


def test_on_policy_the_loss_has_the_gradient_of_expected_reward():
    """All replies of two tokens over a vocabulary of eight, weighted by probability.

    With exact values as the critic and any lam, minus the expected loss's gradient is
    that of the expected reward: baseline and bootstrap change the variance only.
    """
    V = 8
    torch.manual_seed(1)
    first = torch.randn(V, dtype=torch.float64, requires_grad=True)
    second = torch.randn(V, V, dtype=torch.float64, requires_grad=True)
    reward = torch.randn(V, V, dtype=torch.float64)

    def tables():
        return first.log_softmax(-1), second.log_softmax(-1)

    a, b = tables()
    joint = (a[:, None] + b).exp()
    true = torch.autograd.grad((joint * reward).sum(), (first, second))

    with torch.no_grad():
        v_2 = (b.exp() * reward).sum(-1)  # (V,) after the first token
        v_1 = (a.exp() * v_2).sum()
    replies = torch.tensor(list(itertools.product(range(V), repeat=2)))
    i, j = replies.T
    mask = torch.ones(len(replies), 2, dtype=torch.bool)
    rewards = torch.stack([torch.zeros(len(i)).double(), reward[i, j]], dim=1)
    values = torch.stack([v_1.expand(len(i)), v_2[i]], dim=1)
    for lam in (0.0, 0.5, 1.0):
        advantages, _ = gae(rewards, values, mask, lam=lam)
        a, b = tables()
        logprobs = torch.stack([a[i], b[i, j]], dim=1)
        terms = clipped_terms(logprobs, logprobs.detach(), advantages)
        weights = joint.detach()[i, j]
        loss = (weights[:, None] * terms).sum()
        found = torch.autograd.grad(loss, (first, second))
        for ours, due in zip(found, true, strict=True):
            assert torch.allclose(-ours, due)
