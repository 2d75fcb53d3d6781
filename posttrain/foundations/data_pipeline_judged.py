"""Deduplication, filters and languages, judged where the truth is known.

Three parts of the chapter's experiment (`data_pipeline_experiment`): copies planted at
known rates of edits, junk of known kinds, messages whose language is known.
"""

from __future__ import annotations

import time
from collections import defaultdict

import numpy as np

from posttrain.foundations import data_pipeline_dedup as dedup
from posttrain.foundations import data_pipeline_filters as filters
from posttrain.foundations import data_pipeline_language as language
from posttrain.foundations import data_pipeline_minhash as minhash
from posttrain.foundations.data_pipeline_documents import (
    Document,
    plant_copies,
    plant_foreign,
    plant_junk,
)

K, SHINGLE, THRESHOLD = 128, 5, 0.7
BANDS = {"4 x 32": 4, "14 x 9": 14, "32 x 4": 32}  # bands x rows -> bands
RATES = (0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15)


# ----------------------------------------------------------------------- duplicates


def by_bands(documents: list[Document], copies: int, seed: int) -> dict:
    """Copies at every rate: how many become candidates, for every cut into bands.

    Then all documents and copies together, by bands and by all pairs.
    """
    sets = [minhash.shingles(d.text, SHINGLE) for d in documents]
    family = minhash.HashFamily.draw(K, seed)
    signatures = [family.signature(x) for x in sets]
    rows, everything = [], list(sets)
    for rate in RATES:
        planted = plant_copies(documents, copies, rate, seed)
        copied = [minhash.shingles(d.text, SHINGLE) for d in planted]
        originals = [d.original for d in planted]
        true = [
            minhash.jaccard(sets[i], x) for i, x in zip(originals, copied, strict=True)
        ]
        signed = [family.signature(x) for x in copied]
        guessed = [
            minhash.estimate(signatures[i], x)
            for i, x in zip(originals, signed, strict=True)
        ]
        rows.append(
            {
                "rate": rate,
                "similarity": float(np.mean(true)),
                "expected": minhash.expected_similarity(rate, SHINGLE),
                "error": float(np.sqrt(np.mean(np.subtract(guessed, true) ** 2))),
                "standard_error": float(
                    np.sqrt(np.mean([minhash.standard_error(s, K) ** 2 for s in true]))
                ),
                "found": {
                    name: share_found(signatures, originals, signed, bands)
                    for name, bands in BANDS.items()
                },
                "predicted": {
                    name: float(
                        np.mean(minhash.candidate_probability(true, bands, K // bands))
                    )
                    for name, bands in BANDS.items()
                },
            }
        )
        everything += copied
    return {"rows": rows, "race": race(everything, seed)}


def share_found(signatures, originals, signed, bands: int) -> float:
    """The share of copies that agree with their original in at least one band."""
    rows = K // bands
    used = bands * rows
    hits = [
        (signatures[i][:used] == x[:used]).reshape(bands, rows).all(axis=1).any()
        for i, x in zip(originals, signed, strict=True)
    ]
    return float(np.mean(hits))


def race(sets: list[np.ndarray], seed: int) -> dict:
    """All pairs against bands, on the same sets: CPU seconds, pairs, recall."""
    start = time.process_time()
    truth = dedup.all_pairs(sets, THRESHOLD)
    result = {
        "documents": len(sets),
        "pairs": len(sets) * (len(sets) - 1) // 2,
        "true_pairs": len(truth),
        "all_pairs_seconds": time.process_time() - start,
        "bands": {},
    }
    for name, bands in BANDS.items():
        start = time.process_time()
        found = dedup.near_duplicates(sets, THRESHOLD, K, bands, seed)
        right = len(set(truth) & set(found.pairs))
        result["bands"][name] = {
            "seconds": time.process_time() - start,
            "candidates": len(found.candidates),
            "recall": right / max(1, len(truth)),
            "precision": right / max(1, len(found.candidates)),
        }
    return result


# -------------------------------------------------------------- filters and languages


def by_kind(documents: list[Document], each: int, seed: int) -> dict:
    """For each source and each kind of junk: the share dropped, by rule and by any."""
    planted = plant_junk(documents, each, seed) + plant_foreign(max(1, each // 8), seed)
    identifier = language.trained_identifier()
    texts = defaultdict(list)
    for document in [*documents, *planted]:
        real = document.kind == "real"
        texts[document.source if real else document.kind].append(
            filters.normalise(document.text)
        )
    return {
        kind: {
            "texts": len(found),
            **drop_shares(found, filters.RULES),
            "c4": drop_shares(found, filters.C4)["any"],
            "not English": float(
                np.mean([identifier.identify(text)[0] != "English" for text in found])
            ),
        }
        for kind, found in texts.items()
    }


def drop_shares(texts: list[str], rules: tuple[filters.Rule, ...]) -> dict:
    """The share of texts that any rule drops, and each rule's own share."""
    broken = [filters.judge(text, rules) for text in texts]
    return {
        "any": float(np.mean([bool(b) for b in broken])),
        "rules": {r.name: float(np.mean([r.name in b for b in broken])) for r in rules},
    }


def by_language() -> dict:
    """The confusion table on held-out messages, one at a time and ten joined."""
    known = language.language_texts()
    identifier = language.trained_identifier()
    joined = {
        name: ["\n".join(found[i : i + 10]) for i in range(0, len(found) - 9, 10)]
        for name, found in known.held_out.items()
    }
    return {
        "source": known.source,
        "one": language.confusion(identifier, known.held_out),
        "ten": language.confusion(identifier, joined),
    }
