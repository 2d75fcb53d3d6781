"""What makes a reasoning trace sound: its form, its answer, and each of its steps.

    trace = Trace(problem, "<think>12+3=15;15-5=10</think>10")
    form_fault(trace.text)          None, or what is wrong with the form
    work_fault(trace)               None, or what is wrong with the work

A verifier reads the answer alone. A cold start learns every token of the thought, so
the curator has to read the thought too: are the steps true, does each begin with what
the last one found, and are the numbers those of the question?
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from posttrain.alignment.verifier import parse
from posttrain.alignment.word_problems import END_THINK, THINK, Problem
from posttrain.synthetic_data.exact_arithmetic import NotArithmetic, Step, read_step

NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
BETWEEN = ";"  # what stands between two steps


@dataclass(frozen=True)
class Trace:
    """A problem and a reply that somebody, or some model, wrote to it.

    planted: which fault was put in, "" for none; known in experiments only, and looked
    at by no filter.
    """

    problem: Problem
    text: str
    planted: str = ""

    @property
    def thinking(self) -> str:
        """What stands between the marks; nothing where the form is broken."""
        return parse(self.text).thinking


def form_fault(text: str) -> str | None:
    """Why a reply is not `<think>thought</think>number`, or None if it is."""
    if not text.startswith(THINK):
        return "text before the thought" if THINK in text else "no thought"
    if END_THINK not in text:
        return "thought not closed"
    if text.count(THINK) > 1 or text.count(END_THINK) > 1:
        return "more than one thought"
    if text.index(END_THINK) == len(THINK):
        return "empty thought"
    return None if parse(text).well_formed else "answer is no number"


def steps_of(thinking: str) -> list[Step]:
    """The steps of a thought. Raises NotArithmetic where a part is no step."""
    return [read_step(part) for part in thinking.split(BETWEEN)]


def false_step(steps: list[Step]) -> Step | None:
    """The first step whose two sides differ, or None."""
    return next((step for step in steps if not step.true), None)


def chained(steps: list[Step]) -> bool:
    """Whether each step after the first begins with what the one before it found."""
    return all(after.numbers[:1] == [step.said] for step, after in pairwise(steps))


def grounded(question: str, steps: list[Step]) -> bool:
    """Whether the work uses the numbers of the question: all, once, in their order.

    The number that a step takes over from the step before it does not count: it was
    found, not given. In their order, because these problems are told in that order;
    for other problems compare the two as bags.
    """
    given = [Fraction(number) for number in NUMBER.findall(question)]
    used = [*steps[0].numbers[:1], *(n for step in steps for n in step.numbers[1:])]
    return used == given


def work_fault(trace: Trace) -> str | None:
    """Why the thought does not bear its answer, or None if it does.

    The trace must be well formed. Looks, in this order, for a part that is no step, a
    false step, a broken chain, a last step that is not the answer, and numbers that are
    not the question's.
    """
    parsed = parse(trace.text)
    try:
        steps = steps_of(parsed.thinking)
    except NotArithmetic:
        return "not a step"
    if false_step(steps):
        return "false step"
    if not chained(steps):
        return "broken chain"
    if steps[-1].said != parsed.answer:
        return "another answer"
    return None if grounded(trace.problem.question, steps) else "not the question's"
