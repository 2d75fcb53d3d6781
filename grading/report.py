"""What an instructor reads after grading: a table, `grades.csv`, feedback pages."""

from __future__ import annotations

import csv
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grading.course import Mark

COLUMNS = ("student", "exercise", "score", "max_score", "status", "note", "tasks")


@dataclass(frozen=True)
class Result:
    """What became of one submission: `status` is "graded" or "rejected"."""

    student: str
    exercise: str
    status: str
    note: str = ""
    marks: Sequence[Mark] = field(default_factory=tuple)
    max_score: float = 0.0

    @property
    def score(self) -> float:
        return sum(mark.score for mark in self.marks)

    @property
    def tasks(self) -> str:
        """Each task and its marks, as in "causal_mask 2/2; KVCache 0/5"."""
        return "; ".join(f"{m.task} {m.score:g}/{m.max_score:g}" for m in self.marks)


def write_csv(results: Sequence[Result], path: Path) -> None:
    """One row a submission; replaces `path` in one step."""
    temporary = path.with_suffix(".csv.part")
    with temporary.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for r in results:
            marks = (f"{r.score:g}", f"{r.max_score:g}")
            row = (r.student, r.exercise, *marks, r.status, r.note, r.tasks)
            rows.writerow([_inert(cell) for cell in row])
    temporary.replace(path)


def table(results: Sequence[Result]) -> str:
    """The same, for the terminal."""
    rows = [("student", "exercise", "score", "", "note")]
    for r in results:
        score = f"{r.score:g}/{r.max_score:g}" if r.max_score else "-"
        lost = [m.task for m in r.marks if m.score < m.max_score]
        note = r.note or ("lost: " + ", ".join(lost) if lost else "")
        rows.append((r.student, r.exercise, score, r.status, note))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]])
        for row in rows
    )


def rejection_page(result: Result) -> str:
    """The feedback page of a submission that could not be graded."""
    student, exercise, note = map(
        html.escape, (result.student, result.exercise, result.note)
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{exercise}: {student}</title>"
        "<style>body{font:16px/1.6 system-ui;max-width:40rem;margin:3rem auto;"
        "padding:0 1rem;color-scheme:light dark}</style>"
        f"<h1>{exercise}: not graded</h1><p>Score: 0. {note}</p>"
        "<p>Nothing of what you handed in was changed. Mend it and hand it in "
        "again.</p></html>\n"
    )


def _inert(cell: str) -> str:
    """A spreadsheet must not take a name or a note for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell
