"""WordPiece: merges chosen by likelihood, and words cut by the longest match.

Pieces inside a word start with "##". What BERT's tokenizer does to a word is public
(Devlin et al. 2019, and google-research/bert, tokenization.py); how Google learned its
vocabulary is described in one sentence only: add the unit "that increases the
likelihood on the training data the most" (Schuster and Nakajima 2012, section 2). The
training below does exactly that for the likelihood of independent pieces.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from itertools import pairwise

UNKNOWN = "[UNK]"


def gain(n_a: int, n_b: int, n_ab: int, total: int, twins: bool = False) -> float:
    """By how much the log-likelihood of the pieces rises when a and b are joined.

    n_a, n_b, n_ab: how often a, b and the pair occur; total: all pieces; twins: a is b.
    With f(n) = n ln n, the log-likelihood of a text of pieces is Σ f(n_i) - f(total).
    In nats. Occurrences of twins that overlap (aaa) are taken as if they did not.
    """
    rest_a, rest_b = n_a - n_ab, n_b - n_ab
    if twins:
        before, after = _f(n_a), _f(n_a - 2 * n_ab)
    else:
        before, after = _f(n_a) + _f(n_b), _f(rest_a) + _f(rest_b)
    return _f(n_ab) + after - before + _f(total) - _f(total - n_ab)


def train_wordpiece(words: Mapping[str, int], vocab_size: int) -> list[str]:
    """Learn a vocabulary from words and their counts: characters, then joins by gain.

    Returns the pieces; [UNK] is the first. Ties go to the smaller pair of strings.
    Raises ValueError if the characters alone exceed vocab_size.
    """
    texts = [[word[0], *("##" + c for c in word[1:])] for word in words]
    times = list(words.values())
    pieces = Counter[str]()
    pairs, where = Counter[tuple[str, str]](), defaultdict(set)
    for number, (text, n) in enumerate(zip(texts, times, strict=True)):
        _count(text, n, pieces, pairs)
        for pair in pairwise(text):
            where[pair].add(number)
    vocabulary = [UNKNOWN, *sorted(pieces)]
    if len(vocabulary) > vocab_size:
        raise ValueError(f"{len(vocabulary)} characters need a larger vocab_size")
    while len(vocabulary) < vocab_size and pairs:
        total = pieces.total()
        a, b = min(pairs, key=lambda p: (-_gain(p, pieces, pairs, total), p))
        joined = a + b.removeprefix("##")
        for number in where.pop((a, b)):
            text, n = texts[number], times[number]
            _count(text, -n, pieces, pairs)
            texts[number] = text = _join(text, a, b, joined)
            _count(text, n, pieces, pairs)
            for pair in pairwise(text):
                where[pair].add(number)
        if joined not in vocabulary:
            vocabulary.append(joined)
    return vocabulary


def encode_word(word: str, vocabulary: Collection[str]) -> list[str]:
    """Cut a word: take the longest piece that fits, go on behind it.

    A word with a place where nothing fits is one [UNK] as a whole.
    """
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            piece = prefix + word[start:end]
            if piece in vocabulary:
                break
        else:
            return [UNKNOWN]
        pieces.append(piece)
        start = end
    return pieces


def _f(n: int) -> float:
    return n * math.log(n) if n > 0 else 0.0


def _gain(pair: tuple[str, str], pieces: Counter, pairs: Counter, total: int) -> float:
    a, b = pair
    return gain(pieces[a], pieces[b], pairs[pair], total, twins=a == b)


def _count(text: list[str], n: int, pieces: Counter, pairs: Counter) -> None:
    """Add n to the counts of all pieces and pairs of a word; drop what reaches 0."""
    for counts, found in ((pieces, text), (pairs, list(pairwise(text)))):
        for thing in found:
            counts[thing] += n
            if not counts[thing]:
                del counts[thing]


def _join(text: list[str], a: str, b: str, joined: str) -> list[str]:
    result: list[str] = []
    for piece in text:
        if result and (result[-1], piece) == (a, b):
            result[-1] = joined
        else:
            result.append(piece)
    return result
