"""The cells that are written from `syllabus.yml`, so that nothing is typed twice."""

from __future__ import annotations

import json
from pathlib import Path

from ci.repository import Repository
from ci.syllabus import Guide, Syllabus, Topic

SETUP = """\
# On Colab this installs the book's library; anywhere else it does nothing.
import os
import subprocess
import sys

if "google.colab" in sys.modules:
    source = os.environ.get("POSTTRAIN_SOURCE", "{pip}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", source]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pip could not install {{source}}:\\n{{done.stderr}}")"""


def setup(repository: Repository) -> str:
    """The set-up cell of a chapter or an exercise."""
    return SETUP.format(pip=repository.pip)


def chapter_header(topic: Topic, syllabus: Syllabus) -> str:
    """Title, priority, time and what comes before."""
    part = syllabus.parts[topic.part].title
    facts = [part, f"about {topic.minutes} minutes"]
    if topic.priority:
        facts.insert(0, f"**{topic.priority}**")
    lines = [f"# {topic.title}", "", " · ".join(facts)]
    if topic.needs:
        before = [_topic_link(syllabus.topics[slug]) for slug in topic.needs]
        lines += ["", f"Helps to know first: {', '.join(before)}."]
    return "\n".join(lines)


def guide_header(guide: Guide) -> str:
    """Title and time."""
    return f"# {guide.title}\n\nGuide · about {guide.minutes} minutes"


def papers(topic: Topic, syllabus: Syllabus) -> str:
    """The reading list of a chapter."""
    lines = [
        "## Papers",
        "",
        "| paper | what to read in it | which knob it is |",
        "| --- | --- | --- |",
    ]
    for reading in topic.papers:
        paper = syllabus.papers[reading.key]
        name = f"{paper.authors} {paper.year}, [{paper.title}]({paper.url})"
        lines.append(f"| {name} | {reading.read} | {reading.knob} |")
    return "\n".join(lines)


def exercise_header(topic: Topic, nb: dict) -> str:
    """Title, points and the way back to the chapter."""
    tasks, points = graded(nb)
    chapter = f"../../{topic.chapter}"
    return (
        f"# Exercise: {topic.title}\n\n"
        f"{tasks} graded tasks, {points} points. "
        f"It belongs to the chapter [{topic.title}]({chapter})."
    )


def exercise_card(
    topic: Topic, nb: dict, repository: Repository, scores: dict | None
) -> str:
    """The end of a chapter: where the exercise is, how well its grader was tested."""
    tasks, points = graded(nb)
    lines = [
        "## The exercise",
        "",
        f"[**{topic.title}: {tasks} graded tasks, {points} points**]"
        f"(../../{topic.exercise})",
        "",
        f"Solve it [in Colab]({repository.colab(str(topic.exercise))}), or in your own "
        f"Jupyter: `{topic.exercise}`.",
    ]
    if scores:
        lines += ["", _scores(scores)]
    solution = repository.file(str(topic.solution))
    return "\n".join(
        [
            *lines,
            "",
            "<details><summary>Spoiler: the solution</summary>",
            "",
            f"[The solved notebook]({solution}) is in the repository. Try for an hour "
            "first: the hints of the checks are written for that hour.",
            "",
            "</details>",
        ]
    )


def graded(nb: dict) -> tuple[int, int]:
    """Number of graded cells of an nbgrader notebook, and their points."""
    marks = [c["metadata"].get("nbgrader", {}) for c in nb["cells"]]
    points = [m["points"] for m in marks if m.get("grade")]
    total = sum(points)
    return len(points), int(total) if total == int(total) else total


def grader_scores(topic: Topic, root: Path) -> dict | None:
    """The measured scores of the exercise's grader, None before it was measured."""
    path = root / "results" / f"{topic.slug}.grader.json"
    return json.loads(path.read_text()) if path.exists() else None


def _scores(scores: dict) -> str:
    variants, mutants = scores["variants"], scores["mutants"]
    same = "behaves" if mutants["equivalent"] == 1 else "behave"
    return (
        "How well the grader itself was tested: it refuses "
        f"{variants['wrong_refused']} of {variants['wrong']} known wrong answers, "
        f"accepts {variants['right_accepted']} of {variants['right']} right ones "
        "written another way, and refuses "
        f"{mutants['killed']} of the {mutants['total']} answers made by changing one "
        f"thing in the solution; the other {mutants['equivalent']} {same} the same."
    )


def _topic_link(topic: Topic) -> str:
    if topic.status != "ready":
        return topic.title
    return f"[{topic.title}](../{topic.part}/{topic.slug}.ipynb)"
