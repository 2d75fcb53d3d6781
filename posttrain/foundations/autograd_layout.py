"""Where to put the nodes of a graph: rows from the inputs down to the result.

The method of Sugiyama in its simplest form. A node stands one row below the lowest of
its parents, an input as low as it can; an edge that crosses rows gets a point in each
of them, so that it goes round the boxes; rows are sorted so that few edges cross; then
every node moves towards its neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

SWEEPS = 24


@dataclass(eq=False)
class Spot:
    """A place in a row: a box for node number `node`, or a point of a long edge."""

    node: int | None
    row: int
    x: float = 0.0
    above: list[Spot] = field(default_factory=list)
    below: list[Spot] = field(default_factory=list)


@dataclass
class Layout:
    """boxes: the Spot of each node. edges: for each (parent, child), its spots."""

    boxes: list[Spot]
    edges: list[tuple[int, int, list[Spot]]]
    rows: list[list[Spot]]


def layout(parents: Sequence[Sequence[int]], gap: float, point_gap: float) -> Layout:
    """Places for the nodes 0, 1, ..., where parents[i] are numbers below i.

    gap: distance of two boxes in a row, from middle to middle; point_gap: the same
    where at least one of them is a point of a long edge. x starts at 0.
    Raises ValueError for a parent that does not come before its child.
    """
    heights = row_of_each(parents)
    boxes = [Spot(node, row) for node, row in enumerate(heights)]
    rows: list[list[Spot]] = [[] for _ in range(max(heights) + 1)]
    for box in boxes:
        rows[box.row].append(box)
    edges = []
    for child, used in enumerate(parents):
        for parent in used:
            chain = _chain(boxes[parent], boxes[child], rows)
            edges.append((parent, child, chain))
    _sort(rows)
    _place(rows, gap, point_gap)
    return Layout(boxes, edges, rows)


def row_of_each(parents: Sequence[Sequence[int]]) -> list[int]:
    """The row of each node: below its parents; for an input, just above its use."""
    rows: list[int] = []
    for child, used in enumerate(parents):
        if any(not 0 <= parent < child for parent in used):
            raise ValueError(
                f"node {child} has parents {list(used)}; number the nodes so that"
                " parents come first (topological_order)"
            )
        rows.append(1 + max((rows[parent] for parent in used), default=-1))
    first_use: dict[int, int] = {}
    for child, used in enumerate(parents):
        for parent in used:
            first_use[parent] = min(first_use.get(parent, rows[child]), rows[child])
    return [
        row if parents[node] else first_use.get(node, 1) - 1
        for node, row in enumerate(rows)
    ]


def _chain(parent: Spot, child: Spot, rows: list[list[Spot]]) -> list[Spot]:
    """Link two boxes, with a point in each row between them."""
    points = [Spot(None, row) for row in range(parent.row + 1, child.row)]
    chain = [parent, *points, child]
    for point in points:
        rows[point.row].append(point)
    for upper, lower in itertools.pairwise(chain):
        upper.below.append(lower)
        lower.above.append(upper)
    return chain


def _sort(rows: list[list[Spot]]) -> None:
    """Order every row by the mean place of its neighbours, downwards and upwards."""
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            place = {spot: i for line in rows for i, spot in enumerate(line)}

            def key(spot: Spot, place=place, down=down) -> float:
                near = spot.above if down else spot.below
                own = [place[spot]]
                return _mean([place[s] for s in near] or own)

            row.sort(key=key)


def _place(rows: list[list[Spot]], gap: float, point_gap: float) -> None:
    """Move each spot towards its neighbours, in order and at least a gap apart."""
    for row in rows:
        for i, spot in enumerate(row):
            spot.x = i * gap
    for _ in range(SWEEPS):
        for row in [*rows, *reversed(rows)]:
            wished = [_mean([s.x for s in (*p.above, *p.below)] or [p.x]) for p in row]
            xs: list[float] = []
            for i, wish in enumerate(wished):
                least = gap if i and row[i].node is not None else point_gap
                if i and row[i - 1].node is None:
                    least = point_gap
                xs.append(max(wish, xs[-1] + least) if i else wish)
            shift = _mean([w - x for w, x in zip(wished, xs, strict=True)])
            for spot, x in zip(row, xs, strict=True):
                spot.x = x + shift
    left = min(spot.x for row in rows for spot in row)
    for row in rows:
        for spot in row:
            spot.x -= left


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
