"""What contained code may read and use.

A policy is a plain value: it crosses to the warm process by pickle, and two kernels
with equal policies are locked alike.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import posttrain

RUNGS = ("namespaces", "landlock")
PACKAGE = Path(posttrain.__file__).resolve().parent


def _kernels() -> tuple[Path, ...]:
    """Where the package of Triton kernels lies; it is found, not imported."""
    spec = importlib.util.find_spec("posttrain_kernels")
    return (Path(spec.origin).resolve().parent,) if spec else ()


PACKAGES = (PACKAGE, *_kernels())
SYSTEM = (
    "/usr",
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/alternatives",
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/timezone",
)
PASSED_ON = (
    "LANG",
    "LC_ALL",
    "MPLBACKEND",
    "NBGRADER_EXECUTION",
    "OMP_NUM_THREADS",
    "POSTTRAIN_OFFLINE",
    "TZ",
)


@dataclass(frozen=True)
class Limits:
    """How much one notebook may use, all its processes together.

    Bytes: `memory`, `file_size` (one file), `disk` (all files). `processes` counts
    threads too. `cpu_seconds` is summed over the processes, `wall_seconds` runs from
    the lock to the last cell.
    """

    memory: int = 2 << 30
    processes: int = 128
    file_size: int = 64 << 20
    disk: int = 256 << 20
    cpu_seconds: int = 300
    wall_seconds: int = 600

    def __post_init__(self):
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"limit {name} is {value!r}; give a whole number >= 1")


def default_readable() -> tuple[Path, ...]:
    """The interpreter, the system's libraries, and our packages."""
    interpreter = [sys.prefix, sys.base_prefix, sysconfig.get_path("purelib")]
    added = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    named = [Path(p).absolute() for p in [*SYSTEM, *interpreter, *added, *PACKAGES]]
    both = dict.fromkeys(q for p in named for q in (p, p.resolve()) if q.exists())
    return tuple(both)


@dataclass(frozen=True)
class Policy:
    """What contained code may read, and its limits.

    `hidden_modules` are modules of our packages, by full name, that are taken out of
    the readable paths; `posttrain.checks` always is. `hidden_paths` are taken out too.
    `rung` is "auto" or the one rung of the ladder to stand on.
    """

    readable: tuple[Path, ...] = field(default_factory=default_readable)
    hidden_modules: tuple[str, ...] = ()
    hidden_paths: tuple[Path, ...] = ()
    limits: Limits = field(default_factory=Limits)
    rung: str = "auto"

    def __post_init__(self):
        if self.rung not in ("auto", *RUNGS):
            raise ValueError(f"rung {self.rung!r} is unknown; one of auto, {RUNGS}")

    @property
    def hidden(self) -> tuple[Path, ...]:
        """Every path that is taken out of the readable ones, resolved."""
        modules = [module_path(m) for m in ("posttrain.checks", *self.hidden_modules)]
        return tuple(p.resolve() for p in [*modules, *self.hidden_paths])


def module_path(name: str) -> Path:
    """The file or folder of a module of our packages; imports nothing."""
    parent, *rest = name.split(".")
    for package in PACKAGES:
        stem = package.joinpath(*rest)
        for path in (stem, stem.with_suffix(".py")):
            if parent == package.name and rest and path.exists():
                return path
    places = " or ".join(map(str, PACKAGES))
    raise ValueError(f"cannot hide module {name!r}: no such file in {places}")


def environment(private: Path, outside: Mapping[str, str]) -> dict[str, str]:
    """The whole environment inside: a few names from `outside`, the rest made here."""
    inside = {name: outside[name] for name in PASSED_ON if name in outside}
    inside.setdefault("LANG", "C.UTF-8")
    return inside | {
        "CUDA_VISIBLE_DEVICES": "",
        "HOME": str(private / "home"),
        "IPYTHONDIR": str(private / "home/.ipython"),
        "MPLCONFIGDIR": str(private / "home/.matplotlib"),
        "PATH": os.pathsep.join([f"{sys.prefix}/bin", "/usr/local/bin:/usr/bin:/bin"]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(private),
        "USER": "learner",
    }
