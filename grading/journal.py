"""The journal: every result, written down before anything is made of it.

    journal = Journal(folder / "journal.jsonl", seed=None)
    journal.add(record)

One line of JSON for each submission that was dealt with, on the disk when `add`
returns. All else (gradebook, tables, pages) can be made from it again, so a run that
was cut off at any moment goes on where it was, and the last line for a submission is
the one that holds. The first line keeps the seed of the hidden cases, the same for a
whole class; another such line follows where another seed was asked for.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from grading.record import Record

FORMAT = 1
BITS = 128  # of a seed that is drawn


class JournalDamaged(RuntimeError):
    """A journal that cannot be read; the text says where, and what to do."""


class Journal:
    """The records of the class in `path`, which is made if it is not there.

    `seed` None keeps the seed of the journal, or draws one for a new class.
    """

    def __init__(self, path: Path, seed: int | None = None):
        self.path = path
        self.records: dict[tuple[str, str], Record] = {}
        self.seed: int | None = None
        for number, line in enumerate(_whole_lines(path), 1):
            self._read(number, line)
        self._file = path.open("ab")
        if self.seed is None or seed not in (None, self.seed):
            self.seed = secrets.randbits(BITS) if seed is None else seed
            self._write({"format": FORMAT, "seed": self.seed})

    def add(self, record: Record) -> None:
        """Keeps a record: it is on the disk when this returns."""
        self._write(record.to_json())
        self.records[record.name] = record

    def close(self) -> None:
        self._file.close()

    def _read(self, number: int, line: bytes) -> None:
        fields = self._fields(number, line)
        if "format" in fields or self.seed is None:
            if fields.get("format") != FORMAT or type(fields.get("seed")) is not int:
                raise self._damaged(number, f"no head of format {FORMAT}")
            self.seed = fields["seed"]
            return
        try:
            record = Record.from_json(fields)
        except (KeyError, TypeError) as error:
            raise self._damaged(number, f"no record: {error}") from None
        self.records[record.name] = record

    def _fields(self, number: int, line: bytes) -> dict:
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise self._damaged(number, str(error)) from None
        if not isinstance(fields, dict):
            raise self._damaged(number, "no JSON object")
        return fields

    def _damaged(self, number: int, why: str) -> JournalDamaged:
        return JournalDamaged(
            f"{self.path}, line {number}: {why}. Mend the line, or move the file away "
            "to grade the whole class again"
        )

    def _write(self, fields: dict) -> None:
        self._file.write(json.dumps(fields).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of the file; one that was cut off while it was written is removed."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return content[:whole].splitlines()
