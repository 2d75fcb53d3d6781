"""Shards: a tokenised corpus in a few files, read as one array without loading it.

    write_shards(folder, documents, tokenizer, shard_tokens=1_000_000)
    shards = Shards.open(folder, tokenizer)
    batches = Windows(shards, B=16, T=64)     # posttrain.foundations.batches
    shards.document(7)

A folder holds `shard-00000.bin` and so on (the ids alone, little-endian), `starts.bin`
(where each document begins, int64, and the end of the last) and `manifest.json`: sizes,
checksums, the tokenizer. Documents are never cut between two shards.

Not covered: compression, object stores, several processes that write.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from posttrain.foundations.tokenization import END, Tokenizer

FORMAT, VERSION = "posttrain-shards", 1
MANIFEST, STARTS = "manifest.json", "starts.bin"


class ShardError(ValueError):
    """A folder that cannot be written, or is not what was written; says how to mend."""


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest of uint16 and uint32 that holds every id, little-endian."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def fingerprint(tokenizer: Tokenizer) -> str:
    """sha256 of the tokenizer's dict: equal for tokenizers that give equal ids."""
    text = json.dumps(tokenizer.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


# --------------------------------------------------------------------------- writing


def write_shards(
    folder: str | Path,
    documents: Iterable[Sequence[int]],
    tokenizer: Tokenizer,
    shard_tokens: int,
) -> Shards:
    """Write tokenised documents, END behind each; a shard ends once it is full.

    documents: ids without END; only one shard's worth is held in memory. All is written
    into a folder beside and renamed at the end, so `folder` is there whole or not
    at all. Raises ShardError if it is there already, if there is no document, or for an
    id that the tokenizer does not have.
    """
    folder = Path(folder)
    if folder.exists():
        raise ShardError(f"{folder} is there already; remove it or choose another name")
    if shard_tokens < 1:
        raise ShardError(f"shard_tokens={shard_tokens} must be at least 1")
    scratch = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)  # what an interrupted run left
    scratch.mkdir(parents=True)
    try:
        manifest = _write_all(scratch, documents, tokenizer, shard_tokens)
        (scratch / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return Shards.open(folder, tokenizer)


def _write_all(scratch, documents, tokenizer, shard_tokens) -> dict:
    """Write the files of all shards; the manifest that describes them."""
    dtype, end = token_dtype(tokenizer.vocab_size), tokenizer.special_id(END)
    shards, starts, waiting = [], [0], []
    for ids in documents:
        array = np.asarray([*ids, end], dtype=np.int64)
        if array.min() < 0 or array.max() >= tokenizer.vocab_size:
            raise ShardError(
                f"document {len(starts) - 1} has ids {array.min()} ... {array.max()};"
                f" the tokenizer has 0 ... {tokenizer.vocab_size - 1}"
            )
        waiting.append(array.astype(dtype))
        starts.append(starts[-1] + len(array))
        if sum(map(len, waiting)) >= shard_tokens:
            shards.append(_write_file(scratch, f"shard-{len(shards):05d}.bin", waiting))
            waiting = []
    if waiting:
        shards.append(_write_file(scratch, f"shard-{len(shards):05d}.bin", waiting))
    if not shards:
        raise ShardError("there is no document to write")
    return {
        "format": FORMAT,
        "version": VERSION,
        "dtype": dtype.str,
        "tokens": starts[-1],
        "documents": len(starts) - 1,
        "shards": shards,
        "starts": _write_file(scratch, STARTS, [np.array(starts, dtype="<i8")]),
        "tokenizer": {"sha256": fingerprint(tokenizer), **tokenizer.to_dict()},
    }


def _write_file(scratch: Path, name: str, arrays: list[np.ndarray]) -> dict:
    content = np.concatenate(arrays).tobytes()
    (scratch / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return {"file": name, "bytes": len(content), "sha256": digest}


# --------------------------------------------------------------------------- reading


class Shards:
    """All shards of a folder as one array of ids, (tokens,), memory-mapped.

    Supports what `Windows` and NumPy users need: `len`, `dtype`, an integer, a slice,
    an array of places of any shape. Only the pages that are read come into memory.
    """

    def __init__(self, maps: Sequence[np.ndarray], starts: np.ndarray, manifest: dict):
        self.maps, self.starts, self.manifest = list(maps), starts, manifest
        self.bounds = np.cumsum([0, *map(len, maps)])  # (shards + 1,)
        self.dtype = np.dtype(manifest["dtype"])

    @classmethod
    def open(
        cls,
        folder: str | Path,
        tokenizer: Tokenizer | None = None,
        verify: bool = False,
    ) -> Shards:
        """Map the files of a folder. Sizes are checked always, checksums on request.

        tokenizer: must be the one that the shards were written with; None: not checked.
        Raises ShardError, naming the file, for what is missing or damaged.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        for part in [*manifest["shards"], manifest["starts"]]:
            check_file(folder, part, verify)
        if tokenizer is not None:
            check_tokenizer(manifest, tokenizer, folder)
        maps = [
            np.memmap(folder / part["file"], dtype=manifest["dtype"], mode="r")
            for part in manifest["shards"]
        ]
        starts = np.fromfile(folder / STARTS, dtype="<i8")
        shards = cls(maps, starts, manifest)
        found = (len(shards), len(starts) - 1)
        if found != (manifest["tokens"], manifest["documents"]):
            raise ShardError(
                f"{folder} holds {found[0]} tokens in {found[1]} documents, its"
                f" manifest says {manifest['tokens']} in {manifest['documents']}; write"
                " it again"
            )
        return shards

    @property
    def tokenizer(self) -> Tokenizer:
        """The one that the shards were written with, from the manifest."""
        return Tokenizer.from_dict(self.manifest["tokenizer"])

    @property
    def documents(self) -> int:
        """How many there are."""
        return len(self.starts) - 1

    def document(self, i: int) -> np.ndarray:
        """The ids of document 0 ... documents - 1, its END included."""
        if not 0 <= i < self.documents:
            raise IndexError(f"document {i} is not in 0 ... {self.documents - 1}")
        return self[int(self.starts[i]) : int(self.starts[i + 1])]

    def shard_documents(self, shard: int) -> range:
        """Which documents stand in a shard."""
        low, high = np.searchsorted(self.starts, self.bounds[shard : shard + 2])
        return range(int(low), int(high))

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def __getitem__(self, places) -> np.ndarray:
        """The ids at an integer, a slice, or an array of integers, as a copy."""
        if isinstance(places, slice):
            return self._slice(*places.indices(len(self)))
        places = np.asarray(places)
        if places.size and not np.issubdtype(places.dtype, np.integer):
            raise IndexError(f"places of dtype {places.dtype}; use integers")
        wrong = (places < -len(self)) | (places >= len(self))
        if wrong.any():
            raise IndexError(f"{places[wrong][0]} is outside of {len(self)} tokens")
        places = np.where(places < 0, places + len(self), places)
        shard = np.searchsorted(self.bounds, places, side="right") - 1
        ids = np.empty(places.shape, self.dtype)
        for s in np.unique(shard):  # most batches touch every shard, none all of it
            here = shard == s
            ids[here] = self.maps[s][places[here] - self.bounds[s]]
        return ids[()]

    def _slice(self, start: int, stop: int, step: int) -> np.ndarray:
        if step != 1:
            return self[np.arange(start, stop, step)]
        parts = [
            tokens[max(0, start - low) : max(0, stop - low)]
            for tokens, low in zip(self.maps, self.bounds, strict=False)
        ]
        return np.concatenate(parts)  # a copy, so that no map is written to by chance


def read_manifest(folder: Path) -> dict:
    """The manifest of a folder. Raises ShardError where there is none of ours."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ShardError(f"{path} is not there; is {folder} a folder of write_shards?")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = (manifest.get("format"), manifest.get("version"))
    except (ValueError, AttributeError) as error:
        raise ShardError(
            f"{path} is damaged ({error}); write the shards again"
        ) from None
    if found != (FORMAT, VERSION):
        raise ShardError(
            f"{path} has format and version {found}, not {(FORMAT, VERSION)}"
        )
    return manifest


def check_file(folder: Path, part: dict, verify: bool) -> None:
    """Raise ShardError unless the file has its size and, on request, its checksum."""
    path = folder / part["file"]
    if not path.is_file():
        raise ShardError(f"{path} is missing; write or copy the shards again")
    size = path.stat().st_size
    if size != part["bytes"]:
        raise ShardError(
            f"{path} has {size:,} bytes, its manifest says {part['bytes']:,}; it was"
            " cut off or is another's: write or copy it again"
        )
    if verify:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != part["sha256"]:
            raise ShardError(
                f"{path} has sha256 {found[:12]}..., its manifest says"
                f" {part['sha256'][:12]}...: its content changed; write or copy it"
                " again"
            )


def check_tokenizer(manifest: dict, tokenizer: Tokenizer, folder: Path) -> None:
    """Raise ShardError unless the shards were written with this tokenizer."""
    written, given = manifest["tokenizer"]["sha256"], fingerprint(tokenizer)
    if written != given:
        raise ShardError(
            f"{folder} was written with another tokenizer (sha256 {written[:12]}...,"
            f" given {given[:12]}...), so its ids mean other text; use"
            " Shards.open(folder).tokenizer, or tokenise again"
        )
