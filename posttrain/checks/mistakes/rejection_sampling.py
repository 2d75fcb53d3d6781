"""What goes wrong in the exercise `rejection_sampling`, and the hint for each."""

from __future__ import annotations

import math

import torch

from posttrain.checks.task import Mistake

# ---------------------------------------------------------------- draws_needed


def draws_mean_tries(p, target):
    return math.ceil(1 / p)


def draws_added_up(p, target):
    return math.ceil(target / p)


def draws_rounded_down(p, target):
    return 1 if p == 1 else max(1, math.floor(math.log(1 - target) / math.log(1 - p)))


def draws_one_more(p, target):
    return 1 if p == 1 else math.floor(math.log(1 - target) / math.log(1 - p)) + 1


def draws_until_none_fails(p, target):
    n = 1
    while (1 - p) ** n > target:
        n += 1
    return n


# ---------------------------------------------------------------- accept


def accepted(replies, most, right, key):
    """The exercise's rule, but for what is right and what is the same."""
    kept, seen, count = [], set(), {}
    for i, r in enumerate(replies):
        if not right(r) or key(r) in seen:
            continue
        if count.get(r["question"], 0) < most:
            seen.add(key(r))
            count[r["question"]] = count.get(r["question"], 0) + 1
            kept.append(i)
    return kept


def accept_across_questions(replies, due, most):
    def right(r):
        return r["answer"] == due[r["question"]]

    return accepted(replies, most, right, lambda r: frozenset(r["equations"]))


def accept_in_order(replies, due, most):
    def right(r):
        return r["answer"] == due[r["question"]]

    def key(r):
        return r["question"], tuple(r["equations"])

    return accepted(replies, most, right, key)


def accept_as_lists(replies, due, most):
    def right(r):
        return r["answer"] == due[r["question"]]

    def key(r):
        return r["question"], tuple(sorted(r["equations"]))

    return accepted(replies, most, right, key)


def accept_duplicates_first(replies, due, most):
    """A wrong reply hides a right one with the same equations."""
    kept, seen, count = [], set(), {}
    for i, r in enumerate(replies):
        key = (r["question"], frozenset(r["equations"]))
        if key in seen:
            continue
        seen.add(key)
        right = r["answer"] == due[r["question"]]
        if right and count.get(r["question"], 0) < most:
            count[r["question"]] = count.get(r["question"], 0) + 1
            kept.append(i)
    return kept


def accept_form_only(replies, due, most):
    def right(r):
        return r["answer"] is not None

    def key(r):
        return r["question"], frozenset(r["equations"])

    return accepted(replies, most, right, key)


def accept_no_duplicates_rule(replies, due, most):
    kept, count = [], {}
    for i, r in enumerate(replies):
        right = r["answer"] == due[r["question"]]
        if right and count.get(r["question"], 0) < most:
            count[r["question"]] = count.get(r["question"], 0) + 1
            kept.append(i)
    return kept


def accept_cap_first(replies, due, most):
    """Duplicates use up the places of a question."""
    kept, seen, count = [], set(), {}
    for i, r in enumerate(replies):
        key = (r["question"], frozenset(r["equations"]))
        if r["answer"] != due[r["question"]] or count.get(r["question"], 0) >= most:
            continue
        count[r["question"]] = count.get(r["question"], 0) + 1
        if key not in seen:
            seen.add(key)
            kept.append(i)
    return kept


def accept_cap_overall(replies, due, most):
    return accept_no_cap(replies, due, most)[:most]


def accept_no_cap(replies, due, most):
    kept, seen = [], set()
    for i, r in enumerate(replies):
        key = (r["question"], frozenset(r["equations"]))
        if r["answer"] == due[r["question"]] and key not in seen:
            seen.add(key)
            kept.append(i)
    return kept


# ---------------------------------------------------------------- vote


def vote_counts_none(answers, weights):
    votes = {}
    for answer, weight in zip(answers, weights, strict=True):
        votes[answer] = votes.get(answer, 0) + weight
    return max(votes, key=votes.get, default=None)


def vote_last_of_a_tie(answers, weights):
    votes = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + weight
    best = max(votes.values(), default=None)
    return next((a for a in reversed(votes) if votes[a] == best), None)


def vote_largest_of_a_tie(answers, weights):
    votes = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + weight
    return max(votes, key=lambda a: (votes[a], a), default=None)


def vote_without_weights(answers, weights):
    votes = {}
    for answer in answers:
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + 1
    return max(votes, key=votes.get, default=None)


def vote_best_single(answers, weights):
    pairs = [(w, a) for a, w in zip(answers, weights, strict=True) if a is not None]
    return max(pairs, key=lambda pair: pair[0], default=(0, None))[1]


def vote_zero_is_nothing(answers, weights):
    votes = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer:
            votes[answer] = votes.get(answer, 0) + weight
    return max(votes, key=votes.get, default=None)


def vote_weights_moved_up(answers, weights):
    """The Nones are dropped, their weights are not."""
    votes = {}
    given = [answer for answer in answers if answer is not None]
    for answer, weight in zip(given, weights, strict=False):
        votes[answer] = votes.get(answer, 0) + weight
    return max(votes, key=votes.get, default=None)


# ---------------------------------------------------------------- imitation_loss


def loss_over_replies(logprobs, mask, questions):
    return -(logprobs * mask).sum() / len(logprobs)


def loss_over_tokens(logprobs, mask, questions):
    return -logprobs[mask].mean()


def loss_of_sums(logprobs, mask, questions):
    return -(logprobs * mask).sum() / len(questions.unique())


def loss_token_mean_in_question(logprobs, mask, questions):
    means = []
    for question in questions.unique():
        rows = questions == question
        means.append(-logprobs[rows][mask[rows]].mean())
    return torch.stack(means).mean()


def loss_reply_mean_in_question(logprobs, mask, questions):
    each = (logprobs * mask).sum(1) / mask.sum(1)
    means = [each[questions == q].mean() for q in questions.unique()]
    return -torch.stack(means).mean()


def loss_without_mask(logprobs, mask, questions):
    each = logprobs.sum(1)
    return -torch.stack(
        [each[questions == q].mean() for q in questions.unique()]
    ).mean()


def loss_ids_as_count(logprobs, mask, questions):
    each = (logprobs * mask).sum(1)
    Q = int(questions.max()) + 1
    sums = torch.zeros(Q, dtype=each.dtype).index_add(0, questions, each)
    counts = torch.bincount(questions, minlength=Q).clamp(min=1)
    return -(sums / counts).mean()


# ---------------------------------------------------------------- expected_distinct


def distinct_with_duplicates(policy, right, k):
    return k * (policy * right).sum()


def distinct_any(policy, right, k):
    return 1 - (1 - (policy * right).sum()) ** k


def distinct_all_replies(policy, right, k):
    return (1 - (1 - policy) ** k).sum()


def distinct_all_accepted(policy, right, k):
    p = (policy * right).sum()
    if p == 0:
        return 0.0
    return (1 - (1 - policy * right / p) ** k).sum()


def distinct_at_most(policy, right, k):
    return min(k, int(right.sum()))


def distinct_evenly(policy, right, k):
    D = int(right.sum())
    p = (policy * right).sum()
    return D * (1 - (1 - p / D) ** k) if D else 0.0


def distinct_once(policy, right, k):
    return (right * k * policy * (1 - policy) ** (k - 1)).sum()


# ---------------------------------------------------------------- rft_gradient


def gradient_reinforce(logits, right, k):
    weights = logits.softmax(-1) * right
    return weights - weights.sum() * logits.softmax(-1)


def gradient_likelihood(logits, right, k):
    policy = logits.softmax(-1)
    p = (policy * right).sum()
    if p == 0:
        return torch.zeros_like(policy)
    return policy * right / p - policy


def gradient_likelihood_nan(logits, right, k):
    policy = logits.softmax(-1)
    p = (policy * right).sum()
    return (1 - (1 - p) ** k) * (policy * right / p - policy)


def gradient_sum(logits, right, k):
    policy = logits.softmax(-1)
    weights = policy * right
    return k * (weights - weights.sum() * policy)


def gradient_share_of_draws(logits, right, k):
    policy = logits.softmax(-1)
    weights = policy * right
    p = weights.sum()
    return (1 - (1 - p) ** k) * (weights - p * policy)


def gradient_uniform(logits, right, k):
    policy = logits.softmax(-1)
    p = (policy * right).sum()
    flat = right / right.sum().clamp(min=1)
    return (1 - (1 - p) ** k) * (flat - policy)


def gradient_without_normaliser(logits, right, k):
    policy = logits.softmax(-1)
    p = (policy * right).sum()
    if p == 0:
        return torch.zeros_like(policy)
    return (1 - (1 - p) ** k) * policy * right / p


# ---------------------------------------------------------------- expert_iteration


def _round(policy, questions, k, draw, check):
    kept, passed = {}, 0
    for question in questions:
        for reply in draw(policy, question, k):
            if check(question, reply):
                passed += 1
                kept[question, reply] = True
    return list(kept), passed / (k * len(questions))


def iteration_stale(policy, rounds, k, draw, check, fit):
    writer, shares = policy, []
    for questions in rounds:
        kept, share = _round(writer, questions, k, draw, check)
        policy = fit(policy, kept) if kept else policy
        shares.append(share)
    return policy, shares


def iteration_from_the_start(policy, rounds, k, draw, check, fit):
    start, shares = policy, []
    for questions in rounds:
        kept, share = _round(policy, questions, k, draw, check)
        policy = fit(start, kept) if kept else policy
        shares.append(share)
    return policy, shares


def iteration_fits_nothing(policy, rounds, k, draw, check, fit):
    shares = []
    for questions in rounds:
        kept, share = _round(policy, questions, k, draw, check)
        policy = fit(policy, kept)
        shares.append(share)
    return policy, shares


def iteration_keeps_everything(policy, rounds, k, draw, check, fit):
    shares = []
    for questions in rounds:
        drawn = [(q, reply) for q in questions for reply in draw(policy, q, k)]
        policy = fit(policy, list(dict.fromkeys(drawn)))
        shares.append(sum(check(q, reply) for q, reply in drawn) / len(drawn))
    return policy, shares


def iteration_with_duplicates(policy, rounds, k, draw, check, fit):
    shares = []
    for questions in rounds:
        kept = []
        for question in questions:
            for reply in draw(policy, question, k):
                if check(question, reply):
                    kept.append((question, reply))
        policy = fit(policy, kept) if kept else policy
        shares.append(len(kept) / (k * len(questions)))
    return policy, shares


def iteration_share_of_the_kept(policy, rounds, k, draw, check, fit):
    shares = []
    for questions in rounds:
        kept, _ = _round(policy, questions, k, draw, check)
        policy = fit(policy, kept) if kept else policy
        shares.append(len(kept) / (k * len(questions)))
    return policy, shares


def iteration_fits_each_question(policy, rounds, k, draw, check, fit):
    shares = []
    for questions in rounds:
        found = []
        for question in questions:
            kept, share = _round(policy, [question], k, draw, check)
            policy = fit(policy, kept) if kept else policy
            found.append(share)
        shares.append(sum(found) / len(found))
    return policy, shares


MISTAKES = {
    "draws_needed": (
        Mistake(
            draws_mean_tries,
            "1 / p is how many draws it takes *on average*. What is the chance that n"
            " draws are enough?",
        ),
        Mistake(
            draws_added_up,
            "Chances do not add up: two draws may both be right. Look at the chance"
            " that all n fail.",
        ),
        Mistake(
            draws_rounded_down,
            "Rounded down, the target is not reached: round up.",
        ),
        Mistake(
            draws_one_more,
            "Where the target is reached exactly, that is one draw too many.",
        ),
        Mistake(
            draws_until_none_fails,
            "(1 - p)^n is the chance that all fail: it must fall to 1 - target.",
        ),
    ),
    "accept": (
        Mistake(
            accept_across_questions,
            "Two questions may have the same equations. Replies are duplicates only"
            " within one question.",
        ),
        Mistake(
            accept_in_order,
            "The same equations in another order are the same solution here: compare"
            " them as sets.",
        ),
        Mistake(
            accept_as_lists,
            "An equation that is written twice is in the set once: compare sets, not"
            " sorted lists.",
        ),
        Mistake(
            accept_duplicates_first,
            "A wrong reply has hidden a right one with the same equations. Verify, and"
            " only then drop duplicates.",
        ),
        Mistake(
            accept_form_only,
            "That keeps every reply that has an answer. It must be the right one.",
        ),
        Mistake(
            accept_no_duplicates_rule,
            "Duplicates have come through: a set of equations is kept once a question.",
        ),
        Mistake(
            accept_cap_first,
            "Duplicates have used up places. Only what is kept counts towards `most`.",
        ),
        Mistake(
            accept_cap_overall,
            "`most` is for each question, not for all of them together.",
        ),
        Mistake(accept_no_cap, "At most `most` replies to a question are kept."),
    ),
    "vote": (
        Mistake(
            vote_counts_none,
            "None is a reply without an answer: it has no vote, however often it is"
            " there.",
        ),
        Mistake(vote_last_of_a_tie, "Of equal sums, the answer that came first wins."),
        Mistake(
            vote_largest_of_a_tie,
            "Of equal sums, the answer that came first wins, not the larger number.",
        ),
        Mistake(
            vote_without_weights,
            "Each vote counts its weight, not 1.",
        ),
        Mistake(
            vote_best_single,
            "That is best of n: the answer of the single reply with most weight. In a"
            " vote the weights of equal answers add up.",
        ),
        Mistake(
            vote_zero_is_nothing,
            "0 is an answer like any other: test for None, not for truth.",
        ),
        Mistake(
            vote_weights_moved_up,
            "Where a None is dropped its weight goes with it: otherwise all later"
            " answers get the weight of another reply.",
        ),
    ),
    "imitation_loss": (
        Mistake(
            loss_over_replies,
            "That is a mean over replies: a question with many accepted replies counts"
            " as often. Take the mean within each question first.",
        ),
        Mistake(
            loss_over_tokens,
            "That is a mean over tokens: long replies and easy questions dominate. The"
            " log-probability of a reply is a sum over its tokens.",
        ),
        Mistake(
            loss_of_sums,
            "The replies of a question are summed, not averaged: it still counts as"
            " often as it was solved.",
        ),
        Mistake(
            loss_token_mean_in_question,
            "Within a question you averaged over tokens. Sum over the tokens of each"
            " reply, then average over replies.",
        ),
        Mistake(
            loss_reply_mean_in_question,
            "You divided each reply by its length. log pi(y | x) is the sum over its"
            " tokens.",
        ),
        Mistake(
            loss_without_mask,
            "Prompt and padding have been counted: use the mask.",
        ),
        Mistake(
            loss_ids_as_count,
            "The ids of questions are names. Divide by the number of different ones"
            " that are there, not by the largest.",
        ),
    ),
    "expected_distinct": (
        Mistake(
            distinct_with_duplicates,
            "k p counts a reply as often as it is drawn. Each different one counts"
            " once: ask, for each, whether it was drawn at all.",
        ),
        Mistake(
            distinct_any,
            "That is the chance that any right reply is found. Sum over replies.",
        ),
        Mistake(distinct_all_replies, "Only replies that are right count."),
        Mistake(
            distinct_all_accepted,
            "That is for k *accepted* replies. Of k draws some are wrong, and a reply"
            " comes with its chance under the policy.",
        ),
        Mistake(
            distinct_at_most,
            "That is the most that k draws can find, not what they find on average.",
        ),
        Mistake(
            distinct_evenly,
            "The right replies are not equally likely: rare ones are found later.",
        ),
        Mistake(
            distinct_once,
            "That counts replies which are drawn exactly once. Once or more is enough.",
        ),
    ),
    "rft_gradient": (
        Mistake(
            gradient_reinforce,
            "That is REINFORCE, the case k = 1. With k draws the step is a mean over"
            " those that were accepted, not over all k.",
        ),
        Mistake(
            gradient_likelihood,
            "That is the limit of many draws. With k of them the question is silent"
            " with chance (1 - p)^k.",
        ),
        Mistake(
            gradient_likelihood_nan,
            "Where no reply is right, p is 0 and 0 / 0 is NaN. The step is 0 there.",
        ),
        Mistake(
            gradient_sum,
            "That is the sum over accepted draws. Here the question counts once: take"
            " their mean.",
        ),
        Mistake(
            gradient_share_of_draws,
            "Given that some draw is accepted, each of them is distributed as the"
            " policy among right replies: divide by p.",
        ),
        Mistake(
            gradient_uniform,
            "Accepted replies are not uniform over the right ones: they come as often"
            " as the policy writes them.",
        ),
        Mistake(
            gradient_without_normaliser,
            "grad log pi(y) is onehot(y) - pi: what one reply gains, the others lose.",
        ),
    ),
    "expert_iteration": (
        Mistake(
            iteration_stale,
            "Every round was drawn from the first policy. Draw from the present one.",
        ),
        Mistake(
            iteration_from_the_start,
            "Each round was fitted to the first policy, so earlier rounds are lost. Go"
            " on from the present one.",
        ),
        Mistake(
            iteration_fits_nothing,
            "A round in which nothing was accepted has nothing to fit: keep the policy"
            " as it is.",
        ),
        Mistake(
            iteration_keeps_everything,
            "Replies that do not pass the check were kept: this is self-distillation.",
        ),
        Mistake(
            iteration_with_duplicates,
            "Each different reply to a question is learned once.",
        ),
        Mistake(
            iteration_share_of_the_kept,
            "The share that passed is over all draws, duplicates included: it measures"
            " the policy, not the training set.",
        ),
        Mistake(
            iteration_fits_each_question,
            "The policy was fitted after every question. All questions of a round are"
            " answered by the same policy; then it is fitted once.",
        ),
    ),
}
