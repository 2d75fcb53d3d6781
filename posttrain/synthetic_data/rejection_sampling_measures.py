"""What is measured of a policy: how often it is right, by which ways, how surely.

    groups = by_problem(answers(model, problems, 16, seed=0), 16)
    examined(groups)            accuracy, pass@k, distinct solutions, entropy, ...

All are means over problems, estimated from the same k replies to each.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from posttrain.alignment.rollouts import Rollout
from posttrain.foundations.sampling_measures import pass_at_k
from posttrain.synthetic_data.rejection_sampling import (
    by_equations,
    right_answer,
    right_steps,
)


def by_problem(rollouts: Sequence[Rollout], k: int) -> list[list[Rollout]]:
    """Rollouts in groups of k, as `roll_out` gives them.

    Raises ValueError where k replies to each problem they are not.
    """
    if len(rollouts) % k:
        raise ValueError(f"{len(rollouts)} replies are not a multiple of k={k}")
    return [list(rollouts[i : i + k]) for i in range(0, len(rollouts), k)]


def examined(groups: Sequence[Sequence[Rollout]]) -> dict:
    """Measures of k replies to each of some problems, as plain values.

    right, sound: shares of replies with the right answer, and with all steps right.
    false: share of the right answers that are not sound. pass: pass@j for j = 1, 2, 4
    ... k. distinct: different right solutions to a problem. nats: the mean of minus
    the log-probability of a reply, an estimate of the policy's entropy. by_length: the
    share right, by the number of steps that a problem takes.
    """
    k = len(groups[0])
    right = [sum(map(right_answer, group)) for group in groups]
    sound = [sum(map(right_steps, group)) for group in groups]
    sizes = [2**i for i in range(k.bit_length())]
    lengths = sorted({len(group[0].problem.changes) for group in groups})
    return {
        "right": fmean(right) / k,
        "sound": fmean(sound) / k,
        "false": 1 - sum(sound) / max(1, sum(right)),
        "pass": {
            str(j): fmean(pass_at_k(k, c, j) for c in right) for j in sizes if j <= k
        },
        "distinct": fmean(map(distinct_solutions, groups)),
        "nats": fmean(-sum(r.logprobs) for group in groups for r in group),
        "by_length": {
            str(n): fmean(
                c / k
                for c, group in zip(right, groups, strict=True)
                if len(group[0].problem.changes) == n
            )
            for n in lengths
        },
    }


def distinct_solutions(group: Sequence[Rollout]) -> int:
    """How many different sets of equations lead to the right answer."""
    return len({by_equations(r) for r in group if right_answer(r)})


def composition(kept: Sequence[Sequence[Rollout]]) -> dict:
    """What a training set of kept replies consists of.

    questions, replies: how many. false: the share of replies that are not sound.
    by_length: the share of replies whose problem takes so many steps.
    """
    replies = [rollout for group in kept for rollout in group]
    lengths = [len(rollout.problem.changes) for rollout in replies]
    return {
        "questions": len(kept),
        "replies": len(replies),
        "false": 1 - sum(map(right_steps, replies)) / len(replies),
        "by_length": {
            str(n): lengths.count(n) / len(lengths) for n in sorted(set(lengths))
        },
    }
