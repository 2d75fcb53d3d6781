"""Printable sheets: one page each, the same bytes each time, and right numbers."""

import math
import re
from pathlib import Path

import pytest
import torch

from ci import sheets, site

SHEET = Path("book/foundations/math_cheat_sheet.typ")


@pytest.fixture
def write(tmp_path):
    """A sheet of its own: `write(text)` gives its path."""

    def path(text):
        source = tmp_path / "sheet.typ"
        source.write_text(text)
        return source

    return path


def test_every_sheet_is_one_page_of_a4(root):
    assert SHEET in sheets.sheets(root)
    for sheet in sheets.sheets(root):
        assert len(sheets.pages(root / sheet)) == 1, sheet
        pdf = sheets.compiled(root / sheet)
        assert pdf.startswith(b"%PDF-")
        [box] = re.findall(rb"/MediaBox ?\[0 0 ([\d.]+) ([\d.]+)\]", pdf)
        assert [round(float(side)) for side in box] == [595, 842]


def test_the_same_source_gives_the_same_bytes(write):
    source = write("#set page(height: auto)\nHello $x^2$")
    assert sheets.compiled(source) == sheets.compiled(source)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("one #pagebreak() two", "takes 2 pages"),
        ("$ unknown_thing $ #let", "sheet.typ: "),
        ('#set text(font: "No Such Font")\nx', "unknown font family"),
    ],
)
def test_a_sheet_that_cannot_be_printed_says_why(write, text, words):
    with pytest.raises(sheets.SheetError, match=words):
        sheets.compiled(write(text))


def test_the_site_gets_the_sheet(root, tmp_path, monkeypatch):
    monkeypatch.setattr(site, "pages", lambda toc: [Path("book/index")])
    folder = site.prepare(root, tmp_path)
    pdf = folder / SHEET.with_suffix(".pdf")
    assert pdf.read_bytes() == sheets.compiled(root / SHEET)
    before = site.fingerprints(folder)
    pdf.write_bytes(b"another sheet")
    shell, everything = site.fingerprints(folder)
    assert shell == before[0] and everything != before[1]


def test_the_chapter_links_to_the_sheet(root):
    chapter = (root / SHEET).with_name("math_refresher.ipynb").read_text()
    assert f"]({SHEET.stem}.pdf)" in chapter


def rows_of(text):
    """{first cell: the other cells} of the table of number formats."""
    rows = re.findall(r"^ +\[(?:\*)?([\w ]*)\], (.*),$", text, re.MULTILINE)
    return {name: re.findall(r"\[\*?([^\]*]+)\*?\]", rest) for name, rest in rows}


def test_the_numbers_of_the_sheet_are_those_of_torch(root):
    rows = rows_of((root / SHEET).read_text())
    formats = [torch.finfo(getattr(torch, name)) for name in rows[""]]
    assert [f.bits for f in formats] == [8 * int(n) for n in rows["bytes"]]
    for name, field in (("eps", "eps"), ("largest", "max"), ("least normal", "tiny")):
        for shown, info in zip(rows[name], formats, strict=True):
            assert float(shown) == pytest.approx(getattr(info, field), rel=0.03)


def test_the_largest_safe_exponents_are_those_of_the_sheet():
    for dtype, safe in ((torch.float32, 88.0), (torch.float16, 11.0)):
        top = torch.finfo(dtype).max
        assert math.exp(safe) < top < math.exp(safe + 1)
