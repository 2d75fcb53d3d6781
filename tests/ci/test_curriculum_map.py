"""The curriculum map shows every topic, and links exactly those that are ready."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from ci.curriculum_map import html
from ci.syllabus import load


@pytest.fixture(scope="module")
def book():
    """The repository's own syllabus."""
    return load()


class Outline(HTMLParser):
    """Checks the nesting; collects tags, headings, links and the text of each item."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.items, self.headings = [], [], [], []
        self.links = {}
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append((tag, dict(attrs)))
        self.tags.append((tag, dict(attrs)))
        if tag == "li":
            self.items.append("")

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        names = [tag for tag, _ in self.open]
        if "li" in names:
            self.items[-1] += data
        if "h3" in names:
            self.headings.append(data)
        if "a" in names:
            self.links[self.open[-1][1]["href"]] = data


def all_planned(book):
    """The syllabus as it was before any topic was ready."""
    topics = book.topics.items()
    planned = {slug: replace(topic, status="planned") for slug, topic in topics}
    return replace(book, topics=planned)


def with_topic(book, slug, **changes):
    """The syllabus with some fields of one topic changed."""
    topics = {**book.topics, slug: replace(book.topics[slug], **changes)}
    return replace(book, topics=topics)


def test_every_topic_is_there_in_order(book):
    outline = Outline(html(book))
    assert len(outline.items) == 76
    for item, topic in zip(outline.items, book.topics.values(), strict=True):
        words = [topic.title, topic.priority, f"{topic.minutes} min", topic.status]
        assert item == " ".join(word for word in words if word)
    assert outline.headings == [part.title for part in book.parts.values()]


def test_exactly_the_ready_topics_are_links(book):
    ready = [topic for topic in book.topics.values() if topic.ready]
    assert Outline(html(book)).links == {
        f"{topic.part}/{topic.slug}.html": topic.title for topic in ready
    }
    assert "foundations/attention.html" in Outline(html(book)).links


def test_status_decides(book):
    source = html(with_topic(all_planned(book), "dpo", status="ready", minutes=7))
    outline = Outline(source)
    assert list(outline.links) == ["alignment/dpo.html"]
    title = book.topics["dpo"].title
    assert f"{title} P0 7 min ready" in outline.items
    assert "9 topics, 1 ready.</span>" in source and "14 topics, 0 ready." in source
    assert "76 topics, 1 ready. Priorities: P0 must know;" in source


def test_text_is_escaped(book):
    source = html(with_topic(book, "dpo", title='<b> & "quotes"', status="ready"))
    assert "&lt;b&gt; &amp; &quot;quotes&quot;</a>" in source and "<b>" not in source
    part = replace(book.parts["agents"], title="Q & A", summary="1 < 2.")
    source = html(replace(book, parts={**book.parts, "agents": part}))
    assert ">Q &amp; A</h3>" in source and "1 &lt; 2." in source


def test_markup_is_plain_and_accessible(book):
    source = html(book)
    outline = Outline(source)
    names = {tag for tag, _ in outline.tags}
    assert names == {"div", "p", "section", "h3", "ol", "li", "span", "abbr", "a"}
    for tag, attributes in outline.tags:
        assert set(attributes) <= {"class", "id", "href", "title", "aria-labelledby"}
        for name in attributes.get("class", "map").split():
            assert re.fullmatch(r"map(-[a-z0-9]+)?", name), name
        if tag == "abbr":
            assert attributes["title"].split(": ")[0] in ("P0", "P1", "P2")
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    labels = [a["aria-labelledby"] for tag, a in outline.tags if tag == "section"]
    assert len(set(ids)) == len(ids) and labels == ids


def test_it_can_stand_in_markdown(book):
    lines = html(book).removesuffix("\n").split("\n")
    assert all(line.startswith("<") for line in lines)


def test_one_topic_is_singular(book):
    assert '<span class="map-count">1 topic, 0 ready.</span>' in html(all_planned(book))
