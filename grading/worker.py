"""What one worker does: it takes jobs, and gives back records.

A worker keeps nothing that a job needs, writes only below `autograded/` and `feedback/`
of the class, each file in one step, and never touches journal or gradebook. So any
number of them can work, one that ends costs its present job only, and the same job
done twice comes to the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat

from grading import intake, runner
from grading.exercise import Exercise
from grading.inert import make_inert
from grading.judge import Judge
from grading.rebuild import rebuild
from grading.record import FAILED, GRADED, REJECTED, Record
from grading.report import rejection_page


@dataclass(frozen=True)
class Grade:
    """A job: to grade what was handed in, unless `known` holds for it already."""

    entry: intake.Entry
    known: Record | None = None


@dataclass(frozen=True)
class Page:
    """A job: to write the feedback page of a record, with what people commented."""

    record: Record
    comments: Mapping[str, str]


class Worker:
    """Does jobs for one class: `submitted` is what was handed in, `folder` its own.

    `exercises` are those to grade, `slugs` all that there are.
    """

    def __init__(
        self,
        submitted: Path,
        folder: Path,
        exercises: Mapping[str, Exercise],
        slugs: list[str],
        seed: int,
    ):
        from nbgrader.preprocessors import LimitOutput

        from grading.feedback import Pages

        self.submitted, self.folder, self.seed = submitted, folder, seed
        self.exercises, self.slugs = exercises, slugs
        self.judge = Judge()
        self.judge.start(sorted(exercises))
        self._limit, self._pages = LimitOutput(), Pages()

    def __call__(self, job: Grade | Page) -> Record:
        """Does a job. Raises NotContained where no lock holds."""
        return self.grade(job) if isinstance(job, Grade) else self.page(job)

    def grade(self, job: Grade) -> Record:
        """Reads, runs and marks a submission; the notebook goes to `autograded/`."""
        start = time.monotonic()
        submission = intake.read(self.submitted, job.entry, self.slugs)
        student, slug = submission.student, submission.exercise
        exercise = self.exercises.get(slug)
        most = exercise.max_score if exercise else 0.0
        if submission.notebook is None:
            key, reason = digest(submission.reason), submission.reason
            return Record(student, slug, REJECTED, key, reason, max_score=most)
        rebuilt = rebuild(exercise.release, submission.notebook)
        sources = [cell.source for cell in rebuilt.notebook.cells]
        note = "; ".join(filter(None, [*_notes(rebuilt), submission.note]))
        key = digest([exercise.digest, self.seed, sources, note])
        target = autograded(self.folder, student, slug)
        if job.known and job.known.key == key and target.exists():
            return job.known
        try:
            run = runner.run(exercise, rebuilt.notebook, self.judge)
        except (runner.GradingFailed, OSError) as error:
            reason = f"not run: {error}"
            return Record(student, slug, FAILED, "", reason, max_score=most)
        notebook, _ = self._limit.preprocess(run.notebook, {})
        make_inert(notebook)  # the formgrader would let it act in its reader's browser
        write(target, nbformat.writes(notebook))
        seconds = round(time.monotonic() - start, 3)
        empty = tuple(exercise.unanswered(rebuilt.notebook))
        marks = tuple(run.marks)
        return Record(student, slug, GRADED, key, note, marks, empty, most, seconds)

    def page(self, job: Page) -> Record:
        """Writes the feedback page of a submission."""
        record = job.record
        if record.status == GRADED:
            path = autograded(self.folder, *record.name)
            notebook = nbformat.read(path, as_version=4)
            text = self._pages.html(notebook, record, job.comments)
        else:
            text = rejection_page(record)
        write(feedback(self.folder, *record.name), text)
        return record


def autograded(folder: Path, student: str, slug: str) -> Path:
    """Where a notebook lies as it was run, as nbgrader has it."""
    return folder / "autograded" / student / slug / f"{slug}.ipynb"


def feedback(folder: Path, student: str, slug: str) -> Path:
    """Where a feedback page lies, as nbgrader has it."""
    return folder / "feedback" / student / slug / f"{slug}.html"


def digest(value: object) -> str:
    """A short name for a value of JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def write(path: Path, text: str) -> None:
    """The whole file or nothing. Half a character (a lone surrogate) is written as its
    escape, which is what JSON has for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _notes(rebuilt) -> list[str]:
    notes = []
    if rebuilt.missing:
        notes.append(f"answer cell missing: {', '.join(rebuilt.missing)}")
    if rebuilt.repeated:
        names = ", ".join(rebuilt.repeated)
        notes.append(f"answer cell more than once, the last counts: {names}")
    return notes
