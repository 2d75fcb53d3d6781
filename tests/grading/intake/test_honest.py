"""What is handed in as it should be comes through whole."""

import copy
import json

import pytest

from grading import intake
from tests.grading.intake.handed_in import (
    NAME,
    PACKED,
    SLUG,
    collect,
    only,
    packed,
    put,
)


@pytest.mark.parametrize("place", [NAME, f"{SLUG}/{NAME}"])
def test_a_plain_notebook_comes_through(folder, solved, text, place):
    put(folder / "ann" / place, text)
    assert only(folder) == intake.Submission("ann", SLUG, solved, "", "")


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("place", [SLUG, f"{SLUG}/my work"])
@pytest.mark.parametrize("inside", ["", "./", "week 1/", "Übung/"])
def test_a_packed_notebook_comes_through(folder, solved, text, suffix, place, inside):
    members = {
        f"{inside}readme.txt": "hello",
        f"__MACOSX/._{NAME}": "resource",
        f".ipynb_checkpoints/{NAME}": "{}",
        f"{inside}.ipynb_checkpoints/{NAME}": "{}",
        f"{inside}{NAME}": text,
    }
    put(folder / "ann" / f"{place}{suffix}", packed(members, suffix))
    submission = only(folder)
    assert (submission.notebook, submission.reason) == (solved, "")
    assert f"{inside}{NAME}" in submission.note


def test_names_as_windows_and_old_zips_write_them(folder, solved, text):
    data = packed({"week_" + NAME: text}, ".zip").replace(b"week_", b"w\x82ek\\")
    put(folder / "ann" / "attention.ZIP", data)
    assert only(folder).notebook == solved
    assert f"wéek\\{NAME}" in only(folder).note.replace("\\\\", "\\")


def test_outputs_are_left_out_and_a_byte_order_mark_is_fine(folder, solved):
    ran = copy.deepcopy(solved)
    for cell in ran["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [{"output_type": "stream", "text": ["Zoë"] * 300_000}]
            break
    put(folder / "ann" / NAME, b"\xef\xbb\xbf" + json.dumps(ran).encode())
    assert only(folder).notebook == solved


def test_any_text_survives(folder, solved):
    solved["cells"][0]["source"] = ["Zoë \U0001f600\n", "\0 \x1b[0m"]
    put(folder / "ann" / NAME, json.dumps(solved, ensure_ascii=False))
    assert only(folder).notebook == solved


def test_the_plain_notebook_goes_before_archives(folder, solved, text):
    other = json.dumps({**solved, "cells": []})
    put(folder / "ann" / SLUG / "a.zip", packed({NAME: other}, ".zip"))
    put(folder / "ann" / f"{SLUG}.tar", packed({NAME: other}, ".tar"))
    assert only(folder).notebook["cells"] == []
    assert "'attention/a.zip' was taken; not read: 'attention.tar'" in only(folder).note
    put(folder / "ann" / SLUG / "attention.tgz", packed({NAME: text}, ".tgz"))
    assert only(folder).notebook == solved
    put(folder / "ann" / NAME, other)
    assert only(folder).notebook["cells"] == []
    put(folder / "ann" / SLUG / NAME, text)
    submission = only(folder)
    assert submission.notebook == solved
    assert submission.note == (
        "'attention/attention.ipynb' was taken; not read: 'attention.ipynb', "
        "'attention/attention.tgz', 'attention/a.zip' and 1 more"
    )


def test_the_top_of_an_archive_goes_before_its_folders(folder, solved, text):
    members = {f"old/{NAME}": "{}", NAME: text}
    put(folder / "ann" / f"{SLUG}.zip", packed(members, ".zip"))
    assert only(folder).notebook == solved


def test_order_other_files_and_empty_folders(folder, text):
    for student in ("bob", "Zoë", "ann", "x@y.org", "_1"):
        put(folder / student / NAME, text)
        put(folder / student / "second.ipynb", text)
        put(folder / student / "helper.py", "x")
        put(folder / student / ".DS_Store", "x")
        (folder / student / "__pycache__").mkdir()
    (folder / "empty").mkdir()
    put(folder / "grades.csv", "x")
    put(folder / ".DS_Store", "x")
    found = collect(folder, ["second", SLUG])
    assert all(s.notebook for s in found)
    names = ["Zoë", "_1", "ann", "bob", "x@y.org"]
    expected = [(name, slug) for name in sorted(names) for slug in (SLUG, "second")]
    assert [(s.student, s.exercise) for s in found] == expected


def test_a_folder_that_is_not_there(tmp_path):
    assert collect(tmp_path / "submitted", [SLUG]) == []
