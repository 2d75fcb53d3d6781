"""Figures of the guide "Grading a class": the way of a submission, and what it costs.

    measured = Measured.of(results.read("grading_throughput"))
    throughput(measured)

The speed, memory and kills are those that `python -m ci.grading_throughput` measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean

from IPython.display import HTML, display
from matplotlib.axes import Axes

from posttrain.plot import display_figure, figure, palette, titles

STOCK, OURS = "nbgrader autograde", "make grade"
KILLS = "runs grader worker kernel marks_changed graded_twice"


@dataclass(frozen=True)
class Race:
    """The same submissions, graded by both: seconds of each repeat."""

    submissions: int
    stock_seconds: tuple[float, ...]
    ours_seconds: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """How many times faster ours is, for each repeat."""
        pairs = zip(self.stock_seconds, self.ours_seconds, strict=True)
        return [stock / ours for stock, ours in pairs]

    @property
    def per_minute(self) -> dict[str, list[float]]:
        """Submissions a minute of both graders, for each repeat."""
        both = {STOCK: self.stock_seconds, OURS: self.ours_seconds}
        return {k: [60 * self.submissions / s for s in v] for k, v in both.items()}


@dataclass(frozen=True)
class Measured:
    """`results/grading_throughput.json`.

    fast, slow: a race with quick answers, and one with answers of `answer_seconds`.
    memory: for each size of a class `submissions`, and the highest resident memory of
    the grader, `grader_mib`, and of its largest worker, `workers_mib`.
    kills: `runs`, how often each of `grader`, `worker` and `kernel` was killed, and of
    how many submissions `marks_changed` or which were `graded_twice`.
    """

    workers: int
    fast: Race
    slow: Race
    answer_seconds: float
    memory: Sequence[dict]
    kills: dict
    provenance: dict

    @classmethod
    def of(cls, record: dict) -> Measured:
        """From what `posttrain.results.read` gives. ValueError for a missing field."""
        try:
            slow = record["slow"]
            return cls(
                record["workers"],
                _race(record["submissions"], record["fast"]),
                _race(slow["submissions"], [slow]),
                slow["answer_seconds"],
                [_only(m, "submissions grader_mib workers_mib") for m in _some(record)],
                _only(record["kills"], KILLS),
                record["provenance"],
            )
        except KeyError as error:
            where = "results/grading_throughput.json"
            raise ValueError(
                f"{where} has no field {error}; measure it again"
            ) from None

    def minutes(self, students: int) -> float:
        """How long a class of that size takes at the mean rate of quick answers."""
        return students / fmean(self.fast.per_minute[OURS])


def throughput(measured: Measured) -> None:
    """Display submissions a minute: the mean as a bar, each repeat as a point."""
    fig, (left, right) = figure(columns=2, height=190, sharey=True)
    _bars(left, measured.fast, "Quick answers")
    _bars(right, measured.slow, f"Answers of {measured.answer_seconds:g} s")
    fast, slow = measured.fast, measured.slow
    display_figure(
        fig,
        alt=f"Quick answers: {_told(fast)}. Answers of {measured.answer_seconds:g} "
        f"seconds: {_told(slow)}.",
        caption=f"Both graders on the same submissions, {measured.workers} workers for "
        f"{OURS}. Bars: mean; points: the {len(fast.ratios)} repeats on the left, "
        f"the one run on the right.",
    )


def _race(submissions: int, repeats: Sequence[dict]) -> Race:
    stock, ours = (
        tuple(repeat[f"{name}_seconds"] for repeat in repeats)
        for name in ("stock", "ours")
    )
    return Race(submissions, stock, ours)


def _some(record: dict) -> list[dict]:
    return sorted(record["memory"], key=lambda row: row["submissions"])


def _only(fields: dict, names: str) -> dict:
    return {name: fields[name] for name in names.split()}


def _bars(ax: Axes, race: Race, title: str) -> None:
    colors = {STOCK: palette["grey"], OURS: palette["blue"]}
    for name, rates in race.per_minute.items():
        ax.barh([name], [fmean(rates)], height=0.5, color=colors[name], alpha=0.45)
        ax.plot(rates, [name] * len(rates), "o", color=colors[name], markersize=5)
    ax.set_xlim(left=0)
    ax.grid(visible=False, axis="y")
    titles(ax, title, x="submissions a minute", y="")


def _told(race: Race) -> str:
    rates = race.per_minute.items()
    return ", ".join(f"{name} {fmean(each):.1f} a minute" for name, each in rates)


# ---------------------------------------------------------- how a submission flows

# Each step: what comes in, its name, what it does.
STEPS = (
    ("submitted/STUDENT/…", "Intake", "reads the file, in a process of few rights"),
    ("cells, as text", "Rebuild", "the released notebook, with their answers in it"),
    ("code", "Contained kernel", "runs the answers, locked in"),
    ("cases up, outcomes down", "Judge", "another process: compares with a reference"),
    ("marks and hints", "Journal", "one line for each submission, on the disk"),
    ("marks", "Gradebook", "one writer; pages and tables follow from it"),
)
THEIRS = 2  # the step that runs their code; the next one talks with it, both ways
FLOW = (
    "A submission passes six steps: intake, rebuild, contained kernel, judge, journal, "
    "gradebook. Only the contained kernel runs code of the submission. It gets cases "
    "from the judge and gives plain data back."
)
_BOX, _GAP, _WIDE = 52, 34, 350


def flow() -> None:
    """Display the way of a submission as an inline SVG, narrow enough for a phone."""
    parts = [_step(number, *step) for number, step in enumerate(STEPS)]
    high = len(STEPS) * (_BOX + _GAP) + 2
    display(
        HTML(
            '<figure class="pt-figure" style="max-width:640px"><svg role="img" '
            f'aria-label="{escape(FLOW)}" viewBox="0 0 {_WIDE} {high}" '
            f'width="{_WIDE}" style="max-width:100%;min-width:0;height:auto" '
            'fill="currentColor" font-family="system-ui,sans-serif" font-size="13">'
            f"{''.join(parts)}</svg><figcaption>The way of a submission. Dashed: the "
            "only step in which code of the submission runs.</figcaption></figure>"
        )
    )


def _step(number: int, comes: str, name: str, what: str) -> str:
    y = number * (_BOX + _GAP) + _GAP
    theirs = number == THEIRS
    line = palette["orange" if theirs else "blue"]
    dashes = ' stroke-dasharray="7 4"' if theirs else ""
    return (
        f"{_arrow(y - _GAP, comes, both=number == THEIRS + 1)}"
        f'<rect x="1" y="{y}" width="{_WIDE - 2}" height="{_BOX}" rx="6" fill="{line}" '
        f'fill-opacity="0.1" stroke="{line}" stroke-width="2"{dashes}/>'
        f'<text x="14" y="{y + 21}" font-weight="600">{escape(name)}</text>'
        f'<text x="14" y="{y + 40}">{escape(what)}</text>'
    )


def _arrow(top: int, words: str, both: bool) -> str:
    start, end = top + 4, top + _GAP - 3
    heads = f"M19 {end - 6}l5 6l5 -6"
    if both:
        heads += f"M19 {start + 6}l5 -6l5 6"
    return (
        f'<path d="M24 {start}V{end}{heads}" fill="none" stroke="currentColor" '
        f'stroke-width="1.5"/><text x="40" y="{top + 22}" font-size="12" '
        f'fill-opacity="0.85">{escape(words)}</text>'
    )
