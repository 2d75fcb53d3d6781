"""Softmax: values, gradients, machine code, registration, refusals."""

import pytest
import torch
from posttrain_kernels import lab
from posttrain_kernels.softmax import MAX_COLUMNS, cost, reference, softmax

SHAPES = [(1, 1), (3, 17), (2, 3, 64), (9, 257), (2, 4100)]


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(compare, device, dtype, shape):
    x, dy = 3 * torch.randn(2, *shape, device=device, dtype=dtype)
    peer = lambda x: torch.softmax(x, -1)  # noqa: E731
    compare(("y", "dx"), softmax, peer, [x], dy)


def test_the_reference_is_softmax():
    x = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(reference(x), x.softmax(-1))


def test_edges(device):
    """Huge logits, -inf, ties, a row that PyTorch makes NaN, no rows at all."""
    inf = float("inf")
    rows = [[1e4, -1e4, 0], [-inf, 2, 2], [7, 7, 7], [-inf, -inf, -inf]]
    x = torch.tensor(rows, device=device)
    torch.testing.assert_close(softmax(x), torch.softmax(x, -1), equal_nan=True)
    assert softmax(x[:0]).shape == (0, 3)


def test_a_gradient_without_strides_of_its_own(device, gradients):
    """As y.sum().backward() gives it: one number, expanded."""
    x, scale = torch.randn(2, 3, 5, device=device)
    dy = scale[:, :1].expand(3, 5)
    peer = lambda x: torch.softmax(x, -1)  # noqa: E731
    ours, due = (gradients(f, [x], dy) for f in (softmax, peer))
    for a, b in zip(ours, due, strict=True):
        torch.testing.assert_close(a, b)


def test_rows_of_a_view_are_read_where_they_are(device):
    x = torch.randn(4, 3, 40, device=device)
    for view in (x[..., 5:22], x[:, 1], x[1:3]):
        torch.testing.assert_close(softmax(view), torch.softmax(view, -1))


def assert_lean(log, count):
    """No spills, and every access 128 bits wide."""
    assert len(log) == count
    for launch in log:
        assert launch.spills == 0, launch
        assert set(launch.loads) == set(launch.stores) == {128}, launch


@pytest.mark.parametrize("arch", [75, 80, 90])
def test_compiles_without_spills_and_with_wide_loads(arch):
    dtype = torch.float16 if arch == 75 else torch.bfloat16
    with lab.compiled(arch) as log:
        softmax(torch.randn(4, 4096, dtype=dtype, requires_grad=True)).sum().backward()
    assert_lean(log, 2)


def test_short_rows_and_the_longest_are_lean_too():
    with lab.compiled(arch=90) as log:
        softmax(torch.randn(99, 128, dtype=torch.bfloat16))
        softmax(torch.randn(1, MAX_COLUMNS, requires_grad=True)).sum().backward()
    assert_lean(log, 3)


@pytest.mark.parametrize("arch", [75, 80, 90])
@pytest.mark.parametrize("n_cols", [17, MAX_COLUMNS - 1])
def test_rows_of_an_odd_length_do_not_spill(arch, n_cols):
    with lab.compiled(arch) as log:
        x = torch.randn(9, n_cols, dtype=torch.float16, requires_grad=True)
        softmax(x).sum().backward()
    assert [launch.spills for launch in log] == [0, 0]


def test_compiles_into_one_graph(gradients):
    x, dy = torch.randn(2, 5, 33)
    graph = torch.compile(softmax, fullgraph=True, backend="aot_eager", dynamic=True)
    ours, due = (gradients(f, [x], dy) for f in (graph, softmax))
    for a, b in zip(ours, due, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("strict", [False, True])
def test_operators_are_registered_well(strict):
    x, dy = torch.randn(2, 3, 5, 9)
    operators = torch.ops.posttrain_kernels
    with lab.strict() if strict else torch.no_grad():
        torch.library.opcheck(operators.softmax_forward.default, (x,))
        torch.library.opcheck(operators.softmax_backward.default, (dy, x.softmax(-1)))


def test_what_it_does_not_take():
    with pytest.raises(TypeError, match="x is torch.int64; cast it to float32"):
        softmax(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"shape \(1, 16385\).* 1 to 16384 long"):
        softmax(torch.empty(1, MAX_COLUMNS + 1))
    with pytest.raises(ValueError, match=r"strides \(1, 3\).*call x.contiguous\(\)"):
        softmax(torch.randn(4, 3).t())
    with pytest.raises(ValueError, match="one stride"):
        softmax(torch.randn(4, 3, 8).transpose(0, 1))


def test_cost_counts_each_byte_once():
    assert cost(4, 8, torch.bfloat16).bytes == 2 * 4 * 8 * 2
    assert cost(4, 8, torch.float32, backward=True).bytes == 3 * 4 * 8 * 4
    limit = cost(1000, 1000, torch.bfloat16).seconds(4e12, 1e15)
    assert limit == pytest.approx(4e6 / 4e12)
