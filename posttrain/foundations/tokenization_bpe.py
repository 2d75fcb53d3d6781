"""Byte-level byte-pair encoding: what to do with a learned list of merges.

Text becomes bytes, so nothing is unknown. A pattern cuts the text into chunks, and
inside each chunk the pairs are joined in the order in which they were learned.
Ids: 0 ... 255 are the bytes, 256 + i is the token that merge i makes.

Sources: Sennrich et al. 2016, algorithm 1 (merges); Radford et al. 2019, section 2.2
(bytes and the pattern). Training is in `tokenization_train`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import regex

Pair = tuple[int, int]

# GPT-2's. Kinds of chunk, the first that fits is taken: an English contraction; an
# optional space and letters; ... and digits; ... and anything else that is no space;
# white space that ends the text, or all but the last of it before a word.
GPT2_PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)"
    r"| ?\p{L}+"
    r"| ?\p{N}+"
    r"| ?[^\s\p{L}\p{N}]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
# GPT-4's first tokenizer (tiktoken's cl100k_base): contractions in either case, digits
# three at a time, line breaks kept apart from the spaces around them.
GPT4_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)"
    r"|[^\r\n\p{L}\p{N}]?+\p{L}++"
    r"|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$"
    r"|\s*[\r\n]"
    r"|\s+(?!\S)"
    r"|\s"
)
NO_SPLIT = r"(?s:.+)"  # the whole text is one chunk

CACHE_SIZE = 2**16  # chunks; a few MB


def pre_split(text: str, pattern: str) -> list[str]:
    """Cut `text` into the chunks that no token may cross; joined they are `text`.

    pattern: a regular expression of the `regex` package (it knows \\p{L}, all letters).
    Raises ValueError where the pattern has groups or passes over a character.
    """
    compiled = regex.compile(pattern)  # compiled once, then found in regex's cache
    if compiled.groups:
        raise ValueError(f"write (?:...) for (...) in the pattern {pattern!r}")
    chunks = compiled.findall(text)
    if sum(map(len, chunks)) != len(text):
        raise ValueError(
            f"the pattern {pattern!r} passes over a part of the text, which would be"
            r" lost; let it end in |\s+|\S"
        )
    return chunks


def merge(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    """`ids` with each occurrence of `pair` replaced by `new_id`, from left to right."""
    merged, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def encode_chunk(ids: list[int], ranks: Mapping[Pair, int]) -> list[int]:
    """Join the pairs of one chunk, the earliest learned first, until none is left.

    ids: one for each byte. ranks: pair -> id of the token that it makes; a lower id was
    learned earlier. Joining makes pairs of higher rank only, so all occurrences of the
    best pair can be joined in one pass.
    """
    while len(ids) > 1:
        best = min(pairwise(ids), key=lambda pair: ranks.get(pair, float("inf")))
        if best not in ranks:
            break
        ids = merge(ids, best, ranks[best])
    return ids


class BPEModel:
    """Byte-level BPE with a given list of merges.

    merges: pairs of ids in the order in which they were learned.
    byte_order: id -> byte for the first 256 ids; GPT-2 shuffles them.
    Raises ValueError for a merge of tokens that do not exist yet, or made twice.
    """

    def __init__(
        self,
        merges: Sequence[Pair],
        pattern: str = GPT2_PATTERN,
        byte_order: Sequence[int] = range(256),
    ):
        if sorted(byte_order) != list(range(256)):
            raise ValueError("byte_order must name each of the 256 bytes once")
        self.pattern = pattern
        self.byte_order = bytes(byte_order)
        self.merges = [(left, right) for left, right in merges]
        self.pieces = [bytes([byte]) for byte in byte_order]
        self.ranks: dict[Pair, int] = {}
        for pair in self.merges:
            self._learn(pair)
        self._id_of_byte = {byte: i for i, byte in enumerate(byte_order)}
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Ids (T,) of ordinary text; chunks seen before come from a cache.

        Raises UnicodeEncodeError for half a surrogate pair, which UTF-8 cannot hold.
        """
        ids: list[int] = []
        for chunk in pre_split(text, self.pattern):
            known = self._cache.get(chunk)
            if known is None:
                known = self._encode_new(chunk)
            ids += known
        return ids

    def forget(self) -> None:
        """Empty the cache of chunks; encoding gives the same ids as before."""
        self._cache.clear()

    def to_dict(self) -> dict:
        """Pattern, merges and the order of the bytes."""
        return {
            "kind": "byte_bpe",
            "pattern": self.pattern,
            "byte_order": list(self.byte_order),
            "merges": [list(pair) for pair in self.merges],
        }

    @classmethod
    def from_dict(cls, saved: dict) -> BPEModel:
        """Undo `to_dict`."""
        return cls(saved["merges"], saved["pattern"], saved["byte_order"])

    def _learn(self, pair: Pair) -> None:
        new_id = len(self.pieces)
        if not all(0 <= i < new_id for i in pair):
            raise ValueError(
                f"merge {new_id - 256} joins {pair}, but only ids below {new_id} exist"
                " by then; keep merges in the order in which they were learned"
            )
        if pair in self.ranks:
            raise ValueError(f"the pair {pair} is merged twice")
        self.ranks[pair] = new_id
        self.pieces.append(self.pieces[pair[0]] + self.pieces[pair[1]])

    def _encode_new(self, chunk: str) -> list[int]:
        ids = [self._id_of_byte[byte] for byte in chunk.encode()]
        ids = encode_chunk(ids, self.ranks)
        if len(self._cache) >= CACHE_SIZE:
            self._cache.clear()
        self._cache[chunk] = ids
        return ids
