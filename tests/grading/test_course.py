"""Exercises as they are released and run: marks, one task at a time."""

import asyncio
import copy
import json
import os
import signal

import pytest

from ci import times
from grading import runner
from grading.course import environment
from grading.exercise import make
from grading.rebuild import rebuild
from grading.record import Mark
from grading.runner import SEED_VARIABLE

POINTS = {
    "causal_mask": 2,
    "scaled_dot_product_attention": 5,
    "split_heads": 2,
    "merge_heads": 2,
    "MultiHeadAttention": 6,
    "KVCache": 5,
}
FLIPPED = (
    "def causal_mask(t_q, t_k):\n"
    "    return torch.ones(t_q, t_k, dtype=torch.bool).tril()"
)


def run(course, submission):
    nb = rebuild(course.exercise("attention").release, submission).notebook
    return course.run("attention", nb)


def scores(course, submission):
    return {m.task: m.score for m in run(course, submission).marks}


def replace(nb, task, source):
    """A copy of the notebook with another answer to `task`."""
    changed = copy.deepcopy(nb)
    for cell in changed["cells"]:
        marks = cell["metadata"].get("nbgrader", {})
        if marks.get("grade_id") == f"answer_{task}":
            cell["source"] = source
    return changed


def test_a_solved_submission_gets_every_point(course, solved):
    assert scores(course, solved) == POINTS
    assert course.exercise("attention").max_score == sum(POINTS.values())


def test_an_empty_submission_gets_none_and_is_known_as_not_tried(course, empty):
    marks = run(course, empty).marks
    assert {mark.score for mark in marks} == {0}
    assert {mark.raised for mark in marks} == {"NotImplementedError"}
    exercise = course.exercise("attention")
    assert exercise.unanswered(empty) == [f"answer_{task}" for task in POINTS]


def test_a_syntax_error_costs_its_own_task_only(course, solved):
    broken = replace(solved, "split_heads", "def split_heads(x, n_heads:")
    marks = run(course, broken).marks
    assert {m.task: m.score for m in marks} == {**POINTS, "split_heads": 0}
    assert [m.raised for m in marks if not m.score] == ["NameError"]


def test_a_known_mistake_is_recognised(course, solved):
    (mark,) = (
        m
        for m in run(course, replace(solved, "causal_mask", FLIPPED)).marks
        if not m.score
    )
    assert mark == Mark("test_causal_mask", 0.0, 2.0, "mask_top_left", mark.hint, "")
    assert "Align the triangle to the bottom right" in mark.hint


def test_processor_time_of_a_submission_is_counted(course, solved):
    """That of a kernel, which is ended from outside."""
    busy = "import time\nwhile time.process_time() < 1.5: pass"
    run(course, solved)  # so that the judge and the warm process are ready
    before = times.tree_seconds()
    run(course, replace(solved, "causal_mask", busy))
    assert times.tree_seconds() - before >= 1.5


def test_a_kernel_does_not_search_what_was_imported_before_it(course, solved):
    said = "import gc\nprint(gc.get_freeze_count())"
    notebook = run(course, replace(solved, "causal_mask", said)).notebook
    (output,) = [
        cell.outputs[0].text
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.source == said
    ]
    assert int(output) > 100_000


def test_an_endless_loop_is_told_as_a_time_limit(course, solved, monkeypatch):
    monkeypatch.setattr("grading.runner.CELL_SECONDS", 2)
    endless = replace(solved, "KVCache", "while True:\n    pass")
    result = run(course, endless)
    assert {m.task: m.score for m in result.marks} == {**POINTS, "KVCache": 0}
    text = json.dumps(result.notebook)
    assert "it took too long and was interrupted" in text


@pytest.mark.parametrize(("kills", "due"), [(1, POINTS), (2, dict.fromkeys(POINTS, 0))])
def test_a_kernel_that_somebody_kills_is_tried_once_more(
    course, solved, monkeypatch, kills, due
):
    left = [kills]
    executed = runner._JudgedClient._executed

    async def kill_first(client, cell, index):
        if "def split_heads" in cell.source and left[0]:
            left[0] -= 1
            os.kill(client.km.provisioner.pid, signal.SIGKILL)
            await asyncio.sleep(1)  # the kernel follows its supervisor
        return await executed(client, cell, index)

    monkeypatch.setattr(runner._JudgedClient, "_executed", kill_first)
    earlier = ("causal_mask", "scaled_dot_product_attention")  # had been judged
    due = {**due, **{task: POINTS[task] for task in earlier}}
    assert scores(course, solved) == due
    assert left == [0]


def test_the_release_holds_no_solution_and_no_hidden_test(course):
    exercise = course.exercise("attention")
    text = json.dumps(exercise.release)
    assert "hidden=True" not in text
    assert "BEGIN" not in text
    assert ".tril(" not in text
    assert all("hidden=True" in source for source in exercise.tests.values())


def test_files_beside_a_solution_are_not_released(course):
    folder = course.folder / ".grading" / "release" / "attention"
    assert os.listdir(folder) == ["attention.ipynb"]


def test_the_digest_follows_from_all_that_marks_follow_from(course):
    one = course.exercise("attention")
    assert make(one.slug, one.release, one.tests, one.absent) == one
    other = {**one.tests, "test_KVCache": "check('KVCache', KVCache)"}
    edited = copy.deepcopy(one.release)
    edited.cells[1].source += "\n"
    assert (
        len(
            {
                one.digest,
                make(one.slug, one.release, other, one.absent).digest,
                make(one.slug, edited, one.tests, one.absent).digest,
                make(one.slug, one.release, one.tests, []).digest,
            }
        )
        == 4
    )


def test_the_environment_is_put_back(monkeypatch):
    monkeypatch.setenv(SEED_VARIABLE, "11")
    path = os.environ["PATH"]
    with environment(5):
        assert os.environ[SEED_VARIABLE] == "5"
    assert os.environ[SEED_VARIABLE] == "11"
    assert os.environ["PATH"] == path
