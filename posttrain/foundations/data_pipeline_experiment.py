"""The experiment of the chapter: what does each step of the pipeline do, measured?

    dedup       found copies against edit rate, for several cuts into bands; speed and
                recall against comparing all pairs
    filters     which rule drops which kind of planted junk, and how much real text
    languages   the confusion table of the identifier on held-out messages
    packing     padding and cut documents, for three plans, two kinds of text
    loading     samples and tokens a second of three sources; a thread that reads ahead;
                memory by size of file
    repeated    a small model that sees passages 1 to 100 times: what it recites
    pipeline    the whole way, with planted junk and copies in it

A seed draws which documents are copied, the junk, the hash functions, the passages and
the weights. Run it over seeds with `python -m ci.measure data_pipeline cpu`.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from posttrain import data
from posttrain.foundations import data_pipeline as pipeline
from posttrain.foundations import data_pipeline_judged as judged
from posttrain.foundations import data_pipeline_loading as loading
from posttrain.foundations import data_pipeline_packing as packing
from posttrain.foundations.batches import Windows
from posttrain.foundations.data_pipeline_documents import (
    Document,
    docstrings,
    plant_copies,
    plant_foreign,
    plant_junk,
    real_documents,
)
from posttrain.foundations.data_pipeline_memorising import Setup, learn_repeated
from posttrain.foundations.tokenization import Tokenizer, bpe_tokenizer
from posttrain.foundations.tokenization_texts import python_source
from posttrain.foundations.training_run import Recipe
from posttrain.presets import preset_named
from posttrain.results import significant

VERSION = 1

SOURCES = ("plays", "manual", "docstrings", "code")


@dataclass(frozen=True)
class Preset:
    """Sizes of one run."""

    documents: int  # real ones at most
    copies: int  # at each edit rate
    junk: int  # of each kind
    vocab: int
    rows: tuple[int, ...]  # T of packing
    packed: int  # characters of each kind of text for it
    seconds: float  # of each measurement of speed
    megabytes: tuple[int, ...]  # sizes of files
    times: tuple[int, ...]  # how often a passage stands in the text
    repeated: Setup


PRESETS = {
    "ci": Preset(
        documents=300,
        copies=20,
        junk=5,
        vocab=512,
        rows=(256, 1024),
        packed=100_000,
        seconds=0.05,
        megabytes=(2, 8),
        times=(1, 100),
        repeated=Setup(
            Recipe(depth=1, context=64, T=64, B=8, steps=60), 60_000, 4, 64, 16
        ),
    ),
    "cpu": Preset(
        documents=2000,
        copies=100,
        junk=30,
        vocab=2048,
        rows=(128, 256, 512, 1024, 2048),
        packed=400_000,
        seconds=1.0,
        megabytes=(8, 32, 128),
        times=(1, 10, 30, 100),
        repeated=Setup(),
    ),
}
# Only the part `repeated` uses a GPU; a larger model says more there.
_LARGER = replace(
    Setup(),
    recipe=Recipe(depth=6, context=128, T=128, B=32, steps=1500, dropout=0.1),
    passages=16,
    characters=400_000,
)
PRESETS["t4"] = replace(PRESETS["cpu"], repeated=_LARGER)
PRESETS["h200"] = PRESETS["t4"]


def run(preset: str, seed: int) -> dict:
    """All parts at one size; JSON-able. Raises ValueError for an unknown preset."""
    setup = preset_named(PRESETS, preset)
    corpus = data.load("tinyshakespeare")
    documents = real_documents(SOURCES, seed)[: setup.documents]
    good = [d.text for d in documents if d.source != "code"]
    tokenizer = bpe_tokenizer(good, setup.vocab)
    result = {
        "preset": preset,
        "seed": seed,
        "config": {
            "K": judged.K,
            "k": judged.SHINGLE,
            "threshold": judged.THRESHOLD,
            **asdict(setup),
        },
        "data": {
            "name": corpus.name,
            "source": corpus.source,
            "sha256": corpus.sha256,
            "documents": dict(Counter(d.source for d in documents)),
        },
        "dedup": judged.by_bands(documents, setup.copies, seed),
        "filters": judged.by_kind(documents, setup.junk, seed),
        "languages": judged.by_language(),
        "packing": by_plan(tokenizer, corpus.text, setup, seed),
        "loading": by_source(good, tokenizer, setup),
        "repeated": [
            learn_repeated(corpus.text, times, setup.repeated, seed)
            for times in setup.times
        ],
        "pipeline": whole(documents, setup, seed),
    }
    return significant(result, digits=4)


# -------------------------------------------------------------------------- packing


def by_plan(tokenizer: Tokenizer, plays: str, setup: Preset, seed: int) -> dict:
    """Waste of the three plans on documents as they come: speeches, docstrings."""
    kinds = {
        "speeches": plays[: setup.packed].split("\n\n"),
        "docstrings": [
            d for f in python_source(3 * setup.packed, seed) for d in docstrings(f)
        ],
    }
    plans = (packing.pad_each, packing.concatenate, packing.best_fit)
    result = {}
    for kind, texts in kinds.items():
        lengths = [len(tokenizer.encode(text)) + 1 for text in texts if text]
        np.random.default_rng(seed).shuffle(lengths)
        result[kind] = {
            "documents": len(lengths),
            "median": float(np.median(lengths)),
            "longest": max(lengths),
            "rows": [
                {"T": T}
                | {
                    p.__name__: asdict(packing.waste(p(lengths, T), lengths, T))
                    for p in plans
                }
                for T in setup.rows
            ],
        }
    return result


# -------------------------------------------------------------------------- loading


def by_source(texts: list[str], tokenizer: Tokenizer, setup: Preset) -> dict:
    """Speed of three sources, the thread that reads ahead, memory by size of file."""
    B, T = 16, 256
    with tempfile.TemporaryDirectory() as folder:
        ids = [tokenizer.encode(text) for text in texts]
        total = sum(map(len, ids)) + len(ids)
        shards = pipeline.write_shards(
            Path(folder) / "shards", ids, tokenizer, -(-total // 10)
        )
        sources = {
            "memory": Windows(shards[:], B, T),
            "shards": Windows(shards, B, T),
            "tokenised anew": loading.RetokenisedWindows(texts, tokenizer, B, T),
        }
        speeds = {
            name: loading.speed(source, setup.seconds)
            for name, source in sources.items()
        }
        steps, pause = max(4, round(20 * setup.seconds)), 0.02
        ahead = {
            name: {
                "plain": loading.busy(source, steps, pause, ahead=False) / steps,
                "thread": loading.busy(source, steps, pause, ahead=True) / steps,
            }
            for name, source in sources.items()
        }
        return {
            "B": B,
            "T": T,
            "tokens": total,
            "shards": len(shards.maps),
            "bytes": sum(part["bytes"] for part in shards.manifest["shards"]),
            "speed": speeds,
            "pause": pause,
            "step_seconds": ahead,
            "memory": [by_size(Path(folder) / "file", mb) for mb in setup.megabytes],
        }


def by_size(path: Path, megabytes: int) -> dict:
    """Memory and opening time of one file, mapped and read whole."""
    random = np.random.default_rng(0)
    random.integers(0, 2048, megabytes * 2**19, dtype=np.uint16).tofile(path)
    return {
        "megabytes": megabytes,
        "mapped": loading.memory_of(path, mapped=True),
        "read": loading.memory_of(path, mapped=False),
    }


# ------------------------------------------------------------------------ everything


def whole(documents: list[Document], setup: Preset, seed: int) -> dict:
    """The pipeline on real text with junk, foreign text and copies among it."""
    real = [d for d in documents if d.source != "code"]
    mixed = [
        *real,
        *plant_junk(real, setup.junk, seed),
        *plant_foreign(max(1, setup.junk // 8), seed),
        *plant_copies(real, setup.copies, 0.0, seed),
        *plant_copies(real, setup.copies, 0.02, seed),
    ]
    order = np.random.default_rng(seed).permutation(len(mixed))
    mixed = [mixed[i] for i in order]
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        shards, report = pipeline.build(
            [d.text for d in mixed], Path(folder) / "shards", vocab=setup.vocab
        )
        seconds = time.process_time() - start
        count = len(shards.maps)
    return {
        "documents_in": report.documents_in,
        "characters_in": report.characters_in,
        "dropped": dict(report.dropped),
        "characters_dropped": dict(report.characters_dropped),
        "documents_out": report.documents_out,
        "characters_out": report.characters_out,
        "tokens_out": report.tokens_out,
        "shards": count,
        "seconds": seconds,
    }
