"""What duplicates do to a model: it learns them by heart.

    found = learn_repeated(text, times=100, setup=Setup(), seed=0)
    found["reproduced"], found["unseen"], found["val"]

Some passages are set aside and put back into the training text a given number of times,
at random paragraph ends. After training the model gets the beginning of each and goes
on greedily: how much of the passage comes out, word for word? The same question about
passages that it never saw says how much of that is guessing.
Source: the question of Lee et al. 2022, section 6, and of Carlini et al. 2023.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from posttrain.foundations.batches import Windows, mean_loss
from posttrain.foundations.sampling import Sampling
from posttrain.foundations.sampling_generate import generate
from posttrain.foundations.tokenization import Tokenizer, char_tokenizer
from posttrain.foundations.trainer import fit
from posttrain.foundations.training_run import Recipe, Text, make_model, make_trainer

BASE = Recipe(depth=2, context=128, T=128, B=8, steps=600)


@dataclass(frozen=True)
class Setup:
    """Sizes of one training."""

    recipe: Recipe = BASE
    characters: int = 200_000  # of training text, before anything is repeated
    passages: int = 8  # repeated ones, and as many that are never seen
    length: int = 128  # characters of a passage
    prompt: int = 32  # of which the model is given so many


@dataclass(frozen=True)
class Parts:
    """A text cut up: what is trained on, what validates, and the passages."""

    train: list[str]  # paragraphs
    val: str
    repeated: list[str]
    unseen: list[str]


def cut_parts(text: str, setup: Setup, seed: int) -> Parts:
    """Draw the passages from one part of the text; the others never hold them.

    Raises ValueError for a text that is too short for it.
    """
    rest = text[setup.characters :]
    paragraphs = [p for p in rest.split("\n\n") if len(p) >= setup.length]
    if len(paragraphs) < 4 * setup.passages:
        raise ValueError(
            f"behind the first {setup.characters:,} characters there are"
            f" {len(paragraphs)} paragraphs of {setup.length} characters, needed are"
            f" {4 * setup.passages}; take a longer text or fewer passages"
        )
    half = len(paragraphs) // 2
    drawn = random.Random(f"passages {seed}").sample(
        paragraphs[:half], 2 * setup.passages
    )
    passages = [p[: setup.length] for p in drawn]
    return Parts(
        text[: setup.characters].split("\n\n"),
        "\n\n".join(paragraphs[half:]),
        passages[: setup.passages],
        passages[setup.passages :],
    )


def plant(
    paragraphs: Sequence[str], passages: Sequence[str], times: int, seed: int
) -> list[str]:
    """The paragraphs with each passage put in `times` times, at random places."""
    rng = random.Random(f"plant {seed}")
    at = sorted(
        (rng.randrange(len(paragraphs) + 1), rng.random(), passage)
        for passage in passages
        for _ in range(times)
    )
    result, done = [], 0
    for place, _, passage in at:
        result += [*paragraphs[done:place], passage]
        done = place
    return [*result, *paragraphs[done:]]


def learn_repeated(text: str, times: int, setup: Setup, seed: int) -> dict:
    """Train on the text with each passage in it `times` times, then ask for them.

    Returns the mean share of a passage that greedy decoding reproduces, for repeated
    and for unseen ones, how many came out whole, the validation loss in nats a
    character, and which share of the training text the copies are.
    """
    parts = cut_parts(text, setup, seed)
    train = "\n\n".join(plant(parts.train, parts.repeated, times, seed))
    tokenizer = char_tokenizer(text)
    train_ids, val_ids = (
        np.array(tokenizer.encode(t), dtype=np.uint16) for t in (train, parts.val)
    )
    corpus = Text(tokenizer, train_ids, val_ids, {})
    recipe = replace(setup.recipe, seed=seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(recipe, tokenizer.vocab_size).to(device)
    fit(make_trainer(recipe, model, corpus))
    shares = {
        name: reproduced(model, tokenizer, passages, setup.prompt)
        for name, passages in (("repeated", parts.repeated), ("unseen", parts.unseen))
    }
    val = Windows(corpus.val, recipe.B, recipe.T, device=device).fixed(128)
    return {
        "times": times,
        "share_of_text": times * setup.passages * setup.length / len(train),
        "reproduced": float(np.mean(shares["repeated"])),
        "whole": sum(share == 1 for share in shares["repeated"]),
        "unseen": float(np.mean(shares["unseen"])),
        "val": mean_loss(model, val),
    }


def reproduced(
    model: nn.Module, tokenizer: Tokenizer, passages: Sequence[str], prompt: int
) -> list[float]:
    """For each passage: the share of it, behind the prompt, up to the first mistake."""
    ids = [tokenizer.encode(passage) for passage in passages]
    new = max(map(len, ids)) - prompt
    greedy = Sampling(temperature=0.0)
    rows = generate(model, [i[:prompt] for i in ids], new, settings=greedy)
    return [
        matching(row.tokens, i[prompt:]) / len(i[prompt:])
        for row, i in zip(rows, ids, strict=True)
    ]


def matching(came: Sequence[int], due: Sequence[int]) -> int:
    """How many tokens agree before the first that does not."""
    places = (i for i, (a, b) in enumerate(zip(came, due, strict=False)) if a != b)
    return next(places, min(len(came), len(due)))
