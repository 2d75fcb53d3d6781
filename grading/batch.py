"""Grades a whole class: many workers, one writer, and a journal between them.

    entries --> workers --> journal --> gradebook --> pages, grades.csv, report.html
                (many)      (one writer from here on)

Only the step to the journal costs time, and what stands there is never done again.
All that follows is made from it, and made again where a run was cut off.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from grading import class_report, contained, gradebook, intake, report, worker
from grading.containment import selftest
from grading.containment.lock import UNSAFE
from grading.course import Course, environment, exercises_of
from grading.journal import Journal
from grading.pool import Lost, Pool
from grading.record import FAILED, Record


class Busy(RuntimeError):
    """Another grader works on this class; the text says which."""


@dataclass(frozen=True)
class Class:
    """Where things of a class lie.

    submitted: what was handed in; only read.
    folder: gradebook.db, autograded/, feedback/, grades.csv and report.html, where
        nbgrader has them too; the journal and the lock in `.grading/`.
    """

    submitted: Path
    folder: Path

    @property
    def own(self) -> Path:
        return self.folder / ".grading"


@dataclass(frozen=True)
class Outcome:
    """What a run came to: every record, and how many were graded in this run."""

    records: list[Record]
    done: int


def grade(
    root: Path,
    where: Class,
    workers: int,
    seed: int | None = None,
    pages: bool = True,
) -> Outcome:
    """Grades what was not yet, and writes all that follows from it.

    `pages` False leaves the feedback pages out; a later run writes them.

    Raises Busy where another grader is at it, NotContained where no lock holds.
    """
    exercises = exercises_of(root)
    entries = list(intake.find(where.submitted, exercises))
    if not entries:
        return Outcome([], 0)
    with _alone(where.own):
        journal = Journal(where.own / "journal.jsonl", seed)
        try:
            with environment(journal.seed):
                return _grade(root, where, entries, workers, journal, pages)
        finally:
            journal.close()


def _grade(root, where: Class, entries, workers, journal, paged: bool) -> Outcome:
    contained.ensure_warm()  # it gets ready while we do
    course = Course(root, where.folder)
    wanted = sorted({e.exercise for e in entries} & set(course.exercises))
    exercises = {slug: course.exercise(slug) for slug in wanted}
    start = functools.partial(
        worker.Worker,
        where.submitted,
        where.folder,
        exercises,
        course.exercises,
        journal.seed,
    )
    print(f"{_locked()} Hidden cases follow the seed {journal.seed}.", flush=True)
    with Pool(start, workers) as pool, course.api.gradebook as book:
        records, done = _records(pool, entries, journal)
        known = [r for r in records if r.exercise in exercises and r.status != FAILED]
        pages = _enter(gradebook.Writer(book), known)
        records = [_with_hand_marks(record, pages) for record in records]
        if paged:
            _write_pages(pool, where, records, pages)
    report.write_csv(records, where.folder / "grades.csv")
    worker.write(where.folder / "report.html", class_report.html(records))
    return Outcome(records, done)


def _records(pool: Pool, entries, journal: Journal) -> tuple[list[Record], int]:
    """A record for every entry, in their order, and how many of them are new."""
    jobs = [
        worker.Grade(e, journal.records.get((e.student, e.exercise))) for e in entries
    ]
    found: dict[tuple[str, str], Record] = {}
    done = 0
    with _progress(len(jobs), "submission") as bar:
        for job, result in pool.run(jobs):
            record = _record(job, result)
            if record != job.known and record.status != FAILED:
                journal.add(record)
                done += 1
            found[record.name] = record
            last = f"last: {'/'.join(record.name)} {record.status}"
            bar.set_postfix_str(last, refresh=False)
            bar.update()
    return [found[e.student, e.exercise] for e in entries], done


def _enter(writer: gradebook.Writer, records: list[Record]) -> dict:
    """Writes what the gradebook does not have yet; all that it says then."""
    pages = writer.pages()
    for record in records:
        if not gradebook.holds(pages.get(record.name), record):
            writer.write(record)
    return writer.pages()


def _record(job: worker.Grade, result: Record | Lost) -> Record:
    if isinstance(result, Record):
        return result
    return Record(job.entry.student, job.entry.exercise, FAILED, note=result.reason)


def _with_hand_marks(record: Record, pages: dict) -> Record:
    page = pages.get(record.name)
    return gradebook.with_hand_marks(record, page) if page else record


def _write_pages(pool: Pool, where: Class, records: list[Record], pages: dict) -> None:
    """The feedback pages that are missing or out of date."""
    stamps = where.own / "pages.json"
    known = json.loads(stamps.read_text()) if stamps.exists() else {}
    jobs, stamp = [], {}
    for record in records:
        page = pages.get(record.name, gradebook.Page())
        fields = replace(record, seconds=0.0).to_json()
        name = "/".join(record.name)
        stamp[name] = worker.digest([fields, page.by_hand])
        there = worker.feedback(where.folder, *record.name).exists()
        if not there or known.get(name) != stamp[name]:
            jobs.append(worker.Page(record, page.comments))
    with _progress(len(jobs), "page") as bar:
        for job, result in pool.run(jobs):
            bar.update()
            if isinstance(result, Lost):
                name = "/".join(job.record.name)
                print(f"no feedback page for {name}: {result.reason}", file=sys.stderr)
                stamp.pop(name)
    worker.write(stamps, json.dumps(stamp))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the lock of a class. Raises Busy where another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        try:
            # Of this process alone: the workers, which are forks of it, do not hold it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise Busy(
                f"{folder.parent} is being graded by process {file.read() or '?'}. "
                "Wait for it, or stop it: what it has graded is kept"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _locked() -> str:
    """Tries the lock before the first submission runs; how it holds, in words.

    Raises NotContained where it does not, unless that was asked for.
    """
    if os.environ.get(UNSAFE) == "1":
        return f"{UNSAFE}=1: where no lock holds, submissions run as you."
    found = selftest.run()
    return (
        f"Submissions are locked in ({found.rung}): {len(found.attempts)} attempts "
        "to break out have failed."
    )


def _progress(total: int, unit: str) -> tqdm:
    """Counts, rate and the time that is left; on a terminal live, else now and then."""
    tqdm.monitor_interval = 0  # its thread would not survive the workers' fork
    every = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, unit=unit, mininterval=every, disable=not total)
