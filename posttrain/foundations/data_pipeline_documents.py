"""Documents to clean: real ones from this machine, and known faults planted among them.

    documents = real_documents(seed=0)
    documents += plant_junk(documents, 10, seed=0) + plant_copies(documents, 0.05, ...)

A filter or a deduplicator can only be judged where the truth is known. So each planted
document says what it is (`kind`), and a copy says of which document (`original`).

Not covered: reading HTML. Real pipelines start with an extractor of the main text.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from posttrain import data
from posttrain.data_fallback import python_topics
from posttrain.foundations import tokenization_texts as texts

PIECE = 1200  # characters of a document at least: some 200 words


@dataclass(frozen=True)
class Document:
    """A text, where it is from, and what is known about it.

    kind: "real", "copy", or the kind of planted junk. original: of a copy, the place
    of its original in the list that it was made from.
    """

    text: str
    source: str
    kind: str = "real"
    original: int | None = None


def real_documents(
    sources: Sequence[str] = ("plays", "manual", "docstrings"), seed: int = 0
) -> list[Document]:
    """All documents of the sources, in the order drawn by `seed`.

    plays: tiny Shakespeare, where it can be had; manual: Python's documentation
    topics; docstrings: of Python's library; code: its source files.
    Raises ValueError for another source.
    """
    unknown = [name for name in sources if name not in READERS]
    if unknown:
        raise ValueError(f"unknown source {unknown[0]!r}; known: {', '.join(READERS)}")
    found = [Document(text, name) for name in sources for text in READERS[name](seed)]
    random.Random(seed).shuffle(found)
    return found


def cut_text(text: str, least: int = PIECE) -> list[str]:
    """Cut at blank lines into pieces of at least `least` characters.

    The pieces joined by blank lines are the text; a short rest goes to the last piece.
    """
    pieces, open_piece = [], []
    for paragraph in text.split("\n\n"):
        open_piece.append(paragraph)
        if sum(map(len, open_piece)) + 2 * (len(open_piece) - 1) >= least:
            pieces.append("\n\n".join(open_piece))
            open_piece = []
    if open_piece:
        last = [pieces.pop()] if pieces else []
        pieces.append("\n\n".join(last + open_piece))
    return pieces


def docstrings(source: str) -> list[str]:
    """The docstrings of a Python file, in order; none of a file that does not parse."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(tree) if isinstance(node, documented))
    return [text for node in nodes if (text := ast.get_docstring(node))]


def _plays(seed: int) -> list[str]:
    corpus = data.load("tinyshakespeare")
    return [] if corpus.source == "fallback" else cut_text(corpus.text)


def _docstrings(seed: int) -> list[str]:
    """Those of a file joined, and cut again: most are too short to stand alone."""
    found = []
    for file in texts.python_source(1_500_000, seed):
        if joined := "\n\n".join(docstrings(file)):
            found += cut_text(joined)
    return [text for text in found if len(text) >= PIECE]


READERS: dict[str, Callable[[int], list[str]]] = {
    "plays": _plays,
    "manual": lambda seed: cut_text(python_topics()),
    "docstrings": _docstrings,
    "code": lambda seed: [
        piece for file in texts.python_source(600_000, seed) for piece in cut_text(file)
    ],
}


# ------------------------------------------------------------------------- copies


def edit_words(text: str, rate: float, words: Sequence[str], rng: random.Random) -> str:
    """Replace each word, by chance `rate`, by one drawn from `words`.

    Words are what spaces separate; lines stay as they are. Raises ValueError for a
    rate outside of 0 ... 1.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate={rate} must be in 0 ... 1: it is a chance")
    lines = [
        " ".join(
            rng.choice(words) if word and rng.random() < rate else word
            for word in line.split(" ")
        )
        for line in text.split("\n")
    ]
    return "\n".join(lines)


def plant_copies(
    documents: Sequence[Document], number: int, rate: float, seed: int
) -> list[Document]:
    """Copies of `number` different documents, each word edited by chance `rate`.

    Replacements are drawn from the words of all documents, common ones more often.
    """
    rng = random.Random(f"copies {seed} {rate}")
    words = [word for document in documents for word in document.text.split()]
    chosen = rng.sample(range(len(documents)), number)
    return [
        Document(
            edit_words(documents[i].text, rate, words, rng),
            documents[i].source,
            "copy",
            original=i,
        )
        for i in chosen
    ]


# --------------------------------------------------------------------------- junk


def _menu(words: list[str], rng: random.Random) -> str:
    names = ["Home", "About", "Contact", "Log in", "Privacy", "Imprint", "Search"]
    return " | ".join(rng.sample(names, 5)) + "\n\nCopyright " + rng.choice(words)


def _keys(words: list[str], rng: random.Random) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join(
        "".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(200)
    )


def _numbers(words: list[str], rng: random.Random) -> str:
    rows = [[f"{rng.uniform(0, 1000):.2f}" for _ in range(8)] for _ in range(30)]
    return "the and of to be\n" + "\n".join(map("\t".join, rows))


def _markup(words: list[str], rng: random.Random) -> str:
    marks = ["#", "...", "//", "&nbsp;", "{}", "<br>", "**"]
    return " ".join(
        rng.choice(marks if rng.random() < 0.4 else words) for _ in range(220)
    )


def _same_line(words: list[str], rng: random.Random) -> str:
    line = "Click here to see the offer that you have been waiting for."
    lines = [" ".join(rng.choices(words, k=8)) for _ in range(12)]
    return "\n".join(
        line if rng.random() < 0.6 else rng.choice(lines) for _ in range(30)
    )


def _same_phrase(words: list[str], rng: random.Random) -> str:
    phrase = " ".join(rng.choices(words, k=3))
    return " ".join(
        phrase if rng.random() < 0.5 else rng.choice(words) for _ in range(120)
    )


def _keywords(words: list[str], rng: random.Random) -> str:
    common = {"the", "be", "to", "of", "and", "that", "have", "with"}
    content = [w for w in words if w.isalpha() and w.lower() not in common]
    return ", ".join(rng.sample(content, 180))


def _shuffled(words: list[str], rng: random.Random) -> str:
    """Real words in an order that means nothing: right statistics, no text."""
    start = rng.randrange(max(1, len(words) - 250))
    return " ".join(rng.sample(words[start : start + 250], 250))


JUNK: dict[str, Callable[[list[str], random.Random], str]] = {
    "menu": _menu,
    "keys": _keys,
    "numbers": _numbers,
    "markup": _markup,
    "same line": _same_line,
    "same phrase": _same_phrase,
    "keywords": _keywords,
    "shuffled": _shuffled,
}


def plant_junk(documents: Sequence[Document], each: int, seed: int) -> list[Document]:
    """`each` documents of every kind of JUNK, with words from real documents."""
    rng = random.Random(f"junk {seed}")
    words = [word for document in documents for word in document.text.split()]
    return [
        Document(make(words, rng), "planted", kind)
        for kind, make in JUNK.items()
        for _ in range(each)
    ]


def plant_foreign(each: int, seed: int) -> list[Document]:
    """`each` documents in every language that a message catalogue is at hand for.

    They are the parallel messages that `language_texts` holds out, in random order.
    """
    from posttrain.foundations.data_pipeline_language import language_texts

    rng = random.Random(f"foreign {seed}")
    held_out = language_texts().held_out
    return [
        Document(
            "\n".join(rng.sample(lines, min(40, len(lines)))), "planted", "foreign"
        )
        for language, lines in held_out.items()
        if language != "English"
        for _ in range(each)
    ]
