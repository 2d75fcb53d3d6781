"""Cross-entropy: values, gradients, machine code, registration, refusals."""

import pytest
import torch
import torch.nn.functional as F
from posttrain_kernels import lab
from posttrain_kernels.cross_entropy import cost, cross_entropy, reference

OPERATORS = torch.ops.posttrain_kernels


def batch(N, V, device="cpu", dtype=torch.float32):
    """Logits (N, V) and targets (N,), every third of them ignored."""
    logits = 3 * torch.randn(N, V, device=device, dtype=dtype)
    target = torch.randint(V, (N,), device=device)
    target[2::3] = -100
    return logits, target


@pytest.mark.parametrize("shape", [(1, 1), (5, 17), (4, 4096), (3, 9001)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_values_and_gradients(compare, device, dtype, shape, reduction):
    """The peer upcasts to fp32 as training code does."""
    logits, target = batch(*shape, device, dtype)
    dy = torch.randn(shape[0] if reduction == "none" else (), device=device)
    compare(
        ("loss", "dlogits"),
        lambda x: cross_entropy(x, target, reduction=reduction),
        lambda x: F.cross_entropy(
            x if x.dtype == torch.float64 else x.float(), target, reduction=reduction
        ),
        [logits],
        dy,
    )


def test_the_reference_is_cross_entropy():
    logits, target = batch(5, 7)
    due = F.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(reference(logits, target), due)


def test_edges(device, gradients):
    """-inf for most of a row, huge logits, ties, another mark for ignored rows."""
    inf = float("inf")
    logits = torch.full((4, 5000), -inf, device=device)
    logits[0, 4999], logits[1, :2] = 3.0, 7.0
    logits[2] = torch.linspace(-1e4, 1e4, 5000)
    logits[3] = 0.0
    target = torch.tensor([4999, 1, 4998, 3], device=device)
    for f in ({"reduction": "sum"}, {"ignore_index": 3}):
        ours, due = (
            gradients(lambda x, g=g, f=f: g(x, target, **f), [logits], torch.ones(()))
            for g in (cross_entropy, F.cross_entropy)
        )
        for a, b in zip(ours, due, strict=True):
            torch.testing.assert_close(a.cpu(), b.cpu())


def test_a_target_outside_of_the_vocabulary_gives_nan(device, gradients):
    logits, _ = batch(3, 8, device)
    target = torch.tensor([8, -1, 2], device=device)
    losses, dlogits = gradients(
        lambda x: cross_entropy(x, target, reduction="none"),
        [logits],
        torch.ones(3, device=device),
    )
    assert losses.isnan().tolist() == [True, True, False]
    assert dlogits.isnan().all(1).tolist() == [True, True, False]


def test_rows_of_a_view_and_no_rows(device):
    logits, target = batch(6, 40, device)
    view = logits[:, 3:20]
    target = target.clamp(max=16)
    due = F.cross_entropy(view, target)
    torch.testing.assert_close(cross_entropy(view, target), due)
    assert cross_entropy(view[:0], target[:0], reduction="none").shape == (0,)
    assert cross_entropy(view[:2], torch.full_like(target[:2], -100)).isnan()


def test_a_gradient_without_strides_of_its_own(device, gradients):
    """As losses.sum().backward() gives it: one number, expanded."""
    logits, target = batch(4, 9, device)
    ours, due = (
        gradients(
            lambda x, f=f: f(x, target, reduction="none"),
            [logits],
            torch.ones((), device=device).expand(4),
        )
        for f in (cross_entropy, F.cross_entropy)
    )
    for a, b in zip(ours, due, strict=True):
        torch.testing.assert_close(a, b)


def test_the_gradient_may_overwrite_the_logits(device, dtype):
    logits, target = batch(5, 4100, device, dtype)
    dloss = torch.rand(5, device=device)
    _, m, d = OPERATORS.cross_entropy_forward(logits, target, -100)
    due = OPERATORS.cross_entropy_backward(logits, target, m, d, dloss, -100)
    OPERATORS.cross_entropy_backward_(logits, target, m, d, dloss, -100)
    assert torch.equal(logits, due)


@pytest.mark.parametrize("arch", [75, 80, 90])
def test_compiles_without_spills_and_with_wide_loads(arch):
    dtype = torch.float16 if arch == 75 else torch.bfloat16
    logits, target = batch(2, 128 * 1024, dtype=dtype)
    with lab.compiled(arch) as log:
        cross_entropy(logits.requires_grad_(), target).backward()
    assert len(log) == 2
    for launch in log:
        assert launch.spills == 0, launch
        assert launch.loads[128] == 2, launch  # 16 numbers a thread: each read once
    assert log[1].stores[128] == 2, log[1]


@pytest.mark.parametrize("arch", [75, 80, 90])
def test_an_odd_vocabulary_does_not_spill(arch):
    logits, target = batch(2, 50257, dtype=torch.float16)
    with lab.compiled(arch) as log:
        cross_entropy(logits.requires_grad_(), target).backward()
    assert [launch.spills for launch in log] == [0, 0]


def test_compiles_into_one_graph(gradients):
    logits, target = batch(5, 33)
    graph = torch.compile(
        cross_entropy, fullgraph=True, backend="aot_eager", dynamic=True
    )
    ours, due = (
        gradients(lambda x, f=f: f(x, target), [logits], torch.ones(()))
        for f in (graph, cross_entropy)
    )
    for a, b in zip(ours, due, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("strict", [False, True])
def test_operators_are_registered_well(strict):
    logits, target = batch(3, 9)
    more = (logits.amax(1), 1 + torch.rand(3), torch.rand(3))
    with lab.strict() if strict else torch.no_grad():
        for operator, inputs in (
            (OPERATORS.cross_entropy_forward, (logits, target)),
            (OPERATORS.cross_entropy_backward, (logits, target, *more)),
            (OPERATORS.cross_entropy_backward_, (logits, target, *more)),
        ):
            torch.library.opcheck(operator.default, (*inputs, -100))


def test_what_it_does_not_take():
    logits, target = batch(4, 9)
    with pytest.raises(TypeError, match="logits are torch.float64"):
        cross_entropy(logits.double(), target)
    with pytest.raises(TypeError, match=r"target is torch.int32; call target.long\(\)"):
        cross_entropy(logits, target.int())
    with pytest.raises(ValueError, match=r"logits \(2, 2, 9\) and target \(4,\) must"):
        cross_entropy(logits.view(2, 2, 9), target)
    with pytest.raises(ValueError, match=r"strides \(1, 4\).*call .contiguous\(\)"):
        cross_entropy(torch.randn(9, 4).t(), target)
    with pytest.raises(ValueError, match="reduction='average' is none of"):
        cross_entropy(logits, target, reduction="average")
    with pytest.raises(ValueError, match="several devices"):
        cross_entropy(logits, target.to("meta"))


def test_cost_counts_each_byte_once():
    assert cost(4, 8, torch.bfloat16).bytes == 2 * 32 + 4 * 20
    assert cost(4, 8, torch.bfloat16, backward=True).bytes == 2 * 2 * 32 + 4 * 20
