"""When must a notebook run again? Its key: a flat dict of all that its outputs hang on.

    notebook                     cells: kind, id, tags, source; no outputs
    preset, python               as values
    posttrain/...                each module (and data file) that it uses, by digest
    kernels/posttrain_kernels/...  likewise
    data <name>                  where a data set comes from, and its checksum
    results/<slug>.<preset>.json the measured results that it may plot
    artifact <name>              the key of an artifact
    requirements.txt, ...        the pins, and the program that runs notebooks

Two equal keys mean: nothing changed. `explain` says in words what did.
"""

import ast
import contextlib
import functools
import hashlib
import io
import json
import os
import platform
import re
from pathlib import Path

from posttrain import artifacts, sources

ROOT = Path(__file__).resolve().parent.parent
PINS = (
    *("requirements.txt", "requirements-nodeps.txt", "constraints.txt"),
    "ci/run_notebook.py",
)
MAGIC = re.compile(r"^(\s*)[%!?].*$", re.MULTILINE)

Key = dict[str, str]


def key(notebook: Path, slug: str, preset: str, root: Path = ROOT) -> Key:
    """The key of `notebook`, which belongs to the topic `slug`, run at `preset`.

    Raises ValueError for a file that is no notebook, FileNotFoundError for none.
    """
    cells = read_cells(notebook)
    code = [_source(cell) for cell in cells if cell["cell_type"] == "code"]
    package = root / "posttrain"
    modules = set().union(*(_imports(text, package) for text in code))
    paths = sources.closure(*modules, package=package)
    parts = {"notebook": _digest(cells), "preset": preset}
    parts["python"] = platform.python_version()
    files = [*paths, *_kernels([*code, *_texts(paths)], root)]
    parts |= {p.relative_to(root).as_posix(): _file(p) for p in files}
    parts |= _data(paths, package) | _artifacts(paths, preset)
    parts |= _results(slug, code, root)
    parts |= {name: _file(root / name) for name in PINS if (root / name).is_file()}
    return parts


def explain(old: Key | None, new: Key) -> str:
    """Why a notebook with key `new` runs although it ran with key `old`."""
    if old is None:
        return "first run"
    changed = [name for name in new if name in old and old[name] != new[name]]
    added = [f"{name} (new)" for name in new if name not in old]
    gone = [f"{name} (gone)" for name in old if name not in new]
    names = changed + added + gone
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return "changed: " + ", ".join(names[:3]) + more


def read_cells(notebook: Path) -> list[dict]:
    """The cells of a notebook file. Raises ValueError if it is not one."""
    try:
        content = json.loads(notebook.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{notebook} is not JSON: {error}") from None
    cells = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(cells, list) or not all(
        isinstance(cell, dict) and {"cell_type", "source"} <= set(cell)
        for cell in cells
    ):
        raise ValueError(
            f"{notebook} is JSON but no notebook: it needs a list of `cells`, each "
            "with cell_type and source"
        )
    return cells


def _source(cell: dict) -> str:
    """A cell's text; in a file it may be a list of lines."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def _digest(cells: list[dict]) -> str:
    """sha256 over what a cell says and how it is treated, not what it printed."""
    kept = [
        (
            cell["cell_type"],
            cell.get("id"),
            sorted(cell.get("metadata", {}).get("tags", [])),
            _source(cell),
            cell.get("attachments", {}),
        )
        for cell in cells
    ]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _python(text: str) -> ast.AST | None:
    """A code cell without its magics, parsed; None where it is not Python.

    Such a cell fails when it is run, and a failed notebook is never kept.
    """
    try:
        return ast.parse(MAGIC.sub(r"\1pass", text))
    except SyntaxError:
        return None


def _imports(text: str, package: Path) -> set[str]:
    """The modules of ours that a code cell imports."""
    tree = _python(text)
    return set() if tree is None else sources.imports(ast.unparse(tree), "", package)


def _texts(paths: list[Path]) -> list[str]:
    """The program texts among the files of a closure."""
    return [p.read_text(encoding="utf-8") for p in paths if p.suffix == ".py"]


def _kernels(texts: list[str], root: Path) -> list[Path]:
    """The files behind the kernels that these texts import."""
    package = root / "kernels/posttrain_kernels"
    # parsing costs more than looking, and few texts name the kernels
    naming = [text for text in texts if package.name in text]
    modules = set().union(*(_imports(text, package) for text in naming))
    return sources.closure(*modules, package=package)


def _results(slug: str, code: list[str], root: Path) -> Key:
    """The results of the topic itself, and of any topic that the code names."""
    trees = filter(None, map(_python, code))
    nodes = (node for tree in trees for node in ast.walk(tree))
    named = {n.value for n in nodes if isinstance(n, ast.Constant)} | {slug}
    return {
        f"results/{path.name}": _file(path)
        for path in sorted((root / "results").glob("*.json"))
        if path.name.split(".")[0] in named
    }


def _data(paths: list[Path], package: Path) -> Key:
    """The data sets as they are found here, for a notebook that can load them."""
    if sources.find(f"{package.name}.data", package) not in paths:
        return {}
    return {f"data {name}": state for name, state in _data_states().items()}


@functools.cache  # once a build: it reads every corpus
def _data_states() -> Key:
    """{data set: where it is found and its checksum}, offline as notebooks run."""
    before = os.environ.get("POSTTRAIN_OFFLINE")
    os.environ["POSTTRAIN_OFFLINE"] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = sources.data_checksums()
    finally:
        if before is None:
            del os.environ["POSTTRAIN_OFFLINE"]
        else:
            os.environ["POSTTRAIN_OFFLINE"] = before
    return {name: f"{source} {sha256}" for name, (source, sha256) in found.items()}


def _artifacts(paths: list[Path], preset: str) -> Key:
    """The keys of the artifacts whose builders are among `paths`."""
    names = [
        f"{path.parent.name}.{path.stem.removesuffix('_artifact')}"
        for path in paths
        if path.name.endswith("_artifact.py")
    ]
    return {f"artifact {name}": artifacts.key(name, preset) for name in names}


def _file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
