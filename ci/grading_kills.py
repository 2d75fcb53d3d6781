"""Kills a grader, one of its workers or one of its kernels, and looks at the marks.

After each kill the same command is called again; then every mark must be the one of an
undisturbed run, and no submission may have been graded twice.
"""

from __future__ import annotations

import csv
import json
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from ci.grading_classes import grader

VICTIMS = ("grader", "worker", "kernel")
PATIENCE = 300.0


@dataclass(frozen=True)
class Kill:
    """What one disturbed run came to."""

    victim: str
    after_seconds: float
    marks: dict[str, str]
    graded_twice: list[str]


def undisturbed(submitted: Path, output: Path, seed: int) -> tuple[dict, float]:
    """The marks of a run that nobody disturbs, and the seconds that it took."""
    start = time.monotonic()
    _finish(grader(submitted, output, "--seed", str(seed)))
    return marks(output), time.monotonic() - start


def disturbed(
    submitted: Path,
    output: Path,
    seed: int,
    victim: str,
    rng: random.Random,
    lasts: float,
) -> Kill:
    """One run in which `victim` is killed at some time of the `lasts` seconds.

    Raises AssertionError where the run fails, or a killed grader leaves processes.
    """
    process = grader(submitted, output, "--seed", str(seed))
    start = time.monotonic()
    time.sleep(rng.uniform(0, lasts))
    below = _kill(process, victim, rng)
    after = time.monotonic() - start
    if victim == "grader":
        process.wait()
        left = psutil.wait_procs(below, timeout=20)[1]
        assert not left, f"the grader left {left}"
    process.communicate(timeout=PATIENCE)
    if process.returncode:  # killed, or its self-test was; the same command goes on
        _finish(grader(submitted, output, "--seed", str(seed)))
    return Kill(victim, round(after, 2), marks(output), twice(output))


def marks(output: Path) -> dict[str, str]:
    """For each student the marks of every task, as grades.csv has them."""
    with (output / "grades.csv").open(encoding="utf-8") as file:
        return {
            row["student"]: f"{row['status']} {row['score']} {row['tasks']}"
            for row in csv.DictReader(file)
        }


def twice(output: Path) -> list[str]:
    """Students with more than one result in the journal."""
    lines = (output / ".grading" / "journal.jsonl").read_text().splitlines()
    students = [json.loads(line).get("student") for line in lines]
    return sorted({s for s in students if s and students.count(s) > 1})


def _finish(process) -> None:
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said[-2000:]


def _kill(process, victim: str, rng: random.Random) -> list[psutil.Process]:
    """Kills one process of that kind, if one comes up before the grader has ended.

    Returns all that were below the grader at that moment.
    """
    find = {"grader": _itself, "worker": workers_of, "kernel": _kernels}[victim]
    while process.poll() is None:
        # What has ended while we looked was not to be disturbed any more.
        with suppress(psutil.NoSuchProcess):
            if found := find(process.pid):
                below = psutil.Process(process.pid).children(recursive=True)
                rng.choice(found).kill()
                return below
        time.sleep(0.01)
    return []


def _itself(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid)]


def workers_of(pid: int) -> list[psutil.Process]:
    """Forks of the grader: they show the same command line."""
    own = psutil.Process(pid)
    return [p for p in own.children() if p.cmdline() == own.cmdline()]


def _kernels(pid: int) -> list[psutil.Process]:
    """Supervisors, and what they look after: all below the warm process."""
    children = psutil.Process(pid).children()
    warm = [p for p in children if any("forkserver" in word for word in p.cmdline())]
    return [p for one in warm for p in one.children(recursive=True)]
