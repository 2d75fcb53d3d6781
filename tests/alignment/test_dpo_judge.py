"""The judge: its rules by hand, ties, and what outweighs what."""

import random

import pytest

from posttrain.alignment.dpo_judge import ScoreJudge, win_rate
from posttrain.alignment.word_problem_styles import Style
from posttrain.alignment.word_problems import Difficulty, Problem, problems

JUDGE = ScoreJudge()
PROBLEM = Problem("Mia has 5 coins, finds 3 more. How many now?", 5, (3,))


def reply(text: str) -> str:
    return f"<think>5+3=8</think>{text}"


BEST, RUDE = reply("Sure! The answer is 8."), reply("Ugh. The answer is 8.")
WRONG = reply("Sure! The answer is 9.")


def test_scores_by_hand():
    assert JUDGE.score(PROBLEM, BEST) == pytest.approx(4 - 5 / 40)
    assert JUDGE.score(PROBLEM, RUDE) == pytest.approx(3 - 5 / 40)
    assert JUDGE.score(PROBLEM, WRONG) == pytest.approx(1 - 5 / 40)
    assert JUDGE.score(PROBLEM, BEST + "!") == float("-inf")


def test_verdicts():
    assert JUDGE(PROBLEM, BEST, RUDE) == 1
    assert JUDGE(PROBLEM, RUDE, BEST) == 0
    assert JUDGE(PROBLEM, BEST, BEST) == 0.5
    assert JUDGE(PROBLEM, "broken", "also broken") == 0.5
    assert JUDGE(PROBLEM, RUDE, "broken") == 1


def test_right_outweighs_every_style():
    rng = random.Random(0)
    worst = [Style(False, True).reply(rng, PROBLEM) for _ in range(300)]
    assert all(JUDGE(PROBLEM, text, WRONG) == 1 for text in worst)


def test_the_styles_of_a_pair_are_told_apart():
    """Whatever the words drawn: polite over rude, terse over rambling."""
    rng = random.Random(1)
    for problem in problems(0, 100, Difficulty(2)):
        for other in (False, True):
            polite = Style(True, other).reply(rng, problem)
            assert JUDGE(problem, polite, Style(False, other).reply(rng, problem)) == 1
            terse = Style(other, False).reply(rng, problem)
            assert JUDGE(problem, terse, Style(other, True).reply(rng, problem)) == 1


def test_win_rate():
    rows = ([PROBLEM] * 4, [BEST, BEST, RUDE, WRONG], [RUDE, BEST, BEST, RUDE])
    assert win_rate(JUDGE, *rows) == pytest.approx(1.5 / 4)
    with pytest.raises(ValueError, match="1 problems, 2 replies"):
        win_rate(JUDGE, [PROBLEM], [BEST, BEST], [RUDE])
    with pytest.raises(ValueError, match="at least one"):
        win_rate(JUDGE, [], [], [])
