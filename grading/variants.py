"""The variant check: does the real autograder tell wrong answers from right ones?

Every known mistake of a task, and every right and wrong answer of
`solutions/<slug>/variants.py`, is pasted into a submission and graded. A wrong answer
must lose exactly its own task, a right one nothing. Tasks are independent, so one
submission tries one answer of each task; marks are compared task by task.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat

from grading.course import Course
from grading.rebuild import rebuild
from grading.record import Mark


@dataclass(frozen=True)
class Variant:
    """One answer to try: its name, its code, and whether it ought to be accepted."""

    task: str
    name: str
    code: str
    right: bool


@dataclass(frozen=True)
class Scores:
    """How many were tried, and how many were judged as they ought to be."""

    wrong: int
    wrong_refused: int
    right: int
    right_accepted: int


def load(path: Path) -> ModuleType:
    """The module `variants.py` beside a solution, without a package around it."""
    name = f"variants_of_{path.parent.name}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # inspect.getsource looks classes up there
    spec.loader.exec_module(module)
    return module


def collect(tasks: dict[str, Any], module: ModuleType) -> list[Variant]:
    """Every answer to try for `tasks`: known mistakes, then RIGHT and WRONG.

    Raises ValueError where a task has fewer than two mistakes or no right variant, or
    where `variants.py` names a task that does not exist.
    """
    unknown = sorted({*module.RIGHT, *module.WRONG} - tasks.keys())
    if unknown:
        raise ValueError(f"variants.py names no task of the exercise: {unknown[0]!r}")
    found = []
    for name, task in tasks.items():
        right = module.RIGHT.get(name, [])
        if len(task.mistakes) < 2 or not right:
            raise ValueError(f"{name} needs 2 known mistakes and 1 right variant")
        wrong = [m.answer for m in task.mistakes] + module.WRONG.get(name, [])
        for answer in wrong + right:
            code = f"{source_of(answer)}\n\n{name} = {answer.__name__}"
            found.append(Variant(name, answer.__name__, code, answer in right))
    return found


def check(course: Course, slug: str, variants: Sequence[Variant]) -> list[str]:
    """Grades them all; what was judged otherwise than it ought to be, in words."""
    problems = []
    for row in rows(variants):
        by_task = {variant.task: variant for variant in row}
        answers = {task: variant.code for task, variant in by_task.items()}
        for task, mark in graded(course, slug, answers).items():
            problems += _judge(task, mark, by_task.get(task))
    return problems


def graded(course: Course, slug: str, answers: dict[str, str]) -> dict[str, Mark]:
    """The marks, by task, of the solution with other code for some tasks."""
    path = course.root / "solutions" / slug / f"{slug}.ipynb"
    submission = with_answers(nbformat.read(path, as_version=4), answers)
    nb = rebuild(course.exercise(slug).release, submission).notebook
    return {mark.task: mark for mark in course.run(slug, nb).marks}


def scores(variants: Sequence[Variant], problems: Sequence[str]) -> Scores:
    """The counts that are shown with the exercise."""
    wrong = [v for v in variants if not v.right]
    right = [v for v in variants if v.right]
    bad = {problem.split(":")[0] for problem in problems}
    return Scores(
        len(wrong),
        sum(label(v) not in bad for v in wrong),
        len(right),
        sum(label(v) not in bad for v in right),
    )


def rows(variants: Sequence[Variant]) -> list[list[Variant]]:
    """Submissions: each holds at most one variant of a task; as few as possible.

    The lists of the tasks are turned against each other, so that wrong answers of one
    task stand beside right ones of others.
    """
    by_task: dict[str, list[Variant]] = {}
    for variant in variants:
        by_task.setdefault(variant.task, []).append(variant)
    count = max(map(len, by_task.values()))
    result: list[list[Variant]] = [[] for _ in range(count)]
    for shift, items in enumerate(by_task.values()):
        for i, variant in enumerate(items):
            result[(i + shift) % count].append(variant)
    return result


def label(variant: Variant) -> str:
    """How a variant is named in messages."""
    return f"{variant.task}/{variant.name}"


def source_of(answer: Any) -> str:
    """The source of an answer with the imports and helpers of its module it needs."""
    imports, definitions = _parts(sys.modules[answer.__module__])
    needed, queue = set(), [answer.__name__]
    while queue:
        name = queue.pop()
        if name in needed or name not in definitions:
            continue
        needed.add(name)
        nodes = ast.walk(definitions[name])
        queue += [node.id for node in nodes if isinstance(node, ast.Name)]
    parts = [*imports, *(d for name, d in definitions.items() if name in needed)]
    return "\n\n".join(ast.unparse(part) for part in parts)


@lru_cache(maxsize=8)
def _parts(module: ModuleType) -> tuple[list[ast.stmt], dict[str, ast.stmt]]:
    """The imports of a module from outside, and its functions and classes by name."""
    tree = ast.parse(inspect.getsource(module))
    imports = [node for node in tree.body if _outside_import(node)]
    kinds = (ast.FunctionDef, ast.ClassDef)
    return imports, {n.name: n for n in tree.body if isinstance(n, kinds)}


def _outside_import(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return not (node.module or "").startswith(("posttrain", "__future__"))
    return isinstance(node, ast.Import)


def with_answers(solution: nbformat.NotebookNode, answers: dict[str, str]) -> dict:
    """The solution with other code for the tasks that `answers` names."""
    cells = []
    for cell in solution.cells:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        source = answers.get(grade_id.removeprefix("answer_"), cell.source)
        cells.append({**cell, "source": source} if "answer_" in grade_id else cell)
    return {"cells": cells}


def _judge(task: str, mark: Mark, variant: Variant | None) -> list[str]:
    got_all = mark.score == mark.max_score
    if variant is None:
        return [] if got_all else [f"{task}/solution: lost its marks"]
    if variant.right and not got_all:
        return [f"{label(variant)}: a right answer lost its marks"]
    if not variant.right and mark.score > 0:
        return [f"{label(variant)}: a wrong answer got {mark.score:g} marks"]
    return []
