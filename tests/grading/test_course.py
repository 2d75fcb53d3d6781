"""The real autograder, end to end: marks, feedback, forked kernels."""

import copy
import csv
import json
import os

import pytest

import grading.__main__ as command
from grading import report
from grading.course import SEED_VARIABLE, Mark, environment
from grading.rebuild import rebuild

POINTS = {
    "causal_mask": 2,
    "scaled_dot_product_attention": 5,
    "split_heads": 2,
    "merge_heads": 2,
    "MultiHeadAttention": 6,
    "KVCache": 5,
}


def marks_of(course, student, submission):
    nb = rebuild(course.release("attention"), submission).notebook
    return {m.task: m.score for m in course.grade("attention", student, nb)}


def replace(nb, task, source):
    """A copy of the notebook with another answer to `task`."""
    changed = copy.deepcopy(nb)
    for cell in changed["cells"]:
        marks = cell["metadata"].get("nbgrader", {})
        if marks.get("grade_id") == f"answer_{task}":
            cell["source"] = source
    return changed


def test_a_solved_submission_gets_every_point(course, solved):
    assert marks_of(course, "solved", solved) == POINTS


def test_an_empty_submission_gets_none(course, empty):
    assert set(marks_of(course, "empty", empty).values()) == {0}


def test_a_syntax_error_costs_its_own_task_only(course, solved):
    broken = replace(solved, "split_heads", "def split_heads(x, n_heads:")
    due = {**POINTS, "split_heads": 0}
    assert marks_of(course, "broken", broken) == due


def test_feedback_shows_what_was_wrong(course, solved):
    wrong = replace(
        solved,
        "causal_mask",
        "def causal_mask(t_q, t_k):\n"
        "    return torch.ones(t_q, t_k, dtype=torch.bool).tril()",
    )
    assert marks_of(course, "wrong", wrong) == {**POINTS, "causal_mask": 0}
    page = course.feedback("attention", "wrong").read_text()
    assert "Align the triangle to the bottom right" in page
    assert "20.0 / 22.0" in page


def test_the_release_holds_no_solution_and_no_hidden_test(course):
    text = json.dumps(course.release("attention"))
    assert "hidden=True" not in text
    assert "BEGIN" not in text
    assert ".tril(" not in text


def test_files_beside_a_solution_are_not_released(course):
    course.release("attention")
    names = os.listdir(course.folder / "release" / "attention")
    assert names == ["attention.ipynb"]


def test_the_environment_is_put_back(monkeypatch):
    monkeypatch.setenv(SEED_VARIABLE, "11")
    path = os.environ["PATH"]
    with environment(5) as seed:
        assert seed == 5
        assert os.environ[SEED_VARIABLE] == "5"
    assert os.environ[SEED_VARIABLE] == "11"
    assert os.environ["PATH"] == path
    with environment() as seed:
        assert seed == 11


@pytest.fixture
def graded(tmp_path, solved, empty, capsys):
    """`python -m grading` on a pile with everything in it; rows and what it said."""
    pile = {
        ("ada", "attention", "attention.ipynb"): json.dumps(solved),
        ("bob", "attention", "attention.ipynb"): json.dumps(empty),
        ("cyd", "attention", "attention.ipynb"): "{not json",
        ("dee", "atention", "atention.ipynb"): json.dumps(solved),
        ("e e", "attention", "attention.ipynb"): json.dumps(solved),
        ("fay", "attention", "other.ipynb"): json.dumps(solved),
    }
    without = [c for c in solved["cells"] if c.get("id") != "answer-kvcache"]
    pile["gus", "attention", "attention.ipynb"] = json.dumps(
        {**solved, "cells": without}
    )
    for parts, text in pile.items():
        path = tmp_path.joinpath("submitted", *parts)
        path.parent.mkdir(parents=True)
        path.write_text(text)
    folder = ["--submitted", str(tmp_path / "submitted"), "--output", str(tmp_path)]
    assert command.main([*folder, "--seed", "3"]) == 0
    with (tmp_path / "grades.csv").open() as file:
        rows = {row["student"].split("~")[0]: row for row in csv.DictReader(file)}
    for parts, text in pile.items():  # nothing that was handed in was changed
        assert tmp_path.joinpath("submitted", *parts).read_text() == text
    return tmp_path, rows, capsys.readouterr().out


def test_make_grade_marks_what_it_can_and_says_why_not(graded):
    folder, rows, said = graded
    assert {s: (r["score"], r["status"]) for s, r in rows.items()} == {
        "ada": ("22", "graded"),
        "bob": ("0", "graded"),
        "cyd": ("0", "rejected"),
        "dee": ("0", "rejected"),
        "e_e": ("0", "rejected"),
        "fay": ("0", "rejected"),
        "gus": ("17", "graded"),
    }
    assert "is not JSON" in rows["cyd"]["note"]
    assert "no exercise 'atention'; there are: attention" in rows["dee"]["note"]
    assert "rename it" in rows["e_e"]["note"]
    assert "attention.ipynb was not handed in" in rows["fay"]["note"]
    assert rows["gus"]["note"] == "answer cell missing: answer_KVCache"
    assert rows["ada"]["tasks"].startswith("causal_mask 2/2; scaled_dot")
    assert "7 submissions, 4 rejected" in said
    for row in rows.values():
        page = folder / "feedback" / row["student"] / f"{row['exercise']}.html"
        assert page.read_text().strip()


def test_nothing_to_grade_says_where_to_put_it(tmp_path, capsys):
    assert command.main(["--submitted", str(tmp_path / "none")]) == 2
    assert "submitted/STUDENT/EXERCISE/EXERCISE.ipynb" in capsys.readouterr().err


def test_the_table_of_marks_is_no_spreadsheet_formula(tmp_path):
    marks = [Mark("a", 1.5, 2.0)]
    result = report.Result("=HYPERLINK(1)", "attention", "graded", "", marks, 2.0)
    report.write_csv([result], tmp_path / "grades.csv")
    row = (tmp_path / "grades.csv").read_text().splitlines()[1]
    assert row == "'=HYPERLINK(1),attention,1.5,2,graded,,a 1.5/2"


def test_a_rejection_page_shows_markup_as_text():
    page = report.rejection_page(report.Result("<script>", "x", "rejected", "<b>"))
    assert "<script>" not in page
    assert "&lt;b&gt;" in page
