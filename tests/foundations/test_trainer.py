"""The trainer's step: right gradients, right state, nothing changed by a bad batch."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from posttrain.foundations.batches import (
    Windows,
    mean_loss,
    target_count,
    total_loss,
)
from posttrain.foundations.language_model import IGNORE
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.trainer import StepRecord, Trainer, fit

TOKENS = np.random.default_rng(0).integers(31, size=5000).astype(np.uint16)


def small(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    return GPT(GPTConfig(V=31, T=16, C=16, L=2, H=2, H_kv=1, dropout=dropout))


def adamw(model, lr=1e-2):
    return torch.optim.AdamW(model.parameters(), lr=lr)


def trainer(model=None, B=4, steps=10, optimizers=None, batches=None, **options):
    model = model or small()
    return Trainer(
        model,
        optimizers or [adamw(model)],
        batches or Windows(TOKENS, B, 16),
        schedule=options.pop("schedule", lambda step: 1.0),
        steps=steps,
        **options,
    )


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# --- batches -------------------------------------------------------------------------


def test_a_batch_depends_on_seed_step_and_micro_alone():
    windows = Windows(TOKENS, 3, 8, seed=1)
    inputs, targets = windows(5, 1)
    assert inputs.shape == targets.shape == (3, 8)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    windows(9), windows(0, 7)
    assert torch.equal(windows(5, 1)[0], inputs)
    others = [windows(5, 0), windows(6, 1), Windows(TOKENS, 3, 8, seed=2)(5, 1)]
    assert not any(torch.equal(other[0], inputs) for other in others)


def test_windows_reach_both_ends_and_memory_maps_do(tmp_path):
    TOKENS[:20].tofile(tmp_path / "tokens.bin")
    mapped = np.memmap(tmp_path / "tokens.bin", dtype=np.uint16, mode="r")
    windows = Windows(mapped, 64, 17)
    starts = {tuple(row) for row in windows(0)[0].tolist()}
    assert starts == {tuple(TOKENS[i : i + 17].tolist()) for i in range(3)}
    fixed = windows.fixed(3)
    assert torch.cat([inputs for inputs, _ in fixed])[:, 0].tolist() == (
        TOKENS[:3].tolist()
    )
    with pytest.raises(ValueError, match="20 tokens.*needs 21"):
        Windows(TOKENS[:20], 1, 20)
    with pytest.raises(ValueError, match="B=0"):
        Windows(TOKENS, 0, 20)


def test_mean_loss_counts_tokens_not_batches():
    model = small()
    whole = Windows(TOKENS, 5, 16).fixed(5)[0]
    parts = [tuple(t[:1] for t in whole), tuple(t[1:] for t in whole)]
    model.train()
    assert mean_loss(model, parts) == pytest.approx(mean_loss(model, [whole]), rel=1e-6)
    assert model.training
    masked = (whole[0], whole[1].clone())
    masked[1][:, 4:] = IGNORE
    assert target_count(masked) == 5 * 4


# --- one step ------------------------------------------------------------------------


def test_a_step_is_that_of_plain_pytorch():
    mine, plain = small(), small()
    sgd = [torch.optim.SGD(mine.parameters(), lr=1.0)]
    settings = {"max_norm": 0.5, "schedule": lambda step: 0.3}
    record = trainer(mine, optimizers=sgd, **settings).train_step()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.3)
    inputs, targets = Windows(TOKENS, 4, 16)(0)
    logits = plain(inputs)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    norm = nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
    optimizer.step()
    torch.testing.assert_close(weights(mine), weights(plain), atol=1e-6, rtol=1e-5)
    assert record.step == 1 and record.size == 64
    assert record.loss == pytest.approx(loss.item(), rel=1e-5)
    assert record.grad_norm == pytest.approx(norm.item(), rel=1e-4)
    assert record.lr == pytest.approx(0.3)


def uneven(step, micro):
    """Three parts; the second has two targets, the third one in each row."""
    inputs, targets = Windows(TOKENS, 4, 16, seed=3)(step, micro)
    targets = targets.clone()
    targets[:, {0: 16, 1: 2, 2: 1}[micro] :] = IGNORE
    return inputs, targets


def test_accumulation_equals_one_large_batch():
    def joined(step, micro):
        inputs, targets = zip(*(uneven(step, i) for i in range(3)), strict=True)
        return torch.cat(inputs), torch.cat(targets)

    parts, whole = small(), small()
    a = trainer(parts, batches=uneven, micro_batches=3)
    b = trainer(whole, batches=joined)
    for _ in range(3):
        first, second = a.train_step(), b.train_step()
    torch.testing.assert_close(weights(parts), weights(whole), atol=2e-5, rtol=1e-4)
    assert first.loss == pytest.approx(second.loss, rel=1e-5)
    assert first.size == second.size == 4 * 19


def test_another_loss_and_size():
    """A regression of the hidden state: any batch, any loss."""
    model = small()
    run = trainer(
        model,
        batches=lambda step, micro: torch.arange(8)[None],
        loss=lambda model, batch: model.hidden(batch).square().mean(-1).sum(),
        size=lambda batch: batch.numel(),
    )
    first = run.train_step().loss
    for _ in range(8):
        last = run.train_step().loss
    assert last < 0.9 * first


def test_a_loss_that_is_no_number_changes_nothing():
    model = small()
    run = trainer(model)
    run.train_step()
    before, state = weights(model), copy.deepcopy(run.optimizers[0].state_dict())
    run.loss = lambda model, batch: total_loss(model, batch) * float("nan")
    with pytest.raises(FloatingPointError, match="loss of step 1 is nan"):
        run.train_step()
    assert torch.equal(weights(model), before) and run.step == 1
    again = run.optimizers[0].state_dict()["state"][0]
    assert torch.equal(again["exp_avg"], state["state"][0]["exp_avg"])
    assert all(p.grad is None for p in model.parameters())


def test_a_gradient_that_is_no_number_changes_nothing():
    model = small()
    before = weights(model)
    run = trainer(model)
    # sqrt has an infinite slope at 0: a finite loss, a gradient of inf * 0 = NaN
    run.loss = lambda model, batch: (model(batch[0]).sum() * 0).sqrt()
    with pytest.raises(FloatingPointError, match="gradient's length of step 0 is nan"):
        run.train_step()
    assert torch.equal(weights(model), before)


def test_a_step_without_targets_is_refused():
    def empty(step, micro):
        inputs, targets = Windows(TOKENS, 4, 16)(step, micro)
        return inputs, torch.full_like(targets, IGNORE)

    with pytest.raises(ValueError, match="no target"):
        trainer(batches=empty).train_step()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_learns_and_keeps_float32_weights(precision):
    model = small()
    run = trainer(model, precision=precision, steps=60, B=8)
    repeated = Windows(TOKENS[:40], 8, 16)
    run.batches = repeated
    losses = [run.train_step().loss for _ in range(60)]
    assert np.mean(losses[-5:]) < 0.6 * losses[0]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="precision='fp8'"):
        trainer(precision="fp8")
    with pytest.raises(ValueError, match="steps=0"):
        trainer(steps=0)
    with pytest.raises(ValueError, match="micro_batches=0"):
        trainer(micro_batches=0)


# --- many steps ----------------------------------------------------------------------


def test_fit_calls_hooks_at_their_steps_and_at_the_end():
    seen, at = [], {3: [], 5: []}
    run = trainer(steps=10)
    hooks = [(every, lambda e=every: at[e].append(run.step)) for every in at]
    fit(run, seen.append, hooks)
    assert [record.step for record in seen] == list(range(1, 11))
    assert all(isinstance(record, StepRecord) for record in seen)
    assert at == {3: [3, 6, 9, 10], 5: [5, 10]}


def test_state_goes_on_bit_for_bit_with_dropout_and_schedule():
    def made():
        model = small(dropout=0.3)
        return trainer(model, schedule=lambda step: 1 / (1 + step), steps=9)

    undisturbed = made()
    fit(undisturbed)
    first = made()
    for _ in range(4):
        first.train_step()
    state = copy.deepcopy(first.state_dict())
    torch.manual_seed(999)
    second = made()
    torch.manual_seed(998)
    second.load_state_dict(state)
    assert second.step == 4
    fit(second)
    assert torch.equal(weights(second.model), weights(undisturbed.model))
