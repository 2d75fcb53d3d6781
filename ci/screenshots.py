"""Pictures of pages of the rendered book, as a reader without a network sees them.

For those who change its look. Each page is opened from build/html as a file, in each
colour mode and at each width; the pictures lie in build/screenshots afterwards.

    python -m ci.screenshots book/index book/foundations/attention --width 400 1600
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = Path("/usr/bin/chromium")
# No name resolves but this machine's, and the browser's own services are off.
FLAGS = (
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-sandbox",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium with every host but 127.0.0.1 unreachable."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=list(FLAGS)
        )
        yield browser
        browser.close()


def settle(page: Page) -> None:
    """Wait until maths is typeset and fonts are loaded."""
    page.wait_for_load_state("load")
    page.evaluate(
        "async () => { if (window.MathJax?.startup) await MathJax.startup.promise;"
        " await document.fonts.ready; }"
    )


def take(
    browser: Browser, html: Path, name: str, mode: str, width: int, out: Path, top: bool
) -> Path:
    """Write one picture of page `name` (no suffix) and return its path.

    `mode` is "light" or "dark", `width` in CSS pixels; `top` cuts it at 1200 px.
    """
    context = browser.new_context(
        viewport={"width": width, "height": 1200},
        color_scheme=mode,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto((html / f"{name}.html").as_uri())
    settle(page)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name.replace('/', '-')}.{mode}.{width}.png"
    page.screenshot(path=path, full_page=not top)
    context.close()
    return path


def main(arguments: list[str] | None = None) -> int:
    """Take the pictures that the command line asks for."""
    parser = argparse.ArgumentParser(description="Pictures of pages of the book.")
    parser.add_argument("pages", nargs="*", default=["book/index"])
    parser.add_argument("--mode", nargs="+", default=["light", "dark"])
    parser.add_argument("--width", nargs="+", type=int, default=[400, 1600])
    parser.add_argument("--top", action="store_true", help="only the first screen")
    parser.add_argument("--html", type=Path, default=ROOT / "build/html")
    parser.add_argument("--out", type=Path, default=ROOT / "build/screenshots")
    options = parser.parse_args(arguments)
    if not CHROMIUM.exists():
        print(f"{CHROMIUM} is missing: apt-get install chromium.", file=sys.stderr)
        return 1
    absent = [name for name in options.pages if not page_file(options, name).exists()]
    if absent:
        print(f"No such page: {', '.join(absent)}. Run `make book`.", file=sys.stderr)
        return 1
    with chromium() as browser:
        for name in options.pages:
            for mode in options.mode:
                for width in options.width:
                    html, out = options.html.resolve(), options.out
                    path = take(browser, html, name, mode, width, out, options.top)
                    print(os.path.relpath(path))
    return 0


def page_file(options: argparse.Namespace, name: str) -> Path:
    """Where page `name` lies below the folder of the command line."""
    return options.html / f"{name}.html"


if __name__ == "__main__":
    sys.exit(main())
