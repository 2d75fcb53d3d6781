"""Runs an answer on the cases of its task, compares, and says what is wrong.

The two halves can be far apart: `attempt` runs beside the answer, `verdict` only
reads what came back. In a notebook both run in the learner's kernel; when a class is
graded, the judge is another process.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import pkgutil
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from posttrain.checks import compare, forbid, plain
from posttrain.checks.attempt import Outcome, attempt
from posttrain.checks.task import Mistake, Task

SEED_VARIABLE = "POSTTRAIN_GRADING_SEED"


@dataclass(frozen=True)
class Wrong:
    """What is wrong with an answer: the message that teaches, and its kind.

    `mistake` names the known mistake that the answer equals, `hint` is what that says;
    `raised` is the class of the error that the smallest failing case raised.
    """

    message: str
    mistake: str = ""
    hint: str = ""
    raised: str = ""


class Trial:
    """The cases of a task for a seed, what is due for each, what known mistakes give.

    The reference is asked at once, the mistakes when a wrong answer is compared with
    them: each once, however many answers are tried.
    """

    def __init__(self, slug: str, name: str, task: Task, seed: int, hidden: bool):
        self.name, self.task = name, task
        self.cases = make_cases(slug, name, task, seed, hidden)
        self.due = [
            Outcome(plain.copy(task.reference(*plain.copy(case))))
            for case in self.cases
        ]
        self._given: dict[tuple[int, int], Outcome] = {}

    def mistake(
        self, outcomes: Sequence[Outcome], order: Sequence[int]
    ) -> Mistake | None:
        """The known mistake that the answer equals on every case, if there is one.

        `order`: the cases to compare first.
        """
        for number, mistake in enumerate(self.task.mistakes):
            if all(same(self.task, outcomes[i], self._of(number, i)) for i in order):
                return mistake
        return None

    def _of(self, mistake: int, case: int) -> Outcome:
        key = mistake, case
        if key not in self._given:
            answer = self.task.mistakes[mistake].answer
            self._given[key] = attempt(self.task.drive, answer, self.cases[case])
        return self._given[key]


def verdict(trial: Trial, outcomes: Sequence[Outcome]) -> Wrong | None:
    """None when every outcome is as due, else what is wrong."""
    name, task, cases, due = trial.name, trial.task, trial.cases, trial.due
    right = [i for i in range(len(cases)) if same(task, outcomes[i], due[i])]
    failing = [i for i in range(len(cases)) if i not in right]
    if not failing:
        return None
    failing.sort(key=lambda i: compare.size(cases[i]))
    smallest = failing[0]
    lines = [f"{name} is not right yet: {len(failing)} of {len(cases)} cases fail."]
    # Where the answer fails, other mistakes differ from it: those cases come first.
    known = trial.mistake(outcomes, [*failing, *right])
    hint = known.hint if known else ""
    if hint:
        lines.append(f"Hint: {hint}")
    lines += _describe(task, cases[smallest], outcomes[smallest], due[smallest])
    mistake = known.answer.__name__ if known else ""
    raised = outcomes[smallest].error[:80].encode("ascii", "backslashreplace").decode()
    return Wrong("\n".join(lines), mistake, hint, raised)


def same(task: Task, came: Outcome, due: Outcome) -> bool:
    """Whether an outcome is as good as the one due: the same error, or near values."""
    if came.error or due.error:
        return came.error == due.error
    return compare.difference(came.value, due.value, task.tolerance) is None


def make_cases(slug: str, name: str, task: Task, seed: int, hidden: bool) -> list:
    """The cases of a task for a seed: the same seed gives the same cases anywhere."""
    # Whoever finds out what one generator was seeded with learns nothing of the others.
    label = hashlib.sha256(f"{slug}/{name}/{hidden}/{seed}".encode()).digest()
    rng = torch.Generator().manual_seed(int.from_bytes(label[:8], "big") >> 1)
    return list(task.cases(rng, hidden))


def grader(slug: str) -> Callable[..., None]:
    """The `check(name, answer, hidden=False)` of the exercise `slug`.

    `check` returns None and prints one line when the answer is right; else it raises
    AssertionError with a message that teaches. Visible cases are the same each time;
    hidden ones follow $POSTTRAIN_GRADING_SEED, or are fresh where that is not set.
    """
    tasks = load_tasks(slug)

    def check(name: str, answer: Any, hidden: bool = False) -> None:
        if name not in tasks:
            known = ", ".join(tasks)
            raise ValueError(f"{slug!r} has no task {name!r}; its tasks are: {known}")
        task = tasks[name]
        refused = forbid.used(answer, task.forbid)
        if refused:
            names = " and ".join(refused)
            raise AssertionError(f"{name}: write it yourself, without {names}.")
        trial = Trial(slug, name, task, _seed(hidden), hidden)
        wrong = verdict(trial, [attempt(task.drive, answer, c) for c in trial.cases])
        if wrong:
            raise AssertionError(wrong.message)
        print(f"{name}: right on all {len(trial.cases)} {'hidden ' * hidden}cases")

    return check


def load_tasks(slug: str) -> dict[str, Task]:
    """The tasks of an exercise in their order. Raises ValueError if unknown."""
    known = exercises()
    if slug not in known:
        raise ValueError(f"no exercise {slug!r}; there are: {', '.join(known)}")
    return importlib.import_module(f"posttrain.checks.{slug}").TASKS


def exercises() -> list[str]:
    """The slugs that have a module of checks."""
    import posttrain.checks as package

    shared = {"attempt", "compare", "draws", "forbid", "judge"}
    shared |= {"mistakes", "plain", "task"}
    found = {module.name for module in pkgutil.iter_modules(package.__path__)}
    return sorted(found - shared)


def _seed(hidden: bool) -> int:
    if not hidden:
        return 0
    text = os.environ.get(SEED_VARIABLE)
    if text is None:
        return secrets.randbits(31)
    if not text.isdecimal():
        raise ValueError(f"${SEED_VARIABLE} is {text!r}; set it to a whole number >= 0")
    return int(text)


def _describe(task: Task, case: tuple, came: Outcome, due: Outcome) -> list[str]:
    names = list(inspect.signature(task.reference).parameters)
    lines = ["The smallest failing case:"]
    lines += [f"  {n} = {compare.brief(v)}" for n, v in zip(names, case, strict=True)]
    if came.error == "NotImplementedError":
        return [*lines, "It is not solved yet: replace `raise NotImplementedError()`."]
    if came.error:
        return [*lines, f"It raised {came.error}: {came.message}"]
    found = compare.difference(came.value, due.value, task.tolerance)
    lines.append(f"What differs: {found}")
    if compare.size(due.value) <= 24:
        lines += [f"  came {compare.brief(came.value)}"]
        lines += [f"  due  {compare.brief(due.value)}"]
    return lines
