"""Checks of the exercise `rejection_sampling`.

References: exact fractions, draw by draw (draws_needed); rules read aloud, reply by
reply, against all that came before (accept, vote); sums over rows in Python
(imitation_loss); all sequences of k draws with their chances (expected_distinct,
rft_gradient); a policy that is a list of all it has learned (expert_iteration).
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import torch

from posttrain.checks.draws import uniform, whole
from posttrain.checks.mistakes.rejection_sampling import MISTAKES
from posttrain.checks.task import Task

# ---------------------------------------------------------------- draws_needed


def draws_cases(rng, hidden):
    yield 0.5, 0.5
    yield 0.5, 0.75  # just reached
    yield 0.75, 0.9375
    yield 0.5, 0.76
    yield 0.3, 0.2  # one draw is more than enough
    yield 1.0, 0.99
    yield 0.02, 0.95
    yield 0.9, 0.9995
    made = 0
    while made < (8 if hidden else 3):
        p, target = uniform(rng, 0.02, 0.9), uniform(rng, 0.3, 0.999)
        draws = math.log(1 - target) / math.log(1 - p)
        if abs(draws - round(draws)) > 1e-3:  # no rounding decides
            made += 1
            yield p, target


def drive_draws(answer, p, target):
    return int(answer(p, target))


def reference_draws(p, target):
    """Exact fractions: fail once more until it is rare enough."""
    miss, allowed, n = Fraction(1), 1 - Fraction(target), 0
    while miss > allowed or n == 0:
        miss *= 1 - Fraction(p)
        n += 1
    return n


# ---------------------------------------------------------------- accept


def accept_cases(rng, hidden):
    def row(question, answer, *equations):
        return {"question": question, "answer": answer, "equations": list(equations)}

    a, b, c = "12+3=15", "15-5=10", "12-5=7"
    yield [row("A", 10, a, b)], {"A": 10}, 4
    yield [row("A", 10, a, b), row("A", 10, b, a)], {"A": 10}, 4  # another order
    yield [row("A", 10, a, b), row("B", 10, a, b)], {"A": 10, "B": 10}, 4
    yield [row("A", 11, a, b), row("A", 10, a, b)], {"A": 10}, 4  # the wrong one first
    yield [row("A", None, a), row("A", 11, b), row("A", 10, c)], {"A": 10}, 4
    yield [row("A", None), row("A", 0), row("A", 0, a)], {"A": 0}, 4
    twice = [row("A", 10, a), row("A", 10, a), row("A", 10, b), row("A", 10, c)]
    yield twice, {"A": 10}, 2
    yield twice, {"A": 10}, 1
    both = [row(q, 10, e) for e in (a, b, c) for q in "AB"]
    yield both, {"A": 10, "B": 10}, 2
    yield both, {"A": 10, "B": 11}, 2
    yield [row("A", 10, a), row("A", 10, a, b)], {"A": 10}, 2  # a part is not the same
    yield [row("A", 9, a)], {"A": 10}, 2  # nothing is kept
    yield [row("A", 10, a, b), row("A", 10, a, b, a)], {"A": 10}, 4  # a step again
    for _ in range(6 if hidden else 2):
        rows = []
        for _ in range(whole(rng, 8, 16)):
            chosen = [e for e in (a, b, c) if whole(rng, 0, 2)]
            if whole(rng, 0, 2):
                chosen.reverse()
            answer = (10, 10, 11, None)[whole(rng, 0, 4)]
            rows.append(row("ABC"[whole(rng, 0, 3)], answer, *chosen))
        yield rows, {"A": 10, "B": 11, "C": 10}, whole(rng, 1, 4)


def drive_accept(answer, replies, due, most):
    import copy

    before = copy.deepcopy((replies, due))
    kept = list(answer(replies, due, most))
    return {"kept": kept, "inputs unchanged": (replies, due) == before}


def reference_accept(replies, due, most):
    kept = []
    for i, reply in enumerate(replies):
        if reply["answer"] != due[reply["question"]]:
            continue
        same = [replies[j] for j in kept if replies[j]["question"] == reply["question"]]
        known = any(
            sorted(set(r["equations"])) == sorted(set(reply["equations"])) for r in same
        )
        if not known and len(same) < most:
            kept.append(i)
    return {"kept": kept, "inputs unchanged": True}


# ---------------------------------------------------------------- imitation_loss


def loss_cases(rng, hidden):
    def case(lengths, questions, dtype=torch.float32):
        B, T = len(lengths), max(lengths) + 2
        logprobs = -3 * torch.rand(B, T, generator=rng, dtype=torch.float64) - 0.1
        places = torch.arange(T)
        starts = [whole(rng, 0, T - n + 1) for n in lengths]
        mask = torch.stack(
            [
                (places >= s) & (places < s + n)
                for s, n in zip(starts, lengths, strict=True)
            ]
        )
        return logprobs.to(dtype), mask, torch.tensor(questions)

    yield case([1], [0])
    yield case([2, 2], [0, 1])
    yield case([1, 3], [5, 5])  # ids are names, not places
    yield case([2, 2, 2], [0, 0, 1])
    yield case([3, 1, 2, 2], [7, 2, 7, 7])
    yield case([1, 2, 3, 4], [1, 0, 1, 0], torch.float64)
    for _ in range(4 if hidden else 1):
        B = whole(rng, 4, 9)
        lengths = [whole(rng, 1, 6) for _ in range(B)]
        yield case(lengths, [3, 3, 3, *(whole(rng, 0, 6) for _ in range(B - 3))])


def drive_loss(answer, logprobs, mask, questions):
    logprobs = logprobs.requires_grad_()
    loss = answer(logprobs, mask, questions)
    loss.backward()
    return {"loss": loss.detach(), "gradient": logprobs.grad}


def reference_loss(logprobs, mask, questions):
    names = questions.tolist()
    Q = len(set(names))
    gradient, terms = torch.zeros_like(logprobs), []
    for b, name in enumerate(names):
        weight = 1 / (Q * names.count(name))
        for t in mask[b].nonzero()[:, 0].tolist():
            terms.append(-weight * logprobs[b, t].item())
            gradient[b, t] = -weight
    loss = torch.tensor(math.fsum(terms), dtype=logprobs.dtype)
    return {"loss": loss, "gradient": gradient}


# ---------------------------------------------------------------- vote


def vote_cases(rng, hidden):
    def case(answers, weights=None):
        return answers, [1.0] * len(answers) if weights is None else weights

    yield case([7])
    yield case([7, 9, 9])
    yield case([9, 9, 7])
    yield case([7, 9])  # a tie: the first
    yield case([9, 7, 7, 9])
    yield case([7, 9, 9, 7, 8])
    yield case([None, None, 7])  # no answer, no vote
    yield case([None, None])
    yield case([])
    yield case([0, 0, 5])  # 0 is an answer
    yield case([0, None, None, 5])
    yield case([7, 7, 9], [0.25, 0.5, 1.0])
    yield case([7, 9, 7, 9], [0.5, 0.25, 0.25, 1.0])
    yield case([7, 9, 7], [0.5, 0.75, 0.25])  # a tie of sums
    yield case([9, 7, 7], [0.75, 0.5, 0.25])
    yield case([None, 7, 9], [1.0, 0.25, 0.5])  # a weight belongs to its place
    yield case([7, 7, 7, 9], [0.25, 0.25, 0.25, 0.5])  # no single best, but the sum
    for _ in range(8 if hidden else 3):
        n = whole(rng, 5, 12)
        given = [(3, 5, 8, None)[whole(rng, 0, 4)] for _ in range(n)]
        yield case(given, [whole(rng, 1, 9) / 8 for _ in range(n)])


def drive_vote(answer, answers, weights):
    return answer(answers, weights)


def reference_vote(answers, weights):
    def votes(answer):
        pairs = zip(answers, weights, strict=True)
        return sum(Fraction(w) for a, w in pairs if a == answer)

    candidates = [a for a in answers if a is not None]
    winner = None
    for candidate in candidates:
        if winner is None or votes(candidate) > votes(winner):
            winner = candidate
    return winner


# ---------------------------------------------------------------- expected_distinct


def distinct_cases(rng, hidden):
    def case(right, k, policy=None):
        if policy is None:
            logits = torch.randn(len(right), generator=rng, dtype=torch.float64)
            policy = logits.softmax(-1)
        return policy, torch.tensor(right), k

    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    yield case([True, False], 1, half)
    yield case([True, True], 2, half)
    yield case([False, False, False], 3)
    yield case([True, True, True], 3)
    yield case([True, False, True], 4)
    yield case([False, True, True, False], 2)
    never = torch.tensor([0.75, 0.25, 0.0], dtype=torch.float64)
    yield case([True, False, True], 3, never)  # a right reply that is never drawn
    for _ in range(4 if hidden else 2):
        V = whole(rng, 3, 6)
        yield case(
            [i < 2 or bool(whole(rng, 0, 2)) for i in range(V)], whole(rng, 2, 5)
        )


def drive_distinct(answer, policy, right, k):
    return float(answer(policy, right, k))


def reference_distinct(policy, right, k):
    total = 0.0
    for draws in itertools.product(range(len(policy)), repeat=k):
        found = {y for y in draws if right[y]}
        total += len(found) * math.prod(policy[y].item() for y in draws)
    return total


# ---------------------------------------------------------------- rft_gradient


def gradient_cases(rng, hidden):
    def case(right, k, logits=None):
        if logits is None:
            logits = torch.randn(len(right), generator=rng, dtype=torch.float64)
        return logits, torch.tensor(right), k

    yield case([True, False], 1, torch.zeros(2, dtype=torch.float64))
    yield case([True, False], 2, torch.zeros(2, dtype=torch.float64))
    yield case([False, True, False], 3)
    yield case([True, True, False, False], 2)
    yield case([False, False, False], 2)  # never right: nothing is learned
    yield case([True, True, True], 3)  # always right: nothing to learn
    rare = torch.tensor([0.0, 3.0, 3.0, 2.0], dtype=torch.float64)
    yield case([True, False, False, False], 4, rare)
    for _ in range(4 if hidden else 2):
        V = whole(rng, 3, 6)
        yield case(
            [i == 0 or bool(whole(rng, 0, 2)) for i in range(V)], whole(rng, 2, 5)
        )


def drive_gradient(answer, logits, right, k):
    given = logits.clone()
    return {"gradient": answer(logits, right, k), "unchanged": logits.equal(given)}


def reference_gradient(logits, right, k):
    policy = torch.softmax(logits, dim=-1)
    total = torch.zeros_like(policy)
    for draws in itertools.product(range(len(policy)), repeat=k):
        passed = [y for y in draws if right[y]]
        chance = math.prod(policy[y].item() for y in draws)
        for y in passed:
            step = -policy.clone()
            step[y] += 1
            total += chance * step / len(passed)
    return {"gradient": total, "unchanged": True}


# ---------------------------------------------------------------- expert_iteration


def iteration_cases(rng, hidden):
    yield [["A"]], 2, {"A": 1}, 0
    yield [["A", "B"], ["C"]], 3, {"A": 1, "B": 2, "C": 0}, 1
    yield [["A", "B"]], 3, {"A": 1, "B": 1}, 0  # the same reply to two questions
    yield [["A"], ["A"], ["A"]], 2, {"A": 2}, 1
    yield [["A"], ["B"]], 2, {"A": 9, "B": 1}, 0  # nothing passes in the first round
    yield [["A", "B"], ["B", "A"]], 4, {"A": 0, "B": 1}, 2
    yield [], 2, {}, 3
    for _ in range(4 if hidden else 1):
        due = {name: whole(rng, 0, 3) for name in "ABCD"}
        rounds = [
            ["ABCD"[whole(rng, 0, 4)], "ABCD"[whole(rng, 0, 4)]]
            for _ in range(whole(rng, 2, 5))
        ]
        yield rounds, whole(rng, 3, 6), due, whole(rng, 0, 5)


def drive_iteration(answer, rounds, k, due, salt):
    """A policy is a tuple: the salt, then all that it was fitted on, in order."""
    log = []

    def draw(policy, question, k):
        log.append(["draw", list(policy), question, k])
        first = sum(map(len, map(str, policy))) + policy[0]
        return [(first + i * i) % 3 for i in range(k)]

    def check(question, reply):
        return due[question] == reply

    def fit(policy, kept):
        kept = [tuple(kept[i]) for i in range(len(kept))]
        log.append(["fit", list(policy), kept])
        return (*policy, *kept)

    policy, shares = answer((salt,), rounds, k, draw, check, fit)
    return {
        "log": log,
        "policy": list(policy),
        "shares": [float(share) for share in shares],
    }


def reference_iteration(rounds, k, due, salt):
    policy, log, shares = [salt], [], []
    for questions in rounds:
        kept, passed = [], 0
        for question in questions:
            log.append(["draw", list(policy), question, k])
            first = sum(len(str(part)) for part in policy) + salt
            for i in range(k):
                reply = (first + i**2) % 3
                if reply == due[question]:
                    passed += 1
                    if (question, reply) not in kept:
                        kept.append((question, reply))
        if kept:
            log.append(["fit", list(policy), kept])
            policy = policy + kept
        shares.append(passed / (k * len(questions)))
    return {"log": log, "policy": policy, "shares": shares}


TASKS = {
    "draws_needed": Task(
        draws_cases, drive_draws, reference_draws, MISTAKES["draws_needed"]
    ),
    "accept": Task(accept_cases, drive_accept, reference_accept, MISTAKES["accept"]),
    "vote": Task(vote_cases, drive_vote, reference_vote, MISTAKES["vote"]),
    "imitation_loss": Task(
        loss_cases, drive_loss, reference_loss, MISTAKES["imitation_loss"]
    ),
    "expected_distinct": Task(
        distinct_cases,
        drive_distinct,
        reference_distinct,
        MISTAKES["expected_distinct"],
    ),
    "rft_gradient": Task(
        gradient_cases,
        drive_gradient,
        reference_gradient,
        MISTAKES["rft_gradient"],
    ),
    "expert_iteration": Task(
        iteration_cases,
        drive_iteration,
        reference_iteration,
        MISTAKES["expert_iteration"],
    ),
}
