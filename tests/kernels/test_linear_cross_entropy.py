"""Linear layer and loss in chunks: values, gradients, memory, refusals."""

import pytest
import torch
import torch.nn.functional as F
from posttrain_kernels import lab
from posttrain_kernels.linear_cross_entropy import (
    cost,
    default_chunk_rows,
    linear_cross_entropy,
    loss_and_gradients,
    reference,
)
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker


def batch(N, C, V, device="cpu", dtype=torch.float32):
    x = torch.randn(N, C, device=device, dtype=dtype)
    weight = torch.randn(V, C, device=device, dtype=dtype) / C**0.5
    target = torch.randint(V, (N,), device=device)
    target[2::3] = -100
    return x, weight, target


@pytest.mark.parametrize(
    ("shape", "chunk_rows"),
    [((7, 33, 101), 3), ((8, 16, 5000), 4), ((5, 64, 19), None)],
)
def test_values_and_gradients(compare, device, dtype, shape, chunk_rows):
    """With a gradient of the loss that is not 1, and a last chunk that is cut off."""
    x, weight, target = batch(*shape, device, dtype)
    compare(
        ("loss", "dx", "dweight"),
        lambda x, w: linear_cross_entropy(x, w, target, chunk_rows=chunk_rows),
        lambda x, w: reference(x, w, target),
        [x, weight],
        torch.tensor(0.37, device=device),
    )


def test_sum_and_another_mark_for_ignored_rows(device, gradients):
    x, weight, target = batch(6, 8, 10, device)
    more = {"ignore_index": 4, "reduction": "sum"}
    target = target.clamp(min=4)

    def theirs(x, w):
        return F.cross_entropy(x @ w.t(), target, **more)

    def ours(x, w):
        return linear_cross_entropy(x, w, target, chunk_rows=4, **more)

    one = torch.ones((), device=device)
    results = [gradients(f, [x, weight], one) for f in (ours, theirs)]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("frozen", ["x", "weight", "both"])
def test_only_what_is_asked_for_is_computed(frozen):
    x, weight, target = batch(6, 8, 10)
    x.requires_grad_(frozen == "weight")
    weight.requires_grad_(frozen == "x")
    loss = linear_cross_entropy(x, weight, target, chunk_rows=4)
    torch.testing.assert_close(loss, reference(x, weight, target))
    assert loss.requires_grad == (frozen != "both")
    if frozen != "both":
        loss.backward()
    assert (x.grad is None, weight.grad is None) == (frozen != "weight", frozen != "x")
    _, dx, dweight = loss_and_gradients(
        x.detach(), weight.detach(), target, -100, True, 4, False, False
    )
    assert dx.numel() == dweight.numel() == 0


def peak_gib(loss, N=4 * 4096, C=4096, V=128 * 1024, trained=True):
    """Peak memory of a training step at full size, by tensors without memory."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(N, C, dtype=torch.bfloat16, requires_grad=True)
        weight = torch.empty(V, C, dtype=torch.bfloat16, requires_grad=trained)
        target = torch.empty(N, dtype=torch.int64)
        tracker = MemTracker()
        with tracker:
            loss(x, weight, target).backward()
    peak = tracker.get_tracker_snapshot("peak")
    return max(device["Total"] for device in peak.values()) / 2**30


@pytest.mark.parametrize(("trained", "most"), [(True, 4.5), (False, 1.6)])
def test_memory_at_full_size(monkeypatch, trained, most):
    """16384 tokens of 4096 channels, a vocabulary of 128K: less than half is asked.

    The operator's own fake allocates results only; its loop is put in its place, so
    that the buffers of the chunks are counted.
    """
    operators = torch.ops.posttrain_kernels
    naive = peak_gib(reference, trained=trained)
    assert naive > 20
    monkeypatch.setattr(operators, "linear_cross_entropy", loss_and_gradients)
    ours = peak_gib(linear_cross_entropy, trained=trained)
    assert ours <= naive / 2
    assert ours <= most


def test_memory_on_a_gpu(gpu):
    """The same, measured by the allocator; smaller, so that it fits a T4."""
    peaks = []
    for loss in (reference, linear_cross_entropy):
        x, weight, target = batch(8192, 2048, 64 * 1024, gpu, torch.bfloat16)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss(x.requires_grad_(), weight.requires_grad_(), target).backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        x.grad = weight.grad = None
    assert peaks[1] <= peaks[0] / 2


def test_compiles_into_one_graph(gradients):
    x, weight, target = batch(6, 8, 10)
    graph = torch.compile(
        linear_cross_entropy, fullgraph=True, backend="aot_eager", dynamic=True
    )
    results = [
        gradients(lambda x, w, f=f: f(x, w, target), [x, weight], torch.tensor(0.5))
        for f in (graph, linear_cross_entropy)
    ]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("strict", [False, True])
def test_the_operator_is_registered_well(strict):
    x, weight, target = batch(5, 16, 9)
    operator = torch.ops.posttrain_kernels.linear_cross_entropy.default
    with lab.strict() if strict else torch.no_grad():
        for chunk, *needs in ((2, True, True), (None, False, True), (5, False, False)):
            inputs = (x, weight, target, -100, True, chunk, *needs)
            torch.library.opcheck(operator, inputs)


def test_what_it_does_not_take():
    x, weight, target = batch(6, 8, 10)
    with pytest.raises(TypeError, match="x is torch.float32 and weight torch.float16"):
        linear_cross_entropy(x, weight.half(), target)
    with pytest.raises(TypeError, match=r"call target.long\(\)"):
        linear_cross_entropy(x, weight, target.int())
    with pytest.raises(ValueError, match=r"x \(6, 8\), weight \(8, 10\) and target"):
        linear_cross_entropy(x, weight.t(), target)
    with pytest.raises(ValueError, match=r"call x.contiguous\(\) first"):
        linear_cross_entropy(torch.randn(8, 6).t(), weight, target)
    with pytest.raises(ValueError, match="reduction='none' is neither"):
        linear_cross_entropy(x, weight, target, reduction="none")
    with pytest.raises(ValueError, match="chunk_rows=0"):
        linear_cross_entropy(x, weight, target, chunk_rows=0)
    with pytest.raises(ValueError, match="several devices"):
        linear_cross_entropy(x, weight, target.to("meta"))


def test_chunks_and_cost():
    assert default_chunk_rows(4 * 4096, 128 * 1024, 4096) == 512
    assert default_chunk_rows(1, 1000, 8) == 1
    assert cost(16, 8, 32, torch.bfloat16).flops == 6 * 16 * 8 * 32
    assert cost(16, 8, 32, torch.bfloat16).bytes == 2 * 2 * (16 * 8 + 32 * 8)
