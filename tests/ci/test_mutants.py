"""The mutants: all kinds are made, and a weak check lets one live."""

import inspect
import time
from dataclasses import replace

import pytest
import torch

from ci import mutants
from posttrain.checks import Mistake, Task

SOURCE = '''
def f(x, n):
    """A docstring."""
    y = -x.sum(dim=1, keepdim=True) + 2 * n
    if n > 3:
        y = g(x, n)
    return y if n else x[n:]
'''
EXPECTED = [
    "y = -x.sum(dim=1, keepdim=True) - 2 * n",
    "y = -x.sum(dim=1, keepdim=True) + 2 / n",
    "y = x.sum(dim=1, keepdim=True) + 2 * n",
    "y = -x.sum(dim=2, keepdim=True) + 2 * n",
    "y = -x.sum(dim=0, keepdim=True) + 2 * n",
    "y = -x.sum(dim=1, keepdim=False) + 2 * n",
    "y = -x.sum(dim=1) + 2 * n",
    "y = -x.sum(keepdim=True) + 2 * n",
    "y = -x + 2 * n",
    "y = -x.sum(dim=1, keepdim=True) + 3 * n",
    "if n >= 3:",
    "if n > 4:",
    "y = g(n, x)",
    "y = g(x)",
    "y = x",
    "return x[n:] if n else y",
    "return y if n else x[:]",
]


@pytest.fixture(scope="module")
def made():
    return list(mutants.mutants("f", SOURCE))


@pytest.mark.parametrize("line", EXPECTED)
def test_each_kind_of_change_is_made(made, line):
    assert any(f"-> `{line}`" in m.name for m in made), [m.name for m in made]


def test_statements_are_deleted_but_not_the_docstring(made):
    names = [m.name for m in made]
    assert "f: `if n > 3:` -> `pass`" in names
    assert all("A docstring." in m.source for m in made)


def test_no_mutant_is_made_twice_and_all_compile(made):
    sources = [m.source for m in made]
    assert len(set(sources)) == len(sources)
    for source in sources:
        compile(source, "mutant", "exec")


def test_names_do_not_depend_on_line_numbers(made):
    moved = list(mutants.mutants("f", "\n\n# a comment" + SOURCE))
    assert [m.name for m in moved] == [m.name for m in made]


def spend(seconds):
    start = time.process_time()
    while time.process_time() < start + seconds:
        pass
    return seconds


def weak(cases):
    task = Task(
        lambda rng, hidden: cases,
        lambda answer, x: answer(x),
        lambda x: x.abs(),
        (Mistake(lambda x: x, ""),),
    )
    return task, mutants.trials("toy", "f", task)


def test_a_gap_in_the_cases_lets_a_mutant_live():
    source = "def f(x):\n    return x.abs()"
    (mutant,) = [m for m in mutants.mutants("f", source) if "return x`" in m.name]
    gap = weak([(torch.ones(2),)])
    assert mutants.survives(*gap, mutant, {})
    closed = weak([(-torch.ones(2),)])
    assert not mutants.survives(*closed, mutant, {})


def test_a_loop_without_end_counts_as_noticed():
    task = weak([(torch.ones(2),)])
    endless = mutants.Mutant("f", "f: endless", "def f(x):\n    while True: pass")
    assert not mutants.survives(*task, endless, {}, limit=0.2)


def test_a_first_use_that_takes_long_is_over_before_the_mutants(monkeypatch):
    """Else each mutant is stopped in the same import, and counts as noticed."""
    monkeypatch.setattr(mutants, "SECONDS", 0.2)
    task, _ = weak([(torch.ones(2),)])
    started = []

    def slow_at_first(answer, x):
        if not started:
            started.append(spend(0.4))
        return answer(x)

    task = replace(task, drive=slow_at_first)
    monkeypatch.setattr(mutants.judge, "load_tasks", lambda slug: {"f": task})
    monkeypatch.setattr(
        mutants, "answers", lambda nb: {"f": "def f(x): return x.abs()"}
    )
    report = mutants.run("attention")
    assert report.survivors == ["f: `return x.abs()` -> `return x`"]


def test_an_answer_can_be_read_as_source():
    """Triton reads kernels so; a mutant's own text, not that of the one before."""
    task = replace(
        weak([(torch.ones(2),)])[0],
        drive=lambda answer, x: inspect.getsource(answer),
        reference=lambda x: "def f(x):\n    return 2\n",
    )
    tried = mutants.trials("toy", "f", task)
    for number, same in ((1, False), (2, True), (1, False)):
        source = f"def f(x):\n    return {number}\n"
        assert mutants.passes(task, tried, "f", source, {}) is same


def test_a_slow_answer_gives_its_mutants_more_time(monkeypatch):
    """As on a busy machine, where all take longer."""
    monkeypatch.setattr(mutants, "SECONDS", 0.1)
    task, _ = weak([(torch.ones(2),)])
    task = replace(task, drive=lambda answer, x: spend(0.2) and answer(x))
    monkeypatch.setattr(mutants.judge, "load_tasks", lambda slug: {"f": task})
    monkeypatch.setattr(
        mutants, "answers", lambda nb: {"f": "def f(x): return x.abs()"}
    )
    report = mutants.run("attention")
    assert report.survivors == ["f: `return x.abs()` -> `return x`"]


def test_an_answer_that_is_wrong_as_it_stands_is_told(monkeypatch):
    wrong = {"causal_mask": "def causal_mask(*args): pass"}
    monkeypatch.setattr(mutants, "answers", lambda nb: wrong)
    with pytest.raises(
        ValueError, match="the answer 'causal_mask' of 'attention' fails"
    ):
        mutants.run("attention")


def test_attention_leaves_no_survivor_without_a_reason():
    report = mutants.run("attention")
    assert report.survivors == []
    assert report.stale == []
    assert report.total > 150


def test_an_unknown_exercise_is_told():
    with pytest.raises(ValueError, match="no exercise 'nothing'"):
        mutants.run("nothing")
