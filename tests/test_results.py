"""Measured results: found in the checkout or the installed package, and checked."""

import copy
import json
from pathlib import Path

import pytest

from posttrain import results

RECORD = {
    "slug": "attention",
    "preset": "cpu",
    "version": 1,
    "provenance": {
        "date": "2026-11-20",
        "command": "python -m ci.measure attention cpu",
        "hardware": {"cpu": "a processor"},
        "versions": {"python": "3.11.7"},
        "data": [],
    },
    "runs": [{"seed": 0, "cpu_seconds": 1.5, "result": {"loss": 2.0}}],
}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch) -> Path:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(results, "CHECKOUT", tmp_path)
    return tmp_path / "results"


def test_load_from_the_checkout(checkout):
    (checkout / "attention.cpu.json").write_text(json.dumps(RECORD))
    assert results.load("attention", "cpu") == RECORD


def test_load_from_the_installed_package(tmp_path, monkeypatch):
    installed = tmp_path / "site-packages" / "posttrain_results"
    installed.mkdir(parents=True)
    (installed / "attention.cpu.json").write_text(json.dumps(RECORD))
    monkeypatch.setattr(results, "CHECKOUT", tmp_path)
    monkeypatch.setattr(results.resources, "files", lambda package: installed)
    assert results.load("attention", "cpu") == RECORD


def test_a_result_that_was_never_measured(checkout):
    with pytest.raises(FileNotFoundError, match=r"attention\.h200\.json.*make measure"):
        results.load("attention", "h200")


def test_no_checkout_and_no_installed_results(tmp_path, monkeypatch):
    def files(package):
        raise ModuleNotFoundError(package)

    monkeypatch.setattr(results, "CHECKOUT", tmp_path)
    monkeypatch.setattr(results.resources, "files", files)
    with pytest.raises(FileNotFoundError, match="make measure"):
        results.load("attention", "cpu")


def test_a_damaged_file(checkout):
    (checkout / "attention.cpu.json").write_text('{"slug": ')
    with pytest.raises(ValueError, match=r"results/attention\.cpu\.json is not JSON"):
        results.load("attention", "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("version"), "no field 'version'"),
        (lambda r: r.update(version="1"), "'version' = '1' of type str"),
        (lambda r: r.update(version=True), "'version' = True of type bool"),
        (lambda r: r["provenance"].pop("hardware"), "provenance has no .*'hardware'"),
        (lambda r: r["runs"][0].pop("seed"), "run 0 has no field 'seed'"),
        (lambda r: r.update(runs=[]), "holds no run"),
        (lambda r: r["runs"].append(r["runs"][0]), r"a seed twice: \[0, 0\]"),
        (lambda r: r.update(preset="t4"), "says preset 't4'"),
        (lambda r: r.update(slug="rope"), "says slug 'rope'"),
    ],
)
def test_each_field_is_checked(change, message):
    record = copy.deepcopy(RECORD)
    change(record)
    with pytest.raises(ValueError, match=message):
        results.validate(record, "attention", "cpu")
    with pytest.raises(ValueError, match="expected an object"):
        results.validate([record], "attention", "cpu")


def test_read_what_is_no_experiment(checkout):
    record = {"provenance": RECORD["provenance"], "submissions": 50}
    (checkout / "speed.json").write_text(json.dumps(record))
    assert results.read("speed") == record


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "results/speed.json is a list, expected an object"),
        ("{", "results/speed.json is not JSON"),
        ("{}", "results/speed.json has no field 'provenance'; measure it again"),
        ('{"provenance": {}}', "speed.json, provenance has no field 'date'"),
    ],
)
def test_what_read_refuses(checkout, content, message):
    (checkout / "speed.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        results.read("speed")


def test_read_what_was_never_measured(checkout):
    with pytest.raises(FileNotFoundError, match=r"results/speed\.json.*make measure"):
        results.read("speed")


def test_significant_digits_go_all_the_way_down():
    given = {"a": 1.23456789, "b": [1, (2.00001, "x")], "c": float("nan"), "d": True}
    assert results.significant(given, digits=3) == {
        "a": 1.23,
        "b": [1, [2.0, "x"]],
        "c": None,
        "d": True,
    }
    assert results.significant(float("inf")) is None
