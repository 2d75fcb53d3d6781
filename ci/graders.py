"""Tests the graders of all exercises, or of one: variants and mutants.

    python -m ci.graders [slug]            # fails on a wrong verdict or a survivor
    python -m ci.graders [slug] --write    # also keeps the scores that the book shows

The scores stand in `results/<slug>.grader.json`; without --write they must be what is
measured now.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from ci import mutants, times
from grading import variants
from grading.course import Course, environment
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


def main() -> int:
    # Our own answers may run unlocked on a host where no lock holds.
    os.environ.setdefault("POSTTRAIN_GRADING_UNSAFE", "1")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slug", nargs="?", help="default: every exercise")
    parser.add_argument("--write", action="store_true", help="keep the scores")
    arguments = parser.parse_args()
    course = Course(ROOT, ROOT / "build" / "graders")
    if arguments.slug and arguments.slug not in course.exercises:
        known = ", ".join(course.exercises)
        print(f"no exercise {arguments.slug!r}; there are: {known}", file=sys.stderr)
        return 2
    failed = 0
    for slug in [arguments.slug] if arguments.slug else course.exercises:
        with times.timed("variants", slug):
            with environment(SEED):
                scores, problems = measure(course, slug)
            course.close()  # a process counts when it has ended
        text = json.dumps(scores, indent=1) + "\n"
        if arguments.write:
            stored(slug).write_text(text)
        elif not stored(slug).exists() or stored(slug).read_text() != text:
            problems.append(
                "results/ holds other scores than these; run "
                f"`python -m ci.graders {slug} --write`, then `make format`"
            )
        failed += len(problems)
        _print(slug, scores, problems)
    return 1 if failed else 0


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
