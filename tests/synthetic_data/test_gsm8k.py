"""GSM8K: numbers as they are written, annotations, the stand-in, the published file."""

import json
from collections import Counter
from fractions import Fraction

import pytest

from posttrain import data, data_gsm8k
from posttrain.alignment.verifier import parse
from posttrain.synthetic_data import gsm8k
from posttrain.synthetic_data.gsm8k import Row, final_answer, number, verdict

REAL = "gsm8k_train"


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("72", 72),
        (" 72 ", 72),
        ("1,234", 1234),
        ("12,345,678", 12_345_678),
        ("$1,234.50.", Fraction(2469, 2)),
        ("-3", -3),
        ("-$3", -3),
        ("50%", 50),
        ("50 %", 50),
        ("€5", 5),
        (".5", Fraction(1, 2)),
        ("0.1", Fraction(1, 10)),
        ("7.", 7),
        ("007", 7),
    ],
)
def test_numbers_that_are_read(text, due):
    assert number(text) == due


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "-", ".", "$", "$%", "1,23", "1,2345", ",123", "12,34,567"),
        *("1 234", "--3", "3-", "1.2.3", "seven", "7 apples", "$5%", "٣", "1e3"),
    ],
)
def test_what_is_no_number(text):
    assert number(text) is None


def test_final_answer_is_behind_the_last_mark():
    assert final_answer("2+3 = 5\n#### 5") == 5
    assert final_answer("#### 4\nno:\n#### 5") == 5
    assert final_answer("so it is 5") is None
    assert final_answer("#### five") is None
    assert final_answer("####5") == 5


def test_published_pattern_takes_the_first_mark_and_compares_strings():
    assert gsm8k.published_answer("#### 1,234") == "1234"
    assert gsm8k.published_answer("#### 5.") == "5."
    assert gsm8k.published_answer("#### $5") is None
    assert gsm8k.published_answer("#### 4\n#### 5") == "4"


@pytest.mark.parametrize(
    ("annotation", "due"),
    [
        ("48/2=24", "true"),
        ("0.1+0.2=0.3", "true"),
        ("20*.01*120=24", "true"),
        ("3/4=3/4", "true"),
        ("130/3=43.33", "rounded"),
        ("130/3=43.34", "false"),
        ("2/3=1", "rounded"),
        ("1/2=1", "rounded"),  # half a unit, to either side
        ("1/2=0", "rounded"),
        ("2+2=5", "false"),
        ("560//10=56", "unreadable"),
        ("2+2", "unreadable"),
        ("1/0=1", "unreadable"),
        ("__import__('os')=1", "unreadable"),
    ],
)
def test_verdicts(annotation, due):
    assert verdict(annotation) == due


def test_trace_of_a_row():
    row = Row("q", "Half: 48/2 = <<48/2=24>>24.\n  Twice: $<<24*2=48>>48\n#### 48")
    assert gsm8k.trace_of(row) == "<think>Half: 48/2 = 24.\nTwice: $48</think>48"
    assert gsm8k.trace_of(Row("q", "1,000 x 2 = 2,000\n#### 2,000")).endswith(">2000")


@pytest.mark.parametrize(
    "answer", ["a\n#### -5", "a\n#### 0.5", "a < b\n#### 5", "a", "#### 5", "a\n#### x"]
)
def test_rows_that_cannot_be_a_trace(answer):
    assert gsm8k.trace_of(Row("q", answer)) is None


def test_damaged_rows_are_named():
    good = json.dumps({"question": "q", "answer": "a"})
    with pytest.raises(ValueError, match="line 2 is no row of GSM8K"):
        gsm8k.read_rows(good + '\n{"question": "q"}')
    with pytest.raises(ValueError, match="line 1 is no row"):
        gsm8k.read_rows("[1]")


def test_stand_in_reaches_every_branch():
    rows = gsm8k.read_rows(data_gsm8k.train_rows())
    test = gsm8k.read_rows(data_gsm8k.test_rows())
    assert (len(rows), len(test)) == (240, 60)
    assert data_gsm8k.train_rows() == data_gsm8k.train_rows()
    assert not {row.question for row in rows} & {row.question for row in test}
    text = data_gsm8k.train_rows()
    finals = [row.answer.rpartition("#### ")[2] for row in rows]
    assert any("," in final for final in finals)
    assert any(final.startswith("-") for final in finals)
    assert any(not gsm8k.annotations(row.answer) for row in rows)
    assert "%" in text and "1/3" in text and "/2=" in text and "0.15" in text
    assert all(final_answer(row.answer) is not None for row in rows)
    verdicts = Counter(v for r in rows for _, v in gsm8k.check_annotations(r.answer))
    assert verdicts["true"] > 300 and verdicts["rounded"] > 10
    assert set(verdicts) == {"true", "rounded"}
    traces = [gsm8k.trace_of(row) for row in rows]
    assert all(parse(trace).well_formed for trace in traces if trace)
    assert 0 < sum(trace is None for trace in traces) < 60


def test_the_published_files():
    if data.load(REAL).source == "fallback":
        pytest.skip("the published file is not here")
    rows = gsm8k.read_rows(data.load(REAL).text)
    test = gsm8k.read_rows(data.load("gsm8k_test").text)
    assert (len(rows), len(test)) == (7473, 1319)
    for split, commas, annotated in ((rows, 79, 7378), (test, 14, 1301)):
        finals = [row.answer.rpartition("####")[2] for row in split]
        assert sum("," in final for final in finals) == commas
        assert sum(bool(gsm8k.annotations(r.answer)) for r in split) == annotated
    both = [*rows, *test]
    assert all(
        final_answer(row.answer) == Fraction(gsm8k.published_answer(row.answer))
        for row in both
    )
    verdicts = Counter(v for r in both for _, v in gsm8k.check_annotations(r.answer))
    assert verdicts == {"true": 27_996, "unreadable": 2}
