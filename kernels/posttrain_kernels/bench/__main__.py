"""Measure the kernels beside their peers: python -m posttrain_kernels.bench --help"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from posttrain_kernels.bench import challenge, limits, report, runner
from posttrain_kernels.bench.cases import MEASURED, SMALL
from posttrain_kernels.bench.contestants import LIBRARIES, first_line, installed
from posttrain_kernels.bench.cuda import Cuda
from posttrain_kernels.bench.families import FAMILIES
from posttrain_kernels.bench.provenance import provenance, slug
from posttrain_kernels.bench.timing import Budget

NO_GPU = (
    "no CUDA GPU is visible to PyTorch {version}, and nothing is reported that was not"
    " measured on one: run this on a GPU machine (--list says which libraries are"
    " missing here), or, without one, prove values and machine code of the kernels"
    " with posttrain_kernels.lab"
)
QUICK = Budget(seconds=0.5, least=5, most=20, warm_up=2)
# the challenge early: a run that is cut off has it
EVERYTHING = [*FAMILIES]
EVERYTHING.insert(EVERYTHING.index("nf4") + 1, challenge.NAME)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when done, 1 when a kernel of ours is wrong, 2 without a GPU or bad options."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.list:
        print("\n".join(listing()))
        return 0
    if not torch.cuda.is_available():
        print(NO_GPU.format(version=torch.__version__), file=sys.stderr)
        return 2
    path = _out(given, parser)
    draft = path and path.with_name(path.name + ".part")
    record, failed = measured(given, arguments, _bench(given), draft)
    for failure in failed:
        print(f"failed: {failure}", file=sys.stderr)
    if failed:
        rest = f"what was measured is in {draft}" if draft else "see above for the rest"
        print(f"nothing is written as a result; {rest}", file=sys.stderr)
        return 1
    if path is None:
        print("\nnot written: a partial run goes to a file only with --out FILE")
    else:
        report.write(path, record)
        draft.unlink(missing_ok=True)
        print(f"\nwrote {path}")
    return 0


def measured(
    given: argparse.Namespace,
    arguments: Sequence[str],
    bench: runner.Bench,
    draft: Path | None = None,
) -> tuple[dict, list[str]]:
    """The record of what the options ask for, and what failed.

    Each case is printed, and written to `draft`, as soon as it is measured: a run that
    is stopped in the middle, or a kernel that fails, costs no other case its numbers.
    """
    record = {
        "provenance": provenance(arguments, given.seed),
        "limits": dataclasses.asdict(bench.limits),
        "cases": [],
        "challenge": None,
    }
    print(report.title(record))
    failed = []
    for name, size in _parts(given.family or EVERYTHING, given.quick):
        print(f"{name} {size} ...", file=sys.stderr, flush=True)
        try:
            if name == challenge.NAME:
                record["challenge"] = _challenge(bench, given)
                lines = report.challenge_lines(record["challenge"])
            else:
                record["cases"].append(runner.measure(FAMILIES[name], size, bench))
                lines = report.case_lines(record["cases"][-1])
        except Exception as error:  # an error of the GPU may come out anywhere
            failed.append(f"{name} {size}: {first_line(error)}")
            continue
        print("\n" + "\n".join(lines), flush=True)
        if draft:
            report.write(draft, record)
    return record, failed


def listing() -> Iterator[str]:
    """Families with their sizes and contestants; libraries and their versions."""
    for family in FAMILIES.values():
        yield f"{family.name} ({', '.join(family.axes)})"
        for size in MEASURED:
            yield f"    {size:<8}{' x '.join(map(str, family.sizes[size]))}"
        yield f"    against {', '.join(entry.name for entry in family.entries[1:])}"
    yield f"{challenge.NAME}: the published NF4 challenge, by its own protocol"
    for width, hidden, _, dtype in challenge.OPTIONS:
        yield f"    {hidden} x {width} {str(dtype).removeprefix('torch.')}"
    yield "libraries"
    for name, distribution in LIBRARIES.items():
        yield f"    {distribution:<14}{installed(name) or 'not installed'}"


def _bench(given: argparse.Namespace) -> runner.Bench:
    """The current GPU, its limits measured; bf16 where it has it, else fp16."""
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    device = Cuda()
    return runner.Bench(
        device=device,
        where="cuda",
        dtype=dtype,
        limits=limits.measure(device, "cuda", dtype),
        budget=QUICK if given.quick else Budget(seconds=given.seconds),
        seed=given.seed,
    )


def _parts(chosen: Sequence[str], quick: bool) -> Iterator[tuple[str, str]]:
    """Families by size, in the order of the options; the challenge has one part."""
    for name in chosen:
        every = (SMALL,) if quick else MEASURED
        for size in ("",) if name == challenge.NAME else every:
            yield name, size


def _challenge(bench: runner.Bench, given: argparse.Namespace) -> dict:
    repeats = 20 if given.quick else challenge.REPEATS
    return challenge.measure(bench, repeats=repeats)


def _out(given: argparse.Namespace, parser: argparse.ArgumentParser) -> Path | None:
    """Where to write; None for a partial run that nobody named a file for."""
    if given.out is None and (given.quick or given.family):
        return None
    gpu = slug(torch.cuda.get_device_name())
    path = given.out or Path("results", f"kernels.{gpu}.json")
    if not path.parent.is_dir():
        parser.error(
            f"no folder {path.parent}: run this in the repository's root, or name"
            " another file with --out"
        )
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m posttrain_kernels.bench", description=__doc__.split(":")[0]
    )
    parser.add_argument(
        "--family",
        action="append",
        choices=[*FAMILIES, challenge.NAME],
        help="only this one; may be given several times (default: all)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes and few rounds: does it run?"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=Budget.seconds,
        help="to time one pass of one case, compiling aside (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, help="the file (default: results/kernels.GPU.json)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the random inputs (default: 0)"
    )
    parser.add_argument(
        "--list", action="store_true", help="families and libraries; needs no GPU"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
