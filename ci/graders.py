"""Tests the graders of all exercises, or of one: variants and mutants.

    python -m ci.graders [slug]            # fails on a wrong verdict or a survivor
    python -m ci.graders [slug] --write    # also keeps the scores that the book shows

The scores stand in `results/<slug>.grader.json`; without --write they must be what is
measured now. Exercises are shared among processes, one a core. Each gets ready once:
its warm process and its judge serve all exercises that it tests, and what starting them
takes counts for none of them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from ci import mutants, times
from grading import variants
from grading.course import Course, environment, exercises_of
from posttrain.checks import judge

ROOT = Path(__file__).resolve().parents[1]
SEED = 0


def measure(course: Course, slug: str) -> tuple[dict, list[str]]:
    """The scores of an exercise's grader, and all that is wrong with it."""
    module = variants.load(ROOT / "solutions" / slug / "variants.py")
    tried = variants.collect(judge.load_tasks(slug), module)
    problems = variants.check(course, slug, tried)
    report = mutants.run(slug)
    scores = {
        "variants": asdict(variants.scores(tried, problems)),
        "mutants": {
            "total": report.total,
            "killed": report.killed,
            "equivalent": len(report.equivalent),
        },
    }
    problems += [f"mutant survived: {name}" for name in report.survivors]
    problems += [f"EQUIVALENT, but does not survive: {name}" for name in report.stale]
    return scores, problems


def stored(slug: str) -> Path:
    """Where the scores of an exercise are kept."""
    return ROOT / "results" / f"{slug}.grader.json"


_course: Course  # of each process of the pool


def _get_ready(folder: Path, slugs: Sequence[str]) -> None:
    global _course
    _course = Course(ROOT, folder / str(os.getpid()))
    _course.judge.start(slugs)
    variants.graded(_course, slugs[0], {})  # when it is, all are ready


def _test(slug: str) -> tuple[dict, list[str]]:
    with times.timed("variants", slug):
        return measure(_course, slug)


def main() -> int:
    # Our own answers may run unlocked on a host where no lock holds.
    os.environ.setdefault("POSTTRAIN_GRADING_UNSAFE", "1")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slug", nargs="?", help="default: every exercise")
    parser.add_argument("--write", action="store_true", help="keep the scores")
    arguments = parser.parse_args()
    slugs = exercises_of(ROOT)
    if arguments.slug and arguments.slug not in slugs:
        known = ", ".join(slugs)
        print(f"no exercise {arguments.slug!r}; there are: {known}", file=sys.stderr)
        return 2
    slugs = [arguments.slug] if arguments.slug else slugs
    workers, failed = min(len(slugs), os.cpu_count()), 0
    with (
        environment(SEED),
        TemporaryDirectory(prefix="graders-") as folder,
        ProcessPoolExecutor(
            workers, initializer=_get_ready, initargs=(Path(folder), slugs)
        ) as pool,
    ):
        for slug, found in zip(slugs, pool.map(_test, slugs), strict=True):
            failed += _tell(slug, *found, arguments.write)
    return 1 if failed else 0


def _tell(slug: str, scores: dict, problems: list[str], write: bool) -> int:
    """Keeps the scores, or compares them with those kept; how much is wrong."""
    text = json.dumps(scores, indent=1) + "\n"
    if write:
        stored(slug).write_text(text)
    elif not stored(slug).exists() or stored(slug).read_text() != text:
        problems.append(
            "results/ holds other scores than these; run "
            f"`python -m ci.graders {slug} --write`, then `make format`"
        )
    _print(slug, scores, problems)
    return len(problems)


def _print(slug: str, scores: dict, problems: list[str]) -> None:
    v, m = scores["variants"], scores["mutants"]
    print(
        f"{slug}: {v['wrong_refused']}/{v['wrong']} wrong answers refused, "
        f"{v['right_accepted']}/{v['right']} right ones accepted, "
        f"{m['killed']}/{m['total']} mutants killed, {m['equivalent']} equivalent"
    )
    for problem in problems:
        print(f"  {problem}")


if __name__ == "__main__":
    sys.exit(main())
