"""Checks of the exercise `reward_model`.

References: log1p in Python's float64 (the losses), rows read in Python (last_reward),
bins in Python (calibration_error), Newton's method (fit_strengths), all subsets
(best_of_n) and all draws (best_of_n_distribution) enumerated.
"""

from __future__ import annotations

import itertools
import math

import torch

from posttrain.checks.draws import whole
from posttrain.checks.mistakes.reward_model import MISTAKES
from posttrain.checks.task import TOLERANCE, Task


def normal(rng, *shape, scale=2.0, dtype=torch.float32):
    """Random numbers around 0."""
    return (scale * torch.randn(*shape, generator=rng)).to(dtype)


def minus_log_sigmoid(x):
    """-log σ(x) of a float, for any x."""
    return max(-x, 0.0) + math.log1p(math.exp(-abs(x)))


def mean(values):
    """The mean of some floats."""
    return math.fsum(values) / len(values)


def drive_loss(answer, chosen, rejected, *rest):
    """The loss, and the gradients that training would use."""
    import torch

    pair = [x.clone().requires_grad_() for x in (chosen, rejected)]
    loss = answer(*pair, *rest)
    if not isinstance(loss, torch.Tensor) or loss.ndim:
        return {"loss": loss, "gradients": None}  # not a scalar: said as it is
    loss.backward()
    return {"loss": loss, "gradients": [x.grad for x in pair]}


def scalar(value, like):
    """A tensor without dimensions, in the dtype of `like`."""
    return torch.tensor(value, dtype=like.dtype)


# ---------------------------------------------------------------- pair_loss


def pair_cases(rng, hidden):
    yield torch.tensor([1.0]), torch.tensor([0.0])
    yield torch.tensor([0.0, 2.0]), torch.tensor([1.0, -1.0])
    yield torch.tensor([300.0, -300.0]), torch.tensor([-300.0, 300.0])  # far apart
    yield torch.tensor([40.0, -40.0]).double(), torch.tensor([-40.0, 40.0]).double()
    for _ in range(4 if hidden else 1):
        B = whole(rng, 2, 9)
        yield normal(rng, B), normal(rng, B)


def reference_pair(chosen, rejected):
    return reference_labelled(
        chosen, rejected, torch.zeros_like(chosen), torch.ones_like(chosen)
    )


# ---------------------------------------------------------------- labelled_loss


def labelled_cases(rng, hidden):
    yield tuple(torch.tensor([x]) for x in (1.0, 0.5, 1.0, 1.0))
    yield tuple(torch.tensor([x]) for x in (1.0, 0.5, 0.0, 0.5))
    yield tuple(torch.tensor([x]) for x in (2.0, -1.0, 0.5, 0.9))
    far = torch.tensor([200.0, -200.0])
    yield far, -far, torch.tensor([1.0, 2.0]), torch.tensor([0.9, 0.9])
    for i in range(4 if hidden else 2):
        B, dtype = whole(rng, 2, 9), (torch.float64, torch.float32)[i % 2]
        margin = normal(rng, B, dtype=dtype).abs()
        target = 0.5 + 0.5 * torch.rand(B, generator=rng).to(dtype)
        yield normal(rng, B, dtype=dtype), normal(rng, B, dtype=dtype), margin, target


def reference_labelled(chosen, rejected, margin, target):
    rows = list(
        zip(*(x.tolist() for x in (chosen, rejected, margin, target)), strict=True)
    )
    losses, slopes = [], []
    for c, r, m, q in rows:
        d = c - r - m
        losses.append(q * minus_log_sigmoid(d) + (1 - q) * minus_log_sigmoid(-d))
        slopes.append((math.exp(-minus_log_sigmoid(d)) - q) / len(rows))
    grad = torch.tensor(slopes, dtype=chosen.dtype)
    return {"loss": scalar(mean(losses), chosen), "gradients": [grad, -grad]}


# ---------------------------------------------------------------- centred_loss


def centred_cases(rng, hidden):
    yield torch.tensor([1.0]), torch.tensor([0.5]), 0.1
    yield torch.tensor([1.0, -3.0]), torch.tensor([-1.0, 3.0]), 0.5  # sums are 0
    yield torch.tensor([5.0, 7.0]), torch.tensor([4.0, 7.0]), 0.01
    for i in range(4 if hidden else 2):
        B, dtype = whole(rng, 2, 9), (torch.float64, torch.float32)[i % 2]
        coefficient = round(0.02 + torch.rand((), generator=rng).item() / 2, 3)
        pair = normal(rng, B, dtype=dtype), normal(rng, B, dtype=dtype)
        yield *pair, coefficient


def reference_centred(chosen, rejected, coefficient):
    plain = reference_pair(chosen, rejected)
    sums = [c + r for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True)]
    extra = coefficient * mean([s * s for s in sums])
    pull = [2 * coefficient * s / len(sums) for s in sums]
    pull = torch.tensor(pull, dtype=chosen.dtype)
    return {
        "loss": scalar(plain["loss"].item() + extra, chosen),
        "gradients": [g + pull for g in plain["gradients"]],
    }


# ---------------------------------------------------------------- last_reward


def last_cases(rng, hidden):
    def case(left, lengths, right, dtype=torch.float32):
        """Rows of these lengths, so much padding to the left, the rest to the right."""
        T = max(a + n for a, n in zip(left, lengths, strict=True)) + right
        mask = torch.zeros(len(lengths), T, dtype=torch.bool)
        for row, (a, n) in enumerate(zip(left, lengths, strict=True)):
            mask[row, a : a + n] = True
        return normal(rng, len(lengths), T, dtype=dtype), mask

    yield case([0], [1], 0)  # a lone token
    yield case([0, 0], [3, 3], 0)  # no padding
    yield case([0, 0, 0], [4, 2, 1], 0)  # on the right
    yield case([0, 2, 3], [4, 2, 1], 0)  # on the left
    yield case([0, 1], [2, 3], 2)  # all rows end in padding; both sides
    zero = torch.tensor([[1.0, 2.0, 0.0]])  # a score may be 0
    yield zero, torch.ones(1, 3, dtype=torch.bool)
    for _ in range(4 if hidden else 1):
        B = whole(rng, 2, 6)
        left = [whole(rng, 0, 4) for _ in range(B)]
        lengths = [whole(rng, 1, 6) for _ in range(B)]
        yield case(left, lengths, whole(rng, 0, 3), torch.float64)


def drive_last(answer, scores, mask):
    given = scores.clone(), mask.clone()
    rewards = answer(scores, mask)
    same = scores.equal(given[0]) and mask.equal(given[1])
    return {"rewards": rewards, "inputs unchanged": same}


def reference_last(scores, mask):
    rows = zip(scores.tolist(), mask.tolist(), strict=True)
    found = [[s for s, real in zip(*row, strict=True) if real][-1] for row in rows]
    return {
        "rewards": torch.tensor(found, dtype=scores.dtype),
        "inputs unchanged": True,
    }


# ---------------------------------------------------------------- calibration_error


def calibration_cases(rng, hidden):
    def case(N, bins):
        """No probability near the edge of a bin: rounding must not decide."""
        place = torch.randint(bins, (N,), generator=rng).double()
        inside = 0.05 + 0.9 * torch.rand(N, generator=rng).double()
        wins = (torch.rand(N, generator=rng) < 0.6).double()
        wins[:: whole(rng, 3, 7)] = 0.5  # some ties
        return (place + inside) / bins, wins, bins

    def exact(probabilities, wins, bins):
        as_double = (
            torch.tensor(x, dtype=torch.float64) for x in (probabilities, wins)
        )
        return *as_double, bins

    yield exact([0.9], [1.0], 10)
    yield exact([0.9, 0.9, 0.9, 0.2], [1.0, 0.0, 1.0, 0.0], 2)
    yield exact([0.3, 0.4, 0.7, 0.8], [1.0, 0.0, 0.5, 1.0], 2)
    yield exact([1.0, 0.8, 0.0, 0.1], [0.0, 1.0, 0.0, 1.0], 4)  # both ends count
    yield exact([0.25, 0.3, 0.5, 0.6], [1.0, 0.0, 0.0, 1.0], 4)  # lower edges
    for _ in range(4 if hidden else 2):
        yield case(whole(rng, 8, 60), whole(rng, 3, 12))


def drive_number(answer, *case):
    return float(answer(*case))


def reference_calibration(probabilities, wins, bins):
    gaps = [[] for _ in range(bins)]
    for p, won in zip(probabilities.tolist(), wins.tolist(), strict=True):
        gaps[min(int(p * bins), bins - 1)].append(p - won)
    return math.fsum(abs(math.fsum(bin)) for bin in gaps) / len(probabilities)


# ---------------------------------------------------------------- fit_strengths


def strength_cases(rng, hidden):
    yield [(0, 1, 1.0), (0, 1, 1.0), (1, 0, 1.0)], 2
    yield [(0, 1, 1.0), (0, 1, 0.0), (0, 1, 0.5), (0, 1, 0.5), (0, 1, 1.0)], 2
    yield [(0, 1, 0.5)], 2  # a tie alone
    # in a circle: all alike
    yield [(0, 1, 1.0), (1, 2, 1.0), (2, 0, 1.0)], 3
    # two groups that met rarely
    groups = [(0, 1, 0.5), (0, 1, 1.0), (2, 3, 0.5), (3, 2, 1.0), (1, 2, 0.5)]
    yield groups + groups[:1], 4
    for _ in range(4 if hidden else 2):
        K = whole(rng, 3, 6)
        true = normal(rng, K, scale=0.8).tolist()
        games = [(i, j, 0.5) for i, j in itertools.combinations(range(K), 2)]
        for _ in range(12 * K):
            i, j = torch.randperm(K, generator=rng)[:2].tolist()
            p = 1 / (1 + math.exp(true[j] - true[i]))
            games.append((i, j, float(torch.rand((), generator=rng).item() < p)))
        yield games, K


def drive_strengths(answer, games, K):
    import torch

    found = answer(list(games), K)
    return torch.as_tensor(found).double()


def reference_strengths(games, K):
    """Newton's method on the log-likelihood, the mean held at 0."""
    s = torch.zeros(K, dtype=torch.float64)
    for _ in range(60):
        slope = torch.zeros(K, dtype=torch.float64)
        bend = torch.full((K, K), 1.0 / K, dtype=torch.float64)  # keeps the mean
        for i, j, result in games:
            p = 1 / (1 + math.exp((s[j] - s[i]).item()))
            slope[i] += result - p
            slope[j] -= result - p
            for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
                bend[a, b] += sign * p * (1 - p)
        step = torch.linalg.solve(bend, slope)
        s = s + step.clamp(-1, 1)
        if step.abs().max() < 1e-13:
            break
    return s - s.mean()


# ---------------------------------------------------------------- best_of_n


def best_cases(rng, hidden):
    def case(N, n):
        proxy = torch.randperm(N, generator=rng).double() - N / 2
        return proxy, normal(rng, N, dtype=torch.float64), n

    yield torch.tensor([0.3]).double(), torch.tensor([2.0]).double(), 1
    yield torch.tensor([1.0, 2.0]).double(), torch.tensor([5.0, 3.0]).double(), 2
    yield torch.tensor([3.0, 1.0, 2.0]).double(), torch.tensor([0.0, 6, 3]).double(), 2
    yield case(5, 1)
    yield case(6, 6)
    for _ in range(5 if hidden else 2):
        N = whole(rng, 5, 11)
        yield case(N, whole(rng, 2, N))


def reference_best(proxy, gold, n):
    proxy, gold = proxy.tolist(), gold.tolist()
    sets = itertools.combinations(range(len(proxy)), n)
    return mean([gold[max(some, key=proxy.__getitem__)] for some in sets])


# ------------------------------------------------------- best_of_n_distribution


def distribution_cases(rng, hidden):
    def case(V, n):
        probs = 0.05 + torch.rand(V, generator=rng).double()
        rewards = torch.randperm(V, generator=rng).double() - V / 2
        return probs / probs.sum(), rewards, n

    yield torch.tensor([0.5, 0.5]).double(), torch.tensor([1.0, 0.0]).double(), 1
    yield torch.tensor([0.5, 0.5]).double(), torch.tensor([1.0, 0.0]).double(), 2
    yield torch.tensor([0.7, 0.1, 0.2]).double(), torch.tensor([0.0, 2, 1]).double(), 3
    yield torch.tensor([1.0]).double(), torch.tensor([-1.0]).double(), 4
    for _ in range(4 if hidden else 2):
        yield case(whole(rng, 3, 6), whole(rng, 2, 5))


def drive_distribution(answer, probs, rewards, n):
    distribution, kl = answer(probs, rewards, n)
    return {"distribution": distribution, "KL": float(kl)}


def reference_distribution(probs, rewards, n):
    """All V^n draws, one by one."""
    p, r = probs.tolist(), rewards.tolist()
    found = [0.0] * len(p)
    for draws in itertools.product(range(len(p)), repeat=n):
        found[max(draws, key=r.__getitem__)] += math.prod(p[i] for i in draws)
    kl = math.fsum(q * math.log(q / p[i]) for i, q in enumerate(found))
    return {"distribution": torch.tensor(found, dtype=torch.float64), "KL": kl}


TASKS = {
    "pair_loss": Task(pair_cases, drive_loss, reference_pair, MISTAKES["pair_loss"]),
    "labelled_loss": Task(
        labelled_cases, drive_loss, reference_labelled, MISTAKES["labelled_loss"]
    ),
    "centred_loss": Task(
        centred_cases, drive_loss, reference_centred, MISTAKES["centred_loss"]
    ),
    "last_reward": Task(
        last_cases, drive_last, reference_last, MISTAKES["last_reward"]
    ),
    "calibration_error": Task(
        calibration_cases,
        drive_number,
        reference_calibration,
        MISTAKES["calibration_error"],
    ),
    "fit_strengths": Task(
        strength_cases,
        drive_strengths,
        reference_strengths,
        MISTAKES["fit_strengths"],
        # An iteration stops somewhere: 0.001 of strength is 0.00025 of probability.
        tolerance={**TOLERANCE, "float64": 1e-3},
    ),
    "best_of_n": Task(best_cases, drive_number, reference_best, MISTAKES["best_of_n"]),
    "best_of_n_distribution": Task(
        distribution_cases,
        drive_distribution,
        reference_distribution,
        MISTAKES["best_of_n_distribution"],
    ),
}
