"""Filters, languages, duplicates, and the pipeline that puts them together."""

import json
import math
import random
from itertools import combinations

import numpy as np
import pytest

from posttrain.foundations import data_pipeline as P
from posttrain.foundations import data_pipeline_dedup as D
from posttrain.foundations import data_pipeline_documents as docs
from posttrain.foundations import data_pipeline_filters as F
from posttrain.foundations import data_pipeline_language as L
from posttrain.foundations import data_pipeline_minhash as M
from posttrain.foundations.data_pipeline_shards import ShardError, Shards
from posttrain.foundations.tokenization import END

PROSE = (
    "The keeper of the light had to be awake when the ships came in, and that was"
    " often late. He would have gone to bed with the sun, but the bay is narrow and"
    " the rocks are many. So he sat with a book, and looked up at every page. When"
    " the fog came he rang the bell by hand, for hours, until his arms were stiff."
)


@pytest.fixture(scope="module")
def manual():
    return docs.real_documents(["manual"])[:150]


# ------------------------------------------------------------------------- filters


def test_normalise_changes_the_spelling_not_the_text():
    raw = "\ufeffe\u0301t\u00e9 \r\n\r\n\r\n\r\n  x\u00a0y\t\nz\x00\u200b"
    assert F.normalise(raw) == "été\n\n  x y\nz"
    assert F.normalise(PROSE) == PROSE
    assert F.normalise(F.normalise(raw)) == F.normalise(raw)


@pytest.mark.parametrize(
    ("measure", "text", "due"),
    [
        (F.word_count, "a b\nc", 3),
        (F.mean_word_length, "a bbb", 2),
        (F.symbol_share, "# a... b … c", 3 / 5),
        (F.digit_share, "a1 2b", 2 / 4),
        (F.alphabetic_share, "a1 22 é ---", 2 / 4),
        (F.stop_words, "The the THAT's be", 3),
        (F.bullet_share, "- a\n  * b\n\nc\n• d", 3 / 4),
        (F.ellipsis_share, "a...\nb…\nc", 2 / 3),
        (F.repeated_line_share, "ab\n cd \nab\ncd", 4 / 8),
        (F.top_ngram_share, "a b c x a b c", 6 / 7),
        (F.curly_brackets, "{}{", 2),
        (F.terminal_share, 'a.\nb\n"c"\nd!', 3 / 4),
    ],
)
def test_measures_count_what_they_say(measure, text, due):
    assert measure(text) == pytest.approx(due)
    assert measure("") == 0


def test_good_prose_breaks_no_rule():
    assert F.judge(PROSE) == {} and F.first_broken(PROSE) is None


def test_each_limit_is_inclusive():
    rule = F.Rule(F.word_count, 2, 3)
    kept = [not F.judge(" ".join("a" * n), [rule]) for n in range(1, 5)]
    assert kept == [False, True, True, False]


def test_the_report_names_every_rule_and_the_first_one():
    text = "12 34 " * 40
    broken = F.judge(text)
    assert list(broken) == [
        "mean_word_length",
        "alphabetic_share",
        "stop_words",
        "top_ngram_share",
        "digit_share",
    ]
    assert broken["mean_word_length"] == 2
    assert F.first_broken(text) == "mean_word_length"


def test_each_kind_of_junk_is_dropped_but_for_shuffled_words(manual):
    junk = docs.plant_junk(manual, 5, seed=1)
    dropped = {kind: 0 for kind in docs.JUNK}
    for document in junk:
        dropped[document.kind] += bool(F.judge(F.normalise(document.text)))
    assert dropped.pop("shuffled") <= 1
    assert all(n == 5 for n in dropped.values()), dropped


# ----------------------------------------------------------------------- languages


def test_ngrams_by_hand():
    assert L.ngrams("Ab, a1", 2) == {
        "a": 2,
        "b": 1,
        "_a": 2,
        "ab": 1,
        "b_": 1,
        "a_": 1,
    }
    assert not L.ngrams("12 !")


def test_naive_bayes_by_hand():
    """Two languages of one word: ln p(g | l) = ln((n + alpha) / (N + alpha G))."""
    identifier = L.LanguageIdentifier.train({"A": ["aa"], "B": ["b"]}, alpha=1.0)
    counts = {"a": 2, "_a": 1, "aa": 1, "a_": 1, "_aa": 1, "aa_": 1}
    G = 6 + 4  # those and "b", "_b", "b_", "_b_"
    due = math.log((2 + 1) / (sum(counts.values()) + G))
    assert identifier.scores("xax")["A"] == pytest.approx(due)
    assert identifier.identify("aa")[0] == "A" and identifier.identify("bb")[0] == "B"
    low, high = identifier.scores("aa").values()
    assert identifier.identify("aa")[1] == pytest.approx(1 / (1 + math.exp(high - low)))
    assert identifier.identify("12 zz") == ("", 0.0)


def test_languages_without_text_are_refused():
    with pytest.raises(ValueError, match="without a letter: .'B'."):
        L.LanguageIdentifier.train({"A": ["a"], "B": ["1"]})
    with pytest.raises(ValueError, match="at least two"):
        L.LanguageIdentifier.train({"A": ["a"]})


def test_held_out_messages_are_identified():
    known = L.language_texts()
    if known.source != "sphinx":
        pytest.skip("Sphinx is not installed")
    table = L.confusion(L.trained_identifier(), known.held_out)
    right = sum(row.get(name, 0) for name, row in table.items())
    assert right / sum(sum(row.values()) for row in table.values()) > 0.85
    assert table["Russian"] == {"Russian": len(known.held_out["Russian"])}


def test_without_sphinx_one_sentence_a_language(monkeypatch, capsys):
    monkeypatch.setattr(L.texts, "messages", lambda languages: None)
    known = L.language_texts.__wrapped__()
    assert "no Sphinx here" in capsys.readouterr().out
    identifier = L.LanguageIdentifier.train(known.train)
    assert identifier.identify("Все люди братья")[0] == "Russian"
    assert identifier.identify(PROSE)[0] == "English"


# ------------------------------------------------------------------------- minhash


def test_shingles_are_a_set_of_runs_of_words():
    assert len(M.shingles("a b c d", 2)) == 3
    assert len(M.shingles("a b a b", 2)) == 2
    assert len(M.shingles("a b", 5)) == 1 and len(M.shingles("!?", 5)) == 0
    one, other = M.shingles("The cat, the mat."), M.shingles("the CAT the mat")
    assert (one == other).all() and one.dtype == np.uint32
    with pytest.raises(ValueError, match="k=0"):
        M.shingles("a", 0)


def test_shingles_are_the_same_in_every_process():
    assert M.shingles("to be or not to be", 5).tolist() == [484519136, 3668964097]


def test_jaccard_equals_pythons_sets():
    random = np.random.default_rng(0)
    for _ in range(20):
        a, b = (np.unique(random.integers(0, 30, 15).astype(np.uint32)) for _ in "ab")
        one, other = set(a.tolist()), set(b.tolist())
        assert M.jaccard(a, b) == len(one & other) / len(one | other)
    empty = np.array([], dtype=np.uint32)
    assert M.jaccard(empty, empty) == 1 and M.jaccard(empty, a) == 0


def test_signature_is_the_minimum_of_multiply_shift():
    family = M.HashFamily.draw(K=7, seed=3)
    x = M.shingles(PROSE)
    due = [
        min(((int(a) * s + int(b)) % 2**64) >> 32 for s in x.tolist())
        for a, b in zip(family.a, family.b, strict=True)
    ]
    assert family.signature(x).tolist() == due
    assert (family.signature(x[:0]) == M.EMPTY).all()


@pytest.mark.parametrize("s", [0.2, 0.5, 0.9])
def test_the_estimate_is_unbiased_with_the_binomial_error(s):
    """300 pairs of sets with J = s, each with its own K = 64 functions.

    The mean over 19,200 functions has a standard error of at most 0.0036; pairwise
    independent functions are not quite min-wise, so 0.01 is left for their bias.
    """
    random, common = np.random.default_rng(int(s * 10)), round(200 * s)
    estimates = []
    for seed in range(300):
        numbers = np.unique(random.integers(0, 2**32, 220, dtype=np.uint32))[:200]
        random.shuffle(numbers)
        half = common + (200 - common) // 2
        a = numbers[:half]
        b = np.concatenate([numbers[:common], numbers[half:]])
        assert M.jaccard(np.sort(a), np.sort(b)) == pytest.approx(common / 200)
        family = M.HashFamily.draw(64, seed)
        estimates.append(M.estimate(family.signature(a), family.signature(b)))
    assert np.mean(estimates) == pytest.approx(s, abs=0.014)
    assert np.std(estimates) == pytest.approx(M.standard_error(s, 64), rel=0.2)


def test_the_curve_is_what_random_signatures_do():
    """Signatures of independent numbers that agree with chance s."""
    random = np.random.default_rng(0)
    for s, bands, rows in ((0.5, 8, 4), (0.8, 4, 8), (0.3, 16, 2)):
        agree = random.random((20_000, bands, rows)) < s
        found = agree.all(axis=2).any(axis=1).mean()
        due = M.candidate_probability(s, bands, rows)
        assert found == pytest.approx(due, abs=4 * math.sqrt(due * (1 - due) / 20_000))


def test_choose_bands_puts_the_curve_at_the_threshold():
    for threshold in (0.3, 0.5, 0.7, 0.9):
        bands, rows = M.choose_bands(128, threshold)
        assert bands * rows <= 128
        assert M.curve_threshold(bands, rows) == pytest.approx(threshold, abs=0.08)
    assert M.choose_bands(128, 0.7, 0.9)[1] < M.choose_bands(128, 0.7, 0.1)[1]
    with pytest.raises(ValueError, match="threshold=1.5"):
        M.choose_bands(128, 1.5)


def test_edits_lower_the_similarity_as_derived(manual):
    for rate in (0.02, 0.1):
        copies = docs.plant_copies(manual, 100, rate, seed=0)
        found = [
            M.jaccard(M.shingles(manual[c.original].text), M.shingles(c.text))
            for c in copies
        ]
        assert np.mean(found) == pytest.approx(M.expected_similarity(rate, 5), abs=0.06)


# -------------------------------------------------------------------------- dedup


def test_exact_duplicates_ignore_case_and_punctuation():
    texts = ["A cat.", "a dog", "a  CAT", "a cat!", "the cat"]
    assert D.exact_duplicates(texts) == [2, 3]


def test_candidates_equal_the_definition():
    signatures = np.random.default_rng(0).integers(0, 3, (30, 11)).astype(np.uint32)
    for bands, rows in ((1, 11), (3, 3), (5, 2), (11, 1)):
        due = {
            (i, j)
            for i, j in combinations(range(30), 2)
            if any(
                (signatures[i] == signatures[j])[b * rows : (b + 1) * rows].all()
                for b in range(bands)
            )
        }
        assert D.candidate_pairs(signatures, bands, rows) == due
    with pytest.raises(ValueError, match="4 bands of 3 rows need 12"):
        D.candidate_pairs(signatures, 4, 3)


def test_clusters_are_connected_components():
    rng = random.Random(0)
    for _ in range(30):
        pairs = [(rng.randrange(12), rng.randrange(12)) for _ in range(7)]
        reach = np.eye(12, dtype=int)
        for i, j in pairs:
            reach[i, j] = reach[j, i] = 1
        reach = np.linalg.matrix_power(reach, 12) > 0
        due = {tuple(np.flatnonzero(row)) for row in reach if row.sum() > 1}
        assert {tuple(c) for c in D.clusters_of(pairs, 12)} == due


def test_near_duplicates_agree_with_all_pairs(manual):
    copies = docs.plant_copies(manual, 40, 0.02, seed=0)
    copies += docs.plant_copies(manual, 20, 0.3, seed=0)
    sets = [M.shingles(d.text) for d in (*manual, *copies)]
    truth = D.all_pairs(sets, 0.6)
    found = D.near_duplicates(sets, 0.6, bands=32)
    assert set(found.pairs) <= set(truth)  # verified: nothing false
    assert all(found.pairs[pair] == truth[pair] for pair in found.pairs)
    assert len(found.pairs) > 0.97 * len(truth) > 30
    assert len(found.candidates) < 0.05 * math.comb(len(sets), 2)
    again = D.near_duplicates(sets, 0.6, bands=32)
    assert again == found
    assert set(found.dropped).isdisjoint(cluster[0] for cluster in found.clusters)


def test_no_document_and_one_document():
    assert D.near_duplicates([]).pairs == {}
    assert D.near_duplicates([M.shingles(PROSE)]).dropped == []


# ----------------------------------------------------------------------- documents


def test_cut_text_loses_nothing():
    text = "\n\n".join("x" * n for n in (5, 40, 3, 3, 50, 7))
    pieces = docs.cut_text(text, 30)
    assert "\n\n".join(pieces) == text
    assert all(len(piece) >= 30 for piece in pieces) and len(pieces) == 2
    assert docs.cut_text("short") == ["short"]


def test_docstrings_come_from_the_syntax_tree():
    source = '"""M."""\nclass A:\n    """C."""\n    def f(self):\n        """F."""\n'
    assert docs.docstrings(source) == ["M.", "C.", "F."]
    assert docs.docstrings("def (") == []


def test_edit_words_edits_at_the_rate_and_keeps_lines():
    text = "\n".join(["a b c d e"] * 400)
    edited = docs.edit_words(text, 0.25, ["Z"], random.Random(0))
    assert edited.count("\n") == text.count("\n")
    assert edited.count("Z") == pytest.approx(500, abs=60)
    assert docs.edit_words(PROSE, 0.0, ["Z"], random.Random(0)) == PROSE
    with pytest.raises(ValueError, match="rate=2"):
        docs.edit_words(text, 2, ["Z"], random.Random(0))


def test_seeds_plant_other_things(manual):
    one, two = (docs.plant_junk(manual, 1, seed) for seed in (0, 1))
    assert [d.text for d in one] == [d.text for d in docs.plant_junk(manual, 1, 0)]
    assert [d.text for d in one] != [d.text for d in two]
    with pytest.raises(ValueError, match="unknown source 'web'; known: plays"):
        docs.real_documents(["web"])


def test_plays_that_cannot_be_had_are_left_out(monkeypatch):
    class Fallback:
        source, text = "fallback", "no play"

    monkeypatch.setattr(docs.data, "load", lambda name: Fallback)
    assert docs.real_documents(["plays"]) == []


# ------------------------------------------------------------------------ pipeline


def test_every_document_is_kept_or_counted_once(manual):
    texts = [d.text for d in manual[:60]]
    junk = [d.text for d in docs.plant_junk(manual, 1, 0)]
    foreign = ["Все люди рождаются свободными и равными the and. " * 9]
    foreign += [" ".join(f"le chien numéro {i} ne voit pas le chat" for i in range(20))]
    mixed = [*texts, *junk, *foreign, texts[3].upper(), texts[5] + " Changed."]
    kept, report = P.clean(mixed, P.Settings())
    assert report.documents_in == len(mixed)
    assert report.documents_out == len(kept) == len(mixed) - report.dropped.total()
    out = report.characters_out + report.characters_dropped.total()
    assert out == report.characters_in == sum(map(len, mixed))
    assert report.dropped[P.EXACT] >= 1 and report.dropped[P.NEAR] >= 1
    assert len(mixed) - 1 not in kept and len(mixed) - 2 not in kept
    assert {3, 5} <= set(kept)  # the first of each cluster stays


def test_language_can_be_switched_off():
    mixed = [" ".join(f"le chien numéro {i} ne voit pas le chat" for i in range(20))]
    assert P.clean(mixed, P.Settings(rules=()))[1].dropped == {P.LANGUAGE: 1}
    assert P.clean(mixed, P.Settings(rules=(), language=None))[0] == [0]


def test_the_command_line(tmp_path, capsys):
    lines = [{"text": PROSE}, {"text": PROSE.lower()}, {"text": "too short"}]
    source = tmp_path / "texts.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)))
    arguments = [
        "--data",
        str(source),
        "--out",
        str(tmp_path / "out"),
        "--vocab",
        "300",
    ]
    assert P.main(arguments) == 0
    said = capsys.readouterr().out
    for line in ("in  ", "- word_count", "- exact duplicate", "out  ", "tokens out"):
        assert line in said
    shards = Shards.open(tmp_path / "out", verify=True)
    assert shards.documents == 1
    assert shards.tokenizer.decode(shards.document(0)) == PROSE + END
    assert P.main(arguments) == 2  # it is there already
    assert "is there already" in capsys.readouterr().err


def test_a_folder_of_texts_is_read_in_order(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    assert P.read_texts([str(tmp_path)]) == ["a.txt", "b.txt"]


def test_bad_inputs_are_named(tmp_path):
    with pytest.raises(ValueError, match="--data nowhere"):
        P.read_texts(["nowhere"])
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"title": "none"}\n')
    with pytest.raises(ValueError, match="line 2"):
        P.read_texts([str(bad)])
    with pytest.raises(ShardError, match="nothing is left of 1 documents"):
        P.build(["short"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
