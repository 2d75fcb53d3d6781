"""A pool of traces as one finds them: some good, many not, each fault known.

    pool = draw_pool(seed=0, n=8000)
    Counter(trace.planted for trace in pool)

The faults are those that real pools have: a teacher that slips, an annotator who writes
the answer first, a hint that shows through, steps left out or out of order, an engine
that cut a thought short, a thought that goes round in circles, the same problem under
other names, and problems of the test set. Several of them leave the answer right.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

from posttrain.alignment.chat_sft_data import slipped
from posttrain.alignment.word_problem_styles import RAMBLING
from posttrain.alignment.word_problems import (
    END_THINK,
    NAMES,
    OBJECTS,
    THINK,
    Difficulty,
    Problem,
    draw,
)
from posttrain.synthetic_data.reasoning_traces import BETWEEN, Trace

STEPS = {2: 0.5, 3: 0.3, 4: 0.2}  # easy problems are the common ones
COPIES = 0.1  # of the pool: copies of another trace, half of them under other names
LEAKED = 0.03  # of the pool: problems of the test set


def written(steps: list[str], answer: int) -> str:
    """A reply of these steps."""
    return f"{THINK}{BETWEEN.join(steps)}{END_THINK}{answer}"


def false_step(rng: random.Random, problem: Problem) -> str:
    """One step says the wrong number, and the next goes on as if it had not."""
    steps, where = problem.steps, rng.randrange(len(problem.changes))
    left, right = steps[where].split("=")
    steps[where] = f"{left}={int(right) + rng.choice((-2, -1, 1, 2))}"
    return written(steps, problem.answer)


def misread(rng: random.Random, problem: Problem) -> str:
    """True steps with numbers that the question lacks; the end is right by luck."""
    one, other = rng.sample(range(len(problem.changes)), 2)
    changes = list(problem.changes)
    changes[one], changes[other] = changes[one] + 1, changes[other] - 1
    changed = replace(problem, changes=tuple(changes))
    if min(_values(changed)) < 1:
        return misread(rng, problem)
    return written(changed.steps, problem.answer)


def shuffled(rng: random.Random, problem: Problem) -> str:
    """All the right steps, in a wrong order."""
    steps = problem.steps
    while steps == problem.steps:
        rng.shuffle(steps)
    return written(steps, problem.answer)


def skipped(rng: random.Random, problem: Problem) -> str:
    """A step is left out, as an expert would."""
    steps = problem.steps
    del steps[rng.randrange(len(steps))]
    return written(steps, problem.answer)


def hinted(rng: random.Random, problem: Problem) -> str:
    """The thought begins with the answer: its writer was told."""
    return written([str(problem.answer), *problem.steps], problem.answer)


def answer_first(rng: random.Random, problem: Problem) -> str:
    """The answer, and then why."""
    return f"{problem.answer}{THINK}{BETWEEN.join(problem.steps)}{END_THINK}"


def circling(rng: random.Random, problem: Problem) -> str:
    """True steps that go nowhere, again and again."""
    idle = f"{problem.answer}+0={problem.answer}"
    return written([*problem.steps, *[idle] * rng.randint(3, 5)], problem.answer)


def not_closed(rng: random.Random, problem: Problem) -> str:
    """The mark behind the thought is missing."""
    return problem.demonstration().replace(END_THINK, BETWEEN)


def chatting(rng: random.Random, problem: Problem) -> str:
    """A sentence among the steps."""
    return written([rng.choice(RAMBLING), *problem.steps], problem.answer)


FAULTS: dict[str, Callable[[random.Random, Problem], str]] = {
    "slip, wrong answer": slipped,
    "false step": false_step,
    "misread numbers": misread,
    "steps shuffled": shuffled,
    "step skipped": skipped,
    "answer in front of the steps": hinted,
    "answer in front of the thought": answer_first,
    "going in circles": circling,
    "thought not closed": not_closed,
    "chatter": chatting,
}
SHARES = {
    "slip, wrong answer": 0.12,
    "false step": 0.1,
    "misread numbers": 0.08,
    "steps shuffled": 0.08,
    "step skipped": 0.1,
    "answer in front of the steps": 0.05,
    "answer in front of the thought": 0.02,
    "going in circles": 0.04,
    "thought not closed": 0.03,
    "chatter": 0.03,
}


def draw_pool(seed: int, n: int, most: int = 9) -> list[Trace]:
    """n traces; the faults have the SHARES, copies and leaked problems come on top.

    most: the largest number by which a problem changes.
    """
    rng = random.Random(f"pool {seed}")
    pool = [_one(rng, most) for _ in range(round(n * (1 - COPIES)))]
    pool += [_copy(rng, rng.choice(pool)) for _ in range(n - len(pool))]
    rng.shuffle(pool)
    return pool


def _one(rng: random.Random, most: int) -> Trace:
    """A fresh trace, with or without a fault."""
    steps = rng.choices(list(STEPS), weights=list(STEPS.values()))[0]
    leaked = rng.random() < LEAKED
    problem = draw(rng, Difficulty(steps, most), "test" if leaked else "train")
    if leaked:
        return Trace(problem, problem.demonstration(), "problem of the test set")
    kinds = ["", *SHARES]
    weights = [1 - sum(SHARES.values()), *SHARES.values()]
    kind = rng.choices(kinds, weights=weights)[0]
    text = FAULTS[kind](rng, problem) if kind else problem.demonstration()
    return Trace(problem, text, kind)


def _copy(rng: random.Random, trace: Trace) -> Trace:
    """The same once more: word for word, or with another name and other things."""
    if rng.random() < 0.5:
        return replace(trace, planted=trace.planted or "copy")
    question = _renamed(rng, trace.problem.question)
    problem = replace(trace.problem, question=question)
    return replace(
        trace, problem=problem, planted=trace.planted or "copy with other names"
    )


def _renamed(rng: random.Random, question: str) -> str:
    """Another person and other things in the same story."""
    for words in (NAMES, OBJECTS):
        old = next(word for word in words if word in question)
        new = rng.choice([word for word in words if word != old])
        question = question.replace(old, new)
    return question


def _values(problem: Problem) -> list[int]:
    """The numbers on the way."""
    return list(accumulate(problem.changes, initial=problem.start))
