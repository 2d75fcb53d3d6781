"""Grades everything in `submitted/<student>/<slug>/<slug>.ipynb`.

    python -m grading [--submitted submitted] [--output .]

writes `grades.csv` and `feedback/<student>/<slug>.html`, and prints a table. The
submissions are read, never changed. A submission that cannot be graded gets 0 with
the reason, and the others go on.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m grading", description=__doc__)
    parser.add_argument("--submitted", type=Path, default=ROOT / "submitted")
    parser.add_argument("--output", type=Path, default=ROOT)
    parser.add_argument("--seed", type=int, help="of the hidden cases, to regrade")
    options = parser.parse_args(arguments)
    folders = submissions(options.submitted)
    if not folders:
        print(
            f"nothing to grade: no {options.submitted}/STUDENT/EXERCISE/ folder. Put "
            "each notebook at submitted/STUDENT/EXERCISE/EXERCISE.ipynb",
            file=sys.stderr,
        )
        return 2
    return _grade(folders, options)


def submissions(folder: Path) -> list[Path]:
    """The folders STUDENT/EXERCISE below `folder`, in order."""
    return sorted(p for p in folder.glob("*/*") if p.is_dir())


def grade_one(course, folder: Path, output: Path):
    """Grades one submission, writes its feedback page; its Result."""
    from grading.course import GradingFailed
    from grading.rebuild import BadSubmission, read, rebuild
    from grading.report import Result, rejection_page

    student, slug = folder.parent.name, folder.name
    page = output / "feedback" / student / f"{slug}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    max_score = 0.0
    try:
        if not re.fullmatch(r"[\w.@-]+", student):
            raise BadSubmission(
                f"the student's folder {student!r} has a character that is not a "
                "letter, digit, '.', '_', '-' or '@'; rename it"
            )
        if slug not in course.exercises:
            known = ", ".join(course.exercises)
            raise BadSubmission(f"there is no exercise {slug!r}; there are: {known}")
        release = course.release(slug)
        max_score = points(release)
        rebuilt = rebuild(release, read(folder / f"{slug}.ipynb"))
        marks = course.grade(slug, student, rebuilt.notebook)
        shutil.copyfile(course.feedback(slug, student), page)
    except (BadSubmission, GradingFailed, OSError) as error:
        note = str(error) if isinstance(error, BadSubmission) else f"not run: {error}"
        result = Result(student, slug, "rejected", note, max_score=max_score)
        page.write_text(rejection_page(result))
        return result
    note = ""
    if rebuilt.missing:
        note = "answer cell missing: " + ", ".join(rebuilt.missing)
    return Result(student, slug, "graded", note, marks, max_score)


def points(release) -> float:
    """The points that an exercise can earn."""
    marks = [cell.metadata.get("nbgrader", {}) for cell in release.cells]
    return float(sum(m["points"] for m in marks if m.get("grade")))


def _grade(folders: list[Path], options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from grading import report
    from grading.course import Course, environment

    course = Course(ROOT, ROOT / "build" / "grading")
    with environment(options.seed) as seed:
        print(
            f"Grading {len(folders)} submissions (seed {seed}). They run as you, not "
            "contained: grade only files that you would run yourself."
        )
        bar = tqdm(folders, unit="submission", disable=not sys.stderr.isatty())
        results = [grade_one(course, folder, options.output) for folder in bar]
    course.close()
    target = options.output / "grades.csv"
    report.write_csv(results, target)
    print(report.table(results))
    rejected = sum(r.status == "rejected" for r in results)
    print(f"{len(results)} submissions, {rejected} rejected. Marks: {_shown(target)}")
    print(f"Feedback: {_shown(options.output / 'feedback')}/STUDENT/EXERCISE.html")
    return 0


def _shown(path: Path) -> str:
    return os.path.relpath(path)


if __name__ == "__main__":
    sys.exit(main())
