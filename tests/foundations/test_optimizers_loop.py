"""Schedules, averages of weights, early stopping and noise: against PyTorch."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from posttrain.foundations import optimizers_noise as noise
from posttrain.foundations.optimizers import AdamW
from posttrain.foundations.optimizers_averaging import (
    EMA,
    EarlyStopping,
    average_checkpoints,
)
from posttrain.foundations.optimizers_schedules import (
    set_lr,
    warmup_constant,
    warmup_cosine,
    wsd,
)

# ---------------------------------------------------------------- schedules


def torchs_rates(make, steps):
    """The learning rates that a scheduler of PyTorch sets, from 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def warm_then(optimizer, warmup, rest, *more):
    """Linear warm-up, then the schedulers of `rest` at the milestones of `more`."""
    first = lr_scheduler.LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1)
    parts = [first, *rest]
    return lr_scheduler.SequentialLR(optimizer, parts, [warmup, *more])


def test_cosine_equals_pytorchs_schedulers():
    due = torchs_rates(
        lambda o: warm_then(
            o, 5, [lr_scheduler.CosineAnnealingLR(o, T_max=20, eta_min=0.1)]
        ),
        25,
    )
    ours = [warmup_cosine(t, total=25, warmup=5) for t in range(25)]
    assert ours == pytest.approx(due, abs=1e-12)


def test_wsd_equals_pytorchs_schedulers():
    due = torchs_rates(
        lambda o: warm_then(
            o,
            4,
            [
                lr_scheduler.ConstantLR(o, 1.0),
                lr_scheduler.LinearLR(o, 1.0, 0.2, total_iters=8),
            ],
            12,
        ),
        24,
    )
    ours = [wsd(t, total=20, warmup=4, decay=8, floor=0.2) for t in range(24)]
    assert ours == pytest.approx(due, abs=1e-12)


def test_a_schedule_goes_into_lambda_lr():
    schedule = partial(warmup_cosine, total=10, warmup=2, floor=0.0)
    rates = torchs_rates(lambda o: lr_scheduler.LambdaLR(o, schedule), 12)
    assert rates == [schedule(t) for t in range(12)]


def test_landmarks():
    cosine = partial(warmup_cosine, total=10_000, warmup=500)
    assert cosine(0) == 1 / 500
    assert cosine(499) == cosine(500) == 1.0
    assert cosine(5250) == pytest.approx(0.55)  # half way: the mean of 1 and 0.1
    assert cosine(10_000) == cosine(12_000) == pytest.approx(0.1)
    assert warmup_cosine(0, total=5) == 1.0
    decays = partial(wsd, total=100, warmup=10, decay=20)
    assert decays(9) == decays(80) == 1.0
    assert decays(90) == 0.5
    assert decays(100) == decays(101) == 0.0
    assert [warmup_constant(t, warmup=2) for t in range(3)] == [0.5, 1.0, 1.0]
    assert warmup_constant(0) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: warmup_cosine(0, total=5, warmup=5), "warmup=5 must lie in 0 ... "),
        (lambda: warmup_cosine(0, total=5, floor=1.1), "floor=1.1 is a share"),
        (lambda: wsd(0, total=9, warmup=4, decay=6), "decay=6 must lie in 1 ... .* 5"),
        (lambda: wsd(0, total=9, decay=0), "decay=0 must lie in"),
        (lambda: warmup_constant(-1), "step=-1"),
        (lambda: warmup_cosine(-1, total=5, warmup=1), "step=-1"),
    ],
)
def test_impossible_schedules_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_set_lr_keeps_each_groups_own_rate_and_survives_a_checkpoint():
    p, q = (torch.zeros(1, requires_grad=True) for _ in range(2))

    def make():
        return AdamW([{"params": [p]}, {"params": [q], "lr": 0.5}], lr=0.1)

    optimizer = make()
    set_lr([optimizer], 0.5)
    set_lr([optimizer], 0.2)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.02, 0.1])
    resumed = make()
    resumed.load_state_dict(optimizer.state_dict())
    set_lr([resumed], 1.0)
    assert [g["lr"] for g in resumed.param_groups] == pytest.approx([0.1, 0.5])


# ---------------------------------------------------------------- averages


def moved(model, step):
    with torch.no_grad():
        g = torch.Generator().manual_seed(step)
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g))
    model(torch.randn(8, 3, generator=torch.Generator().manual_seed(step)))


def test_ema_equals_pytorchs_averaged_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(model)  # the first call copies
    ours = EMA(model, 0.9)
    for step in range(5):
        moved(model, step)
        ours.update(model)
        theirs.update_parameters(model)
    for name, p in theirs.module.named_parameters():
        torch.testing.assert_close(ours.average[name], p.detach())
    assert ours.average["1.num_batches_tracked"] == 5
    assert ours.average["1.running_mean"].equal(model[1].running_mean)


def test_ema_is_swapped_in_and_out_even_after_an_error():
    model = nn.Linear(2, 2)
    ema = EMA(model, 0.5)
    first = {k: v.clone() for k, v in model.state_dict().items()}
    moved_to = {k: v + 1 for k, v in first.items()}
    model.load_state_dict(moved_to)
    ema.update(model)
    with pytest.raises(KeyError), ema.swapped_in(model):
        torch.testing.assert_close(model.weight.detach(), first["weight"] + 0.5)
        raise KeyError
    assert model.weight.equal(moved_to["weight"])
    with pytest.raises(ValueError, match="decay=1.0 must be"):
        EMA(model, 1.0)


def test_checkpoints_are_averaged_in_float64():
    ones = [{"w": torch.tensor([1.0 + i / 128]).bfloat16()} for i in range(3)]
    for number, state in enumerate(ones):
        state["n"] = torch.tensor(number)
    mean = average_checkpoints(ones)
    assert mean["w"].dtype == torch.bfloat16
    assert mean["w"].item() == 1 + 1 / 128
    assert mean["n"] == 2
    with pytest.raises(ValueError, match="checkpoint 1 has other names or shapes"):
        average_checkpoints([ones[0], {"w": torch.zeros(2)}])
    with pytest.raises(ValueError, match="no checkpoint"):
        average_checkpoints([])


def test_early_stopping_counts_from_the_best():
    rule = EarlyStopping(patience=2, min_delta=0.1)
    values = [3.0, 2.0, 1.95, float("nan"), 1.5, 1.6]
    said = [rule.update(step, v) for step, v in enumerate(values)]
    assert said == [False, False, False, True, False, False]
    assert (rule.best, rule.best_step) == (1.5, 4)
    with pytest.raises(ValueError, match="patience=0"):
        EarlyStopping(patience=0)


# ---------------------------------------------------------------- noise


def test_noise_is_estimated_without_bias():
    g = torch.Generator().manual_seed(0)
    P, b, K = 50, 4, 8
    mean = torch.full((P,), 0.3, dtype=torch.float64)  # |G|² = 4.5
    spread = torch.linspace(0.5, 1.5, P, dtype=torch.float64)
    found = []
    for _ in range(400):
        examples = mean + spread * torch.randn(
            K, b, P, generator=g, dtype=torch.float64
        )
        found.append(noise.gradient_noise(examples.mean(dim=1), b))
    both = noise.pool(found)
    assert both.signal == pytest.approx(4.5, rel=0.03)
    assert both.variance == pytest.approx(spread.square().sum().item(), rel=0.02)
    assert both.scale == both.variance / both.signal
    assert noise.Noise(-1.0, 2.0).scale == math.inf
    with pytest.raises(ValueError, match=r"shape \(5,\), expected \(K, P\)"):
        noise.gradient_noise(torch.zeros(5), 1)


def test_flat_gradient_counts_a_missing_one_as_zeros():
    p, q = (torch.ones(2, requires_grad=True) for _ in range(2))
    p.sum().backward()
    assert noise.flat_gradient([q, p]).tolist() == [0, 0, 1, 1]


def test_critical_batch_is_found_again():
    sizes = (4, 16, 64, 256)
    steps = [noise.steps_to_target(B, 80.0, 30.0) for B in sizes]
    assert noise.fit_critical_batch(sizes, steps) == pytest.approx((80.0, 30.0))
