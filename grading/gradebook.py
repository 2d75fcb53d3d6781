"""The one writer of a class's marks into nbgrader's gradebook.

What people add there (marks by hand, extra credit, comments) is theirs: it is read, and
never overwritten. All else follows from the journal and can be written again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from grading.record import GRADED, Record

NO_ANSWER = "No response."  # nbgrader's own words
Name = tuple[str, str]  # of a submission: student, exercise


class GradebookFailed(RuntimeError):
    """The gradebook could not be read or written; the text says what to do."""


@dataclass
class Page:
    """What the gradebook says of one submission, cell by cell."""

    auto: dict[str, float | None] = field(default_factory=dict)
    manual: dict[str, float] = field(default_factory=dict)
    extra: dict[str, float] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)

    @property
    def by_hand(self) -> list:
        """All that people said, in a form that can be compared."""
        parts = (self.manual, self.extra, self.comments)
        return [sorted(part.items()) for part in parts]


class Writer:
    """Writes records into an open gradebook of nbgrader, which knows the exercises."""

    def __init__(self, gradebook: Any):
        self._book = gradebook

    def write(self, record: Record) -> None:
        """Sets the automatic marks of a submission; 0 everywhere where it was rejected.

        Raises GradebookFailed where the database is locked or damaged.
        """
        from sqlalchemy.exc import SQLAlchemyError

        try:
            self._write(record)
            self._book.db.commit()
        except SQLAlchemyError as error:
            raise GradebookFailed(
                f"the gradebook took no marks of {'/'.join(record.name)}: {error}. "
                "Close what else has it open and call the same command again; no mark "
                "is lost"
            ) from error
        finally:
            self._book.db.remove()  # else it holds every submission in memory

    def pages(self) -> dict[Name, Page]:
        """What the gradebook says of every submission."""
        from nbgrader import api

        found: dict[Name, Page] = {}
        grade, comment = api.Grade, api.Comment
        scores = (grade.auto_score, grade.manual_score, grade.extra_credit)
        for student, slug, cell, auto, manual, extra in self._rows(grade, *scores):
            page = found.setdefault((student, slug), Page())
            page.auto[cell] = auto
            if manual is not None:
                page.manual[cell] = manual
            if extra:
                page.extra[cell] = extra
        for student, slug, cell, words in self._rows(comment, comment.manual_comment):
            if words:
                found[student, slug].comments[cell] = words
        self._book.db.remove()
        return found

    def _write(self, record: Record) -> None:
        self._book.update_or_create_student(record.student)
        submission = self._book.update_or_create_submission(
            record.exercise, record.student
        )
        rejected = record.status != GRADED
        scores = {mark.cell: mark.score for mark in record.marks}
        for notebook in submission.notebooks:
            for grade in notebook.grades:
                grade.auto_score = 0.0 if rejected else scores.get(grade.name)
                by_hand = grade.auto_score is None or grade.manual_score is not None
                grade.needs_manual_grade = by_hand
            for comment in notebook.comments:
                none = rejected or comment.name in record.unanswered
                comment.auto_comment = NO_ANSWER if none else None

    def _rows(self, kind: Any, *columns: Any) -> Iterable[tuple]:
        """Student, exercise, cell and `columns` of all rows of one kind."""
        from nbgrader import api
        from sqlalchemy import select

        names = (api.Student.id, api.Assignment.name, api.BaseCell.name)
        query = (
            select(*names, *columns)
            .select_from(kind)
            .join(api.BaseCell, kind.cell_id == api.BaseCell.id)
            .join(api.SubmittedNotebook, kind.notebook_id == api.SubmittedNotebook.id)
            .join(api.SubmittedNotebook.assignment)
            .join(api.SubmittedAssignment.student)
            .join(api.SubmittedAssignment.assignment)
        )
        return self._book.db.execute(query)


def create(url: str) -> None:
    """Makes an empty gradebook unless there is one.

    nbgrader would do it at the first use; it starts a program for that to ask which
    version its tables have, which takes longer than to grade a submission.
    """
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from nbgrader import api, dbutil
    from sqlalchemy import create_engine, inspect, text

    engine = create_engine(url)
    if not inspect(engine).get_table_names():
        config = Config()
        config.set_main_option("script_location", dbutil.ALEMBIC_DIR)
        version = ScriptDirectory.from_config(config).get_current_head()
        with engine.begin() as connection:
            api.Base.metadata.create_all(connection)
            create_version = "CREATE TABLE alembic_version (version_num VARCHAR(32))"
            connection.execute(text(create_version))
            insert = text("INSERT INTO alembic_version VALUES (:version)")
            connection.execute(insert, {"version": version})
    engine.dispose()


def holds(page: Page | None, record: Record) -> bool:
    """Whether the gradebook has the automatic marks of a record."""
    if page is None:
        return False
    if record.status != GRADED:
        return all(score == 0 for score in page.auto.values())
    return all(page.auto.get(m.cell, -1.0) == m.score for m in record.marks)


def with_hand_marks(record: Record, page: Page) -> Record:
    """The record with what people said in the gradebook in place of its own marks."""
    marks = []
    for mark in record.marks:
        score = page.manual.get(mark.cell, mark.score)
        if mark.cell in page.extra:
            score = (score or 0.0) + page.extra[mark.cell]
        marks.append(replace(mark, score=score))
    return replace(record, marks=tuple(marks))
