"""Learning merges: count pairs, join the commonest, again.

Two ways to the same list of merges:

    train_merges   keeps the pair counts up to date: a merge costs what it changes
    recount        counts all pairs again before each merge, as Sennrich's algorithm 1

Ties go to the smaller pair of ids, so that a text gives one list of merges only.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from posttrain.foundations.tokenization_bpe import Pair, merge, pre_split

Words = Sequence[tuple[Sequence[int], int]]  # (ids, how often) each


def count_chunks(texts: Iterable[str], pattern: str) -> Counter[bytes]:
    """How often each chunk occurs in the texts, as UTF-8 bytes."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(pre_split(text, pattern))
    return Counter({chunk.encode(): n for chunk, n in counts.items()})


def count_pairs(words: Words) -> dict[Pair, int]:
    """How often each pair of neighbours occurs; a word that occurs n times counts n."""
    counts: dict[Pair, int] = defaultdict(int)
    for ids, n in words:
        for pair in pairwise(ids):
            counts[pair] += n
    return counts


def recount(words: Words, merges: int) -> list[Pair]:
    """Learn `merges` merges, all pairs counted anew before each.

    Give each distinct word once with its count, or every word of the text with count 1
    (what minbpe does): the merges are the same, the time is not.
    Raises ValueError when no pair is left.
    """
    learned = []
    for new_id in range(256, 256 + merges):
        counts = count_pairs(words)
        if not counts:
            raise ValueError(_too_small(len(learned), merges))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        words = [(merge(ids, best, new_id), n) for ids, n in words]
        learned.append(best)
    return learned


def train_merges(chunks: Mapping[bytes, int], merges: int) -> list[Pair]:
    """Learn `merges` merges from chunks and their counts, fast.

    Returns the pairs in the order learned; pair i makes id 256 + i.
    Raises ValueError when no pair is left.
    """
    table = PairTable(chunks)
    learned = []
    for new_id in range(256, 256 + merges):
        best = table.best()
        if best is None:
            raise ValueError(_too_small(len(learned), merges))
        table.merge(best, new_id)
        learned.append(best)
    return learned


class PairTable:
    """Words, the counts of their pairs, and where each pair occurs.

    A merge touches only the words that hold the pair. The best pair comes from a heap
    whose entries may be out of date: an entry counts if its count is still the true
    one, and every change of a count adds a new entry.
    """

    def __init__(self, chunks: Mapping[bytes, int]):
        self.words = [list(chunk) for chunk in chunks]
        self.times = list(chunks.values())
        self.counts = count_pairs(list(zip(self.words, self.times, strict=True)))
        self.where: dict[Pair, set[int]] = defaultdict(set)
        for number, word in enumerate(self.words):
            for pair in pairwise(word):
                self.where[pair].add(number)
        self.heap = [(-n, pair) for pair, n in self.counts.items()]
        heapq.heapify(self.heap)

    def best(self) -> Pair | None:
        """The commonest pair, the smallest of equals; None when no pair is left."""
        while self.heap:
            n, pair = self.heap[0]
            if -n == self.counts[pair] > 0:
                return pair
            heapq.heappop(self.heap)
        return None

    def merge(self, pair: Pair, new_id: int) -> None:
        """Join `pair` wherever it occurs, and mend the counts of its neighbours."""
        changed: set[Pair] = set()
        for number in self.where.pop(pair):
            old, times = self.words[number], self.times[number]
            new = merge(old, pair, new_id)
            if len(new) == len(old):
                continue  # an earlier merge took this pair out of the word
            for gone in pairwise(old):
                self.counts[gone] -= times
                changed.add(gone)
            for come in pairwise(new):
                self.counts[come] += times
                changed.add(come)
                self.where[come].add(number)
            self.words[number] = new
        for pair in changed:
            heapq.heappush(self.heap, (-self.counts[pair], pair))


def _too_small(found: int, asked: int) -> str:
    return (
        f"the text has room for {found} merges only, {asked} were asked for: every"
        " chunk is one token by now; give more text or a smaller vocabulary"
    )
