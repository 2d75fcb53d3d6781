"""RMSNorm: values, gradients, machine code, registration, refusals."""

import pytest
import torch
from posttrain_kernels import lab
from posttrain_kernels.rms_norm import MAX_COLUMNS, cost, reference, rms_norm

SHAPES = [(1, 2), (3, 17), (37, 4, 65), (11, 1000), (2, 4100)]


def peer(x, weight):
    return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, 1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(compare, device, dtype, shape):
    x, dy = torch.randn(2, *shape, device=device, dtype=dtype)
    weight = torch.randn(shape[-1], device=device, dtype=dtype)
    compare(("y", "dx", "dweight"), rms_norm, peer, [x, weight], dy)


def test_the_reference_is_rms_norm():
    x, weight = torch.randn(3, 5, dtype=torch.float64), torch.randn(5).double()
    torch.testing.assert_close(reference(x, weight), peer(x, weight))


def test_a_weight_in_another_dtype(device, gradients):
    x, dy = torch.randn(2, 6, 64, device=device, dtype=torch.bfloat16)
    weight = torch.randn(64, device=device)
    y, dx, dweight = gradients(rms_norm, [x, weight], dy)
    assert (y.dtype, dx.dtype) == (torch.bfloat16, torch.bfloat16)
    _, _, due = gradients(peer, [x.float(), weight], dy.float())
    torch.testing.assert_close(dweight, due, rtol=1e-5, atol=1e-5)


def test_edges(device, gradients):
    """A row of zeros, tiny and huge rows, a view, no rows at all."""
    x = torch.tensor([[0.0, 0, 0], [1e-3, 0, 0], [1e15, -1e15, 3]], device=device)
    weight = torch.tensor([1.0, 2, 3], device=device)
    torch.testing.assert_close(rms_norm(x, weight), peer(x, weight))
    thin, one = torch.randn(4, 1, device=device), torch.randn(1, device=device)
    torch.testing.assert_close(rms_norm(thin, one), peer(thin, one))
    view = torch.randn(5, 9, device=device)[:, 2:5]
    for rows in (view, view[:0]):
        dy = torch.ones_like(rows)
        ours, due = (gradients(f, [rows, weight], dy) for f in (rms_norm, peer))
        for a, b in zip(ours, due, strict=True):
            torch.testing.assert_close(a, b)


def test_a_gradient_without_strides_of_its_own(device, gradients):
    """As y.sum().backward() gives it: one number, expanded."""
    x, weight = torch.randn(3, 5, device=device), torch.randn(5, device=device)
    dy = torch.ones((), device=device).expand(3, 5)
    ours, due = (gradients(f, [x, weight], dy) for f in (rms_norm, peer))
    for a, b in zip(ours, due, strict=True):
        torch.testing.assert_close(a, b)


def test_the_gradient_is_the_same_every_time(device, gradients):
    x, dy = torch.randn(2, 300, 40, device=device)
    weight = torch.randn(40, device=device)
    first, second = (gradients(rms_norm, [x, weight], dy) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def assert_lean(log):
    """No spills, and rows move 128 bits at a time."""
    assert len(log) == 2
    for launch in log:
        assert launch.spills == 0, launch
        assert launch.loads[128] >= 2, launch
        assert launch.stores[128] >= 2, launch


@pytest.mark.parametrize("arch", [75, 80, 90])
def test_compiles_without_spills_and_with_wide_loads(arch):
    dtype = torch.float16 if arch == 75 else torch.bfloat16
    with lab.compiled(arch) as log:
        x = torch.randn(9, 4096, dtype=dtype, requires_grad=True)
        weight = torch.randn(4096, dtype=dtype, requires_grad=True)
        rms_norm(x, weight).sum().backward()
    assert_lean(log)


@pytest.mark.parametrize("n_cols", [128, MAX_COLUMNS])
def test_short_rows_and_the_longest_are_lean_too(n_cols):
    with lab.compiled(arch=90) as log:
        x = torch.randn(99, n_cols, dtype=torch.bfloat16, requires_grad=True)
        weight = torch.randn(n_cols, dtype=torch.bfloat16, requires_grad=True)
        rms_norm(x, weight).sum().backward()
    assert_lean(log)


@pytest.mark.parametrize("arch", [75, 80, 90])
def test_rows_of_an_odd_length_do_not_spill(arch):
    """The longest: their loads are narrow and take more registers for addresses."""
    dtype = torch.float16 if arch == 75 else torch.bfloat16
    with lab.compiled(arch) as log:
        x = torch.randn(9, MAX_COLUMNS - 1, dtype=dtype, requires_grad=True)
        weight = torch.randn(MAX_COLUMNS - 1, dtype=dtype, requires_grad=True)
        rms_norm(x, weight).sum().backward()
    assert [launch.spills for launch in log] == [0, 0]


def test_compiles_into_one_graph(gradients):
    x, dy = torch.randn(2, 5, 33)
    weight = torch.randn(33)
    compiled = torch.compile(
        rms_norm, fullgraph=True, backend="aot_eager", dynamic=True
    )
    for got, due in zip(
        gradients(compiled, [x, weight], dy),
        gradients(rms_norm, [x, weight], dy),
        strict=True,
    ):
        torch.testing.assert_close(got, due)


@pytest.mark.parametrize("strict", [False, True])
def test_operators_are_registered_well(strict):
    x, dy = torch.randn(2, 3, 5, 9)
    weight, r = torch.randn(9), torch.rand(15)
    operators = torch.ops.posttrain_kernels
    with lab.strict() if strict else torch.no_grad():
        torch.library.opcheck(operators.rms_norm_forward.default, (x, weight, 1e-6))
        torch.library.opcheck(operators.rms_norm_backward.default, (dy, x, weight, r))


def test_what_it_does_not_take():
    x, weight = torch.randn(2, 3), torch.randn(3)
    with pytest.raises(TypeError, match="x is torch.float64; cast it to float32"):
        rms_norm(x.double(), weight)
    with pytest.raises(TypeError, match="weight is torch.int64"):
        rms_norm(x, torch.ones(3, dtype=torch.int64))
    with pytest.raises(
        ValueError, match=r"shape \(2,\).*needs a contiguous weight of \(3"
    ):
        rms_norm(x, weight[:2])
    with pytest.raises(ValueError, match=r"1 to 8192 long"):
        rms_norm(torch.empty(1, MAX_COLUMNS + 1), weight)
    with pytest.raises(ValueError, match=r"call x.contiguous\(\)"):
        rms_norm(torch.randn(3, 2).t(), weight)
    with pytest.raises(ValueError, match="several devices: .*meta"):
        rms_norm(x, weight.to("meta"))


def test_cost_counts_each_byte_once():
    assert cost(4, 8, torch.bfloat16).bytes == 2 * (2 * 32 + 8) + 4 * 4
    assert cost(4, 8, torch.float32, backward=True).bytes == 4 * (3 * 32 + 16) + 4 * 4
