"""Measure experiments: at least three seeds, each in a fresh process with one thread.

    python -m ci.measure                                  all ready topics, preset cpu
    python -m ci.measure attention cpu --seeds 0 1 2      one

Writes results/<slug>.<preset>.json once all seeds are in. Runs that are done are kept
under build/measure until then, so an interrupted measurement goes on where it was, as
long as `VERSION` and the code behind the experiment are the same.
"""

import argparse
import ast
import importlib
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ci import provenance, syllabus, times
from ci.processes import Command, Ended, run_all, tail
from ci.progress import Progress
from posttrain import results, sources

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (0, 1, 2)
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # and the network allowed: real data first


class MeasureError(Exception):
    """What cannot be measured, and how to mend it."""


@dataclass(frozen=True)
class Experiment:
    """posttrain/<part>/<slug>_experiment.py, with its `VERSION` and `run`."""

    slug: str
    part: str
    root: Path = ROOT

    @property
    def module(self) -> str:
        return f"posttrain.{self.part}.{self.slug}_experiment"

    @property
    def path(self) -> Path:
        return self.root.joinpath(*self.module.split(".")).with_suffix(".py")

    @property
    def version(self) -> int:
        """`VERSION`, read from the source so that nothing has to be imported."""
        for node in ast.parse(self.path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == (
                "VERSION"
            ):
                return ast.literal_eval(node.value)
        raise MeasureError(f"{self.path} has no line like `VERSION = 1`")

    @property
    def code(self) -> str:
        """Digest of all modules behind it."""
        paths = sources.closure(self.module, package=self.root / "posttrain")
        return sources.digest(paths, self.root)


def ready(root: Path = ROOT) -> list[Experiment]:
    """The experiments of the topics that are ready."""
    topics = [topic for topic in syllabus.load().topics.values() if topic.ready]
    every = [Experiment(topic.slug, topic.part, root) for topic in topics]
    return [experiment for experiment in every if experiment.path.is_file()]


def find(slug: str, root: Path = ROOT) -> Experiment:
    """The experiment of a topic, ready or not. Raises MeasureError without one."""
    topics = syllabus.load().topics
    every = [Experiment(topic.slug, topic.part, root) for topic in topics.values()]
    known = {one.slug: one for one in every if one.path.is_file()}
    if slug not in known:
        what = "has no experiment" if slug in topics else "is no topic of syllabus.yml"
        listed = ", ".join(known) or "none"
        raise MeasureError(f"{slug!r} {what}; topics with an experiment: {listed}")
    return known[slug]


def measure(
    experiment: Experiment, preset: str, seeds: Sequence[int], workers: int = 1
) -> Path:
    """Run what is missing of `seeds`, `workers` at a time; write and return the file.

    Raises MeasureError for fewer than three seeds, a preset that the experiment does
    not know, or a seed that fails; the others' runs are kept.
    """
    seeds = sorted(set(seeds))
    if len(seeds) < len(SEEDS):
        raise MeasureError(f"{len(SEEDS)} different seeds at least, got {seeds}")
    missing = [s for s in seeds if _read(experiment, preset, s) is None]
    for seed in sorted(set(seeds) - set(missing)):
        print(f"{experiment.slug} {preset}: seed {seed} was measured before")
    commands = [_command(experiment, preset, seed) for seed in missing]
    with Progress(len(commands), " seeds") as progress:

        def on_end(ended: Ended) -> None:
            if ended.exit_code:
                raise MeasureError(_failure(ended))
            progress.end_one(f"{ended.command.name}: {ended.wall_seconds:.0f} s")

        run_all(commands, on_end, workers=workers, progress=progress)
    parts = [_read(experiment, preset, seed) for seed in seeds]
    if changed := [s for s, part in zip(seeds, parts, strict=True) if part is None]:
        raise MeasureError(
            f"the code of {experiment.slug} changed while seeds {changed} ran; start"
            " again, and leave its modules alone meanwhile"
        )
    record = _record(experiment, preset, seeds, parts)
    results.validate(record, experiment.slug, preset)
    target = experiment.root / "results" / f"{experiment.slug}.{preset}.json"
    _write(target, record)
    for seed in seeds:
        _part(experiment, preset, seed).unlink()
    return target


def check(slug: str, root: Path = ROOT) -> list[str]:
    """What is wrong with the measured `cpu` result of a ready topic; empty if nothing.

    A topic without an experiment needs none.
    """
    topic = syllabus.load().topics[slug]
    experiment = Experiment(slug, topic.part, root)
    if not topic.ready or not experiment.path.is_file():
        return []
    mend = f"; run `python -m ci.measure {slug} cpu`"
    try:
        record = results.load(slug, "cpu")
    except (FileNotFoundError, ValueError) as error:
        return [str(error)]
    problems = []
    if record["version"] != experiment.version:
        problems.append(
            f"results/{slug}.cpu.json is of VERSION {record['version']}, the "
            f"experiment is at {experiment.version}{mend}"
        )
    if len(record["runs"]) < len(SEEDS):
        problems.append(
            f"results/{slug}.cpu.json holds {len(record['runs'])} seeds, "
            f"{len(SEEDS)} are needed{mend}"
        )
    return problems


def run_here(experiment: Experiment, preset: str, seed: int) -> dict:
    """One run in this process: its result, and what it depended on."""
    loaded = provenance.watch_data()
    module = importlib.import_module(experiment.module)
    before = times.process_seconds()
    result = module.run(preset, seed)
    seconds = times.process_seconds() - before
    if not isinstance(result, dict):
        raise TypeError(f"run() returned a {type(result).__name__}, expected a dict")
    return {
        "version": module.VERSION,
        "code": experiment.code,
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "data": sorted(loaded, key=lambda corpus: corpus["name"]),
        "run": {"seed": seed, "cpu_seconds": round(seconds, 2), "result": result},
    }


def _command(experiment: Experiment, preset: str, seed: int) -> Command:
    part = _part(experiment, preset, seed)
    argv = [sys.executable, "-m", "ci.measure", experiment.slug, preset]
    argv += ["--seeds", str(seed), "--into", str(part)]
    name = f"{experiment.slug} {preset} seed {seed}"
    return Command(name, argv, part.with_suffix(".log"), experiment.root, ONE_THREAD)


def _failure(ended: Ended) -> str:
    """The message of a ValueError, or else the end of the log."""
    said = tail(ended.command.log)
    last = said.splitlines()[-1]
    if last.startswith("ValueError: "):
        said = last.removeprefix("ValueError: ")
    return f"{ended.command.name} failed: {said}\n(its log: {ended.command.log})"


def _part(experiment: Experiment, preset: str, seed: int) -> Path:
    folder = experiment.root / "build" / "measure"
    return folder / f"{experiment.slug}.{preset}.seed{seed}.json"


def _read(experiment: Experiment, preset: str, seed: int) -> dict | None:
    """The kept run of one seed, unless there is none or the code has changed since."""
    try:
        part = json.loads(_part(experiment, preset, seed).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    same = part["version"] == experiment.version and part["code"] == experiment.code
    return part if same else None


def _record(
    experiment: Experiment, preset: str, seeds: Sequence[int], parts: list[dict]
) -> dict:
    """The content of results/<slug>.<preset>.json."""
    alike = {}
    for field in ("version", "hardware", "versions", "data"):
        values = [part[field] for part in parts]
        if any(value != values[0] for value in values):
            raise MeasureError(
                f"the seeds of {experiment.slug} differ in {field}: {values}; remove "
                f"build/measure/{experiment.slug}.{preset}.* and measure them again"
            )
        alike[field] = values[0]
    command = ["python", "-m", "ci.measure", experiment.slug, preset, "--seeds"]
    return {
        "slug": experiment.slug,
        "preset": preset,
        "version": alike["version"],
        "provenance": {
            "date": datetime.now(UTC).date().isoformat(),
            "command": shlex.join([*command, *map(str, seeds)]),
            "hardware": alike["hardware"],
            "versions": alike["versions"],
            "data": alike["data"],
        },
        "runs": [part["run"] for part in parts],
    }


def _write(path: Path, content: dict) -> None:
    """Write JSON: the whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".new")
    whole.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    whole.replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slug", nargs="?", help="a topic (default: all ready ones)")
    parser.add_argument("preset", nargs="?", default="cpu", help="default: cpu")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--workers", type=int, default=1, help="seeds at a time")
    parser.add_argument(
        "--into", type=Path, help="run one seed in this process and write it there"
    )
    given = parser.parse_args()
    try:
        chosen = [find(given.slug)] if given.slug else ready()
        if given.into:
            _write(given.into, run_here(chosen[0], given.preset, given.seeds[0]))
            return 0
        for one in chosen:
            path = measure(one, given.preset, given.seeds, given.workers)
            print(f"wrote {path.relative_to(ROOT)}")
            _say_fallbacks(path)
    except MeasureError as error:
        print(error, file=sys.stderr)
        return 1
    if not chosen:
        print("no ready topic has an experiment")
    return 0


def _say_fallbacks(path: Path) -> None:
    """A number measured on a stand-in text must not pass for the real one."""
    for corpus in json.loads(path.read_text())["provenance"]["data"]:
        if corpus["source"] == "fallback":
            print(
                f"WARNING: measured on the fallback of {corpus['name']}, not on the "
                "real text; set POSTTRAIN_DATA and measure again before you commit it"
            )


if __name__ == "__main__":
    sys.exit(main())
