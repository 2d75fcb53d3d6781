"""The class report counts what was right and wrong, and shows it as text only."""

from grading.class_report import html, summarise
from grading.record import Mark, Record

EVIL = "<script>alert(1)</script>"


def record(student, *marks, status="graded", note=""):
    return Record(student, "attention", status, "k", note, marks, (), 4.0)


def right(task):
    return Mark(f"test_{task}", 2.0, 2.0)


def wrong(task, mistake="", hint="", raised=""):
    return Mark(f"test_{task}", 0.0, 2.0, mistake, hint, raised)


CLASS = [
    record("a", right("f"), right("g")),
    record("b", right("f"), wrong("g", "off_by_one", "Count <from> 0.")),
    record("c", right("f"), wrong("g", "off_by_one", "Count <from> 0.")),
    record(
        "d", wrong("f", raised="NotImplementedError"), wrong("g", raised="KeyError")
    ),
    record("e", right("f"), wrong("g")),
    record("f", status="rejected", note=f"is not JSON {EVIL}"),
    record("g", status="failed", note="not run: no space left"),
]


def test_counts():
    (report,) = summarise(CLASS)
    assert report.scores == [4.0, 2.0, 2.0, 0.0, 2.0]
    assert report.bins == [1, 0, 0, 0, 0, 3, 0, 0, 0, 1]
    assert report.rejected == [("f", f"is not JSON {EVIL}")]
    assert report.failed == [("g", "not run: no space left")]
    hardest, easier = report.tasks
    assert (hardest.task, hardest.right, hardest.wrong) == ("g", 1, 4)
    assert hardest.share == 0.2
    assert hardest.mistakes == [("off_by_one", "Count <from> 0.", 2)]
    assert hardest.errors == [("KeyError", 1)]
    assert (easier.task, easier.right, easier.wrong, easier.unsolved) == ("f", 4, 0, 1)
    assert easier.errors == []


def test_the_page_says_what_to_teach_again():
    page = html(CLASS)
    assert "5 graded, 1 rejected, 1 could not be graded" in page
    assert "Mean 2.0 of 4, median 2, from 0 to 4" in page
    assert "off by one" in page and "Count &lt;from&gt; 0." in page
    assert "raises KeyError" in page
    assert page.index("<code>g</code>") < page.index("<code>f</code>")


def test_nothing_of_a_submission_acts_in_the_page():
    mark = wrong(EVIL, EVIL, EVIL, EVIL)
    page = html([record(EVIL, mark), *CLASS])
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_marks_that_people_have_yet_to_give_count_as_neither():
    (report,) = summarise([record("a", Mark("essay", None, 2.0), right("f"))])
    essay = next(task for task in report.tasks if task.task == "essay")
    assert (essay.right, essay.wrong, essay.unsolved) == (0, 0, 0)


def test_a_class_in_which_nobody_could_be_graded():
    page = html([record("a", status="rejected", note="empty")])
    assert "0 graded, 1 rejected" in page
    assert "a: empty" in page


def test_several_exercises_stand_one_after_another():
    other = Record("a", "autograd", "graded", "k", "", (right("f"),), (), 2.0)
    assert [r.slug for r in summarise([*CLASS, other])] == ["attention", "autograd"]
