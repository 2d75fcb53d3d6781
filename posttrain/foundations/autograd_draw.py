"""Draw the graph of a `Value` as inline SVG: every number that `backward` uses.

Inputs on top, the result at the bottom. A box holds the name, the value and the
gradient; an edge holds the local derivative of the lower box by the upper one. So the
picture *is* the chain rule: a gradient is the sum, over the edges that leave the box,
of the number on the edge times the gradient below.
"""

from __future__ import annotations

import itertools
from html import escape

from IPython.display import HTML, display

from posttrain.foundations.autograd import Value, topological_order
from posttrain.foundations.autograd_layout import Layout, Spot, layout
from posttrain.plot import palette

BOX = 104, 62  # width and height of a box, pixels
GAP, POINT_GAP, ROW = 124, 76, 112  # distances from middle to middle
PORT = 30  # distance of two edges where they meet a box
EDGE = 4  # room around the drawing
SIGNS = {"*": "×", "-": "−", "neg": "−", "/": "÷"}
LIMIT = 40  # nodes: more cannot be read on a page


def draw(root: Value, alt: str, caption: str = "") -> None:
    """Display the graph of `root`, as `backward` has left it.

    alt: what a reader who cannot see it must know. Raises ValueError if it is empty,
    and for a graph of more than 40 nodes.
    """
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    display(
        HTML(
            '<figure class="pt-figure" style="max-width:640px;overflow-x:auto">'
            f"{svg(root, alt)}{words}</figure>"
        )
    )


def svg(root: Value, alt: str) -> str:
    """The SVG element that `draw` displays."""
    if not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the graph shows")
    order = topological_order(root)
    if len(order) > LIMIT:
        raise ValueError(f"{len(order)} nodes cannot be read; draw at most {LIMIT}")
    number = {value: i for i, value in enumerate(order)}
    placed = layout([[number[p] for p in v.parents] for v in order], GAP, POINT_GAP)
    width = max(s.x for row in placed.rows for s in row) + BOX[0] + 2 * EDGE
    height = (len(placed.rows) - 1) * ROW + BOX[1] + 2 * EDGE
    body = _edges(placed, order) + "".join(
        _box(value, spot) for value, spot in zip(order, placed.boxes, strict=True)
    )
    return (
        f'<svg role="img" aria-label="{escape(alt)}" xmlns="http://www.w3.org/2000/svg"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
        f' height="{height:.0f}" font-size="13" style="display:block;margin:auto;'
        f'min-width:{width:.0f}px"'  # on a narrow page it scrolls, and stays readable
        f' font-family="sans-serif" fill="currentColor">{body}</svg>'
    )


def number_text(x: float) -> str:
    """A number as it stands in the drawing: three digits, a real minus sign."""
    return f"{x:.3g}".replace("-", "−")


def _middle(spot: Spot) -> tuple[float, float]:
    """The middle of a spot on the drawing."""
    return EDGE + BOX[0] / 2 + spot.x, EDGE + BOX[1] / 2 + spot.row * ROW


def _box(value: Value, spot: Spot) -> str:
    """A rounded box: a blue shade for inputs, an orange one for the result."""
    (x, y), (w, h) = _middle(spot), BOX
    shade = "orange" if not spot.below else "grey" if value.parents else "blue"
    strength = 0.04 if shade == "grey" else 0.18
    fill = f'fill="{palette[shade]}" fill-opacity="{strength}"'
    sign = SIGNS.get(value.op, value.op)
    name = f"{value.label} ({sign})" if value.label and sign else value.label or sign
    lines = (
        (name or "constant", y - 13, "600"),
        (f"value {number_text(value.data)}", y + 5, "400"),
        (f"grad {number_text(value.grad)}", y + 22, "400"),
    )
    texts = "".join(
        f'<text x="{x:.1f}" y="{at:.1f}" text-anchor="middle" font-weight="{weight}">'
        f"{escape(text)}</text>"
        for text, at, weight in lines
    )
    return (
        f'<rect x="{x - w / 2:.1f}" y="{y - h / 2:.1f}" width="{w}" height="{h}" rx="8"'
        f' {fill} stroke="currentColor" stroke-opacity=".55"/>{texts}'
    )


def _edges(placed: Layout, order: list[Value]) -> str:
    """Lines from parent to child, each with its local derivative and a small head."""
    partials = [p for value in order for p in value.partials]  # in the order of edges
    leaving = _ports([(a, i) for i, (a, _, _) in enumerate(placed.edges)], placed, 1)
    arriving = _ports([(b, i) for i, (_, b, _) in enumerate(placed.edges)], placed, -2)
    parts = []
    for i, (_, _, chain) in enumerate(placed.edges):
        points = [_middle(spot) for spot in chain]
        points[0] = points[0][0] + leaving[i], points[0][1] + BOX[1] / 2
        points[-1] = points[-1][0] + arriving[i], points[-1][1] - BOX[1] / 2 - 6
        parts.append(_edge(points, number_text(partials[i])))
    return "".join(parts)


def _ports(ends: list[tuple[int, int]], placed: Layout, other: int) -> dict[int, float]:
    """Where each edge meets its box, from its middle: the leftmost comes leftmost.

    ends: (box, edge) pairs; other: which spot of the edge's chain is the next one.
    """
    offsets = {}
    for box in {box for box, _ in ends}:
        edges = [edge for b, edge in ends if b == box]
        edges.sort(key=lambda edge: placed.edges[edge][2][other].x)
        for i, edge in enumerate(edges):
            offsets[edge] = PORT * (i - (len(edges) - 1) / 2)
    return offsets


def _edge(points: list[tuple[float, float]], label: str) -> str:
    """A straight line, or a curve through points, with its label beside the end."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        half = (y1 - y0) / 2
        bow = f"C{x0:.1f} {y0 + half:.1f} {x1:.1f} {y1 - half:.1f} "
        path += (bow if len(points) > 2 else "L") + f"{x1:.1f} {y1:.1f}"
    (x0, y0), (x, y) = points[-2], points[-1]
    side, anchor = (-7, "end") if x > x0 + 1 else (7, "start")
    head = f"M{x - 4:.1f} {y - 2:.1f}L{x:.1f} {y + 6:.1f}L{x + 4:.1f} {y - 2:.1f}Z"
    return (
        f'<path d="{path}" fill="none" stroke="{palette["grey"]}" stroke-width="1.6"/>'
        f'<path d="{head}" fill="{palette["grey"]}"/>'
        f'<text x="{(x0 + x) / 2 + side:.1f}" y="{(y0 + y) / 2 + 8:.1f}"'
        f' text-anchor="{anchor}" font-style="italic">{escape(label)}</text>'
    )
