"""SGD, Adam, AdamW, Muon, groups and clipping: against PyTorch and by hand."""

import copy

import pytest
import torch
from torch import nn

from posttrain.foundations.optimizers import SGD, Adam, AdamW
from posttrain.foundations.optimizers_groups import (
    clip_grad_norm,
    muon_and_adamw,
    parameter_groups,
    split_hidden,
)
from posttrain.foundations.optimizers_muon import COEFFICIENTS, Muon, newton_schulz

SHAPES = [(3, 4), (5,), (2, 3, 2), ()]


def twins(shapes=SHAPES, dtype=torch.float64):
    """Two lists of equal parameters."""
    g = torch.Generator().manual_seed(0)
    first = [torch.randn(s, generator=g, dtype=dtype) for s in shapes]
    return [[p.clone().requires_grad_() for p in first] for _ in range(2)]


def feed(lists, step, idle=()):
    """The same random gradients for both; parameters in `idle` get none."""
    g = torch.Generator().manual_seed(step)
    for i, pair in enumerate(zip(*lists, strict=True)):
        grad = torch.randn(pair[0].shape, generator=g, dtype=pair[0].dtype)
        for p in pair:
            p.grad = None if i in idle else grad.clone()


PAIRS = {
    "SGD": (SGD, torch.optim.SGD, {"lr": 0.1}),
    "SGD with L2": (SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.3}),
    "momentum": (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "Nesterov": (
        SGD,
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    ),
    "Adam": (Adam, torch.optim.Adam, {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3}),
    "Adam with L2": (
        Adam,
        torch.optim.Adam,
        {"lr": 0.1, "weight_decay": 0.5, "betas": (0.9, 0.95)},
    ),
    "AdamW": (
        AdamW,
        torch.optim.AdamW,
        {"lr": 0.1, "weight_decay": 0.5, "betas": (0.9, 0.95), "eps": 1e-8},
    ),
    "AdamW, no decay": (
        AdamW,
        torch.optim.AdamW,
        {"lr": 0.1, "weight_decay": 0.0, "betas": (0.9, 0.95)},
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_steps_equal_pytorchs(name):
    make_ours, make_theirs, settings = PAIRS[name]
    lists = twins()
    ours, theirs = make_ours(lists[0], **settings), make_theirs(lists[1], **settings)
    for step in range(6):
        feed(lists, step, idle={step % 3} if step else ())
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
            optimizer.step()
        for a, b in zip(*lists, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["Adam with L2", "AdamW"])
@pytest.mark.parametrize("back", [False, True])
def test_checkpoints_are_exchanged_with_pytorch(name, back):
    first, second, settings = PAIRS[name]
    first, second = (second, first) if back else (first, second)
    lists = twins()
    before = first(lists[0], **settings)
    for step in range(3):
        feed(lists, step)
        before.step()
    with torch.no_grad():
        for a, b in zip(*lists, strict=True):
            b.copy_(a)
    after = second(lists[1], **settings)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    for step in range(3, 6):
        feed(lists, step)
        before.step()
        after.step()
    for a, b in zip(*lists, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_first_adam_step_is_the_sign():
    p = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64, requires_grad=True)
    p.grad = torch.tensor([1e-3, -50.0, 0.0], dtype=torch.float64)
    AdamW([p], lr=0.1, weight_decay=0.0).step()
    due = torch.tensor([0.9, 1.1, 1.0], dtype=torch.float64)
    torch.testing.assert_close(p.detach(), due, rtol=0, atol=1e-5)


def test_decoupled_decay_does_not_depend_on_the_gradients_size():
    left = {}
    for size in (0.01, 100.0):
        for name, make in (("L2", Adam), ("decoupled", AdamW)):
            p = torch.full((400,), 1.0, dtype=torch.float64, requires_grad=True)
            optimizer = make([p], lr=1e-3, weight_decay=0.1)
            g = torch.Generator().manual_seed(0)
            for _ in range(300):
                p.grad = size * torch.randn(400, generator=g, dtype=torch.float64)
                optimizer.step()
            left[name, size] = p.mean().item()
    decoupled = (1 - 1e-3 * 0.1) ** 300
    assert left["decoupled", 0.01] == pytest.approx(decoupled, abs=2e-3)
    assert left["decoupled", 100.0] == pytest.approx(decoupled, abs=2e-3)
    assert left["L2", 100.0] == pytest.approx(1.0, abs=3e-3)  # hardly any decay
    assert left["L2", 0.01] < 0.8  # nearly the whole lr


def test_step_calls_a_closure_and_returns_its_loss():
    for make in (SGD, Adam, AdamW, Muon):
        p = torch.ones(2, 2, requires_grad=True)
        optimizer = make([p], lr=0.1)

        def closure(p=p, optimizer=optimizer):
            optimizer.zero_grad()
            loss = p.square().sum()
            loss.backward()
            return loss

        assert optimizer.step(closure).item() == 4.0
        assert optimizer.step() is None
        assert p.square().sum() < 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: SGD(p, lr=-1.0), r"lr=-1.0 must be at least 0"),
        (lambda p: SGD(p, momentum=1.0), r"momentum=1.0 must .* below 1"),
        (lambda p: SGD(p, nesterov=True), "nesterov=True does nothing without"),
        (lambda p: AdamW(p, betas=(0.9, 1.0)), r"betas\[1\]=1.0"),
        (lambda p: Adam(p, betas=(1.5, 0.9)), r"betas\[0\]=1.5"),
        (lambda p: AdamW(p, lr=float("nan")), "lr=nan"),
        (lambda p: AdamW(p, eps=-1e-8), "eps=-1e-08"),
        (lambda p: AdamW(p, weight_decay=-0.1), "weight_decay=-0.1"),
        (lambda p: Muon(p, scale="rms"), "scale='rms': use one of spectral, adamw"),
        (lambda p: Muon(p), r"Muon takes matrices; give shape \(3,\) to AdamW"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make([torch.zeros(3, requires_grad=True)])


# ---------------------------------------------------------------- Muon


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (2, 5, 3), (1, 1)])
def test_newton_schulz_is_the_polynomial_of_singular_values(shape):
    g = torch.Generator().manual_seed(1)
    G = torch.randn(shape, generator=g, dtype=torch.float64)
    U, s, Vh = torch.linalg.svd(G, full_matrices=False)
    s = s / s.square().sum(-1, keepdim=True).sqrt()
    a, b, c = COEFFICIENTS
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    due = (U * s[..., None, :]) @ Vh
    torch.testing.assert_close(newton_schulz(G), due, rtol=0, atol=1e-9)


def test_singular_values_end_near_one():
    g = torch.Generator().manual_seed(0)
    G = torch.randn(64, 128, generator=g)
    s = torch.linalg.svdvals(newton_schulz(G))
    assert 0.6 < s.min() < s.max() < 1.3
    assert newton_schulz(torch.zeros(2, 3)).equal(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("scale", "theirs"), [("spectral", "original"), ("adamw", "match_rms_adamw")]
)
def test_muon_equals_pytorchs_up_to_bfloat16(scale, theirs):
    shapes = [(16, 32), (32, 16), (16, 32)]
    lists = twins(shapes, torch.float32)
    start = [p.detach().clone() for p in lists[0]]
    optimizers = (
        Muon(lists[0], lr=0.02, scale=scale, weight_decay=0.5, dtype=torch.bfloat16),
        torch.optim.Muon(lists[1], lr=0.02, weight_decay=0.5, adjust_lr_fn=theirs),
    )
    for step in range(4):
        feed(lists, step)
        for optimizer in optimizers:
            optimizer.step()
    for p, a, b in zip(start, *lists, strict=True):
        assert (a - b).norm() < 0.01 * (a - p).norm()


def test_muon_stacks_equal_shapes_and_steps_each_alone():
    shapes = [(4, 6), (6, 4), (4, 6)]
    lists = twins(shapes)
    together = Muon(lists[0], lr=0.1)
    alone = [Muon([p], lr=0.1) for p in lists[1]]
    for step in range(3):
        feed(lists, step, idle={step})
        together.step()
        for optimizer in alone:
            optimizer.step()
    for a, b in zip(*lists, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(64, 64), (64, 192), (192, 64)])
def test_the_adamw_scale_gives_steps_of_root_mean_square_one_fifth(shape):
    g = torch.Generator().manual_seed(0)
    p = torch.zeros(shape, requires_grad=True)
    p.grad = torch.randn(shape, generator=g)
    Muon([p], lr=1.0).step()
    assert p.detach().square().mean().sqrt() == pytest.approx(0.2, rel=0.2)


# ---------------------------------------------------------------- groups, clipping


class Model(nn.Module):
    def __init__(self, tied=False):
        super().__init__()
        self.token = nn.Embedding(7, 4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
        self.head = nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.token.weight


def names(model, params):
    ids = {id(p) for p in params}
    return [name for name, p in model.named_parameters() if id(p) in ids]


def test_groups_decay_matrices_only():
    model = Model()
    model.block[2].requires_grad_(False)
    decay, rest = parameter_groups(model.parameters(), 0.3)
    due = ["token.weight", "block.0.weight", "head.weight"]
    assert names(model, decay["params"]) == due
    due = ["block.0.bias", "block.1.weight", "block.1.bias"]
    assert names(model, rest["params"]) == due
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.3, 0.0)


@pytest.mark.parametrize("tied", [False, True])
def test_muon_gets_the_hidden_matrices(tied):
    model = Model(tied)
    hidden, rest = split_hidden(model)
    assert names(model, hidden) == ["block.0.weight", "block.2.weight"]
    assert len(hidden) + len(rest) == len(list(model.parameters()))
    muon, adamw = muon_and_adamw(model, lr=0.01, weight_decay=0.2)
    assert isinstance(muon, Muon)
    groups = [*muon.param_groups, *adamw.param_groups]
    assert [g["lr"] for g in groups] == [0.01] * 3
    assert [g["weight_decay"] for g in groups] == [0.2, 0.2, 0.0]


def test_an_unknown_read_out_is_named():
    with pytest.raises(ValueError, match="no module is named 'lm_head'.*token, block"):
        split_hidden(Model(), read_out=("lm_head",))


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_clipping_equals_pytorchs(size):
    lists = twins()
    feed(lists, 0, idle={1})
    for params in lists:
        for p in params:
            if p.grad is not None:
                p.grad.mul_(size)
    ours = clip_grad_norm(lists[0], 1.0)
    theirs = torch.nn.utils.clip_grad_norm_(lists[1], 1.0)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*lists, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_clipping_shows_nan_and_refuses_nonsense():
    p = torch.zeros(2, requires_grad=True)
    with pytest.raises(ValueError, match="call backward before"):
        clip_grad_norm([p], 1.0)
    with pytest.raises(ValueError, match="max_norm=0 must be above 0"):
        clip_grad_norm([p], 0)
    p.grad = torch.tensor([1.0, float("nan")])
    assert clip_grad_norm([p], 1.0).isnan()
