"""What was handed in: a notebook to grade, or the reason why there is none.

    for entry in intake.find(Path("submitted"), exercises):
        submission = intake.read(Path("submitted"), entry, exercises)

To find looks at names only; to read may be done elsewhere, in any order.

Each student has a folder. An exercise is handed in as one of these, and the first
that is there counts, be it good or bad:

1. `STUDENT/EXERCISE/EXERCISE.ipynb`
2. `STUDENT/EXERCISE.ipynb`
3. `STUDENT/EXERCISE/ANY.zip`, one called EXERCISE.zip first, then by name; also .tar,
   .tar.gz, .tgz, .tar.bz2 and .tar.xz (see `grading.archives`)
4. `STUDENT/EXERCISE.zip`, and the same others

Other files are left alone. The grader, who may be root, only looks at names and opens
plain files, never through a link; the bytes are read by a process without rights
(`grading.unprivileged`). Nothing that lies in the folder raises or stops the others,
and nothing in it is changed.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from grading import notebooks, unprivileged
from grading.archives import SUFFIXES, notebook_in, shown
from grading.files import (
    entries_of,
    fault_of,
    kind,
    label,
    opened_file,
    opened_folder,
    reason_of,
    too_large,
)
from grading.rebuild import BadSubmission

MAX_NOTEBOOK = 10_000_000  # bytes
MAX_ARCHIVE = 50_000_000
MAX_ENTRIES = 1_000  # files and folders in one folder of a student
WHOLE = "all"  # the exercise of a record that is about all of a student's folder
IGNORED = {".ipynb_checkpoints", ".git", "__MACOSX"}


@dataclass(frozen=True)
class Submission:
    """One exercise of one student; `notebook` is None where `reason` says why.

    `student` and `exercise` are safe as file names: one that is not is replaced by a
    label with a "~", and the reason quotes it. The outputs of cells are left out of
    `notebook`: grading reads none, and they are most of its size.
    """

    student: str
    exercise: str
    notebook: dict | None
    reason: str
    note: str = ""


@dataclass(frozen=True)
class Entry:
    """Where a submission lies: `student` and `exercise` as in `Submission`.

    `folder` and `slug` are the same as they are called on the disk; `fault` says why
    the entry is none that can be read.
    """

    student: str
    exercise: str
    folder: str = ""
    slug: str = ""
    fault: str = ""


def find(folder: Path, exercises: Collection[str]) -> Iterator[Entry]:
    """What was handed in below `folder`, by student and exercise.

    A folder that does not exist has no submissions.
    """
    if not folder.is_dir():
        return
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        entries = entries_of(top)
        folders = (n for n, s in entries.items() if stat.S_ISDIR(s.st_mode))
        names = Counter(name.casefold() for name in folders)
        for name in sorted(entries.keys() - IGNORED):
            twin = names[name.casefold()] > 1
            yield from _student(name, entries[name], top, twin, exercises)
    finally:
        os.close(top)


def read(folder: Path, entry: Entry, exercises: Collection[str]) -> Submission:
    """The submission of an entry that `find` gave for the same folder."""
    if not entry.slug:  # it is about the whole folder
        return Submission(entry.student, entry.exercise, None, entry.fault)
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with opened_folder(entry.folder, top) as descriptor:
            entries = entries_of(descriptor, MAX_ENTRIES)
            return _submission(entry, descriptor, entries, exercises)
    except (BadSubmission, OSError) as error:
        reason = reason_of(error, entry.folder)
        return Submission(entry.student, entry.exercise, None, reason)
    finally:
        os.close(top)


def _student(name, status, top, twin, exercises) -> list[Entry]:
    if not stat.S_ISDIR(status.st_mode):
        return _stray(name, status)
    student, fault = label(name), fault_of(name)
    if twin:
        fault = f"another folder has the same name as {shown(name)} but for capital "
        fault += "letters; put what belongs together into one"
    try:
        with opened_folder(name, top) as descriptor:
            entries = entries_of(descriptor, MAX_ENTRIES)
    except (BadSubmission, OSError) as error:
        return [Entry(student, WHOLE, fault=reason_of(error, name))]
    found = {_exercise(name, entries[name], exercises) for name in entries}
    return [
        Entry(student, label(slug), name, slug, fault)
        for slug in sorted(found - {None})
    ]


def _stray(name: str, status: os.stat_result) -> list[Entry]:
    """A thing beside the students' folders: a record if it may have been meant so."""
    plain = stat.S_ISREG(status.st_mode)
    if name.startswith(".") or (plain and _stem(name) is None):
        return []
    reason = (
        f"found {shown(name)}, {kind(status)}, where students' folders are expected; "
        "hand in STUDENT/EXERCISE/EXERCISE.ipynb"
    )
    return [Entry(label(name), WHOLE, fault=reason)]


def _submission(entry: Entry, folder: int, entries, exercises) -> Submission:
    """What the student's open `folder` holds for one exercise."""
    slug, note = entry.slug, ""
    try:
        if entry.fault:
            raise BadSubmission(entry.fault)
        if slug not in exercises:
            known = ", ".join(sorted(exercises))
            raise BadSubmission(
                f"there is no exercise {shown(slug)}; there are: {known}. Name the "
                "folder, or the file, after one of them"
            )
        with _inner(slug, folder, entries) as (inner, names):
            files = _ranked(slug, folder, entries, inner, names)
            note = _left(files, slug, names)
            if not files:
                raise _missing(slug, names)
            answer = _read(files[0], slug)
    except (BadSubmission, OSError) as error:
        reason = reason_of(error, slug)
        return Submission(entry.student, entry.exercise, None, reason, note)
    note = "; ".join(filter(None, [answer.get("note"), note]))
    reason = answer.get("reason", "")
    return Submission(entry.student, slug, answer.get("notebook"), reason, note)


class _File(NamedTuple):
    """A file that may be the one handed in, and the open folder that it is in."""

    name: str
    folder: int
    path: str  # below the student's folder, to be shown


def _ranked(slug, folder, entries, inner, names) -> list[_File]:
    """The files that may be meant, the one that counts first."""

    wanted = f"{slug}.ipynb"
    inside = sorted(filter(_packed, names), key=lambda n: (_stem(n) != slug, n))
    beside = sorted(n for n in entries if _packed(n) and _stem(n) == slug)
    return [
        *(_File(n, inner, f"{slug}/{n}") for n in names if n == wanted),
        *(_File(n, folder, n) for n in entries if n == wanted),
        *(_File(n, inner, f"{slug}/{n}") for n in inside),
        *(_File(n, folder, n) for n in beside),
    ]


def _left(files: list[_File], slug: str, names: Collection[str]) -> str:
    """A note on what was found and not read."""
    used = {file.path for file in files}
    other = [f"{slug}/{n}" for n in sorted(names) if not n.startswith((".", "__"))]
    other = [file.path for file in files[1:]] + [n for n in other if n not in used]
    if not files or not other:
        return ""
    more = f" and {len(other) - 3} more" if len(other) > 3 else ""
    told = ", ".join(map(shown, other[:3])) + more
    return f"{shown(files[0].path)} was taken; not read: {told}"


def _missing(slug: str, names: Collection[str]) -> BadSubmission:
    found = ", ".join(shown(name) for name in sorted(names)[:3]) or "nothing"
    return BadSubmission(
        f"{slug}.ipynb was not handed in (found: {found}); hand in "
        f"{slug}/{slug}.ipynb, or an archive that holds it ({', '.join(SUFFIXES)})"
    )


def _read(file: _File, slug: str) -> dict:
    """What the process without rights says of a file: notebook, or reason; note."""
    packed = file.name != f"{slug}.ipynb"
    limit = MAX_ARCHIVE if packed else MAX_NOTEBOOK
    with opened_file(file.name, file.folder, file.path, limit) as descriptor:
        arguments = (descriptor, file.path, slug, packed)
        answer = unprivileged.call(_parse, *arguments, keep=[descriptor])
    if isinstance(answer, unprivileged.Failure):
        raise BadSubmission(
            f"{shown(file.path)} could not be read: {answer.reason}; hand in the "
            "notebook as Jupyter saves it"
        )
    return answer


def _parse(descriptor: int, path: str, slug: str, packed: bool) -> dict:
    """Runs without rights. `descriptor` is open, so that it needs none."""
    limit = MAX_ARCHIVE if packed else MAX_NOTEBOOK
    note = ""
    try:
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
        if len(data) > limit:  # it has grown since its size was looked at
            return {"reason": str(too_large(len(data), path, limit))}
        if packed:
            wanted = f"{slug}.ipynb"
            data, member = notebook_in(data, wanted, MAX_NOTEBOOK)
            note = f"{shown(member)} of {shown(path)}"
        return {"notebook": notebooks.parse(data), "note": note}
    except BadSubmission as error:
        return {"reason": f"{shown(path)} {error}", "note": note}


@contextmanager
def _inner(slug: str, folder: int, entries: dict) -> Iterator[tuple[int, Collection]]:
    """The folder of the exercise and the names in it, where there is one."""
    if slug not in entries:
        yield -1, []
        return
    if not stat.S_ISDIR(entries[slug].st_mode):
        raise BadSubmission(
            f"{shown(slug)} is {kind(entries[slug])} where a folder is expected; hand "
            f"in {slug}/{slug}.ipynb"
        )
    with opened_folder(slug, folder) as inner:
        yield inner, entries_of(inner, MAX_ENTRIES)


def _exercise(name: str, status: os.stat_result, exercises) -> str | None:
    """The exercise that an entry of a student's folder is for, None for none."""
    if name.startswith((".", "__")):
        return None
    if name in exercises or (stem := _stem(name)) is None:
        return name if name in exercises or stat.S_ISDIR(status.st_mode) else None
    return stem


def _packed(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith((".", "__"))


def _stem(name: str) -> str | None:
    """`name` without the ending of a notebook or an archive; None without such."""
    for suffix in (".ipynb", *SUFFIXES):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return None
