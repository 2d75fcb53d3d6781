"""The curriculum map of the landing page: every topic, ready or planned.

Plain semantic HTML without style, script or blank lines, so that it can stand in a
Markdown page. The classes `map-...` are styled in `book/static/css/landing.css`; every
mark is also a word, so nothing depends on colour.
"""

from html import escape

from ci.syllabus import Part, Syllabus, Topic

PRIORITIES = {"P0": "must know", "P1": "likely to come up", "P2": "good to know"}


def html(syllabus: Syllabus) -> str:
    """The map as one <div>; links are relative to book/index.html."""
    topics = list(syllabus.topics.values())
    legend = "; ".join(f"{mark} {words}" for mark, words in PRIORITIES.items())
    lines = [
        '<div class="map">',
        f'<p class="map-legend">{_count(topics)}. Priorities: {legend}.</p>',
    ]
    for part in syllabus.parts.values():
        lines += _part(part, [topic for topic in topics if topic.part == part.id])
    return "\n".join([*lines, "</div>", ""])


def _part(part: Part, topics: list[Topic]) -> list[str]:
    """One part: its heading, what it is for, and its topics in order."""
    heading = f"map-{escape(part.id)}"
    return [
        f'<section class="map-part" aria-labelledby="{heading}">',
        f'<h3 id="{heading}">{escape(part.title)}</h3>',
        f'<p class="map-summary">{escape(part.summary)} '
        f'<span class="map-count">{_count(topics)}.</span></p>',
        '<ol class="map-topics">',
        *(_topic(topic) for topic in topics),
        "</ol>",
        "</section>",
    ]


def _topic(topic: Topic) -> str:
    """One topic: its name, a link once it is ready, then the marks in words."""
    name = f'<span class="map-title">{escape(topic.title)}</span>'
    if topic.ready:
        page = f"{topic.part}/{topic.slug}.html"
        name = f'<a class="map-title" href="{page}">{escape(topic.title)}</a>'
    marks = [
        f'<span class="map-minutes">{topic.minutes} min</span>',
        f'<span class="map-status">{topic.status}</span>',
    ]
    if topic.priority:
        words = f"{topic.priority}: {PRIORITIES[topic.priority]}"
        kind = topic.priority.lower()
        marks.insert(
            0,
            f'<abbr class="map-priority map-{kind}" title="{words}">'
            f"{topic.priority}</abbr>",
        )
    return f'<li class="map-topic map-{topic.status}">{name} {" ".join(marks)}</li>'


def _count(topics: list[Topic]) -> str:
    """How many topics there are, and how many are ready: "14 topics, 1 ready"."""
    noun = "topic" if len(topics) == 1 else "topics"
    return f"{len(topics)} {noun}, {sum(topic.ready for topic in topics)} ready"
