"""The tax on a base's own text: what is mixed, what is measured."""

import math
from dataclasses import replace

import pytest
import torch

from posttrain.alignment import chat_sft_artifact
from posttrain.alignment import grpo_tax as T
from posttrain.alignment.chat_sft import Pool
from posttrain.foundations.modern_architecture import GPT

SMALL = T.Plan(
    cold="tiny",
    characters=20_000,
    base_steps=20,
    base_batch=8,
    sft_steps=60,
    rounds=1,
    problems=8,
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A small model, and problems so easy that it is right now and then."""
    easy = chat_sft_artifact.Difficulty(steps=1, most=9)
    ci = chat_sft_artifact.PRESETS["ci"]
    small = replace(ci, difficulty=easy, C=32, L=1, demonstrations=150, B=32, T=80)
    monkeypatch.setitem(chat_sft_artifact.PRESETS, "tiny", small)


def pool(first, n, B, seed=0):
    """Rows that begin with `first`, so that one can tell where a row came from."""
    return Pool([[first]] * n, [[first, i] for i in range(n)], B=B, seed=seed)


def test_a_mixed_batch_has_its_share_of_old_text():
    batches = T.mixed(pool(7, 100, 16), pool(9, 40, 99), share=0.25)
    for step in (0, 5):
        firsts = batches(step).tokens[:, 0]
        assert (firsts == 7).sum() == 12
        assert (firsts == 9).sum() == 4
    assert not torch.equal(batches(0).targets, batches(1).targets)
    assert torch.equal(batches(3).targets, batches(3).targets)


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_a_share_that_leaves_one_kind_out_is_refused(share):
    with pytest.raises(ValueError, match="both kinds need at least one"):
        T.mixed(pool(7, 100, 16), pool(9, 40, 4), share)


def test_the_held_out_text_is_not_read():
    text = T.Text.load(SMALL, 80, seed=0, device="cpu")
    read = {
        tuple(prompt + reply)
        for prompt, reply in zip(text.pool.prompts, text.pool.replies, strict=True)
    }
    held = text.held_out
    assert len(held.tokens) == pytest.approx(len(read) / 9, abs=2)
    for tokens, targets in zip(
        held.tokens.tolist(), held.targets.tolist(), strict=True
    ):
        assert (*tokens, targets[-1]) not in read
    assert (held.targets >= 0).all()  # every token of plain text is to be predicted


def test_nats_of_a_model_that_knows_nothing_are_the_logarithm_of_the_vocabulary():
    text = T.Text.load(SMALL, 80, seed=0, device="cpu")
    config = T.recipe_of("tiny").config()
    model = GPT(config)
    torch.nn.init.zeros_(model.token.weight)  # tied: the read-out is 0 as well
    assert text.nats(model) == pytest.approx(math.log(config.V), rel=1e-5)


def test_the_stages_come_in_order():
    rows = T.tax(SMALL, seed=0)
    assert [row["stage"] for row in rows] == [
        "base",
        "sft",
        "sft, replay",
        "then grpo",
        "then more sft",
        "then more sft, replay",
        "then more sft, fast",
    ]
    assert ["drift" in row for row in rows] == [False] * 3 + [True] * 4
    nats = [row["nats"] for row in rows]
    assert len(set(nats)) == 7
    assert nats[1] > max(nats[0], nats[2])  # forgotten, but where it is replayed


def test_a_stage_leaves_the_model_that_it_starts_from_alone():
    recipe = T.recipe_of("tiny")
    start = GPT(recipe.config())
    before = [p.clone() for p in start.parameters()]
    shown = Pool.of(recipe.pairs()[:16], B=4)
    for model in (T._imitate(start, shown, 1), T._learn(start, shown, 20, 1e-3)):
        assert any(
            not torch.equal(a, b)
            for a, b in zip(model.parameters(), start.parameters(), strict=True)
        )
    for was, now in zip(before, start.parameters(), strict=True):
        assert torch.equal(was, now)
