"""What reinforcement learning can score: prompts on which a group of answers disagrees.

    usable_share(p=0.5, G=8)            0.992
    usable_share_of(right=7, n=8, G=4)  from counted answers, without bias

GRPO compares the G answers to one prompt. If all are right, or all wrong, every
advantage is zero and the group teaches nothing. With pass rate p the answers are G
independent draws, so all are right with probability p^G and all wrong with (1 - p)^G.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import zip_longest


def usable_share(p: float, G: int) -> float:
    """1 - p^G - (1 - p)^G: the chance that a group of G answers disagrees.

    Raises ValueError for a p outside 0 ... 1 and for G below 1.
    """
    if not 0 <= p <= 1 or G < 1:
        raise ValueError(f"p={p} must lie in 0 ... 1, G={G} must be at least 1")
    return 1 - p**G - (1 - p) ** G


def usable_share_of(right: int, n: int, G: int) -> float:
    """The same from n answers of which some are right; unbiased.

    Of all ways to take G of the n answers, those that take right ones only, and those
    that take wrong ones only, are the useless ones. Putting right / n in for p is
    biased: it calls a prompt with 0 of 8 right hopeless, and 1 of 2 right ideal.
    Raises ValueError where n answers do not make a group.
    """
    if not 0 <= right <= n or not 1 <= G <= n:
        raise ValueError(f"right={right} must lie in 0 ... n={n}, and G={G} in 1 ... n")
    useless = math.comb(right, G) + math.comb(n - right, G)
    return 1 - useless / math.comb(n, G)


def simulated_share(p: float, G: int, groups: int, seed: int = 0) -> float:
    """The same by trying it: the share of drawn groups that disagree."""
    rng = random.Random(seed)
    mixed = 0
    for _ in range(groups):
        mixed += 0 < sum(rng.random() < p for _ in range(G)) < G
    return mixed / groups


def scorable(
    gold: str, parse: Callable[[str], object | None], right: int, n: int
) -> bool:
    """Whether RL gets a signal from a prompt: the verifier can read the answer that is
    due, and of n answers of the policy some, not all, are right."""
    return parse(gold) is not None and 0 < right < n


def pick(
    shapes: Sequence[object], right: Sequence[int], n: int, G: int, k: int
) -> list[int]:
    """k places, balanced over shapes; within a shape the most useful prompts first.

    shapes: of each prompt, such as its number of steps; right: how many of n answers to
    it were right. Prompts that were always or never solved are left out. Of two equally
    useful prompts the earlier one is taken. Fewer than k where no more are left.
    """
    mixed = [place for place, count in enumerate(right) if 0 < count < n]
    mixed.sort(key=lambda place: -usable_share_of(right[place], n, G))
    order = balanced([shapes[place] for place in mixed])
    return [mixed[i] for i in order[:k]]


def balanced(shapes: Sequence[object]) -> list[int]:
    """All places in such an order that any beginning of it is balanced over shapes.

    The shapes take turns, in their sorted order; each gives its places as they stand. A
    shape that has none left is passed over.
    """
    queues: dict[object, list[int]] = {shape: [] for shape in sorted(set(shapes))}
    for place, shape in enumerate(shapes):
        queues[shape].append(place)
    turns = zip_longest(*queues.values())
    return [place for turn in turns for place in turn if place is not None]
