"""Run notebooks in parallel; run again only what changed; report what failed.

    python -m ci.execute book/foundations/attention.ipynb ...

A notebook runs in a folder of its own under build/run and is moved to its place when
it is whole, so what lies under build/site has run from top to bottom. Its key (see
`ci.keys`) is kept under build/keys; while the key is the same, it is not run again.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ci import keys, times
from ci.processes import Command, Ended, run_all, tail
from ci.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 600.0
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Job:
    """One notebook to have executed.

    `path` is relative to the repository; the result lies at the same path under
    `target` ("build/site"). `stage` is one of `ci.times.BUDGET`.
    """

    path: Path
    slug: str
    stage: str = "chapter"
    preset: str = "ci"
    target: Path = Path("build/site")


@dataclass(frozen=True)
class Outcome:
    """What became of a job: "run", "cached" or "failed", and why it was run."""

    job: Job
    status: str
    reason: str = ""
    cpu_seconds: float | None = None
    wall_seconds: float | None = None
    error: str = ""


def execute(
    jobs: Sequence[Job],
    workers: int | None = None,
    limit_s: float = LIMIT_S,
    root: Path = ROOT,
) -> list[Outcome]:
    """Have every job executed, `workers` at a time (default: one a core).

    Returns the outcomes in the order of `jobs`. A notebook that fails, or takes more
    than `limit_s` seconds of wall time, stops no other. On Ctrl-C what runs is ended,
    and what was finished stays.
    """
    root = root.resolve()
    outcomes: dict[Job, Outcome] = {}
    waiting: dict[str, tuple[Job, keys.Key, str]] = {}
    for job in jobs:
        outcome, key = _look(job, root)
        if outcome.status == "waiting":
            waiting[job.path.as_posix()] = (job, key, outcome.reason)
        else:
            outcomes[job] = outcome
            if outcome.status == "failed":
                _forget(job, root)
    # The slowest first, as far as known: no long one is left to run alone at the end.
    order = sorted(waiting, key=lambda name: -_expected(waiting[name][0], root))
    commands = [_command(waiting[name][0], root) for name in order]
    with Progress(len(commands), " notebooks") as progress:

        def on_end(ended: Ended) -> None:
            job, key, reason = waiting[ended.command.name]
            outcomes[job] = outcome = _finish(job, key, reason, ended, limit_s, root)
            word = "FAILED" if outcome.status == "failed" else "ok"
            progress.end_one(f"{word} {job.path} ({ended.wall_seconds:.0f} s)")

        try:
            run_all(
                commands, on_end, workers=workers, limit_s=limit_s, progress=progress
            )
        except KeyboardInterrupt:
            progress.say(f"interrupted; the {progress.done} that were done stay")
            raise
    return [outcomes[job] for job in jobs]


def report(outcomes: Sequence[Outcome]) -> int:
    """Print the failures and the table; the exit status, 0 if nothing failed."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        print(f"\n{'=' * 79}\nFAILED {outcome.job.path}\n{outcome.error}")
    width = max([len("notebook"), *(len(str(o.job.path)) for o in outcomes)])
    print(f"\n{'notebook':<{width}}  {'CPU s':>7} {'wall s':>7}  {'':<6}  why")
    for outcome in outcomes:
        cpu, wall = map(_seconds, (outcome.cpu_seconds, outcome.wall_seconds))
        row = f"{outcome.job.path!s:<{width}}  {cpu:>7} {wall:>7}  {outcome.status:<6}"
        print(f"{row}  {outcome.reason}".rstrip())
    ran = sum(outcome.status == "run" for outcome in outcomes)
    cached = len(outcomes) - ran - len(failed)
    print(f"{ran} run, {cached} unchanged, {len(failed)} failed")
    return 1 if failed else 0


def _look(job: Job, root: Path) -> tuple[Outcome, keys.Key]:
    """Is it unchanged, to be run ("waiting"), or not even readable?"""
    try:
        key = keys.key(root / job.path, job.slug, job.preset, root)
    except (OSError, ValueError, SyntaxError) as error:
        return Outcome(job, "failed", "cannot be read", error=str(error)), {}
    old = _read_key(_key_path(job, root))
    if not (root / job.target / job.path).is_file():
        reason = "first run" if old is None else "its output is not there"
    elif not (reason := keys.explain(old, key)):
        times.confirm(job.stage, job.slug, root)
        return Outcome(job, "cached"), key
    return Outcome(job, "waiting", reason), key


def _command(job: Job, root: Path) -> Command:
    """The process that runs it, in an empty folder under build/run."""
    folder = _folder(job, root)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "ci.run_notebook", str(root / job.path)]
    argv += [str(folder / job.path.name), "--preset", job.preset]
    return Command(job.path.as_posix(), argv, folder / "log.txt", ROOT)


def _finish(
    job: Job, key: keys.Key, reason: str, ended: Ended, limit_s: float, root: Path
) -> Outcome:
    """Put a whole notebook and its key in place; explain a failed one."""
    made, target = _folder(job, root) / job.path.name, root / job.target / job.path
    cpu, wall = ended.cpu_seconds, ended.wall_seconds
    _forget(job, root)
    if ended.exit_code != 0:
        error = _explain_failure(root / job.path, made, ended, limit_s)
        return Outcome(job, "failed", reason, cpu, wall, error)
    target.parent.mkdir(parents=True, exist_ok=True)
    made.replace(target)
    _write_key(_key_path(job, root), key)
    times.record(job.stage, job.slug, cpu, wall, root)
    shutil.rmtree(_folder(job, root))
    return Outcome(job, "run", reason, cpu, wall)


def _forget(job: Job, root: Path) -> None:
    """Drop an earlier result, the key first: without it nothing counts as done."""
    _key_path(job, root).unlink(missing_ok=True)
    (root / job.target / job.path).unlink(missing_ok=True)


def _explain_failure(source: Path, made: Path, ended: Ended, limit_s: float) -> str:
    """Which cell, its source, and what it raised; the log where no cell is to blame."""
    what = f"killed after {limit_s:.0f} s, the time limit" if ended.late else "failed"
    cell = _guilty_cell(made)
    if cell is None:
        return f"{what}, in no cell; its log ends with:\n\n{tail(ended.command.log)}"
    ids = [c.get("id") for c in keys.read_cells(source)]
    number = ids.index(cell["id"]) + 1 if cell.get("id") in ids else "(injected)"
    source_text = "".join(cell["source"])
    trace = next(
        (o for o in cell.get("outputs", []) if o["output_type"] == "error"), None
    )
    if trace is not None:
        said = ANSI.sub("", "\n".join(trace["traceback"]))
    else:
        said = "" if ended.late else tail(ended.command.log)
    indented = "\n".join(f"    {line}" for line in source_text.splitlines())
    where = f"{what} in cell {number} of {len(ids)}, id {cell.get('id')!r}:"
    kept = f"What it showed until then: {made}"
    return "\n\n".join(filter(None, [where, indented, said, kept]))


def _guilty_cell(made: Path) -> dict | None:
    """The cell of a partial notebook that was started last."""
    try:
        cells = keys.read_cells(made)
    except (OSError, ValueError):  # it ended before the first cell, or in a write
        return None
    started = [
        cell
        for cell in cells
        if cell["metadata"].get("papermill", {}).get("start_time")
    ]
    return started[-1] if started else None


def _folder(job: Job, root: Path) -> Path:
    return root / "build" / "run" / job.path.with_suffix("")


def _key_path(job: Job, root: Path) -> Path:
    return root / "build" / "keys" / job.path.with_suffix(".json")


def _read_key(path: Path) -> keys.Key | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_key(path: Path, key: keys.Key) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".new")
    whole.write_text(json.dumps(key, indent=1), encoding="utf-8")
    whole.replace(path)


def _expected(job: Job, root: Path) -> float:
    """CPU seconds of the last run; a notebook that never ran counts as slow."""
    seconds = times.cpu_seconds(job.stage, job.slug, root, stale=True)
    return LIMIT_S if seconds is None else seconds


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--preset", default="ci")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="SECONDS")
    arguments = parser.parse_args()
    jobs = []
    for notebook in arguments.notebooks:
        path = notebook.resolve()
        if not path.is_relative_to(ROOT):
            parser.error(f"{notebook} is not in {ROOT}")
        path = path.relative_to(ROOT)
        stage = "solution" if path.parts[0] == "solutions" else "chapter"
        target = Path("build/site" if stage == "chapter" else "build/solutions")
        jobs.append(Job(path, path.stem, stage, arguments.preset, target))
    return report(execute(jobs, arguments.workers, arguments.limit))


if __name__ == "__main__":
    sys.exit(main())
