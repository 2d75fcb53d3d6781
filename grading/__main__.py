"""Grades everything that was handed in.

    python -m grading [--submitted submitted] [--output .] [--workers N] [--seed N|new]
                      [--no-feedback]

Reads `submitted/<student>/<slug>/<slug>.ipynb`, or an archive in its place (see
`grading.intake`); writes nbgrader's gradebook, `feedback/<student>/<slug>/<slug>.html`,
`grades.csv` and `report.html`, and prints a table. What was handed in is read, never
changed. What cannot be graded gets 0 with the reason, and the others go on.

A run that was cut off goes on where it was when it is called again; a submission is
graded again when it, its exercise or the seed has changed.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
from pathlib import Path

from grading import report
from grading.batch import Busy, Class, Outcome, grade
from grading.containment.lock import NotContained
from grading.gradebook import GradebookFailed
from grading.journal import BITS, JournalDamaged
from grading.pool import PoolBroken
from grading.record import FAILED, REJECTED
from grading.runner import GradingFailed

ROOT = Path(__file__).resolve().parents[1]
REFUSALS = (
    Busy,
    GradebookFailed,
    GradingFailed,
    JournalDamaged,
    NotContained,
    PoolBroken,
)
SHOWN = 60  # rows of the table, beyond which grades.csv has to do


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m grading", description=__doc__)
    parser.add_argument("--submitted", type=Path, default=ROOT / "submitted")
    parser.add_argument("--output", type=Path, default=ROOT)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--seed", type=_seed, help="of the hidden cases, a number or `new`, to regrade"
    )
    parser.add_argument("--no-feedback", action="store_true", help="marks only")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers is {options.workers}; it must be 1 or more")
    where = Class(options.submitted.resolve(), options.output.resolve())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        paged = not options.no_feedback
        outcome = grade(ROOT, where, options.workers, options.seed, paged)
    except (
        NotContained,
        Busy,
        JournalDamaged,
        GradebookFailed,
        GradingFailed,
    ) as error:
        print(error, file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(
            "\nStopped. What was graded is kept; the same command goes on.",
            file=sys.stderr,
        )
        return 130
    return _tell(outcome, options)


def _seed(text: str) -> int:
    """The seed that is meant: a whole number, or `new` for one that nobody guesses."""
    if text == "new":
        return secrets.randbits(BITS)
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither `new` nor a number >= 0")
    return int(text)


def _tell(outcome: Outcome, options: argparse.Namespace) -> int:
    """Prints what came out; the exit status."""
    records = outcome.records
    if not records:
        print(
            f"nothing to grade: no {options.submitted}/STUDENT/EXERCISE/ folder. Put "
            "each notebook at submitted/STUDENT/EXERCISE/EXERCISE.ipynb",
            file=sys.stderr,
        )
        return 2
    print(report.table(records[:SHOWN]))
    if len(records) > SHOWN:
        print(f"... and {len(records) - SHOWN} more")
    count = {s: sum(r.status == s for r in records) for s in (REJECTED, FAILED)}
    print(
        f"{len(records)} submissions: {outcome.done} graded now, "
        f"{len(records) - outcome.done - count[FAILED]} as before; "
        f"{count[REJECTED]} rejected, {count[FAILED]} failed"
    )
    for what, name in (
        ("Marks", "grades.csv"),
        ("Class", "report.html"),
        ("Feedback", "feedback"),
    ):
        if (options.output / name).exists():
            print(f"{what}: {os.path.relpath(options.output / name)}")
    if count[FAILED]:
        print(
            f"{count[FAILED]} could not be graded; call the command again to try them "
            "once more",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
