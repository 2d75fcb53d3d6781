"""The experiment of the chapter: what does a tokenizer's vocabulary buy, and cost?

    sizes      one list of merges, cut at growing vocabulary sizes: bytes a token on
               held-out text, and how many tokens the training text hardly shows
    domains    trained on prose, on code, on both: each tried on both
    languages  trained on English, and on English with messages in eight languages
    families   byte-level BPE, WordPiece, Unigram at equal vocabulary size
    training   seconds against minbpe's method and against Hugging Face `tokenizers`
    encoding   tokens a second against `tokenizers` and `tiktoken`

A seed draws which documents are held out, and their order. Times are CPU seconds of all
threads together. Run it over seeds with `python -m ci.measure tokenization cpu`.
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass

from posttrain import data
from posttrain.foundations import tokenization_speed as speed
from posttrain.foundations import tokenization_texts as texts
from posttrain.foundations.tokenization_bpe import GPT2_PATTERN, BPEModel, pre_split
from posttrain.foundations.tokenization_gpt2 import gpt2_model
from posttrain.foundations.tokenization_train import count_chunks, train_merges
from posttrain.foundations.tokenization_unigram import (
    escape_space,
    train_unigram,
    viterbi,
)
from posttrain.foundations.tokenization_wordpiece import (
    UNKNOWN,
    encode_word,
    train_wordpiece,
)
from posttrain.presets import preset_named

VERSION = 1

RARE = 10  # a token that the training text shows less often learns little
BYTES = 256


@dataclass(frozen=True)
class Preset:
    """Sizes of one run: characters of text, and vocabulary sizes without specials."""

    prose: int
    code: int
    sizes: tuple[int, ...]  # ascending
    middle: int  # vocabulary of domains, languages and encoding
    family_prose: int  # characters for the families: WordPiece is slow
    family_size: int
    speed_prose: int  # characters for the training race
    speed_merges: int
    encode_seconds: float  # at least, for each side of the encoding race


PRESETS = {
    "ci": Preset(
        80_000, 40_000, (512, 1024, 2048, 4096), 2048, 20_000, 400, 8_000, 60, 0.1
    ),
    "cpu": Preset(
        2_000_000,
        2_000_000,
        (512, 1024, 2048, 4096, 8192, 16384, 32768),
        8192,
        1_000_000,
        2000,
        100_000,
        256,
        2.0,
    ),
}
# A tokenizer is trained on the CPU, whatever the GPU beside it.
PRESETS |= {"t4": PRESETS["cpu"], "h200": PRESETS["cpu"]}


@dataclass(frozen=True)
class Split:
    """Documents to learn from, and documents held out."""

    train: list[str]
    test: list[str]


def run(preset: str, seed: int) -> dict:
    """All parts at one size; JSON-able. Raises ValueError for an unknown preset."""
    setup = preset_named(PRESETS, preset)
    corpus = data.load("tinyshakespeare")
    prose = split(corpus.text[: setup.prose].split("\n\n"), seed)
    code = split(texts.python_source(setup.code, seed), seed)
    return {
        "preset": preset,
        "seed": seed,
        "config": asdict(setup),
        "data": {
            "name": corpus.name,
            "source": corpus.source,
            "sha256": corpus.sha256,
            "bytes": {
                "prose": [size_in_bytes(prose.train), size_in_bytes(prose.test)],
                "code": [size_in_bytes(code.train), size_in_bytes(code.test)],
            },
        },
        "sizes": by_size(prose, code, setup.sizes),
        "domains": by_domain(prose, code, setup.middle),
        "languages": by_language(prose, setup.middle),
        "families": by_family(prose, setup.family_prose, setup.family_size),
        "training": {
            "race": speed.race(prose.train, setup.speed_prose, setup.speed_merges),
            "full": speed.full(prose.train, setup.middle - BYTES),
        },
        "encoding": speed.encoding(
            learn(prose.train, setup.middle), prose.test, setup.encode_seconds
        ),
    }


def split(documents: list[str], seed: int) -> Split:
    """Shuffle; a tenth of the documents, at least one, is held out."""
    shuffled = list(documents)
    random.Random(seed).shuffle(shuffled)
    cut = max(1, len(shuffled) // 10)
    return Split(shuffled[cut:], shuffled[:cut])


def learn(documents: list[str], size: int) -> BPEModel:
    """A byte-level BPE model with `size` tokens."""
    chunks = count_chunks(documents, GPT2_PATTERN)
    return BPEModel(train_merges(chunks, size - BYTES))


def by_size(prose: Split, code: Split, sizes: tuple[int, ...]) -> dict:
    """One training on prose and code; its merges cut short give the smaller sizes."""
    both = prose.train + code.train
    whole = learn(both, sizes[-1])
    rows = []
    for size in sizes:
        model = BPEModel(whole.merges[: size - BYTES])
        counts = Counter(i for text in both for i in model.encode(text))
        rows.append(
            {
                "size": size,
                "prose": bytes_per_token(model, prose.test),
                "code": bytes_per_token(model, code.test),
                "train": size_in_bytes(both) / counts.total(),
                "rare": sum(counts[i] < RARE for i in range(BYTES, size))
                / (size - BYTES),
            }
        )
    return {"rows": rows, "longest": longest(whole)}


def by_domain(prose: Split, code: Split, size: int) -> dict:
    """Bytes a token: {trained on: {tried on: ...}}."""
    mixes = {
        "prose": prose.train,
        "code": code.train,
        "both": prose.train + code.train,
    }
    found = {}
    for name, documents in mixes.items():
        model = learn(documents, size)
        tried = {"prose": prose.test, "code": code.test}
        found[name] = {n: bytes_per_token(model, test) for n, test in tried.items()}
    return found


def by_language(prose: Split, size: int) -> dict:
    """Tokens for texts that say the same in each language: {text: {arm: {language}}}.

    The arm "mixed" also learns from messages, where they can be had, other than those
    that are counted. The arm "gpt2" has GPT-2's merges, or their beginning.
    """
    merges = data.load("gpt2_merges")
    arms = {
        "english": learn(prose.train, size),
        "gpt2": gpt2_model(merges.text),
    }
    found = texts.messages()
    if found is None:
        print(
            "Sphinx is not installed: the mixed tokenizer and its messages are left out"
        )
        messages, own = {}, 0
    else:
        other = [text for language in found.own.values() for text in language]
        own = size_in_bytes(other)
        arms["mixed"] = learn(prose.train + other, size)
        messages = {
            name: "\n".join(row[name] for row in found.shared) for name in found.own
        }
    return {
        "gpt2_merges": merges.source,
        "message_bytes": own,
        "bytes": {name: len(text.encode()) for name, text in messages.items()},
        "messages": {arm: tokens(model, messages) for arm, model in arms.items()},
        "declaration": {
            arm: tokens(model, texts.DECLARATION) for arm, model in arms.items()
        },
    }


def by_family(prose: Split, characters: int, size: int) -> dict:
    """Bytes a token and seconds of training for BPE, WordPiece and Unigram.

    All see the same chunks. BPE has 256 bytes in its vocabulary, the other two only
    the characters of the text.
    """
    train = "\n\n".join(prose.train)[:characters]
    test = "\n\n".join(prose.test)
    words = Counter(map(escape_space, pre_split(train, GPT2_PATTERN)))
    known = set().union(*words)

    def bpe() -> Callable[[str], list]:
        model = learn([train], size)
        return lambda word: model.encode(word.replace("▁", " "))

    def wordpiece() -> Callable[[str], list]:
        vocabulary = set(train_wordpiece(words, size))
        return lambda word: encode_word(word, vocabulary)

    def unigram() -> Callable[[str], list]:
        log_probs = train_unigram(words, size)
        return lambda word: viterbi(word, log_probs)

    tried = Counter(map(escape_space, pre_split(test, GPT2_PATTERN)))
    tried = Counter({word: n for word, n in tried.items() if set(word) <= known})
    counted = sum(n * len(word.replace("▁", " ").encode()) for word, n in tried.items())
    rows = {}
    for build in (bpe, wordpiece, unigram):
        start = time.process_time()
        encode = build()
        seconds = time.process_time() - start
        pieces = {word: encode(word) for word in tried}
        total = sum(n * len(pieces[word]) for word, n in tried.items())
        unknown = sum(n for word, n in tried.items() if pieces[word] == [UNKNOWN])
        rows[build.__name__] = {
            "bytes_per_token": counted / total,
            "seconds": seconds,
            "unknown": unknown,
        }
    return {"characters": len(train), "size": size, "rows": rows}


def bytes_per_token(model: BPEModel, documents: list[str]) -> float:
    """UTF-8 bytes of the documents for each of their tokens: the compression ratio."""
    return size_in_bytes(documents) / sum(len(model.encode(d)) for d in documents)


def size_in_bytes(documents: list[str]) -> int:
    """Length of the documents in UTF-8."""
    return sum(len(document.encode()) for document in documents)


def tokens(model: BPEModel, by_name: dict[str, str]) -> dict[str, int]:
    """How many tokens each text has."""
    return {name: len(model.encode(text)) for name, text in by_name.items()}


def longest(model: BPEModel, count: int = 12) -> list[str]:
    """The longest tokens, as text."""
    pieces = sorted(model.pieces, key=lambda piece: (-len(piece), piece))
    return [piece.decode(errors="replace") for piece in pieces[:count]]
