"""Runs a rebuilt submission cell by cell and has its tests judged outside the kernel.

Cells that are no tests run in the kernel. A test cell is parsed, never run: for each of
its lines `check("task", answer)`, the kernel gets the cases and the code that tries the
answer, and the judge gets what came back. What a test cell shows at the end, and so
what it earns, is written here.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import copy
import os
import time
from dataclasses import dataclass

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat.v4 import new_code_cell, new_output
from traitlets.config import Config

from grading.containment.lock import NotContained
from grading.exercise import Exercise, marks_of
from grading.judge import Judge, JudgeFailed, Verdict
from grading.record import Mark

MIME = "application/vnd.posttrain.outcomes+json"
SEED_VARIABLE = "POSTTRAIN_GRADING_SEED"
CELL_SECONDS = 60  # wall time of a cell ...
NOTEBOOK_SECONDS = 300  # ... and of a whole notebook
OUTPUT_KEPT = 1 << 20  # bytes of a notebook's outputs that feedback shows
OUTPUT_READ = 256 << 20  # bytes after which the kernel is ended
TRIES = 2  # for a kernel that ends and nobody knows why: somebody may have killed it


class BadTest(ValueError):
    """A test cell that holds something else than checks: the exercise is at fault."""


class GradingFailed(RuntimeError):
    """A submission could not be run or marked, through no fault of its own."""


@dataclass(frozen=True)
class Check:
    """One line of a test cell."""

    task: str
    hidden: bool


@dataclass(frozen=True)
class Run:
    """A notebook as it was run, and what its graded cells earned."""

    notebook: nbformat.NotebookNode
    marks: list[Mark]


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


def run(exercise: Exercise, notebook: nbformat.NotebookNode, judge: Judge) -> Run:
    """Runs and marks a notebook that was rebuilt from the release.

    The kernel's provisioner is the one that the environment names. A run whose kernel
    ended for a reason that is not ours is repeated once. Raises GradingFailed where no
    kernel starts, NotContained where no lock holds.
    """
    for left in reversed(range(TRIES)):
        client = _JudgedClient(exercise, notebook, judge)
        try:
            asyncio.run(client.async_execute())
        except NotContained:  # perhaps its supervisor was killed as it started
            if not left:
                raise
            continue
        except RuntimeError as error:  # the kernel ended before its first cell
            if not left:
                raise GradingFailed(f"no kernel started: {error}") from error
            continue
        if not client.died_of_itself:
            break
    return client.result()


class _JudgedClient(NotebookClient):
    """Runs one notebook once, with the judge in place of its test cells."""

    def __init__(self, exercise: Exercise, notebook, judge: Judge):
        hidden = {"ContainedProvisioner": {"hidden_modules": list(exercise.absent)}}
        end = time.monotonic() + NOTEBOOK_SECONDS
        super().__init__(
            exercise.with_tests(notebook),
            config=Config(hidden),
            timeout_func=lambda _: max(
                1, min(CELL_SECONDS, int(end - time.monotonic()))
            ),
            allow_errors=True,
            interrupt_on_timeout=True,
            raise_on_iopub_timeout=True,
            error_on_timeout={
                "ename": "CellTimeoutError",
                "evalue": "it took too long",
                "traceback": ["CellTimeoutError: it took too long and was interrupted"],
            },
            shutdown_kernel="immediate",
        )
        self.exercise, self.judge = exercise, judge
        self.died_of_itself = False
        self._tests: dict[int, tuple] = {}  # index: (the cell, what it shows)
        self._wrong: dict[int, Verdict] = {}
        self._dead = ""
        self._sources: list[str] = []
        self._bytes = 0

    def result(self) -> Run:
        """The notebook as it ended, and its marks."""
        marks = []
        for index, (cell, outputs) in self._tests.items():
            # Now, because later cells can reach back with `update_display`, and because
            # nbclient puts what it ran for a test cell into the notebook.
            cell.outputs, cell.execution_count = outputs, None
            self.nb.cells[index] = cell
        for index, cell in enumerate(self.nb.cells):
            if marks_of(cell).get("grade"):
                marks.append(self._mark(cell, index))
        return Run(self.nb, marks)

    def _mark(self, cell, index: int) -> Mark:
        name, points = marks_of(cell)["grade_id"], float(marks_of(cell)["points"])
        if index not in self._tests:  # an answer that a person marks
            empty = name in self.exercise.unanswered(self.nb)
            return Mark(name, 0.0 if empty else None, points)
        wrong = self._wrong.get(index)
        if wrong is None:
            return Mark(name, points, points)
        return Mark(name, 0.0, points, wrong.mistake, wrong.hint, wrong.raised)

    async def async_execute_cell(self, cell, cell_index, *args, **kwargs):
        if cell.cell_type != "code":
            return cell
        if marks_of(cell).get("grade_id") in self.exercise.tests:
            own = copy.deepcopy(cell)
            self._tests[cell_index] = (own, [_failed("not judged")])
            self._wrong[cell_index] = Verdict(False, "not judged")
            self._tests[cell_index] = (own, await self._judged(own, cell_index))
            return cell
        self._sources.append(cell.source)
        if self._dead:
            cell.outputs = [_failed(self._dead)]
            return cell
        return await self._executed(cell, cell_index)

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

    def on_cell_executed(self, cell, cell_index, execute_reply):
        """Shows an error that only the reply tells, as when a time limit was met."""
        reply = execute_reply["content"]
        told = {o.ename for o in cell.outputs if o.output_type == "error"}
        if reply["status"] == "error" and reply["ename"] not in told:
            fields = {k: reply[k] for k in ("ename", "evalue", "traceback")}
            cell.outputs.append(new_output("error", **fields))

    async def _executed(self, cell, index):
        try:
            count = self.code_cells_executed + 1
            await super().async_execute_cell(cell, index, execution_count=count)
        except (DeadKernelError, CellTimeoutError, RuntimeError) as error:
            ours = getattr(self.km.provisioner, "ended", None)
            self.died_of_itself = str(error) == "Kernel died" and not ours
            reason = ours or str(error)
            self._dead = f"the kernel ended in an earlier cell ({reason})"
            cell.outputs = [*cell.get("outputs", []), _failed(reason)]
        return cell

    async def _judged(self, cell, index: int) -> list:
        """The outputs of a test cell: what the judge said, line by line."""
        outputs = []
        for check in parse(cell.source):
            try:
                verdict = await self._verdict(check, index)
            except JudgeFailed as error:
                verdict = Verdict(False, f"{check.task} could not be judged: {error}")
            if not verdict.right:
                self._wrong[index] = verdict
                return [*outputs, _failed(verdict.message)]
            text = verdict.message + "\n"
            outputs.append(new_output("stream", name="stdout", text=text))
        del self._wrong[index]
        return outputs

    async def _verdict(self, check: Check, index: int) -> Verdict:
        if self._dead:
            return Verdict(False, self._dead)
        seed = int(os.environ[SEED_VARIABLE]) if check.hidden else 0
        asked = (self.exercise.slug, check.task, seed, check.hidden)
        code = self.judge.program(*asked)
        trial = await self._executed(new_code_cell(code), index)
        outcomes = [o.data[MIME] for o in trial.outputs if MIME in o.get("data", {})]
        if not outcomes or not isinstance(outcomes[-1], str):
            return _nothing_back(check.task, trial)
        return self.judge.verdict(*asked, outcomes[-1], "\n".join(self._sources))


def _failed(message: str):
    return new_output(
        "error", ename="AssertionError", evalue=message, traceback=message.split("\n")
    )


def _nothing_back(task: str, trial) -> Verdict:
    """The verdict where no outcomes came back from the kernel, with the reason."""
    errors = [o for o in trial.outputs if o.output_type == "error"]
    if not errors:
        return Verdict(False, f"{task}: nothing came back from the kernel")
    reason = f"{errors[-1].ename}: {errors[-1].evalue}"[:1000]
    raised = str(errors[-1].ename)[:80].encode("ascii", "backslashreplace").decode()
    return Verdict(False, f"{task}: {reason}", raised=raised)
