"""GPT-2's file format for merges, and ours in the formats of production libraries.

`merges.txt` has one merge a line, two tokens with a space between. A token's bytes are
written as characters that can be seen: byte 32, the space, is "Ġ".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from posttrain.foundations.tokenization_bpe import GPT2_PATTERN, BPEModel

if TYPE_CHECKING:
    import tiktoken
    import tokenizers


def byte_characters() -> dict[int, str]:
    """byte -> the character that stands for it, in GPT-2's order of the bytes.

    Bytes that can be seen in Latin-1 stand for themselves and come first; the other 68
    get the characters from U+0100 on. Source: openai/gpt-2, encoder.py.
    """
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(seen)]
    characters = {byte: chr(byte) for byte in seen}
    return characters | {byte: chr(0x100 + i) for i, byte in enumerate(hidden)}


def gpt2_model(merges: str, pattern: str = GPT2_PATTERN) -> BPEModel:
    """The model behind the text of a `merges.txt`; it gives GPT-2's own ids.

    Raises ValueError, with the line, for one that is no merge of earlier tokens.
    """
    characters = byte_characters()
    ids = {character: i for i, character in enumerate(characters.values())}
    pairs = []
    for number, line in enumerate(merges.split("\n"), start=1):
        if not line or line.startswith("#version"):
            continue
        left, _, right = line.partition(" ")
        if left not in ids or right not in ids:
            raise ValueError(f"line {number}, {line!r}, joins tokens not made before")
        pairs.append((ids[left], ids[right]))
        ids[left + right] = len(ids)
    return BPEModel(pairs, pattern, list(characters))


def visible(piece: bytes) -> str:
    """A token's bytes as GPT-2 writes them: one visible character a byte."""
    return "".join(_CHARACTERS[byte] for byte in piece)


def to_hugging_face(
    model: BPEModel, specials: Mapping[str, int], plain: Collection[str] = ()
) -> tokenizers.Tokenizer:
    """The same tokenizer in the library `tokenizers`: same ids for the same text.

    plain: those of `specials` that `decode(skip_special_tokens=True)` should keep.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    names = [visible(piece) for piece in model.pieces]
    vocabulary = {name: i for i, name in enumerate(names)}
    merges = [(names[left], names[right]) for left, right in model.merges]
    made = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(model.pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    for special in specials:  # numbered from the end of the vocabulary
        token = tokenizers.AddedToken(special, normalized=False)
        (made.add_tokens if special in plain else made.add_special_tokens)([token])
    return made


def to_tiktoken(model: BPEModel, specials: Mapping[str, int]) -> tiktoken.Encoding:
    """The same tokenizer in `tiktoken`, from memory: nothing is downloaded.

    tiktoken takes ranks of byte strings and no merges. That is the same as long as no
    two merges make the same bytes; raises ValueError where they do.
    """
    import tiktoken

    ranks = {piece: i for i, piece in enumerate(model.pieces)}
    if len(ranks) != len(model.pieces):
        raise ValueError("two merges make the same bytes; tiktoken cannot express that")
    return tiktoken.Encoding(
        "posttrain",
        pat_str=model.pattern,
        mergeable_ranks=ranks,
        special_tokens=dict(specials),
    )


_CHARACTERS = byte_characters()
