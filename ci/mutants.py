"""Mutates a solution and sees whether its checks notice.

    python -m ci.mutants attention

Each mutant changes one thing in one answer: an operator, a number by one, a keyword
or a call dropped, arguments swapped, a statement deleted. It is judged in process on
the visible and the hidden cases. A survivor is either a gap in the cases, to be
closed, or the same program written otherwise: then `EQUIVALENT` in
`solutions/<slug>/variants.py` names it with the reason.
"""

from __future__ import annotations

import argparse
import ast
import gc
import hashlib
import linecache
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat

from grading import variants
from posttrain.checks import Task, judge

ROOT = Path(__file__).resolve().parents[1]
# A mutant that takes so many times as long as the answer, and more than half a second,
# counts as noticed (a loop without end). In CPU time: a busy machine adds less to that,
# and adds it to both.
SLOWER, SECONDS = 10, 0.5
HIDDEN_SEED = 1

OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


@dataclass(frozen=True)
class Mutant:
    """One changed answer: `name` says what changed, and does not depend on lines."""

    task: str
    name: str
    source: str


@dataclass(frozen=True)
class Report:
    """What became of the mutants of an exercise."""

    total: int
    killed: int
    survivors: list[str]  # without a reason: each is a gap in the cases
    equivalent: list[str]
    stale: list[str]  # reasons for mutants that do not survive, or do not exist


def run(slug: str, root: Path = ROOT) -> Report:
    """Mutates every answer of an exercise. Raises ValueError for an unknown slug."""
    tasks = judge.load_tasks(slug)
    nb = nbformat.read(root / "solutions" / slug / f"{slug}.ipynb", as_version=4)
    reasons = variants.load(root / "solutions" / slug / "variants.py").EQUIVALENT
    namespace, alive, total = _namespace(nb), [], 0
    for name, source in answers(nb).items():
        tried = trials(slug, name, tasks[name])
        # The first time imports what is imported on first use: a mutant that is stopped
        # in an import would leave half a module, and all after it would fail for that.
        for _ in range(2):
            start = time.process_time()
            if not passes(tasks[name], tried, name, source, namespace):
                raise ValueError(
                    f"the answer {name!r} of {slug!r} fails without a mutation"
                )
        limit = max(SECONDS, SLOWER * (time.process_time() - start))
        with _nothing_old_is_searched():
            for mutant in mutants(name, source):
                total += 1
                if survives(tasks[name], tried, mutant, namespace, limit):
                    alive.append(mutant.name)
    return Report(
        total,
        total - len(alive),
        [name for name in alive if name not in reasons],
        [name for name in alive if name in reasons],
        [name for name in reasons if name not in alive],
    )


def answers(nb: nbformat.NotebookNode) -> dict[str, str]:
    """The source of each answer cell, by task."""
    found = {}
    for cell in nb.cells:
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("solution"):
            found[marks["grade_id"].removeprefix("answer_")] = cell.source
    return found


def mutants(task: str, source: str) -> Iterator[Mutant]:
    """Every mutant of an answer, each once."""
    whole = ast.parse(source)
    original = ast.unparse(whole)
    seen = {original}
    for number, untouched in enumerate(ast.walk(whole)):
        changes = _changes(untouched)
        before = f"{task}: `{_line(whole, untouched)}`" if changes else ""
        for change in changes:
            tree = ast.parse(source)
            change(tree, _nodes(tree)[number])
            text = ast.unparse(tree)
            if text not in seen:
                seen.add(text)
                yield Mutant(task, f"{before} -> {_difference(original, text)}", text)


def trials(slug: str, name: str, task: Task) -> list[tuple[tuple, judge.Outcome]]:
    """The visible and the hidden cases of a task, each with what is due."""
    visible = judge.Trial(slug, name, task, 0, hidden=False)
    hidden = judge.Trial(slug, name, task, HIDDEN_SEED, hidden=True)
    cases = visible.cases + hidden.cases
    return list(zip(cases, visible.due + hidden.due, strict=True))


def survives(
    task: Task, tried: list, mutant: Mutant, namespace: dict, limit: float = SECONDS
) -> bool:
    """True when the checks find nothing wrong with the mutant in `limit` CPU-s."""
    try:
        with _time_limit(limit), warnings.catch_warnings(action="ignore"):
            return passes(task, tried, mutant.task, mutant.source, namespace)
    except Exception:
        return False


def passes(task: Task, tried: list, name: str, source: str, namespace: dict) -> bool:
    """Whether the answer `name` that `source` defines meets every case."""
    scope = dict(namespace)
    exec(compile(source, _file(source), "exec"), scope)
    answer = scope.get(name)
    return all(
        judge.same(task, judge.attempt(task.drive, answer, case), due)
        for case, due in tried
    )


def _file(source: str) -> str:
    """A file name that `inspect` finds `source` under: Triton reads kernels by it."""
    name = f"<answer {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    return name


def _namespace(nb: nbformat.NotebookNode) -> dict:
    """What the cells that are no answer and no test define.

    A cell that uses answers is tagged `nbval-skip` and left out.
    """
    scope: dict = {"__name__": "mutant"}
    for cell in nb.cells:
        plain = cell.cell_type == "code" and "nbgrader" not in cell.metadata
        skipped = "nbval-skip" in cell.metadata.get("tags", [])
        if plain and cell.id != "setup" and not skipped:
            exec(cell.source, scope)
    return scope


def _nodes(tree: ast.AST) -> list[ast.AST]:
    return list(ast.walk(tree))


def _changes(node: ast.AST) -> list[Callable]:
    """The ways to change one node; each takes (tree, node) and changes in place."""
    found: list[Callable] = []
    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in OPERATORS:
        found.append(_swap_operator)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        found.append(_swap_comparison)
    if isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
        found.append(lambda tree, n: _replace(tree, n, n.operand))
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        found += _constant_changes(node)
    if isinstance(node, ast.Call):
        found += _call_changes(node)
    if isinstance(node, ast.IfExp):
        found.append(_swap_branches)
    if isinstance(node, ast.Slice):
        bounds = [b for b in ("lower", "upper") if getattr(node, b) is not None]
        found += [lambda tree, n, b=b: setattr(n, b, None) for b in bounds]
    if _deletable(node):
        found.append(lambda tree, n: _replace(tree, n, ast.Pass()))
    return found


def _constant_changes(node: ast.Constant) -> list[Callable]:
    if isinstance(node.value, bool):
        return [lambda tree, n: setattr(n, "value", not n.value)]
    return [
        lambda tree, n, step=step: setattr(n, "value", n.value + step)
        for step in (1, -1)
    ]


def _call_changes(node: ast.Call) -> list[Callable]:
    found: list[Callable] = [
        lambda tree, n, i=i: n.keywords.pop(i) for i in range(len(node.keywords))
    ]
    found += [
        lambda tree, n, i=i: _swap_arguments(n, i) for i in range(len(node.args) - 1)
    ]
    if len(node.args) > 1:
        found.append(lambda tree, n: n.args.pop())
    if isinstance(node.func, ast.Attribute):  # x.f(...) -> x
        found.append(lambda tree, n: _replace(tree, n, n.func.value))
    if node.args:  # f(x, ...) -> x
        found.append(lambda tree, n: _replace(tree, n, n.args[0]))
    return found


def _swap_operator(tree: ast.AST, node: ast.BinOp | ast.BoolOp) -> None:
    node.op = OPERATORS[type(node.op)]()


def _swap_comparison(tree: ast.AST, node: ast.Compare) -> None:
    node.ops[0] = OPERATORS[type(node.ops[0])]()


def _swap_branches(tree: ast.AST, node: ast.IfExp) -> None:
    node.body, node.orelse = node.orelse, node.body


def _swap_arguments(node: ast.Call, i: int) -> None:
    node.args[i], node.args[i + 1] = node.args[i + 1], node.args[i]


def _deletable(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)  # a docstring does nothing
    return isinstance(node, (ast.Assign, ast.AugAssign, ast.If, ast.Raise))


def _replace(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    """Puts `new` where `old` stands in `tree`."""
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
                return
            if isinstance(value, list) and any(item is old for item in value):
                value[:] = [new if item is old else item for item in value]
                return


def _line(tree: ast.AST, node: ast.AST) -> str:
    """The first line of the innermost statement that holds `node`."""
    line = getattr(node, "lineno", 1)
    holders = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.stmt) and n.lineno <= line <= n.end_lineno
    ]
    inner = max(holders, key=lambda n: (n.lineno, n.col_offset))
    return ast.unparse(inner).splitlines()[0]


def _difference(original: str, mutated: str) -> str:
    """The lines of `mutated` that are new, or "(deleted)"."""
    remaining, new = original.splitlines(), []
    for line in mutated.splitlines():
        if line in remaining:
            remaining.remove(line)
        else:
            new.append(line.strip())
    return f"`{'; '.join(new)}`" if new else "(deleted)"


@contextmanager
def _nothing_old_is_searched() -> Iterator[None]:
    """The garbage collector leaves alone what there is by now, all that is imported.

    To search that takes tenths of a second, which would count against one mutant.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def stop(signum, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slug", help="an exercise, such as attention")
    try:
        report = run(parser.parse_args().slug)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for name in report.survivors:
        print(f"survived: {name}")
    for name in report.stale:
        print(f"listed as equivalent, but does not survive: {name}")
    print(
        f"{report.total} mutants: {report.killed} killed, "
        f"{len(report.equivalent)} equivalent, {len(report.survivors)} survived"
    )
    return 1 if report.survivors or report.stale else 0


if __name__ == "__main__":
    sys.exit(main())
