"""Reading documents once each, in an order that is random enough and can be repeated.

    for ids in stream(shards, seed=0, epoch=0, buffer=256):
        ...

Drawing every token from anywhere is what `Windows` does, and what a disk dislikes. A
stream reads each shard from front to back, in a random order of shards, and mixes by a
buffer of bounded size. The order is a function of (seed, epoch).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np

from posttrain.foundations.data_pipeline_shards import Shards

Item = TypeVar("Item")


def shuffled_documents(shards: Shards, seed: int, epoch: int) -> np.ndarray:
    """Places of all documents: shards in random order, documents random within each.

    (documents,) int64. One shard at a time is touched, so no buffer is needed where a
    shard fits into memory.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(shards.maps))
    return np.concatenate(
        [random.permutation(np.array(shards.shard_documents(s))) for s in order]
    )


def shuffle_buffer(
    items: Iterable[Item], size: int, random: np.random.Generator
) -> Iterator[Item]:
    """Each item once: hold `size` of them, give out a random one, take in the next.

    An item can come out at most size - 1 places early, and late without a limit.
    Raises ValueError for a size below 1; size 1 changes nothing.
    """
    if size < 1:
        raise ValueError(f"size={size}: a buffer holds at least 1 item")
    items = iter(items)
    held = list(islice(items, size))
    for item in items:
        place = random.integers(len(held))
        yield held[place]
        held[place] = item
    for place in random.permutation(len(held)):
        yield held[place]


def stream(
    shards: Shards, seed: int, epoch: int = 0, buffer: int = 256, start: int = 0
) -> Iterator[np.ndarray]:
    """Every document once: shards in random order, each front to back, then a buffer.

    start: leave out so many documents, to go on where a run stopped. Their ids are not
    read again, only their places.
    """
    random = np.random.default_rng((seed, epoch))
    places = (
        i
        for s in random.permutation(len(shards.maps))
        for i in shards.shard_documents(s)
    )
    for i in islice(shuffle_buffer(places, buffer, random), start, None):
        yield shards.document(i)
