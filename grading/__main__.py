"""Grades everything that was handed in.

    python -m grading [--submitted submitted] [--output .] [--seed N]

Reads `submitted/<student>/<slug>/<slug>.ipynb`, or an archive in its place (see
`grading.intake`); writes `grades.csv` and `feedback/<student>/<slug>.html`, and prints
a table. What was handed in is read, never changed. What cannot be graded gets 0 with
the reason, and the others go on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from grading import intake
from grading.rebuild import rebuild
from grading.report import Result, rejection_page, table, write_csv

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m grading", description=__doc__)
    parser.add_argument("--submitted", type=Path, default=ROOT / "submitted")
    parser.add_argument("--output", type=Path, default=ROOT)
    parser.add_argument("--seed", type=int, help="of the hidden cases, to regrade")
    options = parser.parse_args(arguments)
    from grading.containment.lock import NotContained

    try:
        results = _grade(options)
    except NotContained as error:
        print(error, file=sys.stderr)
        return 3
    if not results:
        print(
            f"nothing to grade: no {options.submitted}/STUDENT/EXERCISE/ folder. Put "
            "each notebook at submitted/STUDENT/EXERCISE/EXERCISE.ipynb",
            file=sys.stderr,
        )
        return 2
    target = options.output / "grades.csv"
    write_csv(results, target)
    print(table(results))
    rejected = sum(r.status == "rejected" for r in results)
    print(f"{len(results)} submissions, {rejected} rejected. Marks: {_shown(target)}")
    print(f"Feedback: {_shown(options.output / 'feedback')}/STUDENT/EXERCISE.html")
    return 0


def grade_one(course, submission: intake.Submission, output: Path) -> Result:
    """Grades one submission and writes its feedback page."""
    from grading.course import GradingFailed

    student, slug = submission.student, submission.exercise
    page = output / "feedback" / student / f"{slug}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    release = course.release(slug) if slug in course.exercises else None
    most = points(release) if release else 0.0
    reason = submission.reason
    if submission.notebook is not None:
        rebuilt = rebuild(release, submission.notebook)
        try:
            marks = course.grade(slug, student, rebuilt.notebook)
            shutil.copyfile(course.feedback(slug, student), page)
            missing = ", ".join(rebuilt.missing)
            notes = [f"answer cell missing: {missing}" if missing else ""]
            note = "; ".join(filter(None, [*notes, submission.note]))
            return Result(student, slug, "graded", note, marks, most)
        except (GradingFailed, OSError) as error:
            reason = f"not run: {error}"
    result = Result(student, slug, "rejected", reason, max_score=most)
    page.write_text(rejection_page(result))
    return result


def points(release) -> float:
    """The points that an exercise can earn."""
    marks = [cell.metadata.get("nbgrader", {}) for cell in release.cells]
    return float(sum(m["points"] for m in marks if m.get("grade")))


def _grade(options: argparse.Namespace) -> list[Result]:
    from tqdm import tqdm

    from grading.course import Course, environment

    course = Course(ROOT, ROOT / "build" / "grading")
    found = intake.each(options.submitted, course.exercises)
    quiet = not sys.stderr.isatty()
    with environment(options.seed) as seed:
        print(f"{_lock()} Hidden cases follow the seed {seed}.")
        bar = tqdm(found, unit="submission", disable=quiet)
        results = [grade_one(course, submission, options.output) for submission in bar]
    course.close()
    return results


def _lock() -> str:
    """Tries the lock before the first submission runs; how it holds, in words.

    Raises NotContained where it does not, unless that was asked for.
    """
    from grading.containment import selftest
    from grading.containment.lock import UNSAFE

    if os.environ.get(UNSAFE) == "1":
        return f"{UNSAFE}=1: where no lock holds, submissions run as you."
    report = selftest.run()
    return (
        f"Submissions are locked in ({report.rung}): {len(report.attempts)} attempts "
        "to break out have failed."
    )


def _shown(path: Path) -> str:
    return os.path.relpath(path)


if __name__ == "__main__":
    sys.exit(main())
