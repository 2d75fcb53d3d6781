"""Races: training and encoding, ours and others', on the same text in one process.

Times are CPU seconds of this process, all threads counted, so that a library which uses
several cores is not favoured. Each side starts from the same Python strings.
"""

import time
from collections.abc import Callable

from posttrain.foundations.tokenization_bpe import GPT2_PATTERN, BPEModel, pre_split
from posttrain.foundations.tokenization_gpt2 import to_hugging_face, to_tiktoken
from posttrain.foundations.tokenization_train import (
    count_chunks,
    recount,
    train_merges,
)


def seconds(work: Callable[[], object], at_least: float = 0.0) -> float:
    """CPU seconds of one call; repeated and averaged until `at_least` has passed."""
    start, calls = time.process_time(), 0
    while not calls or time.process_time() - start < at_least:
        work()
        calls += 1
    return (time.process_time() - start) / calls


def race(documents: list[str], characters: int, merges: int) -> dict:
    """Seconds to learn `merges` merges from the first characters of the documents.

    ours      counts kept up to date
    distinct  all counts anew for each merge, over distinct chunks with their counts
    minbpe    all counts anew for each merge, over every chunk of the text: the method
              of karpathy/minbpe, regex.py
    tokenizers  Hugging Face's trainer, in Rust
    """
    text = "\n\n".join(documents)[:characters]
    results: dict[str, list] = {}

    def ours() -> None:
        results["ours"] = train_merges(count_chunks([text], GPT2_PATTERN), merges)

    def distinct() -> None:
        chunks = count_chunks([text], GPT2_PATTERN)
        words = [(list(chunk), n) for chunk, n in chunks.items()]
        results["distinct"] = recount(words, merges)

    def minbpe() -> None:
        words = [(list(c.encode()), 1) for c in pre_split(text, GPT2_PATTERN)]
        results["minbpe"] = recount(words, merges)

    took = {work.__name__: seconds(work) for work in (ours, distinct, minbpe)}
    took["tokenizers"] = seconds(lambda: hugging_face([text], merges))
    assert results["ours"] == results["distinct"] == results["minbpe"]
    return {"characters": len(text), "merges": merges, "seconds": took}


def full(documents: list[str], merges: int) -> dict:
    """Seconds to learn `merges` merges from all documents, ours and Hugging Face's."""
    return {
        "merges": merges,
        "characters": sum(map(len, documents)),
        "seconds": {
            "ours": seconds(
                lambda: train_merges(count_chunks(documents, GPT2_PATTERN), merges)
            ),
            "tokenizers": seconds(lambda: hugging_face(documents, merges)),
        },
    }


def hugging_face(documents: list[str], merges: int) -> object:
    """Train the same kind of tokenizer with Hugging Face's library."""
    from tokenizers import trainers

    made = to_hugging_face(BPEModel([]), {})
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges, initial_alphabet=_alphabet(), show_progress=False
    )
    made.train_from_iterator(documents, trainer)
    if made.get_vocab_size() != 256 + merges:
        raise ValueError(f"{made.get_vocab_size()} tokens, not {256 + merges}")
    return made


def encoding(model: BPEModel, documents: list[str], at_least: float) -> dict:
    """Tokens a second for the documents, all with the merges of `model`.

    first: our model with an empty cache; again: every chunk was seen before.
    Raises ValueError where a library gives other tokens than we do.
    """
    hf, tk = to_hugging_face(model, {}), to_tiktoken(model, {})
    ids = [model.encode(document) for document in documents]
    ways = {
        "first": lambda: _encode_fresh(model, documents),
        "again": lambda: [model.encode(document) for document in documents],
        "tokenizers": lambda: [hf.encode(document).ids for document in documents],
        "tiktoken": lambda: [tk.encode_ordinary(document) for document in documents],
    }
    for name, way in ways.items():
        if way() != ids:
            raise ValueError(f"{name} gives other tokens than our model")
    total = sum(map(len, ids))
    per_second = {n: total / seconds(way, at_least) for n, way in ways.items()}
    return {"tokens": total, "tokens_per_second": per_second}


def _encode_fresh(model: BPEModel, documents: list[str]) -> list[list[int]]:
    model.forget()
    return [model.encode(document) for document in documents]


def _alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel.alphabet()
