"""The house style of all figures: one function in, one inline SVG out.

    fig, axes = figure(columns=2)
    band(axes[0], steps, runs, "multi", palette["blue"])
    titles(axes[0], "Loss", x="step", y="nats a character")
    display_figure(fig, alt="Loss falls from 4.2 to 1.9 nats.")

An SVG has no background, and its ink (text, axes) is `currentColor`: the page decides,
light or dark. Series colours are of middle lightness, at least 3:1 against white and
near-black, and differ for colour-blind eyes; series differ by line style as well.
"""

import hashlib
import io
import re
from collections.abc import Sequence
from html import escape

import matplotlib
import numpy as np
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

WIDTH = 640  # pixels, and points of the SVG

palette = {
    "blue": "#3274b5",
    "orange": "#cc6a0a",
    "green": "#1b9068",
    "pink": "#c2609b",
    "grey": "#7f7f7f",
}
LINES = {
    "blue": "-",
    "orange": (0, (6, 2)),
    "green": "-.",
    "pink": (0, (2, 1)),
    "grey": (0, (6, 1, 1, 1)),
}

_INK = "#010203"  # a colour that no figure uses; becomes currentColor in the SVG
_STYLE = {
    "svg.fonttype": "none",  # text stays text: searchable, in the page's own font
    "svg.hashsalt": "posttrain",  # equal figures get equal ids
    "font.family": "sans-serif",
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.labelsize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.18,
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **dict.fromkeys(
        (
            "text.color",
            "axes.edgecolor",
            "axes.labelcolor",
            "axes.titlecolor",
            "xtick.color",
            "ytick.color",
            "grid.color",
        ),
        _INK,
    ),
}


def figure(
    columns: int = 1, rows: int = 1, height: int = 280, **subplot_kw
) -> tuple[Figure, np.ndarray]:
    """An empty figure in the house style, 640 px wide, `height` px for each row.

    Returns the figure and a flat array of its rows * columns axes. Further keywords go
    to `Figure.subplots` (sharey=True, width_ratios=...).
    """
    with matplotlib.rc_context(_STYLE):
        size = (WIDTH / 72, rows * height / 72)  # 72 points an inch, 1 point = 1 px
        fig = Figure(figsize=size, dpi=72, layout="constrained")
        axes = fig.subplots(rows, columns, squeeze=False, **subplot_kw)
    return fig, axes.ravel()


def titles(ax: Axes, title: str, *, x: str, y: str) -> None:
    """Title and axis labels; say the unit in the label."""
    ax.set_title(title, loc="left")
    ax.set_xlabel(x)
    ax.set_ylabel(y)


def band(
    ax: Axes,
    x: Sequence[float],
    runs: Sequence[Sequence[float]],
    label: str,
    color: str,
) -> None:
    """Mean of runs (n_seeds, n_points) over x, and a band from lowest to highest.

    color: a name of `palette`; it chooses the line style as well.
    """
    values = np.asarray(runs, dtype=float)  # (n_seeds, n_points)
    if values.ndim != 2 or values.shape[1] != len(x):
        raise ValueError(
            f"runs has shape {values.shape}, expected (seeds, {len(x)}): one row a seed"
        )
    shade = palette[color]
    ax.fill_between(
        x, values.min(axis=0), values.max(axis=0), color=shade, alpha=0.25, linewidth=0
    )
    ax.plot(x, values.mean(axis=0), linestyle=LINES[color], color=shade, label=label)


def display_figure(fig: Figure, alt: str, caption: str = "") -> None:
    """Show the figure as inline SVG, with a caption of plain text under it.

    alt: what a reader who cannot see it must know. Raises ValueError if it is empty.
    """
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    display(
        HTML(
            '<figure class="pt-figure" style="max-width:640px">'
            f"{svg(fig, alt)}{words}</figure>"
        )
    )


def _ink(fig: Figure) -> None:
    """Ink for what was added after `figure`: black text, and legends without a box."""
    for legend in fig.findobj(Legend):
        legend.set_frame_on(False)
    for text in fig.findobj(Text):
        if to_hex(text.get_color()) == "#000000":
            text.set_color(_INK)


def svg(fig: Figure, alt: str) -> str:
    """The SVG element of a figure: ids of its own, ink that follows the page."""
    if not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the figure shows")
    _ink(fig)
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]  # an XML prologue has no place in HTML
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = text.replace(_INK, "currentColor")
    prefix = "f" + hashlib.sha1((alt + text).encode()).hexdigest()[:8] + "-"
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", text)
    width, height = fig.get_size_inches() * 72
    head = (
        f'<svg role="img" aria-label="{escape(alt)}" xmlns="http://www.w3.org/2000/svg"'
        f' xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
        ' style="max-width:100%;height:auto;display:block">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: head, text, count=1).strip()
