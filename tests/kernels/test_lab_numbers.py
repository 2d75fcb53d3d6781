"""The strict mode computes as PyTorch does, and follows undefined lanes everywhere."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from posttrain_kernels import lab
from posttrain_kernels.lab import numerics

N = 16


@triton.jit
def apply_kernel(x_ptr, y_ptr, out_ptr, OPERATION: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    y = tl.load(y_ptr + i)
    if OPERATION == "add":
        z = x + y
    elif OPERATION == "subtract":
        z = x - y
    elif OPERATION == "multiply":
        z = x * y
    elif OPERATION == "divide":
        z = x / y
    elif OPERATION == "maximum":
        z = tl.maximum(x, y)
    elif OPERATION == "negate":
        z = -x
    elif OPERATION == "abs":
        z = tl.abs(x)
    elif OPERATION == "where":
        z = tl.where(x > y, x, y)
    elif OPERATION == "fma":
        z = tl.fma(x, y, x)
    elif OPERATION == "clamp":
        z = tl.clamp(x, y, y + 1)
    elif OPERATION == "sum":
        z = tl.sum(x.to(tl.float32), axis=0) + tl.zeros((N,), tl.float32)
    elif OPERATION == "cumsum":
        z = tl.cumsum(x.to(tl.float32), axis=0, reverse=True)
    elif OPERATION == "max":
        z = tl.max(x, axis=0) + tl.zeros((N,), tl.float32)
    elif OPERATION == "full":
        z = tl.full((N,), 1.2345, x_ptr.dtype.element_ty)
    tl.store(out_ptr + i, z.to(out_ptr.dtype.element_ty))


EXPECTED = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "maximum": torch.maximum,
    "negate": lambda x, y: -x,
    "abs": lambda x, y: x.abs(),
    "where": lambda x, y: torch.where(x > y, x, y),
    "fma": lambda x, y: (x.float() * y.float() + x.float()).to(x.dtype),
    "clamp": lambda x, y: torch.clamp(x, y, y + 1),
    "sum": lambda x, y: x.float().sum().expand(N).to(x.dtype),
    "cumsum": lambda x, y: x.float().flip(0).cumsum(0).flip(0).to(x.dtype),
    "max": lambda x, y: x.max().expand(N),
    "full": lambda x, y: torch.full((N,), 1.2345, dtype=x.dtype),
}


@pytest.mark.parametrize("operation", EXPECTED)
def test_bfloat16_is_computed_as_pytorch_computes_it(operation):
    x, y = torch.randn(2, N).to(torch.bfloat16)
    out = torch.empty_like(x)
    with lab.strict():
        apply_kernel[(1,)](x, y, out, operation, N)
    assert torch.equal(out, EXPECTED[operation](x, y))


def test_every_bfloat16_and_every_way_of_rounding():
    bits = np.arange(2**16, dtype=np.uint16)
    ours = torch.from_numpy(numerics.bf16_to_fp32(bits))
    theirs = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float()
    assert torch.equal(ours.view(torch.int32), theirs.view(torch.int32))
    x = torch.from_numpy(numerics.bf16_to_fp32(bits[:, None]).repeat(5, 1))
    x = (x.view(torch.int32) + torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001])).view(
        torch.float32
    )
    rounded = numerics.fp32_to_bf16(x.numpy()).view(np.int16)
    ours = torch.from_numpy(rounded).view(torch.bfloat16)
    torch.testing.assert_close(
        ours, x.to(torch.bfloat16), rtol=0, atol=0, equal_nan=True
    )


@triton.jit
def product_kernel(a_ptr, b_ptr, c_ptr, rows, PRECISION: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    at = i[:, None] * N + i[None, :]
    a = tl.load(a_ptr + at, mask=i[:, None] < rows)
    b = tl.load(b_ptr + at)
    c = tl.dot(a, b, input_precision=PRECISION)
    tl.store(c_ptr + at, c, mask=i[:, None] < rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_products_keep_fp32_sums(dtype):
    a, b = torch.randn(2, N, N).to(dtype)
    c = torch.empty(N, N)
    with lab.strict():
        product_kernel[(1,)](a, b, c, N, "ieee", N)
    torch.testing.assert_close(c, a.float() @ b.float(), rtol=1e-5, atol=1e-5)


def test_products_in_tf32_see_ten_bits():
    """The default of tl.dot for fp32, and what it costs."""
    a, b = torch.randn(2, N, N)
    c = torch.empty(N, N)
    with lab.strict():
        product_kernel[(1,)](a, b, c, N, "tf32", N)
    left, right = (torch.from_numpy(numerics.round_to_tf32(x.numpy())) for x in (a, b))
    assert torch.equal(left, torch.frexp(a)[0].mul(2**11).round() * scale_of(a))
    torch.testing.assert_close(c, left @ right, rtol=1e-5, atol=1e-5)
    error = ((c - a @ b).norm() / (a @ b).norm()).item()
    assert 1e-5 < error < 1e-3


def scale_of(x):
    """The worth of the last of 10 bits behind the leading one."""
    return torch.exp2((torch.frexp(x)[1] - 11).float())


def test_an_undefined_row_spoils_its_row_of_a_product_only():
    a, b = torch.randn(2, N, N)
    c = torch.empty(N, N)
    with lab.strict():
        product_kernel[(1,)](a, b, c, N - 1, "ieee", N)
    torch.testing.assert_close(c[:-1], (a @ b)[:-1])


@triton.jit
def spread_kernel(x_ptr, out_ptr, table_ptr, WAY: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i, mask=i != 3)
    keep = i >= 0
    out = out_ptr + i
    if WAY == "cast":
        x = x.to(tl.float16).to(tl.float32)
    elif WAY == "sum":
        x = tl.zeros((N,), tl.float32) + tl.sum(x, axis=0)
    elif WAY == "scan":
        x = tl.cumsum(x, axis=0)
        keep = i == 5
    elif WAY == "reverse scan":
        x = tl.cumsum(x, axis=0, reverse=True)
        keep = i == 1
    elif WAY == "scan before":
        x = tl.cumsum(x, axis=0)
        keep = i < 3
    elif WAY == "moved":
        x = tl.reshape(tl.trans(tl.reshape(x, (4, N // 4))), (N,))
        keep = i == 12
    elif WAY == "moved elsewhere":
        x = tl.reshape(tl.trans(tl.reshape(x, (4, N // 4))), (N,))
        keep = i == 3
    elif WAY == "interleaved":
        x, _ = tl.split(tl.reshape(tl.interleave(x * 0.0, x), (N, 2)))
        keep = i != 3
    elif WAY == "address":
        out = out_ptr + (x * 0.0).to(tl.int32) + i
    elif WAY == "mask":
        keep = x == x
    elif WAY == "table":
        x = tl.load(table_ptr + x.to(tl.int32) * 0)
    tl.store(out, x, mask=keep)


@pytest.mark.parametrize(
    ("way", "caught"),
    [
        ("stored", "the stored value is undefined in 1 of 16 lanes, first in lane 3"),
        ("cast", "first in lane 3"),
        ("sum", "the stored value is undefined in 16 of 16 lanes"),
        ("scan", "in 1 of 16 lanes, first in lane 5"),
        ("reverse scan", "in 1 of 16 lanes, first in lane 1"),
        ("scan before", None),
        ("moved", "in 1 of 16 lanes, first in lane 12"),
        ("moved elsewhere", None),
        ("interleaved", None),
        ("address", "an address of a store is undefined"),
        ("mask", "the mask of a store is undefined"),
        ("table", "an address of a load is undefined"),
    ],
)
def test_undefined_lanes_are_followed_to_where_they_matter(way, caught):
    x, out = torch.randn(2, N)
    with lab.strict():
        if caught is None:
            spread_kernel[(1,)](x, out, x, way, N)
        else:
            with pytest.raises(lab.Undefined, match=caught):
                spread_kernel[(1,)](x, out, x, way, N)


@triton.jit
def block_pointer_kernel(x_ptr, y_ptr, rows, PADDING: tl.constexpr, N: tl.constexpr):
    block = tl.make_block_ptr(x_ptr, (rows, N), (N, 1), (0, 0), (N, N), (1, 0))
    x = tl.load(block, boundary_check=(0,), padding_option=PADDING)
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.sum(x, axis=0))


@pytest.mark.filterwarnings("ignore:tl.make_block_ptr is deprecated")
def test_block_pointers_are_checked_too():
    x, y = torch.randn(3, N), torch.empty(N)
    with lab.strict():
        block_pointer_kernel[(1,)](x, y, 3, "zero", N)
        with pytest.raises(lab.Undefined, match="the stored value"):
            block_pointer_kernel[(1,)](x, y, 3, "", N)
        with pytest.raises(lab.OutOfBounds, match="element 48 of the storage"):
            block_pointer_kernel[(1,)](x, y, 4, "zero", N)
    torch.testing.assert_close(y, x.sum(0))


def test_assert_accurate_names_shape_and_dtype():
    x = torch.randn(3)
    with pytest.raises(
        AssertionError, match=r"dx is \(3,\) torch.float32, due is \(2,\)"
    ):
        lab.assert_accurate(x, x[:2], x[:2].double(), what="dx")
    with pytest.raises(AssertionError, match="due is .* torch.float16"):
        lab.assert_accurate(x, x.half(), x.double())
    lab.assert_accurate(x[:0], x[:0], x[:0].double())
