"""`make book`: artifacts, every ready notebook executed, the site rendered.

Chapters go into the site; solutions are executed too, because they must pass their
own checks, but are no pages.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ci import artifacts, site, syllabus
from ci.execute import Job, execute, report


def jobs(book: syllabus.Syllabus) -> list[Job]:
    """One job a chapter that is ready, one a solution, one a guide."""
    found = []
    for topic in book.topics.values():
        if not topic.ready:
            continue
        found.append(Job(topic.chapter, topic.slug))
        if topic.graded:
            target = Path("build/solutions")
            found.append(Job(topic.solution, topic.slug, "solution", target=target))
    return found + [Job(guide.chapter, slug) for slug, guide in book.guides.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, help="default: one a core")
    workers = parser.parse_args().workers
    problems = syllabus.check_tree(syllabus.load(), syllabus.ROOT)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems or artifacts.build("ci"):
        return 1
    if report(execute(jobs(syllabus.load()), workers)):
        print("The site was not rendered: mend the notebooks above.", file=sys.stderr)
        return 1
    return site.main()


if __name__ == "__main__":
    sys.exit(main())
