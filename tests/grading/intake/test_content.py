"""Files that are no notebooks, or strange ones."""

import json
import os

import pytest

from grading import notebooks
from tests.grading.intake.handed_in import (
    NAME,
    SLUG,
    collect,
    notebook,
    only,
    put,
    rejected,
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("  \n", "is empty"),
        ("{not json", "is not JSON"),
        (notebook()[:-5], "is not JSON"),
        ("[]", "no list of cells"),
        ("3", "no list of cells"),
        ("null", "no list of cells"),
        (notebook(cells={}), "no list of cells"),
        (notebook(nbformat=3), "has nbformat '3', expected 4"),
        (notebook(nbformat=4.0), "has nbformat '4.0'"),
        (notebook(nbformat=True), "has nbformat 'True'"),
        (notebook(nbformat=None), "has nbformat 'None'"),
        (notebook(nbformat="x" * 10**6), "has nbformat 'xxx"),
        (b"\xff\xfe" + notebook().encode("utf-16-le"), "is not UTF-8"),
        (b"\x00" * 1000, "is not JSON"),
        ("[" * 100_000, "deep inside each other"),
        ("[" * 100_000 + "]" * 100_000, "deep inside each other"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "deep inside each other"),
        (notebook(metadata=json.loads("[" * 60 + "]" * 60)), "deep inside"),
        (notebook(metadata=float("nan")), "it holds NaN"),
        (notebook(metadata=float("-inf")), "it holds -Infinity"),
        (notebook(metadata="@").replace('"@"', "1e999"), "number too large"),
        (
            notebook(metadata="@").replace('"@"', "9" * 9_000_000),
            "9000000 digits, 1000 are",
        ),
        (notebook(metadata=["\ud800"]), "half of a character"),
        (notebook(metadata={"\udfff": 1}), "half of a character"),
        (notebook()[:-1] + ',"cells":[]}', "has 'cells' twice"),
        (notebook(cells=[{}] * 2_001), "has 2001 cells, 2000 are allowed"),
        (notebook(cells=[{"source": "x" * 200_001}]), "200001 characters in cell 1"),
        (notebook(cells=[3, {"source": ["x" * 150_000] * 2}]), "300000 characters"),
        (notebook(metadata=[[]] * 2_000_000), "more than 200000 values"),
    ],
)
def test_content_that_is_no_notebook_is_rejected(folder, content, words):
    put(folder / "ann" / NAME, content)
    assert words in rejected(folder)
    put(folder / "ann" / NAME, notebook())  # and the next one is read
    assert only(folder).notebook == json.loads(notebook())


def test_strange_cells_are_left_to_rebuild(folder):
    cells = [None, 3, [], {"source": 5}, {"source": [1]}, {"outputs": 7, "source": []}]
    put(folder / "ann" / NAME, notebook(cells=cells))
    assert only(folder).notebook["cells"] == [
        *cells[:-1],
        {"outputs": [], "source": []},
    ]


def test_a_parser_that_crashes_or_hangs_costs_one(folder, text, monkeypatch):
    for student in ("ann", "bob", "carl"):
        put(folder / student / NAME, text)
    put(folder / "bob" / NAME, b"crash")
    put(folder / "carl" / NAME, b"eat memory")
    real = notebooks.parse

    def fragile(data):
        if data == b"crash":
            os.abort()
        return bytes(2**30) if data == b"eat memory" else real(data)

    monkeypatch.setattr(notebooks, "parse", fragile)
    ann, bob, carl = collect(folder, [SLUG])
    assert ann.notebook
    assert "ended by SIGABRT" in bob.reason
    assert "more than 512 MB of memory" in carl.reason
