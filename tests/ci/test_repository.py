"""The repository's address stands in one place, and moving it moves everything."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ci import repository

ROOT = Path(__file__).resolve().parents[2]
HERE = repository.read()


def tracked(root):
    return [p for p in repository._text_files(root) if p.name != "syllabus.yml"]


def test_every_address_of_ours_is_the_one_in_the_configuration():
    owner = HERE.name.split("/")[0]
    pattern = rf"github(?:\.com)?/({owner}/[\w.-]+?)(?=[\s/\"')`\\,@\]]|$)"
    seen = 0
    for path in tracked(ROOT):
        for name in re.findall(pattern, path.read_text()):
            seen += 1
            assert name.removesuffix(".git") == HERE.name, f"{path}: {name}"
    assert seen > 5


def test_moving_changes_every_place_and_nothing_else(tmp_path):
    names = ["_config.yml", "README.md", "book/index.md", "pyproject.toml"]
    names.append("exercises/attention/attention.ipynb")
    for name in names:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    new = repository.Repository("https://github.com/someone/copy-of-it", "dev")
    changed = repository.move(new, tmp_path)
    assert repository.read(tmp_path) == new
    assert tmp_path / "exercises/attention/attention.ipynb" in changed
    for path in tracked(tmp_path):
        text = path.read_text()
        assert f"github.com/{HERE.name}" not in text
        assert f"github/{HERE.name}" not in text


def test_addresses_are_built_right():
    there = repository.Repository("https://github.com/a/b", "main")
    assert there.pip == "git+https://github.com/a/b"
    assert there.colab("x/y.ipynb") == (
        "https://colab.research.google.com/github/a/b/blob/main/x/y.ipynb"
    )
    other = repository.Repository("https://github.com/a/b", "dev")
    assert other.pip == "git+https://github.com/a/b@dev"


@pytest.mark.parametrize("url", ["http://github.com/a/b", "github.com/a", "nonsense"])
def test_a_bad_address_is_refused(tmp_path, url):
    config = f"repository:\n  url: {url}\n  branch: main\n"
    (tmp_path / "_config.yml").write_text(config)
    with pytest.raises(ValueError, match=r"_config\.yml: repository\.url is"):
        repository.read(tmp_path)
