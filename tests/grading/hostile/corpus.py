"""Hostile and broken submissions, and what each must come to.

A case edits a solved notebook; `lost` names the tasks that may earn nothing, all others
must earn every point. Cases are of the classes that were seen to work against a plain
autograder: forging points, breaking the run, and, as a control, honest code that looks
odd.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

TASKS = (
    "causal_mask",
    "scaled_dot_product_attention",
    "split_heads",
    "merge_heads",
    "MultiHeadAttention",
    "KVCache",
)


@dataclass(frozen=True)
class Case:
    """One submission: how a solved notebook is changed, and the tasks it loses.

    A bomb may be refused to the cell that asks, or end the kernel before that: then
    the tasks that come later, `perhaps`, are lost too.
    """

    name: str
    kind: str
    edit: Callable[[dict], None]
    lost: tuple[str, ...]
    perhaps: tuple[str, ...] = ()


CASES: list[Case] = []


def case(kind: str, *lost: str, perhaps: tuple[str, ...] = ()):
    """Registers a function that edits a solved notebook in place."""

    def register(edit):
        CASES.append(Case(edit.__name__, kind, edit, lost, perhaps))
        return edit

    return register


def apply(case: Case, solved: dict) -> dict:
    """The submission of a case."""
    nb = copy.deepcopy(solved)
    case.edit(nb)
    return nb


def cell(nb: dict, grade_id: str) -> dict:
    marks = ((c, c["metadata"].get("nbgrader", {})) for c in nb["cells"])
    return next(c for c, mark in marks if mark.get("grade_id") == grade_id)


def answer(nb: dict, task: str, source: str) -> None:
    cell(nb, f"answer_{task}")["source"] = source


def before(nb: dict, grade_id: str, source: str) -> None:
    """An extra code cell in front of another."""
    at = nb["cells"].index(cell(nb, grade_id))
    extra = {"cell_type": "code", "metadata": {}, "source": source, "outputs": []}
    nb["cells"].insert(at, {**extra, "execution_count": None})


def unsolved(nb: dict, task: str) -> None:
    answer(nb, task, f"def {task}(*arguments, **options):\n    return None")
