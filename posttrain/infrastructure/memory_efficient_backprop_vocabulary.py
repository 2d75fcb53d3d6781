"""Cross-entropy by tiles of the vocabulary: not even one row of logits is ever whole.

    forward     for each block of rows, for each tile of words:
                    m, s  carry the maximum and the sum of exponentials
                lse = m + log s        loss_i = lse_i - logit of the target
    backward    for each tile of words, for each block of rows:
                    P = e^(logits - lse)   G = upstream · (P - onehot)
                    dX_rows += G W_tile    dW_tile += Gᵀ X_rows

The log-sum-exp is all that a tile must know of its row, and it is saved: N numbers. In
the backward pass the words are the outer loop, so dW is finished tile by tile, and the
sum that has to wait in float32 is dX, which is smaller than dW where N < V.

This is made for cross-entropy: a loss that needs a whole row at once cannot be cut so.

Source: Wijmans et al. 2024 (Cut Cross-Entropy), algorithms 1 to 4, whose kernel keeps
tiles on the chip; Milakov and Gimelshein 2018 for the running sum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from posttrain.foundations.language_model import IGNORE
from posttrain.infrastructure.memory_efficient_backprop import (
    chunks,
    refuse_second_derivatives,
    upcast,
)


def lse_and_target(
    x: Tensor, weight: Tensor, targets: Tensor, words: int
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of each row's logits, and the logit of its target: (n,), (n,).

    x: (n, d)   weight: (V, d)   targets: (n,), in the vocabulary. words: of a tile.
    """
    m = upcast(x.new_full((len(x),), -torch.inf))
    total, chosen = torch.zeros_like(m), torch.zeros_like(m)
    for tile in chunks(len(weight), words):
        logits = upcast(F.linear(x, weight[tile]))  # (n, words)
        higher = torch.maximum(m, logits.amax(dim=1))
        fresh = torch.exp(logits - higher[:, None]).sum(dim=1)
        total = total * torch.exp(m - higher) + fresh
        m = higher
        column = targets - tile.start
        here = (column >= 0) & (column < logits.shape[1])
        column = column.clamp(0, logits.shape[1] - 1)[:, None]
        chosen = torch.where(here, logits.gather(1, column)[:, 0], chosen)
    return m + torch.log(total), chosen


def tile_gradient(
    x: Tensor, w: Tensor, column: Tensor, lse: Tensor, upstream: Tensor
) -> Tensor:
    """G of one tile: upstream · (softmax - onehot), (n, words), float32.

    column: (n,), the target's place in the tile; outside of it where it lies elsewhere.
    """
    G = torch.exp(upcast(F.linear(x, w)) - lse[:, None])
    hit = column[:, None] == torch.arange(len(w), device=x.device)
    return (G - hit.to(G.dtype)) * upstream[:, None]


class _TiledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, rows, words, skip, seen):
        safe = targets.clamp(min=0)
        parts = [
            lse_and_target(hidden[here], weight, safe[here], words)
            for here in chunks(len(hidden), rows)
        ]
        lse, chosen = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, targets, lse)
        ctx.options = rows, words, skip, seen
        return torch.where(targets == IGNORE, 0.0, lse - chosen)

    @staticmethod
    def backward(ctx, upstream):
        refuse_second_derivatives()
        hidden, weight, targets, lse = ctx.saved_tensors
        rows, words, skip, seen = ctx.options
        upstream = torch.where(targets == IGNORE, 0.0, upstream)
        need_x, need_w = ctx.needs_input_grad[:2]
        dx = torch.zeros_like(hidden, dtype=lse.dtype) if need_x else None
        dw = torch.empty_like(weight) if need_w else None
        for tile in chunks(len(weight), words):
            dw_tile = torch.zeros_like(weight[tile], dtype=lse.dtype)
            for here in chunks(len(hidden), rows):
                x, w = hidden[here], weight[tile]
                column = targets[here] - tile.start
                G = tile_gradient(x, w, column, lse[here], upstream[here])
                if seen is not None:
                    seen.append(bool(G.abs().amax() < skip * upstream.abs().amax()))
                    if seen[-1]:
                        continue
                G = G.to(x.dtype)
                if need_x:
                    dx[here] += G @ w
                if need_w:
                    dw_tile += G.mT @ x
            if need_w:
                dw[tile] = dw_tile.to(weight.dtype)
        dx = dx.to(hidden.dtype) if need_x else None
        return dx, dw, None, None, None, None, None


def tiled_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    rows: int = 1024,
    words: int = 4096,
    skip: float = 0.0,
    seen: list[bool] | None = None,
) -> Tensor:
    """Nats of each row, (N,), 0 where the target is IGNORE.

    hidden: (N, d)   weight: (V, d)   targets: (N,). A tile is `rows` by `words`. With a
    list as `seen`, tiles in which no |G| reaches `skip` times the largest upstream
    gradient are left out of both products, and the list is told which (True: left out).
    Wijmans et al. skip below 2^-12 (section 4.3).
    Raises ValueError for a tile without rows or words, and for skip without a list.
    """
    if rows < 1 or words < 1:
        raise ValueError(f"tiles of {rows} rows and {words} words: both at least 1")
    if skip and seen is None:
        raise ValueError(
            f"skip={skip} needs a list `seen`: nothing is skipped silently"
        )
    return _TiledCrossEntropy.apply(hidden, weight, targets, rows, words, skip, seen)
