"""MinHash: the similarity of two sets from a few numbers that each keeps.

    family = HashFamily.draw(K=128, seed=0)
    a, b = (family.signature(shingles(text)) for text in (one, other))
    estimate(a, b)                       # about jaccard(shingles(one), shingles(other))

A document becomes a set of *shingles*: its runs of k words. How much two sets have in
common is their Jaccard index, |A ∩ B| / |A ∪ B|. A hash function orders all shingles at
random; the two sets have the same *first* shingle with exactly that probability.
Source: Broder 1997.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from dataclasses import dataclass

import numpy as np

WORD = re.compile(r"\w+")
EMPTY = np.uint32(2**32 - 1)  # in the signature of a text without words


def key_of(text: str) -> str:
    """Letters and digits only, in lower case, in one spelling: for comparing texts.

    Unicode's compatibility forms are made equal (NFKC), so "ﬁ" is "fi".
    """
    return " ".join(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def shingles(text: str, k: int = 5) -> np.ndarray:
    """The set of runs of k words, as sorted different numbers of 32 bits: (S,) uint32.

    A text of fewer than k words is one shingle; one without words has none. Two
    different shingles get the same number with probability 2^-32.
    Raises ValueError for k below 1.
    """
    if k < 1:
        raise ValueError(f"k={k}: a shingle has at least 1 word")
    words = key_of(text).split()
    runs = {" ".join(words[i : i + k]) for i in range(max(1, len(words) - k + 1))}
    runs.discard("")
    numbers = [_number(run) for run in runs]
    return np.unique(np.array(numbers, dtype=np.uint32))


def _number(run: str) -> int:
    """32 bits that are the same in every process, unlike Python's own `hash`."""
    return int.from_bytes(
        hashlib.blake2b(run.encode(), digest_size=4).digest(), "little"
    )


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """|A ∩ B| / |A ∪ B| of two arrays of different numbers; 1 for two empty sets."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    union = len(a) + len(b) - common
    return common / union if union else 1.0


@dataclass(frozen=True)
class HashFamily:
    """K hash functions h(x) = ((a x + b) mod 2^64) >> 32 on numbers of 32 bits.

    Any two numbers get independent, uniform values (Dietzfelbinger 1996), and 64-bit
    arithmetic wraps round by itself, so all K run in one NumPy expression.
    """

    a: np.ndarray  # (K,) uint64
    b: np.ndarray  # (K,) uint64

    @classmethod
    def draw(cls, K: int = 128, seed: int = 0) -> HashFamily:
        """K functions. Raises ValueError for K below 1."""
        if K < 1:
            raise ValueError(f"K={K}: a signature has at least 1 number")
        random = np.random.default_rng(seed)
        a, b = random.integers(0, 2**64, size=(2, K), dtype=np.uint64)
        return cls(a, b)

    def signature(self, x: np.ndarray) -> np.ndarray:
        """The smallest value of each function over the set x (S,): (K,) uint32."""
        if not len(x):
            return np.full(len(self.a), EMPTY)
        values = self.a[:, None] * x.astype(np.uint64) + self.b[:, None]  # (K, S)
        return (values >> np.uint64(32)).min(axis=1).astype(np.uint32)


def estimate(a: np.ndarray, b: np.ndarray) -> float:
    """The share of equal places in two signatures: an estimate of the Jaccard index."""
    return float((a == b).mean())


# ----------------------------------------------------------------- bands: the S-curve


def candidate_probability(s: float | np.ndarray, bands: int, rows: int):
    """1 - (1 - s^rows)^bands: the chance that a pair of similarity s is looked at.

    It agrees in all rows of one band with probability s^rows; in at least one band
    unless it fails in all of them.
    """
    return 1 - (1 - np.asarray(s, dtype=float) ** rows) ** bands


def curve_threshold(bands: int, rows: int) -> float:
    """Where the S-curve climbs steepest, about: (1 / bands)^(1 / rows)."""
    return (1 / bands) ** (1 / rows)


def choose_bands(
    K: int, threshold: float, missed_weight: float = 0.5
) -> tuple[int, int]:
    """(bands, rows), bands * rows <= K, that errs least at this threshold.

    The error is the area under the S-curve left of the threshold (pairs looked at in
    vain) and the area above it to the right (pairs missed), weighted.
    Raises ValueError for a threshold outside of 0 ... 1.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold} must be between 0 and 1")
    s = (np.arange(1000) + 0.5) / 1000
    right = s >= threshold

    def error(rows: int) -> float:
        curve = candidate_probability(s, K // rows, rows)
        missed, in_vain = (1 - curve[right]).sum(), curve[~right].sum()
        return missed_weight * missed + (1 - missed_weight) * in_vain

    rows = min(range(1, K + 1), key=error)
    return K // rows, rows


def standard_error(s: float, K: int) -> float:
    """Of `estimate` at true similarity s: the root of s (1 - s) / K."""
    return math.sqrt(s * (1 - s) / K)


def expected_similarity(rate: float, k: int) -> float:
    """Jaccard index of a text and its copy in which each word was replaced by chance.

    A shingle survives if none of its k words was replaced: q = (1 - rate)^k of them.
    Of two sets of S shingles, q S are common: q S / (2 S - q S).
    """
    q = (1 - rate) ** k
    return q / (2 - q)
