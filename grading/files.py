"""Files and folders that strangers named: opened, and called, with care.

Everything is opened relative to an open folder and never through a link, so that
nothing that is exchanged meanwhile leads elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice

from grading.archives import shown
from grading.rebuild import BadSubmission

MAX_NAME = 64  # characters

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFREG: "a file",
}


@contextmanager
def opened_file(name: str, folder: int, path: str, limit: int) -> Iterator[int]:
    """A plain file of 1 to `limit` bytes in an open folder, open for reading.

    `path` is how to call it. It is looked at before it is opened, so that no device
    is, and again afterwards, since another file may be there by then. Neither follows
    a link or waits for a fifo's other end. Raises BadSubmission with the reason.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        before = os.lstat(name, dir_fd=folder)
        _demand_plain(before, path, limit)
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        raise BadSubmission(reason_of(error, path)) from None
    try:
        after = os.fstat(descriptor)
        _demand_plain(after, path, limit)
        if not os.path.samestat(before, after):
            raise BadSubmission(f"{shown(path)} was replaced while it was read")
        yield descriptor
    finally:
        os.close(descriptor)


def _demand_plain(status: os.stat_result, path: str, limit: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BadSubmission(
            f"{shown(path)} is {kind(status)} where a plain file is expected; hand in "
            "the notebook itself"
        )
    if status.st_nlink > 1:
        raise BadSubmission(
            f"{shown(path)} is a hard link: the same file has another name elsewhere; "
            "hand in a copy"
        )
    if status.st_size > limit:
        raise too_large(status.st_size, path, limit)
    if status.st_size == 0:
        raise BadSubmission(
            f"{shown(path)} is empty; save the notebook and hand it in again"
        )


def too_large(size: int, path: str, limit: int) -> BadSubmission:
    """The reason why a file of `size` bytes is not read."""
    return BadSubmission(
        f"{shown(path)} has {size / 1e6:.1f} MB, {limit / 1e6:g} MB are allowed; clear "
        "the notebook's outputs, save it and hand that in"
    )


@contextmanager
def opened_folder(name: str, parent: int | None = None) -> Iterator[int]:
    """A folder in an open folder; OSError where it is a link or none."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def entries_of(descriptor: int, most: int | None = None) -> dict[str, os.stat_result]:
    """The names in an open folder, sorted, and what each is; at most `most`."""
    with os.scandir(descriptor) as scan:
        names = [entry.name for entry in islice(scan, most and most + 1)]
    if most and len(names) > most:
        raise BadSubmission(
            f"the folder holds more than {most} files; hand in the notebook alone"
        )
    entries = {}
    for name in sorted(names):
        with suppress(FileNotFoundError):  # deleted since
            entries[name] = os.lstat(name, dir_fd=descriptor)
    return entries


def kind(status: os.stat_result) -> str:
    """What a file is, in words."""
    return _KINDS.get(stat.S_IFMT(status.st_mode), "a device")


def reason_of(error: Exception, path: str) -> str:
    """Why a submission is rejected, from what was raised over it."""
    if isinstance(error, OSError):
        why = error.strerror or type(error).__name__
        return f"{shown(path)} cannot be opened ({why}); hand it in again"
    return str(error)


def fault_of(student: str) -> str:
    """What is wrong with the name of a student's folder; empty where nothing is."""
    if _safe(student):
        return ""
    return (
        f"the student's folder is called {shown(student)}; allowed are up to "
        f"{MAX_NAME} letters, digits, '.', '_', '-' and '@', no '.' or '-' first, no "
        "'.' last, each letter one character (Unicode NFKC): rename it"
    )


def label(name: str) -> str:
    """`name` where it is safe as a file name, else one that is and tells names apart.

    The "~" in it is in no safe name.
    """
    if _safe(name):
        return name
    rest = re.sub(r"[^A-Za-z0-9_@-]", "_", name)[:40]
    return f"{rest}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def _safe(name: str) -> bool:
    return (
        len(name) <= MAX_NAME
        and re.fullmatch(r"[\w@][\w.@-]*", name) is not None
        and not name.endswith(".")
        and unicodedata.normalize("NFKC", name) == name
    )
