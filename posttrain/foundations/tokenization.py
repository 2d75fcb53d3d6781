"""Tokenizers: text to numbers and back, the interface that all later parts use.

    tok = bpe_tokenizer(texts, vocab_size=8192)      # or char_tokenizer(text)
    tok.encode("<|endoftext|>")                      # ordinary text: several tokens
    tok.encode("<|endoftext|>", allowed_special="all")  # one special token
    tok.decode(ids), tok.stream(ids), tok.save(path), Tokenizer.load(path)

A tokenizer is a *model*, which knows ordinary text (`CharModel`, `BPEModel`), and its
*special tokens*, which stand for things that are no text: the end of a document,
padding, whose turn it is in a chat. Ids of ordinary tokens come first, 0 ... N - 1;
specials follow. Text never becomes a special token unless the caller allows it: who
could write "<|endoftext|>" into a form could otherwise end your document.

Not covered: normalisation, truncation, padding to tensors (the data pipeline pads).
"""

from __future__ import annotations

import codecs
import json
import operator
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

from posttrain.foundations.tokenization_bpe import GPT2_PATTERN, BPEModel
from posttrain.foundations.tokenization_train import count_chunks, train_merges

END, PAD = "<|endoftext|>", "<|pad|>"
SPECIALS = (END, PAD)
FORMAT, VERSION = "posttrain-tokenizer", 1

Allowed = Literal["all"] | Collection[str]


class Model(Protocol):
    """What knows ordinary text: the bytes of each id, and how to choose ids."""

    pieces: list[bytes]

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text; their pieces joined are the text in UTF-8."""

    def to_dict(self) -> dict:
        """JSON-able, with its "kind"; `from_dict` of the class undoes it."""


class Tokenizer:
    """A model and its special tokens.

    specials: name -> id, in the order of their ids, right after the model's own.
    Raises ValueError for a special that is empty or named twice.
    """

    def __init__(self, model: Model, specials: Sequence[str] = SPECIALS):
        if "" in specials or len(set(specials)) != len(specials):
            raise ValueError(f"specials must be different, not empty: {specials!r}")
        self.model = model
        first = len(model.pieces)
        self.specials = {name: first + i for i, name in enumerate(specials)}
        self._pieces = [*model.pieces, *(name.encode() for name in specials)]

    @property
    def vocab_size(self) -> int:
        """How many different ids there are, specials included."""
        return len(self._pieces)

    def encode(self, text: str, allowed_special: Allowed = ()) -> list[int]:
        """Ids of `text`. `decode` gives exactly `text` back.

        allowed_special: the specials that `text` may contain *as specials*, or "all".
        Any other special's name in `text` is spelled out like ordinary text.
        Raises ValueError for an allowed name that is no special of this tokenizer.
        """
        allowed = self._allowed(allowed_special)
        ids: list[int] = []
        for part in split_specials(text, allowed):
            if part in allowed:
                ids.append(self.specials[part])
            else:
                ids += self.model.encode(part)
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of `ids`; bytes that are no valid UTF-8 become U+FFFD.

        skip_special: leave special tokens out. Raises ValueError for an unknown id.
        """
        return self.decode_bytes(ids, skip_special).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int], skip_special: bool = False) -> bytes:
        """The bytes of `ids`: what `decode` shows as text, with nothing lost."""
        return b"".join(self._bytes(i, skip_special) for i in ids)

    def stream(self, ids: Iterable[int], skip_special: bool = False) -> Iterator[str]:
        """Text as it becomes complete, for showing tokens while they are generated.

        A character whose last byte is still to come is held back. The parts joined
        are `decode(ids)`.
        """
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for i in ids:
            if text := decoder.decode(self._bytes(i, skip_special)):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def special_id(self, name: str) -> int:
        """The id of a special token. Raises ValueError, naming the known ones."""
        self._allowed([name])
        return self.specials[name]

    def with_specials(self, *names: str) -> Tokenizer:
        """The same tokenizer with more specials at the end; old ids stay as they are.

        A model that was trained before needs as many more rows in its embedding.
        """
        return Tokenizer(self.model, [*self.specials, *names])

    def to_dict(self) -> dict:
        """All of it as JSON-able data, for a file or a checkpoint."""
        head = {"format": FORMAT, "version": VERSION}
        return {**head, "specials": list(self.specials), "model": self.model.to_dict()}

    @classmethod
    def from_dict(cls, saved: dict) -> Tokenizer:
        """Undo `to_dict`. Raises ValueError for what is no tokenizer of this format."""
        found = (saved.get("format"), saved.get("version"))
        if found != (FORMAT, VERSION):
            raise ValueError(f"format and version {found}, not {(FORMAT, VERSION)}")
        kind = saved["model"]["kind"]
        if kind not in KINDS:
            raise ValueError(f"tokenizer kind {kind!r}; known are {', '.join(KINDS)}")
        return cls(KINDS[kind].from_dict(saved["model"]), saved["specials"])

    def save(self, path: str | Path) -> None:
        """Write one JSON file, whole or not at all; equal tokenizers, equal files."""
        path = Path(path)
        whole = path.with_name(f"{path.name}.new")
        whole.write_text(json.dumps(self.to_dict()) + "\n", encoding="utf-8")
        whole.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read what `save` wrote. Raises ValueError, naming the file, for others."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a saved tokenizer: {error}") from error

    def _allowed(self, names: Allowed) -> Collection[str]:
        if isinstance(names, str):
            if names == "all":
                return self.specials
            raise ValueError(
                f'allowed_special={names!r}: give a list of names or "all"'
            )
        for name in names:
            if name not in self.specials:
                known = ", ".join(self.specials) or "none"
                raise ValueError(f"{name!r} is no special token here; known: {known}")
        return names

    def _bytes(self, i: int, skip_special: bool) -> bytes:
        i = operator.index(i)  # an int, or a tensor that holds one
        if not 0 <= i < self.vocab_size:
            raise ValueError(f"id {i} is not in 0 ... {self.vocab_size - 1}")
        skip = skip_special and i >= len(self.model.pieces)
        return b"" if skip else self._pieces[i]


def split_specials(text: str, names: Collection[str]) -> list[str]:
    """Cut `text` so that each occurrence of a name is a part of its own.

    The earliest occurrence wins; of two that start together, the longer one. The parts
    joined are `text`; empty ones are left out.
    """
    if not names:
        return [text] if text else []
    longest_first = sorted(names, key=len, reverse=True)
    pattern = "|".join(re.escape(name) for name in longest_first)
    return [part for part in re.split(f"({pattern})", text) if part]


class CharModel:
    """One token a character: a small vocabulary, long sequences.

    chars: the alphabet, in the order of the ids. Raises ValueError if one is repeated.
    """

    def __init__(self, chars: str):
        self.ids = {char: i for i, char in enumerate(chars)}
        if len(self.ids) != len(chars):
            raise ValueError(f"a character is in the alphabet twice: {chars!r}")
        self.pieces = [char.encode() for char in chars]

    def encode(self, text: str) -> list[int]:
        """Ids (T,). Raises ValueError for a character outside the alphabet."""
        try:
            return [self.ids[char] for char in text]
        except KeyError as error:
            raise ValueError(
                f"{error.args[0]!r} is not among the {len(self.ids)} characters of this"
                " tokenizer; train it on a text that holds it, or use bytes (BPE)"
            ) from None

    def to_dict(self) -> dict:
        """The alphabet."""
        return {"kind": "char", "chars": "".join(self.ids)}

    @classmethod
    def from_dict(cls, saved: dict) -> CharModel:
        """Undo `to_dict`."""
        return cls(saved["chars"])


KINDS = {"char": CharModel, "byte_bpe": BPEModel}


def char_tokenizer(text: str, specials: Sequence[str] = SPECIALS) -> Tokenizer:
    """A tokenizer with one token for each character of `text`, in Unicode order."""
    return Tokenizer(CharModel("".join(sorted(set(text)))), specials)


def bpe_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    specials: Sequence[str] = SPECIALS,
    pattern: str = GPT2_PATTERN,
) -> Tokenizer:
    """Train a byte-level BPE tokenizer on documents; no token crosses two of them.

    vocab_size counts all: 256 bytes, the merges, the specials.
    Raises ValueError if it leaves no room, or if the text is too small for it.
    """
    if isinstance(texts, str):
        raise ValueError("texts is one string; give a list of documents: [text]")
    merges = vocab_size - 256 - len(specials)
    if merges < 0:
        raise ValueError(
            f"vocab_size={vocab_size} has no room for 256 bytes and {len(specials)}"
            f" specials; give at least {256 + len(specials)}"
        )
    found = train_merges(count_chunks(texts, pattern), merges)
    return Tokenizer(BPEModel(found, pattern), specials)
