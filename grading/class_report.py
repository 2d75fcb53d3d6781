"""What a class got right and wrong, on one page: what to teach again.

For each exercise: how scores are spread, which tasks were hard, and which known
mistakes were made how often, each with the hint that the learner got. The page needs no
network, and nothing of a submission can act in it: all text is escaped.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from grading.record import FAILED, GRADED, REJECTED, Mark, Record

BINS = 10
UNSOLVED = "NotImplementedError"


@dataclass(frozen=True)
class TaskReport:
    """One task of an exercise, over all who were graded on it.

    share: the mean of score / max_score. right, wrong, unsolved: how many have all
    points, lost some, or left it as it was released. mistakes: (name, hint, how often),
    most often first.
    errors: (class of exception, how often) of answers that equal no known mistake.
    """

    task: str
    share: float
    right: int
    wrong: int
    unsolved: int
    mistakes: list[tuple[str, str, int]]
    errors: list[tuple[str, int]]


@dataclass(frozen=True)
class ExerciseReport:
    """One exercise: `scores` of those graded, tasks from the hardest to the easiest,
    `rejected` and `failed` with their reasons."""

    slug: str
    max_score: float
    scores: list[float]
    tasks: list[TaskReport]
    rejected: list[tuple[str, str]]
    failed: list[tuple[str, str]]

    @property
    def bins(self) -> list[int]:
        """How many scores lie in each tenth of the points; full marks in the last."""
        counts = [0] * BINS
        for score in self.scores:
            share = score / self.max_score if self.max_score else 0.0
            counts[min(BINS - 1, max(0, int(share * BINS)))] += 1
        return counts


def summarise(records: Iterable[Record]) -> list[ExerciseReport]:
    """A report for each exercise that was handed in, by slug."""
    by_slug: dict[str, list[Record]] = {}
    for record in records:
        by_slug.setdefault(record.exercise, []).append(record)
    return [_exercise(slug, by_slug[slug]) for slug in sorted(by_slug)]


def html(records: Sequence[Record]) -> str:
    """The page."""
    reports = summarise(records)
    body = "".join(map(_section, reports))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Class report</title><style>{STYLE}</style></head><body>"
        f"<h1>Class report</h1>{body}</body></html>\n"
    )


def _exercise(slug: str, records: list[Record]) -> ExerciseReport:
    graded = [r for r in records if r.status == GRADED]
    by_task: dict[str, list[tuple[Record, Mark]]] = {}
    for record in graded:
        for mark in record.marks:
            by_task.setdefault(mark.task, []).append((record, mark))
    tasks = [_task(name, found) for name, found in by_task.items()]
    return ExerciseReport(
        slug,
        max((r.max_score for r in records), default=0.0),
        [r.score for r in graded],
        sorted(tasks, key=lambda task: task.share),
        [(r.student, r.note) for r in records if r.status == REJECTED],
        [(r.student, r.note) for r in records if r.status == FAILED],
    )


def _task(name: str, found: list[tuple[Record, Mark]]) -> TaskReport:
    marks = [mark for _, mark in found if mark.score is not None]
    wrong = [mark for mark in marks if mark.score < mark.max_score]
    mistakes = Counter((m.mistake, m.hint) for m in wrong if m.mistake)
    others = [m.raised for m in wrong if not m.mistake]
    errors = Counter(raised for raised in others if raised not in ("", UNSOLVED))
    shares = [m.score / m.max_score for m in marks if m.max_score]
    return TaskReport(
        name,
        statistics.fmean(shares) if shares else 0.0,
        len(marks) - len(wrong),
        len(wrong) - others.count(UNSOLVED),
        others.count(UNSOLVED),
        [(*key, count) for key, count in mistakes.most_common()],
        errors.most_common(),
    )


def _section(report: ExerciseReport) -> str:
    count = len(report.scores)
    parts = [f"<h2>{escape(report.slug)}</h2>"]
    said = f"{count} graded, {len(report.rejected)} rejected"
    if report.failed:
        said += f", {len(report.failed)} could not be graded"
    if count:
        mean, median = statistics.fmean(report.scores), statistics.median(report.scores)
        most = f"{report.max_score:g}"
        said += f". Mean {mean:.1f} of {most}, median {median:g}, "
        said += f"from {min(report.scores):g} to {max(report.scores):g}"
        parts += [f"<p>{said}.</p>", _histogram(report), _tasks(report)]
        parts.append(_mistakes(report, count))
    else:
        parts.append(f"<p>{said}.</p>")
    parts.append(_reasons("Rejected", report.rejected))
    parts.append(_reasons("Could not be graded", report.failed))
    return f"<section>{''.join(parts)}</section>"


def _histogram(report: ExerciseReport) -> str:
    """Bars of an inline SVG, 640 x 160, counts above them and points at their edges."""
    wide, high, left = 600 / BINS, 110, 20
    step, most = report.max_score / BINS, max(report.bins)
    edges = [
        f'<text x="{left + i * wide:.0f}" y="152">{i * step:g}</text>'
        for i in range(BINS + 1)
    ]
    bars = []
    for i, count in enumerate(report.bins):
        x, tall = left + i * wide, high * count / most
        y = 20 + high - tall
        bars.append(
            f'<rect x="{x + 2:.1f}" y="{y:.1f}" width="{wide - 4:.1f}" '
            f'height="{tall:.1f}" class="bar"/>'
            f'<text x="{x + wide / 2:.1f}" y="{y - 5:.1f}">{count or ""}</text>'
        )
    told = ", ".join(
        f"{n} from {i * step:g} to {(i + 1) * step:g}"
        for i, n in enumerate(report.bins)
        if n
    )
    return (
        f'<figure><svg viewBox="0 0 640 160" role="img" aria-label="Scores: {told}">'
        f'<line x1="{left}" x2="620" y1="131" y2="131" class="line"/>'
        f"{''.join(bars + edges)}</svg><figcaption>How many got how many points"
        "</figcaption></figure>"
    )


def _tasks(report: ExerciseReport) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(t.task)}</code></td>"
        f'<td class="n">{t.share:.0%}</td>'
        f'<td><span class="meter"><span style="width:{t.share:.0%}"></span></span></td>'
        f'<td class="n">{t.right}</td><td class="n">{t.unsolved}</td>'
        f'<td class="n">{t.wrong}</td></tr>'
        for t in report.tasks
    )
    return (
        "<h3>Tasks, the hardest first</h3><table><thead><tr><th>task</th>"
        '<th class="n">points earned</th><th></th><th class="n">right</th>'
        '<th class="n">not tried</th><th class="n">wrong</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _mistakes(report: ExerciseReport, count: int) -> str:
    """Known mistakes and errors of all tasks, the most frequent first."""
    found = [
        (
            often,
            t.task,
            name.replace("_", " "),
            f"<blockquote>{escape(hint)}</blockquote>",
        )
        for t in report.tasks
        for name, hint, often in t.mistakes
    ]
    found += [
        (often, t.task, f"raises {error}", "")
        for t in report.tasks
        for error, often in t.errors
    ]
    if not found:
        return "<p>No known mistake was made.</p>"
    items = "".join(
        f"<li><strong>{often} of {count}</strong> ({often / count:.0%}) in "
        f"<code>{escape(task)}</code>: {escape(what)}{hint}</li>"
        for often, task, what, hint in sorted(found, key=lambda row: -row[0])
    )
    return f"<h3>What to teach again</h3><ol>{items}</ol>"


def _reasons(title: str, reasons: list[tuple[str, str]]) -> str:
    if not reasons:
        return ""
    items = "".join(f"<li>{escape(who)}: {escape(why)}</li>" for who, why in reasons)
    return f"<h3>{title}</h3><ul>{items}</ul>"


STYLE = """
:root{color-scheme:light dark;--bar:#2a6f97;--line:#8886}
body{font:16px/1.6 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}
@media(prefers-color-scheme:dark){:root{--bar:#7fb7d9}}
svg{width:100%;max-width:640px;height:auto;font:12px system-ui,sans-serif}
svg text{fill:currentColor;text-anchor:middle}
.line{stroke:var(--line)}
.bar,.meter span{fill:var(--bar);background:var(--bar)}
figure{margin:1rem 0}figcaption{font-size:.9rem;opacity:.8}
table{border-collapse:collapse;width:100%;display:block;overflow-x:auto}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;
border-bottom:1px solid var(--line)}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.meter{display:inline-block;width:8rem;height:.7rem;border:1px solid var(--line)}
.meter span{display:block;height:100%}
li{margin:.6rem 0}
blockquote{margin:.2rem 0 0;padding-left:.8rem;border-left:3px solid var(--line)}
"""
