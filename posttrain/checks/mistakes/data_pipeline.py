"""What goes wrong in the exercise `data_pipeline`, and the hint for each.

Each mistake is a whole answer. Where several differ from a right answer in one place
only, they share it as a base and change that place.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
import torch

from posttrain.checks.task import Mistake

# ---------------------------------------------------------------- resemblance


def runs_of(text, k):
    words = text.lower().split()
    return [tuple(words[i : i + k]) for i in range(max(1, len(words) - k + 1))]


def resemblance_of_lists(a, b, k):
    one, other = Counter(runs_of(a, k)), Counter(runs_of(b, k))
    return (one & other).total() / (one | other).total()


def resemblance_by_smaller(a, b, k):
    one, other = set(runs_of(a, k)), set(runs_of(b, k))
    return len(one & other) / min(len(one), len(other))


def resemblance_sum_for_union(a, b, k):
    one, other = set(runs_of(a, k)), set(runs_of(b, k))
    return len(one & other) / (len(one) + len(other))


def resemblance_of_characters(a, b, k):
    def runs(text):
        text = text.lower()
        return {text[i : i + k] for i in range(max(1, len(text) - k + 1))}

    return len(runs(a) & runs(b)) / len(runs(a) | runs(b))


def resemblance_keeps_case(a, b, k):
    def runs(text):
        words = text.split()
        return {tuple(words[i : i + k]) for i in range(max(1, len(words) - k + 1))}

    return len(runs(a) & runs(b)) / len(runs(a) | runs(b))


def resemblance_without_punctuation(a, b, k):
    one, other = (set(runs_of(re.sub(r"[^\w\s]", "", t), k)) for t in (a, b))
    return len(one & other) / len(one | other)


def resemblance_loses_the_last(a, b, k):
    def runs(text):
        words = text.lower().split()
        return {tuple(words[i : i + k]) for i in range(max(1, len(words) - k))}

    return len(runs(a) & runs(b)) / len(runs(a) | runs(b))


# ---------------------------------------------------------------- minhash


def minhash_over_functions(x, a, b, p):
    pairs = list(zip(a, b, strict=True))
    return [min((i * s + j) % p for i, j in pairs) for s in x]


def minhash_without_modulo(x, a, b, p):
    pairs = zip(a, b, strict=True)
    return [min((i * s + j for s in x), default=p) for i, j in pairs]


def minhash_gives_the_element(x, a, b, p):
    pairs = zip(a, b, strict=True)
    return [min(x, key=lambda s: (i * s + j) % p, default=p) for i, j in pairs]


def minhash_overflows(x, a, b, p):
    if not x:
        return [p] * len(a)
    x, a, b = (np.array(values, dtype=np.int64) for values in (x, a, b))
    return ((a[:, None] * x + b[:, None]) % p).min(axis=1).tolist()


def minhash_keeps_the_largest(x, a, b, p):
    pairs = zip(a, b, strict=True)
    return [max(((i * s + j) % p for s in x), default=p) for i, j in pairs]


# ---------------------------------------------------------------- candidates


def pairs_from(keys_of, signatures, bands):
    buckets = defaultdict(list)
    for i, signature in enumerate(signatures):
        for key in keys_of(signature, bands):
            buckets[key].append(i)
    found = {pair for places in buckets.values() for pair in combinations(places, 2)}
    return sorted(pair for pair in found if pair[0] != pair[1])


def candidates_one_number_is_enough(signatures, bands):
    return pairs_from(lambda s, n: enumerate(s), signatures, bands)


def candidates_bands_share_buckets(signatures, bands):
    def keys(s, n):
        rows = len(s) // n
        return [tuple(s[i * rows : (i + 1) * rows]) for i in range(n)]

    return pairs_from(keys, signatures, bands)


def candidates_every_nth(signatures, bands):
    def keys(s, n):
        rows = len(s) // n
        return [(i, tuple(s[: rows * n][i::n])) for i in range(n)]

    return pairs_from(keys, signatures, bands)


def candidates_all_bands(signatures, bands):
    return pairs_from(lambda s, n: [tuple(s)], signatures, bands)


def candidates_glue_the_numbers(signatures, bands):
    def keys(s, n):
        rows = len(s) // n
        parts = (s[i * rows : (i + 1) * rows] for i in range(n))
        return [(i, "".join(map(str, part))) for i, part in enumerate(parts)]

    return pairs_from(keys, signatures, bands)


def candidates_use_the_rest(signatures, bands):
    def keys(s, n):
        rows = len(s) // n
        cuts = [*range(0, rows * n, rows), len(s)]
        return [(i, tuple(s[cuts[i] : cuts[i + 1]])) for i in range(n)]

    return pairs_from(keys, signatures, bands)


def candidates_twice(signatures, bands):
    rows, found = len(signatures[0]) // bands, []
    for band in range(bands):
        block = slice(band * rows, (band + 1) * rows)
        for i, j in combinations(range(len(signatures)), 2):
            if signatures[i][block] == signatures[j][block]:
                found.append((i, j))
    return sorted(found)


def candidates_rows_for_bands(signatures, bands):
    def keys(s, n):
        return [(i, tuple(s[i : i + n])) for i in range(0, len(s), n)]

    return pairs_from(keys, signatures, bands)


# ---------------------------------------------------------------- clusters


def clusters_direct_neighbours(pairs, n):
    labels = list(range(n))
    for i, j in pairs:
        low, high = min(i, j), max(i, j)
        labels[high] = min(labels[high], low)
    return labels


def clusters_one_pass(pairs, n):
    labels = list(range(n))
    for i, j in pairs:
        labels[i] = labels[j] = min(labels[i], labels[j])
    return labels


def clusters_parents_not_roots(pairs, n):
    parent = list(range(n))

    def root(i):
        return i if parent[i] == i else root(parent[i])

    for i, j in pairs:
        low, high = sorted((root(i), root(j)))
        parent[high] = low
    return parent


def clusters_any_root(pairs, n):
    parent = list(range(n))

    def root(i):
        return i if parent[i] == i else root(parent[i])

    for i, j in pairs:
        parent[root(i)] = root(j)
    return [root(i) for i in range(n)]


def clusters_sorts_the_pairs(pairs, n):
    pairs.sort()
    labels = list(range(n))
    for i, j in pairs:
        low, high = sorted((labels[i], labels[j]))
        labels = [low if label == high else label for label in labels]
    return labels


# ---------------------------------------------------------------- top_ngram_share


def grams_of(text, n):
    words = text.split()
    grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return grams, sum(map(len, words))


def ngram_of_bytes(text, n):
    grams, _ = grams_of(text, n)
    covered = [m * len("".join(gram).encode()) for gram, m in grams.items() if m > 1]
    return max(covered, default=0) / max(1, len("".join(text.split()).encode()))


def ngram_counts_single_ones(text, n):
    grams, total = grams_of(text, n)
    covered = [times * len("".join(gram)) for gram, times in grams.items()]
    return max(covered, default=0) / max(1, total)


def ngram_commonest(text, n):
    grams, total = grams_of(text, n)
    if not grams or max(grams.values()) < 2:
        return 0.0
    gram, times = grams.most_common(1)[0]
    return times * len("".join(gram)) / total


def ngram_longest(text, n):
    grams, total = grams_of(text, n)
    repeated = [gram for gram, times in grams.items() if times > 1]
    longest = max(repeated, key=lambda gram: len("".join(gram)), default=())
    return grams[longest] * len("".join(longest)) / max(1, total)


def ngram_lower_case(text, n):
    grams, total = grams_of(text.lower(), n)
    covered = [m * len("".join(gram)) for gram, m in grams.items() if m > 1]
    return max(covered, default=0) / max(1, total)


def ngram_glued(text, n):
    grams, total = grams_of(text, n)
    glued = Counter("".join(gram) for gram in grams.elements())
    return max((m * len(s) for s, m in glued.items() if m > 1), default=0) / max(
        1, total
    )


def ngram_with_spaces(text, n):
    grams, _ = grams_of(text, n)
    covered = [m * len(" ".join(gram)) for gram, m in grams.items() if m > 1]
    return max(covered, default=0) / max(1, len(text))


def ngram_counts_once(text, n):
    grams, total = grams_of(text, n)
    covered = [len("".join(gram)) for gram, times in grams.items() if times > 1]
    return max(covered, default=0) / max(1, total)


def ngram_share_of_ngrams(text, n):
    grams, _ = grams_of(text, n)
    repeated = [times for times in grams.values() if times > 1]
    return max(repeated, default=0) / max(1, grams.total())


# ---------------------------------------------------------------- best_fit


def packed_by(lengths, T, order, choose):
    rows, room = [], []
    for i in order:
        fitting = [r for r in range(len(rows)) if room[r] >= lengths[i]]
        if fitting:
            row = choose(fitting, room)
        else:
            row = len(rows)
            rows.append([])
            room.append(T)
        rows[row].append(i)
        room[row] -= lengths[i]
    return rows


def longest_first(lengths):
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


def tightest(fitting, room):
    return min(fitting, key=lambda r: room[r])


def fit_in_order(lengths, T):
    return packed_by(lengths, T, range(len(lengths)), tightest)


def fit_first(lengths, T):
    return packed_by(lengths, T, longest_first(lengths), lambda f, room: f[0])


def fit_worst(lengths, T):
    emptiest = lambda f, room: max(f, key=lambda r: room[r])  # noqa: E731
    return packed_by(lengths, T, longest_first(lengths), emptiest)


def fit_shortest_first(lengths, T):
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    return packed_by(lengths, T, order, tightest)


def fit_only_last_row(lengths, T):
    rows, room = [], 0
    for i in longest_first(lengths):
        if lengths[i] > room or not rows:
            rows.append([])
            room = T
        rows[-1].append(i)
        room -= lengths[i]
    return rows


# ---------------------------------------------------------------- fill_rows


def filled(documents, rows, T, pad, no_target=-100, no_document=-1, name=None):
    shape = (len(rows), T)
    tokens, targets = torch.full(shape, pad), torch.full(shape, no_target)
    ids = torch.full(shape, no_document)
    for r, row in enumerate(rows):
        place = 0
        for order, i in enumerate(row):
            ids_of = torch.tensor(documents[i])
            end = place + len(ids_of)
            tokens[r, place:end] = ids_of
            targets[r, place : end - 1] = ids_of[1:]
            ids[r, place:end] = i if name is None else name(order)
            place = end
    return tokens, targets, ids


def fill_targets_cross(documents, rows, T, pad):
    tokens, targets, ids = filled(documents, rows, T, pad)
    inside = (ids[:, :-1] >= 0) & (ids[:, 1:] >= 0)
    targets[:, :-1] = torch.where(inside, tokens[:, 1:], -100)
    return tokens, targets, ids


def fill_targets_not_shifted(documents, rows, T, pad):
    tokens, _, ids = filled(documents, rows, T, pad)
    return tokens, torch.where(ids >= 0, tokens, -100), ids


def fill_learns_padding(documents, rows, T, pad):
    return filled(documents, rows, T, pad, no_target=pad)


def fill_padding_is_document_0(documents, rows, T, pad):
    return filled(documents, rows, T, pad, no_document=0)


def fill_grows_a_document(documents, rows, T, pad):
    result = filled(documents, rows, T, pad)
    for row in rows:
        flat = documents[row[0]]
        for i in row[1:]:
            flat += documents[i]
    return result


def fill_counts_within_row(documents, rows, T, pad):
    return filled(documents, rows, T, pad, name=lambda order: order)


# ---------------------------------------------------------------- read_windows


def arrays_of(shards, dtype, order="<"):
    kind = order + {"uint16": "u2", "uint32": "u4"}[dtype]
    return [np.frombuffer(content, dtype=kind) for content in shards]


def windows_from(arrays, starts, T):
    tokens = np.concatenate(arrays).astype(np.int64)
    return torch.from_numpy(tokens[np.array(starts)[:, None] + np.arange(T)])


def windows_big_endian(shards, dtype, starts, T):
    return windows_from(arrays_of(shards, dtype, ">"), starts, T)


def windows_with_sign(shards, dtype, starts, T):
    kind = {"uint16": "<i2", "uint32": "<i4"}[dtype]
    return windows_from([np.frombuffer(s, dtype=kind) for s in shards], starts, T)


def windows_always_16_bits(shards, dtype, starts, T):
    return windows_from(arrays_of(shards, "uint16"), starts, T)


def windows_stay_in_a_shard(shards, dtype, starts, T):
    arrays = arrays_of(shards, dtype)
    bounds = np.cumsum([0, *map(len, arrays)])
    rows = []
    for start in starts:
        shard = int(np.searchsorted(bounds, start, side="right")) - 1
        local = min(start - bounds[shard], max(0, len(arrays[shard]) - T))
        rows.append(arrays[shard][local : local + T].astype(np.int64))
    return torch.from_numpy(np.stack(rows))


def windows_off_at_bounds(shards, dtype, starts, T):
    arrays = arrays_of(shards, dtype)
    bounds = np.cumsum([0, *map(len, arrays)])
    places = np.array(starts)[:, None] + np.arange(T)
    shard = np.maximum(np.searchsorted(bounds, places, side="left") - 1, 0)
    return torch.tensor(
        [
            [int(arrays[s][p - bounds[s]]) for s, p in zip(*row, strict=True)]
            for row in zip(shard, places, strict=True)
        ]
    )


MISTAKES = {
    "resemblance": (
        Mistake(
            resemblance_of_lists,
            "you count how often a shingle occurs. The Jaccard index is of *sets*: a "
            "shingle is there or it is not.",
        ),
        Mistake(
            resemblance_by_smaller,
            "you divide by the smaller set. That is containment: it is 1 for a "
            "quotation in a long book. Divide by the union.",
        ),
        Mistake(
            resemblance_sum_for_union,
            "|A| + |B| counts what both have twice. The union is |A| + |B| - |A ∩ B|.",
        ),
        Mistake(
            resemblance_of_characters,
            "these are runs of k characters. Split into words first.",
        ),
        Mistake(
            resemblance_keeps_case,
            "'The' and 'the' are the same word here: lower-case the text first.",
        ),
        Mistake(
            resemblance_without_punctuation,
            "a word is what `split` gives, with its comma: 'cat,' and 'cat' are two "
            "words here.",
        ),
        Mistake(
            resemblance_loses_the_last,
            "one run is missing: n words have n - k + 1 runs of k.",
        ),
    ),
    "minhash": (
        Mistake(
            minhash_over_functions,
            "the minimum runs over the functions. Each function has its own minimum "
            "over all *elements*: the result has one number a function.",
        ),
        Mistake(
            minhash_without_modulo,
            "without the modulo a x + b keeps the order of x, so every function has "
            "its minimum at the same element and they tell nothing new.",
        ),
        Mistake(
            minhash_gives_the_element,
            "you return the element that has the smallest value. Return that value.",
        ),
        Mistake(
            minhash_overflows,
            "a x does not fit into 64 bits here and wraps round without a warning. Use "
            "Python's whole numbers.",
        ),
        Mistake(minhash_keeps_the_largest, "the smallest value is asked for."),
    ),
    "candidates": (
        Mistake(
            candidates_one_number_is_enough,
            "one equal number makes a pair here. All rows of a band must agree.",
        ),
        Mistake(
            candidates_bands_share_buckets,
            "band 0 of one document meets band 1 of another: their hash functions "
            "differ, so that means nothing. Give each band buckets of its own.",
        ),
        Mistake(
            candidates_every_nth,
            "a band is a block of rows that stand side by side: numbers "
            "band * rows ... (band + 1) * rows - 1.",
        ),
        Mistake(
            candidates_all_bands,
            "you ask for equality everywhere. One band that agrees is enough.",
        ),
        Mistake(
            candidates_glue_the_numbers,
            "glued together, (1, 12) and (11, 2) are the same text, '112'. Use the "
            "tuple of the numbers as the key.",
        ),
        Mistake(
            candidates_use_the_rest,
            "the last band is longer than the others: numbers behind the last whole "
            "block are not used.",
        ),
        Mistake(
            candidates_twice,
            "a pair that agrees in two bands comes twice. Collect the pairs in a set.",
        ),
        Mistake(
            candidates_rows_for_bands,
            "`bands` is how many bands there are, not how many numbers a band has: "
            "each has K // bands, and a rest is not used.",
        ),
    ),
    "clusters": (
        Mistake(
            clusters_direct_neighbours,
            "a label goes one step only. If 0-1 and 1-2 are pairs, 2 belongs to 0 too.",
        ),
        Mistake(
            clusters_one_pass,
            "when two clusters meet, all members need the new label, not only the two "
            "that met. Keep parents and look up roots.",
        ),
        Mistake(
            clusters_parents_not_roots,
            "you return parents. A parent may have a parent: return the roots.",
        ),
        Mistake(
            clusters_any_root,
            "the clusters are right, the labels are not: a cluster is named by its "
            "smallest member, so the smaller root must win.",
        ),
        Mistake(
            clusters_sorts_the_pairs,
            "`pairs.sort()` changes the list that was given: use `sorted(pairs)`.",
        ),
    ),
    "top_ngram_share": (
        Mistake(
            ngram_of_bytes,
            "Count characters, not bytes: a letter with an accent is one.",
        ),
        Mistake(
            ngram_counts_single_ones,
            "an n-gram that occurs once repeats nothing: it does not count.",
        ),
        Mistake(
            ngram_commonest,
            "the commonest n-gram need not cover the most characters: a rarer one may "
            "be longer.",
        ),
        Mistake(
            ngram_longest,
            "the longest n-gram need not cover the most characters: a shorter one may "
            "occur more often.",
        ),
        Mistake(ngram_lower_case, "case matters here: 'The' and 'the' are two words."),
        Mistake(
            ngram_glued,
            "without a space between them, (ab, c) and (a, bc) are the same text. "
            "Count tuples of words.",
        ),
        Mistake(
            ngram_with_spaces,
            "white space is counted. Count the characters of the words only, above and "
            "below the line.",
        ),
        Mistake(ngram_counts_once, "count every occurrence of it, not one."),
        Mistake(
            ngram_share_of_ngrams,
            "this is a share of the n-grams. A share of *characters* is asked for.",
        ),
    ),
    "best_fit": (
        Mistake(
            fit_in_order,
            "the documents are taken as they come. Longest first: long ones are hard "
            "to place late.",
        ),
        Mistake(
            fit_first,
            "this is first fit. Of all rows with room, take the one with the *least*.",
        ),
        Mistake(
            fit_worst,
            "you take the row with the most room. Take the one with the least that is "
            "enough.",
        ),
        Mistake(fit_shortest_first, "the order is the wrong way round: longest first."),
        Mistake(
            fit_only_last_row,
            "only the last row is tried. Every row with enough room is a choice.",
        ),
    ),
    "fill_rows": (
        Mistake(
            fill_targets_cross,
            "the last token of a document is asked for the first of its neighbour, "
            "which it cannot know. Its target is -100.",
        ),
        Mistake(
            fill_targets_not_shifted,
            "the target of a token is the *next* one of its document.",
        ),
        Mistake(
            fill_learns_padding,
            "padding is a target here: the model would learn to say it. Use -100.",
        ),
        Mistake(
            fill_padding_is_document_0,
            "padding carries the id 0, which is a document. Use -1.",
        ),
        Mistake(
            fill_grows_a_document,
            "`+=` on a list of `documents` makes that document longer. Start each row "
            "from a new list.",
        ),
        Mistake(
            fill_counts_within_row,
            "the ids count within the row. Use the document's place in `documents`.",
        ),
    ),
    "read_windows": (
        Mistake(
            windows_big_endian,
            "the bytes are little-endian: the low byte comes first, dtype '<u2' or "
            "'<u4'.",
        ),
        Mistake(
            windows_with_sign,
            "ids have no sign: read as int16, everything from 32,768 on is negative.",
        ),
        Mistake(
            windows_always_16_bits,
            "the ids have the width that `dtype` says, not always 16 bits.",
        ),
        Mistake(
            windows_stay_in_a_shard,
            "a window that reaches the end of its shard goes on in the next one. Here "
            "it is moved back or cut.",
        ),
        Mistake(
            windows_off_at_bounds,
            "the first token of a shard is looked for in the shard before: bounds[s] "
            "belongs to shard s, so use side='right'.",
        ),
    ),
}
