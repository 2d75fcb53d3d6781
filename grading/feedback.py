"""Feedback pages: nbgrader's own, with no hidden tests and nothing that runs.

`Inert` goes in front of nbgrader's own steps. Of a submission's outputs only
text, errors and pictures stay; HTML, JavaScript, SVG and widgets are dropped, and what
a learner wrote as Markdown is shown as written.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Mapping

import nbformat
from nbconvert.exporters import HTMLExporter
from nbgrader.converters import GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import NbGraderPreprocessor
from nbgrader.utils import is_solution

from grading.exercise import marks_of
from grading.record import Record

HIDDEN = re.compile(
    r"^[^\n]*### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS[^\n]*\n?",
    re.DOTALL | re.MULTILINE,
)
PICTURES = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}


class Pages:
    """Writes feedback pages; made once, because its templates take time to read."""

    def __init__(self):
        converter = GenerateFeedback(coursedir=CourseDirectory())
        self._exporter = HTMLExporter(config=converter.config, sanitize_html=True)
        self._exporter.register_preprocessor(Inert, enabled=True)
        for step in converter.preprocessors:
            if step.__name__ != "GetGrades":  # asks the gradebook, which one writer has
                self._exporter.register_preprocessor(step, enabled=True)

    def html(
        self,
        notebook: nbformat.NotebookNode,
        record: Record,
        comments: Mapping[str, str],
    ) -> str:
        """The page of a notebook that was run, with the marks of its record."""
        scores = {mark.cell: mark.score for mark in record.marks}
        for cell in notebook.cells:
            marks = marks_of(cell)
            if marks.get("grade"):
                marks["score"] = scores[marks["grade_id"]] or 0.0
            if marks.get("solution"):
                empty = "No response." if marks["grade_id"] in record.unanswered else ""
                marks["comment"] = comments.get(marks["grade_id"], empty) or None
        about = {
            "notebook": record.exercise,
            "assignment": record.exercise,
            "student": record.student,
            "score": record.score,
            "max_score": record.max_score,
            "late_penalty": 0,
        }
        resources = {"metadata": {"name": record.exercise}, "nbgrader": about}
        return self._exporter.from_notebook_node(notebook, resources=resources)[0]


class Inert(NbGraderPreprocessor):
    """Drops what must not be shown or could act in the reader's browser."""

    def preprocess_cell(self, cell, resources, index):
        if cell.cell_type == "code":
            cell.source = HIDDEN.sub("", cell.source).rstrip("\n")
            cell.outputs = [_inert(output) for output in cell.outputs]
        elif is_solution(cell):
            cell.source = html.escape(cell.source)
        cell.attachments = {}
        return cell, resources


def _inert(output):
    """The output with text and pictures alone."""
    if "data" not in output:
        return output
    kept = {}
    for mime, data in output.data.items():
        picture = mime in PICTURES and _is_picture(data, PICTURES[mime])
        if picture or mime == "text/plain":
            kept[mime] = data
    output.data, output.metadata = kept, {}
    return output


def _is_picture(data: object, magic: bytes) -> bool:
    if not isinstance(data, str):
        return False
    try:
        return base64.b64decode(data, validate=False).startswith(magic) and bool(
            re.fullmatch(r"[A-Za-z0-9+/=\s]*", data)
        )
    except (binascii.Error, ValueError):
        return False
