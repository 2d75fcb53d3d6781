"""A whole class through `python -m grading`: marks, reports, going on, two at once."""

import copy
import csv
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

import grading.__main__ as command
from ci.grading_classes import grader
from grading import batch
from grading.journal import Journal

ROOT = Path(batch.__file__).resolve().parents[1]
SEED = "3"
WRONG = (
    "def causal_mask(t_q, t_k):\n"
    "    return torch.ones(t_q, t_k, dtype=torch.bool).tril()"
)


def answered(nb, task, source):
    """A copy of the notebook with another answer to `task`."""
    changed = copy.deepcopy(nb)
    for cell in changed["cells"]:
        if cell["metadata"].get("nbgrader", {}).get("grade_id") == f"answer_{task}":
            cell["source"] = source
    return changed


def without(nb, task):
    cells = [
        c
        for c in nb["cells"]
        if c["metadata"].get("nbgrader", {}).get("grade_id") != f"answer_{task}"
    ]
    return {**nb, "cells": cells}


def put(folder, student, exercise, name, text):
    path = folder / "submitted" / student / exercise / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def rows_of(folder):
    with (folder / "grades.csv").open() as file:
        return {row["student"].split("~")[0]: row for row in csv.DictReader(file)}


def lines_of(folder):
    """What the journal holds, without its head: one entry a submission graded."""
    text = (folder / ".grading/journal.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()][1:]


def call(folder, *options):
    """`python -m grading` in this process: its exit status."""
    where = ["--submitted", str(folder / "submitted"), "--output", str(folder)]
    return command.main([*where, "--workers", "2", *options])


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A pile with everything in it, graded once; its folder and what was said."""
    folder = tmp_path_factory.mktemp("class")
    path = ROOT / "solutions/attention/attention.ipynb"
    solved = json.loads(path.read_text())
    empty = (ROOT / "exercises/attention/attention.ipynb").read_text()
    twice = copy.deepcopy(solved)
    twice["cells"].append(twice["cells"][-2] | {"id": "again"})
    pile = {
        ("ada", "attention", "attention.ipynb"): json.dumps(solved),
        ("bob", "attention", "attention.ipynb"): empty,
        ("cyd", "attention", "attention.ipynb"): "{not json",
        ("dee", "atention", "atention.ipynb"): json.dumps(solved),
        ("e e", "attention", "attention.ipynb"): json.dumps(solved),
        ("fay", "attention", "other.ipynb"): json.dumps(solved),
        ("gus", "attention", "attention.ipynb"): json.dumps(without(solved, "KVCache")),
        ("hal", "attention", "attention.ipynb"): json.dumps(
            answered(solved, "causal_mask", WRONG)
        ),
    }
    for (student, exercise, name), text in pile.items():
        put(folder, student, exercise, name, text)
    process = grader(folder / "submitted", folder, "--seed", SEED)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    for parts, text in pile.items():  # nothing that was handed in was changed
        assert folder.joinpath("submitted", *parts).read_text() == text
    return folder, said


@pytest.fixture
def again(graded, tmp_path):
    """A copy of the graded class, to be changed."""
    shutil.copytree(graded[0], tmp_path / "class")
    return tmp_path / "class"


def test_what_can_be_marked_is_and_the_rest_says_why_not(graded):
    folder, said = graded
    rows = rows_of(folder)
    assert {s: (r["score"], r["status"]) for s, r in rows.items()} == {
        "ada": ("22", "graded"),
        "bob": ("0", "graded"),
        "cyd": ("0", "rejected"),
        "dee": ("0", "rejected"),
        "e_e": ("0", "rejected"),
        "fay": ("0", "rejected"),
        "gus": ("17", "graded"),
        "hal": ("20", "graded"),
    }
    assert "is not JSON" in rows["cyd"]["note"]
    assert "no exercise 'atention'; there are: " in rows["dee"]["note"]
    assert "rename it" in rows["e_e"]["note"]
    assert "attention.ipynb was not handed in" in rows["fay"]["note"]
    assert rows["gus"]["note"] == "answer cell missing: answer_KVCache"
    assert rows["ada"]["tasks"].startswith("causal_mask 2/2; scaled_dot")
    assert "8 submissions: 8 graded now, 0 as before; 4 rejected, 0 failed" in said


def test_everybody_has_a_page_where_nbgrader_has_it(graded):
    folder, _ = graded
    for row in rows_of(folder).values():
        name = f"{row['exercise']}.html"
        page = folder / "feedback" / row["student"] / row["exercise"] / name
        assert row["status"] == "graded" or "not graded" in page.read_text()
    page = (folder / "feedback/hal/attention/attention.html").read_text()
    assert "20.0 / 22.0" in page
    assert "Align the triangle to the bottom right" in page
    assert (
        "No response." in (folder / "feedback/bob/attention/attention.html").read_text()
    )


def test_nbgrader_finds_the_marks_in_its_gradebook(graded, root):
    folder, _ = graded
    database = f"sqlite:///{folder / 'gradebook.db'}"
    code = (
        "from nbgrader.api import Gradebook\n"
        f"with Gradebook({database!r}, 'posttrain') as book:\n"
        "    for s in book.assignment_submissions('attention'):\n"
        "        print(s.student.id, s.score, s.max_score, s.needs_manual_grade)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
    )
    found = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    due = {"ada": 22, "bob": 0, "cyd": 0, "fay": 0, "gus": 17, "hal": 20}
    assert {s: found[s] for s in due} == {
        student: f"{score}.0 22.0 False" for student, score in due.items()
    }


def test_the_class_report_says_what_to_teach_again(graded):
    page = (graded[0] / "report.html").read_text()
    assert "4 graded, 3 rejected. Mean 14.8 of 22, median 18.5, from 0 to 22" in page
    assert "mask top left" in page
    assert "Align the triangle to the bottom right" in page


def test_a_second_call_grades_nothing_again(again):
    before = lines_of(again)
    pages = {p: p.stat().st_mtime_ns for p in again.rglob("feedback/**/*.html")}
    marks = rows_of(again)
    assert call(again) == 0
    assert lines_of(again) == before
    assert rows_of(again) == marks
    assert {p: p.stat().st_mtime_ns for p in pages} == pages


def test_only_what_changed_is_graded_again(again, solved):
    put(again, "hal", "attention", "attention.ipynb", json.dumps(solved))
    put(again, "cyd", "attention", "attention.ipynb", json.dumps(solved))
    before = lines_of(again)
    assert call(again) == 0
    new = lines_of(again)[len(before) :]
    assert {line["student"] for line in new} == {"hal", "cyd"}
    assert rows_of(again)["hal"]["score"] == rows_of(again)["cyd"]["score"] == "22"
    page = (again / "feedback/hal/attention/attention.html").read_text()
    assert "22.0 / 22.0" in page


def test_a_gradebook_that_was_lost_is_written_again_without_grading(again):
    (again / "gradebook.db").unlink()
    before, marks = lines_of(again), rows_of(again)
    assert call(again) == 0
    assert lines_of(again) == before
    assert rows_of(again) == marks


def test_marks_by_hand_are_kept_and_shown(again):
    with sqlite3.connect(again / "gradebook.db") as database:
        database.execute(
            "update grade set manual_score = 1.5 where id in ("
            "select grade.id from grade join base_cell on cell_id = base_cell.id "
            "join submitted_notebook n on grade.notebook_id = n.id "
            "join submitted_assignment a on n.assignment_id = a.id "
            "where base_cell.name = 'test_causal_mask' and a.student_id = 'hal')"
        )
    assert call(again) == 0
    assert rows_of(again)["hal"]["score"] == "21.5"
    page = (again / "feedback/hal/attention/attention.html").read_text()
    assert "21.5 / 22.0" in page


def test_another_seed_grades_all_again(again):
    for student in ("bob", "gus", "hal"):
        shutil.rmtree(again / "submitted" / student)
    before = lines_of(again)
    assert call(again, "--seed", "4") == 0
    new = lines_of(again)[len(before) :]
    assert [line.get("student") for line in new] == [None, "ada"]
    assert Journal(again / ".grading/journal.jsonl").seed == 4


def test_an_interrupt_keeps_what_was_graded(root, again, solved):
    slow = copy.deepcopy(solved)
    nap = {"cell_type": "code", "id": "nap", "metadata": {}, "outputs": []}
    nap |= {"execution_count": None, "source": "import time; time.sleep(8)"}
    slow["cells"].append(nap)  # so that the run cannot be over before the interrupt
    for number in range(8):
        text = json.dumps(solved if number else slow)
        put(again, f"late{number}", "attention", "attention.ipynb", text)
    before = len(lines_of(again))
    process = grader(again / "submitted", again)
    while len(lines_of(again)) < before + 2 and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "What was graded is kept; the same command goes on." in said
    kept = lines_of(again)
    assert before + 2 <= len(kept) < before + 8
    assert call(again) == 0
    assert lines_of(again)[: len(kept)] == kept
    assert len(lines_of(again)) == before + 8
    assert all(rows_of(again)[f"late{n}"]["score"] == "22" for n in range(8))


def test_of_two_graders_one_says_why_not(again, capsys):
    with batch._alone(again / ".grading"):
        process = grader(again / "submitted", again)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert f"is being graded by process {os.getpid()}" in said
    assert call(again) == 0


def test_a_damaged_journal_is_told_and_left_alone(again, capsys):
    path = again / ".grading/journal.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = lines[2][:40]
    path.write_text("\n".join(lines) + "\n")
    assert call(again) == 3
    assert f"{path}, line 3: " in capsys.readouterr().err
    assert path.read_text().splitlines() == lines


def test_nothing_to_grade_says_where_to_put_it(tmp_path, capsys):
    assert call(tmp_path) == 2
    assert "submitted/STUDENT/EXERCISE/EXERCISE.ipynb" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "0x1", "old"])
def test_what_is_no_seed_is_refused(tmp_path, capsys, seed):
    with pytest.raises(SystemExit):
        call(tmp_path, f"--seed={seed}")
    assert f"{seed!r} is neither `new` nor a number >= 0" in capsys.readouterr().err


def test_a_new_seed_is_not_guessed():
    assert command._seed("17") == 17
    assert command._seed("new") >> 64 != command._seed("new") >> 64


def test_no_workers_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        call(tmp_path, "--workers", "0")
    assert "--workers is 0; it must be 1 or more" in capsys.readouterr().err
