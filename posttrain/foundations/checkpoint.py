"""Checkpoints that survive a crash: whole or not there, checked when they are read.

    folder/
        step_00000200.pt        the state, written by torch.save
        step_00000200.json      its size and sha256, and the run's configuration

A state is written under another name, flushed to the disk, and renamed; the small file
comes last and makes it count. Whatever is interrupted leaves the checkpoints before it
as they were. The two newest are kept.

Loading never runs code from the file (`weights_only=True`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import torch

KEEP = 2  # checkpoints: one that is good while the next is written
NAME = re.compile(r"step_(\d{8})\.json")


class CheckpointError(Exception):
    """A checkpoint that cannot be written or read; the message says what to do."""


def save(folder: Path, step: int, state: dict, config: dict) -> Path:
    """Write the checkpoint of `step`; then remove all but the newest KEEP.

    state: tensors, numbers, strings in dicts and lists. config: JSON-able, what must
    be equal for a resume. Returns the path of the state.
    Raises CheckpointError where the disk does not take it: nothing else has changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:08d}.pt"
    try:
        digest, size = _write(path, lambda file: torch.save(state, file))
        about = {"step": step, "bytes": size, "sha256": digest, "config": config}
        text = json.dumps(about, indent=1).encode()
        _write(path.with_suffix(".json"), lambda file: file.write(text))
    except (OSError, RuntimeError) as error:  # torch wraps an OSError of its own
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written to {folder}: {error}."
            f" {_last(folder)}"
        ) from error
    for old in steps(folder)[:-KEEP]:
        _remove(folder, old)
    return path


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in `folder`, the newest last."""
    found = (NAME.fullmatch(path.name) for path in folder.glob("step_*.json"))
    return sorted(int(match[1]) for match in found if match)


def load(folder: Path, config: dict | None = None, step: int | None = None) -> dict:
    """The state of `step`, or of the newest checkpoint.

    config: what this run is like; it must equal what was saved, field by field.
    Raises CheckpointError where there is none, where its bytes are not those that were
    written, and where a field differs: the message names the field and both values.
    """
    known = steps(folder)
    if not known or (step is not None and step not in known):
        which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        have = f"; there are {', '.join(map(str, known))}" if known else ""
        raise CheckpointError(f"{folder} holds {which}{have}")
    step = known[-1] if step is None else step
    path = folder / f"step_{step:08d}.pt"
    try:
        about = json.loads(path.with_suffix(".json").read_bytes())
        whole = about["sha256"] == _sha256(path)
    except (OSError, ValueError, KeyError) as error:
        whole, about = False, {"error": str(error)}
    if not whole:
        others = [one for one in known if one != step]
        way = f"resume from step {others[-1]} instead" if others else "start anew"
        raise CheckpointError(f"{path} is damaged; {way}")
    if config is not None:
        _demand_equal(config, about["config"], path)
    return torch.load(path, map_location="cpu", weights_only=True)


def differences(mine: dict, saved: dict, prefix: str = "") -> list[str]:
    """Each field that differs, as "name: 128 in the checkpoint, now 96"."""
    found = []
    for name in sorted({*mine, *saved}):
        a, b = mine.get(name, "nothing"), saved.get(name, "nothing")
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name}: {b} in the checkpoint, now {a}")
    return found


def _demand_equal(config: dict, saved: dict, path: Path) -> None:
    mine = json.loads(json.dumps(config))  # tuples are lists in JSON
    if found := differences(mine, saved):
        raise CheckpointError(
            f"{path} belongs to another run:\n  "
            + "\n  ".join(found)
            + "\nSet these back, or start anew in another folder"
        )


def _write(path: Path, write) -> tuple[str, int]:
    """`write(file)` into a file that takes its name only when whole; sha256, size."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        digest, size = _sha256(partial), partial.stat().st_size
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)
    return digest, size


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_folder(folder: Path) -> None:
    """A rename is on the disk only when its folder is."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(folder: Path, step: int) -> None:
    """First what makes it count, then the state."""
    path = folder / f"step_{step:08d}.pt"
    path.with_suffix(".json").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _last(folder: Path) -> str:
    known = steps(folder)
    if not known:
        return "There is no earlier one"
    return f"The one of step {known[-1]} is whole; free some space and resume from it"
