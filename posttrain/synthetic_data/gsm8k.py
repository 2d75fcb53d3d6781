"""GSM8K: 8,792 problems of grade-school mathematics with worked answers.

    rows = read_rows(data.load("gsm8k_train").text)
    final_answer(rows[0].answer)         Fraction(72, 1)
    check_annotations(rows[0].answer)    [("48/2=24", "true"), ("48+24=72", "true")]
    trace_of(rows[0])                    "<think>Natalia sold 48/2 = 24 ...</think>72"

An answer is worked line by line. Where the writer calculated, an annotation says what a
calculator would have been asked: `48/2 = <<48/2=24>>24`. The last line is `#### 72`.
Source: Cobbe et al. 2021, https://github.com/openai/grade-school-math (MIT).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from posttrain.alignment.word_problems import END_THINK, THINK
from posttrain.synthetic_data.exact_arithmetic import NotArithmetic, Step, read_step

MARK = "####"
ANNOTATION = re.compile(r"<<(.*?)>>", re.DOTALL)
# a sign, then digits, or digits in groups of three; perhaps decimals
NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?", re.ASCII)
UNITS = "$€£%"
Verdict = Literal["true", "rounded", "false", "unreadable"]


@dataclass(frozen=True)
class Row:
    """A question in words and its worked answer."""

    question: str
    answer: str


def read_rows(text: str) -> list[Row]:
    """The rows of a file: a line of JSON each. Raises ValueError for another form."""
    rows = []
    for line, content in enumerate(text.splitlines(), start=1):
        try:
            fields = json.loads(content)
            rows.append(Row(fields["question"], fields["answer"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"line {line} is no row of GSM8K ({error}); a row is JSON with a"
                ' "question" and an "answer"'
            ) from None
    return rows


def number(text: str) -> Fraction | None:
    """What a written number is, exactly: "$1,234.50." is 2469/2. None if it is none.

    Spaces around it, one unit before or behind it ($, %) and a full stop at the end
    do not count. Commas stand between groups of three digits or not at all: "1,23" is
    two numbers, or a decimal of another country, and no guess is made.
    """
    text = text.strip().removesuffix(".").strip()
    sign = "-" if text.startswith("-") else ""
    text = text.removeprefix(sign)
    if text[:1] and text[0] in UNITS:
        text = text[1:].lstrip()
    elif text[-1:] and text[-1] in UNITS:
        text = text[:-1].rstrip()
    if not re.search(r"\d", text, re.ASCII) or not NUMBER.fullmatch(sign + text):
        return None
    return Fraction(sign + text.replace(",", ""))


def final_answer(text: str) -> Fraction | None:
    """The number behind the last `####`, or None: no mark, or no number behind it."""
    _, mark, behind = text.rpartition(MARK)
    return number(behind) if mark else None


def published_answer(text: str) -> str | None:
    """The answer as GSM8K's own code reads it: a string, to be compared as one.

    The first `#### ` that a sign, digits, points or commas follow, without its commas.
    Source: the `ANS_RE` of grade_school_math/dataset.py, written anew.
    """
    found = re.search(r"#### (-?[0-9.,]+)", text)
    return found[1].replace(",", "") if found else None


def annotations(text: str) -> list[str]:
    """What stands between << and >>, in order."""
    return ANNOTATION.findall(text)


def check_annotations(text: str) -> list[tuple[str, Verdict]]:
    """Each annotation and whether it holds."""
    return [(note, verdict(note)) for note in annotations(text)]


def verdict(annotation: str) -> Verdict:
    """Whether an annotation such as "48/2=24" holds, with no tolerance.

    "rounded": false, but right to all the decimals that were written. Half a unit in
    the last place is allowed, so "130/3=43.33" is rounded and "130/3=43.34" false.
    """
    try:
        step = read_step(annotation)
        if step.true:
            return "true"
        return "rounded" if _rounded(annotation, step) else "false"
    except NotArithmetic:
        return "unreadable"


def _rounded(annotation: str, step: Step) -> bool:
    """Whether the right side is the left one, rounded to the decimals that it has."""
    written = annotation.split("=")[1].strip()
    decimals = len(written.partition(".")[2])
    half = Fraction(1, 2 * 10**decimals)
    return abs(step.said - read_step(f"{step.left}={step.left}").said) <= half


def worked(answer: str) -> list[str]:
    """The lines of an answer without annotations, without the last one."""
    body = answer.rpartition(MARK)[0]
    return [line.strip() for line in ANNOTATION.sub("", body).splitlines()]


def trace_of(row: Row) -> str | None:
    """The row as a reply in our form, or None where it cannot be one.

    It cannot where the final answer is no whole number from 0 on (our verifier reads
    digits and nothing else), or where the work holds a < or >, which belong to tags.
    """
    final = final_answer(row.answer)
    thought = "\n".join(worked(row.answer))
    if final is None or final < 0 or final.denominator != 1:
        return None
    if not thought or "<" in thought or ">" in thought:
        return None
    return f"{THINK}{thought}{END_THINK}{final.numerator}"
