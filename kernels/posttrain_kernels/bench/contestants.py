"""Who takes part: what is installed, and why the others are not there."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata

import torch

OURS, EAGER, COMPILED = "ours", "eager", "torch.compile"
# import name -> distribution, for versions
LIBRARIES = {
    "liger_kernel": "liger-kernel",
    "unsloth": "unsloth",
    "unsloth_zoo": "unsloth_zoo",
    "bitsandbytes": "bitsandbytes",
}


@dataclass(frozen=True)
class Contestant:
    """A function that computes what the family's reference does."""

    name: str
    call: Callable
    adapt: Callable[..., tuple] = lambda *inputs: inputs  # once a case, not timed
    destroys_inputs: bool = False  # then it gets a fresh copy each time, not timed
    gradients_in_forward: bool = False  # then its backward alone says nothing


@dataclass(frozen=True)
class Entry:
    """A contestant that may be missing: `build` imports `library`."""

    name: str
    build: Callable[[], Contestant]
    library: str | None = None  # None: PyTorch and this package, always there
    on_cpu: bool = False  # can it take CPU tensors?


@dataclass(frozen=True)
class LeftOut:
    """Who did not take part, and why."""

    name: str
    reason: str


def simple(name: str, call: Callable) -> Entry:
    """An entry that needs no library and runs anywhere."""
    return Entry(name, lambda: Contestant(name, call), on_cpu=True)


def compiled(call: Callable) -> Entry:
    """torch.compile of the eager function, for these very shapes, in one graph."""

    def build() -> Contestant:
        return Contestant(COMPILED, torch.compile(call, fullgraph=True, dynamic=False))

    return Entry(COMPILED, build)


def assemble(
    entries: Sequence[Entry], cpu: bool = False
) -> tuple[list[Contestant], list[LeftOut]]:
    """Build every contestant that can be; say why the others cannot.

    cpu: the inputs are on a CPU, so entries that need a GPU are left out.
    """
    present, missing = [], []
    for entry in entries:
        built = _build(entry, cpu)
        (present if isinstance(built, Contestant) else missing).append(built)
    return present, missing


def installed(library: str) -> str | None:
    """The version of a library, None without it; it is not imported."""
    if importlib.util.find_spec(library) is None:
        return None
    try:
        return metadata.version(LIBRARIES[library])
    except metadata.PackageNotFoundError:
        return "unknown"


def _build(entry: Entry, cpu: bool) -> Contestant | LeftOut:
    if entry.library and installed(entry.library) is None:
        return LeftOut(entry.name, f"{LIBRARIES[entry.library]} is not installed")
    if cpu and not entry.on_cpu:
        return LeftOut(entry.name, "needs a GPU")
    try:
        return entry.build()
    except Exception as error:  # a library may fail in its own way when imported
        return LeftOut(entry.name, f"import failed: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """The type and first line of an error, for a table."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
