"""One notebook out of a zip or tar archive that nobody vouches for.

Nothing is unpacked to disk. The members are listed, and the one that is wanted is
read as a stream with a bound on its bytes; every other member is stepped over. The
caller runs this in a process with limits (`grading.unprivileged`): a hostile archive
may still cost time and memory inside Python's own readers.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import BinaryIO

from grading.rebuild import BadSubmission

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBERS = 5_000
MAX_UNPACKED = 200 * 2**20  # bytes of a tar that are read to find the notebook
MAX_RATIO = 200  # bytes unpacked for each byte of the archive ...
FREE = 2**20  # ... after the first so many
BLOCK = 4096  # zipfile unpacks a whole block of bz2 or lzma at once: keep it small

_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}

codecs.lookup("cp437")  # names in a zip; later, `nobody` may not read Python's library

Member = tuple[str, Callable[[], bytes]]


def notebook_in(archive: bytes, wanted: str, limit: int) -> tuple[bytes, str]:
    """The bytes of the member called `wanted`, at most `limit`, and its full name.

    It may lie at the top or one folder down; the top wins. The kind of archive is
    told by its first bytes. Raises BadSubmission with the reason, MemoryError.
    """
    try:
        return _pick(_members(archive, limit), wanted)
    except (BadSubmission, MemoryError):
        raise
    except Exception as error:  # whatever the readers raise on hostile bytes
        raise BadSubmission(
            f"cannot be unpacked ({shown(str(error) or type(error).__name__)}); pack "
            f"{wanted} again, without a password, or hand in the notebook itself"
        ) from None


def shown(name: str) -> str:
    """A foreign name or text, fit to be printed: quoted, escaped and short."""
    return repr(name if len(name) <= 80 else name[:77] + "...")


def _pick(members: Iterator[Member], wanted: str) -> tuple[bytes, str]:
    found: dict[int, tuple[bytes, str]] = {}
    others = []
    for number, (name, read) in enumerate(members, 1):
        _demand_few(number)
        level = _level(name, wanted)
        if level is None:
            others += [shown(name)] if len(others) < 3 else []
        elif level in found:
            raise BadSubmission(
                f"holds {wanted} more than once ({shown(found[level][1])} and "
                f"{shown(name)}); pack the one that counts"
            )
        else:
            found[level] = read(), name
    if not found:
        raise BadSubmission(
            f"holds no {wanted} at its top or one folder down (found: "
            f"{', '.join(others) or 'nothing'}); pack {wanted} itself: archives "
            "inside an archive are not opened"
        )
    return found[min(found)]


def _demand_few(members: int) -> None:
    if members > MAX_MEMBERS:
        raise BadSubmission(
            f"holds more than {MAX_MEMBERS} files; pack the notebook alone"
        )


def _level(name: str, wanted: str) -> int | None:
    """How many folders down the wanted notebook is; None for any other member."""
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or re.match("[A-Za-z]:/", path) or ".." in parts:
        raise BadSubmission(
            f"holds {shown(name)}, a name that leads out of the archive; pack "
            f"{wanted} with a plain name"
        )
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    if hidden or len(parts) > 2 or parts[-1:] != [wanted]:
        return None
    return len(parts) - 1


def _members(archive: bytes, limit: int) -> Iterator[Member]:
    file = io.BytesIO(archive)
    if archive.startswith(b"PK"):
        _demand_few(archive.count(b"PK\1\2"))  # zipfile reads them all at once
        return _zip_members(file, limit)
    for first, opener in _OPENERS.items():
        if archive.startswith(first):
            return _tar_members(_Bounded(opener(file), file), limit)
    return _tar_members(_Bounded(file, file), limit)


def _zip_members(file: BinaryIO, limit: int) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            yield info.filename, lambda info=info: _from_zip(archive, info, limit)


def _from_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where Windows packed it
    if info.is_dir() or kind not in (0, stat.S_IFREG):
        raise _not_a_file(info.filename)
    if info.flag_bits & 1:
        raise BadSubmission("is encrypted; pack it again without a password")
    if info.file_size > FREE + MAX_RATIO * info.compress_size:
        raise _bomb()
    with archive.open(info) as member:
        return _read(member, info.filename, limit)


def _tar_members(stream: _Bounded, limit: int) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r|", bufsize=65536) as archive:
        for info in archive:
            yield info.name, lambda info=info: _from_tar(archive, info, limit)


def _from_tar(archive: tarfile.TarFile, info: tarfile.TarInfo, limit: int) -> bytes:
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.issparse():
        raise _not_a_file(info.name)
    with archive.extractfile(info) as member:
        return _read(member, info.name, limit)


def _read(member: BinaryIO, name: str, limit: int) -> bytes:
    data = bytearray()
    while block := member.read(BLOCK):
        data += block
        if len(data) > limit:
            raise BadSubmission(
                f"holds {shown(name)} of more than {limit / 1e6:g} MB; clear the "
                "notebook's outputs, save it and pack it again"
            )
    return bytes(data)


class _Bounded:
    """A stream of unpacked bytes that stops where an honest archive would not go."""

    def __init__(self, unpacked: BinaryIO, packed: BinaryIO):
        self.unpacked, self.packed, self.total = unpacked, packed, 0

    def read(self, size: int) -> bytes:
        block = self.unpacked.read(size)
        self.total += len(block)
        if self.total > min(MAX_UNPACKED, FREE + MAX_RATIO * self.packed.tell()):
            raise _bomb()
        return block


def _bomb() -> BadSubmission:
    return BadSubmission(
        f"unpacks to more than {MAX_RATIO} times its size, or {MAX_UNPACKED >> 20} MB; "
        "hand in the notebook itself"
    )


def _not_a_file(name: str) -> BadSubmission:
    return BadSubmission(
        f"holds {shown(name)} as a link, a folder or a special file; pack the notebook "
        "itself"
    )
