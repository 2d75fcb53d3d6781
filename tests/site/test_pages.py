"""Every page of the book in Chromium: quiet, in shape at every width, accessible."""

import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ci import site

ROOT = Path(site.__file__).resolve().parent.parent
AUDITS = Path(__file__).with_name("audits.js")


@pytest.fixture
def audit(visit):
    """Asks the page one of the questions of audits.js."""
    visit.run(AUDITS.read_text("utf-8"))
    return lambda question: visit.run(f"() => audits.{question}()")


def assert_quiet(visit):
    """No complaint, and no request but to the book itself."""
    assert visit.problems == []
    allowed = {("http", "127.0.0.1"), ("file", None), ("data", None)}
    for request in visit.requests:
        parts = urlsplit(request)
        assert (parts.scheme, parts.hostname) in allowed, request


def test_quiet_over_http(visit):
    assert_quiet(visit)


def test_quiet_from_a_folder(book, visit):
    opened = book.open(visit.name, base="file")
    assert_quiet(opened)
    opened.page.context.close()


def test_no_icon_font_or_script_is_fetched(visit):
    assert [name for name in visit.requests if "fontawesome" in name] == []


def test_no_sideways_scroll_at_any_width(visit, audit):
    for width in (400, 768, 1280, 1600):
        visit.page.set_viewport_size({"width": width, "height": 900})
        assert audit("wider") == [], f"{visit.name} at {width} px"


def test_code_of_80_columns_is_not_clipped(visit, audit):
    visit.page.set_viewport_size({"width": 1280, "height": 900})
    assert audit("clipped") == []


def test_headings_are_in_order(visit, audit):
    headings = audit("headings")
    levels = [level for level, _ in headings]
    assert levels[0] == 1 and levels.count(1) == 1, headings
    for (before, _), (level, text) in pairwise(headings):
        assert level <= before + 1, f"{text!r} jumps from {before} to {level}"


def test_pictures_have_names(audit):
    assert audit("nameless") == []


def test_maths_is_typeset(visit, audit):
    answer = audit("untypeset")
    assert answer["left"] == []
    part = visit.name.split("/")[1]
    if visit.name.startswith("book/") and part not in ("index", "guides"):
        assert answer["formulas"] > 0, "a chapter without a formula?"


def test_text_can_be_read_in_both_modes(book, visit, audit):
    assert audit("faint") == []
    dark = book.open(visit.name, mode="dark")
    assert dark.run("() => document.documentElement.dataset.theme") == "dark"
    dark.run(AUDITS.read_text("utf-8"))
    assert dark.run("() => audits.faint()") == []
    dark.page.context.close()


def test_colab_opens_the_notebook_of_the_same_path(visit):
    links = visit.page.locator(".dropdown-launch-buttons a")
    if visit.name == "book/index":
        assert links.count() == 0
        return
    colab = site.addresses(ROOT)["colab"]
    assert links.first.get_attribute("href") == f"{colab}/{visit.name}.ipynb"
    assert links.first.is_visible()
    assert (ROOT / f"{visit.name}.ipynb").is_file()


def test_parameters_are_not_on_the_page(visit):
    assert not re.search(
        r"^# Parameters$|^preset = ", visit.page.inner_text("article"), re.M
    )
