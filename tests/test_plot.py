"""Figures: readable on light and dark, valid inside a page, the same every time."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from posttrain import plot

NEAR_BLACK = "#121212"


def drawn(label="multi"):
    fig, axes = plot.figure(columns=2)
    plot.band(axes[0], [0, 1, 2], [[3, 2, 1], [4, 3, 2]], label, "blue")
    axes[0].legend()
    axes[0].text(1, 2, "a remark")
    axes[1].imshow([[0, 1], [1, 0]])
    plot.titles(axes[0], "Loss", x="step", y="nats a character")
    return fig


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    ]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("color", plot.palette)
@pytest.mark.parametrize("background", ["#ffffff", NEAR_BLACK])
def test_series_stand_out_on_light_and_dark(color, background):
    pair = sorted([luminance(plot.palette[color]), luminance(background)])
    assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 3


def test_series_differ_without_colour():
    assert len({str(style) for style in plot.LINES.values()}) == len(plot.palette)


def test_svg_is_well_formed_transparent_and_takes_the_pages_ink():
    text = plot.svg(drawn(), alt='Loss < 2 & "falls"')
    root = ElementTree.fromstring(text)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == 'Loss < 2 & "falls"'
    assert root.attrib["width"] == "640"
    assert "max-width:100%" in root.attrib["style"]
    assert "currentColor" in text
    assert "#010203" not in text
    assert not re.search(r"#f{3,6}\b|#0{3,6}\b|white|black", text)
    assert "nats a character" in text  # text stays text
    for words in re.findall(r"<text[^>]*>", text):
        assert "fill: currentColor" in words


def test_ids_are_deterministic_and_differ_between_figures():
    def ids(text):
        return set(re.findall(r'\bid="([^"]+)"', text))

    first, again = (plot.svg(drawn(), alt="a") for _ in range(2))
    other = plot.svg(drawn("single"), alt="a")
    assert first == again
    assert ids(first)
    assert not ids(first) & ids(other)
    for text in (first, other):
        used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text))
        assert {a or b for a, b in used} <= ids(text)


def test_display_figure_shows_html_with_a_caption(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(plot, "display", shown.append)
    plot.display_figure(drawn(), alt="Loss falls.", caption="a < b")
    assert "<figcaption>a &lt; b</figcaption>" in shown[0].data
    assert 'aria-label="Loss falls."' in shown[0].data
    with pytest.raises(ValueError, match="alt is empty"):
        plot.display_figure(drawn(), alt=" ")


def test_band_refuses_runs_that_do_not_fit():
    _, [ax] = plot.figure()
    with pytest.raises(ValueError, match=r"\(2, 3\), expected \(seeds, 2\)"):
        plot.band(ax, [0, 1], [[1, 2, 3], [1, 2, 3]], "x", "blue")


@pytest.mark.parametrize("color", plot.palette)
def test_band_spans_lowest_to_highest(color):
    _, [ax] = plot.figure()
    plot.band(ax, [0, 1], [[1, 5], [3, 9]], "x", color)
    assert list(ax.lines[0].get_ydata()) == [2, 7]
    heights = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1, 9)
