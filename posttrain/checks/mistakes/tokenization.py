"""What goes wrong in the exercise `tokenization`, and the hint for each."""

from __future__ import annotations

import itertools
import math
import re

import regex

from posttrain.checks.task import Mistake

# ---------------------------------------------------------------- pre_split


def _cut(text, contractions=None, letters=None, numbers=None, spaces=None):
    """A right answer, with a place for each mistake."""
    parts = [
        contractions or r"'(?i:s|t|re|ve|m|ll|d)",
        letters or r" ?\p{L}+",
        numbers or r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+",
        spaces or r"\s+(?!\S)|\s+",
    ]
    return regex.findall("|".join(parts), text)


def split_at_spaces(text):
    return text.split()


def split_as_gpt2(text):
    return _cut(text, contractions=r"'(?:s|t|re|ve|m|ll|d)", numbers=r" ?\p{N}+")


def split_case_sensitive(text):
    return _cut(text, contractions=r"'(?:s|t|re|ve|m|ll|d)")


def split_long_numbers(text):
    return _cut(text, numbers=r"\p{N}+")


def split_keeps_all_spaces(text):
    return _cut(text, spaces=r"\s+")


def split_ascii_only(text):
    others = r" ?[^\sA-Za-z0-9]+"
    return _cut(text, letters=r" ?[A-Za-z]+", numbers=f"[0-9]{{1,3}}|{others}")


# ---------------------------------------------------------------- count_pairs


def pairs_without_counts(words):
    counts = {}
    for ids, _ in words:
        for pair in itertools.pairwise(ids):
            counts[pair] = counts.get(pair, 0) + 1
    return counts


def pairs_across_words(words):
    counts, text = {}, [i for ids, n in words for i in ids * n]
    for pair in itertools.pairwise(text):
        counts[pair] = counts.get(pair, 0) + 1
    return counts


def pairs_of_different_words(words):
    return pairs_of_all({tuple(ids): n for ids, n in words}.items())


def pairs_of_all(words):
    counts = {}
    for ids, n in words:
        for pair in itertools.pairwise(ids):
            counts[pair] = counts.get(pair, 0) + n
    return counts


def pairs_without_overlap(words):
    counts = {}
    for ids, n in words:
        last = None
        for i, pair in enumerate(itertools.pairwise(ids)):
            if last == (i - 1, pair):
                continue
            counts[pair] = counts.get(pair, 0) + n
            last = (i, pair)
    return counts


def pairs_next_to_each_other_only_once(words):
    counts = {}
    for ids, n in words:
        for pair in set(itertools.pairwise(ids)):
            counts[pair] = counts.get(pair, 0) + n
    return counts


# ---------------------------------------------------------------- merge


def merge_with_overlap(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            merged.append(new_id)
            i += 1 if tuple(ids[i + 1 : i + 3]) == pair else 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def merge_first_only(ids, pair, new_id):
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            return [*ids[:i], new_id, *ids[i + 2 :]]
    return list(ids)


def merge_drops_the_end(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids) - 1:
        if (ids[i], ids[i + 1]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def merge_of_digits(ids, pair, new_id):
    text = " ".join(map(str, ids)).replace(f"{pair[0]} {pair[1]}", str(new_id))
    return [int(number) for number in text.split()]


def merge_in_place(ids, pair, new_id):
    i = 0
    while i < len(ids) - 1:
        if (ids[i], ids[i + 1]) == pair:
            ids[i : i + 2] = [new_id]
        i += 1
    return ids


# ---------------------------------------------------------------- train


def _learn(words, merges, parts, key, first=256):
    """Algorithm 1, with a place for the mistake: which pair is the best."""
    count_pairs, merge = parts
    learned = []
    for new_id in range(first, first + merges):
        counts = count_pairs(words)
        if not counts:
            break
        best = key(counts)
        words = [(merge(ids, best, new_id), n) for ids, n in words]
        learned.append(best)
    return learned


def _words(chunks):
    return [(list(chunk), n) for chunk, n in chunks.items()]


def _due(counts):
    return min(counts, key=lambda pair: (-counts[pair], pair))


def train_first_of_equals(chunks, merges, *parts):
    return _learn(_words(chunks), merges, parts, lambda c: max(c, key=c.get))


def train_largest_of_equals(chunks, merges, *parts):
    def largest(counts):
        return max(counts, key=lambda pair: (counts[pair], pair))

    return _learn(_words(chunks), merges, parts, largest)


def train_without_counts(chunks, merges, *parts):
    return _learn([(ids, 1) for ids, _ in _words(chunks)], merges, parts, _due)


def train_without_merging(chunks, merges, count_pairs, merge):
    counts = count_pairs(_words(chunks))
    return sorted(counts, key=lambda pair: (-counts[pair], pair))[:merges]


def train_ids_from_255(chunks, merges, *parts):
    return _learn(_words(chunks), merges, parts, _due, first=255)


def train_across_chunks(chunks, merges, *parts):
    text = [i for ids, n in _words(chunks) for i in ids * n]
    return _learn([(text, 1)], merges, parts, _due)


# ---------------------------------------------------------------- encode


def encode_longest_first(chunk, merges, merge):
    pieces = {bytes([i]): i for i in range(256)}
    names = [bytes([i]) for i in range(256)]
    for left, right in merges:
        names.append(names[left] + names[right])
        pieces.setdefault(names[-1], len(names) - 1)
    ids, start = [], 0
    while start < len(chunk):
        end = max(j for j in range(start, len(chunk) + 1) if chunk[start:j] in pieces)
        ids.append(pieces[chunk[start:end]])
        start = end
    return ids


def encode_from_left(chunk, merges, merge):
    ranks = {pair: i for i, pair in enumerate(merges, start=256)}
    ids, i = list(chunk), 0
    while i < len(ids) - 1:
        if (ids[i], ids[i + 1]) in ranks:
            ids[i : i + 2] = [ranks[ids[i], ids[i + 1]]]
            i = 0
        else:
            i += 1
    return ids


def encode_each_merge_once(chunk, merges, merge):
    ids = list(chunk)
    for new_id, pair in enumerate(merges, start=256):
        for i in range(len(ids) - 1):
            if (ids[i], ids[i + 1]) == tuple(pair):
                ids[i : i + 2] = [new_id]
                break
    return ids


def encode_by_joined_bytes(chunk, merges, merge):
    pieces = [bytes([i]) for i in range(256)]
    for left, right in merges:
        pieces.append(pieces[left] + pieces[right])
    ids = list(chunk)
    while True:
        joined = [pieces[a] + pieces[b] for a, b in itertools.pairwise(ids)]
        known = [(pieces.index(p), i) for i, p in enumerate(joined) if p in pieces]
        if not known:
            return ids
        new_id, place = min(known)
        ids[place : place + 2] = [new_id]


def encode_latest_first(chunk, merges, merge):
    ranks = {tuple(pair): i for i, pair in enumerate(merges, start=256)}
    ids = list(chunk)
    while found := [pair for pair in itertools.pairwise(ids) if pair in ranks]:
        best = max(found, key=ranks.get)
        ids = merge(ids, best, ranks[best])
    return ids


# ---------------------------------------------------------------- decode


def _checked(ids, pieces):
    for i in ids:
        if not 0 <= i < len(pieces):
            raise ValueError(f"no token {i}")
    return [pieces[i] for i in ids]


def decode_token_by_token(ids, pieces):
    return "".join(p.decode(errors="replace") for p in _checked(ids, pieces))


def decode_ignores_errors(ids, pieces):
    return b"".join(_checked(ids, pieces)).decode(errors="ignore")


def decode_strict(ids, pieces):
    return b"".join(_checked(ids, pieces)).decode()


def decode_negative_ids(ids, pieces):
    for i in ids:
        if i >= len(pieces):
            raise ValueError(f"no token {i}")
    return b"".join(pieces[i] for i in ids).decode(errors="replace")


def decode_latin(ids, pieces):
    return b"".join(_checked(ids, pieces)).decode("latin-1")


# ---------------------------------------------------------------- specials


def _with_pattern(text, specials, names, pattern, encode):
    ids = []
    for part in re.split(f"({pattern})", text) if names else [text]:
        if part in names:
            ids.append(specials[part])
        elif part:
            ids += encode(part)
    return ids


def _known(specials, allowed):
    for name in allowed:
        if name not in specials:
            raise ValueError(f"{name} is no special token")


def specials_always(text, specials, allowed, encode):
    _known(specials, allowed)
    names = sorted(specials, key=len, reverse=True)
    return _with_pattern(text, specials, names, "|".join(map(re.escape, names)), encode)


def specials_by_the_dictionary(text, specials, allowed, encode):
    _known(specials, allowed)
    ids, names = [], sorted(allowed, key=len, reverse=True)
    pattern = "|".join(map(re.escape, names))
    for part in re.split(f"({pattern})", text) if names else [text]:
        ids += [specials[part]] if part in specials else encode(part)
    return ids


def specials_sort_the_names(text, specials, allowed, encode):
    _known(specials, allowed)
    allowed.sort(key=len, reverse=True)
    pattern = "|".join(map(re.escape, allowed))
    return _with_pattern(text, specials, allowed, pattern, encode)


def specials_never(text, specials, allowed, encode):
    _known(specials, allowed)
    return list(encode(text))


def specials_not_escaped(text, specials, allowed, encode):
    _known(specials, allowed)
    names = sorted(allowed, key=len, reverse=True)
    return _with_pattern(text, specials, names, "|".join(names), encode)


def specials_in_given_order(text, specials, allowed, encode):
    _known(specials, allowed)
    names = list(allowed)
    return _with_pattern(text, specials, names, "|".join(map(re.escape, names)), encode)


def specials_skip_unknown(text, specials, allowed, encode):
    names = sorted((n for n in allowed if n in specials), key=len, reverse=True)
    return _with_pattern(text, specials, names, "|".join(map(re.escape, names)), encode)


def specials_lose_not_allowed(text, specials, allowed, encode):
    _known(specials, allowed)
    names = sorted(specials, key=len, reverse=True)
    ids = []
    for part in re.split("(" + "|".join(map(re.escape, names)) + ")", text):
        if part in allowed:
            ids.append(specials[part])
        elif part and part not in specials:
            ids += encode(part)
    return ids


# ---------------------------------------------------------------- viterbi


def _starts(word, log_probs, start):
    ends = range(start + 1, len(word) + 1)
    return [word[start:end] for end in ends if word[start:end] in log_probs]


def _greedy(word, log_probs, key):
    pieces, start = [], 0
    while start < len(word):
        found = _starts(word, log_probs, start)
        if not found:
            raise ValueError(f"cannot cut {word}")
        pieces.append(max(found, key=key))
        start += len(pieces[-1])
    return pieces


def viterbi_longest_match(word, log_probs):
    return _greedy(word, log_probs, len)


def viterbi_likeliest_piece(word, log_probs):
    return _greedy(word, log_probs, log_probs.get)


def _by_score(word, log_probs, value, none=-math.inf):
    """The dynamic programme, with a place for the mistake: what a piece is worth."""
    best = [(0.0, [])] + [(none, [])] * len(word)
    for j in range(1, len(word) + 1):
        for i in range(j):
            piece = word[i:j]
            if piece in log_probs and best[i][0] > none:
                score = value(best[i], log_probs[piece])
                if score > best[j][0]:
                    best[j] = score, [*best[i][1], piece]
    if best[-1][0] == none:
        raise ValueError(f"cannot cut {word}")
    return best[-1][1]


def viterbi_fewest_pieces(word, log_probs):
    return _by_score(word, log_probs, lambda best, _: best[0] - 1)


def viterbi_of_probabilities(word, log_probs):
    best = [(1.0, [])] + [(0.0, [])] * len(word)
    for j in range(1, len(word) + 1):
        for i in range(j):
            piece = word[i:j]
            if piece in log_probs:
                score = best[i][0] * math.exp(log_probs[piece])
                if score > best[j][0]:
                    best[j] = score, [*best[i][1], piece]
    if best[-1][0] == 0.0:
        raise ValueError(f"cannot cut {word}")
    return best[-1][1]


def viterbi_short_pieces(word, log_probs):
    short = {piece: value for piece, value in log_probs.items() if len(piece) <= 16}
    return _by_score(word, short, lambda best, log: best[0] + log)


def viterbi_starts_at_zero(word, log_probs):
    best = [0.0] * (len(word) + 1)
    cuts = [[] for _ in best]
    for j in range(1, len(word) + 1):
        found = [
            (best[i] + log_probs[word[i:j]], i)
            for i in range(j)
            if word[i:j] in log_probs
        ]
        if found:
            best[j], i = max(found)
            cuts[j] = [*cuts[i], word[i:j]]
    if word and not cuts[-1]:
        raise ValueError(f"cannot cut {word}")
    return cuts[-1]


MISTAKES = {
    "pre_split": (
        Mistake(
            split_at_spaces,
            "Nothing may get lost: the chunks joined must be the text. A space belongs"
            " to the word behind it; further white space is a chunk of its own.",
        ),
        Mistake(
            split_as_gpt2,
            "That is GPT-2's pattern. Here digits come at most three at a time and take"
            " no space along, and contractions count in either case.",
        ),
        Mistake(
            split_case_sensitive,
            "Contractions count in capitals as well: 'LL, 'S. `(?i:...)` ignores the"
            " case inside it.",
        ),
        Mistake(
            split_long_numbers,
            "At most three digits in a chunk: `{1,3}` instead of `+`.",
        ),
        Mistake(
            split_keeps_all_spaces,
            "Of several spaces before a word, the last one belongs to the word."
            r" `\s+(?!\S)` takes white space up to just before it: `(?!\S)` says that"
            " no word may follow directly.",
        ),
        Mistake(
            split_ascii_only,
            r"There are letters besides A to Z and digits besides 0 to 9: `\p{L}` and"
            r" `\p{N}` of the package `regex`.",
        ),
    ),
    "count_pairs": (
        Mistake(pairs_without_counts, "A word that occurs n times counts n times."),
        Mistake(
            pairs_across_words,
            "The end of one word and the start of the next are no pair: count inside"
            " each word.",
        ),
        Mistake(
            pairs_of_different_words,
            "the same ids may stand in the list twice. A dictionary from the ids to n "
            "keeps the last n only: add them up.",
        ),
        Mistake(
            pairs_without_overlap,
            "Count every two neighbours, overlapping ones too: [5, 5, 5] has (5, 5)"
            " twice.",
        ),
        Mistake(
            pairs_next_to_each_other_only_once,
            "A pair can occur several times in one word; a set forgets that.",
        ),
    ),
    "merge": (
        Mistake(
            merge_with_overlap,
            "An id can be used up once only: after a match, go on behind both of its"
            " ids. [5, 5, 5] becomes [new, 5].",
        ),
        Mistake(merge_first_only, "Replace every occurrence, not just the first."),
        Mistake(
            merge_of_digits,
            "as text, the pair '1 2' also stands in '11 2'. Compare ids, not digits.",
        ),
        Mistake(
            merge_drops_the_end,
            "The last id has no right neighbour, but it is there: keep it.",
        ),
        Mistake(
            merge_in_place, "Return a new list, and leave `ids` as it was given to you."
        ),
    ),
    "train": (
        Mistake(
            train_first_of_equals,
            "Of pairs with equal counts take the smallest pair of ids, not the one that"
            " happens to be found first.",
        ),
        Mistake(
            train_largest_of_equals,
            "Of pairs with equal counts take the smallest, yours takes the largest:"
            " sort by (-count, pair).",
        ),
        Mistake(
            train_without_counts,
            "A chunk that occurs n times adds n to the count of each of its pairs.",
        ),
        Mistake(
            train_without_merging,
            "Join the pair in all words before you count again: the next pair may hold"
            " the new token.",
        ),
        Mistake(
            train_ids_from_255,
            "Ids 0 to 255 are the bytes, so the first merge makes id 256.",
        ),
        Mistake(
            train_across_chunks,
            "No token may cross the end of a chunk: count pairs inside each chunk.",
        ),
    ),
    "encode": (
        Mistake(
            encode_longest_first,
            "Longest match is WordPiece's rule. BPE joins pairs in the order in which"
            " they were learned, even if a longer token gets out of reach.",
        ),
        Mistake(
            encode_from_left,
            "The earliest *learned* pair comes first, wherever it stands, not the first"
            " pair from the left.",
        ),
        Mistake(
            encode_each_merge_once,
            "A merge applies to every occurrence of its pair in the chunk.",
        ),
        Mistake(
            encode_by_joined_bytes,
            "you ask whether the joined bytes are a token. A token is made by *its* "
            "pair only: ask whether the pair of ids is in `merges`.",
        ),
        Mistake(
            encode_latest_first,
            "The earliest learned pair comes first: the lowest rank, not the highest.",
        ),
    ),
    "decode": (
        Mistake(
            decode_token_by_token,
            "A character can be spread over several tokens. Join the bytes of all"
            " tokens first, then decode once.",
        ),
        Mistake(
            decode_ignores_errors,
            'Bytes that are no text must stay visible as U+FFFD: errors="replace".',
        ),
        Mistake(
            decode_strict,
            "A model can produce any ids, and a cut may fall inside a character: do"
            ' not raise, use errors="replace".',
        ),
        Mistake(
            decode_negative_ids,
            "An id of -1 is an error upstream (padding, an ignored label), but Python"
            " takes it for the last piece. Refuse what is below 0 as well.",
        ),
        Mistake(decode_latin, "The bytes are UTF-8, not one character each."),
    ),
    "encode_with_specials": (
        Mistake(
            specials_always,
            "Only the specials in `allowed` may be recognised. Otherwise anybody who"
            " types <|endoftext|> controls your model.",
        ),
        Mistake(
            specials_never, "An allowed special in the text becomes one id, its own."
        ),
        Mistake(
            specials_by_the_dictionary,
            "a stretch of text that spells a name becomes that special, although the "
            "name is not allowed. Ask `allowed`, not `specials`.",
        ),
        Mistake(
            specials_sort_the_names,
            "`allowed.sort()` changes the list that was given: use `sorted(allowed)`.",
        ),
        Mistake(
            specials_not_escaped,
            "`|` means *or* in a regular expression, and names are full of it: use"
            " `re.escape`, or look for the names without a pattern.",
        ),
        Mistake(
            specials_in_given_order,
            "Where two names begin at the same place, the longer one wins: sort by"
            " length before you build the pattern.",
        ),
        Mistake(
            specials_skip_unknown,
            "An allowed name that is no special is a slip of the caller: raise"
            " ValueError, do not pass over it.",
        ),
        Mistake(
            specials_lose_not_allowed,
            "A special that is not allowed is ordinary text. It must be encoded with"
            " the text around it, not dropped.",
        ),
    ),
    "viterbi": (
        Mistake(
            viterbi_longest_match,
            "The longest piece first is WordPiece's rule. Here the *sum* of all"
            " log-probabilities decides, so a short first piece can be better.",
        ),
        Mistake(
            viterbi_likeliest_piece,
            "The best first piece may force bad ones behind it. Keep the best score for"
            " every end position, and choose at the end.",
        ),
        Mistake(
            viterbi_fewest_pieces,
            "Add up log-probabilities, do not count pieces.",
        ),
        Mistake(
            viterbi_of_probabilities,
            "A product of many probabilities is 0.0 in floating point. Add logarithms.",
        ),
        Mistake(
            viterbi_short_pieces,
            "a piece may be as long as the word: try every i below j.",
        ),
        Mistake(
            viterbi_starts_at_zero,
            "Only the empty prefix scores 0 from the start. A prefix that cannot be cut"
            " scores -inf, so that nothing is built on it.",
        ),
    ),
}
