"""Which training texts share a run of words with a test set.

    seen = runs_of(test_questions, n=13)
    places = overlapping(train_questions, seen, n=13)      # to be dropped

A test problem seldom stands in a training set word for word. A run of n words in common
is the usual sign. Short runs find phrases that everybody uses, long ones miss what was
reworded: try several n, and read what is found. Source: Brown et al. 2020, appendix C,
takes 13 words.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from posttrain.foundations.data_pipeline_minhash import key_of


def runs(text: str, n: int) -> set[str]:
    """The runs of n words of a text, in lower case and without punctuation.

    A text of fewer than n words has none. Raises ValueError for n below 1.
    """
    if n < 1:
        raise ValueError(f"n={n}: a run has at least 1 word")
    words = key_of(text).split()
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


def runs_of(texts: Iterable[str], n: int) -> set[str]:
    """The runs of all texts."""
    return set().union(*(runs(text, n) for text in texts))


def overlapping(texts: Sequence[str], seen: Collection[str], n: int) -> list[int]:
    """Places of the texts that share a run of n words with those seen, ascending."""
    return [
        place for place, text in enumerate(texts) if not runs(text, n).isdisjoint(seen)
    ]
