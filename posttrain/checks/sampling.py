"""Checks of the exercise `sampling`.

References: rows sorted and summed in Python (the cuts), the rule token by token
(penalise_repetition), the softmax itself (draw, judged by frequencies), log-sum-exp in
float64 (answer_logprobs), exact fractions of subsets (pass_at_k), all pairs sorted
(beam_step).
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import torch

from posttrain.checks.draws import whole
from posttrain.checks.mistakes.sampling import MISTAKES
from posttrain.checks.task import TOLERANCE, Task

CUT = float("-inf")
DRAWS = 20_000  # a row


def by_row(logits, rule):
    """`rule` on each row (a list) of a tensor (..., V)."""
    rows = [rule(row) for row in logits.reshape(-1, logits.shape[-1]).tolist()]
    return torch.tensor(rows, dtype=logits.dtype).reshape(logits.shape)


def probabilities(row):
    """Softmax of a list, in float64."""
    top = max(row)
    weights = [math.exp(x - top) for x in row]
    return [w / math.fsum(weights) for w in weights]


def drive_cut(answer, logits, setting):
    given = logits.clone()
    return {"logits": answer(logits, setting), "input unchanged": logits.equal(given)}


# ---------------------------------------------------------------- keep_top_k


def top_k_cases(rng, hidden):
    def draw(*shape):
        return 3 * torch.randn(*shape, generator=rng)

    yield torch.tensor([[1.0, 3.0, 2.0]]), 1
    yield torch.tensor([[1.0, 3.0, 2.0]]), 2
    yield torch.tensor([2.0, 0.0, 1.0, 1.0, 1.0]), 2  # ties with the second
    yield torch.tensor([3.0, 3.0, 2.0, 1.0]), 2  # ties above the second
    yield torch.tensor([[0.5, -1.0]]), 5  # more than there are
    yield torch.tensor([[1.0, CUT, 0.0, CUT]]), 3  # cut before
    yield draw(2, 6).double(), 4
    yield draw(2, 2, 5), 5
    for _ in range(4 if hidden else 1):
        V = whole(rng, 3, 30)
        yield draw(3, V), whole(rng, 1, V)


def reference_top_k(logits, k):
    def rule(row):
        least = sorted(row, reverse=True)[min(k, len(row)) - 1]
        return [x if x >= least else CUT for x in row]

    return {"logits": by_row(logits, rule), "input unchanged": True}


# ---------------------------------------------------------------- keep_top_p


def nucleus(row, p):
    """The tokens kept, and how near p comes to a sum where it would be others."""
    probs, kept, total, gap = probabilities(row), [], 0.0, 1.0
    for i in sorted(range(len(row)), key=lambda i: -row[i]):
        if total < p:
            kept.append(i)
        total += probs[i]
        gap = min(gap, abs(total - p))
    return kept, gap


def top_p_cases(rng, hidden):
    def random_case(*shape, spread=2.0, dtype=torch.float32):
        """p keeps a distance from all sums: rounding must not decide."""
        while True:
            logits = (spread * torch.randn(*shape, generator=rng)).to(dtype)
            p = round(0.05 + 0.9 * torch.rand((), generator=rng).item(), 3)
            rows = logits.reshape(-1, shape[-1]).tolist()
            if all(nucleus(row, p)[1] > 1e-3 for row in rows):
                return logits, p

    probs = torch.tensor([[0.15, 0.5, 0.05, 0.3]])
    yield probs.log(), 0.4  # less than the likeliest has
    yield probs.log(), 0.6
    yield probs.log(), 0.9
    yield probs.log(), 1.0
    yield torch.tensor([[1000.0, 998.0, -1000.0, 999.0]]), 0.8  # exp overflows
    yield torch.tensor([[1.0, CUT, 0.0, CUT, 0.5]]), 0.7  # cut before
    yield torch.tensor([0.3, 0.6, 0.1]).log().double(), 0.7
    yield random_case(2, 2, 5)
    yield random_case(2, 6, dtype=torch.float64)
    for _ in range(4 if hidden else 1):
        yield random_case(3, whole(rng, 3, 20))


def reference_top_p(logits, p):
    def rule(row):
        kept, _ = nucleus(row, p)
        return [x if i in kept else CUT for i, x in enumerate(row)]

    return {"logits": by_row(logits, rule), "input unchanged": True}


# ---------------------------------------------------------------- keep_min_p


def min_p_cases(rng, hidden):
    def random_case(*shape, dtype=torch.float32):
        while True:
            logits = (2 * torch.randn(*shape, generator=rng)).to(dtype)
            p = round(0.02 + 0.6 * torch.rand((), generator=rng).item(), 3)
            ratios = (logits - logits.amax(-1, keepdim=True)).exp()
            if ((ratios - p).abs() > 1e-3).all():
                return logits, p

    probs = torch.tensor([[0.15, 0.5, 0.05, 0.3]])
    yield probs.log(), 0.2
    yield probs.log(), 0.5
    yield probs.log(), 0.0
    yield torch.tensor([[1.0, 2.0, 2.0]]), 1.0  # both of the likeliest stay
    yield torch.tensor([[1000.0, 998.0, -1000.0, 999.0]]), 0.3
    yield torch.tensor([[1.0, CUT, 0.0, CUT, 0.5]]), 0.5
    yield torch.tensor([[0.9, 0.06, 0.04], [0.4, 0.35, 0.25]]).log(), 0.1
    yield random_case(2, 2, 5, dtype=torch.float64)
    for _ in range(4 if hidden else 1):
        yield random_case(3, whole(rng, 3, 20))


def reference_min_p(logits, p):
    def rule(row):
        probs = probabilities(row)
        bar = p * max(probs)
        return [x if q >= bar else CUT for x, q in zip(row, probs, strict=True)]

    return {"logits": by_row(logits, rule), "input unchanged": True}


# ------------------------------------------------------- penalise_repetition


def penalty_cases(rng, hidden):
    def case(B, V, penalty, dtype=torch.float32):
        logits = (2 * torch.randn(B, V, generator=rng)).to(dtype)
        return logits, torch.rand(B, V, generator=rng) < 0.5, penalty

    yield torch.tensor([[2.0, -2.0]]), torch.tensor([[True, True]]), 2.0
    yield torch.tensor([[2.0, -2.0]]), torch.tensor([[False, True]]), 1.5
    yield torch.tensor([[0.0, 1.0, -1.0]]), torch.ones(1, 3, dtype=torch.bool), 1.2
    yield torch.tensor([[3.0, -1.0]]), torch.tensor([[True, True]]), 0.5  # a reward
    yield case(2, 4, 1.0)
    yield case(2, 5, 1.3, torch.float64)
    for _ in range(3 if hidden else 1):
        yield case(3, whole(rng, 3, 12), 1 + torch.rand((), generator=rng).item())


def drive_penalty(answer, logits, seen, penalty):
    given = logits.clone(), seen.clone()
    output = answer(logits, seen, penalty)
    same = logits.equal(given[0]) and seen.equal(given[1])
    return {"logits": output, "inputs unchanged": same}


def reference_penalty(logits, seen, penalty):
    output = logits.clone()
    for b, v in itertools.product(*map(range, logits.shape)):
        if seen[b, v]:
            x = logits[b, v].item()
            output[b, v] = x / penalty if x > 0 else x * penalty
    return {"logits": output, "inputs unchanged": True}


# ---------------------------------------------------------------- draw


def draw_cases(rng, hidden):
    yield torch.tensor([[0.0, 1.0]]), 1.0, DRAWS
    yield torch.tensor([[2.0, 0.0, 1.0]]), 0.5, DRAWS
    yield torch.tensor([[2.0, 0.0, 1.0]]), 2.0, DRAWS
    yield torch.tensor([[0.5, 2.0, 1.0], [3.0, 0.0, 1.0]]), 0.0, 4  # greedy
    yield torch.tensor([[1.0, CUT, 0.0]]), 0.7, DRAWS  # a token that was cut
    yield torch.tensor([[900.0, 899.0], [0.0, 2.0]]), 1.5, DRAWS
    for _ in range(2 if hidden else 1):
        V = whole(rng, 3, 7)
        temperature = 0.4 + torch.rand((), generator=rng).item()
        yield 1.5 * torch.randn(2, V, generator=rng), temperature, DRAWS


def drive_draw(answer, logits, temperature, n):
    """n rows of each row of logits: how often is each token drawn?"""
    import torch

    R, V = logits.shape
    rows = logits.repeat_interleave(n, 0)  # (R * n, V)
    given, state = rows.clone(), torch.get_rng_state()
    one, two = (torch.Generator().manual_seed(11) for _ in range(2))
    drawn = [answer(rows, temperature, generator) for generator in (one, two, one)]
    moved = not one.get_state().equal(torch.Generator().manual_seed(11).get_state())
    tokens = drawn[0].reshape(R, n)
    counts = torch.stack([torch.bincount(row, minlength=V) for row in tokens])
    alike = (tokens[:, ::2] == tokens[:, 1::2]).double().mean(1)
    return {
        "shape": list(drawn[0].shape),
        "shape for one row": list(answer(rows[:1], temperature, one).shape),
        "frequencies": counts / torch.tensor(n, dtype=torch.float64),
        "neighbours that agree": alike,
        "the same seed gives the same draws": drawn[0].equal(drawn[1]),
        "the next draws are the same": drawn[0].equal(drawn[2]),
        "something is drawn from the generator": moved,
        "only the given generator is used": state.equal(torch.get_rng_state()),
        "input unchanged": rows.equal(given),
    }


def reference_draw(logits, temperature, n):
    if temperature == 0:
        probs = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[1]).double()
    else:
        probs = torch.tensor(
            [probabilities([x / temperature for x in row]) for row in logits.tolist()],
            dtype=torch.float64,
        )
    return {
        "shape": [len(logits) * n],
        "shape for one row": [1],
        "frequencies": probs,
        "neighbours that agree": probs.square().sum(1),
        "the same seed gives the same draws": True,
        "the next draws are the same": temperature == 0,
        "something is drawn from the generator": temperature != 0,
        "only the given generator is used": True,
        "input unchanged": True,
    }


# ---------------------------------------------------------------- answer_logprobs


def logprob_cases(rng, hidden):
    def case(B, T, V, start, temperature, spread=2.0, dtype=torch.float32):
        logits = (spread * torch.randn(B, T, V, generator=rng)).to(dtype)
        return logits, torch.randint(V, (B, T), generator=rng), start, temperature

    yield case(1, 2, 2, 1, 1.0)
    yield case(1, 3, 3, 1, 0.5)
    yield case(1, 3, 3, 2, 2.0)
    yield case(2, 4, 5, 4 - 1, 1.0)
    far = torch.tensor([[[2000.0, 0.0], [0.0, 2000.0], [0.0, 0.0]]]).double()
    yield far, torch.tensor([[0, 1, 0]]), 1, 1.0  # exp underflows
    yield case(2, 5, 4, 3, 0.7, dtype=torch.float64)
    for _ in range(3 if hidden else 1):
        T = whole(rng, 3, 9)
        temperature = 0.5 + torch.rand((), generator=rng).item()
        yield case(2, T, 6, whole(rng, 1, T), temperature)


def drive_logprobs(answer, logits, tokens, start, temperature):
    given = logits.clone()
    logprobs = answer(logits, tokens, start, temperature)
    return {"logprobs": logprobs, "input unchanged": logits.equal(given)}


def reference_logprobs(logits, tokens, start, temperature):
    B, T, _ = logits.shape
    found = torch.empty(B, T - start, dtype=logits.dtype)
    for b, t in itertools.product(range(B), range(start, T)):
        row = [x / temperature for x in logits[b, t - 1].tolist()]
        top = max(row)
        total = top + math.log(math.fsum(math.exp(x - top) for x in row))
        found[b, t - start] = row[tokens[b, t]] - total
    return {"logprobs": found, "input unchanged": True}


# ---------------------------------------------------------------- pass_at_k


def pass_cases(rng, hidden):
    yield from [(1, 0, 1), (1, 1, 1), (4, 2, 2), (5, 1, 3), (4, 0, 4), (4, 2, 3)]
    yield from [(6, 6, 2), (5, 2, 1), (200, 3, 100), (4000, 7, 1500)]
    for _ in range(6 if hidden else 2):
        n = whole(rng, 3, 60)
        yield n, whole(rng, 0, n + 1), whole(rng, 1, n + 1)


def drive_pass(answer, n, c, k):
    return float(answer(n, c, k))


def reference_pass(n, c, k):
    """Draw k tries one after another; multiply how likely each is to be wrong."""
    all_wrong = Fraction(1)
    for i in range(k):
        all_wrong *= Fraction(max(n - c - i, 0), n - i)
    return float(1 - all_wrong)


# ---------------------------------------------------------------- beam_step


def beam_cases(rng, hidden):
    def case(K, V, n, dead=0, dtype=torch.float32):
        scores = -3 * torch.rand(K, generator=rng).to(dtype)
        scores[K - dead :] = CUT
        logits = 2 * torch.randn(K, V, generator=rng).to(dtype)
        return scores, logits.log_softmax(-1), n

    yield torch.tensor([0.0]), torch.tensor([[0.7, 0.1, 0.2]]).log(), 2
    scores = torch.tensor([0.6, 0.4]).log()
    yield scores, torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.0, 0.9]]).log(), 2
    yield case(3, 5, 3, dead=2)  # the first step: one beam is alive
    scores = torch.tensor([0.0, 0.5, 0.2]).log()  # the first is dead
    yield scores, torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]]).log(), 3
    yield case(2, 7, 4)
    yield case(4, 3, 12, dtype=torch.float64)  # all of them
    for _ in range(4 if hidden else 1):
        K = whole(rng, 2, 6)
        yield case(K, whole(rng, 7, 12), K)


def drive_beam(answer, scores, logprobs, n):
    given = scores.clone(), logprobs.clone()
    new, parents, tokens = answer(scores, logprobs, n)
    same = scores.equal(given[0]) and logprobs.equal(given[1])
    found = {"scores": new, "parents": parents, "tokens": tokens}
    return {**found, "inputs unchanged": same}


def reference_beam(scores, logprobs, n):
    K, V = logprobs.shape
    every = [
        ((scores[k] + logprobs[k, v]).item(), k, v)
        for k, v in itertools.product(range(K), range(V))
    ]
    best = sorted(every, reverse=True)[:n]
    return {
        "scores": torch.tensor([x for x, _, _ in best], dtype=scores.dtype),
        "parents": torch.tensor([k for _, k, _ in best]),
        "tokens": torch.tensor([v for _, _, v in best]),
        "inputs unchanged": True,
    }


TASKS = {
    "keep_top_k": Task(top_k_cases, drive_cut, reference_top_k, MISTAKES["keep_top_k"]),
    "keep_top_p": Task(top_p_cases, drive_cut, reference_top_p, MISTAKES["keep_top_p"]),
    "keep_min_p": Task(min_p_cases, drive_cut, reference_min_p, MISTAKES["keep_min_p"]),
    "penalise_repetition": Task(
        penalty_cases,
        drive_penalty,
        reference_penalty,
        MISTAKES["penalise_repetition"],
    ),
    "draw": Task(
        draw_cases,
        drive_draw,
        reference_draw,
        MISTAKES["draw"],
        # A share of 10,000 pairs has a standard deviation of 0.005 at most: 6 of them,
        # so that chance fails a right answer once in 500 million shares.
        tolerance={**TOLERANCE, "float64": 0.03},
    ),
    "answer_logprobs": Task(
        logprob_cases, drive_logprobs, reference_logprobs, MISTAKES["answer_logprobs"]
    ),
    "pass_at_k": Task(pass_cases, drive_pass, reference_pass, MISTAKES["pass_at_k"]),
    "beam_step": Task(beam_cases, drive_beam, reference_beam, MISTAKES["beam_step"]),
}
