"""The contract of graded tasks: every exercise is held to it."""

import inspect
from functools import lru_cache

import pytest
import torch

from grading import variants
from posttrain.checks import Mistake, Task, grader, judge

SLUGS = judge.exercises()
TASKS = [(slug, name) for slug in SLUGS for name in judge.load_tasks(slug)]


@lru_cache(maxsize=4)
def trial(slug, name, seed, hidden):
    return judge.Trial(slug, name, judge.load_tasks(slug)[name], seed, hidden)


def verdict(slug, name, answer, seed, hidden):
    tried = trial(slug, name, seed, hidden)
    drive = tried.task.drive
    came = [judge.attempt(drive, answer, case) for case in tried.cases]
    return judge.verdict(tried, came)


@pytest.mark.parametrize(("slug", "name"), TASKS)
def test_every_mistake_is_refused_with_its_own_hint(slug, name):
    for hidden in (False, True):
        for mistake in judge.load_tasks(slug)[name].mistakes:
            wrong = verdict(slug, name, mistake.answer, 3, hidden)
            assert wrong is not None, mistake.answer
            assert wrong.hint == mistake.hint, mistake.answer
            assert mistake.hint in wrong.message, mistake.answer


@pytest.mark.parametrize(("slug", "name"), TASKS)
def test_right_answers_are_accepted_whatever_the_seed(slug, name, root):
    """Rounding that a tolerance does not allow for shows on one seed in many."""
    right = variants.load(root / "solutions" / slug / "variants.py").RIGHT[name]
    for seed in range(20):
        for answer in right:
            assert verdict(slug, name, answer, seed, True) is None, (answer, seed)


@pytest.mark.parametrize(("slug", "name"), TASKS)
def test_drive_is_self_contained(slug, name):
    """Its source alone, in an empty namespace, gives what the function gives."""
    task = judge.load_tasks(slug)[name]
    scope = {}
    exec(inspect.getsource(task.drive), scope)
    shipped = scope[task.drive.__name__]
    answer = task.mistakes[0].answer
    for case in judge.make_cases(slug, name, task, 0, False):
        here, there = (judge.attempt(d, answer, case) for d in (task.drive, shipped))
        assert here.error == there.error
        assert judge.plain.encode(here.value) == judge.plain.encode(there.value)


@pytest.mark.parametrize(("slug", "name"), TASKS)
def test_cases_follow_the_seed(slug, name):
    task = judge.load_tasks(slug)[name]

    def cases(seed):
        return judge.plain.encode(judge.make_cases(slug, name, task, seed, True))

    assert cases(1) == cases(1)
    assert cases(1) != cases(2)


@pytest.mark.parametrize("slug", SLUGS)
def test_an_exercise_has_enough_mistakes(slug):
    tasks = judge.load_tasks(slug)
    assert 3 <= len(tasks) <= 8
    assert all(len(task.mistakes) >= 2 for task in tasks.values())
    assert sum(len(task.mistakes) for task in tasks.values()) >= 6


def toy(**changes):
    """A task: return x + 1."""
    parts = {
        "cases": lambda rng, hidden: [(torch.zeros(3),), (torch.ones(1),)],
        "drive": lambda answer, x: answer(x),
        "reference": lambda x: x + 1,
        "mistakes": (Mistake(lambda x: x - 1, "you subtract"),),
    }
    return Task(**{**parts, **changes})


@pytest.fixture
def check(monkeypatch):
    monkeypatch.setattr(judge, "load_tasks", lambda slug: {"add_one": toy()})
    return grader("toy")


def test_a_right_answer_prints_one_line_and_returns_none(check, capsys):
    assert check("add_one", lambda x: 1 + x) is None
    captured = capsys.readouterr()
    assert captured.out == "add_one: right on all 2 cases\n"
    assert captured.err == ""


def test_a_known_mistake_earns_its_hint(check):
    with pytest.raises(AssertionError, match="Hint: you subtract"):
        check("add_one", lambda x: x - 1)


def test_a_known_mistake_is_tried_once_however_many_answers_are_wrong():
    tried = []

    def subtract(x):
        tried.append(x)
        return x - 1

    one = judge.Trial("toy", "f", toy(mistakes=(Mistake(subtract, "so"),)), 0, False)
    for answer, hint in ((lambda x: x * 3, ""), (lambda x: x - 1, "so")) * 2:
        came = [judge.attempt(one.task.drive, answer, case) for case in one.cases]
        assert judge.verdict(one, came).hint == hint
    assert len(tried) == len(one.cases)


def test_any_other_wrong_answer_shows_the_smallest_case(check):
    with pytest.raises(AssertionError) as caught:
        check("add_one", lambda x: x * 3)
    message = str(caught.value)
    assert "Hint" not in message
    assert "x = float32 tensor of shape (1,): [1.0]" in message
    assert "came 3.0, due 2.0" in message


def test_an_error_in_the_answer_is_told(check):
    def answer(x):
        raise KeyError("lost")

    with pytest.raises(AssertionError, match="It raised KeyError: 'lost'"):
        check("add_one", answer)


def test_an_unsolved_answer_says_so(check):
    def answer(x):
        raise NotImplementedError

    with pytest.raises(AssertionError, match="It is not solved yet"):
        check("add_one", answer)


def test_a_returned_object_that_is_not_plain_is_refused(check):
    with pytest.raises(AssertionError, match="the value is a builtins.object"):
        check("add_one", lambda x: object())


def test_an_answer_cannot_change_the_case_for_the_reference(check):
    def answer(x):
        x += 1
        return x

    check("add_one", answer)  # toy's drive does not judge its input

    def spoils(x):
        x.zero_()
        return x + 1

    with pytest.raises(AssertionError):
        check("add_one", spoils)


def test_unknown_names_are_told_with_the_known_ones(check):
    with pytest.raises(ValueError, match="no task 'add_two'.*are: add_one"):
        check("add_two", None)


def test_an_unknown_exercise_is_told_with_the_known_ones():
    with pytest.raises(ValueError, match="no exercise 'atention'.*attention"):
        grader("atention")


def test_the_grading_seed_must_be_a_number(check, monkeypatch):
    monkeypatch.setenv(judge.SEED_VARIABLE, "secret")
    with pytest.raises(ValueError, match="POSTTRAIN_GRADING_SEED is 'secret'"):
        check("add_one", lambda x: x + 1, hidden=True)


def test_the_learners_random_state_is_left_alone(check):
    torch.manual_seed(5)
    due = torch.rand(3)
    torch.manual_seed(5)
    check("add_one", lambda x: x + 1)
    assert torch.equal(torch.rand(3), due)


def test_forbidden_names_are_refused():
    check = grader("attention")
    functional = torch.nn.functional

    def answer(q, k, v, mask=None):
        return functional.scaled_dot_product_attention(q, k, v, mask)

    for cheat in (answer, functional.scaled_dot_product_attention):
        with pytest.raises(AssertionError, match=r"without F\.scaled_dot_product"):
            check("scaled_dot_product_attention", cheat)
