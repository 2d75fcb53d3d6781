"""Runs a submission cell by cell and has its tests judged outside the kernel.

Takes the place of nbgrader's `Execute`. Cells that are no tests run in the kernel. A
test cell is parsed, never run: for each of its lines `check("task", answer)`, the
kernel gets the cases and the code that tries the answer, and the judge gets what came
back. What a test cell shows at the end, and so what it earns, is written here.
"""

from __future__ import annotations

import ast
import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat.v4 import new_code_cell, new_output
from nbgrader.preprocessors import Execute
from nbgrader.utils import is_grade, is_solution

from grading.course import SEED_VARIABLE
from grading.judge import Judge, JudgeFailed, Verdict

MIME = "application/vnd.posttrain.outcomes+json"
CELL_SECONDS = 60  # wall time of a cell ...
NOTEBOOK_SECONDS = 300  # ... and of a whole notebook
OUTPUT_KEPT = 1 << 20  # bytes of a notebook's outputs that feedback shows
OUTPUT_READ = 256 << 20  # bytes after which the kernel is ended


class BadTest(ValueError):
    """A test cell that holds something else than checks: the exercise is at fault."""


@dataclass(frozen=True)
class Check:
    """One line of a test cell."""

    task: str
    hidden: bool


def parse(source: str) -> list[Check]:
    """The checks of a test cell. Raises BadTest for anything else in it."""
    checks = []
    for statement in ast.parse(source).body:
        call = statement.value if isinstance(statement, ast.Expr) else None
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "check":
            raise BadTest(f"a test cell may hold only check(...): {source[:200]!r}")
        task, answer = (ast.unparse(argument) for argument in call.args)
        options = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
        if ast.literal_eval(task) != answer or not options.keys() <= {"hidden"}:
            raise BadTest(f"a check names its answer twice: {ast.unparse(call)!r}")
        checks.append(Check(answer, options.get("hidden", False)))
    if not checks:
        raise BadTest("a test cell holds no check(...)")
    return checks


class JudgedExecute(Execute):
    """`Execute` with the judge in place of the test cells."""

    judge: ClassVar[Judge]
    answers: ClassVar[
        Mapping[str, list[str]]
    ] = {}  # modules that a slug's kernel lacks

    def preprocess(self, nb, resources, km=None):
        slug = resources["nbgrader"]["notebook"]
        self.config.ContainedProvisioner.hidden_modules = self.answers.get(slug, [])
        self._tests: dict[int, tuple] = {}  # index: (the cell, what it shows)
        self._dead = ""
        self._sources: list[str] = []
        self._bytes = 0
        end = time.monotonic() + NOTEBOOK_SECONDS
        self.timeout_func = lambda _: max(
            1, min(CELL_SECONDS, int(end - time.monotonic()))
        )
        nb, resources = super().preprocess(nb, resources, km)
        # Last, because later cells can reach back with `update_display`, and because
        # nbclient puts what it ran for a test cell into the notebook.
        for index, (cell, outputs) in self._tests.items():
            cell.outputs, cell.execution_count = outputs, None
            nb.cells[index] = cell
        return nb, resources

    def preprocess_cell(self, cell, resources, index):
        if cell.cell_type != "code":
            return cell, resources
        if is_grade(cell) and not is_solution(cell):
            slug = resources["nbgrader"]["notebook"]
            self._tests[index] = (cell, [_failed("not judged")])
            self._tests[index] = (cell, self._judged(slug, cell, index))
            return cell, resources
        self._sources.append(cell.source)
        if self._dead:
            cell.outputs = [_failed(self._dead)]
            return cell, resources
        return self._executed(cell, resources, index), resources

    def process_message(self, msg, cell, cell_index):
        """Outputs count: beyond a megabyte they are dropped, far beyond they end it."""
        if msg["msg_type"] in ("stream", "display_data", "execute_result", "error"):
            content = msg["content"]
            if MIME not in (content.get("data") or {}):
                self._bytes += len(str(content))
            if self._bytes > OUTPUT_READ:
                raise DeadKernelError(f"it put out over {OUTPUT_READ >> 20} MiB")
            if self._bytes > OUTPUT_KEPT and msg["msg_type"] != "error":
                return None
        return super().process_message(msg, cell, cell_index)

    def _update_display_id(self, display_id, msg):
        """Later cells may name displays of test cells, which are kept elsewhere."""
        with contextlib.suppress(IndexError, KeyError):
            super()._update_display_id(display_id, msg)

    def _executed(self, cell, resources, index):
        try:
            return super().preprocess_cell(cell, resources, index)[0]
        except (DeadKernelError, CellTimeoutError, RuntimeError) as error:
            reason = getattr(self.km.provisioner, "ended", None) or str(error)
            self._dead = f"the kernel ended in an earlier cell ({reason})"
            cell.outputs = [*cell.get("outputs", []), _failed(reason)]
            return cell

    def _judged(self, slug: str, cell, index: int) -> list:
        """The outputs of a test cell: what the judge said, line by line."""
        outputs = []
        for check in parse(cell.source):
            try:
                verdict = self._verdict(slug, check, index)
            except JudgeFailed as error:
                verdict = Verdict(False, f"{check.task} could not be judged: {error}")
            if not verdict.right:
                return [*outputs, _failed(verdict.message)]
            text = verdict.message + "\n"
            outputs.append(new_output("stream", name="stdout", text=text))
        return outputs

    def _verdict(self, slug: str, check: Check, index: int) -> Verdict:
        if self._dead:
            return Verdict(False, self._dead)
        seed = int(os.environ[SEED_VARIABLE]) if check.hidden else 0
        code = self.judge.program(slug, check.task, seed, check.hidden)
        trial = self._executed(new_code_cell(code), self.resources, index)
        outcomes = [o.data[MIME] for o in trial.outputs if MIME in o.get("data", {})]
        if not outcomes or not isinstance(outcomes[-1], str):
            return Verdict(False, f"{check.task}: {_reason(trial)}")
        source = "\n".join(self._sources)
        return self.judge.verdict(
            slug, check.task, seed, check.hidden, outcomes[-1], source
        )


def _failed(message: str):
    return new_output(
        "error", ename="AssertionError", evalue=message, traceback=message.split("\n")
    )


def _reason(trial) -> str:
    """Why no outcomes came back from the kernel."""
    errors = [o for o in trial.outputs if o.output_type == "error"]
    if not errors:
        return "nothing came back from the kernel"
    return f"{errors[-1].ename}: {errors[-1].evalue}"[:1000]
