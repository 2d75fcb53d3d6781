"""The text of a submitted notebook as JSON that is safe to hand on.

Everything here is run on bytes that nobody vouches for, in a process with limits
(`grading.unprivileged`).
"""

from __future__ import annotations

import codecs
import json
import math
from typing import Any

from grading.archives import shown
from grading.rebuild import BadSubmission

MAX_CELLS = 2_000
MAX_SOURCE = 200_000  # characters of one cell
MAX_DIGITS = 1_000  # of a whole number
MAX_DEPTH = 50  # lists and objects inside each other
MAX_VALUES = 200_000  # numbers, texts, lists and objects
AGAIN = "download the notebook again as .ipynb and hand that in"


def parse(data: bytes) -> dict:
    """A notebook of format 4, its outputs emptied. BadSubmission with the reason."""
    nb = _json(data)
    cells = nb.get("cells") if isinstance(nb, dict) else None
    if not isinstance(cells, list):
        raise BadSubmission("holds no list of cells; hand in a notebook (nbformat 4)")
    version = nb.get("nbformat")
    if type(version) is not int or version != 4:
        raise BadSubmission(
            f"has nbformat {shown(str(version))}, expected 4; open it in Jupyter, save "
            "it and hand that in"
        )
    if len(cells) > MAX_CELLS:
        raise BadSubmission(
            f"has {len(cells)} cells, {MAX_CELLS} are allowed; delete those you added"
        )
    for number, cell in enumerate(cells, 1):
        _check_cell(number, cell)
    _check_values(nb)
    return nb


def _json(data: bytes) -> Any:
    if not data.strip():
        raise BadSubmission(f"is empty; {AGAIN}")
    try:
        return json.loads(
            data.removeprefix(codecs.BOM_UTF8).decode(),
            object_pairs_hook=_object,
            parse_int=_whole,
            parse_constant=_constant,
        )
    except UnicodeDecodeError as error:
        raise BadSubmission(
            f"is not UTF-8 text (byte {error.start}: {error.reason}); {AGAIN}"
        ) from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        raise BadSubmission(f"is not JSON ({error}); {AGAIN}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise BadSubmission(
            f"is ambiguous: an object has {shown(twice)} twice; {AGAIN}"
        )
    return result


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise BadSubmission(
            f"holds a number of {len(digits)} digits, {MAX_DIGITS} are allowed; {AGAIN}"
        )
    return int(digits)


def _constant(name: str) -> None:
    raise BadSubmission(
        f"is not JSON (it holds {name}); clear the notebook's outputs, save it and "
        "hand that in"
    )


def _check_cell(number: int, cell: Any) -> None:
    """Bounds the source, empties the outputs; what is no cell is left to rebuild."""
    if not isinstance(cell, dict):
        return
    if "outputs" in cell:
        cell["outputs"] = []
    source = cell.get("source")
    lines = source if isinstance(source, list) else [source]
    length = sum(len(line) for line in lines if isinstance(line, str))
    if length > MAX_SOURCE:
        raise BadSubmission(
            f"has {length} characters in cell {number}, {MAX_SOURCE} are allowed; "
            "shorten it"
        )


def _check_values(nb: dict) -> None:
    """Walks through everything that is handed on, without recursion."""
    count, level = 0, [nb]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            count += len(value)
            if count > MAX_VALUES:
                raise BadSubmission(f"holds more than {MAX_VALUES} values; {AGAIN}")
            if isinstance(value, dict):
                _check_text(value)
                value = value.values()
            _check_text(item for item in value if isinstance(item, str))
            _check_numbers(item for item in value if isinstance(item, float))
            below += [item for item in value if isinstance(item, (dict, list))]
        level = below
    if level:
        raise _too_deep()


def _check_text(texts) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadSubmission(
                "holds half of a character (a lone surrogate), which no file can "
                f"store; {AGAIN}"
            ) from None


def _check_numbers(numbers) -> None:
    for number in numbers:
        if not math.isfinite(number):
            raise BadSubmission(f"holds a number too large to be stored; {AGAIN}")


def _too_deep() -> BadSubmission:
    return BadSubmission(
        f"has lists or objects more than {MAX_DEPTH} deep inside each other; {AGAIN}"
    )
