"""nbval on copies: a right stored output passes; a wrong one, or none, fails."""

import json
from pathlib import Path

import nbformat
import pytest

from ci import nbval_copies, times


def write(root: Path, name: str, stored: str = "ci 2\n") -> Path:
    """A chapter whose checked cell prints "ci 2" and stores `stored`."""
    v4 = nbformat.v4
    parameters = v4.new_code_cell('preset = "cpu"', id="parameters")
    parameters.metadata.tags = ["parameters"]
    checked = v4.new_code_cell("print(preset, 1 + 1)", id="checked", execution_count=2)
    checked.metadata.tags = [nbval_copies.TAG]
    checked.outputs = [v4.new_output("stream", name="stdout", text=stored)]
    skipped = v4.new_code_cell("raise ValueError('training')", id="skipped")
    skipped.metadata.tags = ["nbval-skip"]
    path = Path("book/part") / f"{name}.ipynb"
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=[parameters, checked, skipped]), root / path)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("book")


def test_a_right_output_passes_and_its_time_is_kept(root, capfd):
    assert nbval_copies.run([write(root, "right")], root=root) == 0
    assert "nbval: 1 of 1 chapters pass" in capfd.readouterr().out
    # The interpreter and the kernel alone take more than this.
    assert times.cpu_seconds("nbval", "right", root) > 0.3


def test_a_stored_output_that_is_wrong_fails(root, capfd):
    chapters = [write(root, "wrong", stored="ci 3\n")]
    assert nbval_copies.run(chapters, root=root) == 1
    said = capfd.readouterr().out
    assert "nbval book/part/wrong.ipynb failed" in said
    assert "ci 3" in said and "ci 2" in said
    assert times.cpu_seconds("nbval", "wrong", root) is None


def test_the_copy_has_the_preset_and_the_stored_outputs(root):
    chapter = write(root, "copied")
    before = (root / chapter).read_bytes()
    copy = nbval_copies.prepare(chapter, root=root)
    assert copy == root / "build/nbval/part/copied.ipynb"
    cells = {c.id: c for c in nbformat.read(copy, as_version=4).cells}
    sources = [cell.source for cell in cells.values()]
    assert sources[1] == '# Parameters\npreset = "ci"\n'
    assert cells["checked"].outputs[0].text == "ci 2\n"
    assert cells["checked"].execution_count == 2
    assert (root / chapter).read_bytes() == before


def spoil(root: Path, chapter: Path, **changes) -> None:
    """Change fields of the checked cell."""
    notebook = json.loads((root / chapter).read_text())
    cell = next(cell for cell in notebook["cells"] if cell["id"] == "checked")
    cell.update(changes)
    (root / chapter).write_text(json.dumps(notebook))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": []}, "cell checked .* stores no output"),
        ({"execution_count": None}, "cell checked .* stores no execution_count"),
        ({"metadata": {}}, "no cell is tagged nbval-check-output"),
    ],
)
def test_a_chapter_that_would_check_nothing_is_an_error(root, capfd, changes, message):
    chapter = write(root, "empty")
    spoil(root, chapter, **changes)
    with pytest.raises(ValueError, match=rf"book/part/empty\.ipynb: {message}"):
        nbval_copies.prepare(chapter, root=root)
    assert nbval_copies.run([chapter], root=root) == 1
    assert "nbval: 0 of 1 chapters pass" in capfd.readouterr().out


def test_a_tag_on_text_is_an_error(root):
    cell = nbformat.v4.new_markdown_cell("text", id="text")
    cell.metadata.tags = [nbval_copies.TAG]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    (found,) = nbval_copies.problems(notebook)
    assert found == "cell text is tagged nbval-check-output but is no code"
