"""Classes to try the grader on: many submissions of one exercise, right and wrong.

Each submission is the solution with known mistakes and right variants pasted in, so
that marks differ; what each must earn is what the same grader gives it undisturbed.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat

from grading import variants
from posttrain.checks import judge

ROOT = Path(__file__).resolve().parents[1]


def submissions(slug: str, count: int, extra: str = "") -> list[dict]:
    """`count` notebooks; `extra` is the source of a cell that each runs first."""
    module = variants.load(ROOT / "solutions" / slug / "variants.py")
    rows = variants.rows(variants.collect(judge.load_tasks(slug), module))
    path = ROOT / "solutions" / slug / f"{slug}.ipynb"
    solution = nbformat.read(path, as_version=4)
    made = []
    for number in range(count):
        answers = {v.task: v.code for v in rows[number % len(rows)]}
        cells = copy.deepcopy(variants.with_answers(solution, answers)["cells"])
        if extra:
            cells.insert(1, nbformat.v4.new_code_cell(extra))
        made.append({**solution, "cells": cells})
    return made


def hand_in(notebooks: list[dict], slug: str, folder: Path) -> Path:
    """Lays them out as a class hands them in, below `folder`/submitted."""
    for number, notebook in enumerate(notebooks):
        path = folder / "submitted" / f"student{number:04}" / slug / f"{slug}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(notebook), encoding="utf-8")
    return folder / "submitted"


def grader(
    submitted: Path, output: Path, *options: str, workers: int = 2
) -> subprocess.Popen:
    """Starts `python -m grading` in a session of its own, silent."""
    command = [sys.executable, "-m", "grading", "--workers", str(workers), *options]
    command += ["--submitted", str(submitted), "--output", str(output)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # a job in the background of a script ignores interrupts, and so would its child
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
