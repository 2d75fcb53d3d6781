"""The tokenizer interface, byte-level BPE, and their parity with production."""

import json
import random
from collections import Counter

import pytest
import torch

from posttrain import data
from posttrain.data_gpt2 import first_merges
from posttrain.foundations import tokenization as T
from posttrain.foundations import tokenization_bpe as B
from posttrain.foundations import tokenization_gpt2 as G
from posttrain.foundations import tokenization_train as R
from posttrain.foundations.tokenization_speed import hugging_face
from posttrain.foundations.tokenization_texts import DECLARATION, TRICKY

TEXT = (
    "\n".join(DECLARATION.values()) + "\ndef f(x):\n    return x  # the the the\n" * 9
)


@pytest.fixture(scope="module")
def tok():
    return T.bpe_tokenizer([TEXT], 450)


@pytest.fixture(scope="module")
def gpt2():
    return T.Tokenizer(G.gpt2_model(data.load("gpt2_merges").text))


def random_chunks(seed, letters):
    rng = random.Random(seed)
    words = [
        bytes(rng.choices(letters, k=rng.randint(1, 14)))
        for _ in range(rng.randint(1, 12))
    ]
    return Counter({word: rng.randint(1, 5) for word in words})


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("text", TRICKY)
def test_round_trip_is_exact(tok, gpt2, text):
    for tokenizer in (tok, gpt2):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text == "".join(tokenizer.stream(ids))
        assert tokenizer.decode_bytes(ids) == text.encode()
        every = tokenizer.encode(text, allowed_special="all")
        assert tokenizer.decode(every) == text


def test_any_bytes_decode_and_stream_alike(tok):
    rng = random.Random(0)
    for _ in range(200):
        ids = rng.choices(range(tok.vocab_size), k=8)
        assert "".join(tok.stream(ids)) == tok.decode(ids)
    assert tok.decode([0xE7, 0x8C]) == "\ufffd"


def test_the_stream_holds_half_a_character_back():
    tok = T.Tokenizer(B.BPEModel([]))
    assert list(tok.stream(tok.encode("n猫🙂"))) == ["n", "猫", "🙂"]
    assert list(tok.stream(list("é".encode())[:1])) == ["\ufffd"]


def test_half_a_surrogate_pair_is_refused(tok):
    with pytest.raises(UnicodeEncodeError):
        tok.encode("\ud83d")


def test_ids_may_come_from_a_tensor(tok):
    assert tok.decode(torch.tensor(tok.encode("the the"))) == "the the"


@pytest.mark.parametrize("bad", [-1, 10_000])
def test_an_unknown_id_is_refused_by_name(tok, bad):
    with pytest.raises(ValueError, match=f"id {bad} is not in 0 ... 449"):
        tok.decode([0, bad])


# ---------------------------------------------------------------- specials


def test_text_never_becomes_a_special_unless_allowed(tok):
    first = tok.special_id(T.END)
    assert tok.specials == {T.END: 448, T.PAD: 449}
    text = "a<|endoftext|><|pad|>"
    assert max(tok.encode(text)) < first
    ids = tok.encode(text, allowed_special=[T.PAD])
    assert ids[-1] == 449 and first not in ids
    assert tok.encode(text, "all")[-2:] == [448, 449]
    assert tok.decode(ids, skip_special=True) == "a<|endoftext|>"
    assert "".join(tok.stream(ids, skip_special=True)) == "a<|endoftext|>"


def test_a_special_named_in_the_training_text_is_spelled_out():
    tok = T.bpe_tokenizer(["<|pad|>" * 50], 256 + 2 + 3)
    assert tok.special_id(T.PAD) not in tok.encode("<|pad|>")
    assert tok.encode("<|pad|>", [T.PAD]) == [tok.special_id(T.PAD)]


def test_of_two_specials_the_earlier_then_the_longer_wins():
    names = ["<|p", "<|pad|>", "(a+b)*"]
    for order in (names, names[::-1]):
        parts = T.split_specials("x<|pad|>(a+b)*<|p<|pad", order)
        assert parts == ["x", "<|pad|>", "(a+b)*", "<|p", "<|p", "ad"]
    assert T.split_specials("", names) == T.split_specials("", []) == []


def test_specials_can_be_added_behind_the_old_ones(tok):
    chat = tok.with_specials("<|user|>")
    assert chat.specials == {**tok.specials, "<|user|>": 450}
    assert chat.vocab_size == tok.vocab_size + 1
    assert chat.encode("the <|user|>", ["<|user|>"])[-1] == 450


@pytest.mark.parametrize("names", [["", "a"], ["a", "a"]])
def test_bad_specials_are_refused(names):
    with pytest.raises(ValueError, match="different, not empty"):
        T.Tokenizer(B.BPEModel([]), names)


def test_unknown_specials_are_refused(tok):
    known = r"known: <\|endoftext\|>, <\|pad\|>"
    with pytest.raises(ValueError, match=rf"'<\|x\|>' is no special token.*{known}"):
        tok.encode("a", allowed_special=["<|x|>"])
    with pytest.raises(ValueError, match=known):
        tok.special_id("<|x|>")
    with pytest.raises(ValueError, match='a list of names or "all"'):
        tok.encode("a", allowed_special=T.END)


# ---------------------------------------------------------------- files


def test_save_and_load_give_the_same_tokenizer(tok, tmp_path):
    gpt2 = T.Tokenizer(G.gpt2_model(first_merges()))
    for name, one in (("bpe", tok), ("gpt2", gpt2), ("char", T.char_tokenizer(TEXT))):
        path, again = tmp_path / name, tmp_path / f"{name}.again"
        one.save(path)
        loaded = T.Tokenizer.load(path)
        loaded.save(again)
        assert path.read_bytes() == again.read_bytes()
        assert (loaded.specials, loaded.vocab_size) == (one.specials, one.vocab_size)
        assert loaded.encode(TEXT + T.END, "all") == one.encode(TEXT + T.END, "all")
    assert json.loads((tmp_path / "bpe").read_text())["version"] == T.VERSION


def test_a_full_disk_leaves_the_old_file(tok, tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    tok.save(path)
    before = path.read_bytes()

    def half(self, text, encoding):
        self.write_bytes(text.encode(encoding)[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(T.Path, "write_text", half)
    with pytest.raises(OSError, match="no space left"):
        T.char_tokenizer("abc").save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"format": "posttrain-tokenizer", "version": 99}'],
)
def test_another_file_is_refused_by_name(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match="other.json is not a saved tokenizer"):
        T.Tokenizer.load(tmp_path / "other.json")


def test_an_unknown_kind_is_refused(tok):
    saved = tok.to_dict()
    saved["model"]["kind"] = "sentence"
    with pytest.raises(ValueError, match="'sentence'; known are char, byte_bpe"):
        T.Tokenizer.from_dict(saved)


# ---------------------------------------------------------------- characters


def test_characters():
    tok = T.char_tokenizer("hello\n")
    assert tok.encode("he\nlo") == [2, 1, 0, 3, 4]
    assert tok.vocab_size == 7 and tok.special_id(T.END) == 5
    assert tok.decode([2, 1, 5]) == "he<|endoftext|>"
    with pytest.raises(ValueError, match="'<' is not among the 5 characters"):
        tok.encode("he<|pad|>")
    assert tok.encode("he<|pad|>", [T.PAD]) == [2, 1, 6]
    with pytest.raises(ValueError, match="twice"):
        T.CharModel("aba")


# ---------------------------------------------------------------- splitting


@pytest.mark.parametrize("pattern", [B.GPT2_PATTERN, B.GPT4_PATTERN, B.NO_SPLIT])
def test_chunks_joined_are_the_text(pattern):
    for text in TRICKY:
        assert "".join(B.pre_split(text, pattern)) == text


def test_the_patterns_alternatives():
    cut = B.pre_split("I'll pay  2026 (now)!\n\n x", B.GPT2_PATTERN)
    assert cut == ["I", "'ll", " pay", " ", " 2026", " (", "now", ")!", "\n\n", " x"]
    assert B.pre_split("I'LL 12345", B.GPT4_PATTERN) == ["I", "'LL", " ", "123", "45"]


def test_a_pattern_that_loses_text_is_refused():
    with pytest.raises(ValueError, match="passes over a part"):
        B.pre_split("a b", r"\p{L}+")
    with pytest.raises(ValueError, match=r"write \(\?:...\)"):
        B.pre_split("a b", r"(\p{L}+)|\s+")


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("seed", range(40))
def test_the_fast_way_learns_what_the_naive_way_learns(seed):
    chunks = random_chunks(seed, b"ab" if seed % 2 else b"abcd")
    words = [(list(chunk), n) for chunk, n in chunks.items()]
    every = [(list(chunk), 1) for chunk in chunks.elements()]
    merges = 0
    while merges < 25:
        try:
            R.recount(words, merges + 1)
        except ValueError:
            break
        merges += 1
    fast = R.train_merges(chunks, merges)
    assert fast == R.recount(words, merges) == R.recount(every, merges)
    pieces = B.BPEModel(fast).pieces
    assert len(set(pieces)) == len(pieces)  # so ranks of byte strings tell all


def test_a_word_that_lost_its_pair_to_an_earlier_merge():
    # joining (a, a) takes (a, b) out of "aab"; the index still names that word
    chunks = Counter({b"aab": 5, b"ab": 4, b"aa": 3})
    words = [(list(chunk), n) for chunk, n in chunks.items()]
    assert R.train_merges(chunks, 3) == R.recount(words, 3)


def test_merges_of_the_paper():
    # Sennrich et al. 2016, section 3.2, here with ties to the smaller pair
    words = {b"low": 5, b"lower": 2, b"newest": 6, b"widest": 3}
    pieces = B.BPEModel(R.train_merges(words, 4)).pieces
    assert pieces[256:] == [b"es", b"est", b"lo", b"low"]


@pytest.mark.parametrize("learn", ["fast", "naive"])
def test_a_text_that_is_too_small_says_so(learn):
    with pytest.raises(ValueError, match="room for 1 merges only, 5 were asked for"):
        if learn == "fast":
            R.train_merges({b"ab": 2}, 5)
        else:
            R.recount([(list(b"ab"), 2)], 5)


def test_bpe_tokenizer_counts_everything_and_crosses_no_document():
    tok = T.bpe_tokenizer(["ab", "ab", "ab"], 256 + 2 + 1)
    assert tok.vocab_size == 259
    assert tok.encode("abab") == [256, 256]
    with pytest.raises(ValueError, match="room for 1 merges only"):
        T.bpe_tokenizer(["ab", "ab"], 256 + 2 + 2)
    with pytest.raises(ValueError, match="give a list of documents"):
        T.bpe_tokenizer("ab", 300)
    with pytest.raises(ValueError, match="at least 258"):
        T.bpe_tokenizer(["ab"], 257)


def test_hugging_face_learns_the_same_tokens():
    """Ties between bytes are broken otherwise there, so texts without them."""
    text = "".join(chr(97 + i % 7) * (1 + i % 3) for i in range(400))
    chunks = R.count_chunks([text, text[:90]], B.GPT2_PATTERN)
    ours = B.BPEModel(R.train_merges(chunks, 40)).pieces[256:]
    vocabulary = hugging_face([text, text[:90]], 40).get_vocab()
    by_id = sorted(vocabulary, key=vocabulary.get)
    assert by_id[256:] == [piece.decode() for piece in ours]


# ---------------------------------------------------------------- models


def test_merges_out_of_order_or_twice_are_refused():
    with pytest.raises(ValueError, match="merge 0 joins \\(97, 256\\).*below 256"):
        B.BPEModel([(97, 256)])
    with pytest.raises(ValueError, match="merged twice"):
        B.BPEModel([(97, 98), (97, 98)])
    with pytest.raises(ValueError, match="each of the 256 bytes once"):
        B.BPEModel([], byte_order=[0] * 256)


def test_rank_decides_not_length_or_place():
    bc_first = {(98, 99): 256, (97, 98): 257, (257, 99): 258}
    assert B.encode_chunk(list(b"abc"), bc_first) == [97, 256]
    assert B.encode_chunk(list(b"abab"), bc_first) == [257, 257]
    assert B.encode_chunk([], bc_first) == []


def test_the_cache_changes_nothing_and_stays_small(monkeypatch, tok):
    monkeypatch.setattr(B, "CACHE_SIZE", 3)
    fresh = B.BPEModel(tok.model.merges)
    expected = [B.BPEModel(tok.model.merges).encode(t) for t in TRICKY]
    for _ in range(2):
        assert [fresh.encode(t) for t in TRICKY] == expected
        assert len(fresh._cache) <= 3
    fresh.forget()
    assert not fresh._cache


def test_what_encode_returns_may_be_changed(tok):
    first = tok.encode("the")
    first.append(-1)
    assert tok.encode("the") == first[:-1]


# ---------------------------------------------------------------- parity


def test_the_embedded_merges_begin_the_published_file():
    """Equal to themselves, where the file is not at hand."""
    published = data.load("gpt2_merges").text
    assert len(first_merges().splitlines()) == 1000
    assert published.startswith(first_merges())


def test_gpt2_ids(gpt2):
    """Known ids of GPT-2: bytes in its order, then the merges."""
    assert gpt2.model.pieces[:2] == [b"!", b'"']
    assert gpt2.model.pieces[220] == b" "
    assert gpt2.model.pieces[256:260] == [b" t", b" a", b"he", b"in"]
    assert gpt2.encode(" the") == [262]
    if len(gpt2.model.merges) == 50_000:
        assert gpt2.special_id(T.END) == 50_256
        assert gpt2.encode("Hello, world!") == [15496, 11, 995, 0]


@pytest.mark.parametrize("which", ["gpt2", "gpt2's first", "ours", "gpt4 pattern"])
def test_equal_to_tokenizers_and_tiktoken(which, tok, gpt2):
    four = T.Tokenizer(B.BPEModel(tok.model.merges, B.GPT4_PATTERN))
    first = T.Tokenizer(G.gpt2_model(first_merges()))
    ways = {"gpt2": gpt2, "gpt2's first": first, "ours": tok, "gpt4 pattern": four}
    one = ways[which]
    hf = G.to_hugging_face(one.model, one.specials)
    tk = G.to_tiktoken(one.model, one.specials)
    assert hf.get_vocab_size() == one.vocab_size == tk.n_vocab
    for text in (*TRICKY, TEXT, TEXT[::-1], T.END + "x" + T.PAD * 2):
        ids = one.encode(text, allowed_special="all")
        assert ids == hf.encode(text).ids
        assert ids == tk.encode(text, allowed_special="all")
        assert one.decode(ids) == tk.decode(ids)
        assert one.decode(ids) == hf.decode(ids, skip_special_tokens=False)
        plain = one.encode(text)
        assert plain == tk.encode(text, disallowed_special=())
        hf.encode_special_tokens = True
        assert plain == hf.encode(text).ids
        hf.encode_special_tokens = False


@pytest.mark.parametrize("seed", range(10))
def test_equal_to_production_on_random_text(seed, gpt2):
    rng = random.Random(seed)
    alphabet = "aab e  the\n\t'sLL09½_.-é猫🙂\u0301\u00a0\u200d"
    text = "".join(rng.choices(alphabet, k=300))
    tk = G.to_tiktoken(gpt2.model, {})
    assert gpt2.encode(text) == tk.encode_ordinary(text)
    assert gpt2.decode(gpt2.encode(text)) == text


def test_bad_merges_files_name_the_line():
    with pytest.raises(ValueError, match="line 3, 'Ġ th'"):
        G.gpt2_model("#version: 0.2\nĠ t\nĠ th\n")


def test_tiktoken_cannot_express_two_merges_with_equal_bytes():
    model = B.BPEModel([(97, 98), (98, 99), (256, 99), (97, 257)])
    with pytest.raises(ValueError, match="the same bytes"):
        G.to_tiktoken(model, {})


def test_visible_bytes_are_gpt2s():
    assert G.visible(b" a\n\xff") == "ĠaĊÿ"
    assert len(set(G.byte_characters().values())) == 256
