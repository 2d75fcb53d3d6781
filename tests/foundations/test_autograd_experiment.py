"""Backward passes by hand against torch, the digits, and the experiment."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from posttrain.checks import autograd as autograd_checks
from posttrain.foundations import autograd_experiment as experiment
from posttrain.foundations import autograd_layers as layers
from posttrain.foundations import autograd_training as training
from posttrain.foundations.autograd_digits import (
    DRAWN,
    SEEN,
    SIZE,
    UNSEEN,
    distortions,
    drawn,
    make_digits,
)
from posttrain.foundations.autograd_layers import RunningStats
from posttrain.foundations.autograd_net import Net
from posttrain.foundations.autograd_optim import SGD, Adam

TINY = training.DigitSetup(8, 60, 6, (-4, 2), B=16, log_every=4)


def draw(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


def same_gradients(operation, pull, torch_operation, inputs):
    """Output and all gradients of one operation against torch.autograd."""
    y, saved = operation(*inputs)
    copies = [x.clone().requires_grad_() for x in inputs]
    due = torch_operation(*copies)
    torch.testing.assert_close(y, due)
    dy = draw(*y.shape, seed=9)
    gradients = torch.autograd.grad(due, copies, dy)
    torch.testing.assert_close(tuple(pull(dy, saved)), gradients)


@pytest.mark.parametrize(
    ("name", "torch_operation", "shapes"),
    [
        ("matmul", torch.matmul, [(5, 3), (3, 4)]),
        ("add_bias", torch.add, [(5, 3), (3,)]),
        ("tanh", torch.tanh, [(5, 3)]),
        ("relu", torch.relu, [(5, 3)]),
    ],
)
def test_operations_equal_torch(name, torch_operation, shapes):
    inputs = [draw(*shape, seed=i) for i, shape in enumerate(shapes)]
    if name == "relu":
        inputs[0][0, 0] = 0.0
    pull = getattr(layers, f"{name}_backward")
    same_gradients(getattr(layers, name), pull, torch_operation, inputs)


@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_cross_entropy_equals_torch(size):
    logits, targets = draw(6, 4) * size, torch.tensor([0, 3, 1, 1, 2, 0])
    same_gradients(
        lambda z: layers.softmax_cross_entropy(z, targets),
        layers.softmax_cross_entropy_backward,
        lambda z: F.cross_entropy(z, targets),
        [logits],
    )


@pytest.mark.parametrize(
    ("targets", "error", "words"),
    [
        ([0, 4], RuntimeError, "index 4 is out of bounds"),
        ([-1, 0], RuntimeError, "index -1 is out of bounds"),
        ([0], ValueError, "2 rows of logits need as many targets"),
    ],
)
def test_cross_entropy_names_a_bad_target(targets, error, words):
    with pytest.raises(error, match=words):
        layers.softmax_cross_entropy(draw(2, 4), torch.tensor(targets))


@pytest.mark.parametrize("N", [2, 7])
def test_batch_norm_equals_torch_over_training_and_evaluation(N):
    module = nn.BatchNorm1d(3, dtype=torch.float64)
    gamma, beta = draw(3, seed=1), draw(3, seed=2)
    with torch.no_grad():
        module.weight.copy_(gamma)
        module.bias.copy_(beta)
    stats = RunningStats.fresh(3, dtype=torch.float64)
    for step, train in enumerate([True, True, False, True, False]):
        x = 3 * draw(N, 3, seed=10 + step) + 5
        module.train(train).zero_grad()
        y, saved = layers.batch_norm(x, gamma, beta, stats, train)
        theirs = x.clone().requires_grad_()
        due, dy = module(theirs), draw(N, 3, seed=20 + step)
        due.backward(dy)
        torch.testing.assert_close(y, due)
        ours = layers.batch_norm_backward(dy, saved)
        torch.testing.assert_close(
            ours, (theirs.grad, module.weight.grad, module.bias.grad)
        )
        torch.testing.assert_close(stats.mean, module.running_mean)
        torch.testing.assert_close(stats.var, module.running_var)


def test_batch_norm_refuses_one_row_in_training_only():
    stats = RunningStats.fresh(3)
    x, one = torch.ones(1, 3), torch.ones(3)
    with pytest.raises(ValueError, match="needs 2 rows at least, got 1"):
        layers.batch_norm(x, one, one, stats, training=True)
    assert stats.mean.equal(torch.zeros(3))
    y, _ = layers.batch_norm(x, one, one, stats, training=False)
    assert y.shape == (1, 3)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_net_equals_torch_with_every_gradient(batch_norm):
    net = Net((6, 5, 4, 3), batch_norm, torch.Generator().manual_seed(0), torch.float64)
    x, y = draw(8, 6), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    loss, gradients = net.loss_and_gradients(x, y)
    params = {name: p.clone().requires_grad_() for name, p in net.params.items()}
    h = x
    for i in range(3):
        h = h @ params[f"W{i}"]
        if batch_norm and i < 2:
            scale, shift = params[f"gamma{i}"], params[f"beta{i}"]
            h = F.batch_norm(h, None, None, scale, shift, training=True)
        else:
            h = h + params[f"b{i}"]
        h = h.relu() if i < 2 else h
    due = F.cross_entropy(h, y)
    due.backward()
    torch.testing.assert_close(loss, due)
    assert set(gradients) == set(params) == set(net.params)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, params[name].grad)


def test_net_starts_with_variance_two_over_inputs():
    net = Net((300, 200, 5), True, torch.Generator().manual_seed(0))
    assert net.params["W0"].std().item() == pytest.approx((2 / 300) ** 0.5, rel=0.02)
    assert set(net.params) == {"W0", "gamma0", "beta0", "W1", "b1"}


@pytest.mark.parametrize(
    ("ours", "make"),
    [
        (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
        (SGD(0.1, 0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        (
            Adam(0.1, (0.8, 0.95), 1e-3),
            lambda p: torch.optim.Adam(p, 0.1, (0.8, 0.95), 1e-3),
        ),
    ],
)
def test_optimizers_equal_torch_on_tensors_and_floats(ours, make):
    tensors = [draw(3), draw(2, seed=1)]
    theirs = [p.clone().requires_grad_() for p in tensors]
    optimizer = make(theirs)
    floats, on_floats = [tensors[0][0].item()], replace(ours)
    for step in range(5):
        grads = [draw(3, seed=10 + step), draw(2, seed=20 + step)]
        for p, g in zip(theirs, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()
        kept = [p.clone() for p in tensors]
        news = ours.step(tensors, grads)
        torch.testing.assert_close(tensors, kept)
        tensors = news
        floats = on_floats.step(floats, [grads[0][0].item()])
        torch.testing.assert_close(tensors, [p.detach() for p in theirs])
        assert floats[0] == pytest.approx(theirs[0][0].item())


# ---------------------------------------------------------------- digits


def test_digits_are_the_same_for_a_seed_and_upright():
    a, b, other = (make_digits(50, SEEN, seed) for seed in (0, 0, 1))
    assert a.x.equal(b.x)
    assert a.y.equal(b.y)
    assert not a.x.equal(other.x)
    assert a.x.shape == (50, SIZE * SIZE)
    assert set(make_digits(400, SEEN, 0).y.tolist()) == set(range(10))
    seven = drawn("DejaVuSans")[7]  # its bar is on top
    assert seven[: DRAWN // 2].sum() > 1.2 * seven[DRAWN // 2 :].sum()
    assert seven.amax() == 1
    assert not set(SEEN) & set(UNSEEN)


def test_a_mean_picture_shows_the_digit():
    """Distortions are centred: the mean of many ones is a vertical bar."""
    digits = make_digits(3000, ("DejaVuSans",), 0)
    mean = digits.x[digits.y == 1].mean(dim=0).view(SIZE, SIZE)
    columns = mean.mean(dim=0)
    assert columns[5:7].min() > columns[[0, 1, 10, 11]].max() + 0.5
    sevens = digits.x[digits.y == 7].mean(dim=0).view(SIZE, SIZE)
    assert sevens[1:4].mean() > sevens[8:11].mean()


def test_distortions_stay_within_their_limits_and_are_centred():
    maps = distortions(4000, torch.Generator().manual_seed(0))
    angle = torch.atan2(maps[:, 1, 0], maps[:, 0, 0]) * 180 / math.pi
    assert 14 < angle.abs().max() <= 15
    assert angle.mean().abs() < 0.5
    moved = maps[:, :, 2]
    assert 0.14 < moved.abs().max() <= 0.15
    assert moved.mean(dim=0).abs().max() < 0.01
    width = maps[:, :, 0].norm(dim=1)
    assert width.min() + 1e-6 >= 0.8 / 1.15
    assert width.max() <= 0.8 / 0.75 + 1e-6


def test_an_unknown_font_lists_the_known_ones():
    with pytest.raises(ValueError, match="no font 'Arial'; use one of: DejaVuSans,"):
        make_digits(1, ("Arial",), 0)


# ---------------------------------------------------------------- the experiment


@pytest.fixture(scope="module")
def tiny_run():
    tiny = experiment.Preset(8, 3, 4, TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(experiment.PRESETS, "tiny", tiny)
        yield experiment.run("tiny", 0), experiment.run("tiny", 0)


def test_result_holds_what_the_chapter_shows(tiny_run):
    result, again = tiny_run
    assert json.loads(json.dumps(result)) == json.loads(json.dumps(again)) | {
        "modes": result["modes"]
    } | {"config": json.loads(json.dumps(result["config"]))}
    assert len(result["digits"]) == 9
    for arm in result["digits"].values():
        assert arm["lr"] == [0.01, 10.0]
        assert arm["best_lr"] == arm["lr"][arm["val"].index(min(arm["val"]))]
        assert arm["curve"]["step"] == [4, 6]
        assert arm["curve"]["val"][-1] == min(arm["val"])
    for name, one in result["toy"].items():
        assert len(one["losses"]) == 5
        grid = experiment.unpack(one["map"])
        assert len(grid) == len(grid[0]) == experiment.GRID
        assert name in experiment.TOYS
    assert set(result["faults"]) == {
        f"{name}, {state}"
        for name in ("sgd", "momentum")
        for state in ("cleared", "kept")
    }
    assert result["faults"]["momentum, cleared"] == result["toy"]["moons"]["losses"]
    assert [row["n"] for row in result["modes"]] == list(experiment.MODES)
    assert len(result["evaluation"]) == 4


def test_decision_map_reads_x_along_a_row_and_y_down_the_rows():
    class Right:
        def __call__(self, point):
            x, y = point
            return [experiment.Value(0.0), experiment.Value(x + (0.5 if y > 0 else 0))]

    grid = experiment.unpack(experiment.decision_map(Right()))
    assert grid[0] == sorted(grid[0])
    edge = torch.sigmoid(torch.tensor(-experiment.EDGE)).item()
    assert grid[0][0] == pytest.approx(edge, abs=0.005)
    assert grid[-1][0] > grid[0][0]


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="'huge'; known presets: ci, cpu, t4, h200"):
        experiment.run("huge", 0)


def test_arms_of_a_seed_start_alike_and_see_the_same_batches(monkeypatch):
    seen = []

    def spy(net, optimizer, x, y):
        seen.append((net.params["W0"].clone(), y))
        return step(net, optimizer, x, y)

    step = training.train_step
    monkeypatch.setattr(training, "train_step", spy)
    task = training.make_task(TINY, 0)
    for name, setting in (("sgd", "plain"), ("adam", "normalised")):
        training.sweep(setting, name, TINY, task, 0)
    runs = [seen[i : i + 6] for i in range(0, 24, 6)]
    for run in runs[1:]:
        assert run[0][0].equal(runs[0][0][0])
        assert all(a[1].equal(b[1]) for a, b in zip(run, runs[0], strict=True))


def test_scaled_pixels_are_the_same_pictures_in_other_units():
    task = training.make_task(TINY, 0)
    changed = training.scaled(task)
    assert task.scale.min() >= 0.1
    assert task.scale.max() <= 10
    for name in ("train", "val", "seen", "unseen"):
        a, b = getattr(task, name), getattr(changed, name)
        torch.testing.assert_close(a.x * task.scale, b.x)
        assert a.y.equal(b.y)


def test_asking_in_training_mode_leaves_the_statistics_alone():
    task = training.make_task(TINY, 0)
    net = training.build("normalised", TINY, 0)
    training.train(net, SGD(0.1), task, TINY, 0)
    before = {i: (s.mean.clone(), s.var.clone()) for i, s in net.stats.items()}
    training.wrong_modes(net, task.val, 0)
    for i, (mean, var) in before.items():
        assert net.stats[i].mean.equal(mean)
        assert net.stats[i].var.equal(var)


def test_a_loss_that_is_no_number_is_stored_as_huge():
    losses = [float("nan"), float("inf"), 2e4, 0.12345]
    assert [training.finite(torch.tensor(x)) for x in losses] == [1e4, 1e4, 1e4, 0.1235]


@pytest.mark.parametrize("preset", ["t4", "h200"])
def test_big_presets_build_and_step(preset):
    setup = experiment.PRESETS[preset].digits
    with FakeTensorMode():
        for setting in ("plain", "normalised"):
            net = training.build(setting, setup, 0)
            x = torch.zeros(setup.B, SIZE * SIZE)
            logits, tape = net.forward(x, training=True)
            assert logits.shape == (setup.B, 10)
            assert len(tape) == 3 + 3 + 2
            y = torch.zeros(setup.B, dtype=torch.long)
            loss = training.train_step(net, Adam(0.01), x, y)
            assert loss.shape == ()


def test_the_exercise_judges_adam_as_torch_runs_it():
    rng = torch.Generator().manual_seed(0)
    for p, grads, lr, beta1, beta2, eps in autograd_checks.adam_cases(rng, hidden=True):
        due = autograd_checks.reference_adam(p, grads, lr, beta1, beta2, eps)
        leaf = p.clone().requires_grad_()
        optimizer = torch.optim.Adam([leaf], lr=lr, betas=(beta1, beta2), eps=eps)
        for g, position in zip(grads, due["p"], strict=True):
            leaf.grad = g.clone()
            optimizer.step()
            torch.testing.assert_close(leaf.detach(), position)
        torch.testing.assert_close(due["m"], optimizer.state[leaf]["exp_avg"])
        torch.testing.assert_close(due["v"], optimizer.state[leaf]["exp_avg_sq"])
