"""`make test`: every check of the project, all of them even if one fails."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Step:
    """One check: what it holds, and the command (after `python -m`)."""

    what: str
    command: tuple[str, ...]


STEPS = (
    Step("code is linted", ("ruff", "check", "--quiet", ".")),
    Step("code is formatted", ("ruff", "format", "--quiet", "--check", ".")),
    Step("notebooks are formatted", ("ci.format", "--check")),
    Step("exercises follow from solutions", ("ci.exercises", "--check")),
    Step("syllabus and tree agree", ("ci.syllabus",)),
    Step("unit and parity tests", ("pytest", "-n", "auto", "--dist", "loadfile")),
    Step("stored outputs are right (nbval)", ("ci.nbval_copies",)),
    Step("graders tell right from wrong", ("ci.graders",)),
)


def main() -> int:
    failed = []
    for number, step in enumerate(STEPS, 1):
        print(f"\n[{number}/{len(STEPS)}] {step.what}", flush=True)
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-m", *step.command], cwd=ROOT)
        word = "FAILED" if done.returncode else "ok"
        print(f"{word} ({time.monotonic() - start:.0f} s)", flush=True)
        if done.returncode:
            failed.append(step)
    subprocess.run([sys.executable, "-m", "ci.times"], cwd=ROOT)
    for step in failed:
        print(f"FAILED: {step.what} (python -m {' '.join(step.command)})")
    if not failed:
        print("All checks pass.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
