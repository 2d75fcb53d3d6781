"""The command that tests all graders: what it says, keeps, and returns."""

import json
import sys

import pytest

from ci import graders

SCORES = {
    "variants": {"wrong": 2, "wrong_refused": 2, "right": 1, "right_accepted": 1},
    "mutants": {"total": 9, "killed": 8, "equivalent": 1},
}


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the command on two exercises; returns its status and what it printed."""
    monkeypatch.setattr(graders, "exercises_of", lambda root: ["a", "b"])
    monkeypatch.setattr(graders, "stored", lambda slug: tmp_path / f"{slug}.json")
    monkeypatch.setattr(graders, "_get_ready", lambda folder, slugs: None)
    monkeypatch.setattr(graders, "_test", found)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["graders", *arguments])
        status = graders.main()
        return status, capsys.readouterr()

    return call


def found(slug):
    return SCORES, ["f/g: a wrong answer got 2 marks"] if slug == "bad" else []


def test_scores_are_kept_and_compared(run, tmp_path):
    status, said = run()
    assert status == 1
    assert "python -m ci.graders b --write" in said.out
    assert run("--write")[0] == 0
    assert json.loads((tmp_path / "a.json").read_text()) == SCORES
    status, said = run()
    assert status == 0
    line = "2/2 wrong answers refused, 1/1 right ones accepted, 8/9 mutants killed"
    assert [x[:3] for x in said.out.splitlines()] == ["a: ", "b: "]
    assert said.out.count(line) == 2


def test_a_wrong_verdict_fails(run, monkeypatch):
    monkeypatch.setattr(graders, "exercises_of", lambda root: ["bad"])
    run("--write")
    status, said = run()
    assert status == 1
    assert "f/g: a wrong answer got 2 marks" in said.out


def test_one_exercise_can_be_named(run, tmp_path):
    assert run("b", "--write")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]
    status, said = run("c")
    assert status == 2
    assert said.err == "no exercise 'c'; there are: a, b\n"
