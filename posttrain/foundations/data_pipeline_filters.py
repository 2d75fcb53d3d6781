"""Quality filters: one measure, one interval, one name a rule.

    report = judge(text)            # {"mean_word_length": 11.2}: what it fails, and how
    kept = not report

The rules and their limits are those of Gopher (Rae et al. 2021, appendix A.1) and C4
(Raffel et al. 2020, section 2.2), plus a share of digits. A rule never looks at
meaning. It looks at what is cheap to count and rare in good prose. So each rule is also
an opinion about what good text is, and throws away what differs: code, tables, poems.

Not covered: filters that are trained, such as a classifier of quality or the perplexity
of a small model. They find what counting cannot.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Gopher's eight
STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
TERMINAL = (".", "!", "?", '"', "'", "”", "’")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\ufeff]")


def normalise(text: str) -> str:
    """The same text in one spelling: NFC, "\\n" for line ends, no control characters,
    no spaces at the ends of lines, at most one blank line.

    Indentation stays, and so do case and letters: what is trained on must be what
    people write. `key_of` goes further, and is only for comparing.
    """
    text = unicodedata.normalize("NFC", text)
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u00a0", " ")
    text = CONTROL.sub("", text)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def words_of(text: str) -> list[str]:
    """What white space separates."""
    return text.split()


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


# ---------------------------------------------------------------- measures of a text


def word_count(text: str) -> float:
    """Words."""
    return len(words_of(text))


def mean_word_length(text: str) -> float:
    """Characters a word."""
    words = words_of(text)
    return _share(sum(map(len, words)), len(words))


def symbol_share(text: str) -> float:
    """Hashes and ellipses for each word."""
    symbols = text.count("#") + text.count("...") + text.count("…")
    return _share(symbols, len(words_of(text)))


def digit_share(text: str) -> float:
    """Digits among the characters that are no white space."""
    solid = "".join(text.split())
    return _share(sum(map(str.isdigit, solid)), len(solid))


def alphabetic_share(text: str) -> float:
    """Words with at least one letter."""
    words = words_of(text)
    return _share(sum(any(map(str.isalpha, word)) for word in words), len(words))


def stop_words(text: str) -> float:
    """How many different ones of STOP_WORDS occur."""
    return len(STOP_WORDS & set(re.findall(r"[a-z]+", text.lower())))


def bullet_share(text: str) -> float:
    """Lines that begin with a bullet."""
    lines = _lines(text)
    return _share(sum(line.startswith(("-", "*", "•")) for line in lines), len(lines))


def ellipsis_share(text: str) -> float:
    """Lines that break off with an ellipsis."""
    lines = _lines(text)
    return _share(sum(line.endswith(("...", "…")) for line in lines), len(lines))


def repeated_line_share(text: str) -> float:
    """Characters of lines that stood in the text before."""
    lines = _lines(text)
    repeated, seen = 0, set()
    for line in lines:
        repeated += len(line) if line in seen else 0
        seen.add(line)
    return _share(repeated, sum(map(len, lines)))


def top_ngram_share(text: str, n: int = 3) -> float:
    """Characters in the commonest n-gram of words, all its occurrences together.

    An n-gram that occurs once is no repetition: 0.
    """
    words = words_of(text)
    grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    covered = [
        times * sum(map(len, gram)) for gram, times in grams.items() if times > 1
    ]
    return _share(max(covered, default=0), sum(map(len, words)))


def curly_brackets(text: str) -> float:
    """How many "{" there are."""
    return text.count("{")


def terminal_share(text: str) -> float:
    """Lines that end like a sentence."""
    lines = _lines(text)
    return _share(sum(line.endswith(TERMINAL) for line in lines), len(lines))


def _lines(text: str) -> list[str]:
    """Lines that are not blank, without the space around them."""
    return [line.strip() for line in text.splitlines() if line.strip()]


# ----------------------------------------------------------------------------- rules


@dataclass(frozen=True)
class Rule:
    """A text passes if low <= measure(text) <= high."""

    measure: Callable[[str], float]
    low: float = -math.inf
    high: float = math.inf

    @property
    def name(self) -> str:
        """That of the measure."""
        return self.measure.__name__


GOPHER = (
    Rule(word_count, 50, 100_000),
    Rule(mean_word_length, 3, 10),
    Rule(symbol_share, high=0.1),
    Rule(alphabetic_share, low=0.8),
    Rule(stop_words, low=2),
    Rule(bullet_share, high=0.9),
    Rule(ellipsis_share, high=0.3),
    Rule(repeated_line_share, high=0.2),
    Rule(top_ngram_share, high=0.18),
)
RULES = (*GOPHER, Rule(digit_share, high=0.2))  # what the pipeline uses
C4 = (Rule(curly_brackets, high=0), Rule(terminal_share, low=0.5))  # shown, not used


def judge(text: str, rules: Sequence[Rule] = RULES) -> dict[str, float]:
    """The rules that the text breaks, with what was measured; {} for a good text."""
    measured = ((rule, rule.measure(text)) for rule in rules)
    return {
        rule.name: value
        for rule, value in measured
        if not rule.low <= value <= rule.high
    }


def first_broken(text: str, rules: Sequence[Rule] = RULES) -> str | None:
    """The name of the first rule that the text breaks; later ones are not measured."""
    return next((r.name for r in rules if not r.low <= r.measure(text) <= r.high), None)
