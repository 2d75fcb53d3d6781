"""The built pages as files: what they load is there, and is not somewhere else."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src"}
STRAY = re.compile(r"&lt;[\w.]+[^&]* at 0x[0-9a-f]+|/tmp/\w+")  # what a cell returned
OWN_WEIGHT = 1_500_000  # bytes of one page, beside what all pages share


class Links(HTMLParser):
    """Collects what a page loads, where it links to, and its anchors."""

    def __init__(self, text: str):
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if attributes.get(LOADED.get(tag, "")):
            self.loaded.append(attributes[LOADED[tag]])
        if tag == "a" and attributes.get("href"):
            self.linked.append(attributes["href"])
        self.anchors |= {attributes[key] for key in ("id", "name") if key in attributes}


def pages(html: Path) -> dict[Path, Links]:
    """Every page of the built book, parsed; the theme's own templates are no pages."""
    found = [path for path in html.rglob("*.html") if "_static" not in path.parts]
    return {path: Links(path.read_text("utf-8")) for path in found}


def test_everything_that_a_page_loads_is_in_the_book(html):
    for path, links in pages(html).items():
        for address in links.loaded:
            parts = urlsplit(address)
            if parts.scheme == "data" or address == "#":
                continue
            assert not parts.scheme and not parts.netloc, f"{path}: {address}"
            assert (path.parent / unquote(parts.path)).is_file(), f"{path}: {address}"


def test_styles_load_nothing_from_elsewhere(html):
    sheets = list(html.rglob("*.css"))
    assert sheets
    for path in sheets:
        for address in re.findall(r"url\(([^)]*)\)", path.read_text("utf-8")):
            assert not re.match(r"""['"]?(https?:)?//""", address), f"{path}: {address}"


def test_internal_links_lead_somewhere(html):
    parsed = pages(html)
    for path, links in parsed.items():
        for address in links.linked:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (
                (path.parent / unquote(parts.path)).resolve() if parts.path else path
            )
            assert target.is_file(), f"{path}: {address}"
            if parts.fragment and target in parsed:
                anchors = parsed[target].anchors
                assert unquote(parts.fragment) in anchors, f"{path}: {address}"


def test_no_page_shows_a_value_that_nobody_meant(html):
    """A last line that returns an object or a path shows it; it changes every build."""
    for path in pages(html):
        stray = STRAY.search(path.read_text("utf-8"))
        assert stray is None, f"{path.relative_to(html)} shows {stray[0]}"


def test_a_page_is_light(html):
    for path in pages(html):
        weight = path.stat().st_size
        assert weight < OWN_WEIGHT, f"{path.relative_to(html)}: {weight} bytes"
