"""The allow-list without what is hidden inside it.

Neither a mount nor Landlock can take a file out of a folder that it opens. So a
folder that holds something hidden is opened entry by entry; its compiled files
(`__pycache__`) are left out, for they hold the hidden code as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class View:
    """`listable` folders show names only; `readable` paths are open as a whole."""

    listable: tuple[Path, ...]
    readable: tuple[Path, ...]


def view(readable: Iterable[Path], hidden: Iterable[Path]) -> View:
    """Splits the readable paths around the hidden ones, both absolute."""
    hidden = tuple(hidden)
    listable: list[Path] = []
    whole: list[Path] = []

    def visit(path: Path) -> None:
        target = path.resolve()
        if any(target.is_relative_to(h) for h in hidden):
            return
        if not any(h.is_relative_to(target) for h in hidden):
            whole.append(path)
        elif not path.is_symlink():
            listable.append(path)
            for entry in sorted(path.iterdir()):
                if entry.name != "__pycache__":
                    visit(entry)

    for path in _outermost(readable):
        visit(path)
    return View(tuple(listable), tuple(whole))


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Paths that lie in no other one of them; a link opens nothing, so it stays."""
    paths = list(dict.fromkeys(paths))
    folders = [p for p in paths if not p.is_symlink()]
    return [p for p in paths if not any(f in p.parents for f in folders)]
