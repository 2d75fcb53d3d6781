"""Pools, demonstrations, packing, batches compared, the cold start's big presets."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from posttrain.alignment import chat_sft_artifact as artifact
from posttrain.alignment.chat_sft import (
    Pool,
    questions_only,
    sft_trainer,
    whole_sequences,
)
from posttrain.alignment.chat_sft_data import Stages, slipped, with_slips, worked
from posttrain.alignment.chat_sft_packing import pack_chats, packed_count, packed_nll
from posttrain.alignment.chat_sft_throughput import as_chats, compare_batches
from posttrain.alignment.chat_sft_view import chat_view
from posttrain.alignment.completions import collate, count, total_nll
from posttrain.alignment.verifier import parse
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import Difficulty, problems
from posttrain.foundations.data_pipeline_packing import best_fit, concatenate
from posttrain.foundations.language_model import IGNORE
from posttrain.foundations.modern_architecture import GPT, GPTConfig

TOK = tokenizer()
SOME = problems(0, 12, Difficulty(3))


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(V=TOK.vocab_size, T=112, C=32, L=2, H=2, H_kv=1)).eval()


# ----------------------------------------------------------------------------- pools


def test_whole_sequences_keep_the_tokens_and_count_all_but_the_first():
    pool = Pool.of(worked(SOME), B=4)
    whole = whole_sequences(pool)
    for i in range(len(SOME)):
        assert whole.prompts[i] + whole.replies[i] == pool.prompts[i] + pool.replies[i]
    batch = whole.batch([0])
    assert count(batch) == batch.tokens.shape[1]


def test_questions_only_are_the_words_of_the_question():
    pool = questions_only(Pool.of(worked(SOME), B=4))
    assert TOK.decode(pool.replies[0]) == SOME[0].question
    assert pool.prompts[0] == [TOK.special_id("<|user|>")]


def test_orders_of_epochs_are_kept_and_still_those_of_the_seed():
    pool = Pool.of(worked(SOME), B=4, seed=3)
    again = Pool.of(worked(SOME), B=4, seed=3)
    for step in (0, 2, 5, 3, 0):
        assert torch.equal(pool(step).tokens, again(step).tokens)
    assert not torch.equal(pool(0).tokens, pool(0, micro=1).tokens)


def test_stages_take_turns_and_the_last_one_stays():
    pools = [Pool.of(worked(problems(s, 8, Difficulty(2))), B=8) for s in (1, 2, 3)]
    stages = Stages(pools, steps=7)
    turn = [0, 0, 0, 1, 1, 1, 2, 2]
    for step, stage in enumerate(turn):
        expected = pools[stage](step - 3 * stage)
        assert torch.equal(stages(step).tokens, expected.tokens)


# -------------------------------------------------------------------- demonstrations


def test_slips_are_wrong_in_one_step_and_right_in_form():
    import random

    for seed in range(50):
        for problem in SOME:
            reply = slipped(random.Random(seed), problem)
            read = parse(reply)
            assert read.well_formed
            assert read.answer not in (None, problem.answer)
            wrong = 0
            for step in read.thinking.split(";"):
                sum_of, now = step.split("=")
                wrong += eval(sum_of) != int(now)
            assert wrong == 1


def test_the_share_of_slips_is_what_was_asked_for():
    for share, bad in ((0, 0), (0.25, 3), (1, 12)):
        pairs = with_slips(SOME, share, seed=1)
        replies = [reply for _, reply in pairs]
        right = [p.demonstration() == r for p, r in zip(SOME, replies, strict=True)]
        assert right.count(False) == bad
    with pytest.raises(ValueError, match=r"share=1\.5 must lie in 0"):
        with_slips(SOME, 1.5)


# --------------------------------------------------------------------------- packing


def padded(chats):
    return collate(
        [chat.tokens[:1] for chat in chats],
        [chat.tokens[1:] for chat in chats],
        TOK.special_id("<|pad|>"),
        [chat.assistant[1:] for chat in chats],
    )


def test_packed_loss_and_gradient_are_those_of_the_padded_batch(model):
    chats = as_chats(worked(SOME) + worked(problems(1, 6, Difficulty(1))))
    plan = best_fit([len(chat.tokens) for chat in chats], 112)
    assert len(plan) < len(chats) / 1.5
    rows = pack_chats(chats, 112, plan, TOK.special_id("<|pad|>"))
    batch, alone = rows.batch(list(range(len(plan)))), padded(chats)
    assert packed_count(batch) == count(alone)
    losses = packed_nll(model, batch), total_nll(model, alone)
    torch.testing.assert_close(*losses)
    ours, theirs = (torch.autograd.grad(x, list(model.parameters())) for x in losses)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4 * b.abs().max().item(), rtol=1e-4)


def test_packed_targets_are_replies_and_nothing_else():
    chats = as_chats(worked(SOME[:2]))
    plan = concatenate([len(chat.tokens) for chat in chats], 112)
    rows = pack_chats(chats, 112, plan, pad=0)
    said = rows.targets[rows.targets != IGNORE].tolist()
    wanted = [t for c in chats for t, m in zip(c.tokens, c.assistant, strict=True) if m]
    assert said == wanted


def test_a_conversation_that_would_be_cut_is_refused():
    chats = as_chats(worked(SOME[:1]))
    with pytest.raises(ValueError, match="chat 0 has .* tokens and T=16"):
        pack_chats(chats, 16, [[]], pad=0)


def test_batches_compared_agree_in_loss_and_differ_in_padding(model):
    pairs = worked(problems(1, 9, Difficulty(1))) + worked(SOME)
    rows = compare_batches(model, pairs, B=4, T=112, repeats=1)
    assert [row["way"] for row in rows] == ["padded", "sorted by length", "packed"]
    first = rows[0]
    for row in rows[1:]:
        assert row["loss"] == pytest.approx(first["loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-4)
        assert row["targets"] == first["targets"]
        assert row["empty"] < first["empty"]
        assert row["targets_per_second"] > 0
    assert all(p.grad is None for p in model.parameters())


# --------------------------------------------------------------------------- display


def test_the_view_boxes_what_is_learned_and_escapes_the_rest(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("posttrain.alignment.chat_sft_view.display", shown.append)
    chat_view(TOK, [("a < b", as_chats([("<b>", "7")])[0])])
    html = shown[0].data
    assert "a &lt; b" in html and "<b>" not in html
    assert html.count("class=mine") == 2
    assert "<span class=mine>&lt;|end|&gt;</span>" in html


# ------------------------------------------------------------------------ big presets


@pytest.mark.parametrize("preset", list(artifact.PRESETS))
def test_the_longest_conversation_fits_the_model(preset):
    recipe = artifact.PRESETS[preset]
    drawn = problems(1, 200, recipe.difficulty)
    chats = as_chats([(p.question, p.demonstration()) for p in drawn])
    assert max(len(chat.tokens) for chat in chats) <= recipe.T


@pytest.mark.parametrize("preset", ["t4", "h200"])
def test_big_cold_starts_build_and_step(preset):
    recipe = artifact.PRESETS[preset]
    drawn = problems(1, 2, recipe.difficulty)
    pairs = [(p.question, p.demonstration()) for p in drawn]
    pool = Pool.of([pairs[i % 2] for i in range(recipe.B)], B=recipe.B)
    real = pool(0)
    targets = count(real)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = GPT(recipe.config())
        trainer = sft_trainer(model, pool, recipe.steps, recipe.lr)
        hidden = model.hidden(real.tokens)
        chosen = hidden.flatten(0, 1)[:targets]  # as many; which ones needs numbers
        loss = model.head(chosen).float().logsumexp(-1).sum()
        loss.backward()
        for optimizer in trainer.optimizers:
            optimizer.step()
        assert hidden.shape == (recipe.B, real.tokens.shape[1], recipe.C)
        assert model.token.weight.grad.shape == model.token.weight.shape
