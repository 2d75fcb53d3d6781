"""Tries an answer on one case. Runs beside the answer, wherever that is.

When a class is graded, that is a kernel without `posttrain.checks`: the source of this
module and of `plain` is sent there (`program`), and only plain data comes back.
"""

from __future__ import annotations

import base64
import inspect
import json
import traceback
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from posttrain.checks import plain

MIME = "application/vnd.posttrain.outcomes+json"


@dataclass(frozen=True)
class Outcome:
    """What one case gave: a value (plain data), or the error that was raised."""

    value: Any = None
    error: str = ""  # name of the exception's class, "" when none was raised
    message: str = ""


def attempt(drive: Callable, answer: Any, case: tuple) -> Outcome:
    """Drive `answer` on a private copy of `case`. Never raises an `Exception`."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # answers run on the CPU
            return Outcome(plain.copy(drive(answer, *plain.copy(case))))
    except Exception as error:
        return Outcome(None, type(error).__name__, _where(error))


def to_text(outcomes: Sequence[Outcome]) -> str:
    """Outcomes as text that `from_text` reads."""
    return plain.encode([[o.value, o.error, o.message] for o in outcomes])


def from_text(text: str) -> list[Outcome]:
    """Outcomes from text that may come from anybody. Raises ValueError if garbled."""
    try:
        rows = plain.decode(text)
        outcomes = [Outcome(*row) for row in rows]
    except (TypeError, ValueError, KeyError, RuntimeError, RecursionError) as error:
        raise ValueError(f"garbled outcomes: {error}") from None
    if not all(type(o.error) is str and type(o.message) is str for o in outcomes):
        raise ValueError("garbled outcomes: an error must be text")
    return outcomes


def program(drive: Callable, answer: str, cases: Sequence[tuple]) -> str:
    """Code for a kernel: tries the variable named `answer`, displays the outcomes.

    It needs nothing there but torch and IPython; the outcomes are displayed as MIME.
    """
    sources = inspect.getsource(plain), inspect.getsource(inspect.getmodule(attempt))
    own = sources[1].replace("from posttrain.checks import plain\n", "")
    request = [sources[0], own, inspect.getsource(drive), drive.__name__]
    sent = json.dumps([*request, answer, plain.encode(list(cases))])
    code = f"{inspect.getsource(_try_all)}\n\n_try_all({sent!r}, globals())\n"
    # A kernel reads the text of a cell several times: the shorter the better.
    packed = base64.b64encode(zlib.compress(code.encode())).decode()
    unpack = "__import__('zlib').decompress(__import__('base64').b64decode"
    return f"exec({unpack}({packed!r})))"


def _try_all(sent, names):
    """Runs in the kernel, as text: everything it needs comes with the request."""
    import json
    import sys
    import types

    from IPython.display import display

    plain_source, attempt_source, drive_source, drive, answer, cases = json.loads(sent)
    plain = types.ModuleType("posttrain_plain")
    exec(plain_source, plain.__dict__)
    here = types.ModuleType("posttrain_attempt")
    here.plain = plain
    sys.modules["posttrain_attempt"] = here  # dataclasses look their module up
    exec(attempt_source, here.__dict__)
    scope = {}
    exec(drive_source, scope)
    if answer in names:
        outcomes = [
            here.attempt(scope[drive], names[answer], case)
            for case in plain.decode(cases)
        ]
    else:
        missing = f"the name {answer!r} is not defined"
        outcomes = [here.Outcome(None, "NameError", missing)] * len(plain.decode(cases))
    display({here.MIME: here.to_text(outcomes)}, raw=True)


def _where(error: Exception) -> str:
    """The error's text and the last line of the answer that it passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "ipykernel" in f.filename or f.filename == "<string>"]
    text = str(error).strip() or "(no message)"
    if not own or not own[-1].line:
        return text[:1000]
    return f"{text[:1000]} (line {own[-1].lineno} of the answer: {own[-1].line})"
