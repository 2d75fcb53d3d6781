"""The judge: a process of its own that decides what an answer earns.

    python -P -m grading.judge [slug ...]     (started by `Judge`, spoken to in JSON)

It makes the cases, is given what an answer returned for them (text from a place that is
not trusted), and compares with the reference. Nothing of a submission is ever on its
path or run in it. It has read all checks when it lowers its own rights: another user
when started by root, no new privileges, no files written.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import selectors
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from posttrain.checks import judge as checks

ANSWER_SECONDS = 120.0
LIMIT = 64 << 20  # bytes of one line, either way
NOBODY = 65534
PR_SET_NO_NEW_PRIVS = 38


class JudgeFailed(RuntimeError):
    """The judge gave no verdict; the text says why. Never a reason for marks."""


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one line of a test: right or not, and the words.

    `mistake`, `hint` and `raised` are those of `posttrain.checks.judge.Wrong`.
    """

    right: bool
    message: str
    mistake: str = ""
    hint: str = ""
    raised: str = ""


class Judge:
    """Starts the judge when it is first asked, and again if it has ended."""

    def __init__(self, seconds: float = ANSWER_SECONDS):
        self.seconds = seconds
        self._slugs: list[str] = []
        self._process: subprocess.Popen | None = None

    def start(self, slugs: Sequence[str]) -> None:
        """Starts it, to get ready for these exercises; for others when it is asked."""
        self._slugs = list(slugs)
        self._running()

    def program(self, slug: str, task: str, seed: int, hidden: bool) -> str:
        """The code to run beside the answer; see `posttrain.checks.attempt`."""
        question = {"ask": "program", "slug": slug, "task": task}
        return self._ask({**question, "seed": seed, "hidden": hidden})["code"]

    def verdict(
        self, slug: str, task: str, seed: int, hidden: bool, outcomes: str, source: str
    ) -> Verdict:
        """Whether the outcomes are as due; `source` is scanned for forbidden names."""
        question = {"ask": "verdict", "slug": slug, "task": task, "seed": seed}
        question |= {"hidden": hidden, "outcomes": outcomes, "source": source}
        return Verdict(**self._ask(question))

    def close(self) -> None:
        """Ends the process."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None
        self._slugs = []

    def _ask(self, question: dict) -> dict:
        line = json.dumps(question).encode() + b"\n"
        if len(line) > LIMIT:
            raise JudgeFailed(f"what came back is over {LIMIT >> 20} MiB")
        if question["slug"] not in self._slugs:  # without rights it may read no more
            self.close()
            self._slugs.append(question["slug"])
        process = self._running()
        try:
            process.stdin.write(line)
            process.stdin.flush()
            answer = json.loads(self._line(process))
        except (OSError, ValueError) as error:
            self.close()
            raise JudgeFailed(f"the judge ended: {error}") from None
        if "failed" in answer:
            raise JudgeFailed(answer["failed"])
        return answer

    def _line(self, process: subprocess.Popen) -> bytes:
        """The judge's next line; a judge that takes too long is ended."""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(self.seconds):
                raise TimeoutError(f"no verdict within {self.seconds:g} s")
        line = process.stdout.readline(LIMIT)
        if not line.endswith(b"\n"):
            raise ValueError("it sent no whole line")
        return line

    def _running(self) -> subprocess.Popen:
        if self._process is None or self._process.poll() is not None:
            kept = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT")
            environment = {k: os.environ[k] for k in kept if k in os.environ}
            # The same checks as the grader's, wherever both are installed.
            root = Path(__file__).resolve().parents[1]
            environment["PYTHONPATH"] = os.pathsep.join([str(root), f"{root}/kernels"])
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "grading.judge", *self._slugs],
                cwd="/",
                env={**environment, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # an interrupt from the keyboard is not for it
            )
        return self._process


def answer(question: dict) -> dict:
    """What the judge replies to one question."""
    from posttrain.checks import attempt, forbid, judge

    slug, name, hidden = question["slug"], question["task"], question["hidden"]
    tasks = judge.load_tasks(slug)
    if name not in tasks:
        known = ", ".join(tasks)
        raise ValueError(f"{slug!r} has no task {name!r}; its tasks are: {known}")
    task = tasks[name]
    trial, program = _prepared(slug, name, question["seed"], hidden)
    if question["ask"] == "program":
        return {"code": program}
    refused = forbid.used_in(question["source"], task.forbid)
    if refused:
        return _wrong(f"{name}: write it yourself, without {' and '.join(refused)}.")
    try:
        outcomes = attempt.from_text(question["outcomes"])
    except ValueError as error:
        return _wrong(f"{name}: {error}.")
    due = len(trial.cases)
    if len(outcomes) != due:
        return _wrong(f"{name}: {len(outcomes)} outcomes came, due {due}.")
    wrong = judge.verdict(trial, outcomes)
    if wrong:
        return {"right": False, **asdict(wrong)}
    kind = "hidden cases" if hidden else "cases"
    return {"right": True, "message": f"{name}: right on all {due} {kind}"}


@lru_cache(maxsize=1024)
def _prepared(
    slug: str, name: str, seed: int, hidden: bool
) -> tuple[checks.Trial, str]:
    """A trial, and the code that tries an answer: the same for a whole class."""
    from posttrain.checks import attempt, judge

    task = judge.load_tasks(slug)[name]
    trial = judge.Trial(slug, name, task, seed, hidden)
    return trial, attempt.program(task.drive, name, trial.cases)


def _wrong(message: str) -> dict:
    return {"right": False, "message": message}


def lower_rights() -> None:
    """From here on: no root, no new privileges, no files written."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    if sys.platform == "linux":
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def warm_up(slugs: Sequence[str]) -> None:
    """Answers a question of each kind, so that all it needs is read and imported."""
    from posttrain.checks import attempt, judge

    for slug in slugs:
        for name in judge.load_tasks(slug):
            trial, _ = _prepared(slug, name, 0, False)
            outcomes = attempt.to_text(trial.due)
            question = {"slug": slug, "task": name, "seed": 0, "hidden": False}
            answer({**question, "ask": "program"})
            question |= {"ask": "verdict", "outcomes": outcomes, "source": ""}
            if not answer(question)["right"]:
                raise RuntimeError(f"{slug}/{name} refuses its own reference")


def serve(slugs: Sequence[str]) -> None:
    """Answers lines of standard input until it ends."""
    warm_up(slugs)
    lower_rights()
    for line in sys.stdin.buffer:
        try:
            reply = answer(json.loads(line))
        except Exception as error:
            reply = {"failed": f"{type(error).__name__}: {error}"[:2000]}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(sys.argv[1:])
