"""The whole way from raw text to shards, with a table of what was dropped and why.

    python -m posttrain.foundations.data_pipeline --data plays manual --out build/shards
    python -m posttrain.foundations.data_pipeline --data my_texts.jsonl --out shards

`--data` takes sources of `real_documents` ("plays", "manual", "docstrings", "code"), a
.jsonl file with a "text" in each line, or a folder of .txt files, one document each.
The steps are normalise, rules, language, exact duplicates, near duplicates, tokenise,
write: the cheap ones first, so that the dear ones see less.

Not covered: more documents than fit into memory. At scale each step but the near
duplicates is a map over files; those need one shuffle by the key of each band.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from posttrain.foundations.data_pipeline_dedup import exact_duplicates, near_duplicates
from posttrain.foundations.data_pipeline_documents import READERS, real_documents
from posttrain.foundations.data_pipeline_filters import (
    RULES,
    Rule,
    first_broken,
    normalise,
)
from posttrain.foundations.data_pipeline_language import trained_identifier
from posttrain.foundations.data_pipeline_minhash import shingles
from posttrain.foundations.data_pipeline_shards import ShardError, Shards, write_shards
from posttrain.foundations.tokenization import Tokenizer, bpe_tokenizer

LANGUAGE, EXACT, NEAR = "language", "exact duplicate", "near duplicate"


@dataclass(frozen=True)
class Settings:
    """What to keep. `language` None keeps all of them."""

    rules: tuple[Rule, ...] = RULES
    language: str | None = "English"
    threshold: float = 0.7  # Jaccard index from which on two documents are duplicates
    k: int = 5  # words of a shingle
    K: int = 128  # numbers of a signature
    seed: int = 0


@dataclass
class Report:
    """What came in, what each step dropped, what went out."""

    documents_in: int
    characters_in: int
    dropped: Counter[str] = field(default_factory=Counter)  # by rule or step
    characters_dropped: Counter[str] = field(default_factory=Counter)
    documents_out: int = 0
    characters_out: int = 0
    tokens_out: int = 0

    def drop(self, why: str, text: str) -> None:
        """Note one dropped text."""
        self.dropped[why] += 1
        self.characters_dropped[why] += len(text)

    def table(self) -> str:
        """As text: a line a step, documents and characters."""
        rows = [("in", self.documents_in, self.characters_in)]
        rows += [
            (f"- {why}", n, self.characters_dropped[why])
            for why, n in self.dropped.items()
        ]
        rows += [("out", self.documents_out, self.characters_out)]
        lines = [f"{'':28}{'documents':>12}{'characters':>14}"]
        lines += [f"{name:28}{n:>12,}{size:>14,}" for name, n, size in rows]
        return "\n".join([*lines, f"{'tokens out':28}{self.tokens_out:>26,}"])


def clean(
    texts: Sequence[str], settings: Settings = Settings()
) -> tuple[list[int], Report]:
    """Which texts to keep, as places, ascending, and the report.

    Texts are judged as `normalise` gives them; characters are counted before it. A text
    counts for the first step that drops it.
    """
    report = Report(len(texts), sum(map(len, texts)))
    normal = [normalise(text) for text in texts]
    kept = list(range(len(texts)))

    def keep_where(why: Sequence[str | None]) -> None:
        nonlocal kept
        for place, reason in zip(kept, why, strict=True):
            if reason:
                report.drop(reason, texts[place])
        kept = [p for p, reason in zip(kept, why, strict=True) if not reason]

    keep_where([first_broken(normal[p], settings.rules) for p in kept])
    if settings.language is not None and kept:
        identify = trained_identifier().identify
        found = [identify(normal[p])[0] for p in kept]
        keep_where([LANGUAGE if name != settings.language else None for name in found])
    keep_where(_marked(EXACT, exact_duplicates([normal[p] for p in kept]), len(kept)))
    sets = [shingles(normal[p], settings.k) for p in kept]
    near = near_duplicates(sets, settings.threshold, settings.K, seed=settings.seed)
    keep_where(_marked(NEAR, near.dropped, len(kept)))
    report.documents_out = len(kept)
    report.characters_out = sum(len(texts[p]) for p in kept)
    return kept, report


def _marked(why: str, dropped: Sequence[int], N: int) -> list[str | None]:
    marks: list[str | None] = [None] * N
    for place in dropped:
        marks[place] = why
    return marks


def build(
    texts: Sequence[str],
    out: Path,
    shards: int = 10,
    vocab: int = 2048,
    settings: Settings = Settings(),
    tokenizer: Tokenizer | None = None,
) -> tuple[Shards, Report]:
    """Clean, tokenise, write about `shards` shards to `out`.

    tokenizer: None trains one on the texts that were kept, with `vocab` ids.
    Raises ShardError where nothing is left or `out` is there already.
    """
    if out.exists():  # before the work, not after it
        raise ShardError(f"{out} is there already; remove it or choose another --out")
    kept, report = clean(texts, settings)
    if not kept:
        raise ShardError(
            f"nothing is left of {len(texts)} documents:\n{report.table()}"
        )
    good = [normalise(texts[p]) for p in kept]
    tokenizer = tokenizer or bpe_tokenizer(good, vocab)
    ids = [tokenizer.encode(text) for text in good]
    report.tokens_out = sum(map(len, ids)) + len(ids)  # END behind each
    written = write_shards(out, ids, tokenizer, -(-report.tokens_out // shards))
    return written, report


def read_texts(names: Sequence[str], seed: int = 0) -> list[str]:
    """The documents of sources, .jsonl files and folders, in this order.

    Raises ValueError for what is none of them, or a line that holds no text.
    """
    found: list[str] = []
    for name in names:
        path = Path(name)
        if name in READERS:
            found += [document.text for document in real_documents([name], seed)]
        elif path.is_dir():
            found += [p.read_text(encoding="utf-8") for p in sorted(path.glob("*.txt"))]
        elif path.suffix == ".jsonl" and path.is_file():
            found += _read_jsonl(path)
        else:
            raise ValueError(
                f"--data {name}: no folder, no .jsonl file, and no source"
                f" ({', '.join(READERS)})"
            )
    return found


def _read_jsonl(path: Path) -> list[str]:
    texts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise ValueError(f'{path}, line {number}: expected {{"text": "..."}}')
        texts.append(text)
    return texts


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help=", ".join(READERS))
    parser.add_argument("--out", type=Path, required=True, help="folder to be made")
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--vocab", type=int, default=2048, help="ids of the tokenizer")
    parser.add_argument("--threshold", type=float, default=0.7, help="Jaccard index")
    parser.add_argument("--all-languages", action="store_true")
    given = parser.parse_args(arguments)
    language = None if given.all_languages else "English"
    settings = Settings(language=language, threshold=given.threshold)
    try:
        texts = read_texts(given.data)
        shards, report = build(texts, given.out, given.shards, given.vocab, settings)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(report.table())
    print(f"{len(shards.maps)} shards in {given.out}, ids of {shards.dtype}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
