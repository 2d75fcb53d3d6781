"""An exercise as a class is graded on it."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import nbformat

from posttrain import sources


@dataclass(frozen=True)
class Exercise:
    """The released notebook, and what only graders know.

    tests: the source of each test cell by its grade id, hidden tests included.
    absent: modules of the library that the answers stand for.
    digest: of all of these and of the checks, so that marks follow from it, from the
        seed and from what was handed in.
    """

    slug: str
    release: nbformat.NotebookNode
    tests: Mapping[str, str]
    absent: Sequence[str]
    digest: str

    @property
    def max_score(self) -> float:
        """The points that it can earn."""
        return float(sum(marks["points"] for marks in map(marks_of, self.graded)))

    @property
    def graded(self) -> list:
        """The cells that earn points, in their order."""
        return [cell for cell in self.release.cells if marks_of(cell).get("grade")]

    def with_tests(self, notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
        """A copy of a rebuilt notebook with the hidden tests in place."""
        whole = copy.deepcopy(notebook)
        for cell in whole.cells:
            cell.source = self.tests.get(marks_of(cell).get("grade_id"), cell.source)
        return whole

    def unanswered(self, notebook: nbformat.NotebookNode) -> list[str]:
        """The grade ids of answers that are as they were released."""
        released = {marks_of(c).get("grade_id"): c.source for c in self.release.cells}
        answers = [cell for cell in notebook.cells if marks_of(cell).get("solution")]
        names = [(marks_of(cell)["grade_id"], cell.source) for cell in answers]
        return [name for name, source in names if released[name] == source]


def make(slug: str, release, tests: dict[str, str], absent: Sequence[str]) -> Exercise:
    """The exercise, with its digest."""
    cells = [[cell.source, marks_of(cell)] for cell in release.cells]
    text = json.dumps([slug, cells, sorted(tests.items()), list(absent)])
    checks = sources.digest(sources.closure(f"posttrain.checks.{slug}"))
    digest = hashlib.sha256(f"{text}{checks}".encode()).hexdigest()
    return Exercise(slug, release, tests, tuple(absent), digest)


def marks_of(cell) -> dict:
    """nbgrader's metadata of a cell; empty where it has none."""
    return cell.metadata.get("nbgrader", {})
