"""Several ways to solve a problem, and the check of their steps."""

import random

import pytest

from posttrain.alignment.chat_template import encode_reply
from posttrain.alignment.verifier import parse
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import Problem
from posttrain.synthetic_data import rejection_sampling_paths as paths

PROBLEM = Problem("?", 12, (3, -5, 4, -2))


def test_three_ways_by_hand():
    found = {name: paths.written(path) for name, path in paths.paths(PROBLEM).items()}
    assert found == {
        "in order": "12+3=15;15-5=10;10+4=14;14-2=12",
        "gains first": "12+3=15;15+4=19;19-5=14;14-2=12",
        "two sums": "3+4=7;5+2=7;12+7=19;19-7=12",
    }
    path = paths.paths(PROBLEM)["gains first"]
    assert paths.written(path, swapped=True) == "3+12=15;4+15=19;19-5=14;14-2=12"


def test_every_way_of_many_problems_is_sound():
    for problem in paths.Exam((1, 2, 5, 8), most=30).problems(0, 200):
        for path in paths.paths(problem).values():
            assert len(path) == len(problem.changes)
            for swapped in (False, True):
                assert paths.sound(problem, paths.written(path, swapped))


@pytest.mark.parametrize(
    "thinking",
    [
        "",
        "12+3=15;15-5=10;10+4=14",  # unfinished
        "12+3=16;15-5=10;10+4=14;14-2=12",  # a slip that is not carried on
        "12+3=16;16-5=11;11+4=15;15-2=13",  # one that is: another answer
        "12+3=16;16-5=10;10+4=14;14-2=12",  # two slips that cancel
        "12+3=15;15-5=10;10+5=15;15-3=12",  # true, of other numbers
        "12+4=16;16-5=11;11+3=14;14-2=12;12+0=12",  # a step too many
        "3+5=8;12+8=20;20-4=16;16-4=12",  # a loss among the gains
        "12+3=15 15-5=10;10+4=14;14-2=12",
        "so 12",
    ],
)
def test_what_is_not_sound(thinking):
    assert not paths.sound(PROBLEM, thinking)


def test_equal_numbers_and_signs_are_told_apart():
    twice = Problem("?", 5, (5, -5))
    assert paths.sound(twice, "5+5=10;10-5=5")
    assert paths.sound(twice, "5-5=0;5+0=5")
    assert not paths.sound(twice, "5+5=10;5+5=10")


def test_equations_forget_order_and_writing_only():
    same = paths.equations("12+3=15;15-5=10")
    assert same == paths.equations("15-5=10;3+12=15")
    assert same != paths.equations("12+3=15;15-5=11")
    assert same != paths.equations("12+3=15")
    assert paths.equations("12 + 3") == "12 + 3"


def test_demonstrations_are_right_sound_and_of_all_kinds():
    rng = random.Random(0)
    parsed = [parse(paths.demonstration(PROBLEM, rng)) for _ in range(60)]
    assert all(p.answer == 12 and paths.sound(PROBLEM, p.thinking) for p in parsed)
    assert len({p.thinking for p in parsed}) == 6
    assert len({paths.equations(p.thinking) for p in parsed}) == 3


def test_exams_are_split_and_without_doubles():
    exam = paths.Exam((2, 3))
    train, test = exam.problems(0, 300), exam.problems(0, 60, "test")
    arithmetic = {(p.start, p.changes) for p in train}
    assert len(arithmetic) == 300
    assert not arithmetic & {(p.start, p.changes) for p in test}
    assert {len(p.changes) for p in train} == {2, 3}
    with pytest.raises(ValueError, match="only .* different problems"):
        paths.Exam((1,), most=2).problems(0, 100)


def test_all_ways_take_as_many_tokens():
    """So that no way is preferred for being short."""
    lengths = {
        len(encode_reply(tokenizer(), paths.demonstration(PROBLEM, random.Random(i))))
        for i in range(30)
    }
    assert max(lengths) - min(lengths) <= 4  # digits of the sums
