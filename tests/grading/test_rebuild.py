"""Only the text of answers and extra cells is taken from a submission."""

import copy

import pytest

from grading.rebuild import rebuild


def cell_of(nb, grade_id):
    marks = ((cell, cell["metadata"].get("nbgrader", {})) for cell in nb["cells"])
    return next(cell for cell, mark in marks if mark.get("grade_id") == grade_id)


def test_a_solved_notebook_keeps_its_answers(empty, solved):
    rebuilt = rebuild(empty, solved)
    assert rebuilt.missing == []
    answer = cell_of(rebuilt.notebook, "answer_causal_mask")
    assert ".tril(" in answer.source
    assert len(rebuilt.notebook.cells) == len(empty.cells)


def test_edited_tests_and_metadata_are_dropped(empty, solved):
    forged = copy.deepcopy(solved)
    test = cell_of(forged, "test_causal_mask")
    test["source"] = "pass"
    test["metadata"]["nbgrader"]["points"] = 1000
    test["metadata"]["tags"] = ["skip-execution"]
    rebuilt = rebuild(empty, forged).notebook
    assert cell_of(rebuilt, "test_causal_mask") == cell_of(empty, "test_causal_mask")


def test_missing_answers_are_named_and_left_unsolved(empty, solved):
    solved["cells"].remove(cell_of(solved, "answer_causal_mask"))
    rebuilt = rebuild(empty, solved)
    assert rebuilt.missing == ["answer_causal_mask"]
    answer = cell_of(rebuilt.notebook, "answer_causal_mask")
    assert "NotImplementedError" in answer.source


def test_extra_code_cells_stay_where_they_were(empty, solved):
    at = solved["cells"].index(cell_of(solved, "answer_split_heads"))
    extra = {"cell_type": "code", "source": ["helper = ", "1"], "metadata": {}}
    solved["cells"].insert(at, extra)
    cells = rebuild(empty, solved).notebook.cells
    number = next(i for i, c in enumerate(cells) if c.source == "helper = 1")
    assert cells[number + 1].metadata.nbgrader.grade_id == "answer_split_heads"


def test_colab_that_drops_cell_ids_changes_nothing(empty, solved):
    whole = rebuild(empty, solved).notebook
    for cell in solved["cells"]:
        del cell["id"]
    again = rebuild(empty, solved).notebook
    for a, b in zip(whole.cells, again.cells, strict=False):
        if a.metadata.get("nbgrader"):
            assert a.source == b.source


@pytest.mark.parametrize(
    "cell",
    [None, 3, {}, {"source": 5}, {"source": "x", "metadata": []}, {"source": [1]}],
)
def test_strange_cells_do_not_matter(empty, solved, cell):
    solved["cells"].insert(0, cell)
    assert rebuild(empty, solved).missing == []
