"""Rejection sampling: draw, keep what passes, learn from that; or just answer with it.

    right = [check(r) for r in rollouts]            # a verifier, exact or not
    kept = keep(rollouts, right, same=by_equations, most=4)
    best_of(scores), majority([14, 14, None])       # one answer out of n

pass@k is in `sampling_measures`. Sources: Cobbe et al. 2021 (best of n), Wang et al.
2022 (self-consistency), Yuan et al. 2023 (RFT: distinct reasoning paths).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from posttrain.alignment.rollouts import Rollout
from posttrain.alignment.verifier import parse
from posttrain.synthetic_data.rejection_sampling_paths import equations, sound

Key = Callable[[Rollout], Hashable]


def best_of(scores: Sequence[float]) -> int:
    """The place of the highest score; of equal ones, the first."""
    return max(range(len(scores)), key=scores.__getitem__)


def majority(
    answers: Sequence[int | None], weights: Sequence[float] | None = None
) -> int | None:
    """The answer with most votes; of equals, the one that came first.

    None stands for a reply without an answer and has no vote. All None: None. weights:
    what each vote counts, such as a verifier's opinion of the reply; None: all 1.
    """
    weights = [1] * len(answers) if weights is None else weights
    votes: dict[int, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + weight
    return max(votes, key=votes.__getitem__, default=None)


# ---------------------------------------------------------------- what is kept


def right_answer(rollout: Rollout) -> bool:
    """The exact verifier: well formed, and the answer is the problem's."""
    return parse(rollout.reply).answer == rollout.problem.answer


def right_steps(rollout: Rollout) -> bool:
    """A right answer, and every step towards it true."""
    thinking = parse(rollout.reply).thinking
    return right_answer(rollout) and sound(rollout.problem, thinking)


def by_reply(rollout: Rollout) -> Hashable:
    """Two replies are the same if every character is."""
    return rollout.reply


def by_equations(rollout: Rollout) -> Hashable:
    """Two replies are the same if they calculate the same, in any order or writing."""
    parsed = parse(rollout.reply)
    return parsed.answer, equations(parsed.thinking)


def by_question(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    """Rollouts with the same question together, all in the order in which they came."""
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.problem.question, []).append(rollout)
    return list(groups.values())


def keep(
    rollouts: Sequence[Rollout],
    right: Sequence[bool],
    same: Key | None = None,
    most: int | None = None,
) -> list[list[Rollout]]:
    """What is learned from: for each question that has any, its accepted replies.

    right: the verifier's verdict on each rollout. same: replies to one question with an
    equal key count as one, the first; None keeps all. most: so many to a question.
    """
    passed = [r for r, ok in zip(rollouts, right, strict=True) if ok]
    groups = []
    for group in by_question(passed):
        if same is not None:
            first: dict[Hashable, Rollout] = {}
            for rollout in group:
                first.setdefault(same(rollout), rollout)
            group = list(first.values())
        groups.append(group[:most])
    return groups
