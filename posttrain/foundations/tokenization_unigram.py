"""The unigram tokenizer: every cut of a word has a probability, the best one is taken.

A piece x has a probability p(x), a cut of a word the product over its pieces. Encoding
is the Viterbi algorithm, learning is EM from a large vocabulary that is then pruned.
Source: Kudo 2018 (subword regularisation); the pruning is SentencePiece's.

Words are plain strings; `escape_space` makes the space visible as SentencePiece does.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping

SPACE = "▁"  # U+2581: SentencePiece's visible space
LogProbs = Mapping[str, float]  # piece -> ln p(piece)


def escape_space(text: str) -> str:
    """Spaces as ordinary visible characters, so that joined pieces are the text."""
    return text.replace(" ", SPACE)


def viterbi(word: str, log_probs: LogProbs) -> list[str]:
    """The most probable cut of a word into pieces, in O(length²) steps.

    best[j] is the score of the best cut of word[:j]:
        best[j] = max over i < j of best[i] + ln p(word[i:j])
    Raises ValueError if no cut exists: a character is missing from the vocabulary.
    """
    best, start = [0.0] + [-math.inf] * len(word), [0] * (len(word) + 1)
    for j in range(1, len(word) + 1):
        for i in range(j):
            score = best[i] + log_probs.get(word[i:j], -math.inf)
            if score > best[j]:
                best[j], start[j] = score, i
    if best[-1] == -math.inf:
        raise ValueError(f"no pieces of the vocabulary make up {word!r}")
    pieces, end = [], len(word)
    while end:
        pieces.append(word[start[end] : end])
        end = start[end]
    return pieces[::-1]


def sample(
    word: str, log_probs: LogProbs, alpha: float, rng: random.Random
) -> list[str]:
    """A cut drawn with probability ∝ p(cut)^alpha: subword regularisation.

    alpha 1 draws from the model, 0 all cuts alike, large alpha the Viterbi cut.
    """
    scaled = {piece: alpha * p for piece, p in log_probs.items()}
    alphas, pieces, end = _forward(word, scaled), [], len(word)
    while end:  # backward: how probable is it that the last piece begins at i?
        starts = [i for i in range(end) if word[i:end] in scaled]
        logs = [alphas[i] + scaled[word[i:end]] for i in starts]
        top = max(logs)
        i = rng.choices(starts, [math.exp(x - top) for x in logs])[0]
        pieces.append(word[i:end])
        end = i
    return pieces[::-1]


def train_unigram(
    words: Mapping[str, int],
    vocab_size: int,
    seed_size: int | None = None,
    max_length: int = 8,
    rounds: int = 2,
    keep: float = 0.6,
) -> dict[str, float]:
    """Learn pieces and their log-probabilities from words and their counts.

    Starts from the `seed_size` (default 4 vocab_size) substrings that cover the most
    text; then, until vocab_size is reached: `rounds` steps of EM, and drop all but the
    share `keep` of pieces, the ones whose loss would hurt least. Characters stay.
    """
    log_probs = seed_pieces(words, seed_size or 4 * vocab_size, max_length)
    while True:
        for _ in range(rounds):
            log_probs = maximised(expected_counts(words, log_probs))
        if len(log_probs) <= vocab_size:
            return log_probs
        size = max(vocab_size, int(keep * len(log_probs)))
        log_probs = prune(words, log_probs, size)


def seed_pieces(words: Mapping[str, int], size: int, max_length: int) -> dict:
    """All characters, and the substrings with the largest count times length."""
    counts = Counter[str]()
    for word, n in words.items():
        for i in range(len(word)):
            for j in range(i + 1, min(len(word), i + max_length) + 1):
                counts[word[i:j]] += n
    single = [piece for piece in counts if len(piece) == 1]
    longer = [piece for piece in counts if len(piece) > 1 and counts[piece] > 1]
    longer.sort(key=lambda piece: (-counts[piece] * len(piece), piece))
    chosen = single + longer[: max(0, size - len(single))]
    return normalised({piece: counts[piece] for piece in chosen})


def expected_counts(words: Mapping[str, int], log_probs: LogProbs) -> dict[str, float]:
    """E step: how often each piece occurs, averaged over all cuts of all words.

    A piece that spans i to j has the posterior α(i) p(piece) β(j) / α(end), with α
    the summed probability of all cuts before it and β of all cuts behind it.
    """
    counts: dict[str, float] = defaultdict(float)
    longest = max(map(len, log_probs))
    for word, n in words.items():
        alphas = _forward(word, log_probs)
        betas = _forward(word, log_probs, backward=True)
        for i in range(len(word)):
            for j in range(i + 1, min(len(word), i + longest) + 1):
                if (piece := word[i:j]) in log_probs:
                    log = alphas[i] + log_probs[piece] + betas[j] - alphas[-1]
                    counts[piece] += n * math.exp(log)
    return counts


def maximised(counts: Mapping[str, float]) -> dict[str, float]:
    """M step: the shares of the pieces; those expected less than 0.5 times are dropped.

    Single characters stay, with a count of 0.001 at least: no text may be impossible.
    """
    kept = {
        piece: max(n, 0.001)
        for piece, n in counts.items()
        if n >= 0.5 or len(piece) == 1
    }
    return normalised(kept)


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """ln of each weight's share of the sum."""
    total = math.log(math.fsum(weights.values()))
    return {piece: math.log(weight) - total for piece, weight in weights.items()}


def prune(words: Mapping[str, int], log_probs: LogProbs, size: int) -> dict:
    """Keep characters, and the pieces without which the text would lose most.

    Without piece x, its occurrences would be cut in the best other way:
        loss(x) = count(x) · (ln p(x) - ln p(best cut of x without x))
    """
    counts = Counter[str]()
    for word, n in words.items():
        for piece in viterbi(word, log_probs):
            counts[piece] += n
    losses = {}
    for piece, own in log_probs.items():
        if len(piece) > 1:
            others = _within(piece, log_probs)
            del others[piece]
            other = sum(others[p] for p in viterbi(piece, others))
            losses[piece] = counts[piece] * (own - other)
    room = size - (len(log_probs) - len(losses))
    best = sorted(losses, key=lambda piece: (-losses[piece], piece))[: max(0, room)]
    chosen = {p for p in log_probs if len(p) == 1} | set(best)
    return normalised({piece: math.exp(log_probs[piece]) for piece in chosen})


def _within(text: str, log_probs: LogProbs) -> dict[str, float]:
    """The pieces that are substrings of `text`."""
    ends = range(1, len(text) + 1)
    found = {text[i:j] for j in ends for i in range(j)}
    return {piece: log_probs[piece] for piece in found if piece in log_probs}


def _forward(word: str, log_probs: LogProbs, backward: bool = False) -> list[float]:
    """ln of the summed probability of all cuts of word[:j], for each j.

    backward: of word[j:] instead. Where there is no cut it is -inf.
    """
    size = len(word)
    sums = [0.0] * (size + 1)
    for j in range(size - 1, -1, -1) if backward else range(1, size + 1):
        terms = []
        for i in range(j + 1, size + 1) if backward else range(j):
            piece = word[j:i] if backward else word[i:j]
            if piece in log_probs:
                terms.append(sums[i] + log_probs[piece])
        top = max(terms, default=-math.inf)
        total = sum(math.exp(x - top) for x in terms) if top > -math.inf else 0.0
        sums[j] = top + math.log(total) if total else -math.inf
    return sums
