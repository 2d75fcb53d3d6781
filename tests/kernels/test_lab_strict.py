"""A test of the tests: planted faults, each of which the strict mode must catch."""

import contextlib
import re
import runpy
import textwrap
import weakref

import pytest
import torch
import triton
import triton.language as tl
from posttrain_kernels import lab


@triton.jit
def row_sum_kernel(x_ptr, y_ptr, stride, n_cols, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * stride + cols, mask=cols < n_cols, other=0.0)
    tl.store(y_ptr + row, tl.sum(x.to(tl.float32), axis=0))


@triton.jit
def no_mask_kernel(x_ptr, y_ptr, stride, n_cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * stride + cols)
    tl.store(y_ptr + row, tl.sum(x, axis=0))


@triton.jit
def no_mask_store_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0)
    tl.store(y_ptr + i, x)


@triton.jit
def no_other_kernel(x_ptr, y_ptr, stride, n_cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * stride + cols, mask=cols < n_cols)
    # the stock interpreter fills in 0 and ignores NaN: the maximum looks right
    tl.store(y_ptr + row, tl.max(x, axis=0))


@triton.jit
def race_kernel(x_ptr, y_ptr, stride, n_cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * stride + cols, mask=cols < n_cols, other=0.0)
    total = tl.load(y_ptr)
    tl.store(y_ptr, total + tl.sum(x, axis=0))


@triton.jit
def atomic_kernel(x_ptr, y_ptr, stride, n_cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * stride + cols, mask=cols < n_cols, other=0.0)
    tl.atomic_add(y_ptr, tl.sum(x, axis=0))


@triton.jit
def neighbour_kernel(x_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    right = tl.load(x_ptr + i + 1, mask=i + 1 < n, other=0.0)
    tl.store(x_ptr + i, right, mask=i < n)


@triton.jit
def int32_offset_kernel(x_ptr, y_ptr, stride, n_cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * stride + cols, mask=cols < n_cols, other=0)
    tl.store(y_ptr + row, tl.sum(x.to(tl.float32), axis=0))


@triton.jit
def dense_rows_kernel(x_ptr, y_ptr, stride, n_cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * n_cols + cols, mask=cols < n_cols, other=0.0)
    tl.store(y_ptr + row, tl.sum(x, axis=0))


@triton.jit
def half_kernel(x_ptr, y_ptr, n, ROUNDING: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0) / 3
    y = x.to(y_ptr.dtype.element_ty, fp_downcast_rounding=ROUNDING)
    tl.store(y_ptr + i, y, mask=i < n)


@triton.jit
def colliding_lanes_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0)
    tl.store(y_ptr + i // 2, x, mask=i < n)


@triton.jit
def forgotten_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0)
    tl.store(y_ptr + i, x, mask=i < n - 1)


def sums(kernel, x, rows=None, y=None, dtype=torch.float32):
    """Launch one of the kernels of (x, y, stride, n_cols) on the rows of x."""
    y = torch.empty(x.shape[0], dtype=dtype) if y is None else y
    block = triton.next_power_of_2(x.shape[1])
    grid = (x.shape[0] if rows is None else rows,)
    kernel[grid](x, y, x.stride(0), x.shape[1], BLOCK=block)
    return y


def copy(kernel, n=5, **more):
    x, y = torch.randn(n), torch.empty(n)
    kernel[(1,)](x, y, n, BLOCK=8, **more)
    return x, y


def huge_rows(dtype=torch.int8):
    """Three rows so far apart that the last begins past 2^31; memory is not touched."""
    x = torch.empty_strided((3, 8), (2**30, 1), dtype=dtype)
    return x.copy_(torch.arange(24).view(3, 8))


def raised(kind, kernel, *arguments, launch=sums, **more) -> str:
    with pytest.raises(kind) as caught, lab.strict():
        launch(kernel, *arguments, **more)
    message = str(caught.value)
    name = kernel.__name__
    assert re.match(rf"{name}, program \(\d+, 0, 0\), line \d+ `.+`: ", message)
    return message


def line(message: str) -> str:
    return message.split("`")[1]


def test_a_right_kernel_passes_and_gives_right_numbers():
    x = torch.randn(7, 11)
    with lab.strict():
        torch.testing.assert_close(sums(row_sum_kernel, x), x.sum(1))
        torch.testing.assert_close(sums(row_sum_kernel, x[:, 2:9]), x[:, 2:9].sum(1))


def test_a_load_without_mask():
    message = raised(lab.OutOfBounds, no_mask_kernel, torch.randn(1, 5))
    assert line(message) == "x = tl.load(x_ptr + row * stride + cols)"
    assert "3 of 8 lanes of x_ptr (shape (1, 5)" in message
    assert "lane 5 goes to element 5 of the storage (byte 20 of 20)" in message


def test_the_example_of_the_laboratory_says_what_happens(tmp_path, capsys):
    lines = [line for line in lab.__doc__.splitlines() if not line or line[0] == " "]
    (tmp_path / "example.py").write_text(textwrap.dedent("\n".join(lines)).lstrip())
    said = (
        r"program \(0, 0, 0\), line 9 `x = tl.load\(x_ptr \+ i\)`: load out of bounds"
    )
    assert re.search(said, " ".join(lab.__doc__.split()).replace("# ", ""))
    with pytest.raises(lab.OutOfBounds, match=said):
        runpy.run_path(str(tmp_path / "example.py"))
    assert "Counter({128: 2})" in capsys.readouterr().out


def test_a_store_without_mask():
    message = raised(lab.OutOfBounds, no_mask_store_kernel, launch=copy)
    assert line(message) == "tl.store(y_ptr + i, x)"
    assert "lanes of y_ptr" in message


def test_an_address_before_the_tensor():
    x = torch.randn(4, 8)
    with (
        pytest.raises(lab.OutOfBounds, match=r"element -8 of the storage"),
        lab.strict(),
    ):
        row_sum_kernel[(2,)](x, torch.empty(2), -8, 8, BLOCK=8)


def test_a_masked_load_without_other():
    message = raised(lab.Undefined, no_other_kernel, torch.rand(2, 5))
    assert line(message) == "tl.store(y_ptr + row, tl.max(x, axis=0))"
    assert "the stored value is undefined" in message


def test_undefined_lanes_that_reach_nothing_are_no_fault():
    @triton.jit
    def kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
        i = tl.arange(0, BLOCK)
        loaded = tl.load(x_ptr + i, mask=i < n)
        x = tl.where(i < n, loaded * 2, 0.0)
        ok = (i < n) & (loaded > -100.0)  # False and undefined is False
        tl.store(y_ptr + i, x + tl.sum(x, axis=0), mask=ok)

    with lab.strict():
        x, y = copy(kernel)
    torch.testing.assert_close(y, 2 * x + 2 * x.sum())


def test_a_race_between_programs():
    message = raised(lab.Race, race_kernel, torch.randn(4, 8), y=torch.zeros(1))
    assert line(message) == "total = tl.load(y_ptr)"
    assert re.search(r"load by program number \d at element 0 .* of y_ptr", message)
    assert re.search(r"written by program number \d in the same launch", message)


def test_a_write_where_another_program_reads():
    x = torch.randn(32)
    with pytest.raises(lab.Race, match="element 8|element 16|element 24"), lab.strict():
        neighbour_kernel[(4,)](x, 32, BLOCK=8)


@triton.jit
def read_then_write_kernel(x_ptr, y_ptr):
    program = tl.program_id(0)
    x = tl.load(x_ptr)
    tl.store(y_ptr + program, x)
    if program == 1:
        tl.store(x_ptr, x + 1)


@pytest.mark.parametrize("seed", range(4))
def test_either_order_of_a_read_and_a_write_is_a_race(seed):
    """A program that has read the element itself may not write it for the others."""
    with pytest.raises(lab.Race, match="element 0 .* of x_ptr"), lab.strict(seed=seed):
        read_then_write_kernel[(2,)](torch.zeros(1), torch.empty(2))


def test_atomics_are_no_race():
    x = torch.randn(4, 8)
    with lab.strict():
        y = sums(atomic_kernel, x, y=torch.zeros(1))
    torch.testing.assert_close(y[0], x.sum())


def test_lanes_of_one_store_that_collide():
    message = raised(lab.Race, colliding_lanes_kernel, launch=copy)
    assert line(message) == "tl.store(y_ptr + i // 2, x, mask=i < n)"
    assert "5 lanes of one store write 3 different elements" in message


def test_an_offset_that_overflows_int32():
    x = huge_rows()
    message = raised(lab.Overflow, int32_offset_kernel, x)
    assert line(message).startswith("x = tl.load(x_ptr + row * stride + cols")
    assert "multiply of 2 and 1073741824 is 2147483648 in lane 0" in message
    with lab.strict():
        torch.testing.assert_close(sums(row_sum_kernel, x), x.sum(1).float())


@triton.jit
def int32_loop_kernel(x_ptr, y_ptr, stride, n_cols, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    for row in range(3):
        x = tl.load(x_ptr + row * stride + cols, mask=cols < n_cols, other=0)
        tl.store(y_ptr + row, tl.sum(x.to(tl.float32), axis=0))


def test_a_loop_variable_is_an_int32_as_on_a_gpu():
    message = raised(lab.Overflow, int32_loop_kernel, huge_rows(), rows=1)
    assert "multiply of 2 and 1073741824 is 2147483648" in message


def test_a_wrong_row_stride():
    view = torch.randn(4, 16)[:, :5]
    message = raised(lab.OutOfBounds, dense_rows_kernel, view)
    assert "falls between the elements of a view; is the stride right?" in message
    assert "x_ptr (shape (4, 5), strides (16, 1)" in message


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_to_the_nearest_and_not(dtype):
    """Dropping bits is caught where a kernel may not be worse than PyTorch."""
    x = torch.randn(1000)
    results = {}
    for rounding in ("rtne", "rtz"):
        results[rounding] = torch.empty(1000, dtype=dtype)
        with lab.strict():
            half_kernel[(1,)](x, results[rounding], 1000, rounding, BLOCK=1024)
    exact, peer = x.double() / 3, (x / 3).to(dtype)
    assert torch.equal(results["rtne"], peer)
    lab.assert_accurate(results["rtne"], peer, exact, factor=1)
    with pytest.raises(AssertionError, match="result is off by .* at \\(\\d+,\\)"):
        lab.assert_accurate(results["rtz"], peer, exact, factor=1)


@triton.jit
def scaled_kernel(x_ptr, y_ptr, n, scale, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0)
    tl.store(y_ptr + i, x * scale, mask=i < n)


def test_a_float_argument_is_an_fp32_scalar_as_on_a_gpu():
    """So fp16 times it is fp32: 300 squared has no place in fp16."""
    x, y = torch.full((5,), 300.0, dtype=torch.float16), torch.empty(5)
    with lab.strict():
        scaled_kernel[(1,)](x, y, 5, 300.5, BLOCK=8)
    assert torch.equal(y, x.float() * 300.5)


FACTOR = 2


@triton.jit
def factor_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y_ptr + i, FACTOR * tl.load(x_ptr + i, mask=i < n), mask=i < n)


def test_a_global_that_changes_between_two_runs(monkeypatch):
    """As when a cell of a notebook is run again with another number."""
    for factor in (2, 3):
        monkeypatch.setitem(globals(), "FACTOR", factor)
        with lab.strict():
            x, y = copy(factor_kernel)
        torch.testing.assert_close(y, factor * x)


def test_the_log_counts_what_each_launch_moves():
    x, y = torch.randn(3, 5), torch.empty(3)
    with lab.strict() as log:
        row_sum_kernel[(3,)](x, y, 5, 5, BLOCK=8)
        atomic_kernel[(3,)](x, torch.zeros(1), 5, 5, BLOCK=8)
    assert log[0].tensors == {"x_ptr": x, "y_ptr": y}
    assert log == [
        lab.Traffic(
            "row_sum_kernel", (3, 1, 1), loaded=60, stored=12, widest=8, tensors={}
        ),
        lab.Traffic("atomic_kernel", (3, 1, 1), 60 + 12, 12, 8, {}),
    ]


def test_a_launch_that_fails_is_not_in_the_log():
    with pytest.raises(lab.OutOfBounds), lab.strict() as log:
        no_mask_kernel[(1,)](torch.randn(1, 5), torch.empty(1), 5, 5, BLOCK=8)
    assert log == []


def test_an_element_that_is_never_written():
    with lab.strict():
        x, y = copy(forgotten_kernel)
    with pytest.raises(
        AssertionError, match=r"nan in 1 of 5 elements, first at \(4,\)"
    ):
        lab.assert_accurate(y, x, x.double())
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_exception_in_a_kernel_names_the_line():
    @triton.jit
    def kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
        i = tl.arange(0, BLOCK)
        tl.store(y_ptr + i, tl.load(x_ptr + i + tl.arange(0, 2 * BLOCK)))

    where = r"kernel, program .* line \d+ `tl.store"
    with pytest.raises(lab.KernelError, match=where), lab.strict():
        copy(kernel)


def test_a_misspelt_option_is_not_ignored():
    with lab.strict(), pytest.raises(TypeError, match=r"takes no \['num_wraps'\]"):
        copy(forgotten_kernel, num_wraps=4)


def test_programs_run_in_an_order_that_the_seed_chooses():
    seen = []

    @triton.jit
    def kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
        seen.append(int(tl.program_id(0).handle.data[0]))

    for seed in (0, 0, 1):
        with lab.strict(seed=seed):
            kernel[(20,)](torch.zeros(1), torch.zeros(1), 1, BLOCK=1)
    runs = [seen[0:20], seen[20:40], seen[40:60]]
    assert runs[0] == runs[1] != runs[2]
    assert sorted(runs[0]) == sorted(runs[2]) == list(range(20)) != runs[0]


def language():
    """All that interpreting a kernel changes for a while."""
    return [dict(vars(place)) for place in (tl, tl.core, tl.math, tl.tensor, tl.dtype)]


@pytest.mark.parametrize("kernel", [forgotten_kernel, no_mask_store_kernel])
def test_a_launch_puts_the_language_back_however_it_ends(kernel):
    before = language()
    for _ in range(2):  # what is to be changed is found out the first time
        with lab.strict(), contextlib.suppress(lab.OutOfBounds):
            copy(kernel)
        assert language() == before


def test_a_block_keeps_no_tensor():
    x = torch.ones(2, 3)
    with lab.strict():
        row_sum_kernel[(2,)](x, torch.empty(2), 3, 3, BLOCK=4)
    kept = weakref.ref(x)
    del x
    assert kept() is None


def test_the_modes_exclude_each_other_and_leave_nothing_behind():
    before = language()
    with lab.strict():
        assert lab.active() == "strict"
        copy(forgotten_kernel)
        with pytest.raises(RuntimeError, match="inside lab.strict"):
            lab.compiled().__enter__()
    assert lab.active() is None
    assert before == language()
    assert "interpreter_semantic" not in globals()
    with pytest.raises(ValueError, match="arch=12 is unknown; use one of 75, 80"):
        lab.compiled(arch=12).__enter__()
