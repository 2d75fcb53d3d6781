"""Feedback pages: nbgrader's own, with no hidden tests and nothing that runs."""

from __future__ import annotations

import re
from collections.abc import Mapping

import nbformat
from nbconvert.exporters import HTMLExporter
from nbgrader.converters import GenerateFeedback
from nbgrader.coursedir import CourseDirectory

from grading.exercise import marks_of
from grading.inert import make_inert
from grading.record import Record

HIDDEN = re.compile(
    r"^[^\n]*### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS[^\n]*\n?",
    re.DOTALL | re.MULTILINE,
)


class Pages:
    """Writes feedback pages; made once, because its templates take time to read."""

    def __init__(self):
        converter = GenerateFeedback(coursedir=CourseDirectory())
        self._exporter = HTMLExporter(config=converter.config, sanitize_html=True)
        for step in converter.preprocessors:
            if step.__name__ != "GetGrades":  # asks the gradebook, which one writer has
                self._exporter.register_preprocessor(step, enabled=True)

    def html(
        self,
        notebook: nbformat.NotebookNode,
        record: Record,
        comments: Mapping[str, str],
    ) -> str:
        """The page of a notebook that was run, with the marks of its record.

        Changes the notebook.
        """
        make_inert(notebook)
        scores = {mark.cell: mark.score for mark in record.marks}
        for cell in notebook.cells:
            marks = marks_of(cell)
            if cell.cell_type == "code":
                cell.source = HIDDEN.sub("", cell.source).rstrip("\n")
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
