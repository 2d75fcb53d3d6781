"""What was measured, as a file and as lines for a terminal.

The file is `results/kernels.<gpu>.json`:

    provenance   date, command, seed, hardware, versions
    limits       bytes and FLOPs a second of this GPU, measured in this run
    cases        one a family and size: shape, dtype, who was left out and why, and
                 passes: bytes, flops, limit_us, rounds, results (medians, quantiles)
    challenge    the NF4 challenge by its own protocol, or null
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

NUMBER = (int, float)
RECORD = {"provenance": dict, "limits": dict, "cases": list}
PROVENANCE = {
    "date": str,
    "command": str,
    "seed": int,
    "hardware": dict,
    "versions": dict,
    "data": list,
}
LIMITS = {"bytes_per_second": NUMBER, "flops_per_second": NUMBER, "dtype": str}
CASE = {
    "family": str,
    "size": str,
    "shape": dict,
    "dtype": str,
    "left_out": list,
    "passes": list,
}
PASS = {
    "pass": str,
    "bytes": int,
    "flops": int,
    "limit_us": NUMBER,
    "rounds": int,
    "left_out": list,
    "results": list,
}
RESULT = {
    "contestant": str,
    "median_us": NUMBER,
    "q20_us": NUMBER,
    "q80_us": NUMBER,
    "min_us": NUMBER,
    "share_of_limit": NUMBER,
}
LEFT_OUT = {"contestant": str, "reason": str}
CHALLENGE = {
    "repeats": int,
    "samples": int,
    "left_out": list,
    "shapes": list,
    "total_seconds": dict,
    "speedup_over_unsloth": dict,
}


def write(path: Path, record: dict) -> None:
    """Five significant digits; the whole file or nothing. ValueError if it is none."""
    record = _significant(record)
    validate(record)
    whole = path.with_name(path.name + ".new")
    whole.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    whole.replace(path)


def read(path: Path) -> dict:
    """The record in a file. ValueError, naming the field, if it is none."""
    record = json.loads(path.read_text(encoding="utf-8"))
    validate(record)
    return record


def validate(record: object) -> None:
    """Raise ValueError, naming the field, unless this is a record of a benchmark."""
    _fields(record, RECORD, "record")
    _fields(record["provenance"], PROVENANCE, "provenance")
    _fields(record["limits"], LIMITS, "limits")
    for case in record["cases"]:
        _fields(case, CASE, "case")
        where = f"{case['family']} {case['size']}"
        _each(case["left_out"], LEFT_OUT, where)
        for timed in case["passes"]:
            _fields(timed, PASS, where)
            _each(timed["left_out"], LEFT_OUT, f"{where} {timed['pass']}")
            _each(timed["results"], RESULT, f"{where} {timed['pass']}")
    if record.get("challenge") is not None:
        _fields(record["challenge"], CHALLENGE, "challenge")


def title(record: dict) -> str:
    """The GPU and what it can do, in a line."""
    limits = record["limits"]
    return (
        f"{record['provenance']['hardware']['gpu']}: copies"
        f" {limits['bytes_per_second'] / 1e12:.2f} TB/s, multiplies {limits['dtype']}"
        f" at {limits['flops_per_second'] / 1e12:.0f} TFLOP/s (measured in this run)"
    )


def case_lines(case: dict) -> Iterator[str]:
    """A family at one size: a line a contestant and pass."""
    shape = ", ".join(f"{axis} {n}" for axis, n in case["shape"].items())
    yield f"{case['family']} {case['size']} ({shape}; {case['dtype']})"
    yield from _absent(case["left_out"])
    for timed in case["passes"]:
        yield (
            f"  {timed['pass']:<9}{'median us':>19} {'q20':>10} {'q80':>10}"
            f" {'of limit':>9} {'ours is':>8} {'peak MiB':>9}"
        )
        ours = {r["contestant"]: r["median_us"] for r in timed["results"]}.get("ours")
        for result in sorted(timed["results"], key=lambda r: r["median_us"]):
            yield _line(result, ours)
        yield from _absent(timed["left_out"])


def challenge_lines(challenge: dict) -> Iterator[str]:
    """The NF4 challenge: seconds in sum, and the speed-ups."""
    yield (
        f"nf4_challenge ({challenge['repeats']} repeats, median of"
        f" {challenge['samples']}, summed over {len(challenge['shapes'])} sizes)"
    )
    yield from _absent(challenge["left_out"])
    totals = challenge["total_seconds"]
    peers = [name for name in totals if name.startswith("Unsloth")]
    for name, seconds in totals.items():
        said = "".join(f"  {totals[peer] / seconds:.2f}x {peer}" for peer in peers)
        yield f"    {name:<14}{seconds:>10.4f} s{said}"


def _line(result: dict, ours: float | None) -> str:
    times = f"{ours and result['median_us'] / ours:.2f}x" if ours else "-"
    peak = f"{result['peak_mib']:.0f}" if "peak_mib" in result else "-"
    return (
        f"    {result['contestant']:<14}{result['median_us']:>12.1f}"
        f" {result['q20_us']:>10.1f} {result['q80_us']:>10.1f}"
        f" {result['share_of_limit']:>9.0%} {times:>8} {peak:>9}"
    )


def _absent(left_out: list[dict]) -> Iterator[str]:
    for one in left_out:
        yield f"    {one['contestant']:<14}left out: {one['reason']}"


def _each(values: list, expected: dict, where: str) -> None:
    for value in values:
        _fields(value, expected, where)


def _fields(value: object, expected: dict, where: str) -> None:
    """Each field of `expected` is in the mapping `value`, with its type."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} is a {type(value).__name__}, expected an object")
    for field, kind in expected.items():
        if field not in value:
            raise ValueError(f"{where} has no field {field!r}")
        if not isinstance(value[field], kind) or isinstance(value[field], bool):
            raise ValueError(f"{where} has {field!r} = {value[field]!r}")


def _significant(value: object) -> object:
    """The same with floats of five digits; ValueError for one that is not finite."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no measurement")
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _significant(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_significant(item) for item in value]
    return value
