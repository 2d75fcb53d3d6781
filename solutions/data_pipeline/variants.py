"""Answers that the grader of `data_pipeline` must tell apart. Never given to students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

from bisect import bisect_right
from collections import Counter, defaultdict, deque
from itertools import combinations

import numpy as np
import torch

# ---------------------------------------------------------------- resemblance


def resemblance_by_strings(a, b, k):
    sets = []
    for text in (a, b):
        words = text.lower().split()
        runs = [" ".join(words[i : i + k]) for i in range(len(words) - k + 1)]
        sets.append(frozenset(runs or [" ".join(words)]))
    common = sum(run in sets[1] for run in sets[0])
    return common / (len(sets[0]) + len(sets[1]) - common)


def resemblance_with_zip(a, b, k):
    def runs(text):
        words = text.casefold().split()
        found = set(zip(*(words[i:] for i in range(k)), strict=False))
        return found or {tuple(words)}

    return np.float64(len(runs(a) & runs(b)) / len(runs(a) | runs(b)))


def resemblance_ignores_order(a, b, k):
    """Wrong: a bag of words for each shingle."""

    def runs(text):
        words = text.lower().split()
        last = max(0, len(words) - k)
        return {tuple(sorted(words[i : i + k])) for i in range(last + 1)}

    return len(runs(a) & runs(b)) / len(runs(a) | runs(b))


# ---------------------------------------------------------------- minhash


def minhash_element_by_element(x, a, b, p):
    signature = [p] * len(a)
    for s in x:
        for j in range(len(a)):
            signature[j] = min(signature[j], (a[j] * s + b[j]) % p)
    return signature


def minhash_with_objects(x, a, b, p):
    """NumPy with Python's own numbers in it: nothing overflows."""
    x, a, b = (np.array(values, dtype=object) for values in (x, a, b))
    values = (a[:, None] * x[None, :] + b[:, None]) % p
    return values.min(axis=1, initial=p).tolist()


def minhash_one_shift_for_all(x, a, b, p):
    return [min(((i * s + b[0]) % p for s in x), default=p) for i in a]


def minhash_empties_the_list(x, a, b, p):
    signature = [p] * len(a)
    while x:
        s = x.pop()
        hashed = [(i * s + j) % p for i, j in zip(a, b, strict=True)]
        signature = [min(pair) for pair in zip(signature, hashed, strict=True)]
    return signature


# ---------------------------------------------------------------- candidates


def candidates_all_pairs(signatures, bands):
    rows = len(signatures[0]) // bands
    cut = [[s[i : i + rows] for i in range(0, rows * bands, rows)] for s in signatures]
    return [
        (i, j)
        for i, j in combinations(range(len(signatures)), 2)
        if any(a == b for a, b in zip(cut[i], cut[j], strict=True))
    ]


def candidates_one_dict(signatures, bands):
    buckets, rows = defaultdict(list), len(signatures[0]) // bands
    for i, signature in enumerate(signatures):
        for band in range(bands):
            numbers = np.array(signature[band * rows :][:rows])
            buckets[band, numbers.tobytes()].append(i)
    found = {pair for b in buckets.values() for pair in combinations(b, 2)}
    return [list(pair) for pair in sorted(found)]


def candidates_next_in_bucket_only(signatures, bands):
    """Wrong: of three in a bucket, the first and the last are no pair to it."""
    rows, found = len(signatures[0]) // bands, set()
    for band in range(bands):
        last = {}
        for j, signature in enumerate(signatures):
            key = tuple(signature[band * rows : (band + 1) * rows])
            if key in last:
                found.add((last[key], j))
            last[key] = j
    return sorted(found)


def candidates_by_key(signatures, bands, key):
    rows, found = len(signatures[0]) // bands, set()
    for start in range(0, rows * bands, rows):
        keys = [key(s[start : start + rows]) for s in signatures]
        places = combinations(range(len(keys)), 2)
        found |= {(i, j) for i, j in places if keys[i] == keys[j]}
    return sorted(found)


def candidates_sorted_band(signatures, bands):
    return candidates_by_key(signatures, bands, sorted)


def candidates_in_floats(signatures, bands):
    return candidates_by_key(signatures, bands, lambda band: [float(n) for n in band])


def candidates_digits(signatures, bands):
    """Wrong: the digits of a number base 10 are not below 10."""
    return candidates_by_key(
        signatures, bands, lambda band: sum(n * 10**i for i, n in enumerate(band))
    )


# ---------------------------------------------------------------- clusters


def clusters_by_search(pairs, n):
    neighbours = defaultdict(set)
    for i, j in pairs:
        neighbours[i].add(j)
        neighbours[j].add(i)
    labels = [None] * n
    for start in range(n):
        waiting = deque([start])
        while waiting:
            i = waiting.popleft()
            if labels[i] is None:
                labels[i] = start
                waiting.extend(neighbours[i])
    return labels


def clusters_by_relabelling(pairs, n):
    labels = list(range(n))
    for _ in range(n):
        for i, j in pairs:
            labels[i] = labels[j] = min(labels[i], labels[j])
    return torch.tensor(labels)


def clusters_first_pairs_only(pairs, n):
    """Wrong: a document that has a cluster never joins another."""
    labels = list(range(n))
    for i, j in sorted(tuple(sorted(pair)) for pair in pairs):
        if labels[j] == j:
            labels[j] = labels[i]
    return labels


# ---------------------------------------------------------------- top_ngram_share


def ngram_by_dict(text, n):
    words, times = text.split(), {}
    for run in zip(*(words[i:] for i in range(n)), strict=False):
        times[run] = times.get(run, 0) + 1
    best = 0
    for run, count in times.items():
        if count >= 2 and count * len("".join(run)) > best:
            best = count * len("".join(run))
    return best / (len("".join(words)) or 1)


def ngram_by_sorting(text, n):
    words = text.split()
    runs = sorted(words[i : i + n] for i in range(len(words) - n + 1))
    best = max(
        (len("".join(run)) * runs.count(run) for run in runs if runs.count(run) > 1),
        default=0,
    )
    return best / sum(len(word) for word in words) if best else 0


def ngram_without_overlap(text, n):
    """Wrong: counts runs at distances of n only."""
    words = text.split()
    runs = Counter(tuple(words[i : i + n]) for i in range(0, len(words) - n + 1, n))
    covered = [m * len("".join(run)) for run, m in runs.items() if m > 1]
    return max(covered) / len("".join(words)) if covered else 0.0


# ---------------------------------------------------------------- best_fit


def fit_by_room(lengths, T):
    """Rows kept by their room."""
    with_room, rows = {}, []
    for i in np.argsort([-n for n in lengths], kind="stable").tolist():
        room = next((r for r in range(lengths[i], T + 1) if with_room.get(r)), None)
        if room is None:
            rows.append([])
            row, room = len(rows) - 1, T
        else:
            row = min(with_room[room])
            with_room[room].remove(row)
        rows[row].append(i)
        with_room.setdefault(room - lengths[i], set()).add(row)
    return rows


def fit_by_pairs(lengths, T):
    rows = []
    order = sorted(enumerate(lengths), key=lambda pair: (-pair[1], pair[0]))
    for i, length in order:
        room = [(T - sum(lengths[j] for j in row), r) for r, row in enumerate(rows)]
        fitting = sorted(pair for pair in room if pair[0] >= length)
        if fitting:
            rows[fitting[0][1]].append(i)
        else:
            rows.append([i])
    return rows


def fit_needs_more_room(lengths, T):
    """Wrong: a row that would be exactly full is not used."""
    rows = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        room = [(T - sum(lengths[j] for j in row), r) for r, row in enumerate(rows)]
        fitting = sorted(pair for pair in room if pair[0] > lengths[i])
        if fitting:
            rows[fitting[0][1]].append(i)
        else:
            rows.append([i])
    return rows


# ---------------------------------------------------------------- fill_rows


def fill_by_lists(documents, rows, T, pad):
    columns = ([], [], [])
    for row in rows:
        tokens = [t for i in row for t in documents[i]]
        targets = [t for i in row for t in (*documents[i][1:], -100)]
        ids = [i for i in row for _ in documents[i]]
        for column, values, empty in zip(
            columns, (tokens, targets, ids), (pad, -100, -1), strict=True
        ):
            column.append(values + [empty] * (T - len(values)))
    return [torch.tensor(column) for column in columns]


def fill_by_comparison(documents, rows, T, pad):
    """Targets from shifted tokens, where the shifted id is the same."""
    tokens = torch.full((len(rows), T + 1), pad)
    ids = torch.full((len(rows), T + 1), -1)
    for r, row in enumerate(rows):
        flat = [(t, i) for i in row for t in documents[i]]
        tokens[r, : len(flat)], ids[r, : len(flat)] = torch.tensor(flat).T
    same = (ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] >= 0)
    targets = tokens[:, 1:].masked_fill(~same, -100)
    return tokens[:, :-1], targets, ids[:, :-1]


def fill_targets_by_equality(documents, rows, T, pad):
    """Wrong: two documents that begin and end alike count as one."""
    tokens, targets, ids = fill_by_lists(documents, rows, T, pad)
    first = {documents[i][0] for row in rows for i in row}
    ends = torch.tensor([[t in first for t in row] for row in tokens.tolist()])
    targets[:, :-1][ends[:, 1:]] = -100
    return tokens, targets, ids


# ---------------------------------------------------------------- read_windows


def windows_with_bisect(shards, dtype, starts, T):
    size = int(dtype.removeprefix("uint")) // 8
    bounds = [0]
    for content in shards:
        bounds.append(bounds[-1] + len(content) // size)

    def read(place):
        shard = bisect_right(bounds, place) - 1
        at = (place - bounds[shard]) * size
        return int.from_bytes(shards[shard][at : at + size], "little")

    return torch.tensor([[read(s + t) for t in range(T)] for s in starts])


def windows_shard_by_shard(shards, dtype, starts, T):
    places = torch.tensor(starts)[:, None] + torch.arange(T)
    windows, low = torch.zeros_like(places), 0
    for content in shards:
        ids = np.frombuffer(content, np.dtype(dtype).newbyteorder("<"))
        here = (places >= low) & (places < low + len(ids))
        found = ids[(places[here] - low).numpy()].astype(np.int64)
        windows[here] = torch.from_numpy(found)
        low += len(ids)
    return windows


def windows_as_int32(shards, dtype, starts, T):
    return windows_with_bisect(shards, dtype, starts, T).to(torch.int32)


def windows_through_float32(shards, dtype, starts, T):
    return windows_with_bisect(shards, dtype, starts, T).to(torch.float32).long()


RIGHT = {
    "resemblance": [resemblance_by_strings, resemblance_with_zip],
    "minhash": [minhash_element_by_element, minhash_with_objects],
    "candidates": [candidates_all_pairs, candidates_one_dict],
    "clusters": [clusters_by_search, clusters_by_relabelling],
    "top_ngram_share": [ngram_by_dict, ngram_by_sorting],
    "best_fit": [fit_by_room, fit_by_pairs],
    "fill_rows": [fill_by_lists, fill_by_comparison],
    "read_windows": [windows_with_bisect, windows_shard_by_shard],
}

WRONG = {
    "resemblance": [resemblance_ignores_order],
    "minhash": [minhash_one_shift_for_all, minhash_empties_the_list],
    "candidates": [
        candidates_next_in_bucket_only,
        candidates_sorted_band,
        candidates_in_floats,
        candidates_digits,
    ],
    "clusters": [clusters_first_pairs_only],
    "top_ngram_share": [ngram_without_overlap],
    "best_fit": [fit_needs_more_room],
    "fill_rows": [fill_targets_by_equality],
    "read_windows": [windows_as_int32, windows_through_float32],
}

_SYMMETRIC = "min and max take their arguments in either order"

EQUIVALENT = {
    "resemblance: `last = max(0, len(words) - k)` -> "
    "`last = max(len(words) - k, 0)`": _SYMMETRIC,
    "candidates: `rows = len(signatures[0]) // bands` -> "
    "`rows = len(signatures[-1]) // bands`": "all signatures are equally long",
    "clusters: `parent[max(one, other)] = min(one, other)` -> "
    "`parent[max(one, other)] = min(other, one)`": _SYMMETRIC,
    "clusters: `parent[max(one, other)] = min(one, other)` -> "
    "`parent[max(other, one)] = min(one, other)`": _SYMMETRIC,
    "top_ngram_share: `runs = Counter((tuple(words[i:i + n]) for i in "
    "range(len(words) - n + 1)))` -> `runs = Counter((tuple(words[i:i + n]) for i in "
    "range(len(words) - n + 2)))`": "one run more, too short to occur a second time",
}
