"""Real data first: `load(name)` finds a text, checks it, and says where it is from.

It looks in this order and stops at the first text that it finds:

1. "folder": the folder named by `$POSTTRAIN_DATA`, for files that you keep yourself;
2. "cache": `$POSTTRAIN_CACHE/data`, or `~/.cache/posttrain/data`, for downloads;
3. "hub": the public address, once a process, 5 s at most, never when
   `POSTTRAIN_OFFLINE=1`;
4. "fallback": a stand-in text that is on every machine. A message says so.

A real file always has the pinned checksum, wherever it came from.
"""

import functools
import hashlib
import os
import tempfile
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from posttrain import cache
from posttrain.data_fallback import (
    GPT2_FIRST_MERGES,
    LIKE_GSM8K_TEST,
    LIKE_GSM8K_TRAIN,
    PYTHON_TOPICS,
    Fallback,
)

HUB_SECONDS = 5.0  # name lookup, connection and transfer together


@dataclass(frozen=True)
class Source:
    """Where a data set is published, how to recognise it, and what stands in for it."""

    url: str
    file: str  # its name in $POSTTRAIN_DATA and in the cache
    sha256: str
    bytes: int
    licence: str
    fallback: Fallback


@dataclass(frozen=True)
class Corpus:
    """A loaded text.

    `source` is "folder", "cache", "hub" or "fallback"; `sha256` is that of `text`
    in UTF-8, so that a result can record what it was trained on.
    """

    name: str
    text: str
    source: str
    sha256: str


SOURCES = {
    "tinyshakespeare": Source(
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/"
        "data/tinyshakespeare/input.txt",
        file="tinyshakespeare.txt",
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        bytes=1_115_394,
        licence="public domain",
        fallback=PYTHON_TOPICS,
    ),
    # GPT-2's vocab.bpe without its first line, one merge a line
    "gpt2_merges": Source(
        url="https://raw.githubusercontent.com/stanford-cs336/assignment1-basics/"
        "main/tests/fixtures/gpt2_merges.txt",
        file="gpt2/merges.txt",
        sha256="ac33235097fe06d4a8fff0feac994644809e6eb6ab70669e1e9fd40ae032428e",
        bytes=456_304,
        licence="MIT",
        fallback=GPT2_FIRST_MERGES,
    ),
    # 7,473 and 1,319 rows, a line of JSON each: read by posttrain.synthetic_data.gsm8k
    "gsm8k_train": Source(
        url="https://raw.githubusercontent.com/openai/grade-school-math/master/"
        "grade_school_math/data/train.jsonl",
        file="gsm8k_train.jsonl",
        sha256="17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
        bytes=4_166_206,
        licence="MIT",
        fallback=LIKE_GSM8K_TRAIN,
    ),
    "gsm8k_test": Source(
        url="https://raw.githubusercontent.com/openai/grade-school-math/master/"
        "grade_school_math/data/test.jsonl",
        file="gsm8k_test.jsonl",
        sha256="3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
        bytes=749_738,
        licence="MIT",
        fallback=LIKE_GSM8K_TEST,
    ),
}


def load(name: str) -> Corpus:
    """Load the data set `name` from the first place that has it (see the module).

    Raises ValueError for an unknown name, for a `$POSTTRAIN_DATA` that is not a
    folder, and for a file in that folder that is not the published one.
    """
    if name not in SOURCES:
        known = ", ".join(sorted(SOURCES))
        raise ValueError(f"unknown data set {name!r}; known data sets: {known}")
    source = SOURCES[name]
    if (content := _from_folder(source)) is not None:
        return _corpus(name, content, "folder")
    if (content := _from_cache(name, source)) is not None:
        return _corpus(name, content, "cache")
    if offline():
        reason = "POSTTRAIN_OFFLINE is set and there is no local copy"
    else:
        content, reason = _ask_hub(source)
        if content is not None:
            _keep(name, source, content)
            return _corpus(name, content, "hub")
    _announce_fallback(name, source, reason)
    return _corpus(name, source.fallback.text().encode(), "fallback")


def offline() -> bool:
    """True when `POSTTRAIN_OFFLINE` is set to anything but "" and "0"."""
    return os.environ.get("POSTTRAIN_OFFLINE", "") not in ("", "0")


def damage(source: Source, content: bytes) -> str | None:
    """What tells `content` from the published file, or None if it is that file."""
    if len(content) != source.bytes:
        return f"it has {len(content):,} bytes, expected {source.bytes:,}"
    found = hashlib.sha256(content).hexdigest()
    if found != source.sha256:
        return f"its sha256 is {found}, expected {source.sha256}"
    return None


def _from_folder(source: Source) -> bytes | None:
    """The file in `$POSTTRAIN_DATA`, or None where the variable or the file is not."""
    if not (chosen := os.environ.get("POSTTRAIN_DATA")):
        return None
    folder = Path(chosen)
    if not folder.is_dir():
        raise ValueError(
            f"POSTTRAIN_DATA={chosen} is not a folder (seen from {Path.cwd()}); "
            "set it to the absolute path of an existing folder, or unset it"
        )
    path = folder / source.file
    if not path.is_file():
        return None
    content = path.read_bytes()
    if damage(source, content):
        raise ValueError(
            f"{path} is not the published file: expected sha256 {source.sha256} "
            f"({source.bytes:,} bytes), found {hashlib.sha256(content).hexdigest()} "
            f"({len(content):,} bytes). Replace it by {source.url}, or remove it"
        )
    return content


def _from_cache(name: str, source: Source) -> bytes | None:
    """The cached file, or None; a damaged one is set aside under another name."""
    path = cache.folder("data") / source.file
    if not path.is_file():
        return None
    content = path.read_bytes()
    if (problem := damage(source, content)) is None:
        return content
    aside = path.with_name(path.name + ".damaged")
    try:
        path.replace(aside)
        print(f"{name}: the cached file is damaged ({problem}); moved to {aside}")
    except OSError as error:
        print(f"{name}: the cached file is damaged ({problem}); not moved: {error}")
    return None


@functools.cache  # once a process: a second call gets the first call's answer
def _ask_hub(source: Source) -> tuple[bytes | None, str]:
    """Download and check: (content, "") or (None, why it cannot be used).

    The request runs in a thread of its own, because no socket timeout covers
    the name lookup. A thread that is late is left behind and its answer dropped.
    """
    answer: list[bytes | Exception] = []

    def request() -> None:
        try:
            with urllib.request.urlopen(source.url, timeout=HUB_SECONDS) as response:
                answer.append(response.read(source.bytes + 1))
        except Exception as error:  # whatever it is, it is a reason, not a crash
            answer.append(error)

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    if not answer:
        return None, f"its public address did not answer within {HUB_SECONDS:g} s"
    if isinstance(answer[0], Exception):
        return None, f"its public address could not be read ({answer[0]})"
    if problem := damage(source, answer[0]):
        return None, f"the download is damaged: {problem}"
    return answer[0], ""


def _keep(name: str, source: Source, content: bytes) -> None:
    """Write a checked download into the cache: the whole file or nothing."""
    target = cache.folder("data") / source.file
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            whole = Path(scratch) / target.name
            whole.write_bytes(content)
            whole.replace(target)
    except OSError as error:
        print(f"{name}: downloaded, but not kept in {target.parent}: {error}")


def _announce_fallback(name: str, source: Source, reason: str) -> None:
    """Say what is used instead of the data set, why, and how to get the real one."""
    print(
        f"{name}: using {source.fallback.label} instead, because {reason}.\n"
        f"To use the real text, save {source.url} as {source.file} "
        "in a folder of yours and set POSTTRAIN_DATA to that folder"
        + (", or unset POSTTRAIN_OFFLINE." if offline() else ".")
    )


def _corpus(name: str, content: bytes, source: str) -> Corpus:
    """Wrap checked bytes, with the checksum of exactly this text."""
    digest = hashlib.sha256(content).hexdigest()
    return Corpus(name, content.decode("utf-8"), source, digest)
