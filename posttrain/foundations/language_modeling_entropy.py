"""How much is there to know? The entropy of text, estimated from below and above.

    plug_in(tables)       F_n of Shannon 1951 from the counts of a text itself, bits:
                          for large n too low, as each context was seen once only
    ranks(logits, ...)    the guessing game: how many guesses until it is right
    shannon_bounds(r)     his bounds from the ranks, bits

Shannon, *Prediction and Entropy of Printed English*, Bell System Technical Journal 30
(1951): the series F_n, and the bounds from prediction frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posttrain.foundations.language_modeling_ngram import Table


def plug_in(tables: Sequence[Table]) -> list[float]:
    """-sum p(h, w) log2 p(w | h) with p from the counts, for each order, bits a token.

    It is what the unsmoothed counts pay for the text that they were counted on.
    """
    found = []
    for table in tables:
        total = table.total(table.grams).double()
        paid = -table.counts * (table.counts / total).log2()
        found.append((paid.sum() / table.counts.sum()).item())
    return found


def ranks(logits: Tensor, targets: Tensor) -> Tensor:
    """How many guesses in order of logits (N, V) the targets (N,) take: 1 ... V.

    Ties go to the smaller token, so that the guesser is one fixed procedure and the
    ranks alone give the text back.
    """
    order = logits.argsort(dim=-1, descending=True, stable=True)
    return (order == targets[:, None]).int().argmax(dim=-1) + 1


def shannon_bounds(guesses: Tensor, V: int) -> tuple[float, float]:
    """Lower and upper bound, bits a token, from the ranks (N,) of a guesser.

    q_i: share of targets guessed at the i-th try. Upper: the entropy of the ranks,
    -sum q_i log2 q_i; it holds for any guesser. Lower: sum i (q_i - q_(i+1)) log2 i;
    it holds for the ideal guesser, which no model is.
    """
    q = torch.bincount(guesses - 1, minlength=V).double() / len(guesses)
    upper = -torch.xlogy(q, q).sum() / torch.log(torch.tensor(2.0))
    i = torch.arange(1, V + 1).double()
    fall = q - torch.cat([q[1:], q.new_zeros(1)])
    lower = (i * fall * i.log2()).sum()
    return lower.item(), upper.item()
