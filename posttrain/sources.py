"""What a result depends on: the code of this package behind it, and the data.

A rendered notebook, an artifact or a measurement is stale once a module that it uses
has changed. The imports are read from the source text with `ast`; nothing is imported,
so a closure costs milliseconds and no torch.

Two calls load a module by its name, and count as imports of it:

    grader("attention")                     posttrain.checks.attention
    artifacts.get("foundations.base", ...)  posttrain.foundations.base_artifact

Not seen: a name that is computed when the program runs.
"""

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def closure(*modules: str, package: Path = PACKAGE) -> list[Path]:
    """All files behind `modules`, sorted: the modules, what they import within
    `package`, the `__init__.py` of each package on the way, and the data files
    (scripts, texts) that lie in those packages.

    Raises ValueError for a module that is not there, SyntaxError for one that does
    not parse.
    """
    waiting = list(modules)
    found: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        path = find(name, package)
        if path is None:
            raise ValueError(f"no module {name!r} in {package}; is the name right?")
        found[name] = path
        stat = path.stat()
        waiting += _imports_of_file(path, name, package, stat.st_mtime_ns, stat.st_size)
        if "." in name:
            waiting.append(name.rpartition(".")[0])
    code = set(found.values())
    folders = [path.parent for path in code if path.name == "__init__.py"]
    return sorted(code.union(*map(_data_files, folders)))


def imports(source: str, inside: str = "", package: Path = PACKAGE) -> set[str]:
    """The modules of `package` that the program text `source` imports, by full name.

    `inside` is the dotted name of the package that `source` belongs to, which the dots
    of a relative import are counted from.
    """
    candidates = (
        name
        for node in ast.walk(ast.parse(source))
        for name in _named_by(node, inside, package.name)
    )
    top = package.name
    return {
        name
        for name in candidates
        if (name == top or name.startswith(top + ".")) and find(name, package)
    }


def find(module: str, package: Path = PACKAGE) -> Path | None:
    """The file of `module` ("posttrain.foundations.attention"), or None."""
    path = package.parent.joinpath(*module.split("."))
    for candidate in (path / "__init__.py", path.with_name(path.name + ".py")):
        if candidate.is_file():
            return candidate
    return None


def digest(paths: Iterable[Path], root: Path = PACKAGE.parent) -> str:
    """sha256 over names (relative to `root`) and contents, whatever the order."""
    total = hashlib.sha256()
    for name, path in sorted((p.relative_to(root).as_posix(), p) for p in paths):
        content = path.read_bytes()
        total.update(f"{name}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()


def data_checksums() -> dict[str, tuple[str, str]]:
    """{name: (source, sha256)} of each data set as `posttrain.data.load` gives it now.

    Says what is a fallback, as `load` does.
    """
    from posttrain import data

    corpora = [data.load(name) for name in sorted(data.SOURCES)]
    return {corpus.name: (corpus.source, corpus.sha256) for corpus in corpora}


@functools.cache  # the time and size of the file are part of the question
def _imports_of_file(
    path: Path, name: str, package: Path, _mtime_ns: int, _size: int
) -> frozenset[str]:
    """What one module imports; asked again only when the file has changed."""
    inside = name if path.name == "__init__.py" else name.rpartition(".")[0]
    try:
        return frozenset(imports(path.read_text(encoding="utf-8"), inside, package))
    except SyntaxError as error:
        error.filename = str(path)
        raise


def _named_by(node: ast.AST, inside: str, top: str) -> Iterator[str]:
    """Dotted names that `node` may import; some are functions, not modules."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _base(node, inside)
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and node.args:
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield from _loaded_by_name(ast.unparse(node.func), first.value, top)


def _base(node: ast.ImportFrom, inside: str) -> str:
    """The module after `from`, with its leading dots resolved."""
    if not node.level:
        return node.module or ""
    parts = inside.split(".")
    above = parts[: len(parts) - node.level + 1]
    return ".".join([*above, node.module] if node.module else above)


def _loaded_by_name(function: str, argument: str, top: str) -> Iterator[str]:
    """The module that `grader("x")` or `artifacts.get("part.x")` loads."""
    if function.split(".")[-1] == "grader":
        yield f"{top}.checks.{argument}"
    elif function.split(".")[-2:] == ["artifacts", "get"]:
        yield f"{top}.{argument}_artifact"


def _data_files(folder: Path) -> Iterator[Path]:
    """Files of a package that are no Python; folders that are packages not entered."""
    for path in folder.iterdir():
        if path.name.startswith((".", "__pycache__")):
            continue
        if path.is_dir():
            if not (path / "__init__.py").exists():
                yield from _data_files(path)
        elif path.suffix not in (".py", ".pyc"):
            yield path
