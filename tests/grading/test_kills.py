"""A grader, a worker or a kernel that is killed at any moment costs no mark."""

import random

import pytest

from ci import grading_classes, grading_kills

SEED = 5
KILLS = ["grader", "worker", "kernel", "grader", "kernel"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Submissions, the marks they ought to get, and how long that takes."""
    folder = tmp_path_factory.mktemp("class")
    notebooks = grading_classes.submissions("attention", 5)
    submitted = grading_classes.hand_in(notebooks, "attention", folder)
    return submitted, *grading_kills.undisturbed(submitted, folder / "quiet", SEED)


@pytest.mark.parametrize("number", range(len(KILLS)))
def test_after_a_kill_every_mark_is_as_in_an_undisturbed_run(
    undisturbed, tmp_path, number
):
    submitted, due, lasts = undisturbed
    assert len(set(due.values())) > 2  # or the marks would show nothing
    rng = random.Random(number)
    kill = grading_kills.disturbed(
        submitted, tmp_path, SEED, KILLS[number], rng, 0.9 * lasts
    )
    assert kill.marks == due
    assert kill.graded_twice == []
