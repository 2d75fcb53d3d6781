"""The journal keeps every record that it took, however it was cut off."""

import json

import pytest

from grading.journal import Journal, JournalDamaged
from grading.record import Mark, Record

RECORD = Record(
    "ada",
    "attention",
    "graded",
    "k1",
    "a note",
    (Mark("test_f", 1.0, 2.0, "off_by_one", "Count from 0."), Mark("essay", None, 3.0)),
    ("answer_g",),
    5.0,
    0.25,
)
OTHER = Record("bob", "attention", "rejected", "k2", "is not JSON", max_score=5.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def written(path, *records, seed=7):
    journal = Journal(path, seed)
    for record in records:
        journal.add(record)
    journal.close()
    return path


def test_what_was_added_is_read_again(path):
    journal = Journal(written(path, RECORD, OTHER))
    assert journal.seed == 7
    assert journal.records == {RECORD.name: RECORD, OTHER.name: OTHER}


def test_a_record_is_on_the_disk_before_the_journal_is_closed(path):
    journal = Journal(path, 7)
    journal.add(RECORD)
    assert Journal(path).records == {RECORD.name: RECORD}


def test_the_last_record_of_a_submission_holds(path):
    later = Record("ada", "attention", "rejected", "k3", "gone")
    assert Journal(written(path, RECORD, later)).records == {later.name: later}


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_line_that_was_cut_off_is_no_record_and_does_no_harm(path, cut):
    whole = written(path, RECORD, OTHER).read_bytes()
    path.write_bytes(whole[:-cut])
    journal = Journal(path)
    assert journal.records == {RECORD.name: RECORD}
    journal.add(OTHER)
    journal.close()
    assert path.read_bytes() == whole


def test_a_new_class_draws_a_seed_and_keeps_it(path):
    first = Journal(path)
    first.close()
    assert Journal(path).seed == first.seed


def test_another_seed_is_kept_from_then_on(path):
    written(path, RECORD, seed=7)
    written(path, seed=8)
    journal = Journal(path)
    assert journal.seed == 8
    assert RECORD.name in journal.records


@pytest.mark.parametrize(
    ("number", "line", "why"),
    [
        (1, "{}", "no head of format 1"),
        (1, '{"format": 2, "seed": 1}', "no head of format 1"),
        (2, "{", "Expecting property name"),
        (2, "[]", "no JSON object"),
        (2, '{"student": "ada"}', "no record: 'marks'"),
        (2, json.dumps({**OTHER.to_json(), "grade": 1}), "no record"),
    ],
)
def test_a_damaged_line_is_named(path, number, line, why):
    lines = written(path, OTHER, RECORD).read_text().splitlines()
    lines[number - 1] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(JournalDamaged, match=f"line {number}: .*{why}"):
        Journal(path)


def test_points_are_told_with_those_that_people_have_to_give():
    assert RECORD.tasks == "f 1/2; essay ?/3"
    assert RECORD.score == 1.0
