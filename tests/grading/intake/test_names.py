"""Names of students and exercises."""

import os

import pytest

from tests.grading.intake.handed_in import NAME, SLUG, collect, only, put, rejected


@pytest.mark.parametrize(
    "name",
    [
        *("a b", "-rf", ".hidden", "...", "a\nb", "=1+1", "x" * 65, "a~b", "a;b"),
        *("$(id)", "a<b>", "ann.", b"\xff\xfe", b"a\x1b[2Jb", "\u202eann"),
        *("Zoe\u0308", "\uff41nn"),
    ],
)
def test_a_bad_name_of_a_student(folder, text, name):
    raw = os.fsdecode(name)
    put(folder / raw / NAME, text)
    submission = only(folder)
    assert submission.notebook is None
    assert submission.exercise == SLUG
    assert "student's folder is called" in submission.reason
    assert submission.reason.isprintable()
    assert len(submission.student) < 60 and "~" in submission.student
    assert submission.student.replace("~", "").replace("@", "").isprintable()
    assert submission.student != raw and "/" not in submission.student
    submission.student.encode()


def test_labels_tell_bad_names_apart(folder, text):
    for name in ("a b", "a;b", "a_b"):
        put(folder / name / NAME, text)
    assert len({s.student for s in collect(folder, [SLUG])}) == 3


def test_students_that_differ_in_capital_letters(folder, text):
    for name in ("bob", "Bob", "carl"):
        put(folder / name / NAME, text)
    big, small, carl = collect(folder, [SLUG])
    assert "same name as 'Bob'" in big.reason
    assert "same name as 'bob'" in small.reason
    assert carl.notebook


@pytest.mark.parametrize("name", ["attentoin", "Attention", "..a", "a b", "x" * 200])
def test_an_unknown_exercise(folder, text, name):
    put(folder / "ann" / name / NAME, text)
    found = collect(folder, [SLUG, "dpo"])
    if name.startswith("."):
        assert found == []
        return
    (submission,) = found
    assert "there is no exercise" in submission.reason
    assert "there are: attention, dpo" in submission.reason
    assert (submission.exercise == name) == (" " not in name and len(name) < 65)


@pytest.mark.parametrize("suffix", [".ipynb", ".zip", ".tar.gz"])
def test_an_unknown_exercise_as_a_file(folder, text, suffix):
    put(folder / "ann" / f"attentoin{suffix}", text)
    assert "there is no exercise 'attentoin'" in rejected(folder)
