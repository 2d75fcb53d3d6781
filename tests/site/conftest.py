"""A built book and a browser that can reach nothing but this machine.

Where the book or Chromium is missing these tests are skipped with the reason; with
POSTTRAIN_REQUIRE_SITE=1 (as in CI) that is a failure.
"""

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ci import screenshots, serve, site

ROOT = Path(site.__file__).resolve().parent.parent
HTML = ROOT / "build/html"
PAGES = [str(page) for page in site.pages(ROOT / "_toc.yml")]


@dataclass
class Visit:
    """A page in the browser, and everything it asked for or complained about."""

    page: object
    name: str
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def run(self, script: str, argument: object = None) -> object:
        """The value of a JavaScript function on the page."""
        return self.page.evaluate(script, argument)


class Book:
    """Opens pages of the built book, by HTTP or straight from the folder."""

    def __init__(self, browser, address: str):
        self.browser = browser
        self.bases = {"http": address, "file": HTML.as_uri() + "/"}

    def open(self, name: str, base="http", width=1280, mode="light") -> Visit:
        """Page `name` (no suffix, may carry a query) in a fresh browser context."""
        context = self.browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=mode
        )
        visit = Visit(context.new_page(), name)
        page = visit.page
        page.on("request", lambda request: visit.requests.append(request.url))
        page.on("requestfailed", lambda r: visit.problems.append(f"failed {r.url}"))
        page.on("response", lambda answer: note_status(visit, answer))
        page.on("pageerror", lambda error: visit.problems.append(f"error {error}"))
        page.on("console", lambda message: note_console(visit, message))
        path, _, query = name.partition("?")
        page.goto(self.bases[base] + path + ".html" + (f"?{query}" if query else ""))
        screenshots.settle(page)
        return visit


def note_status(visit: Visit, answer) -> None:
    """Record an answer that is an error; files have status 0 or 200."""
    if answer.status >= 400:
        visit.problems.append(f"status {answer.status} {answer.url}")


def note_console(visit: Visit, message) -> None:
    """Record errors and warnings; the theme's chatter is at level log."""
    if message.type in ("error", "warning"):
        visit.problems.append(f"console {message.type}: {message.text}")


def require(condition: bool, reason: str) -> None:
    """Skip with `reason`, or fail where the site is required."""
    if condition:
        return
    if os.environ.get("POSTTRAIN_REQUIRE_SITE") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built book."""
    require((HTML / "index.html").exists(), "no built book: run `make book`")
    return HTML


@pytest.fixture(scope="module")
def book(html):
    """The built book in a browser; one browser and one server a module."""
    chromium = screenshots.CHROMIUM
    require(chromium.exists(), f"{chromium} is missing: apt-get install chromium")
    server = serve.open_server(html, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with server, screenshots.chromium() as browser:
        yield Book(browser, f"http://127.0.0.1:{server.server_address[1]}/")
        server.shutdown()


@pytest.fixture(scope="module", params=PAGES)
def visit(request, book):
    """Every page in turn by HTTP, 1280 px wide, light; shared by a module's tests."""
    opened = book.open(request.param)
    yield opened
    opened.page.context.close()
