"""Measuring: fresh processes, provenance, nothing lost by an interruption."""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from ci import measure as m
from posttrain import results

# It notes each run in a file beside the checkout, so a test sees what was run.
EXPERIMENT = '''
"""A toy experiment."""

import os
from pathlib import Path

from posttrain import data

VERSION = 3


def run(preset, seed):
    if preset != "cpu":
        raise ValueError(f"unknown preset {preset!r}; known presets: cpu")
    with open("ran.txt", "a") as file:
        file.write(f"{seed} {os.getpid()} {os.environ['OMP_NUM_THREADS']}\\n")
    if seed == 2 and Path("broken").exists():
        raise RuntimeError("the loss is not finite")
    total = sum(i * i for i in range(2_000_000))
    return {"loss": seed / 10, "words": len(data.load("tinyshakespeare").text) > 0}
'''


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A checkout with the real `ci` and the toy experiment."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(m.ROOT / "ci", root / "ci")
    for path in (m.ROOT / "posttrain").glob("*.py"):
        (root / "posttrain" / "foundations").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / "posttrain")
    shutil.copy(m.ROOT / "syllabus.yml", root)
    (root / "posttrain/foundations/__init__.py").write_text("")
    (root / "posttrain/foundations/attention_experiment.py").write_text(EXPERIMENT)
    return root


@pytest.fixture
def experiment(root, monkeypatch) -> m.Experiment:
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("POSTTRAIN_OFFLINE", "1")
    monkeypatch.setenv("POSTTRAIN_CACHE", str(root / "cache"))
    monkeypatch.delenv("POSTTRAIN_DATA", raising=False)
    return m.Experiment("attention", "foundations", root)


def ran(root: Path) -> list[list[str]]:
    log = root / "ran.txt"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [line.split() for line in lines]


def test_a_failed_seed_loses_no_other_and_is_all_that_is_run_again(experiment, root):
    (root / "broken").touch()
    with pytest.raises(m.MeasureError, match="RuntimeError: the loss is not finite"):
        m.measure(experiment, "cpu", [0, 1, 2])
    first = ran(root)
    assert [seed for seed, *_ in first] == ["0", "1", "2"]
    assert len({pid for _, pid, _ in first}) == 3, "each seed has its own process"
    assert {threads for *_, threads in first} == {"1"}
    assert not (root / "results").exists()

    (root / "broken").unlink()
    path = m.measure(experiment, "cpu", [2, 1, 0])
    assert [seed for seed, *_ in ran(root)] == ["2"]
    assert path == root / "results/attention.cpu.json"
    assert not list((root / "build/measure").glob("*.json"))

    record = json.loads(path.read_text())
    results.validate(record, "attention", "cpu")
    assert record["version"] == 3
    assert [run["seed"] for run in record["runs"]] == [0, 1, 2]
    assert [run["result"]["loss"] for run in record["runs"]] == [0.0, 0.1, 0.2]
    assert all(run["cpu_seconds"] > 0.02 for run in record["runs"])
    check_provenance(record["provenance"])


def check_provenance(provenance: dict) -> None:
    assert provenance["date"] == datetime.now(UTC).date().isoformat()
    command = "python -m ci.measure attention cpu --seeds 0 1 2"
    assert provenance["command"] == command
    assert set(provenance["hardware"]) == {"cpu", "cores", "memory_gib", "gpu"}
    assert provenance["hardware"]["gpu"] is None
    assert set(provenance["versions"]) == {"python", "torch", "numpy", "posttrain"}
    (corpus,) = provenance["data"]
    assert (corpus["name"], corpus["source"]) == ("tinyshakespeare", "fallback")
    assert len(corpus["sha256"]) == 64
    assert os.uname().nodename not in json.dumps(provenance)


def test_an_unknown_preset_is_named_with_the_known_ones(experiment):
    with pytest.raises(m.MeasureError) as error:
        m.measure(experiment, "gpu", [0, 1, 2])
    assert "failed: unknown preset 'gpu'; known presets: cpu\n" in str(error.value)


def test_fewer_than_three_seeds_are_refused(experiment):
    with pytest.raises(m.MeasureError, match=r"3 different seeds .* \[0, 1\]"):
        m.measure(experiment, "cpu", [0, 1, 1])


def test_a_kept_run_counts_only_for_the_same_code(experiment, tmp_path):
    copy = m.Experiment("attention", "foundations", tmp_path)
    shutil.copytree(experiment.root / "posttrain", tmp_path / "posttrain")
    part = {"version": 3, "code": copy.code, "run": {}}
    m._write(m._part(copy, "cpu", 0), part)
    assert m._read(copy, "cpu", 0) == part
    assert m._read(copy, "cpu", 1) is None
    assert m._read(copy, "t4", 0) is None
    copy.path.write_text(EXPERIMENT.replace("VERSION = 3", "VERSION = 4"))
    assert copy.version == 4
    assert m._read(copy, "cpu", 0) is None
    copy.path.write_text(EXPERIMENT.replace("seed / 10", "seed / 5"))
    assert m._read(copy, "cpu", 0) is None


def test_code_that_changes_meanwhile_is_said(experiment, tmp_path, monkeypatch):
    copy = m.Experiment("attention", "foundations", tmp_path)
    shutil.copytree(experiment.root / "posttrain", tmp_path / "posttrain")
    for seed in (0, 1, 2):
        m._write(m._part(copy, "cpu", seed), {"version": 3, "code": copy.code})

    def edit(*_, **__):  # in the place of the runs
        copy.path.write_text(EXPERIMENT.replace("seed / 10", "seed / 5"))

    monkeypatch.setattr(m, "run_all", edit)
    with pytest.raises(m.MeasureError, match=r"changed while seeds \[0, 1, 2\] ran"):
        m.measure(copy, "cpu", [0, 1, 2])
    assert m._part(copy, "cpu", 0).exists()  # nothing is thrown away


def test_seeds_that_saw_different_data_are_not_mixed(experiment):
    parts = [
        {"version": 3, "hardware": {}, "versions": {}, "data": [{"sha256": sha}]}
        for sha in ("a", "b")
    ]
    with pytest.raises(m.MeasureError, match="the seeds of attention differ in data"):
        m._record(experiment, "cpu", [0, 1], parts)


@pytest.fixture
def topics(monkeypatch) -> None:
    """A syllabus of two ready topics, of which one has an experiment."""
    pairs = {"attention": "foundations", "quiz": "interview"}
    topics = {
        slug: SimpleNamespace(slug=slug, part=part, ready=True)
        for slug, part in pairs.items()
    }
    monkeypatch.setattr(m.syllabus, "load", lambda: SimpleNamespace(topics=topics))


def test_an_unknown_slug_is_named_with_the_known_ones(topics, root):
    assert m.find("attention", root) == m.ready(root)[0]
    with pytest.raises(m.MeasureError, match=r"'quiz' has no experi.*: attention$"):
        m.find("quiz", root)
    with pytest.raises(m.MeasureError, match=r"'x' is no topic .*: attention$"):
        m.find("x", root)


RECORD = {
    "slug": "attention",
    "preset": "cpu",
    "version": 3,
    "provenance": {
        "date": "2026-11-20",
        "command": "",
        "hardware": {},
        "versions": {},
        "data": [],
    },
    "runs": [{"seed": s, "cpu_seconds": 1.0, "result": {}} for s in range(3)],
}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"version": 2}, "is of VERSION 2, the experiment is at 3; run `python -m"),
        ({"runs": RECORD["runs"][:2]}, "holds 2 seeds, 3 are needed; run `python -m"),
        ({"slug": "rope"}, "says slug 'rope'"),
        (None, "no measured result results/attention.cpu.json"),
    ],
)
def test_check_wants_a_current_result_of_three_seeds(
    topics, root, tmp_path, monkeypatch, changes, problem
):
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(results, "CHECKOUT", tmp_path)
    if changes is not None:
        record = tmp_path / "results/attention.cpu.json"
        record.parent.mkdir()
        record.write_text(json.dumps(RECORD | changes))
    found = m.check("attention", root)
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]


def test_check_wants_nothing_of_a_topic_without_an_experiment(topics, root):
    assert m.check("quiz", root) == []
