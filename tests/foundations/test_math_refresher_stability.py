"""The numerics monitor blames the place where a bad number was born."""

import math

import pytest
import torch
from torch import nn

from posttrain.foundations.numerics_monitor import MEANING, NumericsMonitor


class Net(nn.Module):
    """a -> act -> b with a residual, and a place for plain code in each gap."""

    def __init__(self, **faults):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.act, self.b = nn.Linear(4, 4), nn.ReLU(inplace=True), Head()
        self.faults = faults

    def forward(self, x):
        between = self.faults.get("between", lambda h: h)
        after = self.faults.get("after", lambda y: y)
        h = self.act(self.a(x))
        return after(self.b(between(h), h=h) + x)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.inside = lambda y: y

    def forward(self, x, h):
        return self.inside(self.linear(x)) + 0 * h


def find(net, x=None, loss=lambda y: y.sum(), **options):
    x = torch.ones(2, 4) if x is None else x
    with NumericsMonitor(net, **options) as monitor:
        loss(net(x)).backward()
    return monitor


def place(net, **options):
    first = find(net, **options).first
    return None if first is None else (first.module, first.where, first.kind)


def test_a_healthy_model_has_no_finding():
    monitor = find(Net())
    assert monitor.first is None
    watched = {module for module, _ in monitor.peaks}
    assert watched == {"(model)", "a", "act", "b", "b.linear"}
    assert {where for _, where in monitor.peaks} == set(MEANING)


def test_outputs_and_gradients_stay_bit_identical():
    x = torch.randn(3, 4)
    plain, watched = Net(), Net()
    plain(x).sum().backward()
    with NumericsMonitor(watched):
        y = watched(x)
        y.sum().backward()
    assert y.equal(plain(x))
    for p, w in zip(plain.parameters(), watched.parameters(), strict=True):
        assert p.grad.equal(w.grad)


def test_bad_data():
    x = torch.ones(2, 4)
    x[0, 1] = math.nan
    assert place(Net(), x=x) == ("(model)", "input", "nan")


def test_bad_weight():
    net = Net()
    with torch.no_grad():
        net.b.linear.bias[2] = math.inf
    first = find(net).first
    assert (first.module, first.where, first.name) == ("b.linear", "weight", "bias")
    assert (first.bad, first.size, first.shape) == (1, 4, (4,))
    assert first.largest == pytest.approx(net.b.linear.bias[:2].abs().max().item(), 1)
    assert "inf in b.linear, weight bias (4,) float32: 1 of 4" in str(first)
    assert "the last update, or the checkpoint, wrote it" in str(first)


def test_a_module_overflows():
    net = Net()
    with torch.no_grad():
        net.b.linear.weight.fill_(3e38)
    x = torch.full((2, 4), 100.0)
    assert place(net, x=x) == ("b.linear", "output", "inf")


def test_plain_code_before_after_and_inside_a_module():
    def bad(h):
        return h / 0

    assert place(Net(between=bad)) == ("b", "input", "nan")
    assert place(Net(after=bad)) == ("(model)", "output", "inf")
    net = Net()
    net.b.inside = bad
    assert place(net) == ("b", "output", "inf")


def test_a_gradient_that_the_loss_makes():
    net = Net()
    found = place(net, loss=lambda y: (y - y.detach()).norm(dim=-1).sqrt().sum())
    assert found[:2] == ("(model)", "gradient at output")


class Root(nn.Module):
    """sqrt is finite at 0, its derivative is not."""

    def forward(self, x):
        return x.clamp(min=0).sqrt()


class Branches(nn.Module):
    """Two readers of one tensor; only one of them makes a bad gradient."""

    def __init__(self):
        super().__init__()
        self.good, self.bad = nn.Identity(), Root()

    def forward(self, x):
        x = x * 1.0
        return self.good(x) + self.bad(x)


def test_the_blame_for_a_shared_tensor_falls_on_one_reader():
    x = torch.zeros(3, requires_grad=True)
    assert place(Branches(), x=x) == ("bad", "gradient at input", "inf")


def test_a_weight_gradient_that_overflows():
    net = nn.Sequential(nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(1e-30)
    x = torch.full((1, 1), 1e30)
    found = place(net, x=x, loss=lambda y: (1e10 * y).sum())
    assert found == ("0", "gradient of weight", "inf")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_overflow_is_a_question_of_the_limit(dtype):
    net = nn.Sequential(nn.Identity(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[1].weight.fill_(1e3)
    x = torch.full((1, 2), 100.0)
    found = place(net, x=x, limit=dtype)
    assert found == (("1", "output", "overflow") if dtype == torch.float16 else None)
    first = find(net, x=x, limit=torch.float16).first
    assert first is not None and first.largest == 2e5


def test_headroom_counts_doublings():
    net = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(1024.0)
    with NumericsMonitor(net) as monitor:
        for size in (4.0, 1.0):  # the larger of the two counts
            net(torch.full((1, 2), size))
    least = monitor.headroom(torch.float16)[0]
    assert least[0] == pytest.approx(math.log2(65504 / 8192))
    assert least[2] == "output"


def test_step_and_silence_after_the_first():
    net = nn.Linear(2, 1)
    with NumericsMonitor(net) as monitor:
        for monitor.step in range(5):
            x = torch.ones(1, 2) * (math.nan if monitor.step >= 3 else 1)
            net(x).sum().backward()
    assert monitor.first.step == 3
    assert str(monitor.first).startswith("step 3: nan in (model), input")


def test_stop_raises_where_it_happens():
    net = Net(between=lambda h: h * math.nan)
    with (
        pytest.raises(FloatingPointError, match="nan in b, input"),
        NumericsMonitor(net, stop=True),
    ):
        net(torch.ones(2, 4))


def test_hooks_are_gone_afterwards():
    net = Net()
    with NumericsMonitor(net) as monitor:
        late = net(torch.ones(2, 4)).sum()
    seen = dict(monitor.peaks)
    late.backward()
    net(torch.full((2, 4), math.nan)).sum().backward()
    assert monitor.first is None and monitor.peaks == seen
    for module in net.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_one_tensor_given_twice_stays_one():
    class Same(nn.Module):
        def forward(self, q, k, v=None):
            assert q is k and k is v
            return q + k + v

    x = torch.ones(2, requires_grad=True)
    same = Same()
    with NumericsMonitor(same):
        same(x, x, v=x).sum().backward()
    assert x.grad.tolist() == [3, 3]


def test_whole_numbers_and_empty_tensors_are_left_alone():
    net = nn.Embedding(3, 2)
    with NumericsMonitor(net) as monitor:
        net(torch.tensor([0, 2]))
        net(torch.zeros(0, dtype=torch.long))
    assert monitor.first is None
    assert ("(model)", "input") not in monitor.peaks
