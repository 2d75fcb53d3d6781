"""The variant check itself: it packs well and sees a grader that is wrong."""

import inspect

import pytest

from grading import variants
from grading.record import Mark
from grading.runner import Run
from grading.variants import Variant
from posttrain.checks import judge
from posttrain.checks.mistakes import attention as mistakes


@pytest.fixture(scope="module")
def tried():
    from pathlib import Path

    folder = Path(__file__).resolve().parents[2] / "solutions/attention"
    module = variants.load(folder / "variants.py")
    return variants.collect(judge.load_tasks("attention"), module)


def test_every_variant_is_tried_once_and_never_two_of_a_task(tried):
    rows = variants.rows(tried)
    assert sorted(variants.label(v) for row in rows for v in row) == sorted(
        map(variants.label, tried)
    )
    for row in rows:
        assert len({v.task for v in row}) == len(row)
    assert len(rows) == max(
        sum(v.task == name for v in tried) for name in {v.task for v in tried}
    )


def test_pasted_source_brings_what_it_needs(tried):
    text = variants.source_of(mistakes.CacheWithoutMask)
    assert "class RightCache" in text
    assert "class RightMultiHead" not in text
    assert "posttrain" not in text
    scope = {}
    exec(text, scope)
    assert inspect.isclass(scope["CacheWithoutMask"])


@pytest.mark.parametrize(
    ("right", "score", "words"),
    [
        (True, 0.0, ["t/f: a right answer lost its marks"]),
        (True, 2.0, []),
        (False, 2.0, ["t/f: a wrong answer got 2 marks"]),
        (False, 1.0, ["t/f: a wrong answer got 1 marks"]),
        (False, 0.0, []),
    ],
)
def test_verdicts(right, score, words):
    found = variants._judge("t", Mark("t", score, 2.0), Variant("t", "f", "", right))
    assert found == words


def test_a_task_beside_a_variant_must_keep_its_marks():
    assert variants._judge("t", Mark("t", 0.0, 2.0), None) == [
        "t/solution: lost its marks"
    ]


def test_scores_count_the_problems():
    tried = [Variant("t", "f", "", True), Variant("t", "g", "", False)]
    scores = variants.scores(tried, ["t/g: a wrong answer got 2 marks"])
    assert scores == variants.Scores(1, 0, 1, 1)


def test_a_grader_that_accepts_everything_is_caught(course, tried, monkeypatch):
    """Hidden and visible tests of one task gone: its wrong answers pass."""

    def generous(slug, nb):
        return Run(nb, [Mark("test_causal_mask", 2.0, 2.0)])

    monkeypatch.setattr(course, "run", generous)
    masks = [v for v in tried if v.task == "causal_mask"]
    problems = variants.check(course, "attention", masks)
    assert len(problems) == sum(not v.right for v in masks)


def test_variants_of_unknown_tasks_are_refused(tried):
    class Module:
        RIGHT, WRONG = {"causal_mask": [], "mask": []}, {}

    with pytest.raises(ValueError, match="no task of the exercise: 'mask'"):
        variants.collect(judge.load_tasks("attention"), Module)


def test_a_task_without_a_right_variant_is_refused():
    class Module:
        RIGHT, WRONG = {}, {}

    with pytest.raises(ValueError, match="causal_mask needs 2 known mistakes and 1"):
        variants.collect(judge.load_tasks("attention"), Module)
