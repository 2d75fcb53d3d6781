"""CPU seconds of each topic and stage against the budget of the book.

    python -m ci.times

Each stage of a build records what it took in build/times/<stage>/<slug>.json; this
prints the table. It never fails on time: machines are noisy. A time that is older than
the file that it measured is not shown.
"""

import contextlib
import json
import os
import resource
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from ci import syllabus

ROOT = Path(__file__).resolve().parent.parent

# Core-seconds of one topic, imports included: what a topic may take on average ...
BUDGET = {
    "chapter": 22.0,
    "nbval": 8.0,
    "solution": 5.0,
    "variants": 15.0,
    "tests": 10.0,
}
# ... and at most, where that is another number.
MOST = BUDGET | {"chapter": 40.0}
TOPICS, CORES = 76, 2  # the whole book, and the machine that it is planned for


def record(stage: str, slug: str, cpu: float, wall: float, root: Path = ROOT) -> None:
    """Keep what `stage` of the topic `slug` took, in seconds."""
    path = _path(stage, slug, root)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(f".{os.getpid()}")
    seconds = {"cpu_seconds": round(cpu, 2), "wall_seconds": round(wall, 2)}
    whole.write_text(json.dumps(seconds) + "\n")
    whole.replace(path)


@contextlib.contextmanager
def timed(stage: str, slug: str, root: Path = ROOT) -> Iterator[None]:
    """Record what the block takes: this process and all below it, ended or alive.

    A block that raises is not recorded.
    """
    cpu, wall = tree_seconds(), time.monotonic()
    yield
    record(stage, slug, tree_seconds() - cpu, time.monotonic() - wall, root)


def confirm(stage: str, slug: str, root: Path = ROOT) -> None:
    """Say that the recorded time still holds: what it measured has not changed."""
    path = _path(stage, slug, root)
    if path.exists():
        os.utime(path)


def cpu_seconds(
    stage: str, slug: str, root: Path = ROOT, stale: bool = False
) -> float | None:
    """The recorded CPU seconds, or None: never measured, or older than its source.

    With `stale` an old one is returned too, as a guess.
    """
    path = _path(stage, slug, root)
    if not path.exists():
        return None
    source = _measured(stage, slug, root)
    old = source is None or path.stat().st_mtime < source.stat().st_mtime
    if old and not stale:
        return None
    return json.loads(path.read_text())["cpu_seconds"]


def table(rows: dict[str, dict[str, float | None]]) -> str:
    """The table of `{slug: {stage: CPU seconds or None}}`, with means and budget.

    The last column is the sum of what is known of a topic.
    """
    rows = {slug: row | {"all": _sum(row.values())} for slug, row in rows.items()}
    budget = BUDGET | {"all": sum(BUDGET.values())}
    most = budget | MOST
    width = max(map(len, [*rows, "share of budget"]))
    lines = [_line("CPU seconds", list(budget), width)]
    for slug, row in rows.items():
        lines.append(_line(slug, [_cell(row[s], most[s]) for s in budget], width))
    means = {stage: _mean([row[stage] for row in rows.values()]) for stage in BUDGET}
    shown = means | {"all": _sum(means.values())}
    lines.append("-" * len(lines[0]))
    lines.append(_line("mean", [_cell(shown[s], budget[s]) for s in budget], width))
    lines.append(_line("budget", [f"{budget[s]:.0f}  " for s in budget], width))
    shares = [_share(shown[s], budget[s]) for s in budget]
    lines.append(_line("share of budget", shares, width))
    return "\n".join([*lines, "", _projection(means)])


def process_seconds() -> float:
    """CPU seconds of this process so far, and of its children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def tree_seconds() -> float:
    """As `process_seconds`, and of the processes below this one that are alive."""
    seconds = process_seconds()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            seconds += sum(process.cpu_times()[:4])  # its own, its ended children's
    return seconds


def _path(stage: str, slug: str, root: Path) -> Path:
    if stage not in BUDGET:
        raise ValueError(f"unknown stage {stage!r}; stages: {', '.join(BUDGET)}")
    return root / "build" / "times" / stage / f"{slug}.json"


def _measured(stage: str, slug: str, root: Path) -> Path | None:
    """The file that is written when the topic changes, for this stage."""
    patterns = {
        "chapter": f"book/*/{slug}.ipynb",
        "nbval": f"book/*/{slug}.ipynb",
        "solution": f"solutions/{slug}/{slug}.ipynb",
        "variants": f"solutions/{slug}/variants.py",
        "tests": f"tests/*/test_{slug}.py",
    }
    return next(root.glob(patterns[stage]), None)


def _sum(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return sum(known) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return sum(known) / len(known) if known else None


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _cell(value: float | None, most: float) -> str:
    """A value, marked when it is above `most`; "-" for one that is not known."""
    return "-  " if value is None else f"{value:.1f} {'!' if value > most else ' '}"


def _share(mean: float | None, budget: float) -> str:
    return "-  " if mean is None else f"{100 * mean / budget:.0f} %"


def _line(name: str, cells: list[str], width: int) -> str:
    return f"{name:<{width}}" + "".join(f"{cell:>12}" for cell in cells)


def _projection(means: dict[str, float | None]) -> str:
    """What the whole book would take; a stage without a time counts its budget."""
    topic = sum(BUDGET[s] if m is None else m for s, m in means.items())
    guessed = [stage for stage, mean in means.items() if mean is None]
    note = f" (at the budget for: {', '.join(guessed)})" if guessed else ""
    minutes, budget = (TOPICS * s / CORES / 60 for s in (topic, sum(BUDGET.values())))
    return (
        f"{TOPICS} topics at this mean{note}: {minutes:.0f} minutes on {CORES} cores; "
        f"the budget is {budget:.0f}.   ! above the budget   - not measured"
    )


def main() -> None:
    topics = [t for t in syllabus.load().topics.values() if t.ready]
    print(table({t.slug: {s: cpu_seconds(s, t.slug) for s in BUDGET} for t in topics}))


if __name__ == "__main__":
    main()
