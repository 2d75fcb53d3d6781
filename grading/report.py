"""What an instructor gets after grading: a table, `grades.csv`, pages of rejections."""

from __future__ import annotations

import csv
import html
from collections.abc import Sequence
from pathlib import Path

from grading.record import Record

COLUMNS = ("student", "exercise", "score", "max_score", "status", "note", "tasks")


def write_csv(records: Sequence[Record], path: Path) -> None:
    """One row a submission; replaces `path` in one step."""
    temporary = path.with_suffix(".csv.part")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for r in records:
            marks = (f"{r.score:g}", f"{r.max_score:g}")
            row = (r.student, r.exercise, *marks, r.status, r.note, r.tasks)
            rows.writerow([_inert(cell) for cell in row])
    temporary.replace(path)


def table(records: Sequence[Record]) -> str:
    """The same, for the terminal."""
    rows = [("student", "exercise", "score", "", "note")]
    for r in records:
        score = f"{r.score:g}/{r.max_score:g}" if r.max_score else "-"
        lost = [m.task for m in r.marks if (m.score or 0.0) < m.max_score]
        note = r.note or ("lost: " + ", ".join(lost) if lost else "")
        rows.append((r.student, r.exercise, score, r.status, note))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]])
        for row in rows
    )


def rejection_page(record: Record) -> str:
    """The feedback page of a submission that could not be graded."""
    student, exercise, note = map(
        html.escape, (record.student, record.exercise, record.note)
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
