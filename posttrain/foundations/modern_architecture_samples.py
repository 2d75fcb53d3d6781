"""A hundred samples, judged together: what one pretty sample cannot say.

model, tokenizer = restore(artifacts.get("foundations.training_loop", "cpu"))
texts = draw(model, tokenizer, N=100, length=255)
judge(texts, training_text, part=64)

`part` is the training length T. A rotary model reads on beyond it, and the share of
real words in each part of T characters shows how well. `windowed` is the cure: the same
weights, but no distance that training never showed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from posttrain.foundations.modern_architecture import GPT
from posttrain.foundations.sampling import Sampling
from posttrain.foundations.sampling_generate import generate
from posttrain.foundations.sampling_measures import word_measures, words
from posttrain.foundations.tokenization import Tokenizer


def windowed(model: GPT, window: int) -> GPT:
    """The same weights, in a model whose layers all see the last `window` tokens only.

    Raises ValueError for a window below 1.
    """
    config = replace(model.config, window=window, global_every=model.config.L + 1)
    near = GPT(config)
    near.load_state_dict(model.state_dict())
    return near.eval()


def draw(
    model: GPT,
    tokenizer: Tokenizer,
    N: int,
    length: int,
    temperature: float = 0.8,
    seed: int = 0,
) -> list[str]:
    """N texts of `length` tokens, each after a line break, drawn in one batch.

    The model is on the CPU. Raises ValueError where `length` + 1 is more than it reads.
    """
    rows = generate(
        model,
        [tokenizer.encode("\n")] * N,
        length,
        settings=Sampling(temperature=temperature),
        generator=torch.Generator().manual_seed(seed),
    )
    return [tokenizer.decode(row.tokens) for row in rows]


def pieces(text: str, N: int, length: int) -> list[str]:
    """N pieces of a text, evenly spaced: what people wrote, to be judged alike.

    Raises ValueError where the text is shorter than that.
    """
    if len(text) < N * length:
        raise ValueError(
            f"{N} pieces of {length} characters need {N * length}, the text has "
            f"{len(text)}: ask for fewer or shorter ones"
        )
    return [text[i * len(text) // N :][:length] for i in range(N)]


def judge(texts: Sequence[str], source: str, part: int) -> dict:
    """What the texts have in common with the training text `source`, and each other.

    real: share of the words that occur in `source`, for each part of `part` characters
    (what is left at the end counts if it is nearly one). distinct: different pairs of
    neighbouring words among all pairs. different: how many texts are unlike all others.
    copied: the longest piece that stands in `source` as it is.
    """
    known = set(words(source, whole=False))
    longest = max(map(len, texts))
    starts = range(0, longest - part // 2, part)
    parts = [[text[i : i + part] for text in texts] for i in starts]
    return {
        "real": [word_measures(each, known)["real"] for each in parts],
        "distinct": word_measures(texts, known)["distinct"],
        "different": len(set(texts)),
        "copied": longest_copied(texts, source),
    }


def longest_copied(texts: Sequence[str], source: str) -> str:
    """The longest piece of any of the texts that occurs in `source`; "" for none.

    A piece of n + 1 characters holds one of n, so the length is found by halving.
    """
    found, low, high = "", 0, max(map(len, texts), default=0)
    while low < high:
        n = (low + high + 1) // 2
        mine = {text[i : i + n] for text in texts for i in range(len(text) - n + 1)}
        runs = (source[i : i + n] for i in range(len(source) - n + 1))
        common = next((run for run in runs if run in mine), "")
        if common:
            found, low = common, n
        else:
            high = n - 1
    return found
