"""Answers that the grader of `rejection_sampling` must tell apart. Never for students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import itertools
import math
from collections import Counter

import torch

# ---------------------------------------------------------------- draws_needed


def draws_by_logarithms(p, target):
    if p == 1:
        return 1
    return max(1, math.ceil(math.log(1 - target) / math.log(1 - p)))


def draws_by_doubling(p, target):
    """Doubled until it is enough, then halved in."""
    enough = 1
    while (1 - p) ** enough > 1 - target:
        enough *= 2
    low = enough // 2
    while enough - low > 1:
        middle = (low + enough) // 2
        if (1 - p) ** middle > 1 - target:
            low = middle
        else:
            enough = middle
    return enough


def draws_logarithms_turned(p, target):
    if p == 1:
        return 1
    return max(1, math.ceil(math.log(1 - p) / math.log(1 - target)))


def draws_to_pass_strictly(p, target):
    n = 1
    while 1 - (1 - p) ** n <= target:
        n += 1
    return n


def draws_from_two(p, target):
    return max(2, draws_by_doubling(p, target))


# ---------------------------------------------------------------- accept


def accept_by_sorted_text(replies, due, most):
    kept, seen, count = [], set(), Counter()
    for i, r in enumerate(replies):
        q = r["question"]
        key = q, ";".join(sorted(set(r["equations"])))
        if r["answer"] == due[q] and key not in seen and count[q] < most:
            seen.add(key)
            count[q] += 1
            kept.append(i)
    return kept


def accept_by_groups(replies, due, most):
    groups = {}
    for i, r in enumerate(replies):
        if r["answer"] == due[r["question"]]:
            own = groups.setdefault(r["question"], {})
            own.setdefault(frozenset(r["equations"]), i)
    chosen = [list(own.values())[:most] for own in groups.values()]
    return sorted(itertools.chain(*chosen))


def accept_the_last_of_equals(replies, due, most):
    groups = {}
    for i, r in enumerate(replies):
        if r["answer"] == due[r["question"]]:
            own = groups.setdefault(r["question"], {})
            own[frozenset(r["equations"])] = i
    chosen = [list(own.values())[:most] for own in groups.values()]
    return sorted(itertools.chain(*chosen))


def accept_one_too_many(replies, due, most):
    return accept_by_groups(replies, due, most + 1)


def accept_by_number_of_equations(replies, due, most):
    groups = {}
    for i, r in enumerate(replies):
        if r["answer"] == due[r["question"]]:
            own = groups.setdefault(r["question"], {})
            own.setdefault(len(set(r["equations"])), i)
    chosen = [list(own.values())[:most] for own in groups.values()]
    return sorted(itertools.chain(*chosen))


# ---------------------------------------------------------------- vote


def vote_by_sums(answers, weights):
    candidates = [a for a in answers if a is not None]
    if not candidates:
        return None
    sums = [
        sum(w for a, w in zip(answers, weights, strict=True) if a == c)
        for c in candidates
    ]
    return candidates[sums.index(max(sums))]


def vote_by_sorting(answers, weights):
    votes = Counter()
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            votes[answer] += weight
    ranked = sorted(votes, key=lambda a: (-votes[a], answers.index(a)))
    return ranked[0] if ranked else None


def vote_smallest_of_a_tie(answers, weights):
    votes = Counter()
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            votes[answer] += weight
    return min(votes, key=lambda a: (-votes[a], a), default=None)


def vote_by_mean_weight(answers, weights):
    votes = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            votes.setdefault(answer, []).append(weight)
    return max(votes, key=lambda a: sum(votes[a]) / len(votes[a]), default=None)


def vote_zero_for_nobody(answers, weights):
    return vote_by_sums(answers, weights) or 0


# ---------------------------------------------------------------- imitation_loss


def loss_question_by_question(logprobs, mask, questions):
    total = 0.0
    names = sorted(set(questions.tolist()))
    for name in names:
        rows = questions == name
        total = total + logprobs[rows][mask[rows]].sum() / rows.sum()
    return -total / len(names)


def loss_by_a_matrix(logprobs, mask, questions):
    same = (questions[:, None] == questions).to(logprobs.dtype)  # (B, B)
    weights = 1 / same.sum(1)
    replies = torch.where(mask, logprobs, torch.zeros_like(logprobs)).sum(1)
    return -(weights @ replies) / weights.sum()


def loss_gain(logprobs, mask, questions):
    return -loss_question_by_question(logprobs, mask, questions)


def loss_sum_over_questions(logprobs, mask, questions):
    names = len(set(questions.tolist()))
    return names * loss_question_by_question(logprobs, mask, questions)


def loss_without_gradient(logprobs, mask, questions):
    held = loss_question_by_question(logprobs.detach(), mask, questions)
    return held + 0 * logprobs.sum()


def loss_by_root_of_count(logprobs, mask, questions):
    replies = (logprobs * mask).sum(1)
    _, group, counts = questions.unique(return_inverse=True, return_counts=True)
    return -(replies / counts[group].sqrt()).sum() / len(counts)


# ---------------------------------------------------------------- expected_distinct


def distinct_by_enumeration(policy, right, k):
    total = 0.0
    for draws in itertools.product(range(len(policy)), repeat=k):
        chance = math.prod(float(policy[y]) for y in draws)
        total += chance * len({y for y in draws if right[y]})
    return total


def distinct_by_first_places(policy, right, k):
    """A reply is new at draw t if none of the t before it was the same."""
    new = sum((1 - policy) ** t for t in range(k)) * policy
    return new[right].sum()


def distinct_of_one_less(policy, right, k):
    return distinct_by_first_places(policy, right, max(1, k - 1))


def distinct_wrong_ones(policy, right, k):
    return distinct_by_first_places(policy, ~right, k)


def distinct_twice_or_more(policy, right, k):
    once = k * policy * (1 - policy) ** (k - 1)
    return (1 - (1 - policy) ** k - once)[right].sum()


# ---------------------------------------------------------------- rft_gradient


def gradient_by_a_sum(logits, right, k):
    """(1 - (1 - p)^k) / p as a geometric sum, which has no 0 / 0."""
    policy = logits.softmax(-1)
    weights = policy * right
    p = weights.sum()
    return sum((1 - p) ** j for j in range(k)) * (weights - p * policy)


def gradient_by_autograd(logits, right, k):
    """The gradient of the sum over j <= k of pass@j / j."""
    leaf = logits.detach().clone().requires_grad_()
    p = (leaf.softmax(-1) * right).sum()
    sum((1 - (1 - p) ** j) / j for j in range(1, k + 1)).backward()
    return leaf.grad


def gradient_of_pass_at_k(logits, right, k):
    leaf = logits.detach().clone().requires_grad_()
    p = (leaf.softmax(-1) * right).sum()
    (1 - (1 - p) ** k).backward()
    return leaf.grad


def gradient_downhill(logits, right, k):
    return -gradient_by_a_sum(logits, right, k)


def gradient_of_one_draw_less(logits, right, k):
    return gradient_by_a_sum(logits, right, max(1, k - 1))


def gradient_at_uniform(logits, right, k):
    return gradient_by_a_sum(torch.zeros_like(logits), right, k)


# ---------------------------------------------------------------- expert_iteration


def iteration_with_sets(policy, rounds, k, draw, check, fit):
    shares = []
    for questions in rounds:
        kept, seen, passed = [], set(), 0
        drawn = [(q, draw(policy, q, k)) for q in questions]
        for question, replies in drawn:
            for reply in replies:
                if not check(question, reply):
                    continue
                passed += 1
                if (question, reply) not in seen:
                    seen.add((question, reply))
                    kept.append((question, reply))
        shares.append(passed / (k * len(questions)))
        if kept:
            policy = fit(policy, kept)
    return policy, shares


def iteration_duplicates_across_rounds(policy, rounds, k, draw, check, fit):
    """What an earlier round has learned is not learned again."""
    seen, shares = set(), []
    for questions in rounds:
        kept, passed = [], 0
        for question in questions:
            for reply in draw(policy, question, k):
                if check(question, reply):
                    passed += 1
                    if (question, reply) not in seen:
                        seen.add((question, reply))
                        kept.append((question, reply))
        shares.append(passed / (k * len(questions)))
        if kept:
            policy = fit(policy, kept)
    return policy, shares


def iteration_duplicates_across_questions(policy, rounds, k, draw, check, fit):
    shares = []
    for questions in rounds:
        kept, passed = {}, 0
        for question in questions:
            for reply in draw(policy, question, k):
                if check(question, reply):
                    passed += 1
                    kept.setdefault(reply, (question, reply))
        shares.append(passed / (k * len(questions)))
        if kept:
            policy = fit(policy, list(kept.values()))
    return policy, shares


def iteration_stops_early(policy, rounds, k, draw, check, fit):
    shares = []
    for questions in rounds:
        before = policy
        policy, found = iteration_with_sets(policy, [questions], k, draw, check, fit)
        shares += found
        if policy is before:
            break
    return policy, shares


RIGHT = {
    "draws_needed": [draws_by_logarithms, draws_by_doubling],
    "accept": [accept_by_sorted_text, accept_by_groups],
    "vote": [vote_by_sums, vote_by_sorting],
    "imitation_loss": [loss_question_by_question, loss_by_a_matrix],
    "expected_distinct": [distinct_by_enumeration, distinct_by_first_places],
    "rft_gradient": [gradient_by_a_sum, gradient_by_autograd],
    "expert_iteration": [iteration_with_sets],
}
WRONG = {
    "draws_needed": [
        draws_logarithms_turned,
        draws_to_pass_strictly,
        draws_from_two,
    ],
    "accept": [
        accept_the_last_of_equals,
        accept_one_too_many,
        accept_by_number_of_equations,
    ],
    "vote": [vote_smallest_of_a_tie, vote_by_mean_weight, vote_zero_for_nobody],
    "imitation_loss": [
        loss_gain,
        loss_sum_over_questions,
        loss_without_gradient,
        loss_by_root_of_count,
    ],
    "expected_distinct": [
        distinct_of_one_less,
        distinct_wrong_ones,
        distinct_twice_or_more,
    ],
    "rft_gradient": [
        gradient_of_pass_at_k,
        gradient_downhill,
        gradient_of_one_draw_less,
        gradient_at_uniform,
    ],
    "expert_iteration": [
        iteration_duplicates_across_rounds,
        iteration_duplicates_across_questions,
        iteration_stops_early,
    ],
}
_LENGTHS = "both lists always have the same length"
_SHIFT = "every answer's sum is shifted alike, so the order stays"
EQUIVALENT = {
    "draws_needed: `n = 1` -> `n = 0`": "the target is above 0: no draw is too few",
    "vote: `for answer, weight in zip(answers, weights, strict=True):` -> "
    "`for answer, weight in zip(answers, weights):`": _LENGTHS,
    "vote: `for answer, weight in zip(answers, weights, strict=True):` -> "
    "`for answer, weight in zip(answers, weights, strict=False):`": _LENGTHS,
    "vote: `votes[answer] = votes.get(answer, 0) + weight` -> "
    "`votes[answer] = votes.get(answer, 1) + weight`": _SHIFT,
    "vote: `votes[answer] = votes.get(answer, 0) + weight` -> "
    "`votes[answer] = votes.get(answer, -1) + weight`": _SHIFT,
    "rft_gradient: `policy = logits.softmax(dim=-1)` -> "
    "`policy = logits.softmax(dim=-0)`": "logits have one dimension",
}
