"""Makes the student version of every exercise from its solution.

    python -m ci.exercises            # write exercises/
    python -m ci.exercises --check    # exit 1 where a file differs by a single byte

It runs nbgrader's own preprocessors (the ones of `nbgrader generate_assignment`) on
the solution, without a database, and writes the result as the formatter does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearHiddenTests,
    ClearMarkScheme,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
)

from ci.format import ROOT, dumps, read

STEPS = (
    LockCells,
    ClearSolutions,
    ClearOutput,
    CheckCellMetadata,
    ClearHiddenTests,
    ClearMarkScheme,
    ComputeChecksums,
    CheckCellMetadata,
)


def student_version(solution: Path) -> str:
    """The text of the student notebook that belongs to a solution."""
    nb, resources = read(solution), {}
    for step in STEPS:
        nb, resources = step().preprocess(nb, resources)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return dumps(nb)


def pairs(root: Path = ROOT) -> list[tuple[Path, Path]]:
    """(solution, student version) of every exercise."""
    found = sorted(root.glob("solutions/*/*.ipynb"))
    return [(p, root / "exercises" / p.parent.name / p.name) for p in found]


def drift(root: Path = ROOT) -> list[str]:
    """What stands in exercises/ and ought to be otherwise, one line each."""
    problems, due = [], dict((b, a) for a, b in pairs(root))
    for target, solution in due.items():
        name = target.relative_to(root)
        if not target.exists():
            problems.append(f"{name} is missing")
        elif target.read_bytes() != student_version(solution).encode():
            problems.append(f"{name} differs from what its solution gives")
    for path in sorted((root / "exercises").rglob("*")):
        if path.is_file() and path not in due:
            problems.append(f"{path.relative_to(root)} belongs to no solution")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    if parser.parse_args().check:
        problems = drift()
        for problem in problems:
            print(f"{problem}; run `python -m ci.exercises`", file=sys.stderr)
        return 1 if problems else 0
    for solution, target in pairs():
        text = student_version(solution)
        if not target.exists() or target.read_text() != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            print(f"wrote {target.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
