"""A gradable notebook from the released one and the text of a submission.

The released notebook is the skeleton. Only the text of answer cells, and code cells
that the learner added, are taken from the submission; its metadata is dropped. So a
deleted, duplicated or edited test cell changes nothing, and a missing answer cell
costs its own task only.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import nbformat
from nbformat.v4 import new_code_cell


class BadSubmission(ValueError):
    """A submission that cannot be graded; the text says why, for the learner."""


@dataclass(frozen=True)
class Rebuilt:
    """The notebook to grade, and the grade ids of answer cells that it did not find,
    or found more than once (then the last one counts)."""

    notebook: nbformat.NotebookNode
    missing: list[str]
    repeated: list[str]


def rebuild(release: nbformat.NotebookNode, submission: dict) -> Rebuilt:
    """`release` with the answers and the extra code cells of `submission`."""
    result = copy.deepcopy(release)
    answers = [_grade_id(cell) for cell in result.cells if _is_answer(cell)]
    found: dict[str, int] = dict.fromkeys(answers, 0)
    extras: dict[str | None, list[str]] = {}
    last = None
    for cell in filter(lambda cell: isinstance(cell, dict), submission["cells"]):
        source, own = _text(cell), _counterpart(cell, result.cells)
        if own is not None:
            last = own.id
        if source is None:
            continue
        if own is None and cell.get("cell_type") == "code":
            extras.setdefault(last, []).append(source)
        elif own is not None and _is_answer(own):
            own.source = source
            found[_grade_id(own)] += 1
    result.cells = _with_extras(result.cells, extras)
    missing = [name for name, count in found.items() if count == 0]
    repeated = [name for name, count in found.items() if count > 1]
    return Rebuilt(result, missing, repeated)


def _counterpart(cell: dict, released: list) -> dict | None:
    """The released cell that a submitted one is: by grade id, by id, by its text.

    Colab drops the ids of cells, so the text is the last way to know one.
    """
    name, text = _grade_id(cell), _text(cell)
    for own in released:
        if name is not None and name == _grade_id(own):
            return own
    for own in released:
        known = cell.get("id") == own.id or text == own.source
        if known and not _is_answer(own):
            return own
    return None


def _is_answer(cell: dict) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("solution"))


def _text(cell: dict) -> str | None:
    """The source of a submitted cell, None where it has none that is text.

    Text with half a character (a lone surrogate) is none: no file can hold it.
    """
    source = cell.get("source")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str):
        return None
    try:
        source.encode()
    except UnicodeEncodeError:
        return None
    return source


def _grade_id(cell: dict) -> str | None:
    metadata = cell.get("metadata")
    marks = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    name = marks.get("grade_id") if isinstance(marks, dict) else None
    return name if isinstance(name, str) else None


def _with_extras(cells: list, extras: dict) -> list:
    added = [new_code_cell(source) for source in extras.get(None, [])]
    for cell in cells:
        added.append(cell)
        added += [new_code_cell(source) for source in extras.get(cell.id, [])]
    return added
