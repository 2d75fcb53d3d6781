"""Marks and verifiers: what the form costs, and what a careless reading lets through.

    parts = token_counts(reply)         marks, thought, answer, end
    accepted(pool, VERIFIERS)           {planted fault: {verifier: share accepted}}

The verifiers stand in the order of their strictness. What one of them accepts, a policy
that is paid by it will write.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from posttrain.alignment.chat_template import encode_reply
from posttrain.alignment.verifier import parse
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import END_THINK, THINK
from posttrain.synthetic_data.reasoning_traces import Trace

Verifier = Callable[[str, int], bool]  # (reply, the right answer) -> accepted?
NUMBER = re.compile(r"\d+", re.ASCII)


def number_anywhere(reply: str, answer: int) -> bool:
    """Content with the number, wherever it stands."""
    return str(answer) in NUMBER.findall(reply)


def last_number(reply: str, answer: int) -> bool:
    """Takes the last number of the reply for its answer, as many scripts do."""
    return NUMBER.findall(reply)[-1:] == [str(answer)]


def behind_the_mark(reply: str, answer: int) -> bool:
    """Takes the first number behind the last `</think>`; the rest is not looked at."""
    _, mark, behind = reply.rpartition(END_THINK)
    return bool(mark) and NUMBER.findall(behind)[:1] == [str(answer)]


def strict(reply: str, answer: int) -> bool:
    """The whole form, and the number: the verifier of this book."""
    return parse(reply).answer == answer


VERIFIERS: dict[str, Verifier] = {
    "number anywhere": number_anywhere,
    "last number": last_number,
    "behind </think>": behind_the_mark,
    "strict": strict,
}


def accepted(
    pool: Iterable[Trace], verifiers: Mapping[str, Verifier]
) -> dict[str, dict[str, float]]:
    """The share of traces with each planted fault that each verifier accepts."""
    by_fault = defaultdict(list)
    for trace in pool:
        by_fault[trace.planted].append(trace)
    return {
        fault: {
            name: sum(accepts(t.text, t.problem.answer) for t in traces) / len(traces)
            for name, accepts in verifiers.items()
        }
        for fault, traces in by_fault.items()
    }


def token_counts(reply: str) -> dict[str, int]:
    """The tokens of a well-formed reply by what they are for.

    Raises ValueError for another reply.
    """
    tok, parsed = tokenizer(), parse(reply)
    if not parsed.well_formed:
        raise ValueError(f"{reply!r} is not {THINK}thought{END_THINK}number")
    thought = len(tok.encode(parsed.thinking))
    marks = 2
    end = 1
    answer = len(encode_reply(tok, reply)) - marks - thought - end
    return {"marks": marks, "thought": thought, "answer": answer, "end": end}


def without_marks(tokens: Iterable[int]) -> bool:
    """Whether a list of tokens holds neither of the two marks as a special token."""
    tok = tokenizer()
    marks = {tok.special_id(THINK), tok.special_id(END_THINK)}
    return marks.isdisjoint(tokens)
