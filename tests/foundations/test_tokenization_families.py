"""WordPiece and Unigram: against enumeration, closed forms and Hugging Face."""

import itertools
import math
import random
from collections import Counter

import pytest

from posttrain.foundations import tokenization_unigram as U
from posttrain.foundations import tokenization_wordpiece as W

WORDS = Counter(
    [
        "the",
        "cat",
        "sat",
        "on",
        "that",
        "mat",
        "and",
        "then",
        "the",
        "other",
        "cats",
        "chatted",
    ]
)


def cuts(word):
    """All ways to cut a word."""
    places = range(1, len(word))
    for size in range(len(word)):
        for inner in itertools.combinations(places, size):
            edges = [0, *inner, len(word)]
            yield [word[i:j] for i, j in itertools.pairwise(edges)]


@pytest.fixture
def log_probs():
    rng = random.Random(0)
    pieces = {w[i:j] for w in WORDS for i in range(len(w)) for j in range(i + 1, i + 4)}
    return U.normalised({piece: rng.random() + 0.01 for piece in sorted(pieces)})


# ---------------------------------------------------------------- wordpiece


def log_likelihood(text):
    counts = Counter(text)
    return sum(n * math.log(n / len(text)) for n in counts.values())


@pytest.mark.parametrize("text", ["ababcab", "abcabd" * 3, "ab", "abb" * 5 + "a"])
def test_gain_is_the_change_of_the_log_likelihood(text):
    joined = text.replace("ab", "x")
    n = Counter(text)
    came = W.gain(n["a"], n["b"], text.count("ab"), len(text))
    assert came == pytest.approx(log_likelihood(joined) - log_likelihood(text))


def test_gain_of_twins():
    text, joined = "aabaab", "xbxb"
    due = log_likelihood(joined) - log_likelihood(text)
    assert W.gain(4, 4, 2, 6, twins=True) == pytest.approx(due)


def test_training_takes_the_largest_gain_first():
    words = {"ab": 5, "ac": 1, "dc": 5}
    assert W.train_wordpiece(words, 6) == ["[UNK]", "##b", "##c", "a", "d", "ab"]


def test_training_keeps_its_counts_up_to_date():
    """Whole words are pieces of their own once the vocabulary allows it."""
    vocabulary = W.train_wordpiece(WORDS, 200)
    assert set(WORDS) <= set(vocabulary)
    assert len(vocabulary) == len(set(vocabulary))
    assert all(W.encode_word(word, set(vocabulary)) == [word] for word in WORDS)


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="characters need a larger vocab_size"):
        W.train_wordpiece(WORDS, 5)


def test_longest_match_and_unknown_words():
    vocabulary = {"un", "##happy", "##hap", "unh", "##appy"}
    assert W.encode_word("unhappy", vocabulary) == ["unh", "##appy"]
    assert W.encode_word("unhappiness", vocabulary) == ["[UNK]"]
    assert W.encode_word("", vocabulary) == []


def test_wordpiece_equals_hugging_face():
    from tokenizers import models

    listed = W.train_wordpiece(WORDS, 40)
    vocabulary = {piece: i for i, piece in enumerate(listed)}
    theirs = models.WordPiece(vocabulary, unk_token=W.UNKNOWN)
    rng = random.Random(1)
    for _ in range(300):
        word = "".join(rng.choices("theacsnmx", k=rng.randint(1, 9)))
        due = [token.value for token in theirs.tokenize(word)]
        assert W.encode_word(word, set(listed)) == due


# ---------------------------------------------------------------- unigram


@pytest.mark.parametrize("word", sorted(WORDS))
def test_viterbi_finds_the_best_of_all_cuts(word, log_probs):
    due = max(
        sum(log_probs[piece] for piece in cut)
        for cut in cuts(word)
        if all(piece in log_probs for piece in cut)
    )
    came = U.viterbi(word, log_probs)
    assert "".join(came) == word
    assert sum(log_probs[piece] for piece in came) == pytest.approx(due)


def test_viterbi_of_nothing_and_of_the_impossible(log_probs):
    assert U.viterbi("", log_probs) == []
    with pytest.raises(ValueError, match="make up 'thex'"):
        U.viterbi("thex", log_probs)


def test_viterbi_equals_hugging_face(log_probs):
    from tokenizers import Tokenizer, models

    theirs = Tokenizer(models.Unigram([("<unk>", 0.0), *log_probs.items()], 0))
    rng = random.Random(2)
    letters = sorted(piece for piece in log_probs if len(piece) == 1)
    for _ in range(100):
        word = "".join(rng.choices(letters, k=rng.randint(1, 30)))
        scores = [
            sum(log_probs[piece] for piece in pieces)
            for pieces in (U.viterbi(word, log_probs), theirs.encode(word).tokens)
        ]
        assert scores[0] == pytest.approx(scores[1])


def test_expected_counts_are_those_of_all_cuts(log_probs):
    due = Counter()
    for word, n in WORDS.items():
        known = [c for c in cuts(word) if all(p in log_probs for p in c)]
        weights = [math.exp(sum(log_probs[p] for p in c)) for c in known]
        for cut, weight in zip(known, weights, strict=True):
            for piece in cut:
                due[piece] += n * weight / sum(weights)
    assert U.expected_counts(WORDS, log_probs) == pytest.approx(dict(due))


def likelihood(log_probs):
    return sum(n * U._forward(word, log_probs)[-1] for word, n in WORDS.items())


def test_em_never_lowers_the_likelihood(log_probs):
    for _ in range(5):
        better = U.normalised(U.expected_counts(WORDS, log_probs))
        assert likelihood(better) >= likelihood(log_probs) - 1e-9
        log_probs = better


def test_samples_follow_the_model(log_probs):
    word, rng, draws = "cats", random.Random(3), 4000
    for alpha in (0.0, 1.0):
        known = [c for c in cuts(word) if all(p in log_probs for p in c)]
        weights = [math.exp(alpha * sum(log_probs[p] for p in c)) for c in known]
        came = Counter(
            tuple(U.sample(word, log_probs, alpha, rng)) for _ in range(draws)
        )
        for cut, weight in zip(known, weights, strict=True):
            share = weight / sum(weights)
            error = 5 * math.sqrt(share * (1 - share) / draws)  # five sigma
            assert abs(came[tuple(cut)] / draws - share) <= error


def test_training_reaches_the_size_and_can_cut_everything():
    log_probs = U.train_unigram(WORDS, 24, seed_size=60)
    assert len(log_probs) <= 24
    assert math.fsum(map(math.exp, log_probs.values())) == pytest.approx(1)
    assert set("".join(WORDS)) <= set(log_probs)
    for word in (*WORDS, "monotone"):
        assert "".join(U.viterbi(word, log_probs)) == word


def test_pruning_keeps_what_the_text_needs_most():
    log_probs = U.normalised({"a": 1, "b": 1, "ab": 8, "ba": 0.1})
    kept = U.prune({"ab": 9, "ba": 1}, log_probs, 3)
    assert set(kept) == {"a", "b", "ab"}


def test_the_space_becomes_visible():
    assert U.escape_space(" a  b") == "▁a▁▁b"
