"""The key of a notebook changes with what its outputs hang on, and nothing else."""

import json
from pathlib import Path

import pytest

from ci import keys

MODULES = {
    "__init__.py": "",
    "foundations/__init__.py": "",
    "foundations/attention.py": "from posttrain.foundations import rope",
    "foundations/rope.py": "",
    "foundations/other.py": "",
    "foundations/base_artifact.py": "",
    "checks/__init__.py": "",
    "checks/attention.py": "",
    "data.py": "",
}
CODE = [
    "%matplotlib inline\n!pip list\nfrom posttrain.foundations.attention import heads",
    "if True:\n    %time 1 + 1\nresults.load('rope', 'cpu')",
]


def cell(source: str, kind: str = "code", **more) -> dict:
    outputs = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "source": source, "metadata": {}} | outputs | more


def write(path: Path, cells: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5}))


@pytest.fixture
def root(tmp_path: Path, monkeypatch) -> Path:
    for name, text in MODULES.items():
        path = tmp_path / "posttrain" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "results").mkdir()
    for name in ("attention.cpu", "attention.t4", "rope.cpu", "other.cpu"):
        (tmp_path / "results" / f"{name}.json").write_text("{}")
    for name in ("requirements.txt", "constraints.txt"):
        (tmp_path / name).write_text("torch\n")
    write(tmp_path / "a.ipynb", [cell(code) for code in CODE])
    monkeypatch.setattr(keys, "_data_states", lambda: {"text": "folder 123"})
    return tmp_path


def key(root: Path, **changes) -> keys.Key:
    given = {"slug": "attention", "preset": "ci", "root": root} | changes
    return keys.key(root / "a.ipynb", **given)


def test_a_key_names_all_that_the_notebook_uses_and_no_more(root):
    assert set(key(root)) == {
        "notebook",
        "preset",
        "python",
        "posttrain/__init__.py",
        "posttrain/foundations/__init__.py",
        "posttrain/foundations/attention.py",
        "posttrain/foundations/rope.py",
        "results/attention.cpu.json",
        "results/attention.t4.json",
        "results/rope.cpu.json",
        "requirements.txt",
        "constraints.txt",
    }


@pytest.mark.parametrize(
    "name",
    [
        "posttrain/foundations/rope.py",
        "posttrain/foundations/__init__.py",
        "results/attention.t4.json",
        "results/rope.cpu.json",
        "requirements.txt",
        "constraints.txt",
    ],
)
def test_a_change_of_what_it_uses_changes_that_part(root, name):
    before = key(root)
    (root / name).write_text((root / name).read_text() + "\n")
    assert keys.explain(before, key(root)) == f"changed: {name}"


@pytest.mark.parametrize(
    "name", ["posttrain/foundations/other.py", "results/other.cpu.json"]
)
def test_a_change_of_what_it_does_not_use_changes_nothing(root, name):
    before = key(root)
    (root / name).write_text("1")
    assert keys.explain(before, key(root)) == ""


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        ({"source": "1 + 1"}, True),
        ({"metadata": {"tags": ["remove-input"]}}, True),
        ({"id": "another"}, True),
        ({"metadata": {"collapsed": True}}, False),
        ({"execution_count": 3}, False),
        (
            {"outputs": [{"output_type": "stream", "name": "stdout", "text": "1"}]},
            False,
        ),
    ],
)
def test_which_parts_of_a_cell_matter(root, change, matters):
    before = key(root)
    write(root / "a.ipynb", [cell(CODE[0]), cell(CODE[1]) | change])
    changed = [name for name, value in key(root).items() if before.get(name) != value]
    assert changed == (["notebook"] if matters else [])


def test_text_and_attachments_of_a_markdown_cell_matter(root):
    digests = set()
    for text, attachments in (("a", {}), ("b", {}), ("a", {"x.png": {"p": "1"}})):
        write(root / "a.ipynb", [cell(text, "markdown", attachments=attachments)])
        digests.add(key(root)["notebook"])
    assert len(digests) == 3


def test_a_source_may_be_a_list_of_lines(root):
    before = key(root)
    write(root / "a.ipynb", [cell(code.splitlines(keepends=True)) for code in CODE])
    assert key(root) == before


def test_the_preset_is_a_part(root):
    assert keys.explain(key(root), key(root, preset="cpu")) == "changed: preset"


def test_checks_loaded_by_name_are_imports(root):
    write(root / "a.ipynb", [cell("check = grader('attention')")])
    assert "posttrain/checks/attention.py" in key(root)


@pytest.mark.parametrize("by", ["a.ipynb", "posttrain/foundations/rope.py"])
def test_kernels_are_a_part_where_a_cell_or_a_module_imports_them(root, by):
    for name in ("__init__", "softmax", "nf4"):
        path = root / f"kernels/posttrain_kernels/{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert not {name for name in key(root) if name.startswith("kernels")}
    text = "from posttrain_kernels import softmax"
    if by == "a.ipynb":
        write(root / by, [cell(text), *map(cell, CODE)])
    else:
        (root / by).write_text(text)
    assert {name for name in key(root) if name.startswith("kernels")} == {
        "kernels/posttrain_kernels/__init__.py",
        "kernels/posttrain_kernels/softmax.py",
    }


def test_a_result_of_its_own_form_is_a_part_where_it_is_named(root):
    (root / "results/speed.json").write_text("{}")
    assert "results/speed.json" not in key(root)
    write(root / "a.ipynb", [cell("results.read('speed')")])
    assert "results/speed.json" in key(root)


def test_data_counts_only_for_what_can_load_it(root, monkeypatch):
    assert "data text" not in key(root)
    write(root / "a.ipynb", [cell("from posttrain import data")])
    before = key(root)
    assert before["data text"] == "folder 123"
    monkeypatch.setattr(keys, "_data_states", lambda: {"text": "fallback 456"})
    assert keys.explain(before, key(root)) == "changed: data text"


def test_an_artifact_that_is_named_is_a_part(root, monkeypatch):
    monkeypatch.setattr(keys.artifacts, "key", lambda name, preset: f"{name} {preset}")
    write(root / "a.ipynb", [cell("artifacts.get('foundations.base', preset)")])
    assert key(root)["artifact foundations.base"] == "foundations.base ci"


def test_real_data_states_are_read_offline(monkeypatch):
    monkeypatch.setenv("POSTTRAIN_OFFLINE", "0")
    seen = []

    def checksums():
        seen.append(keys.os.environ["POSTTRAIN_OFFLINE"])
        return {"text": ("fallback", "abc")}

    monkeypatch.setattr(keys.sources, "data_checksums", checksums)
    assert keys._data_states.__wrapped__() == {"text": "fallback abc"}
    assert (seen, keys.os.environ["POSTTRAIN_OFFLINE"]) == (["1"], "0")


def test_explain_in_words():
    assert keys.explain(None, {"a": "1"}) == "first run"
    assert keys.explain({"a": "1"}, {"a": "1"}) == ""
    assert keys.explain({"a": "1", "b": "1"}, {"a": "2", "c": "1"}) == (
        "changed: a, c (new), b (gone)"
    )
    old, new = ({str(i): text for i in range(9)} for text in "xy")
    assert keys.explain(old, new) == "changed: 0, 1, 2 and 6 more"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"cells": [', "is not JSON"),
        ("[1, 2]", "no notebook"),
        ('{"cells": 3}', "no notebook"),
        ('{"cells": [{"cell_type": "code"}]}', "no notebook"),
    ],
)
def test_what_is_no_notebook_is_named(root, text, message):
    (root / "a.ipynb").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.ipynb.* {message}"):
        key(root)


def test_a_cell_that_is_no_python_does_not_stop_the_build(root):
    write(root / "a.ipynb", [cell("def f(:"), cell("import posttrain.data")])
    assert "posttrain/data.py" in key(root)
