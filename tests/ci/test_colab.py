"""The set-up cell, in an environment like Colab's: it has torch, but not our library.

A virtual environment over the one of the tests, with a stand-in `google.colab` that is
loaded when the kernel starts, as there. No index is asked: what the library needs must
be satisfied by what is installed.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

NOTEBOOKS = [
    "book/foundations/attention.ipynb",
    "exercises/attention/attention.ipynb",
]
AFTER = """
import posttrain, posttrain.checks, posttrain.guides.grading, posttrain.results
print(posttrain.__file__)
print(len(posttrain.results.load("attention", "cpu")["runs"]))
posttrain.checks.grader("attention")
"""


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """The interpreter of the stand-in environment."""
    folder = tmp_path_factory.mktemp("colab") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    uninstall = [python, "-m", "pip", "uninstall", "--yes", "--quiet", "setuptools"]
    subprocess.run(uninstall, check=True)  # Python 3.11 brings an old one
    (site,) = folder.glob("lib/python*/site-packages")
    package = site / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (site / "over.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (site / "zz_colab.pth").write_text("import google.colab\n")
    return python


def set_up(root, name):
    cells = json.loads((root / name).read_text())["cells"]
    return "".join(next(c for c in cells if c["id"] == "setup")["source"])


def run(python, code, folder, **environment):
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    # pip reads this variable the wrong way round: false means no isolation
    kept |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "false"}
    return subprocess.run(
        [python, "-c", code],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
    )


def test_our_library_is_not_there_before(colab, tmp_path):
    done = run(colab, "import torch; import posttrain", tmp_path)
    assert "No module named 'posttrain'" in done.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The files that Git would carry, without what lies beside them here."""
    root, copy = Path(__file__).resolve().parents[2], tmp_path_factory.mktemp("clone")
    list_files = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(list_files, cwd=root, capture_output=True, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if (root / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, copy / name)
    return copy


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_set_up_cell_installs_the_library(colab, clone, tmp_path, name):
    source = {"POSTTRAIN_SOURCE": str(clone)}
    done = run(colab, set_up(clone, name) + AFTER, tmp_path, **source)
    assert done.returncode == 0, done.stderr
    where, seeds = done.stdout.split()
    assert str(colab.parents[1]) in where
    assert int(seeds) >= 3


def test_a_source_that_is_not_there_is_told_as_pip_tells_it(colab, root, tmp_path):
    missing = {"POSTTRAIN_SOURCE": str(tmp_path / "nowhere")}
    done = run(colab, set_up(root, NOTEBOOKS[0]), tmp_path, **missing)
    assert "pip could not install" in done.stderr
    assert "nowhere" in done.stderr


def test_elsewhere_it_does_nothing(root, tmp_path):
    code = "import subprocess\nsubprocess.run = None\n" + set_up(root, NOTEBOOKS[0])
    assert run(sys.executable, code, tmp_path).returncode == 0
