"""Which language is it? Naive Bayes on character n-grams.

    identifier = trained_identifier()
    identifier.identify("Il est interdit de marcher.")     # ("French", 0.9...)

Characters tell languages apart before any word does: their letters, their endings, what
may follow what. The model treats the n-grams of a text as independent draws, which they
are not (neighbours share characters), so its probabilities are far too sure of
themselves. The order of the scores is what counts.

Trained on what is on the machine. Production uses fastText's model for 176 languages
(Joulin et al. 2016): n-grams too, but with learned weights.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from posttrain.foundations import tokenization_texts as texts

# Of Sphinx's catalogues: close relatives on purpose, and three that are far.
LANGUAGES = {
    "es": "Spanish",
    "ca": "Catalan",
    "gl": "Galician",
    "pt_BR": "Portuguese",
    "fr": "French",
    "id": "Indonesian",
    "tr": "Turkish",
    "ru": "Russian",
    "el": "Greek",
}
NOT_LETTERS = re.compile(r"[\W\d_]+")


@dataclass(frozen=True)
class LanguageTexts:
    """Short texts by language, to learn from and held out; `source` says whose."""

    train: dict[str, list[str]]
    held_out: dict[str, list[str]]
    source: str


@cache
def language_texts() -> LanguageTexts:
    """Messages of the installed Sphinx; those that all languages have are held out.

    Without Sphinx: one sentence of the Declaration of Human Rights for each of twelve
    languages, and nothing held out. It says so.
    """
    found = texts.messages(LANGUAGES)
    if found is None:
        print("language_texts: no Sphinx here, so there is one sentence a language")
        sentences = {name: [text] for name, text in texts.DECLARATION.items()}
        return LanguageTexts(sentences, {name: [] for name in sentences}, "declaration")
    held_out = {name: [row[name] for row in found.shared] for name in found.own}
    return LanguageTexts(found.own, held_out, "sphinx")


def ngrams(text: str, longest: int = 3, characters: int = 2000) -> Counter[str]:
    """Counts of all n-grams of 1 ... `longest` letters; "_" stands between words.

    Case, digits and punctuation are dropped. Of a long text only the beginning is read.
    """
    words = NOT_LETTERS.sub(" ", text[:characters].lower()).split()
    line = "_" + "_".join(words) + "_" if words else ""
    counts = Counter(
        line[i : i + n] for n in range(1, longest + 1) for i in range(len(line) - n + 1)
    )
    del counts["_"]
    return counts


@dataclass(frozen=True)
class LanguageIdentifier:
    """ln p(n-gram | language) as a table: one row an n-gram, one column a language."""

    languages: tuple[str, ...]
    row: dict[str, int]
    log_prob: np.ndarray  # (n-grams, languages)

    @classmethod
    def train(
        cls, examples: Mapping[str, Sequence[str]], alpha: float = 0.1
    ) -> LanguageIdentifier:
        """Count and smooth: p(g | l) = (n_gl + alpha) / (n_l + alpha G).

        examples: language -> texts. Raises ValueError for fewer than two languages, or
        one without a letter.
        """
        counts: dict[str, Counter[str]] = {name: Counter() for name in examples}
        for name, found in examples.items():
            for text in found:
                counts[name].update(ngrams(text))
        empty = [name for name, found in counts.items() if not found]
        if len(counts) < 2 or empty:
            raise ValueError(
                f"languages {list(counts)}, without a letter: {empty}; give at least"
                " two languages with text"
            )
        row = {gram: i for i, gram in enumerate(sorted(set().union(*counts.values())))}
        table = np.full((len(row), len(counts)), alpha)  # (G, L)
        for column, found in enumerate(counts.values()):
            table[[row[gram] for gram in found], column] += list(found.values())
        return cls(tuple(counts), row, np.log(table / table.sum(axis=0)))

    def scores(self, text: str) -> dict[str, float]:
        """ln p(text | language) in nats; n-grams not seen in training are left out."""
        known = {self.row[g]: n for g, n in ngrams(text).items() if g in self.row}
        total = np.array(list(known.values())) @ self.log_prob[list(known)]  # (L,)
        return dict(zip(self.languages, total.tolist(), strict=True))

    def identify(self, text: str) -> tuple[str, float]:
        """The most probable language, all being equally common, and its probability.

        ("", 0.0) for a text with no n-gram that was seen in training.
        """
        if not any(gram in self.row for gram in ngrams(text)):
            return "", 0.0
        found = self.scores(text)
        best = max(found, key=found.get)
        return best, 1 / sum(np.exp(score - found[best]) for score in found.values())


@cache
def trained_identifier() -> LanguageIdentifier:
    """The identifier of `language_texts`, trained once a process."""
    return LanguageIdentifier.train(language_texts().train)


def confusion(
    identifier: LanguageIdentifier, held_out: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, int]]:
    """{language: {identified as: how many texts}}."""
    return {
        name: dict(Counter(identifier.identify(text)[0] for text in found))
        for name, found in held_out.items()
    }
