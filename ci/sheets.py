"""Printable sheets: each book/<part>/<name>.typ becomes a PDF of exactly one page.

    python -m ci.sheets    # writes build/site/book/<part>/<name>.pdf

Typst comes as a wheel that holds its own fonts; those of the machine are left out, so
the same source gives the same bytes anywhere, with no network.
"""

import sys
from pathlib import Path

import typst

ROOT = Path(__file__).resolve().parent.parent
WHEN = 1_767_225_600  # the date inside the files (2026-01-01, UTC): a build has none


class SheetError(Exception):
    """A sheet that cannot be printed; the text says why and where."""


def sheets(root: Path) -> list[Path]:
    """The sources of all sheets, relative to `root`."""
    return sorted(path.relative_to(root) for path in root.glob("book/*/*.typ"))


def compiled(source: Path) -> bytes:
    """The PDF of a sheet.

    Raises SheetError if Typst complains, or if it is not exactly one page.
    """
    count = len(pages(source))
    if count != 1:
        raise SheetError(
            f"{source.name} takes {count} pages and must take one: shorten it, or make"
            " the type smaller"
        )
    return _typst(source, "pdf")


def pages(source: Path) -> list[bytes]:
    """Each page of a sheet as a picture (PNG), for a look at it."""
    drawn = _typst(source, "png")
    return drawn if isinstance(drawn, list) else [drawn]


def _typst(source: Path, form: str) -> bytes | list[bytes]:
    try:
        result, warnings = typst.compile_with_warnings(
            str(source),
            root=str(source.parent),
            format=form,
            ignore_system_fonts=True,
            timestamp=WHEN,
            ppi=110.0,
        )
    except typst.TypstError as error:
        raise SheetError(f"{source.name}: {error}") from None
    if warnings:
        raise SheetError(f"{source.name}: {warnings[0]}")
    return result


def main() -> int:
    for source in sheets(ROOT):
        target = ROOT / "build/site" / source.with_suffix(".pdf")
        try:
            content = compiled(ROOT / source)
        except SheetError as error:
            print(error, file=sys.stderr)
            return 1
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        print(f"wrote {target.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
