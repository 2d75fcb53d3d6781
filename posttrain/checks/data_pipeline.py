"""Checks of the exercise `data_pipeline`.

References: enumeration throughout. Shingles and n-grams are compared one by one as
lists, hash values come from Python's whole numbers, candidate pairs from looking at all
pairs, clusters from a reachability matrix, rows from a sorted list of rooms and from
plain lists, windows from the joined bytes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import combinations

import torch

from posttrain.checks.mistakes.data_pipeline import MISTAKES
from posttrain.checks.task import Task

WORDS = ["the", "cat", "sat", "on", "a", "mat", "The", "Cat,", "dog", "ran", "off"]


def draw(rng, low, high):
    """A whole number, low ... high."""
    return int(torch.randint(low, high + 1, (), generator=rng))


def choose(rng, things):
    return things[draw(rng, 0, len(things) - 1)]


def sentence(rng, low, high, words=WORDS):
    return " ".join(choose(rng, words) for _ in range(draw(rng, low, high)))


# ---------------------------------------------------------------- resemblance


def resemblance_cases(rng, hidden):
    yield "", "", 2
    yield "a", "", 2
    yield "a b", "a b", 2
    yield "a b", "a b c", 2
    yield "A b C", "a B c", 3
    yield "a b c", "a b c", 5  # fewer words than k
    yield "a b", "a c", 5
    yield "a b c d", "a b x d", 1
    yield "a a a a", "a a", 1  # sets: how often does not matter
    yield "a b a b a b", "a b a", 2
    yield "a b c", "b a c", 2  # the order of words matters
    yield "one  two\nthree", "one two three", 2  # any white space
    yield "ab cd", "abc d", 2
    yield "a Cat, b", "a cat b", 1  # a comma belongs to its word
    for _ in range(6 if hidden else 3):
        text = sentence(rng, 6, 14)
        words = text.split()
        words[draw(rng, 0, len(words) - 1)] = "moon"
        yield text, " ".join(words), draw(rng, 1, 4)
    yield sentence(rng, 5, 9), sentence(rng, 5, 9), 2


def drive_resemblance(answer, a, b, k):
    return float(answer(a, b, k))


def reference_resemblance(a, b, k):
    def runs(text):
        words, found = text.lower().split(), []
        if len(words) <= k:
            return [words]
        for i in range(len(words)):
            run = words[i : i + k]
            if len(run) == k and run not in found:
                found.append(run)
        return found

    one, other = runs(a), runs(b)
    common = sum(run in other for run in one)
    return common / (len(one) + len(other) - common)


# ---------------------------------------------------------------- minhash


def minhash_cases(rng, hidden):
    yield [], [3, 5], [1, 2], 101
    yield [7], [1], [0], 101
    yield [7], [20], [3], 11
    yield [4, 9, 2], [3, 5, 10], [1, 0, 7], 13
    large = 2**61 - 1
    yield [2**60 + 5, 2**59 + 1, 12], [2**60 - 7, 2**58 + 3], [2**60, 5], large
    for _ in range(4 if hidden else 2):
        p = choose(rng, [101, 2**31 - 1, large])
        K, S = draw(rng, 1, 6), draw(rng, 2, 9)
        numbers = [draw(rng, 1, p - 1) for _ in range(2 * K + S)]
        yield sorted(set(numbers[2 * K :])), numbers[:K], numbers[K : 2 * K], p


def drive_minhash(answer, x, a, b, p):
    values = [int(value) for value in answer(x, a, b, p)]
    return {"values": values, "x afterwards": x}


def reference_minhash(x, a, b, p):
    values = []
    for j in range(len(a)):
        hashed = sorted(divmod(a[j] * element + b[j], p)[1] for element in x)
        values.append(hashed[0] if hashed else p)
    return {"values": values, "x afterwards": x}


# ---------------------------------------------------------------- candidates


def candidate_cases(rng, hidden):
    yield [[1, 2, 3, 4]], 2
    yield [[1, 2, 3, 4], [1, 2, 9, 9]], 2
    yield [[1, 2, 3, 4], [1, 9, 3, 9]], 2  # half of each band
    yield [[1, 2, 3, 4], [3, 4, 1, 2]], 2  # equal bands at different places
    yield [[1, 2, 3, 4], [9, 9, 3, 4], [1, 2, 8, 8]], 2
    yield [[1, 2, 1, 2], [5, 6, 5, 6], [1, 2, 5, 6]], 2
    yield [[1, 2, 3], [1, 2, 3], [1, 2, 3]], 1
    yield [[1, 2, 3], [9, 9, 3]], 3
    yield [[1, 2, 3, 4, 5], [9, 9, 9, 9, 5]], 2  # a rest that no band has
    yield [[1, 2, 3, 4], [1, 9, 3, 8], [7, 2, 6, 4]], 2  # not every second number
    yield [[1, 2, 3, 4, 5], [1, 2, 9, 9, 9], [8, 8, 3, 4, 9]], 2  # nor in the last
    yield [[1, 2, 3, 4], [1, 2, 3, 4]], 2  # a pair twice
    yield [[1, 2, 3, 4], [2, 1, 4, 4]], 2  # the order of a band matters
    yield [[1, 12], [11, 2], [1, 1], [11, 0], [2**61, 3], [2**61 + 1, 3]], 1
    for _ in range(4 if hidden else 2):
        K, N = draw(rng, 4, 9), draw(rng, 4, 8)
        rows = torch.randint(0, 3, (N, K), generator=rng).tolist()
        yield rows, draw(rng, 1, min(4, K))


def drive_candidates(answer, signatures, bands):
    found = [[int(i), int(j)] for i, j in answer(signatures, bands)]
    return {"pairs": found, "signatures afterwards": signatures}


def reference_candidates(signatures, bands):
    rows = len(signatures[0]) // bands
    found = []
    for i, j in combinations(range(len(signatures)), 2):
        equal = [a == b for a, b in zip(signatures[i], signatures[j], strict=True)]
        parts = [equal[band * rows : (band + 1) * rows] for band in range(bands)]
        if any(all(part) for part in parts):
            found.append([i, j])
    return {"pairs": found, "signatures afterwards": signatures}


# ---------------------------------------------------------------- clusters


def cluster_cases(rng, hidden):
    yield [], 3
    yield [], 0
    yield [(0, 1)], 2
    yield [(2, 1)], 3
    yield [(0, 1), (1, 2)], 3
    yield [(1, 2), (0, 1)], 4
    yield [(2, 3), (0, 1), (1, 3)], 4  # two clusters become one
    yield [(3, 4), (2, 4), (1, 4), (0, 3)], 5
    yield [(0, 1), (1, 0), (0, 1)], 2
    yield [(4, 5), (3, 4), (2, 3), (1, 2)], 6
    for _ in range(5 if hidden else 2):
        N = draw(rng, 6, 12)
        pairs = torch.randint(0, N, (draw(rng, 3, N), 2), generator=rng).tolist()
        yield [tuple(pair) for pair in pairs], N


def drive_clusters(answer, pairs, n):
    labels = [int(label) for label in answer(pairs, n)]
    return {"labels": labels, "pairs afterwards": pairs}


def reference_clusters(pairs, n):
    reach = torch.eye(n)
    for i, j in pairs:
        reach[i, j] = reach[j, i] = 1
    for _ in range(n.bit_length()):
        reach = ((reach @ reach) > 0).float()
    labels = [row.nonzero()[0].item() for row in reach]
    return {"labels": labels, "pairs afterwards": pairs}


# ---------------------------------------------------------------- top_ngram_share


def ngram_cases(rng, hidden):
    yield "", 2
    yield "a", 2
    yield "a b c", 2
    yield "a b a b", 2
    yield "x a b y a b", 2
    yield "aa aa", 1
    yield "b b b loooong loooong", 1  # the one that covers most, not the commonest
    yield "bb bb bb bb bb cccc cccc", 1  # nor the longest
    yield "A b a B", 1
    yield "ab c a bc", 2
    yield "né né abc", 1  # characters, not bytes
    yield "it is it is, it is.", 2
    yield "one two three one  two\nthree four", 3
    yield "a a a a", 2
    for _ in range(5 if hidden else 2):
        phrase = sentence(rng, 2, 3)
        parts = [phrase if draw(rng, 0, 1) else choose(rng, WORDS) for _ in range(9)]
        yield " ".join(parts), draw(rng, 1, 3)


def drive_ngram(answer, text, n):
    return float(answer(text, n))


def reference_ngram(text, n):
    words = text.split()
    runs = [words[i : i + n] for i in range(len(words)) if i + n <= len(words)]
    best = 0
    for run in runs:
        times = sum(other == run for other in runs)
        best = max(best, times * len("".join(run))) if times >= 2 else best
    return best / len("".join(words)) if words else 0.0


# ---------------------------------------------------------------- best_fit


def fit_cases(rng, hidden):
    yield [], 4
    yield [4], 4
    yield [2, 2], 4
    yield [1, 4], 4
    yield [3, 2, 1], 4
    yield [8, 6, 3, 1], 10  # first fit puts the last one elsewhere
    yield [1, 3, 6, 8], 10
    yield [6, 5, 2, 3, 1], 8
    yield [3, 3, 3, 1, 1, 1], 4  # ties: the earlier document, the earlier row
    yield [1, 1, 1, 1, 1], 4
    yield [7, 6, 1, 1, 2], 8
    for _ in range(5 if hidden else 3):
        T = draw(rng, 6, 16)
        lengths = torch.randint(1, T + 1, (draw(rng, 5, 14),), generator=rng)
        yield lengths.tolist(), T


def drive_fit(answer, lengths, T):
    rows = [[int(i) for i in row] for row in answer(lengths, T)]
    return {"rows": rows, "lengths afterwards": lengths}


def reference_fit(lengths, T):
    rooms, rows = [], []  # rooms: (room, row), ascending
    for negative, i in sorted((-length, i) for i, length in enumerate(lengths)):
        place = bisect_left(rooms, (-negative, -1))
        if place < len(rooms):
            room, row = rooms.pop(place)
        else:
            room, row = T, len(rows)
            rows.append([])
        rows[row].append(i)
        insort(rooms, (room + negative, row))
    return {"rows": rows, "lengths afterwards": lengths}


# ---------------------------------------------------------------- fill_rows


def fill_cases(rng, hidden):
    yield [[5, 6]], [[0]], 2, 0
    yield [[5, 6]], [[0]], 4, 0
    yield [[5], [6]], [[0, 1]], 3, 9  # one token: no target at all
    yield [[5, 6, 7], [8, 9]], [[1, 0]], 6, 1
    yield [[1, 1], [1, 1]], [[0, 1]], 4, 1  # equal tokens hide nothing
    yield [[3, 4, 5], [6, 7], [8]], [[0], [2, 1]], 3, 0
    for _ in range(5 if hidden else 3):
        T, documents, rows = draw(rng, 6, 10), [], []
        for _ in range(draw(rng, 1, 3)):
            row, room = [], T
            while room > 0 and len(row) < 3:
                length = draw(rng, 1, room)
                row.append(len(documents))
                ids = torch.randint(0, 50, (length,), generator=rng).tolist()
                documents.append(ids)
                room -= length
            rows.append(row[::-1])
        yield documents, rows, T, draw(rng, 0, 50)


def drive_fill(answer, documents, rows, T, pad):
    tokens, targets, ids = answer(documents, rows, T, pad)
    given = [documents, rows]
    return {"tokens": tokens, "targets": targets, "ids": ids, "inputs": given}


def reference_fill(documents, rows, T, pad):
    tokens, targets, ids = [], [], []
    for row in rows:
        flat = [token for i in row for token in documents[i]]
        following = [t for i in row for t in [*documents[i][1:], -100]]
        names = [i for i in row for _ in documents[i]]
        left = T - len(flat)
        tokens.append(flat + [pad] * left)
        targets.append(following + [-100] * left)
        ids.append(names + [-1] * left)
    found = {"tokens": tokens, "targets": targets, "ids": ids}
    tensors = {name: torch.tensor(value) for name, value in found.items()}
    return {**tensors, "inputs": [documents, rows]}


# ---------------------------------------------------------------- read_windows


def window_cases(rng, hidden):
    def shard(ids, dtype):
        size = {"uint16": 2, "uint32": 4}[dtype]
        return b"".join(i.to_bytes(size, "little") for i in ids)

    yield [shard([1, 2, 3], "uint16")], "uint16", [0], 3
    yield [shard([258, 513], "uint16")], "uint16", [0, 1], 1  # byte order
    yield [shard([65535, 40000, 7], "uint16")], "uint16", [0, 1], 2  # no sign
    yield [shard([70000, 3, 2**31 + 1], "uint32")], "uint32", [0, 2], 1
    two = [shard([1, 2, 3], "uint16"), shard([4, 5], "uint16")]
    yield two, "uint16", [0, 1, 2], 3
    yield two, "uint16", [3], 2  # begins where a shard begins
    yield [b"", *two], "uint16", [0, 3], 2  # the first shard is empty
    yield [two[0], b"", two[1], two[1]], "uint16", [1, 2, 0, 3], 4
    for _ in range(4 if hidden else 2):
        dtype = choose(rng, ["uint16", "uint32"])
        sizes = [draw(rng, 1, 6) for _ in range(draw(rng, 2, 5))]
        top = 2**16 if dtype == "uint16" else 2**32
        shards = [
            shard([draw(rng, 0, top - 1) for _ in range(n)], dtype) for n in sizes
        ]
        T = draw(rng, 1, sum(sizes))
        yield shards, dtype, [draw(rng, 0, sum(sizes) - T) for _ in range(4)], T


def drive_windows(answer, shards, dtype, starts, T):
    return answer(shards, dtype, starts, T)


def reference_windows(shards, dtype, starts, T):
    size, joined = {"uint16": 2, "uint32": 4}[dtype], b"".join(shards)
    ids = [
        int.from_bytes(joined[i : i + size], "little")
        for i in range(0, len(joined), size)
    ]
    return torch.tensor([ids[start : start + T] for start in starts])


TASKS = {
    "resemblance": Task(
        resemblance_cases,
        drive_resemblance,
        reference_resemblance,
        MISTAKES["resemblance"],
    ),
    "minhash": Task(
        minhash_cases, drive_minhash, reference_minhash, MISTAKES["minhash"]
    ),
    "candidates": Task(
        candidate_cases, drive_candidates, reference_candidates, MISTAKES["candidates"]
    ),
    "clusters": Task(
        cluster_cases, drive_clusters, reference_clusters, MISTAKES["clusters"]
    ),
    "top_ngram_share": Task(
        ngram_cases, drive_ngram, reference_ngram, MISTAKES["top_ngram_share"]
    ),
    "best_fit": Task(fit_cases, drive_fit, reference_fit, MISTAKES["best_fit"]),
    "fill_rows": Task(fill_cases, drive_fill, reference_fill, MISTAKES["fill_rows"]),
    "read_windows": Task(
        window_cases, drive_windows, reference_windows, MISTAKES["read_windows"]
    ),
}
