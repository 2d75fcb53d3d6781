"""Checks of the exercise `grpo`.

References: a reader that walks through a reply mark by mark (reward_of); sums in Python
floats, one group, one answer, one token at a time (all others). Gradients are written
down by hand: 1, d and 1 - e^-d for the estimators; minus ratio times advantage, or
nothing, for the clip.
"""

from __future__ import annotations

import math

import torch

from posttrain.checks.draws import whole
from posttrain.checks.mistakes.grpo import MISTAKES
from posttrain.checks.task import TOLERANCE, Task

EPS = 1e-4


def some_mask(rng, B, T):
    """A mask (B, T): some rows begin late, some end early, one may be empty."""
    first = torch.randint(0, max(1, T // 2), (B, 1), generator=rng)
    last = torch.randint(T // 2, T + 1, (B, 1), generator=rng)
    places = torch.arange(T)
    return (places >= first) & (places < last)


# ---------------------------------------------------------------- reward_of


def reward_cases(rng, hidden):
    yield "<think>12+3=15</think>15", 15, 1.0, 0.1
    yield "<think>12+3=15</think>16", 15, 1.0, 0.1
    yield "<think></think>7", 7, 1.0, 0.1  # an empty thought is a thought
    yield "<think>12+3=15</think>", 15, 1.0, 0.1
    yield "15", 15, 1.0, 0.1
    yield "<think>12+3=15</think>15 or 16", 15, 1.0, 0.1
    yield "<think>12+3=15</think> 15", 15, 1.0, 0.1
    yield "<think>12+3=15</think>15\n", 15, 1.0, 0.1
    yield "Sure!<think>12+3=15</think>15", 15, 1.0, 0.1
    yield "<think>1</think><think>2</think>15", 15, 1.0, 0.1
    yield "<think>1<think>2</think>15", 15, 1.0, 0.1
    yield "<think>1 < 2</think>15", 15, 1.0, 0.1  # a bare "<" in the thought
    yield "<think>12+3=15</think>5", 15, 1.0, 0.1
    yield "<think>12+3=15</think>115", 15, 1.0, 0.1
    yield "<think>12+3=15</think>-15", 15, 1.0, 0.1
    yield "<think>12+3=15</think>015", 15, 1.0, 0.1  # the number is 15
    yield "<think>two\nlines</think>15", 15, 2.0, 0.5
    yield "<think>12+3=15</think>\u0661\u0665", 15, 1.0, 0.1  # digits, but not 0-9
    yield "</think>15<think>", 15, 1.0, 0.1
    yield "", 15, 1.0, 0.1
    for _ in range(6 if hidden else 2):
        answer, off = whole(rng, 0, 50), whole(rng, 0, 2)
        correct, form = whole(rng, 1, 5) / 2, whole(rng, 1, 5) / 8
        thought = "+".join(str(whole(rng, 1, 99)) for _ in range(whole(rng, 0, 4)))
        yield f"<think>{thought}</think>{answer + off}", answer, correct, form


def drive_reward(answer, reply, right, correct, form):
    return float(answer(reply, right, correct, form))


def reference_reward(reply, right, correct, form):
    start, end = "<think>", "</think>"
    if not reply.startswith(start):
        return 0.0
    thought, mark, number = reply[len(start) :].partition(end)
    if not mark or "<" in thought or ">" in thought:
        return 0.0
    if not number or any(c not in "0123456789" for c in number):
        return 0.0
    value = 0
    for c in number:
        value = 10 * value + "0123456789".index(c)
    return form + correct if value == right else form


# ---------------------------------------------------------------- group_advantages


def advantage_cases(rng, hidden):
    yield torch.tensor([[1.0, 0.0]]), True
    yield torch.tensor([[1.0, 0.0]]), False
    yield torch.tensor([[1.0, 0.0, 0.0, 1.0], [3.0, 9.0, 3.0, 3.0]]), True
    yield torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 0.5]]), True  # a silent group
    yield torch.tensor([[1e-3, 0.0, 5e-4, 0.0]]).double(), True  # eps is felt
    for std in (True, False):
        yield torch.randn(3, 4, generator=rng), std
        yield 100 + torch.rand(2, 5, generator=rng).double(), std
    for _ in range(3 if hidden else 1):
        P, G = whole(rng, 1, 5), whole(rng, 2, 9)
        yield torch.randint(0, 2, (P, G), generator=rng).float() * 1.1, True


def drive_advantages(answer, rewards, std):
    given = rewards.clone()
    output = answer(rewards, std)
    return {"advantages": output, "input unchanged": rewards.equal(given)}


def advantages_of(row, std):
    """The advantages of one group, a list."""
    mean = math.fsum(row) / len(row)
    spread = math.sqrt(math.fsum((r - mean) ** 2 for r in row) / (len(row) - 1))
    return [(r - mean) / (spread + EPS if std else 1) for r in row]


def reference_advantages(rewards, std):
    rows = [advantages_of(row, std) for row in rewards.tolist()]
    return {
        "advantages": torch.tensor(rows, dtype=rewards.dtype),
        "input unchanged": True,
    }


# ---------------------------------------------------------------- token_logprobs


def logprob_cases(rng, hidden):
    def case(B, T, V, spread=2.0, dtype=torch.float32):
        logits = (spread * torch.randn(B, T, V, generator=rng)).to(dtype)
        tokens = torch.randint(V, (B, T), generator=rng)
        return logits, tokens, some_mask(rng, B, T)

    yes = torch.ones(1, 3, dtype=torch.bool)
    last, middle = (torch.arange(3)[None] == i for i in (2, 1))
    for marked in (yes, last, middle):
        logits, tokens, _ = case(1, 3, 3)
        yield logits, tokens, marked
    far = torch.tensor([[[2000.0, 0.0], [0.0, 2000.0], [0.0, 0.0]]]).double()
    yield far, torch.tensor([[0, 1, 0]]), yes  # a probability underflows
    cut = torch.tensor([[[0.0, 1.0], [-math.inf, 1.0], [0.0, 0.0]]])
    yield cut, torch.tensor([[0, 1, 0]]), torch.tensor([[False, True, False]])
    yield case(2, 5, 4, dtype=torch.float64)
    for _ in range(3 if hidden else 1):
        yield case(3, whole(rng, 3, 8), whole(rng, 2, 9))


def drive_logprobs(answer, logits, tokens, mask):
    import torch

    leaf = logits.clone().requires_grad_()
    output = answer(leaf, tokens, mask)
    output.sum().backward()
    return {"logprobs": output, "gradient": torch.nan_to_num(leaf.grad)}


def reference_logprobs(logits, tokens, mask):
    B, T, V = logits.shape
    output = torch.zeros(B, T - 1, dtype=logits.dtype)
    gradient = torch.zeros_like(logits)
    for b in range(B):
        for t in range(T - 1):
            if not mask[b, t + 1]:
                continue
            row, chosen = logits[b, t].tolist(), int(tokens[b, t + 1])
            top = max(row)
            log_sum = top + math.log(math.fsum(math.exp(x - top) for x in row))
            output[b, t] = row[chosen] - log_sum
            for v in range(V):
                gradient[b, t, v] = (v == chosen) - math.exp(row[v] - log_sum)
    return {"logprobs": output, "gradient": gradient}


# ---------------------------------------------------------------- kl_terms


def kl_cases(rng, hidden):
    for kind in ("k1", "k2", "k3"):
        yield torch.tensor([[-1.0]]), torch.tensor([[-2.0]]), kind
        yield torch.tensor([[-3.0, -1.0]]), torch.tensor([[-1.0, -1.0]]), kind
    for _ in range(3 if hidden else 1):
        for kind in ("k1", "k2", "k3"):
            new, ref = (-2 * torch.rand(2, 4, generator=rng) for _ in range(2))
            yield new.double(), ref.double(), kind


def drive_kl(answer, logprobs, ref_logprobs, kind):
    import torch

    leaf = logprobs.clone().requires_grad_()
    terms = answer(leaf, ref_logprobs, kind)
    gradient = None
    if terms.requires_grad:
        terms.sum().backward()
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return {"terms": terms, "gradient": gradient}


def k_terms(d, kind):
    """Value and derivative of an estimator at a log-ratio d, a float."""
    if kind == "k1":
        return d, 1.0
    if kind == "k2":
        return d * d / 2, d
    return math.exp(-d) - 1 + d, 1 - math.exp(-d)


def reference_kl(logprobs, ref_logprobs, kind):
    d = (logprobs.double() - ref_logprobs.double()).flatten().tolist()
    both = torch.tensor([k_terms(x, kind) for x in d], dtype=logprobs.dtype)
    shape = logprobs.shape
    return {"terms": both[:, 0].reshape(shape), "gradient": both[:, 1].reshape(shape)}


# ---------------------------------------------------------------- clipped_terms


def clip_cases(rng, hidden):
    def at(ratio, advantage, low=0.2, high=0.2):
        new = torch.tensor([[math.log(ratio)]]).double() - 1
        return (
            new,
            torch.tensor([[-1.0]]).double(),
            torch.tensor([advantage]),
            low,
            high,
        )

    def random_case(B, T):
        old = -2 * torch.rand(B, T, generator=rng)
        new = old + 0.5 * torch.randn(B, T, generator=rng)
        low = 0.1 + 0.2 * torch.rand((), generator=rng).item()
        return new, old, torch.randn(B, generator=rng), low, low + 0.15

    for ratio in (1.0, 1.5, 0.5):
        for advantage in (2.0, -2.0):
            yield at(ratio, advantage)
    yield at(1.25, 1.0, 0.2, 0.28)  # between the two widths
    yield at(0.75, -1.0, 0.2, 0.28)
    yield at(0.72, -1.0, 0.28, 0.2)
    yield at(6.0, -1.0)  # (8) has no floor there: the dual clip is another loss
    yield random_case(2, 3)
    yield random_case(4, 4)
    for _ in range(3 if hidden else 1):
        yield random_case(whole(rng, 2, 6), whole(rng, 3, 7))


def drive_clip(answer, logprobs, old_logprobs, advantages, clip_low, clip_high):
    """Gradients: of the new log-probabilities, and of what should be constants."""
    leaves = [x.clone().requires_grad_() for x in (logprobs, old_logprobs, advantages)]
    terms = answer(*leaves, clip_low, clip_high)
    gradient, constant = None, True
    if terms.requires_grad:
        terms.sum().backward()
        gradient = leaves[0].grad
        constant = all(x.grad is None or not x.grad.any() for x in leaves[1:])
    return {
        "terms": terms,
        "gradient": gradient,
        "old log-probabilities and advantages are constants": constant,
    }


def clip_term(ratio, advantage, low, high):
    """Loss and its derivative by the new log-probability, at one token."""
    limit = 1 + high if advantage > 0 else 1 - low
    beyond = ratio > limit if advantage > 0 else ratio < limit
    if beyond:
        return -limit * advantage, 0.0
    return -ratio * advantage, -ratio * advantage


def reference_clip(logprobs, old_logprobs, advantages, clip_low, clip_high):
    terms, gradient = torch.zeros_like(logprobs), torch.zeros_like(logprobs)
    for b, advantage in enumerate(advantages.tolist()):
        for t in range(logprobs.shape[1]):
            ratio = math.exp(logprobs[b, t].item() - old_logprobs[b, t].item())
            found = clip_term(ratio, advantage, clip_low, clip_high)
            terms[b, t], gradient[b, t] = found
    return {
        "terms": terms,
        "gradient": gradient,
        "old log-probabilities and advantages are constants": True,
    }


# ---------------------------------------------------------------- aggregate


def aggregate_cases(rng, hidden):
    terms = torch.tensor([[1.0, 2.0, 3.0, math.inf], [8.0, math.nan, 5.0, 7.0]])
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    for how, length in (("sequence", None), ("token", None), ("constant", 10)):
        yield torch.tensor([[6.0, 2.0]]), torch.tensor([[True, True]]), how, length
        yield terms, mask, how, length
        yield terms[:, :3].contiguous(), mask[:, :3] & mask[:1, :3], how, length
        empty = torch.tensor([[True, True], [False, False]])
        yield torch.tensor([[4.0, 2.0], [9.0, 9.0]]), empty, how, length
        yield torch.tensor([[4.0, 2.0], [9.0, 9.0]]), empty & False, how, length
        yield torch.tensor([[4.0, 2.0]]), torch.tensor([[False, True]]), how, length
        for _ in range(2 if hidden else 1):
            B, T = whole(rng, 2, 5), whole(rng, 3, 7)
            drawn = torch.randn(B, T, generator=rng).double()
            yield drawn, some_mask(rng, B, T), how, length and whole(rng, T, 30)


def drive_aggregate(answer, terms, mask, how, length):
    return answer(terms, mask, how, length)


def reference_aggregate(terms, mask, how, length):
    rows = [
        [x for x, counts in zip(row, keep, strict=True) if counts]
        for row, keep in zip(terms.tolist(), mask.tolist(), strict=True)
    ]
    total = math.fsum(x for row in rows for x in row)
    if how == "sequence":
        value = math.fsum(math.fsum(r) / max(1, len(r)) for r in rows) / len(rows)
    elif how == "token":
        value = total / max(1, sum(map(len, rows)))
    else:
        value = total / (len(rows) * length)
    return torch.tensor(value, dtype=terms.dtype)


# ---------------------------------------------------------------- grpo_loss


def loss_cases(rng, hidden):
    def case(P, G, T, beta, clip=0.2, spread=0.4):
        B = P * G
        old = -2 * torch.rand(B, T, generator=rng).double()
        new = old + spread * torch.randn(B, T, generator=rng).double()
        ref = old + spread * torch.randn(B, T, generator=rng).double()
        rewards = torch.randint(0, 3, (P, G), generator=rng).double() / 2
        rewards[0, 0] += 0.7 + rewards[0].max()  # at least one group speaks
        return new, old, ref, rewards, some_mask(rng, B, T), clip, beta

    yield case(1, 2, 3, 0.0)
    yield case(1, 2, 3, 0.5)
    *others, mask, clip, beta = case(1, 2, 3, 0.1)
    mask[1] = False  # an answer without a token
    yield *others, mask, clip, beta
    yield case(2, 2, 4, 0.0, spread=0.0)  # the first update: all ratios are 1
    yield case(2, 3, 4, 0.3)
    for _ in range(3 if hidden else 1):
        P, G, T = whole(rng, 2, 4), whole(rng, 2, 5), whole(rng, 3, 6)
        yield case(P, G, T, 0.2, 0.1 + whole(rng, 0, 3) / 10)


def drive_loss(answer, logprobs, old, ref, rewards, mask, clip, beta):
    leaf = logprobs.clone().requires_grad_()
    loss = answer(leaf, old, ref, rewards, mask, clip, beta)
    gradient = None
    if loss.requires_grad:
        loss.backward()
        gradient = leaf.grad
    return {"loss": loss, "gradient": gradient}


def reference_loss(logprobs, old, ref, rewards, mask, clip, beta):
    advantages = [a for row in rewards.tolist() for a in advantages_of(row, True)]
    loss, gradient, B = 0.0, torch.zeros_like(logprobs), len(advantages)
    for b, advantage in enumerate(advantages):
        places = mask[b].nonzero()[:, 0].tolist()
        for t in places:
            new = logprobs[b, t].item()
            ratio = math.exp(new - old[b, t].item())
            value, slope = clip_term(ratio, advantage, clip, clip)
            kl, kl_slope = k_terms(new - ref[b, t].item(), "k3")
            share = 1 / (len(places) * B)
            loss += share * (value + beta * kl)
            gradient[b, t] = share * (slope + beta * kl_slope)
    return {"loss": torch.tensor(loss, dtype=logprobs.dtype), "gradient": gradient}


def task(name, cases, drive, reference, tolerance=TOLERANCE):
    """A task with the mistakes that are known of it."""
    return Task(cases, drive, reference, MISTAKES[name], tolerance)


# A boolean mask over a count is float32, and so is torch.where of two Python floats,
# whatever the terms are: their rounding passes.
SINGLE = {**TOLERANCE, "float64": 1e-6}

TASKS = {
    "reward_of": task("reward_of", reward_cases, drive_reward, reference_reward),
    "group_advantages": task(
        "group_advantages", advantage_cases, drive_advantages, reference_advantages
    ),
    "token_logprobs": task(
        "token_logprobs", logprob_cases, drive_logprobs, reference_logprobs
    ),
    "kl_terms": task("kl_terms", kl_cases, drive_kl, reference_kl),
    "clipped_terms": task(
        "clipped_terms", clip_cases, drive_clip, reference_clip, SINGLE
    ),
    "aggregate": task(
        "aggregate", aggregate_cases, drive_aggregate, reference_aggregate, SINGLE
    ),
    "grpo_loss": task("grpo_loss", loss_cases, drive_loss, reference_loss, SINGLE),
}
