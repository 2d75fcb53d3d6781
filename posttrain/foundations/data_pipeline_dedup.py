"""Duplicates: equal texts by a hash, similar ones by MinHash and bands.

    found = near_duplicates([shingles(text) for text in texts], threshold=0.7)
    found.clusters        # lists of places; the first of each is kept
    found.dropped         # the others

Comparing all pairs of N documents takes N (N - 1) / 2 comparisons. Bands of the
signature (locality-sensitive hashing) find the few pairs that are worth one.
Sources: Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
chapter 3; Lee et al. 2022 for its use on training text.

Not covered: long passages that two otherwise different documents share. Lee et al. find
those with a suffix array.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from posttrain.foundations.data_pipeline_minhash import (
    HashFamily,
    choose_bands,
    jaccard,
    key_of,
)

Pair = tuple[int, int]  # places of two documents, the smaller one first


def exact_duplicates(texts: Sequence[str]) -> list[int]:
    """Places of texts whose `key_of` stood before, ascending.

    Compared are hashes of 128 bits, so the texts themselves need not be kept.
    """
    seen, dropped = set(), []
    for place, text in enumerate(texts):
        digest = hashlib.blake2b(key_of(text).encode(), digest_size=16).digest()
        if digest in seen:
            dropped.append(place)
        seen.add(digest)
    return dropped


@dataclass(frozen=True)
class NearDuplicates:
    """What was found: pairs looked at, pairs that are similar, clusters of them."""

    candidates: set[Pair]
    pairs: dict[Pair, float]  # those at or above the threshold, with their similarity
    clusters: list[list[int]]  # of two or more; each ascending

    @property
    def dropped(self) -> list[int]:
        """All but the first of each cluster, ascending."""
        return sorted(place for cluster in self.clusters for place in cluster[1:])


def near_duplicates(
    sets: Sequence[np.ndarray],
    threshold: float = 0.7,
    K: int = 128,
    bands: int | None = None,
    seed: int = 0,
) -> NearDuplicates:
    """Find pairs with Jaccard index >= threshold among arrays of shingles.

    bands: how many bands K is cut into; None: `choose_bands`. Candidates are verified
    on the shingles themselves, so every pair reported is one; some may be missed.
    """
    if bands is None:
        bands, rows = choose_bands(K, threshold)
    else:
        rows = K // bands
    family = HashFamily.draw(K, seed)
    signatures = np.array([family.signature(x) for x in sets]).reshape(-1, K)  # (N, K)
    candidates = candidate_pairs(signatures, bands, rows)
    return verified(sets, candidates, threshold)


def candidate_pairs(signatures: np.ndarray, bands: int, rows: int) -> set[Pair]:
    """Pairs that agree in all rows of at least one band.

    signatures: (N, K) with K >= bands * rows. A band is a key of a dict, so only
    documents that fall into the same bucket are ever put side by side.
    Raises ValueError where the bands do not fit.
    """
    K = signatures.shape[1]
    if bands < 1 or rows < 1 or bands * rows > K:
        raise ValueError(
            f"{bands} bands of {rows} rows need {bands * rows} numbers (at least 1"
            f" each); a signature has {K}"
        )
    found: set[Pair] = set()
    for band in range(bands):
        part = np.ascontiguousarray(signatures[:, band * rows : (band + 1) * rows])
        buckets = defaultdict(list)
        for place, numbers in enumerate(part):
            buckets[numbers.tobytes()].append(place)
        for places in buckets.values():
            found.update(combinations(places, 2))
    return found


def verified(
    sets: Sequence[np.ndarray], candidates: Iterable[Pair], threshold: float
) -> NearDuplicates:
    """Keep the candidates whose true similarity reaches the threshold; cluster them."""
    candidates = set(candidates)
    similarity = {pair: jaccard(sets[pair[0]], sets[pair[1]]) for pair in candidates}
    pairs = {pair: s for pair, s in similarity.items() if s >= threshold}
    return NearDuplicates(candidates, pairs, clusters_of(pairs, len(sets)))


def all_pairs(sets: Sequence[np.ndarray], threshold: float) -> dict[Pair, float]:
    """Every pair at or above the threshold, by comparing all of them. The reference.

    Python's own sets are used: on some hundred numbers they are faster than NumPy.
    """
    as_sets = [set(x.tolist()) for x in sets]
    found = {}
    for (i, a), (j, b) in combinations(enumerate(as_sets), 2):
        common = len(a & b)
        union = len(a) + len(b) - common
        similarity = common / union if union else 1.0
        if similarity >= threshold:
            found[i, j] = similarity
    return found


def clusters_of(pairs: Iterable[Pair], N: int) -> list[list[int]]:
    """Connected components with at least two members, by union-find.

    Each element points towards the root of its cluster; joining two clusters points
    one root at the other, the smaller number being the root. Looking up halves the
    path, so that it stays short.
    """
    parent = list(range(N))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in pairs:
        low, high = sorted((root(i), root(j)))
        parent[high] = low
    clusters = defaultdict(list)
    for i in range(N):
        clusters[root(i)].append(i)
    return [cluster for cluster in clusters.values() if len(cluster) > 1]
