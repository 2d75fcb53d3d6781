"""Checks of the exercise `ppo`.

References: lists and sums in Python, place by place: the score and the penalty of each
token, the discounted sum of errors (gae), moments of the places that count (whiten),
the five cases of the clip with their slopes (clipped_loss), the larger of two errors
(value_loss), the controller's rule in exact fractions (next_beta).
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch

from posttrain.checks.draws import uniform, whole
from posttrain.checks.mistakes.ppo import MISTAKES
from posttrain.checks.task import Task


def normal(rng, B, T, dtype=torch.float32):
    """A table of standard normal numbers (B, T)."""
    return torch.randn(B, T, generator=rng, dtype=torch.float64).to(dtype)


def replies(rng, B, T):
    """A mask (B, T): in each row one reply of 1 ... T tokens, wherever it stands."""
    mask = torch.zeros(B, T, dtype=torch.bool)
    for row in mask:
        start = whole(rng, 0, T)
        row[start : whole(rng, start, T) + 1] = True
    return mask


MIDDLE = torch.tensor([[False, True, True, True, False, False]])
FULL = torch.ones(2, 3, dtype=torch.bool)
LATE = torch.tensor([[False, False, True], [True, False, False]])
UNEQUAL = torch.tensor([[True, True, True], [False, True, False]])


def places(mask):
    """For each row the places of its reply, in order."""
    return [row.nonzero()[:, 0].tolist() for row in mask]


# ---------------------------------------------------------------- token_rewards


def reward_cases(rng, hidden):
    def case(mask, beta, dtype=torch.float32):
        B, T = mask.shape
        tables = normal(rng, B, T, dtype), normal(rng, B, T, dtype)
        return normal(rng, 1, B, dtype)[0], *tables, mask, beta

    yield case(torch.tensor([[True, True]]), 0.5)
    yield case(MIDDLE, 0.1)
    yield case(LATE, 1.0)
    yield case(MIDDLE, 0.0)  # no penalty: the score alone
    yield case(replies(rng, 3, 5), 0.2, torch.float64)
    for _ in range(4 if hidden else 1):
        B, T = whole(rng, 1, 5), whole(rng, 2, 9)
        yield case(replies(rng, B, T), uniform(rng, 0.01, 1.0))


def drive_rewards(answer, scores, logprobs, ref_logprobs, mask, beta):
    given = scores.clone(), logprobs.clone(), ref_logprobs.clone(), mask.clone()
    rewards = answer(scores, logprobs, ref_logprobs, mask, beta)
    now = scores, logprobs, ref_logprobs, mask
    same = all(a.equal(b) for a, b in zip(now, given, strict=True))
    return {"rewards": rewards, "inputs unchanged": same}


def reference_rewards(scores, logprobs, ref_logprobs, mask, beta):
    rewards = torch.zeros_like(logprobs)
    for b, row in enumerate(places(mask)):
        for t in row:
            rewards[b, t] = beta * (ref_logprobs[b, t] - logprobs[b, t])
        rewards[b, row[-1]] += scores[b]
    return {"rewards": rewards, "inputs unchanged": True}


# ---------------------------------------------------------------- gae


def gae_cases(rng, hidden):
    def case(mask, gamma, lam, dtype=torch.float32):
        rewards = normal(rng, *mask.shape, dtype) * mask
        return rewards, normal(rng, *mask.shape, dtype), mask, gamma, lam

    yield case(torch.tensor([[True]]), 1.0, 0.95)  # a lone token
    yield case(torch.tensor([[True, True]]), 1.0, 1.0)
    yield case(torch.tensor([[True, True]]), 0.9, 0.0)
    yield case(MIDDLE, 1.0, 0.95)
    yield case(MIDDLE, 0.8, 0.5)
    yield case(LATE, 0.9, 0.9)
    yield case(FULL, 0.7, 0.9, torch.float64)
    for _ in range(4 if hidden else 1):
        B, T = whole(rng, 1, 5), whole(rng, 3, 10)
        yield case(replies(rng, B, T), uniform(rng, 0.5, 1.0), uniform(rng, 0.3, 0.95))


def drive_gae(answer, rewards, values, mask, gamma, lam):
    given = rewards.clone(), values.clone()
    critic = values.requires_grad_()
    advantages, returns = answer(rewards, critic, mask, gamma, lam)
    return {
        "advantages": advantages.detach(),
        "returns": returns.detach(),
        "gradients flow into the critic": bool(
            advantages.requires_grad or returns.requires_grad
        ),
        "inputs unchanged": rewards.equal(given[0]) and critic.detach().equal(given[1]),
    }


def reference_gae(rewards, values, mask, gamma, lam):
    advantages, returns = torch.zeros_like(values), torch.zeros_like(values)
    for b, row in enumerate(places(mask)):
        r = [rewards[b, t].item() for t in row]
        v = [values[b, t].item() for t in row] + [0.0]
        errors = [r[i] + gamma * v[i + 1] - v[i] for i in range(len(row))]
        for i, t in enumerate(row):
            total = math.fsum(
                (gamma * lam) ** (k - i) * errors[k] for k in range(i, len(row))
            )
            advantages[b, t] = total
            returns[b, t] = total + v[i]
    return {
        "advantages": advantages,
        "returns": returns,
        "gradients flow into the critic": False,
        "inputs unchanged": True,
    }


# ---------------------------------------------------------------- whiten


def whiten_cases(rng, hidden):
    def case(mask, shift, spread, dtype=torch.float32):
        """Numbers that are not nearly equal: rounding would decide their deviation."""
        while True:
            x = normal(rng, *mask.shape, dtype)
            if x[mask].std() > 0.1:
                return spread * x + shift, mask

    two = torch.tensor([[1.0, 3.0, 100.0]]), torch.tensor([[True, True, False]])
    yield two
    yield case(MIDDLE, 0.0, 1.0)
    yield case(FULL, 5.0, 3.0)
    yield case(LATE, -2.0, 0.5)
    yield case(replies(rng, 3, 6), 1.0, 2.0, torch.float64)
    for _ in range(4 if hidden else 1):
        mask = replies(rng, whole(rng, 2, 5), whole(rng, 4, 9))
        yield case(mask, uniform(rng, -4, 4), uniform(rng, 0.5, 4))


def drive_whiten(answer, x, mask):
    given = x.clone()
    return {"whitened": answer(x, mask), "input unchanged": x.equal(given)}


def reference_whiten(x, mask):
    inside = x[mask].double().tolist()
    mean = math.fsum(inside) / len(inside)
    variance = math.fsum((a - mean) ** 2 for a in inside) / (len(inside) - 1)
    whitened = torch.zeros_like(x)
    for b, row in enumerate(places(mask)):
        for t in row:
            whitened[b, t] = (x[b, t].item() - mean) / math.sqrt(variance)
    return {"whitened": whitened, "input unchanged": True}


# ---------------------------------------------------------------- clipped_loss


def clip_cases(rng, hidden):
    def case(mask, clip, spread=0.3, dtype=torch.float32):
        """Log-ratios keep a distance from the two edges, where slopes jump."""
        old = -3 * torch.rand(mask.shape, generator=rng).to(dtype)
        edges = torch.tensor([math.log(1 - clip), math.log(1 + clip)])
        while True:
            ratio = spread * normal(rng, *mask.shape, dtype)
            if (ratio[..., None] - edges).abs().min() > 1e-3:
                return old + ratio, old, normal(rng, *mask.shape, dtype), mask, clip

    def single(ratio, advantage, clip=0.2):
        old = torch.tensor([[-1.0]])
        new = old + math.log(ratio)
        return new, old, torch.tensor([[advantage]]), torch.tensor([[True]]), clip

    for advantage in (2.0, -2.0):
        for ratio in (1.0, 1.1, 1.6, 0.5):
            yield single(ratio, advantage)
    yield case(MIDDLE, 0.2)
    yield case(LATE, 0.1)
    a = torch.tensor([[1.0, -0.5, 0.5], [0.0, -2.0, 0.0]])
    old = torch.full((2, 3), -1.0)
    yield old + torch.tensor(0.1), old, a, UNEQUAL, 0.2
    yield case(FULL, 0.3, 0.6, torch.float64)
    for _ in range(4 if hidden else 1):
        mask = replies(rng, whole(rng, 2, 5), whole(rng, 3, 8))
        yield case(mask, uniform(rng, 0.1, 0.4))


def drive_clip(answer, logprobs, old_logprobs, advantages, mask, clip):
    new = logprobs.requires_grad_()
    loss = answer(new, old_logprobs, advantages, mask, clip)
    loss.backward()
    return {"loss": loss.detach(), "gradient": new.grad}


def reference_clip(logprobs, old_logprobs, advantages, mask, clip):
    n = int(mask.sum())
    terms, gradient = [], torch.zeros_like(logprobs)
    for b, row in enumerate(places(mask)):
        for t in row:
            a = advantages[b, t].item()
            ratio = math.exp(logprobs[b, t].item() - old_logprobs[b, t].item())
            far = ratio > 1 + clip if a > 0 else ratio < 1 - clip
            edge = 1 + clip if a > 0 else 1 - clip
            terms.append(-a * (edge if far else ratio))
            gradient[b, t] = 0.0 if far else -a * ratio / n
    loss = torch.tensor(math.fsum(terms) / n, dtype=logprobs.dtype)
    return {"loss": loss, "gradient": gradient}


# ---------------------------------------------------------------- value_loss


def value_cases(rng, hidden):
    def case(mask, clip, dtype=torch.float32):
        """Values keep a distance from where the clip or the choice changes."""
        while True:
            old, step, gap = (normal(rng, *mask.shape, dtype) for _ in range(3))
            step, returns = 0.5 * step, old + 2 * gap
            near = old + step.clamp(-clip, clip)
            tie = (old + step - returns).square() - (near - returns).square()
            clear = (step.abs() - clip).abs() > 1e-3
            if (clear & ((tie.abs() > 1e-3) | (step.abs() < clip))).all():
                return old + step, old, returns, mask, clip

    one = torch.tensor([[True]])
    for new, due in ((0.1, 1.0), (0.9, 1.0), (-0.9, 1.0), (0.9, -1.0), (2.5, 1.0)):
        yield torch.tensor([[new]]), torch.zeros(1, 1), torch.tensor([[due]]), one, 0.2
    both = torch.tensor([[0.9, 2.5]])  # each error is the larger one somewhere
    yield both, torch.zeros(1, 2), torch.ones(1, 2), one.expand(1, 2), 0.2
    yield case(MIDDLE, 0.2)
    yield case(LATE, 0.5)
    yield case(FULL, 0.1, torch.float64)
    for _ in range(4 if hidden else 1):
        mask = replies(rng, whole(rng, 2, 5), whole(rng, 3, 8))
        yield case(mask, uniform(rng, 0.1, 0.6))


def drive_value(answer, values, old_values, returns, mask, clip):
    new = values.requires_grad_()
    loss = answer(new, old_values, returns, mask, clip)
    loss.backward()
    return {"loss": loss.detach(), "gradient": new.grad}


def reference_value(values, old_values, returns, mask, clip):
    n = int(mask.sum())
    terms, gradient = [], torch.zeros_like(values)
    for b, row in enumerate(places(mask)):
        for t in row:
            new, old = values[b, t].item(), old_values[b, t].item()
            due = returns[b, t].item()
            near = min(max(new, old - clip), old + clip)
            plain, held = (new - due) ** 2, (near - due) ** 2
            terms.append(max(plain, held) / 2)
            moves = plain > held or near == new
            gradient[b, t] = (new - due) / n if moves else 0.0
    loss = torch.tensor(math.fsum(terms) / n, dtype=values.dtype)
    return {"loss": loss, "gradient": gradient}


# ---------------------------------------------------------------- next_beta


def beta_cases(rng, hidden):
    yield 0.2, 6.0, 6.0, 256, 10_000  # on target
    yield 0.2, 6.6, 6.0, 256, 10_000  # a little above
    yield 0.2, 5.4, 6.0, 256, 10_000
    yield 0.2, 60.0, 6.0, 256, 10_000  # far above: the error counts as 0.2
    yield 0.2, 0.0, 6.0, 512, 10_000
    yield 0.01, 3.0, 1.0, 2_000, 1_000  # more answers than the horizon
    for _ in range(4 if hidden else 2):
        target = uniform(rng, 0.5, 8.0)
        kl = target * uniform(rng, 0.5, 1.5)
        yield uniform(rng, 0.01, 0.5), kl, target, whole(rng, 1, 999), 10_000


def drive_beta(answer, beta, kl, target, n, horizon):
    return float(answer(beta, kl, target, n, horizon))


def reference_beta(beta, kl, target, n, horizon):
    error = Fraction(kl) / Fraction(target) - 1
    error = max(Fraction(-1, 5), min(error, Fraction(1, 5)))
    return float(Fraction(beta) * (1 + error * n / horizon))


TASKS = {
    "token_rewards": Task(
        reward_cases, drive_rewards, reference_rewards, MISTAKES["token_rewards"]
    ),
    "gae": Task(gae_cases, drive_gae, reference_gae, MISTAKES["gae"]),
    "whiten": Task(whiten_cases, drive_whiten, reference_whiten, MISTAKES["whiten"]),
    "clipped_loss": Task(
        clip_cases, drive_clip, reference_clip, MISTAKES["clipped_loss"]
    ),
    "value_loss": Task(
        value_cases, drive_value, reference_value, MISTAKES["value_loss"]
    ),
    "next_beta": Task(beta_cases, drive_beta, reference_beta, MISTAKES["next_beta"]),
}
