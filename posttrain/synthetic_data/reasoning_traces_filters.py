"""Filters for reasoning traces, and a report of what each of them dropped.

    report = curate(pool, FILTERS)
    report.kept                         the traces that passed all
    report.rows[0].name, .before, .dropped

A filter says of each trace of a list whether to keep it. All are independent: a trace
that a filter cannot judge (no steps to read, say) passes, because another filter is
there for it. So each can be left out, and what only it finds can be counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from posttrain.alignment.chat_template import encode_reply
from posttrain.alignment.verifier import parse
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.synthetic_data import reasoning_traces as R
from posttrain.synthetic_data.exact_arithmetic import NotArithmetic, Step

Keep = Callable[[Sequence[R.Trace]], list[bool]]
MOST_TOKENS = 56  # what RL will let the model write
WORD = re.compile(r"\d+|\w+|\S")


@dataclass(frozen=True)
class Filter:
    """A name for the report, what is dropped, and the decision."""

    name: str
    drops: str
    keep: Keep


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    name: str
    before: int
    dropped: list[R.Trace]


@dataclass(frozen=True)
class Report:
    """What passed, and what each filter dropped of that which reached it."""

    kept: list[R.Trace]
    rows: list[Row]


def curate(pool: Sequence[R.Trace], filters: Sequence[Filter]) -> Report:
    """Send the pool through the filters, one after the other."""
    kept, rows = list(pool), []
    for filter in filters:
        passed = filter.keep(kept)
        dropped = [t for t, ok in zip(kept, passed, strict=True) if not ok]
        rows.append(Row(filter.name, len(kept), dropped))
        kept = [t for t, ok in zip(kept, passed, strict=True) if ok]
    return Report(kept, rows)


def found_by_one(pool: Sequence[R.Trace], filters: Sequence[Filter]) -> Counter[str]:
    """How many traces no other filter would drop, by the filter that does."""
    passed = {filter.name: filter.keep(pool) for filter in filters}
    faults = [
        [name for name, ok in passed.items() if not ok[i]] for i in range(len(pool))
    ]
    return Counter(names[0] for names in faults if len(names) == 1)


def each(test: Callable[[R.Trace], bool]) -> Keep:
    """A filter that judges every trace by itself."""
    return lambda traces: [test(trace) for trace in traces]


def of_steps(test: Callable[[R.Trace, list[Step]], bool]) -> Keep:
    """A filter that judges the steps; a thought that has none to read passes."""

    def passes(trace: R.Trace) -> bool:
        steps = read(trace.thinking)
        return steps is None or test(trace, steps)

    return each(passes)


@cache
def read(thinking: str) -> list[Step] | None:
    """The steps of a thought, or None where a part is no step."""
    try:
        return R.steps_of(thinking)
    except NotArithmetic:
        return None


def has_form(trace: R.Trace) -> bool:
    """One thought, closed, not empty, and behind it a number and nothing else."""
    return R.form_fault(trace.text) is None


def is_right(trace: R.Trace) -> bool:
    """The verifier reads the right answer, or no answer at all."""
    return parse(trace.text).answer in (None, trace.problem.answer)


def fits(trace: R.Trace) -> bool:
    """The reply and its end mark are no longer than RL will allow."""
    return len(encode_reply(tokenizer(), trace.text)) <= MOST_TOKENS


def repetition(text: str, n: int = 4) -> float:
    """The share of runs of n words that stood before: 0 none, towards 1 nearly all.

    Words are numbers, runs of letters, and single marks.
    """
    words = WORD.findall(text)
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def goes_on(trace: R.Trace) -> bool:
    """At most a fifth of the thought was said before."""
    return repetition(trace.thinking) <= 0.2


def only_steps(trace: R.Trace) -> bool:
    """No words, no bare numbers: every part of the thought is a step."""
    return not trace.thinking or read(trace.thinking) is not None


def first_of(key: Callable[[R.Trace], object]) -> Keep:
    """A filter that keeps the first trace of each key."""

    def keep(traces: Sequence[R.Trace]) -> list[bool]:
        seen: set = set()
        fresh = []
        for trace in traces:
            fresh.append(key(trace) not in seen)
            seen.add(key(trace))
        return fresh

    return keep


def words_of(trace: R.Trace) -> tuple[str, str]:
    """All that is written: equal for exact copies only."""
    return trace.problem.question, trace.text


def arithmetic_of(trace: R.Trace) -> tuple[int, tuple[int, ...]]:
    """The problem without its story: equal where only names were changed."""
    return trace.problem.start, trace.problem.changes


FORM = Filter("form", "thought missing, open, or answer no number", each(has_form))
ANSWER = Filter("answer", "answers that the verifier refuses", each(is_right))
LENGTH = Filter("length", "longer than RL will allow", each(fits))
LOOPS = Filter("loops", "says the same again", each(goes_on))
ONLY_STEPS = Filter("only steps", "words or bare numbers", each(only_steps))
TRUE = Filter(
    "true steps",
    "a step that does not hold",
    of_steps(lambda trace, steps: R.false_step(steps) is None),
)
CHAIN = Filter(
    "chain",
    "steps that do not follow",
    of_steps(lambda trace, steps: R.chained(steps)),
)
END = Filter(
    "last step",
    "ends with another number than the answer",
    of_steps(lambda trace, steps: steps[-1].said == parse(trace.text).answer),
)
GROUND = Filter(
    "grounded",
    "numbers that are not the question's",
    of_steps(lambda trace, steps: R.grounded(trace.problem.question, steps)),
)
TEST_SET = Filter(
    "test set",
    "problems that are kept for testing",
    each(lambda trace: trace.problem.split == "train"),
)
COPIES = Filter("copies", "word for word the same", first_of(words_of))
NEAR_COPIES = Filter(
    "near copies", "the same under other names", first_of(arithmetic_of)
)

SOUND = (FORM, ANSWER, LENGTH, LOOPS, ONLY_STEPS, TRUE, CHAIN, END, GROUND)
FILTERS = (*SOUND, TEST_SET, COPIES, NEAR_COPIES)
