"""Checks of the exercise `dpo`.

References: sums in float64 over single tokens (sequence_logprobs), a normalised product
shifted by its largest exponent and the objective term by term (optimal_policy),
logarithms in plain Python (rewards_from_policy), shares of strengths (preference),
log1p of one exponential and its derivative in closed form (dpo_loss, dpo_gradient), a
loop over pairs (ipo_loss), gradient descent on a table of bigrams with its softmax
derivative written out (train_dpo).
"""

from __future__ import annotations

import math
from functools import partial

import torch

from posttrain.checks.draws import uniform
from posttrain.checks.mistakes.dpo import MISTAKES
from posttrain.checks.task import TOLERANCE, Task

NO_AUTOGRAD = ("torch.autograd.grad", "Tensor.backward", "torch.func.grad")


def sizes(rng, low, high, count):
    """`count` random whole numbers, low <= n < high."""
    return [int(n) for n in torch.randint(low, high, (count,), generator=rng)]


# ---------------------------------------------------------- sequence_logprobs


def sequence_cases(rng, hidden):
    def case(B, T, V, scale=1.0, dtype=torch.float64):
        logits = (scale * torch.randn(B, T, V, generator=rng)).to(dtype)
        tokens = torch.randint(0, V, (B, T), generator=rng)
        mask = torch.zeros(B, T, dtype=torch.bool)
        for row in range(B):  # prompt, completion, padding
            first = int(torch.randint(1, T, (), generator=rng))
            last = int(torch.randint(first, T, (), generator=rng))
            mask[row, first : last + 1] = True
        return logits, tokens, mask

    yield torch.zeros(1, 2, 4), torch.tensor([[0, 3]]), torch.tensor([[False, True]])
    halves = torch.tensor([[[0.0, 0.0], [0.0, math.log(3)], [5.0, 0.0]]])
    tokens = torch.tensor([[0, 1, 0]])
    yield halves, tokens, torch.tensor([[False, True, True]])
    yield halves, tokens, torch.tensor([[False, False, True]])  # a longer prompt
    yield halves, tokens, torch.tensor([[False, True, False]])  # and padding
    hole = torch.tensor([[False, True, False, True, True]])  # a tool's words inside
    yield case(1, 5, 3)[0], torch.tensor([[0, 1, 2, 1, 0]]), hole
    big = torch.tensor([[[1000.0, 0.0], [0.0, 1000.0], [0.0, 0.0]]])
    yield big, torch.tensor([[0, 1, 0]]), torch.tensor([[False, True, True]])
    yield case(4, 4, 4)
    yield case(3, 6, 5, scale=3.0)
    yield case(2, 5, 7, dtype=torch.float32)
    for _ in range(4 if hidden else 1):
        B, T, V = sizes(rng, 2, 9, 3)
        yield case(B, T, V, scale=4.0)


def drive_sequence(answer, logits, tokens, mask):
    """The sums, and their gradient: the weights of a model learn from it."""
    leaf = logits.clone().requires_grad_()
    logprobs = answer(leaf, tokens, mask)
    logprobs.sum().backward()
    return {"logprobs": logprobs, "gradient": leaf.grad, "mask": mask}


def reference_sequence(logits, tokens, mask):
    B, T, V = logits.shape
    sums, gradient = [0.0] * B, torch.zeros(B, T, V, dtype=torch.float64)
    for b in range(B):
        for t in range(1, T):
            if mask[b, t]:
                scores = logits[b, t - 1].double()
                p = (scores - scores.max()).exp()
                total = p.sum()
                sums[b] += (scores[tokens[b, t]] - scores.max() - total.log()).item()
                gradient[b, t - 1] -= p / total
                gradient[b, t - 1, tokens[b, t]] += 1
    return {
        "logprobs": torch.tensor(sums, dtype=torch.float64).to(logits.dtype),
        "gradient": gradient.to(logits.dtype),
        "mask": mask,
    }


# ------------------------------------------------------------- optimal_policy


def distribution(rng, *shape, dtype=torch.float64):
    """Probabilities along the last dimension, none close to 0."""
    p = torch.rand(*shape, dtype=torch.float64, generator=rng) + 0.05
    return (p / p.sum(-1, keepdim=True)).to(dtype)


def two_policies(rng, hidden):
    """A policy, its reference and beta: once in float32, then of random sizes."""
    draw = partial(distribution, rng)
    yield draw(2, 3, dtype=torch.float32), draw(2, 3, dtype=torch.float32), 0.5
    for _ in range(4 if hidden else 1):
        N, Y = sizes(rng, 2, 7, 2)
        yield draw(N, Y), draw(N, Y), uniform(rng, 0.05, 3.0)


def policy_cases(rng, hidden):
    ref = partial(distribution, rng)

    def rewards(*shape, scale=1.0, dtype=torch.float64):
        draw = torch.randn(*shape, dtype=torch.float64, generator=rng)
        return (scale * draw).to(dtype)

    yield torch.tensor([0.5, 0.5]), torch.tensor([math.log(3), 0.0]), 1.0
    yield torch.tensor([0.25, 0.75]), torch.tensor([2.0, 2.0]), 0.5  # nothing to learn
    yield torch.tensor([0.25, 0.75]), torch.tensor([1.0, 0.0]), 2.0
    yield (
        torch.tensor([0.5, 0.5, 0.0]),
        torch.tensor([0.0, 1.0, 9.0]),
        1.0,
    )  # never said
    yield torch.tensor([0.5, 0.5]), torch.tensor([1000.0, 999.0]), 1.0  # exp overflows
    yield torch.tensor([0.5, 0.5]), torch.tensor([-2000.0, -2001.0]), 1.0  # underflows
    yield torch.tensor([1.0]), torch.tensor([3.0]), 0.1
    far_apart = torch.tensor([[1000.0, 999.0], [-1000.0, -1001.0]])
    yield torch.full((2, 2), 0.5), far_apart, 1.0  # each prompt has its own largest
    yield ref(3, 3), rewards(3, 3), 0.7  # a prompt a row
    yield ref(2, 3, 4), rewards(2, 3, 4), 3.0
    yield ref(5, dtype=torch.float32), rewards(5, dtype=torch.float32), 0.3
    for _ in range(4 if hidden else 1):
        N, Y = sizes(rng, 1, 7, 2)
        yield ref(N, Y), rewards(N, Y, scale=2.0), uniform(rng, 0.1, 3.0)


def drive_policy(answer, ref, rewards, beta):
    policy, worth = answer(ref, rewards, beta)
    return {"policy": policy, "worth": worth, "ref": ref, "rewards": rewards}


def reference_policy(ref, rewards, beta):
    """The worth by what the objective says: reward less beta KL, reply by reply."""
    exponents = rewards.double() / beta
    share = ref.double() * (exponents - exponents.amax(-1, keepdim=True)).exp()
    policy = share / share.sum(-1, keepdim=True)
    said = policy > 0
    each = rewards - beta * (policy.where(said, 1) / ref.where(said, 1)).log()
    return {
        "policy": policy.to(ref.dtype),
        "worth": (policy * each).sum(-1).to(ref.dtype),
        "ref": ref,
        "rewards": rewards,
    }


# -------------------------------------------------------- rewards_from_policy


def reward_cases(rng, hidden):
    draw = partial(distribution, rng)
    yield torch.tensor([0.75, 0.25]), torch.tensor([0.25, 0.75]), 1.0
    yield (
        torch.tensor([0.5, 0.5]),
        torch.tensor([0.5, 0.5]),
        0.3,
    )  # the reference itself
    yield torch.tensor([0.8, 0.2]), torch.tensor([0.5, 0.5]), 0.1
    yield draw(3), draw(3), 2.0
    yield draw(4, 4), draw(4, 4), 0.5
    yield from two_policies(rng, hidden)


def drive_rewards(answer, policy, ref, beta):
    return {"rewards": answer(policy, ref, beta), "policy": policy, "ref": ref}


def reference_rewards(policy, ref, beta):
    flat = zip(policy.flatten().tolist(), ref.flatten().tolist(), strict=True)
    rewards = torch.tensor(
        [beta * (math.log(p) - math.log(q)) for p, q in flat], dtype=policy.dtype
    )
    return {"rewards": rewards.view_as(policy), "policy": policy, "ref": ref}


# ------------------------------------------------------------------ preference


def preference_cases(rng, hidden):
    draw = partial(distribution, rng)
    even = torch.tensor([0.5, 0.5])
    yield torch.tensor([0.75, 0.25]), even, 1.0  # 3 to 1
    yield torch.tensor([0.9, 0.1]), torch.tensor([0.9, 0.1]), 0.3  # nothing moved
    yield even, torch.tensor([0.8, 0.2]), 2.0
    yield torch.tensor([0.8, 0.2]), even, 0.1
    yield torch.tensor([1.0]), torch.tensor([1.0]), 1.0  # one reply, against itself
    yield draw(3, 3), draw(3, 3), 0.5  # a prompt a matrix
    yield draw(2, 3, 4), draw(2, 3, 4), 3.0
    yield from two_policies(rng, hidden)


def drive_preference(answer, policy, ref, beta):
    return {"preference": answer(policy, ref, beta), "policy": policy, "ref": ref}


def reference_preference(policy, ref, beta):
    """By odds, pair by pair: strengths (policy / reference)^beta, and their shares."""
    Y = policy.shape[-1]
    rows = zip(
        policy.double().reshape(-1, Y).tolist(),
        ref.double().reshape(-1, Y).tolist(),
        strict=True,
    )
    found = []
    for ps, qs in rows:
        strengths = [(p / q) ** beta for p, q in zip(ps, qs, strict=True)]
        found.append([[a / (a + b) for b in strengths] for a in strengths])
    table = torch.tensor(found, dtype=policy.dtype).view(*policy.shape, Y)
    return {"preference": table, "policy": policy, "ref": ref}


# ------------------------------------------------------- dpo_loss, dpo_gradient


def four(rng, B, dtype=torch.float64, scale=40.0):
    """Log-probabilities of B pairs: policy and reference, chosen and rejected.

    Multiples of 1/64, so that float32 adds them without rounding, in any order.
    """
    draw = torch.rand(4, B, generator=rng, dtype=torch.float64)
    return tuple((-(draw * scale * 64).round() / 64).to(dtype))


def pair(pc, pr, rc, rr):
    return tuple(torch.tensor([float(x)]) for x in (pc, pr, rc, rr))


def loss_cases(rng, hidden):
    yield *pair(-3, -6, -5, -5), 0.5, 0.0  # a margin of 1.5
    yield *pair(-3, -6, -3, -6), 0.5, 0.0  # the reference itself: log 2
    yield *pair(-6, -3, -5, -5), 0.5, 0.0  # prefers the wrong one
    yield *pair(-3, -6, -5, -5), 0.5, 0.25
    yield *pair(-4000, -10, -10, -10), 1.0, 0.0  # sigmoid is 0: its log is not finite
    yield *pair(-10, -4000, -10, -10), 1.0, 0.1
    yield *four(rng, 3), 0.1, 0.0
    yield *four(rng, 5), 0.3, 0.1
    yield *four(rng, 4, torch.float32), 0.5, 0.0
    for _ in range(4 if hidden else 1):
        [B] = sizes(rng, 2, 9, 1)
        beta, smoothing = uniform(rng, 0.02, 0.8), uniform(rng, 0.02, 0.4)
        yield *four(rng, B), beta, smoothing


def drive_loss(answer, pc, pr, rc, rr, beta, smoothing):
    """All four require a gradient here; the reference must not get one."""
    leaves = [x.clone().requires_grad_() for x in (pc, pr, rc, rr)]
    loss = answer(*leaves, beta, smoothing) if smoothing else answer(*leaves, beta)
    loss.backward()
    learns = [x.grad is not None and bool(x.grad.any()) for x in leaves[2:]]
    return {
        "loss": loss,
        "gradient at the chosen": leaves[0].grad,
        "gradient at the rejected": leaves[1].grad,
        "the reference gets a gradient": any(learns),
    }


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def margins(pc, pr, rc, rr, beta):
    rows = zip(*(x.double().tolist() for x in (pc, pr, rc, rr)), strict=True)
    return [beta * ((a - c) - (b - d)) for a, b, c, d in rows]


def reference_loss(pc, pr, rc, rr, beta, smoothing):
    all_margins = margins(pc, pr, rc, rr, beta)
    losses = [
        (1 - smoothing) * softplus(-m) + smoothing * softplus(m) for m in all_margins
    ]
    slopes = [
        beta * (smoothing * sigmoid(m) - (1 - smoothing) * sigmoid(-m)) / len(losses)
        for m in all_margins
    ]
    return {
        "loss": torch.tensor(sum(losses) / len(losses), dtype=pc.dtype),
        "gradient at the chosen": torch.tensor(slopes, dtype=pc.dtype),
        "gradient at the rejected": torch.tensor([-s for s in slopes], dtype=pc.dtype),
        "the reference gets a gradient": False,
    }


def gradient_cases(rng, hidden):
    for *rest, _ in loss_cases(rng, hidden):
        yield tuple(rest)


def drive_gradient(answer, pc, pr, rc, rr, beta):
    chosen, rejected = answer(pc, pr, rc, rr, beta)
    return {"chosen": chosen, "rejected": rejected}


def reference_gradient(pc, pr, rc, rr, beta):
    found = reference_loss(pc, pr, rc, rr, beta, 0.0)
    return {
        "chosen": found["gradient at the chosen"],
        "rejected": found["gradient at the rejected"],
    }


# ------------------------------------------------------------------- ipo_loss


def ipo_cases(rng, hidden):
    def lengths(B):
        return torch.randint(1, 30, (2, B), generator=rng).unbind()

    yield *pair(-3, -6, -5, -5), torch.tensor([4]), torch.tensor([2]), 0.25
    yield *pair(-3, -6, -3, -6), torch.tensor([3]), torch.tensor([3]), 0.5
    yield *pair(-3, -5, -5, -5), torch.tensor([2]), torch.tensor([5]), 0.5  # reached
    yield *pair(-2, -9, -6, -5), torch.tensor([2]), torch.tensor([4]), 1.0  # too far
    yield *four(rng, 3), *lengths(3), 0.1
    yield *four(rng, 4, torch.float32, scale=8.0), *lengths(4), 0.5
    for _ in range(4 if hidden else 1):
        [B] = sizes(rng, 2, 9, 1)
        yield *four(rng, B), *lengths(B), uniform(rng, 0.05, 2.0)


def drive_ipo(answer, pc, pr, rc, rr, chosen_lengths, rejected_lengths, beta):
    leaves = [x.clone().requires_grad_() for x in (pc, pr)]
    loss = answer(*leaves, rc, rr, chosen_lengths, rejected_lengths, beta)
    loss.backward()
    return {"loss": loss, "gradients": [x.grad for x in leaves]}


def reference_ipo(pc, pr, rc, rr, chosen_lengths, rejected_lengths, beta):
    B, total, up, down = len(pc), 0.0, [], []
    for b in range(B):
        n, m = chosen_lengths[b].item(), rejected_lengths[b].item()
        chosen = (pc[b].item() - rc[b].item()) / n
        rejected = (pr[b].item() - rr[b].item()) / m
        off = chosen - rejected - 1 / (2 * beta)
        total += off**2 / B
        up.append(2 * off / n / B)
        down.append(-2 * off / m / B)
    return {
        "loss": torch.tensor(total, dtype=pc.dtype),
        "gradients": [torch.tensor(g, dtype=pc.dtype) for g in (up, down)],
    }


# ------------------------------------------------------------------ train_dpo


def training_cases(rng, hidden):
    def case(B, T, V, steps, beta=0.5, lr=0.5):
        def weights():
            return 0.7 * torch.randn(V, V, generator=rng, dtype=torch.float64)

        def replies():
            tokens = torch.randint(0, V, (B, T), generator=rng)
            mask = torch.zeros(B, T, dtype=torch.bool)
            for row, first in enumerate(torch.randint(1, T, (B,), generator=rng)):
                mask[row, first:] = True
            return tokens, mask

        return weights(), weights(), *replies(), *replies(), beta, lr, steps

    yield case(1, 2, 2, steps=1)
    yield case(1, 3, 3, steps=2)
    yield case(2, 4, 3, steps=3)
    yield case(3, 4, 4, steps=3, beta=0.1, lr=2.0)
    for _ in range(2 if hidden else 1):
        B, T, V = sizes(rng, 2, 6, 3)
        yield case(B, T, V, 4, uniform(rng, 0.1, 1.0), uniform(rng, 0.1, 1.0))


def drive_training(
    answer,
    weight,
    ref_weight,
    chosen,
    chosen_mask,
    rejected,
    rejected_mask,
    beta,
    lr,
    steps,
):
    """A table of bigrams as the model. In training it halves its logits: that is its
    dropout, the same at every call so that it can be checked."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Bigrams(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = nn.Parameter(weight.clone())

        def forward(self, tokens):
            logits = self.weight[tokens]
            return logits / 2 if self.training else logits

    def logprobs(model, tokens, mask):
        table = model(tokens[:, :-1]).log_softmax(-1)
        each = table.gather(-1, tokens[:, 1:, None])[..., 0]
        return (each * mask[:, 1:]).sum(1)

    def loss_of(pc, pr, rc, rr):
        return -F.logsigmoid(beta * ((pc - rc) - (pr - rr))).mean()

    model, reference = Bigrams(weight).eval(), Bigrams(ref_weight).train()
    model.weight.grad = torch.ones_like(model.weight)  # left over from before
    pairs = (chosen, chosen_mask), (rejected, rejected_mask)
    losses = answer(model, reference, *pairs, logprobs, loss_of, lr, steps)
    return {
        "losses": [float(loss) for loss in losses],
        "weight": model.weight,
        "reference": reference.weight,
        "the reference has a gradient": reference.weight.grad is not None,
    }


def reference_training(
    weight,
    ref_weight,
    chosen,
    chosen_mask,
    rejected,
    rejected_mask,
    beta,
    lr,
    steps,
):
    def score(weight, tokens, mask, scale):
        """log p of one row, and its derivative at the table."""
        total, slope = 0.0, torch.zeros_like(weight)
        for t in range(1, len(tokens)):
            if mask[t]:
                here, there = int(tokens[t - 1]), int(tokens[t])
                p = (scale * weight[here] - (scale * weight[here]).max()).exp()
                p = p / p.sum()
                total += p[there].log().item()
                slope[here] -= scale * p
                slope[here, there] += scale
        return total, slope

    weight, B, losses = weight.clone(), len(chosen), []
    for _ in range(steps):
        loss, step = 0.0, torch.zeros_like(weight)
        for b in range(B):
            up, down = (chosen[b], chosen_mask[b]), (rejected[b], rejected_mask[b])
            (pc, raise_it), (pr, lower_it) = (
                score(weight, *row, 0.5) for row in (up, down)
            )
            (rc, _), (rr, _) = (score(ref_weight, *row, 1.0) for row in (up, down))
            margin = beta * ((pc - rc) - (pr - rr))
            loss += softplus(-margin) / B
            step += beta * sigmoid(-margin) / B * (raise_it - lower_it)
        losses.append(loss)
        weight = weight + lr * step
    return {
        "losses": losses,
        "weight": weight,
        "reference": ref_weight,
        "the reference has a gradient": False,
    }


# PyTorch's softplus leaves out e^-20 = 2e-9 from its threshold on: a right answer may
# use it, so losses and slopes are given five times that.
SOFTPLUS = {**TOLERANCE, "float64": 1e-8}

TASKS = {
    "sequence_logprobs": Task(
        sequence_cases,
        drive_sequence,
        reference_sequence,
        MISTAKES["sequence_logprobs"],
    ),
    "optimal_policy": Task(
        policy_cases, drive_policy, reference_policy, MISTAKES["optimal_policy"]
    ),
    "rewards_from_policy": Task(
        reward_cases, drive_rewards, reference_rewards, MISTAKES["rewards_from_policy"]
    ),
    "preference": Task(
        preference_cases,
        drive_preference,
        reference_preference,
        MISTAKES["preference"],
    ),
    "dpo_loss": Task(
        loss_cases, drive_loss, reference_loss, MISTAKES["dpo_loss"], tolerance=SOFTPLUS
    ),
    "dpo_gradient": Task(
        gradient_cases,
        drive_gradient,
        reference_gradient,
        MISTAKES["dpo_gradient"],
        forbid=NO_AUTOGRAD,
    ),
    "ipo_loss": Task(ipo_cases, drive_ipo, reference_ipo, MISTAKES["ipo_loss"]),
    "train_dpo": Task(
        training_cases,
        drive_training,
        reference_training,
        MISTAKES["train_dpo"],
        tolerance=SOFTPLUS,
    ),
}
