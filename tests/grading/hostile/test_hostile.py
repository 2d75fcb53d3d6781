"""Every case of the corpus through the real autograder: the marks must be as due."""

from importlib import import_module
from pathlib import Path

import pytest
import torch

from grading import runner
from grading.rebuild import rebuild
from tests.grading.hostile import corpus

KINDS = ("forge", "crash", "leak", "exhaust", "honest")
for kind in KINDS:
    import_module(f"tests.grading.hostile.cases_{kind}")  # registers its cases

POINTS = dict(zip(corpus.TASKS, (2, 5, 2, 2, 6, 5), strict=True))


@pytest.fixture
def hasty(monkeypatch):
    """Small limits, so that what goes on for ever ends soon."""
    monkeypatch.setattr(runner, "CELL_SECONDS", 3)
    monkeypatch.setattr(runner, "OUTPUT_READ", 4 << 20)


@pytest.mark.parametrize("case", corpus.CASES, ids=lambda c: f"{c.kind}-{c.name}")
def test_marks_are_as_due(course, solved, case, request):
    if case.kind == "exhaust":
        request.getfixturevalue("hasty")
    submission = corpus.apply(case, solved)
    nb = rebuild(course.exercise("attention").release, submission).notebook
    marks = {m.task: m.score for m in course.run("attention", nb).marks}
    due = {t: 0 if t in case.lost else p for t, p in POINTS.items()}
    due |= {t: 0 for t in case.perhaps if marks[t] == 0}
    assert marks == due


def test_nothing_was_left_outside(root):
    assert not (root / "OWNED").exists()
    assert not list(Path(torch.__file__).parent.glob("*.owned"))


def test_the_corpus_is_large_and_of_every_kind():
    kinds = {case.kind for case in corpus.CASES}
    assert kinds == {"forge", "crash", "leak", "escape", "exhaust", "honest"}
    assert len(corpus.CASES) >= 60
    names = [case.name for case in corpus.CASES]
    assert len(set(names)) == len(names)


def test_an_honest_submission_after_all_of_them_gets_every_point(course, solved):
    nb = rebuild(course.exercise("attention").release, solved).notebook
    assert {m.task: m.score for m in course.run("attention", nb).marks} == POINTS
