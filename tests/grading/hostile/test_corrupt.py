"""What is handed in need not be a notebook: each such thing is rejected, with a reason.

All of them stand in one class beside two honest students, first and last by name, and
are graded by one call of the real command.
"""

import copy
import csv
import io
import json
import os
import socket
import tarfile
import zipfile

import pytest

from ci.grading_classes import ROOT, grader

SLUG = "attention"
CASES = {}


def case(due):
    """Registers a function that puts something into a student's folder.

    `due` is part of the reason why it is rejected, or the points that it earns.
    """

    def register(put):
        CASES[put.__name__.replace("_", "-")] = (put, due)
        return put

    return register


def notebook(folder):
    (folder / SLUG).mkdir(parents=True)
    return folder / SLUG / f"{SLUG}.ipynb"


def packed(folder, suffix):
    (folder / SLUG).mkdir(parents=True)
    return folder / SLUG / f"{SLUG}{suffix}"


@case("link")
def link_to_the_solution(folder, solved):
    notebook(folder).symlink_to(ROOT / f"solutions/{SLUG}/{SLUG}.ipynb")


@case("link")
def link_to_another_student(folder, solved):
    notebook(folder).symlink_to("../../aaa/attention/attention.ipynb")


@case("link")
def folder_that_is_a_link(folder, solved):
    folder.mkdir()
    (folder / SLUG).symlink_to(ROOT / "solutions" / SLUG)


@case("fifo")
def pipe_that_nobody_writes(folder, solved):
    os.mkfifo(notebook(folder))


@case("socket")
def socket_file(folder, solved):
    path = notebook(folder)
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket may not be long
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)
    os.chdir(here)


@case("folder")
def folder_in_place_of_the_notebook(folder, solved):
    notebook(folder).mkdir()


@case("not JSON")
def cut_off(folder, solved):
    text = json.dumps(solved)
    notebook(folder).write_text(text[: len(text) // 2])


@case("empty")
def empty_file(folder, solved):
    notebook(folder).touch()


@case("MB")
def larger_than_any_notebook(folder, solved):
    with notebook(folder).open("wb") as file:
        file.truncate(1 << 40)


@case("deep")
def nested_without_end(folder, solved):
    notebook(folder).write_text('{"cells": ' + "[" * 500_000)


@case("nbformat")
def unknown_format(folder, solved):
    notebook(folder).write_text(json.dumps({**solved, "nbformat": 99}))


@case("holds no list of cells")
def list_of_lists(folder, solved):
    notebook(folder).write_text("[[]]")


@case("cells")
def cells_that_are_text(folder, solved):
    notebook(folder).write_text(json.dumps({**solved, "cells": "none"}))


@case("MB")
def zip_bomb(folder, solved):
    with zipfile.ZipFile(packed(folder, ".zip"), "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{SLUG}.ipynb", b" " * 40_000_000)


@case("..")
def archive_that_climbs(folder, solved):
    with zipfile.ZipFile(packed(folder, ".zip"), "w") as file:
        file.writestr(f"../../aaa/{SLUG}/{SLUG}.ipynb", json.dumps(solved))


@case("link")
def archive_with_a_link(folder, solved):
    with tarfile.open(packed(folder, ".tar"), "w") as file:
        member = tarfile.TarInfo(f"{SLUG}.ipynb")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(member)


@case("cannot be unpacked")
def archive_that_is_none(folder, solved):
    packed(folder, ".tar.gz").write_bytes(b"\x1f\x8b" + bytes(100))


@case(22.0)
def archive_with_the_notebook(folder, solved):
    text = json.dumps(solved).encode()
    with tarfile.open(packed(folder, ".tar.gz"), "w:gz") as file:
        member = tarfile.TarInfo(f"work/{SLUG}.ipynb")
        member.size = len(text)
        file.addfile(member, io.BytesIO(text))


@case(22.0)
def metadata_that_says_skip(folder, solved):
    changed = copy.deepcopy(solved)
    for cell in changed["cells"]:
        cell["metadata"]["tags"] = ["skip-execution", "raises-exception"]
    notebook(folder).write_text(json.dumps(changed))


@case(22.0)
def prints_half_a_character(folder, solved):
    changed = copy.deepcopy(solved)
    source = "print('\\ud800')\nraise type('E\\ud800' + 'x' * 9999, (Exception,), {})"
    extra = {"cell_type": "code", "metadata": {}, "source": source, "outputs": []}
    changed["cells"].insert(1, {**extra, "execution_count": None})
    notebook(folder).write_text(json.dumps(changed))


@case(20.0)
def raises_an_error_without_a_proper_name(folder, solved):
    changed = copy.deepcopy(solved)
    for cell in changed["cells"]:
        if cell["metadata"].get("nbgrader", {}).get("grade_id") == "answer_causal_mask":
            cell["source"] = (
                "def causal_mask(t_q, t_k):\n"
                "    raise type('E\\ud800' + '<b>' * 9999, (Exception,), {})('\\udfff')"
            )
    notebook(folder).write_text(json.dumps(changed))


@case(0.0)
def points_of_its_own(folder, solved):
    """Nothing solved; the marks stand in the metadata and the outputs."""
    changed = copy.deepcopy(solved)
    for cell in changed["cells"]:
        marks = cell["metadata"].get("nbgrader", {})
        if marks.get("grade"):
            marks.update(points=1000, score=1000, locked=False)
            cell["source"] = "pass"
        if marks.get("solution"):
            cell["source"] = "pass"
    notebook(folder).write_text(json.dumps(changed))


@case(22.0)
def cells_twice_and_strangers_between(folder, solved):
    changed = copy.deepcopy(solved)
    stranger = {"cell_type": "alien", "metadata": None, "source": 5}
    changed["cells"] = [c for cell in changed["cells"] for c in (cell, cell, stranger)]
    notebook(folder).write_text(json.dumps(changed))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """What grades.csv says of each case, and of the two honest students."""
    folder = tmp_path_factory.mktemp("corrupt")
    path = ROOT / f"solutions/{SLUG}/{SLUG}.ipynb"
    solved = json.loads(path.read_text())
    for name in ("aaa", "zzz"):
        notebook(folder / "submitted" / name).write_text(json.dumps(solved))
    for name, (put, _) in CASES.items():
        put(folder / "submitted" / name, solved)
    process = grader(folder / "submitted", folder)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    with (folder / "grades.csv").open() as file:
        return {row["student"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("name", CASES)
def test_each_gets_its_due(rows, name):
    due, row = CASES[name][1], rows[name]
    if isinstance(due, float):
        assert (row["status"], float(row["score"])) == ("graded", due)
    else:
        assert (row["status"], row["score"]) == ("rejected", "0")
        assert due in row["note"]


def test_nobody_else_is_affected(rows):
    assert [rows[n]["score"] for n in ("aaa", "zzz")] == ["22", "22"]
    assert len(rows) == len(CASES) + 2
