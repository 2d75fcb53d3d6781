"""Checks of the exercise `tokenization`.

References: Hugging Face `tokenizers` (splitting, training, encoding, the unigram
model), plain counting and regular expressions on strings where a closed form is shorter
(pairs, merges, special tokens), Python's own UTF-8 decoder (decoding). A tokenizer
that was trained is judged by its list of merges, and by what comes back after encoding
with them.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import torch

from posttrain.checks.mistakes.tokenization import MISTAKES
from posttrain.checks.task import Task

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat;",
    "banana,",
    "hello",
    "world:",
    "mississippi",
    "naïve",
    "猫",
    "🙂",
]


def draw(rng, low, high):
    """A whole number, low ... high."""
    return int(torch.randint(low, high + 1, (), generator=rng))


def choose(rng, things):
    return things[draw(rng, 0, len(things) - 1)]


# ---------------------------------------------------------------- pre_split


def split_cases(rng, hidden):
    edges = ["", " ", "Hello", "Hello world", "a  b", "a   b ", "\n", "a\n\nb", "  a"]
    edges += ["I'll", "WE'RE", "it's 'fine'", "'sad", "don't 'll", "x='s'", "''S"]
    edges += [
        "7",
        "1234567",
        "in 2026",
        "in  2026",
        "3.14",
        "a1b22",
        "²½ ٣٤٥٦",
        "Ⅻ",
        "a ½",
        "I'd I'm I've can't he'S",
    ]
    edges += ["a-b", "a_b", " _x", "x == y;", "(a) ...", "$9", "\t\tif x:\n", "tail \n"]
    edges += [
        "naïve Übung",
        "русский 中文",
        "🙂 👍🏽",
        "e\u0301te\u0301",
        "\u00a0x\u3000y",
    ]
    yield from ((text,) for text in edges)
    parts = ["cat", "Dog", "é", "中文", "'s", "'LL", "'", "2026", "7", "  ", " ", "\n"]
    parts += ["\t", "...", "==", "_", "🙂", "\u00a0", "½", " 12345", "'d've"]
    for _ in range(12 if hidden else 4):
        yield ("".join(choose(rng, parts) for _ in range(draw(rng, 3, 9))),)


def drive_split(answer, text):
    return list(answer(text))


def reference_split(text):
    from tokenizers import Regex, pre_tokenizers

    pattern = (
        r"'(?i:s|t|re|ve|m|ll|d)"
        r"| ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    )
    cut = pre_tokenizers.Split(Regex(pattern), "isolated")
    return [part for part, _ in cut.pre_tokenize_str(text)]


# ---------------------------------------------------------------- count_pairs


def pair_cases(rng, hidden):
    yield ([],)
    yield ([([], 3), ([7], 2)],)
    yield ([([1, 2], 1)],)
    yield ([([1, 2], 3), ([1, 2, 1], 2)],)
    yield ([([1, 2, 1, 2], 3)],)  # twice in one word, and not overlapping
    yield ([([5, 5, 5], 2)],)
    yield ([([1, 2], 3), ([1, 2], 2)],)  # the same word twice in the list
    yield ([([1, 2, 3], 10), ([2, 3], 1), ([3, 1, 2], 4)],)
    for _ in range(6 if hidden else 2):
        words = []
        for _ in range(draw(rng, 2, 5)):
            ids = torch.randint(1, 5, (draw(rng, 1, 7),), generator=rng).tolist()
            words.append((ids, draw(rng, 1, 9)))
        yield (words,)


def drive_pairs(answer, words):
    counts = answer(words)
    found = [[list(pair), counts[pair]] for pair in counts]
    return {"pairs and counts": sorted(found), "words afterwards": words}


def reference_pairs(words):
    flat = [pair for ids, n in words for pair in list(pairwise(ids)) * n]
    found = [[list(pair), n] for pair, n in Counter(flat).items()]
    return {"pairs and counts": sorted(found), "words afterwards": words}


# ---------------------------------------------------------------- merge


def merge_cases(rng, hidden):
    yield [], (1, 2), 9
    yield [1], (1, 2), 9
    yield [1, 2], (1, 2), 9
    yield [2, 1], (1, 2), 9
    yield [1, 2, 3], (1, 2), 9
    yield [3, 1, 2], (1, 2), 9
    yield [1, 2, 1, 2], (1, 2), 9
    yield [5, 5, 5], (5, 5), 9
    yield [5, 5, 5, 5], (5, 5), 9
    yield [1, 1, 2, 2], (1, 2), 9
    yield [9, 1, 2], (9, 9), 10
    yield [11, 2, 1, 2], (1, 2), 300  # 11 ends in a 1
    yield [1, 23, 1, 2], (1, 2), 300
    for _ in range(8 if hidden else 3):
        ids = torch.randint(1, 4, (draw(rng, 6, 14),), generator=rng).tolist()
        yield ids, (draw(rng, 1, 3), draw(rng, 1, 3)), 256 + draw(rng, 0, 50)


def drive_merge(answer, ids, pair, new_id):
    return {"merged": list(answer(ids, pair, new_id)), "ids afterwards": ids}


def reference_merge(ids, pair, new_id):
    """On a string with one character an id: `replace` goes from left to right."""
    text = "".join(map(chr, ids))
    joined = text.replace(chr(pair[0]) + chr(pair[1]), chr(new_id))
    return {"merged": [ord(c) for c in joined], "ids afterwards": ids}


# ---------------------------------------------------------------- train


def train_cases(rng, hidden):
    yield {b"ab": 2}, 1
    yield {b"abab": 1, b"b": 9}, 0
    yield {b"ac": 1, b"ab": 1}, 1
    yield {b"ab": 3, b"cd": 3, b"zz": 3}, 2  # a tie
    yield {b"zy": 2, b"ba": 2, b"bz": 1}, 3
    yield {b"aaaa": 5, b"aab": 1}, 3
    yield {b"low": 5, b"lower": 2, b"newest": 6, b"widest": 3}, 10  # Sennrich et al.
    yield {b"ab": 1}, 5  # the pairs run out
    yield {b"a": 4}, 2
    yield {bytes([255, 0]): 2, bytes([0, 255]): 2}, 2
    for _ in range(8 if hidden else 2):
        words = [choose(rng, WORDS).encode() for _ in range(draw(rng, 3, 6))]
        letters = b"abc"[: draw(rng, 1, 3)]
        size = draw(rng, 4, 9)
        words.append(bytes(choose(rng, letters) for _ in range(size)))
        yield {word: draw(rng, 1, 6) for word in words}, draw(rng, 4, 12)


def drive_train(answer, chunks, merges):
    """The merges as they came, and what they make of the words."""
    import itertools

    def count_pairs(words):
        counts = {}
        for ids, n in words:
            for pair in itertools.pairwise(ids):
                counts[pair] = counts.get(pair, 0) + n
        return counts

    def merge(ids, pair, new_id):
        ids, i = list(ids), 0
        while i < len(ids) - 1:
            if (ids[i], ids[i + 1]) == tuple(pair):
                ids[i : i + 2] = [new_id]
            i += 1
        return ids

    given = dict(chunks)
    came = answer(chunks, merges, count_pairs, merge)
    learned = [(int(a), int(b)) for a, b in came]
    pieces = [bytes([i]) for i in range(256)]
    for a, b in learned:
        pieces.append(pieces[a] + pieces[b])
    words = []
    for ids in map(list, given):
        for new_id, pair in enumerate(learned, start=256):
            ids = merge(ids, pair, new_id)
        words.append([pieces[i] for i in ids])
    return {
        "merges": learned,
        "tokens": pieces[256:],
        "words cut by them": words,
        "chunks afterwards": chunks == given,
    }


def reference_train(chunks, merges):
    """Hugging Face's trainer, on letters that stand for bytes in the same order."""
    from tokenizers import Tokenizer, models, trainers

    letters = [chr(0x4E00 + byte) for byte in range(256)]

    def written(chunk):
        return "".join(letters[byte] for byte in chunk)

    made = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges, initial_alphabet=letters, show_progress=False
    )
    made.train_from_iterator(
        [written(chunk) for chunk, n in chunks.items() for _ in range(n)], trainer
    )
    ids = made.get_vocab()
    names = sorted(ids, key=ids.get)

    def raw(name):
        return bytes(ord(letter) - 0x4E00 for letter in name)

    words = [[raw(token) for token in made.encode(written(c)).tokens] for c in chunks]
    return {
        "merges": _merges_of(made),
        "tokens": [raw(name) for name in names[256:]],
        "words cut by them": words,
        "chunks afterwards": True,
    }


def _merges_of(made):
    import json

    model = json.loads(made.to_str())["model"]
    return [(model["vocab"][a], model["vocab"][b]) for a, b in model["merges"]]


# ---------------------------------------------------------------- encode

ABC = [(97, 98), (98, 99), (256, 99), (97, 257)]  # ab, bc, ab+c, a+bc


def encode_cases(rng, hidden):
    yield b"", ABC
    yield b"a", ABC
    yield b"abc", []
    yield b"ab", ABC
    yield b"abc", ABC
    yield b"abcbc", ABC
    yield b"bcabc", ABC
    yield b"abc", [(98, 99), (97, 98), (97, 256)]  # rank, not position
    yield b"abc", [(97, 98), (98, 99), (97, 257)]  # a + bc is a token, ab + c is none
    yield b"abcd", [(97, 98), (99, 100), (98, 99), (256, 99)]
    yield b"aaaaa", [(97, 97), (256, 97), (256, 256)]
    yield b"abcd", [(99, 100), (98, 256), (97, 98), (97, 257)]
    # the longest token is not reached: ab is made first
    yield b"abcd", [(97, 98), (98, 99), (257, 100), (97, 258)]
    yield b"\xff\x00\xff", [(255, 0)]
    for _ in range(10 if hidden else 3):
        merges, used = [], set()
        for number in range(draw(rng, 4, 12)):
            alphabet = [97, 98, 99, *range(256, 256 + number)]
            pair = choose(rng, alphabet), choose(rng, alphabet)
            while pair in used:
                pair = choose(rng, alphabet), choose(rng, alphabet)
            used.add(pair)
            merges.append(pair)
        size = draw(rng, 5, 16)
        yield bytes(choose(rng, b"abc") for _ in range(size)), merges


def drive_encode(answer, chunk, merges):
    def merge(ids, pair, new_id):
        ids, i = list(ids), 0
        while i < len(ids) - 1:
            if (ids[i], ids[i + 1]) == tuple(pair):
                ids[i : i + 2] = [new_id]
            i += 1
        return ids

    given = list(merges)
    ids = [int(i) for i in answer(chunk, merges, merge)]
    return {"ids": ids, "merges afterwards": list(merges) == given}


def reference_encode(chunk, merges):
    """One merge after the other over a string with one character an id."""
    text = "".join(map(chr, chunk))
    for new_id, (left, right) in enumerate(merges, start=256):
        text = text.replace(chr(left) + chr(right), chr(new_id))
    return {"ids": [ord(c) for c in text], "merges afterwards": True}


# ---------------------------------------------------------------- decode


def decode_cases(rng, hidden):
    pieces = [bytes([i]) for i in range(256)]
    yield [], pieces
    yield [72, 105], pieces
    yield list("é".encode()), pieces  # a character in two tokens
    yield list("🙂".encode()), pieces
    yield [0], ["猫".encode()[:2], "猫".encode()[2:]]  # half a character
    yield [1, 0, 1], ["猫".encode()[:2], "猫".encode()[2:]]
    yield [0, 1, 0], ["猫".encode()[:2], "猫".encode()[2:]]
    yield [0, 1], [b"a\xff", b"\xfeb"]
    yield [0, 1, 0], [b"", b"\xe2\x82"]
    yield [0, 1, 2], [b"a", b"b"]  # no such id
    yield [0, -1], [b"a", b"b"]
    yield [2], [b"a", b"b"]
    yield [0, 7], [b"a", b"b"]
    yield [0], [b" a\n"]
    yield [0, 1], ["\ufeff".encode(), b"a"]  # a byte order mark is a character
    for _ in range(8 if hidden else 3):
        raw = " ".join(choose(rng, WORDS) for _ in range(4)).encode()
        cuts = sorted({0, len(raw), *(draw(rng, 0, len(raw)) for _ in range(6))})
        parts = [raw[i:j] for i, j in pairwise(cuts)]
        order = torch.randperm(len(parts), generator=rng).tolist()
        shuffled = [parts[i] for i in order]
        ids = [order.index(i) for i in range(len(parts))]
        yield ids, shuffled
        yield torch.randint(len(parts), (5,), generator=rng).tolist(), shuffled


def drive_decode(answer, ids, pieces):
    try:
        return answer(ids, pieces)
    except ValueError as error:
        bad = next((i for i in ids if not 0 <= i < len(pieces)), "")
        named = str(bad) in str(error)
        return f"{type(error).__name__} that names {bad if named else 'no id'}"


def reference_decode(ids, pieces):
    import io

    for i in ids:
        if i not in range(len(pieces)):
            return f"ValueError that names {i}"
    raw = io.BytesIO(b"".join(pieces[i] for i in ids))
    return io.TextIOWrapper(raw, "utf-8", "replace", newline="").read()


# ---------------------------------------------------------------- specials

END, PAD = "<|endoftext|>", "<|pad|>"


def special_cases(rng, hidden):
    names = {END: 1000, PAD: 1001, "[end] (a+b)*": 1002, "<|p": 1003}
    yield "", names, [END]
    yield "hello", names, []
    yield "hello", names, [END]
    yield "a" + END, names, []
    yield "a" + END, names, [END]
    yield END + "a", names, [END]
    yield "a" + END + "b", names, [PAD]
    yield END + END, names, [END]
    yield END + PAD + END, names, [END]
    yield "a" + PAD + "b" + END + "c", names, [PAD, END]
    yield "a" + PAD + "b" + END + "c", names, [END]
    yield "x [end] (a+b)* y", names, ["[end] (a+b)*"]
    yield "a<|pad|>b<|pc", names, [PAD, "<|p"]  # one begins like the other
    yield "a<|pad|>b<|pc", names, ["<|p", PAD]
    yield "<|end|oftext> < | endoftext|>", names, [END]
    yield "a", names, ["<|no such|>"]
    yield "<|no such|>", names, [END, "<|no such|>"]
    yield "ab", {"a": 7}, ["a"]
    parts = [*names, "a", "bc", " ", "<|", "|>", "é"]
    for _ in range(8 if hidden else 3):
        allowed = [name for name in names if draw(rng, 0, 1)]
        text = "".join(choose(rng, parts) for _ in range(draw(rng, 3, 8)))
        yield text, names, allowed


def drive_specials(answer, text, specials, allowed):
    """`encode` says how long each part is that it gets, then its bytes."""

    def encode(part):
        return [-len(part), *part.encode()] if part else []

    try:
        ids = [int(i) for i in answer(text, specials, allowed, encode)]
    except ValueError as error:
        ids = type(error).__name__
    return {"ids": ids, "allowed afterwards": allowed, "specials": specials}


def reference_specials(text, specials, allowed):
    """Walks the text by hand and asks at each place which name begins there."""
    given = {"allowed afterwards": allowed, "specials": specials}
    if set(allowed) - set(specials):
        return {"ids": "ValueError", **given}
    ids, part, place = [], "", 0
    while place < len(text):
        here = [name for name in allowed if text.startswith(name, place)]
        name = max(here, key=len, default="")
        if name:
            ids += [-len(part), *part.encode()] if part else []
            ids.append(specials[name])
            part = ""
        else:
            part += text[place]
        place += max(1, len(name))
    ids += [-len(part), *part.encode()] if part else []
    return {"ids": ids, **given}


# ---------------------------------------------------------------- viterbi


def viterbi_cases(rng, hidden):
    yield "", {"a": -1.0}
    yield "a", {"a": -1.0}
    yield "ab", {"a": -1.0, "b": -1.0, "ab": -1.5}
    yield "ab", {"a": -1.0, "b": -1.0, "ab": -2.5}
    yield "abc", {"ab": -0.5, "c": -9.0, "a": -2.0, "bc": -2.0}
    yield "abcd", {"abc": -1.0, "d": -20.0, "a": -5.0, "bcd": -5.0, "b": -1.0}
    yield "aab", {"a": 0.0, "b": -4.0, "ab": -3.0}  # a piece may have probability 1
    yield "ax", {"a": -1.0}
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    yield alphabet, {**dict.fromkeys(alphabet, -1.0), alphabet: -3.0}
    yield "abc", {"ab": -1.0, "bc": -1.0}
    yield "x" * 60, {"x": -30.0, "xx": -70.0}  # the product is below every float
    for _ in range(6 if hidden else 2):
        size = draw(rng, 5, 9)
        yield _random_cut(rng, size)
    yield _random_cut(rng, 40)


def _random_cut(rng, size):
    word = "".join(choose(rng, "abc") for _ in range(size))
    pieces = {*"abc"}
    for _ in range(12):
        start = draw(rng, 0, size - 2)
        pieces.add(word[start : start + draw(rng, 2, 4)])
    logs = -6 * torch.rand(len(pieces), generator=rng, dtype=torch.float64) - 0.5
    return word, dict(zip(sorted(pieces), logs.tolist(), strict=True))


def drive_viterbi(answer, word, log_probs):
    """Of two cuts with equal probability either will do: the sum is judged."""
    given = dict(log_probs)
    try:
        pieces = list(answer(word, log_probs))
    except ValueError as error:
        return type(error).__name__
    known = [piece for piece in pieces if piece in given]
    return {
        "pieces joined": "".join(pieces),
        "pieces not in the vocabulary": len(pieces) - len(known),
        "log-probability": float(sum(given[piece] for piece in known)),
        "log_probs unchanged": log_probs == given,
    }


def reference_viterbi(word, log_probs):
    score = _best_of_all(word, log_probs) if len(word) < 12 else _hf(word, log_probs)
    if score is None:
        return "ValueError"
    return {
        "pieces joined": word,
        "pieces not in the vocabulary": 0,
        "log-probability": score,
        "log_probs unchanged": True,
    }


def _best_of_all(word, log_probs):
    """The best of all 2^(n-1) cuts, None if there is none."""
    places = range(1, len(word))
    scores = []
    for choice in range(2 ** max(0, len(word) - 1)):
        inner = [p for p in places if choice >> (p - 1) & 1]
        cut = [word[i:j] for i, j in pairwise([0, *inner, len(word)])] if word else []
        if all(piece in log_probs for piece in cut):
            scores.append(float(sum(log_probs[piece] for piece in cut)))
    return max(scores, default=None)


def _hf(word, log_probs):
    """Hugging Face's unigram model; every single character is in log_probs."""
    from tokenizers import Tokenizer, models

    made = Tokenizer(models.Unigram([("<unk>", 0.0), *log_probs.items()], 0))
    return float(sum(log_probs[token] for token in made.encode(word).tokens))


TASKS = {
    "pre_split": Task(split_cases, drive_split, reference_split, MISTAKES["pre_split"]),
    "count_pairs": Task(
        pair_cases, drive_pairs, reference_pairs, MISTAKES["count_pairs"]
    ),
    "merge": Task(merge_cases, drive_merge, reference_merge, MISTAKES["merge"]),
    "train": Task(train_cases, drive_train, reference_train, MISTAKES["train"]),
    "encode": Task(encode_cases, drive_encode, reference_encode, MISTAKES["encode"]),
    "decode": Task(decode_cases, drive_decode, reference_decode, MISTAKES["decode"]),
    "encode_with_specials": Task(
        special_cases,
        drive_specials,
        reference_specials,
        MISTAKES["encode_with_specials"],
    ),
    "viterbi": Task(
        viterbi_cases, drive_viterbi, reference_viterbi, MISTAKES["viterbi"]
    ),
}
