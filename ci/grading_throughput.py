"""Measures grading: speed against stock nbgrader, memory, and what kills change.

    python -m ci.grading_throughput [speed] [memory] [kills]
    make measure SLUG=grading

Writes results/grading_throughput.json. Each part that is named is measured anew, the
others are kept. Speed: the same submissions, stock `nbgrader autograde` and our grader
one after the other, wall time of the whole command, without feedback pages.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psutil

from ci import grading_kills, provenance
from ci.grading_classes import ROOT, grader, hand_in, submissions

SLUG = "attention"
TARGET = ROOT / "results" / "grading_throughput.json"
COUNT, REPEATS, WORKERS = 50, 3, 2
SLOW_COUNT, SLOW_SECONDS = 10, 5
CLASSES = (50, 1000)
KILLS = 50
BUSY = """
import time
end = time.process_time() + {seconds}
while time.process_time() < end:
    pass
"""
CONFIG = """
c = get_config()
c.CourseDirectory.course_id = "stock"
c.CourseDirectory.root = {root!r}
c.CourseDirectory.ignore = ["variants.py", "__pycache__"]
c.ExecutePreprocessor.timeout = 120
"""


def speed(folder: Path) -> dict:
    """Seconds for answers that take no time, and for ones that keep a core busy."""
    fast = [
        {"repeat": n, **_both(folder / f"fast{n}", submissions(SLUG, COUNT))}
        for n in range(REPEATS)
    ]
    extra = BUSY.format(seconds=SLOW_SECONDS)
    slow = _both(folder / "slow", submissions(SLUG, SLOW_COUNT, extra))
    about = {"submissions": SLOW_COUNT, "answer_seconds": SLOW_SECONDS}
    return {"submissions": COUNT, "fast": fast, "slow": {**about, **slow}}


def memory(folder: Path) -> dict:
    """Highest resident memory, grader and largest worker, for classes of each size."""
    found = []
    for count in CLASSES:
        place = folder / f"class{count}"
        submitted = hand_in(submissions(SLUG, count), SLUG, place)
        peak = _peak(grader(submitted, place, workers=WORKERS))
        found.append({"submissions": count, **peak})
    return {"memory": found}


def kills(folder: Path) -> dict:
    """How often marks differed after a kill, or a submission was graded twice."""
    submitted = hand_in(submissions(SLUG, 6), SLUG, folder)
    due, lasts = grading_kills.undisturbed(submitted, folder / "quiet", 5)
    count = dict.fromkeys(grading_kills.VICTIMS, 0)
    changed = twice = 0
    for number in range(KILLS):
        rng = random.Random(number)
        victim = grading_kills.VICTIMS[number % 3]
        output = folder / f"kill{number}"
        kill = grading_kills.disturbed(submitted, output, 5, victim, rng, 0.9 * lasts)
        count[victim] += 1
        changed += sum(kill.marks.get(s) != mark for s, mark in due.items())
        twice += len(kill.graded_twice)
        print(f"kill {number}: {victim} after {kill.after_seconds} s", flush=True)
    result = {"runs": KILLS, **count, "marks_changed": changed, "graded_twice": twice}
    return {"kills": result}


PARTS: dict[str, Callable[[Path], dict]] = {
    "speed": speed,
    "memory": memory,
    "kills": kills,
}


def _both(folder: Path, notebooks: list[dict]) -> dict:
    """Seconds of stock nbgrader and of ours for the same submissions."""
    submitted = hand_in(notebooks, SLUG, folder)
    stock = _stock(folder)
    start = time.monotonic()
    process = grader(submitted, folder / "ours", "--no-feedback", workers=WORKERS)
    said, _ = process.communicate()
    ours = time.monotonic() - start
    assert process.returncode == 0, said[-2000:]
    print(f"{len(notebooks)}: stock {stock:.1f} s, ours {ours:.1f} s", flush=True)
    return {"stock_seconds": round(stock, 2), "ours_seconds": round(ours, 2)}


def _stock(folder: Path) -> float:
    """Seconds that `nbgrader autograde` takes for the class in `folder`."""
    (folder / "nbgrader_config.py").write_text(CONFIG.format(root=str(folder)))
    source = folder / "source" / SLUG
    source.mkdir(parents=True)
    text = (ROOT / "solutions" / SLUG / f"{SLUG}.ipynb").read_text()
    (source / f"{SLUG}.ipynb").write_text(text)
    _nbgrader(folder, "generate_assignment", SLUG)
    start = time.monotonic()
    _nbgrader(folder, "autograde", SLUG)
    return time.monotonic() - start


def _nbgrader(folder: Path, *arguments: str) -> None:
    program = Path(sys.executable).parent
    path = os.pathsep.join([str(program), os.environ["PATH"]])
    done = subprocess.run(
        [program / "nbgrader", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def _peak(process) -> dict:
    """Peak resident MiB of the grader and of its largest worker, until it ends.

    What it says in the meantime has to fit into a pipe: a line each half minute does.
    """
    peak = {"grader_mib": 0.0, "workers_mib": 0.0}
    own = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            workers = grading_kills.workers_of(process.pid)
            sizes = [worker.memory_info().rss for worker in workers]
            now = {
                "grader_mib": own.memory_info().rss,
                "workers_mib": max(sizes, default=0),
            }
        except psutil.NoSuchProcess:
            continue
        peak = {name: max(peak[name], round(now[name] / 2**20, 1)) for name in peak}
        time.sleep(0.2)
    said = process.communicate()[0]
    assert process.returncode == 0, said[-2000:]
    return peak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="default: all")
    parts = parser.parse_args().parts or list(PARTS)
    record = json.loads(TARGET.read_text()) if TARGET.exists() else {}
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            record |= PARTS[part](Path(folder))
    command = ["python", "-m", "ci.grading_throughput"]
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(command),
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "data": [],
    }
    record = {"provenance": about, "workers": WORKERS, **record}
    record["provenance"] = about
    TARGET.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {TARGET.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
