"""Artifacts: built once, even when two processes ask; kept whole or not at all."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ci import artifacts as build
from posttrain import artifacts, cache, sources

BUILDER = """
import time
import torch
from posttrain.foundations import size


def build(preset):
    with open("built.txt", "a") as file:
        file.write(preset + "\\n")
    time.sleep(1)
    return {"weight": torch.ones(size.N), "preset": preset, "steps": [1, 2]}
"""
BROKEN = """
def build(preset):
    return {"model": object()}
"""

ASK = """
from posttrain import artifacts, cache
one = artifacts.get("foundations.base", "ci")
assert one["weight"].tolist() == [1.0] * 3 and one["steps"] == [1, 2]
"""

# All in one process, because importing torch takes longer than the rest.
SCENARIO = (
    ASK
    + """
from pathlib import Path
def built():
    return Path("built.txt").read_text().split()

assert built() == ["ci"], "asked for by two before; a third finds it kept"
assert artifacts.get("foundations.base", "cpu")["preset"] == "cpu"
assert built() == ["ci", "cpu"], "another preset is another artifact"

path = artifacts.path_of("foundations.base", "ci")
path.write_bytes(path.read_bytes()[:200])
assert artifacts.get("foundations.base", "ci")["preset"] == "ci"
assert built() == ["ci", "cpu", "ci"], "a damaged file is built again"

Path("posttrain/foundations/size.py").write_text("N = 3  # changed")
assert artifacts.path_of("foundations.base", "ci") != path
artifacts.get("foundations.base", "ci")
assert built() == ["ci", "cpu", "ci", "ci"], "a change below the builder counts"

for name, word in (("foundations.broken", "tensors and plain"), ("x.y", "known")):
    try:
        artifacts.get(name, "ci")
    except ValueError as error:
        assert word in str(error), error
        print("ValueError:", error)
    else:
        raise AssertionError(name)
names = [path.name for path in cache.folder("artifacts").iterdir()]
kept = [name for name in names if not name.endswith(".lock")]
assert len(kept) == 3 and all(n.startswith("foundations.base.") for n in kept), kept
"""
)


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A folder with a small `posttrain` that has two builders."""
    root = tmp_path_factory.mktemp("artifacts")
    folder = root / "posttrain" / "foundations"
    folder.mkdir(parents=True)
    for name in ("__init__", "artifacts", "cache", "sources"):
        shutil.copy(sources.PACKAGE / f"{name}.py", root / "posttrain")
    (folder / "__init__.py").write_text("")
    (folder / "size.py").write_text("N = 3")
    (folder / "base_artifact.py").write_text(BUILDER)
    (folder / "broken_artifact.py").write_text(BROKEN)
    return root


def start(package: Path, program: str) -> subprocess.Popen:
    env = {"PYTHONPATH": str(package), "POSTTRAIN_CACHE": str(package / "cache")}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=package,
        env=os.environ | env | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_who_ask_at_once_build_once(package):
    both = [start(package, ASK), start(package, ASK)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert (package / "built.txt").read_text() == "ci\n"
    assert sum("building it, once" in text for text in said) == 1


def test_kept_rebuilt_and_refused(package):
    process = start(package, SCENARIO)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "is damaged" in said and "it is built again" in said
    assert "known artifacts: foundations.base, foundations.broken" in said


def test_the_data_is_part_of_the_key(package, monkeypatch):
    builder = package / "posttrain/foundations/base_artifact.py"
    data = package / "posttrain/data.py"
    data.write_text("")
    builder.write_text("from posttrain import data\n" + BUILDER)
    closure, find = sources.closure, sources.find
    folder = package / "posttrain"
    monkeypatch.setattr(sources, "closure", lambda m: closure(m, package=folder))
    monkeypatch.setattr(sources, "find", lambda m, package=folder: find(m, package))
    monkeypatch.setattr(sources, "digest", lambda paths: "code")
    keys = set()
    for sha256 in ("a", "b"):
        checksums = {"text": ("folder", sha256)}
        monkeypatch.setattr(sources, "data_checksums", lambda c=checksums: c)
        keys.add(artifacts.key("foundations.base", "ci"))
    assert len(keys) == 2


def test_those_of_ready_topics_are_built_and_a_failure_stops_no_other(
    monkeypatch, capsys
):
    def get(name, preset):
        if name == "a.broken":
            raise ValueError("no data")

    topics = {
        slug: SimpleNamespace(part="a", slug=slug, ready=slug != "later")
        for slug in ("broken", "fine", "later", "plain")
    }
    book = SimpleNamespace(topics=topics)
    monkeypatch.setattr(build.syllabus, "load", lambda: book)
    monkeypatch.setattr(build.os, "environ", dict(os.environ))
    monkeypatch.setattr(artifacts, "get", get)
    monkeypatch.setattr(artifacts, "path_of", lambda name, preset: "kept.pt")
    monkeypatch.setattr(artifacts, "known", lambda: ["a.broken", "a.fine", "a.later"])
    assert build.build("ci") == 1
    said = capsys.readouterr().out
    assert "artifact a.broken (ci) FAILED" in said and "no data" in said
    assert "artifact a.fine (ci): " in said and "later" not in said
    monkeypatch.setattr(artifacts, "known", list)
    assert build.build("ci") == 0
    assert "no ready topic has one" in capsys.readouterr().out


@pytest.mark.parametrize("preset", ["", "../up", "a b"])
def test_a_preset_that_is_no_name_is_refused(preset):
    with pytest.raises(ValueError, match="is no name"):
        artifacts.path_of("foundations.base", preset)


@pytest.mark.parametrize("name", ["base", "foundations.base.more", "../a.b", "A.b"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="no artifact"):
        artifacts.get(name, "ci")


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path))
    assert cache.folder("artifacts") == tmp_path / "artifacts"
    monkeypatch.delenv("POSTTRAIN_CACHE")
    assert cache.folder("artifacts") == Path.home() / ".cache/posttrain/artifacts"
