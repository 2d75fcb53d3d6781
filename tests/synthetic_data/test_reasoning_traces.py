"""Form, work, the planted faults and the filters that find them."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from posttrain.alignment.verifier import parse
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import Difficulty, Problem, draw
from posttrain.synthetic_data import reasoning_traces as R
from posttrain.synthetic_data import reasoning_traces_filters as F
from posttrain.synthetic_data import reasoning_traces_pool as P
from posttrain.synthetic_data.reasoning_traces import Trace, form_fault, work_fault

PROBLEM = Problem("Mia has 12 coins, finds 3 more, loses 5. How many now?", 12, (3, -5))
GOOD = "<think>12+3=15;15-5=10</think>10"


@pytest.mark.parametrize(
    ("text", "due"),
    [
        (GOOD, None),
        ("12+3=15", "no thought"),
        ("10<think>12+3=15</think>", "text before the thought"),
        (" " + GOOD, "text before the thought"),
        ("<think>12+3=15;15-5=10;10", "thought not closed"),
        (GOOD + "</think>10", "more than one thought"),
        ("<think>" + GOOD, "more than one thought"),
        ("<think></think>10", "empty thought"),
        ("<think>1</think>", "answer is no number"),
        ("<think>1</think> 10", "answer is no number"),
        ("<think>1</think>10<cut>", "answer is no number"),
        ("<think>1</think>ten", "answer is no number"),
        ("<think>1<2</think>10", "answer is no number"),
    ],
)
def test_form(text, due):
    assert form_fault(text) == due
    thinks = parse(text).well_formed and parse(text).thinks
    assert (form_fault(text) is None) == thinks


@pytest.mark.parametrize(
    ("thinking", "answer", "due"),
    [
        ("12+3=15;15-5=10", 10, None),
        ("12+3-5=10", 10, None),
        ("so 12+3=15;15-5=10", 10, "not a step"),
        ("10;12+3=15;15-5=10", 10, "not a step"),
        ("12+3=15;15-5=10;", 10, "not a step"),
        ("12+3=16;16-5=11", 11, "false step"),
        ("12+3=16;15-5=10", 10, "false step"),
        ("15-5=10;12+3=15", 15, "broken chain"),
        ("12+3=15;3+5=8", 8, "broken chain"),
        ("12+3=15;15-5=10", 11, "another answer"),
        ("12+3=15", 15, "not the question's"),
        ("15-5=10", 10, "not the question's"),
        ("12+4=16;16-6=10", 10, "not the question's"),
        ("12-5=7;7+3=10", 10, "not the question's"),
        ("12+3=15;15-5=10;10+0=10", 10, "not the question's"),
    ],
)
def test_work(thinking, answer, due):
    assert work_fault(Trace(PROBLEM, f"<think>{thinking}</think>{answer}")) == due


def test_every_demonstration_is_sound():
    rng = random.Random(0)
    for steps in range(1, 7):
        for _ in range(100):
            problem = draw(rng, Difficulty(steps))
            trace = Trace(problem, problem.demonstration())
            assert form_fault(trace.text) is None and work_fault(trace) is None


FOUND_BY = {
    "slip, wrong answer": {"answer", "true steps"},
    "false step": {"true steps", "chain", "last step"},
    "misread numbers": {"grounded"},
    "steps shuffled": {"chain", "grounded", "last step"},
    "step skipped": {"chain", "grounded", "last step"},
    "answer in front of the steps": {"only steps"},
    "answer in front of the thought": {"form"},
    "going in circles": {"length", "loops", "grounded"},
    "thought not closed": {"form"},
    "chatter": {"only steps", "length"},
    "problem of the test set": {"test set"},
}


@pytest.fixture(scope="module")
def pool():
    return P.draw_pool(seed=5, n=2000)


def test_pool_holds_what_it_says(pool):
    assert len(pool) == 2000
    assert pool == P.draw_pool(seed=5, n=2000) != P.draw_pool(seed=6, n=2000)
    planted = Counter(trace.planted for trace in pool)
    assert set(P.FAULTS) < set(planted)
    for fault, share in P.SHARES.items():
        assert planted[fault] == pytest.approx(2000 * share, rel=0.4)
    for trace in pool:
        leaked = trace.planted == "problem of the test set"
        assert (trace.problem.split == "test") <= (leaked or "copy" in trace.planted)
        unknown = set(tokenizer().encode(trace.text)) - set(range(1000))
        assert not unknown
    right = {f: [parse(t.text).answer == t.problem.answer for t in pool
                 if t.planted == f] for f in P.FAULTS}  # fmt: skip
    wrong = {"slip, wrong answer", *(f for f in P.FAULTS if "thought" in f)}
    for fault, answers in right.items():
        assert not any(answers) if fault in wrong else all(answers), fault


def test_each_fault_is_found_by_the_filters_that_are_for_it(pool):
    for filter in F.FILTERS[:-2]:
        for trace, ok in zip(pool, filter.keep(pool), strict=True):
            if trace.planted in ("", "copy", "copy with other names"):
                assert ok or filter.name == "loops" or trace.problem.split == "test"
            elif not ok and trace.planted in P.FAULTS:
                loops = filter.name == "loops"
                assert loops or filter.name in FOUND_BY[trace.planted], filter.name
    kept = F.curate(pool, F.FILTERS).kept
    assert {trace.planted for trace in kept} <= {"", "copy", "copy with other names"}
    assert len(kept) > 300


def test_report_adds_up(pool):
    report = F.curate(pool, F.FILTERS)
    assert [row.name for row in report.rows] == [f.name for f in F.FILTERS]
    assert len({row.name for row in report.rows}) == len(report.rows)
    before = len(pool)
    for row in report.rows:
        assert row.before == before
        before -= len(row.dropped)
    assert len(report.kept) == before
    assert F.curate(report.kept, F.FILTERS).kept == report.kept  # once is enough


def test_what_only_one_filter_finds(pool):
    few = pool[:400]
    alone = F.found_by_one(few, F.FILTERS)
    passed = {filter.name: filter.keep(few) for filter in F.FILTERS}
    for name in passed:
        others = [ok for other, ok in passed.items() if other != name]
        only = sum(
            not passed[name][i] and all(ok[i] for ok in others) for i in range(400)
        )
        assert alone[name] == only
    assert alone["grounded"] > 10 < alone["only steps"]


def test_copies_and_near_copies():
    renamed = replace(PROBLEM, question=PROBLEM.question.replace("Mia", "Tom"))
    told = PROBLEM.question.replace("3", "4")
    other = replace(PROBLEM, question=told, changes=(4, -5))
    traces = [Trace(p, GOOD) for p in (PROBLEM, PROBLEM, renamed, other)]
    assert F.COPIES.keep(traces) == [True, False, True, True]
    assert F.NEAR_COPIES.keep(traces) == [True, False, False, True]


def test_repetition():
    assert F.repetition("12+3=15;15-5=10") == 0
    assert F.repetition("a b") == 0
    assert F.repetition("a b a b a b a b", n=2) == pytest.approx(1 - 2 / 7)
    circle = "10+0=10;" * 5
    assert F.repetition(circle) > 0.7


def test_loops_are_dropped():
    three = "<think>12+3=15;15-5=10" + ";10+0=10" * 3 + "</think>10"
    assert F.LOOPS.keep([Trace(PROBLEM, text) for text in (GOOD, three)]) == [
        True,
        False,
    ]
    assert F.repetition(parse(three).thinking) > 0.3


def test_a_filter_leaves_what_it_cannot_judge():
    broken = [Trace(PROBLEM, text) for text in ("10", "<think>so</think>10")]
    for filter in (F.TRUE, F.CHAIN, F.END, F.GROUND, F.ANSWER):
        assert filter.keep(broken) == [True, True]


def test_steps_of_names_what_it_cannot_read():
    with pytest.raises(R.NotArithmetic, match="'so'"):
        R.steps_of("so")
