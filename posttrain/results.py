"""Measured results, as they were written: `load("attention", "cpu")`.

One small JSON file an experiment and preset, `results/<slug>.<preset>.json`:

    slug, preset   which experiment, at which size
    version        the experiment's `VERSION` when it was measured
    provenance     date, command, hardware, versions, data
    runs           one a seed: seed, cpu_seconds, result (what `run` returned)

What is no experiment of a topic has a file of its own form, `results/<name>.json`, with
the same provenance: `read("grading_throughput")`.
"""

import json
import math
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent

FIELDS = {
    "slug": str,
    "preset": str,
    "version": int,
    "provenance": dict,
    "runs": list,
}
PROVENANCE = {
    "date": str,
    "command": str,
    "hardware": dict,
    "versions": dict,
    "data": list,
}
RUN = {"seed": int, "cpu_seconds": (int, float), "result": dict}


def significant(value, digits: int = 5):
    """The same with floats of so many significant digits: results are read by people.

    Works through dicts, lists and tuples; what is not finite becomes None, as JSON has
    no word for it.
    """
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: significant(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [significant(item, digits) for item in value]
    return value


def load(slug: str, preset: str) -> dict:
    """The measured result of the experiment `slug` at `preset`.

    Read from `results/` of the checkout, or from the installed package where there is
    no checkout. Raises FileNotFoundError where it was never measured, ValueError for a
    file that is not what `make measure` writes.
    """
    command = f"`python -m ci.measure {slug} {preset}` (make measure)"
    record = _parsed(f"{slug}.{preset}.json", command)
    validate(record, slug, preset)
    return record


def read(name: str) -> dict:
    """The measured result `results/<name>.json`, of which only provenance is checked.

    Found as by `load`. Raises FileNotFoundError where it was never measured, ValueError
    for a file that is no JSON object or does not say how it was measured.
    """
    where = f"results/{name}.json"
    record = _parsed(f"{name}.json", "`make measure`")
    _fields(record, {"provenance": dict}, where)
    _fields(record["provenance"], PROVENANCE, f"{where}, provenance")
    return record


def validate(record: object, slug: str, preset: str) -> None:
    """Raise ValueError, naming the field, unless `record` is a result of this one."""
    where = f"results/{slug}.{preset}.json"
    _fields(record, FIELDS, where)
    _fields(record["provenance"], PROVENANCE, f"{where}, provenance")
    for number, run in enumerate(record["runs"]):
        _fields(run, RUN, f"{where}, run {number}")
    if not record["runs"]:
        raise ValueError(f"{where} holds no run")
    seeds = [run["seed"] for run in record["runs"]]
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"{where} holds a seed twice: {seeds}")
    for field, expected in (("slug", slug), ("preset", preset)):
        if record[field] != expected:
            raise ValueError(
                f"{where} says {field} {record[field]!r}; was it renamed or copied?"
            )


def _fields(value: object, expected: dict, where: str) -> None:
    """Each field of `expected` is in the mapping `value`, with its type."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} is a {type(value).__name__}, expected an object")
    for field, kind in expected.items():
        if field not in value:
            raise ValueError(f"{where} has no field {field!r}; measure it again")
        if not isinstance(value[field], kind) or isinstance(value[field], bool):
            raise ValueError(
                f"{where} has {field!r} = {value[field]!r} of type "
                f"{type(value[field]).__name__}; measure it again"
            )


def _parsed(name: str, command: str) -> object:
    """The content of results/`name`, which `command` writes."""
    folder = _folder()
    if folder is None or not (file := folder / name).is_file():
        raise FileNotFoundError(
            f"no measured result results/{name}; write it with {command}"
        )
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"results/{name} is not JSON: {error}") from None


def _folder() -> Traversable | None:
    """`results/` of the checkout, else the results that were installed, else None."""
    if (CHECKOUT / "pyproject.toml").is_file():
        return CHECKOUT / "results"
    try:
        return resources.files("posttrain_results")
    except ModuleNotFoundError:
        return None
