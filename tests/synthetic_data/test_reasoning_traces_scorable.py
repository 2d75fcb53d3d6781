"""Usable groups by formula, by enumeration and by trying; picking; runs of words."""

import itertools
import math

import pytest

from posttrain.synthetic_data import reasoning_traces_overlap as O
from posttrain.synthetic_data import reasoning_traces_scorable as S
from posttrain.synthetic_data.gsm8k import number

PQ = [0.0, 0.05, 0.3, 0.5, 0.9, 1.0]


@pytest.mark.parametrize("p", PQ)
@pytest.mark.parametrize("G", [1, 2, 3, 8])
def test_usable_share_is_the_enumerated_one(p, G):
    due = sum(
        math.prod(p if a else 1 - p for a in answers)
        for answers in itertools.product((0, 1), repeat=G)
        if 0 < sum(answers) < G
    )
    assert S.usable_share(p, G) == pytest.approx(due)


def test_simulation_agrees():
    n = 20_000
    for p in (0.1, 0.5, 0.8):
        due = S.usable_share(p, 4)
        spread = 4 * math.sqrt(due * (1 - due) / n)
        assert S.simulated_share(p, 4, n) == pytest.approx(due, abs=spread)


@pytest.mark.parametrize("p", PQ)
def test_estimate_is_unbiased_and_the_plug_in_is_not(p):
    n, G = 10, 4
    chance = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    mean = sum(w * S.usable_share_of(c, n, G) for c, w in enumerate(chance))
    assert mean == pytest.approx(S.usable_share(p, G))
    plug_in = sum(w * S.usable_share(c / n, G) for c, w in enumerate(chance))
    if 0 < p < 1:
        assert plug_in < mean


def test_estimate_counts_the_groups():
    for right in range(7):
        answers = [1] * right + [0] * (6 - right)
        groups = list(itertools.combinations(answers, 3))
        due = sum(0 < sum(group) < 3 for group in groups) / len(groups)
        assert S.usable_share_of(right, 6, 3) == pytest.approx(due)


@pytest.mark.parametrize(
    "call",
    [
        lambda: S.usable_share(1.1, 4),
        lambda: S.usable_share(0.5, 0),
        lambda: S.usable_share_of(5, 4, 2),
        lambda: S.usable_share_of(2, 4, 5),
        lambda: O.runs("a b", 0),
    ],
)
def test_senseless_questions_are_refused(call):
    with pytest.raises(ValueError):
        call()


def test_scorable():
    assert S.scorable("1,234", number, 3, 8)
    assert not S.scorable("1,234", number, 0, 8)
    assert not S.scorable("1,234", number, 8, 8)
    assert not S.scorable("many", number, 3, 8)


def test_balanced_orders_begin_balanced():
    shapes = [2, 2, 2, 3, 4, 4, 2]
    order = S.balanced(shapes)
    assert sorted(order) == list(range(7))
    assert [shapes[i] for i in order] == [2, 3, 4, 2, 4, 2, 2]
    assert S.balanced([]) == []


def test_pick_takes_the_useful_ones_in_turn():
    shapes = ["b", "a", "a", "b", "a", "b"]
    right = [4, 1, 4, 0, 8, 7]
    assert S.pick(shapes, right, n=8, G=4, k=10) == [2, 0, 1, 5]
    assert S.pick(shapes, right, n=8, G=4, k=3) == [2, 0, 1]
    assert S.pick(["a"] * 3, [4, 4, 4], n=8, G=4, k=2) == [0, 1]


def test_runs_of_words():
    text = "How many? How MANY, now!"
    assert O.runs(text, 2) == {"how many", "many how", "many now"}
    assert O.runs(text, 5) == {"how many how many now"}
    assert O.runs(text, 6) == set()
    seen = O.runs_of(["one two three", "four five six"], 3)
    texts = ["zero one two three", "one two, six", "FOUR five six!", ""]
    assert O.overlapping(texts, seen, 3) == [0, 2]
