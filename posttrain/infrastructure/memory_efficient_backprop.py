"""The last layer and any loss of its rows, without ever holding all logits.

    logits = hidden Wᵀ + b           (N, V), float32
    l_i = loss(logits_i, rows_i)     one number a row
    G = dL/dlogits                   dL/dhidden = G W     dL/dW = Gᵀ hidden

Row i of G depends on row i of the logits alone, so rows can be taken in chunks.
Autograd differentiates the loss of a chunk with respect to its logits, whatever the
loss is; the two products of the linear layer are written here. Two designs:

    chunked_sum     one pass: gradients are made beside the loss and kept. What follows
                    may multiply the result by a number, so each row's weight must be
                    known before: Σ_i row_weights_i l_i.
    chunked_rows    two passes: returns l_i of every row and keeps the inputs only. The
                    backward pass makes each chunk's logits again. Anything may follow.

A loss is a function `loss(logits, *rows)`: logits (n, V) in float32, and for each of
`rows` the same n rows; it returns (n,). It must treat rows one by one, and may not read
a tensor that needs a gradient of its own. Some stand in
`memory_efficient_backprop_losses`.

Source: the idea of gradients in the forward pass is Liger's (Hsu et al. 2024, section
3.2). Not covered: autocast (cast the inputs), second derivatives (they raise).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

RowLoss = Callable[..., Tensor]
SLICE = 8192  # words of the vocabulary whose share of dW is added at a time


def upcast(logits: Tensor) -> Tensor:
    """In float32, or float64 where they are: 16 bits are too few for a log-softmax."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def chunks(N: int, chunk_rows: int) -> Iterator[slice]:
    """Slices of `chunk_rows` rows that cover N; the last may be shorter."""
    return (slice(i, min(i + chunk_rows, N)) for i in range(0, N, chunk_rows))


def liger_chunk_rows(N: int, d: int, V: int) -> int:
    """Rows in a chunk whose logits are about as many numbers as the hidden states.

    N / ⌈V / d⌉ rounded up to a power of two, at most N: Liger's rule.
    """
    rows = -(-N // -(-V // d))
    return max(1, min(N, 1 << (rows - 1).bit_length()))


def chunk_gradient(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    loss: RowLoss,
    rows: tuple[Tensor, ...],
    upstream: Tensor,
) -> tuple[Tensor, Tensor]:
    """The outputs of n rows, and G = d(Σ_i upstream_i out_i)/dlogits.

    x: (n, d)   upstream: shaped like the outputs. Returns the outputs, without a graph,
    and G (n, V) in x's dtype: the graph begins before the upcast, which rounds G on the
    way back. Nothing here holds the float32 logits once the loss has used them.
    """
    logits = F.linear(x, weight, bias).detach().requires_grad_()
    with torch.enable_grad():
        out = loss(upcast(logits), *rows)
    (G,) = torch.autograd.grad(out, logits, upstream.to(out.dtype))
    return out.detach(), G


class Gradients:
    """dX, dW and db, summed over chunks; only those that are needed take memory.

    dW and db are sums over all rows: they are kept in float32 until the end. A row of
    dX belongs to one chunk, so it is written once, in its own dtype.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needs):
        self.inputs = hidden, weight, bias
        need_x, need_w, need_b = needs
        sums = torch.promote_types(weight.dtype, torch.float32)
        self.dx = torch.empty_like(hidden) if need_x else None
        self.dw = torch.zeros_like(weight, dtype=sums) if need_w else None
        self.db = torch.zeros_like(bias, dtype=sums) if need_b else None

    def add(self, here: slice, G: Tensor) -> None:
        """Adds the rows `here`, whose gradient at the logits is G (n, V)."""
        hidden, weight, _ = self.inputs
        if self.dx is not None:
            self.dx[here] = G @ weight
        if self.db is not None:
            self.db += G.sum(dim=0, dtype=self.db.dtype)
        if self.dw is not None:
            for words in chunks(len(weight), SLICE):  # no second (V, d) beside dw
                self.dw[words] += G[:, words].mT @ hidden[here]

    def finish(self) -> tuple[Tensor | None, ...]:
        """dX, dW and db in the dtypes of their inputs, None where not needed."""
        found = zip((self.dx, self.dw, self.db), self.inputs, strict=True)
        return tuple(g if g is None else g.to(x.dtype) for g, x in found)


def refuse_second_derivatives() -> None:
    """Raises RuntimeError in a backward pass that is to be differentiated in turn.

    The gradients are made without a graph: they would count as constants, silently.
    """
    if torch.is_grad_enabled():  # in a backward pass: create_graph=True
        raise RuntimeError(
            "create_graph=True: a chunked head has no second derivatives; take"
            " plain_rows for them"
        )


class _ChunkedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, loss, row_weights, chunk_rows, *rows):
        total = torch.zeros_like(row_weights[:1]).squeeze(0)
        gradients = Gradients(hidden, weight, bias, ctx.needs_input_grad[:3])
        for here in chunks(len(hidden), chunk_rows):
            given = tuple(row[here] for row in rows)
            out, G = chunk_gradient(
                hidden[here], weight, bias, loss, given, row_weights[here]
            )
            total += (row_weights[here] * out).sum()
            gradients.add(here, G)
            del G  # or it would be there beside the logits of the next chunk
        ctx.save_for_backward(*gradients.finish())
        return total

    @staticmethod
    def backward(ctx, upstream):
        refuse_second_derivatives()
        kept = ctx.saved_tensors
        scaled = (g if g is None else g * upstream.to(g.dtype) for g in kept)
        return *scaled, None, None, None, *(None for _ in ctx.needs_input_grad[6:])


class _ChunkedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, loss, chunk_rows, *rows):
        ctx.save_for_backward(hidden, weight, bias, *rows)
        ctx.loss, ctx.chunk_rows = loss, chunk_rows
        return forward_rows(hidden, weight, bias, loss, chunk_rows, rows)

    @staticmethod
    def backward(ctx, upstream):
        refuse_second_derivatives()
        hidden, weight, bias, *rows = ctx.saved_tensors
        gradients = Gradients(hidden, weight, bias, ctx.needs_input_grad[:3])
        for here in chunks(len(hidden), ctx.chunk_rows):
            given = tuple(row[here] for row in rows)
            _, G = chunk_gradient(
                hidden[here], weight, bias, ctx.loss, given, upstream[here]
            )
            gradients.add(here, G)
            del G
        return *gradients.finish(), None, None, *(None for _ in rows)


def forward_rows(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    loss: RowLoss,
    chunk_rows: int,
    rows: tuple[Tensor, ...],
) -> Tensor:
    """The outputs of all rows, chunk by chunk, nothing kept: (N,) or (N, ...)."""
    outputs = [
        loss(upcast(F.linear(hidden[here], weight, bias)), *(row[here] for row in rows))
        for here in chunks(len(hidden), chunk_rows)
    ]
    return torch.cat(outputs)


def chunked_sum(
    loss: RowLoss,
    hidden: Tensor,
    weight: Tensor,
    *rows: Tensor,
    row_weights: Tensor | None = None,
    bias: Tensor | None = None,
    chunk_rows: int | None = None,
) -> Tensor:
    """Σ_i row_weights_i loss(logits_i, rows_i), its gradients made on the way.

    hidden: (N, d)   weight: (V, d)   bias: (V,)   rows: N rows each. row_weights: (N,),
    None counts every row once; for a mean, pass 1/count. chunk_rows: None takes
    `liger_chunk_rows`. Returns a float32 number (float64 for float64). Gradients for
    hidden, weight and bias, each only where it is needed, and none without grad mode.
    Raises ValueError for shapes that do not fit, a chunk below 1 row, and a gradient
    that would be missed.
    """
    chunk_rows = _checked(loss, hidden, weight, bias, rows, chunk_rows, row_weights)
    if row_weights is None:
        row_weights = hidden.new_ones(len(hidden))
    row_weights = row_weights.to(torch.promote_types(hidden.dtype, torch.float32))
    if not torch.is_grad_enabled():  # needs_input_grad would still be True
        out = forward_rows(hidden, weight, bias, loss, chunk_rows, rows)
        return (row_weights * out).sum()
    return _ChunkedSum.apply(hidden, weight, bias, loss, row_weights, chunk_rows, *rows)


def chunked_rows(
    loss: RowLoss,
    hidden: Tensor,
    weight: Tensor,
    *rows: Tensor,
    bias: Tensor | None = None,
    chunk_rows: int | None = None,
) -> Tensor:
    """loss(logits_i, rows_i) of every row, (N,); each chunk is made again in backward.

    Arguments and errors as for `chunked_sum`. The gradient that comes back may differ
    from row to row: any function of the rows may follow.
    """
    chunk_rows = _checked(loss, hidden, weight, bias, rows, chunk_rows)
    return _ChunkedRows.apply(hidden, weight, bias, loss, chunk_rows, *rows)


def plain_rows(
    loss: RowLoss,
    hidden: Tensor,
    weight: Tensor,
    *rows: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """The same with all logits at once, differentiated by autograd as usual: (N,)."""
    return loss(upcast(F.linear(hidden, weight, bias)), *rows)


def _checked(loss, hidden, weight, bias, rows, chunk_rows, row_weights=None) -> int:
    """The rows of a chunk. Raises ValueError where something would go wrong."""
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} must be"
            " (N, d) and (V, d): flatten batch and time into N"
        )
    if not len(hidden):
        raise ValueError("hidden has no rows: there is no loss to take")
    N = len(hidden)
    extra = rows if row_weights is None else (*rows, row_weights)
    for number, row in enumerate(extra):
        if len(row) != N:
            raise ValueError(f"row argument {number} has {len(row)} rows, hidden {N}")
        if row.requires_grad:
            raise ValueError(
                f"row argument {number} needs a gradient, and would get none: detach it"
            )
    if chunk_rows is None:
        chunk_rows = liger_chunk_rows(N, *hidden.shape[1:], len(weight))
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows={chunk_rows}: at least one row at a time")
    _try_one_row(loss, hidden, weight, bias, rows)
    return chunk_rows


def _try_one_row(loss, hidden, weight, bias, rows) -> None:
    """Raises ValueError for a loss whose gradients would be silently incomplete."""
    with torch.enable_grad():
        logits = upcast(F.linear(hidden[:1], weight, bias)).detach()
        out = loss(logits, *(row[:1] for row in rows))
    if out.requires_grad:
        raise ValueError(
            "the loss reads a tensor that needs a gradient, and would give it none:"
            " make it part of hidden, weight or bias, or detach it"
        )
    if out.ndim < 1 or len(out) != 1:
        raise ValueError(
            f"for one row the loss gave shape {tuple(out.shape)}: return one number a"
            ' row, reduction="none"'
        )
