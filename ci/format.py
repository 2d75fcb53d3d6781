"""The one formatter of notebooks: what Git holds is what this writes.

    python -m ci.format            # rewrite book/ and solutions/
    python -m ci.format --check    # change nothing; exit 1 and say what differs

It writes the cells `header`, `setup`, `papers` and `exercise-card` from `syllabus.yml`,
runs ruff over the code, drops outputs and execution counts (but for cells tagged
`nbval-check-output`) and metadata that nothing reads. It refuses what it cannot mend:
missing or repeated cell ids, unknown tags, code that is too wide or too long, headings
out of order.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat

from ci import cells
from ci import repository as repositories
from ci import syllabus as syllabuses

ROOT = Path(__file__).resolve().parents[1]
TAGS = {
    "parameters",
    "remove-input",
    "remove-cell",
    "hide-input",
    "hide-cell",
    "nbval-check-output",
    "nbval-skip",
    "drill",
}
WIDTH, LINES = 80, 25
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


class BadNotebook(ValueError):
    """A notebook that the formatter cannot mend; the text names cell and fix."""


def notebooks(root: Path = ROOT) -> list[Path]:
    """Every notebook that is written by hand: chapters, guides and solutions."""
    found = [*root.glob("book/*/*.ipynb"), *root.glob("solutions/*/*.ipynb")]
    return sorted(path for path in found if ".ipynb_checkpoints" not in path.parts)


def formatted(path: Path, root: Path = ROOT) -> str:
    """The text that `path` ought to hold. Raises BadNotebook."""
    nb = read(path)
    _check_ids(nb)
    _write_generated(nb, path, root)
    _clean(nb)
    nb = _ruff(nb, path)
    _check_style(nb, solution="solutions" in path.parts)
    return dumps(nb)


def read(path: Path) -> nbformat.NotebookNode:
    """The notebook at `path`, as nbformat 4.5. Raises BadNotebook."""
    try:
        nb = nbformat.from_dict(json.loads(path.read_text()))
        _check_unique(nb)
        nbformat.validate(nb)
    except json.JSONDecodeError as error:
        raise BadNotebook(f"is not JSON: {error}") from None
    except (nbformat.ValidationError, AttributeError, KeyError, TypeError) as error:
        raise BadNotebook(f"is no valid notebook: {str(error)[:300]}") from None
    if (nb.nbformat, nb.nbformat_minor) != (4, 5):
        raise BadNotebook(
            f"has format {nb.nbformat}.{nb.nbformat_minor}; save it as 4.5"
        )
    for cell in nb.cells:
        if isinstance(cell.source, list):
            cell.source = "".join(cell.source)
    return nb


def dumps(nb: nbformat.NotebookNode) -> str:
    """The text of a notebook, always the same for the same content."""
    return nbformat.writes(nb, version=nbformat.NO_CONVERT) + "\n"


def _check_unique(nb: nbformat.NotebookNode) -> None:
    """Two cells of one id; nbformat's validation would give one a new id instead."""
    names = [cell.get("id") for cell in nb["cells"]]
    for name in set(names):
        if names.count(name) > 1:
            raise BadNotebook(f"two cells have the id {name!r}; rename one")


def _check_ids(nb: nbformat.NotebookNode) -> None:
    for number, cell in enumerate(nb.cells):
        name = cell.get("id", "")
        if not re.fullmatch(r"[a-z][a-z0-9-]{1,63}", name):
            raise BadNotebook(
                f"cell {number} has the id {name!r}; give it a name in lower case, "
                "such as 'why-scale'"
            )


def _write_generated(nb: nbformat.NotebookNode, path: Path, root: Path) -> None:
    texts = _generated(nb, path, root)
    by_id = {cell.id: cell for cell in nb.cells}
    for name, text in texts.items():
        if name not in by_id:
            raise BadNotebook(f"lacks the cell with the id {name!r}")
        by_id[name].source = text
    by_id["setup"].metadata["tags"] = ["remove-cell"]


def _generated(nb: nbformat.NotebookNode, path: Path, root: Path) -> dict[str, str]:
    """The source of each cell, by its id, that is written from the syllabus."""
    syllabus = syllabuses.load(root / "syllabus.yml")
    repository = repositories.read(root)
    folder, slug = path.relative_to(root).parent, path.stem
    guide = folder == syllabuses.GUIDES
    kind, known = ("guide", syllabus.guides) if guide else ("topic", syllabus.topics)
    if slug not in known:
        raise BadNotebook(f"has no {kind} {slug!r} in syllabus.yml; add it there first")
    topic = known[slug]
    texts = {"setup": cells.setup(repository)}
    if guide:
        texts["header"] = cells.guide_header(topic)
    elif folder.parts[0] == "solutions":
        texts["header"] = cells.exercise_header(topic, nb)
    else:
        texts["header"] = cells.chapter_header(topic, syllabus)
        texts["papers"] = cells.papers(topic, syllabus)
        if topic.graded:
            solution = read(root / topic.solution)
            scores = cells.grader_scores(topic, root)
            card = cells.exercise_card(topic, solution, repository, scores)
            texts["exercise-card"] = card
    return texts


def _clean(nb: nbformat.NotebookNode) -> None:
    nb.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    for cell in nb.cells:
        tags = cell.metadata.get("tags", [])
        unknown = sorted(set(tags) - TAGS)
        if unknown:
            raise BadNotebook(
                f"cell {cell.id!r} has the unknown tag {unknown[0]!r}; known are "
                + ", ".join(sorted(TAGS))
            )
        kept = {"nbgrader": cell.metadata.get("nbgrader"), "tags": sorted(tags)}
        cell.metadata = nbformat.from_dict({k: v for k, v in kept.items() if v})
        cell.source = cell.source.strip("\n")
        if cell.cell_type == "code" and "nbval-check-output" in tags:
            _clean_outputs(cell)
        elif cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def _clean_outputs(cell: nbformat.NotebookNode) -> None:
    if not cell.outputs or cell.execution_count is None:
        raise BadNotebook(
            f"cell {cell.id!r} is tagged nbval-check-output but stores no output; "
            "run it once and save"
        )
    cell.execution_count = 1
    for output in cell.outputs:
        if output.output_type == "execute_result":
            output.execution_count = 1


def _ruff(nb: nbformat.NotebookNode, path: Path) -> nbformat.NotebookNode:
    name = f"notebook/{path.stem}.ipynb"
    common = ["--no-cache", "--config", str(ROOT / "pyproject.toml")]
    common += ["--stdin-filename", name, "--line-length", str(WIDTH), "-"]
    text = _run_ruff(["format", *common], dumps(nb))
    text = _run_ruff(["check", "--fix", "--select", "I,F,E7,E9,B,UP", *common], text)
    again = nbformat.from_dict(json.loads(text))
    for cell in again.cells:
        if isinstance(cell.source, list):
            cell.source = "".join(cell.source)
        cell.source = cell.source.strip("\n")
    return again


def _run_ruff(arguments: list[str], text: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments],
        input=text,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BadNotebook(f"ruff {arguments[0]}: {done.stderr or done.stdout}"[:1500])
    return done.stdout


def _check_style(nb: nbformat.NotebookNode, solution: bool) -> None:
    level = 0
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            level = _check_headings(cell, level)
            continue
        lines = cell.source.splitlines()
        wide = [line for line in lines if len(line) > WIDTH]
        if wide:
            raise BadNotebook(
                f"cell {cell.id!r} has a line of {len(wide[0])} columns; at most "
                f"{WIDTH} are shown: {wide[0].strip()[:60]} ..."
            )
        answer = solution and cell.metadata.get("nbgrader", {}).get("solution")
        if len(lines) > LINES and not answer:
            raise BadNotebook(
                f"cell {cell.id!r} has {len(lines)} lines; at most {LINES}: split it"
            )


def _check_headings(cell: nbformat.NotebookNode, level: int) -> int:
    """Headings may go one level deeper at a time, and there is one title."""
    fenced = re.sub(r"(?ms)^```.*?^```", "", cell.source)
    for mark in re.findall(r"(?m)^(#+) ", fenced):
        if len(mark) == 1 and level:
            raise BadNotebook(f"cell {cell.id!r} has a second title (# ...)")
        if len(mark) > level + 1:
            raise BadNotebook(
                f"cell {cell.id!r} jumps from heading level {level} to {len(mark)}"
            )
        level = len(mark)
    return level


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("paths", nargs="*", type=Path, help="default: all")
    arguments = parser.parse_args()
    failed = 0
    paths = [p.resolve() for p in arguments.paths] or notebooks()
    for path in paths:
        name = path.relative_to(ROOT)
        try:
            text = formatted(path)
        except BadNotebook as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed += 1
            continue
        if text == path.read_text():
            continue
        if arguments.check:
            print(f"{name}: not formatted; run `python -m ci.format`", file=sys.stderr)
            failed += 1
        else:
            path.write_text(text)
            print(f"formatted {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
