"""The table of CPU seconds: recorded, marked when stale or above the budget."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ci import times


@pytest.fixture
def root(tmp_path: Path) -> Path:
    chapter = tmp_path / "book/foundations/attention.ipynb"
    chapter.parent.mkdir(parents=True)
    chapter.write_text("{}")
    return tmp_path


def test_what_is_recorded_is_read(root):
    times.record("chapter", "attention", 12.345, 20.0, root)
    assert times.cpu_seconds("chapter", "attention", root) == 12.35
    assert [p.name for p in (root / "build/times/chapter").iterdir()] == [
        "attention.json"
    ]


def test_a_time_that_is_missing_or_stale_is_none(root):
    assert times.cpu_seconds("chapter", "attention", root) is None
    times.record("chapter", "attention", 12.0, 20.0, root)
    later = time.time() + 10
    os.utime(root / "book/foundations/attention.ipynb", (later, later))
    assert times.cpu_seconds("chapter", "attention", root) is None
    assert times.cpu_seconds("chapter", "attention", root, stale=True) == 12.0


def test_confirm_makes_a_time_current_again(root):
    times.record("chapter", "attention", 12.0, 20.0, root)
    path = root / "build/times/chapter/attention.json"
    os.utime(path, (1.0, 1.0))
    assert times.cpu_seconds("chapter", "attention", root) is None
    times.confirm("chapter", "attention", root)
    assert times.cpu_seconds("chapter", "attention", root) == 12.0
    times.confirm("chapter", "nothing", root)
    assert times.cpu_seconds("chapter", "nothing", root) is None


def test_a_time_without_its_source_is_none(root):
    times.record("solution", "attention", 3.0, 3.0, root)
    assert times.cpu_seconds("solution", "attention", root) is None


def test_an_unknown_stage_is_named(root):
    with pytest.raises(ValueError, match=r"unknown stage 'page'; stages: chapter, "):
        times.record("page", "attention", 1.0, 1.0, root)


BURN = (
    "import time\nstart = time.process_time()\n"
    "while time.process_time() - start < 0.3: pass"
)


def test_timed_counts_this_process_and_its_children(root):
    with times.timed("chapter", "attention", root):
        exec(BURN)
        subprocess.run([sys.executable, "-c", BURN], check=True)
    assert 0.6 <= times.cpu_seconds("chapter", "attention", root) < 2.0


def test_timed_counts_children_that_go_on(root):
    code = BURN + "\nprint(flush=True)\ntime.sleep(60)"
    with times.timed("chapter", "attention", root):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        child.stdout.readline()
    with child:
        alive = times.tree_seconds()
        child.kill()
    assert 0.3 <= times.cpu_seconds("chapter", "attention", root) < 2.0
    assert alive <= times.tree_seconds() < alive + 0.3  # counted once


def test_timed_does_not_record_a_failure(root):
    with pytest.raises(KeyError), times.timed("chapter", "attention", root):
        raise KeyError
    assert times.cpu_seconds("chapter", "attention", root) is None


EMPTY = dict.fromkeys(times.BUDGET)
ROWS = {
    "attention": EMPTY | {"chapter": 30.0, "nbval": 9.0, "tests": 5.0},
    "rope": EMPTY | {"chapter": 41.0, "nbval": 1.0},
}


def rows(text: str) -> dict[str, list[str]]:
    """{first words: the cells}, with the mark glued to its number."""
    lines = text.replace(" !", "!").replace(" %", "%").splitlines()
    split = [line.split() for line in lines if len(line.split()) >= 7]
    return {" ".join(words[:-6]): words[-6:] for words in split}


def test_the_table_marks_what_is_above_the_budget_and_dashes_what_is_not_known():
    table = rows(times.table(ROWS))
    assert table["attention"] == ["30.0", "9.0!", "-", "-", "5.0", "44.0"]
    assert table["rope"] == ["41.0!", "1.0", "-", "-", "-", "42.0"]
    assert table["mean"] == ["35.5!", "5.0", "-", "-", "5.0", "45.5"]
    assert table["budget"] == ["22", "8", "5", "15", "10", "60"]
    assert table["share of budget"] == ["161%", "62%", "-", "-", "50%", "76%"]


def test_a_topic_can_be_above_the_budget_that_keeps_to_each_stage_of_it():
    row = {"chapter": 38.0, "nbval": 8.0, "solution": 5.0, "variants": 9.5}
    assert rows(times.table({"rope": EMPTY | row}))["rope"] == [
        *("38.0", "8.0", "5.0", "9.5", "-", "60.5!"),
    ]


def test_the_projection_says_what_it_guesses():
    last = times.table(ROWS).splitlines()[-1]
    # (35.5 + 5 + 5 + 5 + 15) s x 76 topics / 2 cores = 41 minutes
    assert "(at the budget for: solution, variants): 41 minutes on 2 cores" in last
    assert "the budget is 38." in last


def test_a_table_of_no_topic_has_dashes_only():
    assert rows(times.table({}))["mean"] == ["-"] * 6
