"""n-gram models: count what follows, and smooth what was never seen.

    tables = count(tokens, n, V)         one `Table` for each order 1 ... n
    add_k(tables[-1], rows, k)           (c(h, w) + k) / (c(h) + k V)
    interpolated(tables, rows, alpha)    mix with the next shorter context
    kneser_ney(tables, rows)             discount, and count contexts instead of tokens

All three take windows (N, n), the target last, and return probabilities (N,), float64.
An n-gram is one whole number, its tokens the digits in base V: a table is two sorted
lists and a look-up is a binary search, for a million of them at once.

Sources: Chen and Goodman 1999 (survey); Kneser and Ney 1995; MacKay and Peto 1995 (the
interpolation weight c / (c + alpha)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.foundations.language_modeling import windows


def codes(rows: Tensor, V: int) -> Tensor:
    """Windows (N, n) as numbers in base V, first token highest: (N,) int64.

    Raises ValueError where V^n does not fit into 63 bits.
    """
    n = rows.shape[1]
    if V**n >= 2**63:
        raise ValueError(f"{n}-grams of {V} tokens need V^n < 2^63; use a smaller n")
    places = torch.tensor([V**i for i in reversed(range(n))], device=rows.device)
    return (rows * places).sum(dim=1)


def look_up(keys: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    """values of the sorted keys (U,) at wanted (N,); 0 where it is no key."""
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, values[place], 0)


@dataclass(frozen=True)
class Table:
    """The counts of one order n.

    grams, counts: each n-gram seen (U,), and c(h, w).
    contexts, totals, kinds: each context seen (H,), c(h) = sum of its counts, and how
    many different tokens follow it, N1+(h, .).
    """

    n: int
    V: int
    grams: Tensor
    counts: Tensor
    contexts: Tensor
    totals: Tensor
    kinds: Tensor

    @classmethod
    def of(cls, grams: Tensor, counts: Tensor, n: int, V: int) -> Table:
        """From different n-grams (U,), sorted, and their counts (U,)."""
        contexts, place, kinds = torch.unique(
            grams // V, return_inverse=True, return_counts=True
        )
        totals = torch.zeros_like(contexts).index_add_(0, place, counts)
        return cls(n, V, grams, counts, contexts, totals, kinds)

    def count(self, code: Tensor) -> Tensor:
        """c(h, w) of n-grams (N,)."""
        return look_up(self.grams, self.counts, code)

    def total(self, code: Tensor) -> Tensor:
        """c(h) of the contexts of n-grams (N,)."""
        return look_up(self.contexts, self.totals, code // self.V)

    def kind(self, code: Tensor) -> Tensor:
        """N1+(h, .) of the contexts of n-grams (N,)."""
        return look_up(self.contexts, self.kinds, code // self.V)


def count(tokens: Tensor, n: int, V: int) -> list[Table]:
    """Count all m-grams of tokens (N,), m = 1 ... n. tables[m - 1] has order m."""
    tables = []
    for m in range(1, n + 1):
        found = codes(windows(tokens, m - 1), V)
        grams, counts = torch.unique(found, return_counts=True)
        tables.append(Table.of(grams, counts, m, V))
    return tables


def add_k(table: Table, rows: Tensor, k: float) -> Tensor:
    """Each n-gram as if seen k times more. k = 0: the plain counts, and 0 / 0 = 0."""
    code = codes(rows[:, -table.n :], table.V)
    total = table.total(code).double() + k * table.V
    return ((table.count(code) + k) / total).nan_to_num()


def interpolated(tables: Sequence[Table], rows: Tensor, alpha: float) -> Tensor:
    """(c(h, w) + alpha p(w | shorter h)) / (c(h) + alpha), down to p = 1 / V.

    The counts get the weight c(h) / (c(h) + alpha): much for a context that was seen
    often, none for one that was not.
    """
    p = torch.full((len(rows),), 1 / tables[0].V, dtype=torch.float64)
    for table in tables:
        code = codes(rows[:, -table.n :], table.V)
        p = (table.count(code) + alpha * p) / (table.total(code) + alpha)
    return p


def continuation(tables: Sequence[Table]) -> list[Table]:
    """The tables of Kneser and Ney: below the highest order, count(m-gram) is how many
    different tokens stand before it, N1+(., gram), not how often it occurs."""
    lower = []
    for longer in tables[1:]:
        m, V = longer.n - 1, longer.V
        grams, counts = torch.unique(longer.grams % V**m, return_counts=True)
        lower.append(Table.of(grams, counts, m, V))
    return [*lower, tables[-1]]


def discount(table: Table) -> float:
    """n1 / (n1 + 2 n2), from how many n-grams have count 1 and 2 (Ney et al. 1994).

    1/2 where the estimate does not exist, because there are none of either.
    """
    n1, n2 = ((table.counts == c).sum().item() for c in (1, 2))
    return n1 / (n1 + 2 * n2) if n1 and n2 else 0.5


def kneser_ney(tables: Sequence[Table], rows: Tensor) -> Tensor:
    """Interpolated Kneser-Ney. tables: as `continuation` returns them.

    p(w | h) = max(c(h, w) - D, 0) / c(h) + D N1+(h, .) / c(h) p(w | shorter h)
    """
    p = torch.full((len(rows),), 1 / tables[0].V, dtype=torch.float64)
    for table in tables:
        code = codes(rows[:, -table.n :], table.V)
        total, D = table.total(code), discount(table)
        seen = (table.count(code) - D).clamp(min=0) / total
        left = D * table.kind(code) / total
        p = torch.where(total > 0, seen + left * p, p)
    return p


class NGram:
    """Kneser-Ney as a model: contexts (N, n - 1) -> log-probabilities (N, V).

    tables: as `continuation` returns them.
    """

    def __init__(self, tables: Sequence[Table]):
        self.tables, self.k, self.V = tables, tables[-1].n - 1, tables[-1].V

    def __call__(self, contexts: Tensor) -> Tensor:
        B, V = len(contexts), self.V
        left = contexts.repeat_interleave(V, dim=0)  # (B V, n - 1)
        w = torch.arange(V).repeat(B)[:, None]  # every next token for every context
        p = kneser_ney(self.tables, torch.cat([left, w], dim=1))
        return p.view(B, V).log()
