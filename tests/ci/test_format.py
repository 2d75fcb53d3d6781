"""The formatter: mends what it can, refuses the rest with cell and fix."""

import json
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ci import exercises, format


@pytest.fixture
def tree(tmp_path, root):
    """A small copy of the project in which notebooks can be spoiled."""
    for name in ("syllabus.yml", "_config.yml"):
        shutil.copy(root / name, tmp_path)
    for name in ("solutions/attention", "book/foundations"):
        shutil.copytree(root / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def write(tree):
    """Writes a chapter made of the required cells and those given; its path."""

    def _write(*cells, **metadata):
        path = tree / "book/foundations/attention.ipynb"
        required = [
            new_markdown_cell("x", id="header"),
            new_code_cell("x", id="setup"),
            new_markdown_cell("x", id="papers"),
            new_markdown_cell("x", id="exercise-card"),
        ]
        body = [*required[:2], *cells, *required[2:]]
        nb = new_notebook(cells=body, metadata=metadata)
        nbformat.write(nb, path)
        return path

    return _write


def code(source, id="a-cell", **rest):
    return new_code_cell(source, id=id, **rest)


def cells_of(text):
    return {cell["id"]: cell for cell in json.loads(text)["cells"]}


def source_of(text, name):
    return "".join(cells_of(text)[name]["source"])


def test_generated_cells_come_from_the_syllabus(write, tree):
    text = format.formatted(write(), tree)
    assert source_of(text, "header").startswith("# ")
    assert "**P0**" in source_of(text, "header")
    assert "| Vaswani et al. 2017, [Attention Is All You Need](https://arxiv.org" in (
        source_of(text, "papers")
    )
    assert "POSTTRAIN_SOURCE" in source_of(text, "setup")
    assert "6 graded tasks, 22 points" in source_of(text, "exercise-card")
    assert "colab.research.google.com" in source_of(text, "exercise-card")
    assert cells_of(text)["setup"]["metadata"]["tags"] == ["remove-cell"]


def test_code_is_formatted_and_imports_are_sorted(write, tree):
    text = format.formatted(
        write(code("import sys\nimport os\nos.sep;x = {  1:2}")), tree
    )
    assert source_of(text, "a-cell").startswith("import os\nimport sys\n")
    assert "x = {1: 2}" in source_of(text, "a-cell")


def test_formatting_twice_changes_nothing(write, tree):
    path = write(code("x=1"))
    once = format.formatted(path, tree)
    path.write_text(once)
    assert format.formatted(path, tree) == once


def test_outputs_and_metadata_go_but_for_checked_cells(write, tree):
    def printed():
        return [new_output("stream", name="stdout", text="1\n")]

    plain = code("print(1)", outputs=printed(), execution_count=7)
    plain.metadata["collapsed"] = True
    checked = code("print(1)", "checked", outputs=printed(), execution_count=7)
    checked.metadata["tags"] = ["nbval-check-output"]
    text = format.formatted(write(plain, checked, celltoolbar="x"), tree)
    cells = cells_of(text)
    assert cells["a-cell"]["outputs"] == []
    assert cells["a-cell"]["execution_count"] is None
    assert cells["a-cell"]["metadata"] == {}
    assert cells["checked"]["outputs"][0]["text"] == ["1\n"]
    assert cells["checked"]["execution_count"] == 1
    assert "celltoolbar" not in json.loads(text)["metadata"]


def tagged(*tags, **rest):
    cell = code("x = 1", **rest)
    cell.metadata["tags"] = list(tags)
    return cell


BAD = [
    (tagged("nbval-chek-output"), "unknown tag 'nbval-chek-output'"),
    (tagged("nbval-check-output"), "stores no output"),
    (code("x = 1", "A_Cell"), "has the id 'A_Cell'"),
    (code(f'x = "{"a" * 90}"'), "a line of 96 columns"),
    (code("\n".join(f"x{i} = {i}" for i in range(26))), "has 26 lines; at most 25"),
    (code("def f(:"), "ruff format"),
    (code("print(undefined_name)"), "undefined_name"),
    (new_markdown_cell("# Second title", id="more"), "second title"),
    (new_markdown_cell("### Too deep", id="more"), "jumps from heading level 1 to 3"),
]


@pytest.mark.parametrize(("cell", "words"), BAD, ids=[words for _, words in BAD])
def test_what_cannot_be_mended_is_refused(write, tree, cell, words):
    with pytest.raises(format.BadNotebook, match=words):
        format.formatted(write(cell), tree)


def test_two_cells_of_one_id_are_refused(write, tree):
    path = write(code("x = 1"))
    path.write_text(path.read_text().replace('"id": "a-cell"', '"id": "setup"'))
    with pytest.raises(format.BadNotebook, match="setup"):
        format.formatted(path, tree)


def test_a_comment_in_a_fence_is_no_heading(write, tree):
    fence = new_markdown_cell("```\n# comment\n```", id="more")
    format.formatted(write(fence), tree)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{nope", "is not JSON"),
        ("[]", "is no valid notebook"),
        ('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 2}', "4.5"),
    ],
)
def test_what_is_no_notebook_is_refused(tree, content, words):
    path = tree / "book/foundations/attention.ipynb"
    path.write_text(content)
    with pytest.raises(format.BadNotebook, match=words):
        format.formatted(path, tree)


def test_a_notebook_of_no_topic_is_refused(write, tree):
    path = write().rename(tree / "book/foundations/nothing.ipynb")
    with pytest.raises(format.BadNotebook, match="no topic 'nothing' in syllabus"):
        format.formatted(path, tree)


@pytest.fixture
def write_guide(tree):
    """Writes a guide of the required cells; its path."""

    def _write(slug):
        path = tree / f"book/guides/{slug}.ipynb"
        path.parent.mkdir()
        cells = [new_markdown_cell("x", id="header"), new_code_cell("x", id="setup")]
        nbformat.write(new_notebook(cells=cells), path)
        return path

    return _write


def test_a_guide_has_no_priority_papers_or_exercise(write_guide, tree):
    path = write_guide("grading")
    assert path in format.notebooks(tree)
    text = format.formatted(path, tree)
    assert list(cells_of(text)) == ["header", "setup"]
    header = source_of(text, "header")
    assert header.startswith("# Grading a class\n\nGuide · about ")
    assert "POSTTRAIN_SOURCE" in source_of(text, "setup")


def test_a_guide_that_the_syllabus_does_not_know_is_refused(write_guide, tree):
    with pytest.raises(format.BadNotebook, match="no guide 'attention' in syllabus"):
        format.formatted(write_guide("attention"), tree)


def test_the_command_names_the_file_and_goes_on(root):
    command = [sys.executable, "-m", "ci.format", "--check"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_student_versions_hide_solutions_and_hidden_tests(root):
    for solution, _ in exercises.pairs(root):
        text = exercises.student_version(solution)
        assert "BEGIN SOLUTION" not in text
        assert "HIDDEN TESTS" not in text
        assert "hidden=True" not in text
        assert text.count("raise NotImplementedError()") >= 3


def test_drift_is_seen_to_the_byte(tree):
    assert exercises.drift(tree) == ["exercises/attention/attention.ipynb is missing"]
    ((solution, target),) = exercises.pairs(tree)
    target.parent.mkdir(parents=True)
    target.write_text(exercises.student_version(solution))
    assert exercises.drift(tree) == []
    target.write_text(target.read_text() + " ")
    (tree / "exercises/attention/variants.py").write_text("")
    assert exercises.drift(tree) == [
        "exercises/attention/attention.ipynb differs from what its solution gives",
        "exercises/attention/variants.py belongs to no solution",
    ]


def test_student_versions_are_those_of_nbgrader(root, tmp_path):
    """Our generator gives the cells that `nbgrader generate_assignment` gives."""
    from grading.course import Course, environment

    with environment(0):
        release = Course(root, tmp_path).exercise("attention").release
    ours = nbformat.read(root / "exercises/attention/attention.ipynb", as_version=4)
    assert [c.source for c in release.cells] == [c.source for c in ours.cells]
    assert [c.metadata for c in release.cells] == [c.metadata for c in ours.cells]
