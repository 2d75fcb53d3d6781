"""The task family: right arithmetic, disjoint sets, a closed grammar of styles."""

import itertools
import random

import pytest

from posttrain.alignment import word_problem_styles as styles
from posttrain.alignment.verifier import Reward, parse
from posttrain.alignment.word_problem_styles import Style, read
from posttrain.alignment.word_problem_tokenizer import (
    END_TURN,
    phrases,
    tokenizer,
)
from posttrain.alignment.word_problems import (
    END_THINK,
    LESS,
    MORE,
    THINK,
    Difficulty,
    Problem,
    draw,
    problems,
)

SMALL = Problem("Mia has 12 coins, finds 3 more, loses 5. How many now?", 12, (3, -5))


def told(question: str) -> int:
    """The answer by reading the words, not the fields."""
    first, *clauses = question.removesuffix(". How many now?").split(", ")
    now = int(first.split()[2])
    for clause in clauses:
        number = next(int(word) for word in clause.split() if word.isdigit())
        shape = clause.replace(str(number), "{}")
        assert (shape in MORE) != (shape in LESS), clause
        now += number if shape in MORE else -number
        assert now >= 1
    return now


def test_a_problem_by_hand():
    assert SMALL.answer == 10
    assert SMALL.steps == ["12+3=15", "15-5=10"]
    assert SMALL.demonstration() == "<think>12+3=15;15-5=10</think>10"
    assert SMALL.demonstration(thinking=False) == "<think></think>10"


@pytest.mark.parametrize("difficulty", [Difficulty(), Difficulty(2, 5), Difficulty(7)])
def test_the_words_say_what_the_answer_is(difficulty):
    for problem in problems(3, 100, difficulty):
        assert told(problem.question) == problem.answer
        assert len(problem.steps) == difficulty.steps
        for step in problem.steps:
            left, right = step.split("=")
            assert eval(left) == int(right)


def test_no_sum_is_in_both_sets():
    def arithmetic(split):
        rng = random.Random(5)
        drawn = (draw(rng, Difficulty(2, 5), split) for _ in range(2000))
        return {(p.start, p.changes) for p in drawn}

    train, test = arithmetic("train"), arithmetic("test")
    assert not train & test
    assert 0.05 < len(test) / len(train | test) < 0.2


def test_names_and_objects_do_not_move_a_problem_to_the_other_set():
    other = Problem(SMALL.question.replace("Mia", "Leo"), SMALL.start, SMALL.changes)
    assert other.split == SMALL.split


def test_the_same_seed_gives_the_same_problems_and_none_twice():
    first, second = problems(1, 300), problems(1, 300)
    assert first == second != problems(2, 300)
    assert len({(p.start, p.changes) for p in first}) == 300


def test_too_many_different_problems_are_refused():
    with pytest.raises(ValueError, match="100 were asked for"):
        problems(0, 100, Difficulty(1, 2), "test")
    with pytest.raises(ValueError, match="steps=0"):
        Difficulty(steps=0)
    with pytest.raises(ValueError, match="most=1"):
        Difficulty(most=1)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("<think>12+3=15</think>15", 15),
        ("<think></think>7", 7),
        ("15", None),
        ("<think>12+3=15</think>", None),
        ("<think>12+3=15</think>15 coins", None),
        ("<think>12+3=15</think> 15", None),
        ("<think>12+3=15</think>-15", None),
        ("<think>12+3=15</think>15\n", None),
        ("<think>12+3=15</think>١٥", None),
        ("<think><think>1</think>15", None),
        ("<think>1</think>15</think>15", None),
        ("so <think>1</think>15", None),
        ("<think>1</think>15<cut>", None),
        ("", None),
    ],
)
def test_the_verifier_takes_one_form_only(reply, answer):
    assert parse(reply).answer == answer


def test_rewards_add_up():
    reward = Reward()
    assert reward("<think>12+3=15</think>15", 15) == pytest.approx(1.1)
    assert reward("<think>12+3=15</think>16", 15) == pytest.approx(0.1)
    assert reward("15", 15) == 0.0


def test_each_style_is_read_as_what_it_is():
    rng = random.Random(0)
    for polite, rambling in itertools.product([True, False], repeat=2):
        for problem in problems(0, 20):
            style = Style(polite, rambling)
            reading = read(style.reply(rng, problem))
            assert reading.style == style
            assert reading.answer == problem.answer


@pytest.mark.parametrize(
    "broken",
    [
        "The answer is 15.",  # no thinking
        "<think>1</think>Sure! The answer is 15",
        "<think>1</think>Sure! Sure! The answer is 15.",
        "<think>1</think>Sure! The answer is .",
        "<think>1</think>The answer is 15.",
        "<think>1</think>Sure! Let me think about. The answer is 15.",
        "<think>1</think>Sure!  The answer is 15.",
    ],
)
def test_broken_text_is_not_of_the_grammar(broken):
    assert read(broken) is None


def test_words_after_the_thinking_are_counted():
    assert read("<think>1</think>Sure! The answer is 15.").words == 5
    ramble = f"<think>1</think>Ugh. {styles.RAMBLING[1]} The answer is 3."
    assert read(ramble).words == 1 + len(styles.RAMBLING[1].split()) + 4


def test_every_word_is_one_token_and_every_digit():
    tok = tokenizer()
    rng = random.Random(1)
    whole = {word.strip(".,!?") for text in phrases() for word in text.split()}
    for problem in problems(1, 50):
        text = problem.question + Style(False, True).reply(rng, problem)
        pieces = [tok.decode([i]) for i in tok.encode(text, [THINK, END_THINK])]
        assert all(p.strip() in whole for p in pieces if p.strip().isalpha())
        assert all(len(p) == 1 for p in pieces if p.isdigit())


def test_the_tokenizer_is_always_the_same_and_takes_any_text():
    tok = tokenizer()
    assert tok is tokenizer()
    strange = "Zürich 3½ 🙂 <think>\n"
    assert tok.decode(tok.encode(strange)) == strange
    assert tok.special_id(END_TURN) not in tok.encode(END_TURN)
