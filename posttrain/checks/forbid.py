"""Which forbidden names an answer's source uses. Hygiene, not security."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any


def used(answer: Any, names: tuple[str, ...]) -> list[str]:
    """The dotted names of `names` that `answer` uses, by a scan of its source.

    "F.softmax" is matched by its last part in attribute position (`F.softmax`,
    `torch.nn.functional.softmax`, `from ... import softmax`), and by being the
    answer itself. An answer whose source cannot be read uses none.
    """
    last = _last_parts(names)
    own = getattr(answer, "__name__", "")
    module = getattr(answer, "__module__", None) or ""
    if own in last and (module.startswith("torch") or inspect.isbuiltin(answer)):
        return [last[own]]
    return used_in(_source(answer), names)


def used_in(source: str, names: tuple[str, ...]) -> list[str]:
    """The same for the text of an answer; text that does not parse uses none."""
    last = _last_parts(names)
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in last:
            found.add(last[node.attr])
        if isinstance(node, ast.ImportFrom):
            found |= {last[a.name] for a in node.names if a.name in last}
    return sorted(found)


def _last_parts(names: tuple[str, ...]) -> dict[str, str]:
    return {name.rsplit(".", 1)[-1]: name for name in names}


def _source(answer: Any) -> str:
    parts = [answer]
    if inspect.isclass(answer):  # a notebook's class has no file: read its methods
        parts = [v for v in vars(answer).values() if inspect.isfunction(v)]
    sources = []
    for part in parts:
        try:
            sources.append(textwrap.dedent(inspect.getsource(part)))
        except (OSError, TypeError):
            continue
    return "\n".join(sources)
