"""The experiment: what it returns, what it scores, what its faults do."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from posttrain.foundations import language_modeling_experiment as X
from posttrain.foundations.language_modeling_mlp import (
    MLP,
    Bigram,
    MLPConfig,
    TrainConfig,
    training_step,
)
from posttrain.foundations.language_modeling_ngram import count
from posttrain.foundations.tokenization import bpe_tokenizer, char_tokenizer

TINY = X.Preset(
    order=3,
    arms=((1, 4, 6), (2, 4, 6)),
    train=TrainConfig(steps=60, B=16, lr=1e-2, points=2),
    start_steps=45,
    start_k=2,
    vocabularies=(300,),
    characters=12_000,
    sample=6,
)


@pytest.fixture(scope="module")
def tiny_run():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(X.PRESETS, "tiny", TINY)
        return X.run("tiny", 0)


def test_result_is_json_and_holds_what_the_chapter_shows(tiny_run):
    again = json.loads(json.dumps(tiny_run, allow_nan=False))
    assert set(again) == set(tiny_run)
    assert [row["n"] for row in again["ngrams"]] == [1, 2, 3]
    assert again["ngrams"][2]["counts"] is None  # infinite: some n-gram is new
    assert set(again["neural"]) == {"bigram", "k=1, H=6", "k=2, H=6"}
    assert again["neural"]["k=2, H=6"]["curve"]["step"] == [30, 60]
    assert set(again["starts"]) == {"calm", "loud", "saturated"}
    assert len(again["starts"]["calm"]["first_losses"]) == X.KEEP
    assert len(again["starts"]["calm"]["later_losses"]) == 1
    assert set(again["tokenizers"]) == {"characters", "BPE 300"}
    for name, text in again["samples"].items():
        assert len(text) == (6 if name != "prompt" else len(again["samples"]["prompt"]))


def test_parts_agree_with_each_other(tiny_run):
    """The same number on two ways through the code."""
    grams, cover = tiny_run["ngrams"], tiny_run["coverage"]
    for longer, shorter in zip(cover[1:], cover, strict=False):
        assert longer["new_contexts"] == pytest.approx(shorter["new_grams"], abs=2e-4)
    leak = tiny_run["leak"]
    assert leak[0]["bits"] == grams[-1]["kneser_ney"]
    assert [x["bits"] for x in leak] == sorted((x["bits"] for x in leak), reverse=True)
    cut = tiny_run["tokenizers"]["characters"]
    assert cut["trigram"]["bits_per_byte"] == grams[2]["kneser_ney"]
    nats = cut["mlp"]["nats_per_token"]
    assert cut["mlp"]["perplexity"] == pytest.approx(math.exp(nats), rel=1e-3)
    assert cut["mlp"]["bits_per_byte"] == tiny_run["starts"]["calm"]["val"]
    for game in tiny_run["entropy"]["guessing"].values():
        assert game["lower"] < game["upper"]
    assert grams[-1]["on_train"] < grams[-1]["kneser_ney"]


def test_only_what_is_trained_depends_on_the_seed(tiny_run, monkeypatch):
    monkeypatch.setitem(X.PRESETS, "tiny", TINY)
    again, other = X.run("tiny", 0), X.run("tiny", 1)
    for key in tiny_run:
        if key not in ("seconds", "seed"):
            assert again[key] == tiny_run[key], key
    for key in ("ngrams", "coverage", "leak"):
        assert other[key] == tiny_run[key]
    for key in ("neural", "starts", "samples"):
        assert other[key] != tiny_run[key]


def test_starts_differ_where_they_should(tiny_run):
    starts, uniform = tiny_run["starts"], tiny_run["starts"]["calm"]["uniform"]
    assert starts["calm"]["first_losses"][0] == pytest.approx(uniform, abs=0.1)
    assert starts["saturated"]["first_losses"][0] == pytest.approx(uniform, abs=0.1)
    assert starts["loud"]["first_losses"][0] > 1.5 * uniform
    assert starts["saturated"]["before"]["shut"] > 0.6
    assert starts["calm"]["before"]["shut"] < 0.1


def test_every_held_out_character_is_scored_once_with_its_own_context():
    text = "abcdefghij" * 3
    split = X.cut(text, char_tokenizer(text, specials=()))
    assert split.val_text == "hij" and len(split.train) == 27
    rows = split.rows(2)
    assert rows[:, -1].equal(split.val)
    assert rows[0].tolist() == [5, 6, 7]  # f, g from the end of train, then h


def test_bits_are_those_of_the_text_whatever_the_tokens():
    text = "naïve cats, " * 40
    for tokenizer in (char_tokenizer(text, ()), bpe_tokenizer([text], 262, ())):
        split = X.cut(text, tokenizer)
        p = torch.full((len(split.val),), 0.5).double()
        paid = X.Score.of(-p.log(), split.val_text)
        assert paid.bytes == len(split.val_text.encode())
        assert paid.bits_per_byte == pytest.approx(len(split.val) / paid.bytes)
    assert X.bits(torch.tensor([0.5, 0.0]), replace(split, val_text="ab")) is None


def test_strengths_are_chosen_without_the_held_out_text():
    text = "the cat sat on the mat. " * 30
    split = X.cut(text, char_tokenizer(text, specials=()))
    tables = count(split.train, 2, split.V)
    one = X.ngrams(tables, split)
    other = X.ngrams(tables, replace(split, val=split.val.flip(0)))
    assert [(r["k"], r["alpha"]) for r in one] == [(r["k"], r["alpha"]) for r in other]


def test_unknown_presets_name_the_known_ones():
    with pytest.raises(ValueError, match="'big'; known presets: ci, cpu, t4, h200"):
        X.run("big", 0)


@pytest.mark.parametrize("preset", ["t4", "h200"])
def test_big_presets_build_and_step(preset):
    setup = X.PRESETS[preset]
    with FakeTensorMode():
        models = [MLP(MLPConfig(65, *arm)) for arm in setup.arms] + [Bigram(65)]
        for model in models:
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            rows = torch.zeros(setup.train.B, model.k + 1, dtype=torch.long)
            assert training_step(model, optimizer, rows).shape == ()
