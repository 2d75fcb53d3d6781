"""The tokenizer of this pillar: whole words, single digits, and the marks of a chat.

Byte-level BPE, trained on the words that the problems are made of, so any other text
can be encoded too: an unknown word takes more tokens. Digits stay single, because a
model that adds numbers column by column needs to see the columns.
"""

from __future__ import annotations

from functools import cache

from posttrain.alignment import word_problem_styles as styles
from posttrain.alignment import word_problems as words
from posttrain.alignment.word_problems import END_THINK, THINK
from posttrain.foundations.tokenization import END, PAD, Tokenizer, bpe_tokenizer

SYSTEM, USER, ASSISTANT, TOOL = "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"
END_TURN = "<|end|>"
CALL, END_CALL = "<tool_call>", "</tool_call>"
SPECIALS = (
    *(END, PAD, SYSTEM, USER, ASSISTANT, TOOL, END_TURN),
    *(THINK, END_THINK, CALL, END_CALL),
)
# a word with the space before it; one digit; anything else, one character at a time
PATTERN = r" ?\p{L}+|\p{N}|[^\p{L}\p{N}]"
MERGES = 208  # all that the words have room for


@cache
def tokenizer() -> Tokenizer:
    """Always the same one; every word of the problems and styles is one token."""
    return bpe_tokenizer(phrases(), 256 + MERGES + len(SPECIALS), SPECIALS, PATTERN)


def phrases() -> list[str]:
    """Texts that hold every word as it stands in a problem or a reply."""
    clauses = [clause.format("") for clause in (*words.MORE, *words.LESS)]
    return [
        *(f", {clause}" for clause in clauses),
        *(f"{name} has" for name in words.NAMES),
        *(f" {thing}. How many now?" for thing in words.OBJECTS),
        *(*styles.POLITE, *styles.RUDE),
        *(f" {sentence}" for sentence in styles.RAMBLING),
        f" {styles.ANSWER}",
    ]
