"""From documents of any length to rows of T tokens.

    rows = pack(documents, T, best_fit(lengths, T))
    batch = rows.batch([0, 1, 2])        # tokens, targets, mask, positions

Three plans: a document a row (`pad_each`), all behind each other and cut where a row is
full (`concatenate`), and whole documents put together so that they fill a row
(`best_fit`). A plan is a list of rows, a row a list of `Piece`s; `pack` fills arrays.
Sources: Krell et al. 2021 for packing as bin packing and for the mask; Ding et al. 2024
for best fit without truncation, which this follows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from posttrain.foundations.language_model import IGNORE
from posttrain.foundations.modern_architecture_parts import document_mask

PADDING = -1  # the document id of a place that holds no token


@dataclass(frozen=True)
class Piece:
    """Tokens start ... stop - 1 of a document."""

    document: int
    start: int
    stop: int


Plan = list[list[Piece]]  # one list a row


def pad_each(lengths: Sequence[int], T: int) -> Plan:
    """A row for each document; one longer than T takes several."""
    return [[piece] for piece in chop(lengths, T)]


def concatenate(lengths: Sequence[int], T: int) -> Plan:
    """All documents behind each other, cut every T tokens, wherever that is."""
    rows, room = [[]], T
    for document, length in enumerate(lengths):
        start = 0
        while start < length:
            if not room:
                rows.append([])
                room = T
            stop = min(length, start + room)
            rows[-1].append(Piece(document, start, stop))
            room -= stop - start
            start = stop
    return rows


def best_fit(lengths: Sequence[int], T: int) -> Plan:
    """Best-fit decreasing: longest first, into the fullest row that still has room.

    No document of up to T tokens is cut; a longer one gives full rows and a rest.
    `room` keeps as its bit r whether a row with room r is there, so the tightest room
    is the lowest bit that is set from the length on.
    """
    rows: Plan = []
    with_room: dict[int, list[int]] = defaultdict(list)  # room -> rows
    room = 0
    for piece in sorted(chop(lengths, T), key=lambda p: p.start - p.stop):
        length = piece.stop - piece.start
        fitting = room >> length
        if fitting:
            tightest = length + (fitting & -fitting).bit_length() - 1
            row = with_room[tightest].pop()
            if not with_room[tightest]:
                room &= ~(1 << tightest)
        else:
            row, tightest = len(rows), T
            rows.append([])
        rows[row].append(piece)
        with_room[tightest - length].append(row)
        room |= 1 << (tightest - length)
    return rows


def chop(lengths: Sequence[int], T: int) -> list[Piece]:
    """Pieces of at most T tokens. Raises ValueError for a T or a length below 1."""
    if T < 1 or min(lengths, default=1) < 1:
        raise ValueError(
            f"T={T}, shortest document {min(lengths, default=1)}: both >= 1"
        )
    return [
        Piece(document, start, min(start + T, length))
        for document, length in enumerate(lengths)
        for start in range(0, length, T)
    ]


@dataclass(frozen=True)
class Waste:
    """padding: places without a token, a share of all. cut: documents that would have
    fitted into a row and were cut, a share of those. rows: how many."""

    padding: float
    cut: float
    rows: int


def waste(plan: Plan, lengths: Sequence[int], T: int) -> Waste:
    """What a plan gives away."""
    pieces = np.bincount(
        [p.document for row in plan for p in row], minlength=len(lengths)
    )
    fits = np.asarray(lengths) <= T
    cut = float((pieces[fits] > 1).mean()) if fits.any() else 0.0
    return Waste(1 - sum(lengths) / (len(plan) * T), cut, len(plan))


# ------------------------------------------------------------------------------ rows


@dataclass(frozen=True)
class Rows:
    """Packed rows, all (N, T). `documents` is PADDING where there is no token."""

    tokens: np.ndarray
    targets: np.ndarray  # IGNORE at the last token of a document, and on padding
    documents: np.ndarray
    positions: np.ndarray  # counted from the piece's first token

    def batch(self, places: Sequence[int]) -> PackedBatch:
        """Some rows as tensors."""
        tokens, targets, documents, positions = (
            torch.from_numpy(x[places])
            for x in (self.tokens, self.targets, self.documents, self.positions)
        )
        return PackedBatch(tokens, targets, document_mask(documents), positions)


@dataclass(frozen=True)
class PackedBatch:
    """What a model is called with: model(tokens, mask=mask, positions=positions)."""

    tokens: Tensor  # (B, T)
    targets: Tensor  # (B, T)
    mask: Tensor  # (B, 1, T, T), True = may look
    positions: Tensor  # (B, T)


def pack(documents: Sequence[Sequence[int]], T: int, plan: Plan, pad: int = 0) -> Rows:
    """Put the tokens where the plan says.

    The target of a token is the next one of *its document*, even where that stands in
    another row; the last token of a document has none. pad: the id in empty places.
    Two pieces of one document in one row would count as one: no plan here makes that.
    """
    shape = (len(plan), T)
    tokens, targets = np.full(shape, pad, np.int64), np.full(shape, IGNORE, np.int64)
    ids, positions = np.full(shape, PADDING, np.int64), np.zeros(shape, np.int64)
    for row, pieces in enumerate(plan):
        place = 0
        for piece in pieces:
            document = np.asarray(documents[piece.document], dtype=np.int64)
            end = place + piece.stop - piece.start
            tokens[row, place:end] = document[piece.start : piece.stop]
            following = document[piece.start + 1 : piece.stop + 1]
            targets[row, place : place + len(following)] = following
            ids[row, place:end] = piece.document
            positions[row, place:end] = np.arange(piece.stop - piece.start)
            place = end
    return Rows(tokens, targets, ids, positions)
