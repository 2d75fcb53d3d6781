"""What several chapters start from, built once: `artifacts.get("part.slug", "cpu")`.

The builder is `build(preset) -> dict` in `posttrain/<part>/<slug>_artifact.py`; the
dict holds tensors and plain values. It is kept in `$POSTTRAIN_CACHE/artifacts`
(`~/.cache/posttrain/artifacts`) under a name that ends in a digest of all that it
depends on. When a module behind the builder, the data or torch change, the name
changes, and it is built anew.
"""

import contextlib
import fcntl
import hashlib
import importlib
import importlib.metadata
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from posttrain import cache, sources

NAME = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")


def get(name: str, preset: str) -> dict:
    """The artifact `name` ("<part>.<slug>") for `preset`, from the cache or built now.

    Several processes may ask at once: the first builds, the others wait for it.
    Raises ValueError for a name without a builder or a dict that cannot be kept, and
    passes on what the builder raises (a preset it does not know).
    """
    path = path_of(name, preset)
    path.parent.mkdir(parents=True, exist_ok=True)
    if (artifact := _read(path)) is not None:
        return artifact
    with _locked(path.with_suffix(".lock")):
        if (artifact := _read(path)) is not None:  # built while this process waited
            return artifact
        return _build(name, preset, path)


def path_of(name: str, preset: str) -> Path:
    """Where the artifact is kept, or will be."""
    if not re.fullmatch(r"[\w-]+", preset):
        raise ValueError(f"preset {preset!r} is no name; presets are ci, cpu, t4, ...")
    return cache.folder("artifacts") / f"{name}.{preset}.{key(name, preset)[:16]}.pt"


def key(name: str, preset: str) -> str:
    """sha256 over the builder's sources, the data, the preset and torch's version."""
    paths = sources.closure(_builder(name))
    depends = [sources.digest(paths), preset, importlib.metadata.version("torch")]
    if sources.find("posttrain.data") in paths:
        depends += [sha256 for _, sha256 in sources.data_checksums().values()]
    return hashlib.sha256("\0".join(depends).encode()).hexdigest()


def known() -> list[str]:
    """The names of all artifacts that have a builder, sorted."""
    paths = sources.PACKAGE.glob("*/*_artifact.py")
    return sorted(f"{p.parent.name}.{p.stem.removesuffix('_artifact')}" for p in paths)


def _builder(name: str) -> str:
    """The module that builds `name`."""
    module = f"posttrain.{name}_artifact"
    if not NAME.fullmatch(name) or sources.find(module) is None:
        listed = ", ".join(known()) or "none yet"
        raise ValueError(
            f"no artifact {name!r}; known artifacts: {listed}. A new one is "
            "build(preset) in posttrain/<part>/<slug>_artifact.py"
        )
    return module


def _build(name: str, preset: str, path: Path) -> dict:
    """Build and keep: the whole file or nothing. Returns what a reader will get."""
    import torch

    print(f"artifact {name} ({preset}): building it, once", flush=True)
    start = time.monotonic()
    artifact = importlib.import_module(_builder(name)).build(preset)
    if not isinstance(artifact, dict):
        raise ValueError(
            f"build() of artifact {name} returned a {type(artifact).__name__}; "
            "it must return a dict of tensors and plain values"
        )
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        whole = Path(scratch) / path.name
        torch.save(artifact, whole)
        try:
            kept = torch.load(whole, weights_only=True)
        except Exception as error:
            raise ValueError(
                f"artifact {name} cannot be kept: its dict may hold tensors and plain "
                f"values only ({_first_line(error)})"
            ) from error
        whole.replace(path)
    print(f"artifact {name} ({preset}): built in {time.monotonic() - start:.1f} s")
    return kept


def _read(path: Path) -> dict | None:
    """The kept artifact, or None where it is not there or damaged (which is said)."""
    import torch

    try:
        return torch.load(path, weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file fails in many ways
        print(f"{path} is damaged ({_first_line(error)}); it is built again")
        return None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; it ends with the process, so a crash leaves none."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
