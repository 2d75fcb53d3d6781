"""Answers that the grader of `tokenization` must tell apart. Never given to students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import codecs
import heapq
import math
import re
from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise

import regex

# ---------------------------------------------------------------- pre_split


def split_by_scanner(text):
    """Rule by rule with compiled patterns, one place after the other."""
    rules = [
        r"'(?i:[sdmt]|ll|ve|re)",
        r"[ ]?[\p{L}]+",
        r"\p{N}\p{N}?\p{N}?",
        r"[ ]?[^\s\p{L}\p{N}]+",
        r"\s+(?=\s|$)(?!\S)",
        r"\s",
    ]
    compiled, chunks, place = [regex.compile(rule) for rule in rules], [], 0
    while place < len(text):
        found = next(m for rule in compiled if (m := rule.match(text, place)))
        chunks.append(found.group())
        place = found.end()
    return chunks


def split_with_groups(text):
    """Capturing groups, and `finditer` instead of `findall`; a generator."""
    pattern = (
        r"('(?i)(?:s|t|re|ve|m|ll|d))|( ?\p{L}+)|(\p{N}{1,3})|( ?[^\s\p{L}\p{N}]+)"
    )
    pattern = pattern.replace("(?i)(?:", "(?i:") + r"|(\s+(?!\S)|\s+)"
    return (match.group(0) for match in regex.finditer(pattern, text))


def split_underscore_is_a_letter(text):
    """Wrong: \\w takes the underscore, and numbers, for letters."""
    pattern = r"'(?i:s|t|re|ve|m|ll|d)| ?[^\W\d]+|\d{1,3}| ?[^\s\w]+|\s+(?!\S)|\s+"
    return re.findall(pattern, text)


def split_decimal_digits(text):
    """Wrong: a half is a number and no digit."""
    pattern = r"'(?i:s|t|re|ve|m|ll|d)| ?\p{L}+|\d{1,3}| ?[^\s\p{L}\d]+|\s+(?!\S)|\s+"
    return regex.findall(pattern, text)


def split_numbers_take_a_space(text):
    pattern = r"'(?i:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+"
    return regex.findall(pattern + r"|\s+(?!\S)|\s+", text)


# ---------------------------------------------------------------- count_pairs


def pairs_with_a_counter(words):
    counts = Counter()
    for ids, n in words:
        for _ in range(n):
            counts.update(pairwise(ids))
    return counts


def pairs_by_index(words):
    counts = defaultdict(int)
    for ids, n in reversed(words):
        for i in range(1, len(ids)):
            counts[ids[i - 1], ids[i]] += n
    return counts


def pairs_in_sorted_order(words):
    """Wrong: (1, 2) and (2, 1) are the same to it."""
    counts = Counter()
    for ids, n in words:
        for a, b in pairwise(ids):
            counts[min(a, b), max(a, b)] += n
    return counts


# ---------------------------------------------------------------- merge


def merge_onto_a_stack(ids, pair, new_id):
    merged, free = [], False  # may the last id still be the left half?
    for i in ids:
        if free and (merged[-1], i) == pair:
            merged[-1], free = new_id, False
        else:
            merged.append(i)
            free = True
    return merged


def merge_of_a_copy(ids, pair, new_id):
    ids, i = list(ids), 0
    while i + 1 < len(ids):
        if ids[i] == pair[0] and ids[i + 1] == pair[1]:
            ids[i : i + 2] = [new_id]
        i += 1
    return tuple(ids)


def merge_from_the_right(ids, pair, new_id):
    """Wrong: [5, 5, 5] becomes [5, new]."""
    ids, i = list(ids), len(ids) - 2
    while i >= 0:
        if (ids[i], ids[i + 1]) == pair:
            ids[i : i + 2] = [new_id]
            i -= 1
        i -= 1
    return ids


def merge_again_and_again(ids, pair, new_id):
    """Wrong: looks at the new id again as the left half of a pair."""
    merged = []
    for i in ids:
        if merged and (merged[-1], i) == pair:
            merged[-1] = new_id
        elif merged and merged[-1] == new_id and pair[0] == pair[1] == i:
            continue
        else:
            merged.append(i)
    return merged


# ---------------------------------------------------------------- train


def train_by_sorting(chunks, merges, *parts):
    words, learned = {tuple(c): n for c, n in chunks.items()}, []
    while len(learned) < merges:
        counts = Counter()
        for word, n in words.items():
            for pair in pairwise(word):
                counts[pair] += n
        if not counts:
            return learned
        (best, _), *_ = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        new_id = 256 + len(learned)
        words = {merge_of_a_copy(w, best, new_id): n for w, n in words.items()}
        learned.append(best)
    return learned


def train_with_a_heap(chunks, merges, *parts):
    """Counts kept up to date; entries of the heap that are out of date are skipped."""
    words = [[list(chunk), n] for chunk, n in chunks.items()]
    counts = Counter()
    for ids, n in words:
        for pair in pairwise(ids):
            counts[pair] += n
    heap, learned = [(-n, pair) for pair, n in counts.items()], []
    heapq.heapify(heap)
    while heap and len(learned) < merges:
        n, best = heapq.heappop(heap)
        if counts[best] != -n or not n:
            continue
        touched = set()
        for word in words:
            old, times = word
            word[0] = new = list(merge_of_a_copy(old, best, 256 + len(learned)))
            if len(new) < len(old):
                for pair in pairwise(old):
                    counts[pair] -= times
                    touched.add(pair)
                for pair in pairwise(new):
                    counts[pair] += times
                    touched.add(pair)
        learned.append(best)
        for pair in touched:
            heapq.heappush(heap, (-counts[pair], pair))
    return learned


def train_stops_at_one(chunks, merges, *parts):
    """Wrong here: refuses pairs that occur once."""
    learned = train_by_sorting(chunks, merges)
    words, kept = [(list(c), n) for c, n in chunks.items()], []
    for new_id, pair in enumerate(learned, start=256):
        times = sum(
            n * (len(ids) - len(merge_of_a_copy(ids, pair, new_id))) for ids, n in words
        )
        if times < 2:
            break
        words = [(list(merge_of_a_copy(ids, pair, new_id)), n) for ids, n in words]
        kept.append(pair)
    return kept


def train_one_too_many(chunks, merges, *parts):
    return train_by_sorting(chunks, merges + 1)


def train_smaller_first_id(chunks, merges, count_pairs, merge):
    words, learned = [(list(chunk), n) for chunk, n in chunks.items()], []
    while len(learned) < merges and (counts := count_pairs(words)):
        learned.append(min(counts, key=lambda pair: (-counts[pair], pair[0])))
        new_id = 255 + len(learned)
        words = [(merge(ids, learned[-1], new_id), n) for ids, n in words]
    return learned


def train_empties_the_chunks(chunks, merges, *parts):
    """Wrong: uses up what it was given."""
    learned = train_by_sorting(chunks, merges)
    chunks.clear()
    return learned


# ---------------------------------------------------------------- encode


def encode_by_rank(chunk, merges, merge=None):
    ranks = {pair: i for i, pair in enumerate(merges, start=256)}
    ids = list(chunk)
    while True:
        pairs = [p for p in pairwise(ids) if p in ranks]
        if not pairs:
            return ids
        best = min(pairs, key=ranks.__getitem__)
        ids = list(merge_of_a_copy(ids, best, ranks[best]))


def encode_one_at_a_time(chunk, merges, merge=None):
    """tiktoken's way: join the leftmost pair of lowest rank, one occurrence a time."""
    ids = list(chunk)
    while len(ids) > 1:
        found = [
            (merges.index((ids[i], ids[i + 1])), i)
            for i in range(len(ids) - 1)
            if (ids[i], ids[i + 1]) in merges
        ]
        if not found:
            break
        rank, i = min(found)
        ids[i : i + 2] = [256 + rank]
    return ids


def encode_two_passes(chunk, merges, merge=None):
    """Wrong: from left to right, twice, whatever the rank."""
    ranks = {pair: i for i, pair in enumerate(merges, start=256)}
    ids = list(chunk)
    for _ in range(2):
        i = 0
        while i < len(ids) - 1:
            if (ids[i], ids[i + 1]) in ranks:
                ids[i : i + 2] = [ranks[ids[i], ids[i + 1]]]
            i += 1
    return ids


def encode_ranks_from_zero(chunk, merges, merge=None):
    return [i - 256 if i > 255 else i for i in encode_by_rank(chunk, merges)]


# ---------------------------------------------------------------- decode


def decode_bit_by_bit(ids, pieces):
    """An incremental decoder, which keeps half characters between tokens."""
    decoder, text = codecs.getincrementaldecoder("utf-8")("replace"), ""
    for i in ids:
        if i < 0 or i >= len(pieces):
            raise ValueError(f"no token {i}")
        text += decoder.decode(pieces[i])
    return text + decoder.decode(b"", final=True)


def decode_from_a_table(ids, pieces):
    table = dict(enumerate(pieces))
    unknown = [i for i in ids if i not in table]
    if unknown:
        raise ValueError(f"ids that do not exist: {unknown}")
    return str(bytes(byte for i in ids for byte in table[i]), "utf-8", "replace")


def decode_raises_index_error(ids, pieces):
    """Wrong: IndexError, and -1 is the last piece."""
    return b"".join(pieces[i] for i in ids).decode(errors="replace")


def decode_names_the_size(ids, pieces):
    if any(i >= len(pieces) for i in ids):
        raise ValueError(f"ids must be below {len(pieces)}")
    return decode_from_a_table(ids, pieces)


def decode_strips(ids, pieces):
    return decode_from_a_table(ids, pieces).strip()


def decode_drops_the_mark(ids, pieces):
    return decode_from_a_table(ids, pieces).removeprefix("\ufeff")


def decode_question_mark(ids, pieces):
    return decode_from_a_table(ids, pieces).replace("\ufffd", "?")


# ---------------------------------------------------------------- specials


def specials_by_partition(text, specials, allowed, encode):
    """Recursion on the earliest name; of equals the longest."""
    unknown = set(allowed) - specials.keys()
    if unknown:
        raise ValueError(f"not special: {unknown}")
    found = [(text.index(name), -len(name), name) for name in allowed if name in text]
    if not found:
        return list(encode(text)) if text else []
    place, _, name = min(found)
    head = list(encode(text[:place])) if place else []
    rest = text[place + len(name) :]
    return [
        *head,
        specials[name],
        *specials_by_partition(rest, specials, allowed, encode),
    ]


def specials_by_finditer(text, specials, allowed, encode):
    ids, end = [], 0
    for name in allowed:
        if specials.get(name) is None:
            raise ValueError(name)
    names = sorted(map(re.escape, allowed), key=len)[::-1]
    for match in re.finditer("|".join(names), text) if names else ():
        ids += encode(text[end : match.start()])
        ids.append(specials[match.group()])
        end = match.end()
    return ids + list(encode(text[end:]))


def specials_replaced_one_name_at_a_time(text, specials, allowed, encode):
    """Wrong: cuts at one name after the other, in the given order."""
    for name in allowed:
        if name not in specials:
            raise ValueError(name)
    parts = [text]
    for name in allowed:
        parts = [
            piece
            for part in parts
            for piece in (
                [part] if part in allowed else re.split(f"({re.escape(name)})", part)
            )
        ]
    ids = []
    for part in parts:
        ids += [specials[part]] if part in allowed else encode(part)
    return ids


def specials_character_by_character(text, specials, allowed, encode):
    """Wrong: encodes what is between the specials one character at a time."""
    calls = []
    ids = specials_by_partition(text, specials, allowed, lambda part: [*map(ord, part)])
    for i in ids:
        calls += [i] if i in specials.values() else encode(chr(i))
    return calls


def specials_key_error(text, specials, allowed, encode):
    _ = [specials[name] for name in allowed]
    return specials_by_partition(text, specials, allowed, encode)


# ---------------------------------------------------------------- viterbi


def viterbi_by_recursion(word, log_probs):
    @cache
    def best(start):
        if start == len(word):
            return 0.0, ()
        found = [(-math.inf, ())]
        for end in range(start + 1, len(word) + 1):
            piece = word[start:end]
            if piece in log_probs:
                score, rest = best(end)
                found.append((score + log_probs[piece], (piece, *rest)))
        return max(found)

    score, pieces = best(0)
    if score == -math.inf:
        raise ValueError(f"no cut of {word}")
    return list(pieces)


def viterbi_as_shortest_path(word, log_probs):
    """Dijkstra: a piece is an edge, its surprise the length."""
    heap, done = [(0.0, 0, [])], set()
    while heap:
        cost, start, pieces = heapq.heappop(heap)
        if start == len(word):
            return pieces
        if start in done:
            continue
        done.add(start)
        for end in range(start + 1, len(word) + 1):
            piece = word[start:end]
            if piece in log_probs:
                step = (cost - log_probs[piece], end, [*pieces, piece])
                heapq.heappush(heap, step)
    raise ValueError(f"no cut of {word}")


def viterbi_worst(word, log_probs):
    return viterbi_by_recursion(word, {piece: -p for piece, p in log_probs.items()})


def viterbi_longest_from_the_end(word, log_probs):
    """Wrong: longest match, from the right."""
    pieces, end = [], len(word)
    while end:
        starts = [i for i in range(end) if word[i:end] in log_probs]
        if not starts:
            raise ValueError(word)
        pieces.append(word[starts[0] : end])
        end = starts[0]
    return pieces[::-1]


def viterbi_returns_what_it_has(word, log_probs):
    """Wrong: no error where there is no cut."""
    try:
        return viterbi_by_recursion(word, log_probs)
    except ValueError:
        return [c for c in word if c in log_probs]


def viterbi_mean(word, log_probs):
    """Wrong: the best mean over the pieces, not the best sum."""
    best = [(0.0, 0, [])] + [None] * len(word)
    for j in range(1, len(word) + 1):
        for i in range(j):
            if best[i] and word[i:j] in log_probs:
                total, count = best[i][0] + log_probs[word[i:j]], best[i][1] + 1
                if not best[j] or total / count > best[j][0] / best[j][1]:
                    best[j] = total, count, [*best[i][2], word[i:j]]
    if not best[-1]:
        raise ValueError(word)
    return best[-1][2]


RIGHT = {
    "pre_split": [split_by_scanner, split_with_groups],
    "count_pairs": [pairs_with_a_counter, pairs_by_index],
    "merge": [merge_onto_a_stack, merge_of_a_copy],
    "train": [train_by_sorting, train_with_a_heap],
    "encode": [encode_by_rank, encode_one_at_a_time],
    "decode": [decode_bit_by_bit, decode_from_a_table],
    "encode_with_specials": [specials_by_partition, specials_by_finditer],
    "viterbi": [viterbi_by_recursion, viterbi_as_shortest_path],
}

WRONG = {
    "pre_split": [
        split_underscore_is_a_letter,
        split_numbers_take_a_space,
        split_decimal_digits,
    ],
    "count_pairs": [pairs_in_sorted_order],
    "merge": [merge_from_the_right, merge_again_and_again],
    "train": [
        train_stops_at_one,
        train_one_too_many,
        train_empties_the_chunks,
        train_smaller_first_id,
    ],
    "encode": [encode_two_passes, encode_ranks_from_zero],
    "decode": [
        decode_raises_index_error,
        decode_question_mark,
        decode_names_the_size,
        decode_strips,
        decode_drops_the_mark,
    ],
    "encode_with_specials": [
        specials_replaced_one_name_at_a_time,
        specials_character_by_character,
        specials_key_error,
    ],
    "viterbi": [
        viterbi_worst,
        viterbi_longest_from_the_end,
        viterbi_returns_what_it_has,
        viterbi_mean,
    ],
}

_BEST = (
    "viterbi: `best = [(0.0, [])] + [(float('-inf'), None)] * len(word)` -> `best = "
)
_CONSTANT = "every sum is off by the same number, so the best cut stays"
_BYTES = "bytes are a sequence of ids already"

EQUIVALENT = {
    "train: `words = [(list(chunk), n) for chunk, n in chunks.items()]` -> "
    "`words = [(chunk, n) for chunk, n in chunks.items()]`": _BYTES,
    "encode: `ids = list(chunk)` -> `ids = chunk`": _BYTES,
    "encode_with_specials: `names = sorted(allowed, key=len, reverse=True)` -> "
    "`names = sorted(allowed, reverse=True)`": (
        "a name that begins like a longer one sorts before it in the alphabet as well"
    ),
    "viterbi: `for j in range(1, len(best)):` -> `for j in range(0, len(best)):`": (
        "for j = 0 there is no i below j, so nothing happens"
    ),
    f"{_BEST}[(1.0, [])] + [(float('-inf'), None)] * len(word)`": _CONSTANT,
    f"{_BEST}[(-1.0, [])] + [(float('-inf'), None)] * len(word)`": _CONSTANT,
}
