"""Feedback pages show what was wrong, no hidden test, and nothing that runs."""

import base64
import re

import pytest
from nbformat.v4 import (
    new_code_cell,
    new_markdown_cell,
    new_notebook,
    new_output,
)

from grading.feedback import Pages
from grading.inert import make_inert
from grading.rebuild import rebuild
from grading.record import GRADED, Record

EVIL = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
SHOWS = {
    "text/html": EVIL,
    "application/javascript": "alert(1)",
    "image/svg+xml": f"<svg onload='alert(1)'>{EVIL}</svg>",
    "text/markdown": EVIL,
    "text/latex": EVIL,
    "application/vnd.jupyter.widget-view+json": {"model_id": "x"},
    "image/png": f'{PNG}"><script>alert(1)</script>',
    "text/plain": EVIL,
}


@pytest.fixture(scope="module")
def page(course):
    """The feedback of a submission that puts everything it can into its outputs."""
    release = course.exercise("attention").release
    source = (
        "from IPython.display import display, HTML, Javascript\n"
        f"display({SHOWS!r}, raw=True)\n"
        f"display({{'image/png': {PNG!r}}}, raw=True)\n"
        f"print({EVIL!r})\n"
        f"raise ValueError({EVIL!r})"
    )
    extra = {"cell_type": "code", "source": source, "metadata": {}}
    answer = {
        "cell_type": "code",
        "metadata": {"nbgrader": {"grade_id": "answer_causal_mask"}},
        "source": f"def causal_mask(t_q, t_k):\n    raise ValueError({EVIL!r})",
    }
    nb = rebuild(release, {"cells": [extra, answer]}).notebook
    run = course.run("attention", nb)
    marks = tuple(run.marks)
    record = Record("mallory", "attention", GRADED, marks=marks, max_score=22.0)
    return Pages().html(run.notebook, record, {})


def test_nothing_of_the_submission_runs(page):
    for tag in re.findall(r"<(?:script|img|svg|iframe|object)[^>]*>", page):
        assert "onerror" not in tag and "onload" not in tag
    assert "document.title='owned'</script>" not in page
    assert "alert(1)</script>" not in page
    assert not re.search(r"<script[^>]*widget", page)


def test_text_and_real_pictures_stay(page):
    assert "&lt;script&gt;document.title=" in page
    assert f"data:image/png;base64,{PNG}" in page


def test_hidden_tests_are_not_shown(page):
    assert "hidden=True" not in page
    assert "HIDDEN TESTS" not in page


def test_what_was_wrong_is_shown(page):
    assert "It raised ValueError" in page
    assert "0.0 / 22.0" in page


def test_what_formgrader_reads_is_inert_too():
    """Of what is kept as it was run, nothing acts in the browser of who marks it."""
    output = new_output("display_data", data=dict(SHOWS))
    code = new_code_cell("1", outputs=[output])
    answer = new_markdown_cell(f"a < b {EVIL}", attachments={"x.svg": {}})
    answer.metadata["nbgrader"] = {"solution": True, "grade_id": "essay"}
    notebook = new_notebook(cells=[code, answer])
    for _ in range(2):  # twice does no harm
        make_inert(notebook)
        assert output.data == {"text/plain": EVIL}
        assert answer.source == f"a &lt; b {EVIL}".replace("<", "&lt;")
        assert "attachments" not in answer
