"""The compile-only mode tells good machine code from bad."""

import pytest
import torch
import triton
import triton.language as tl
from posttrain_kernels import lab


@triton.jit
def double_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0)
    tl.store(y_ptr + i, 2 * x, mask=i < n)


@triton.jit
def matmul_kernel(a_ptr, b_ptr, c_ptr, K, BLOCK: tl.constexpr, STEP: tl.constexpr):
    i, k = tl.arange(0, BLOCK), tl.arange(0, STEP)
    c = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, K, STEP):
        a = tl.load(a_ptr + i[:, None] * K + start + k[None, :])
        b = tl.load(b_ptr + (start + k[:, None]) * BLOCK + i[None, :])
        c = tl.dot(a, b, c)
    tl.store(c_ptr + i[:, None] * BLOCK + i[None, :], c)


def double(x, n=None):
    y = torch.zeros_like(x)
    n = x.numel() if n is None else n
    double_kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, n, BLOCK=1024)
    return y


def matmul(dtype, block, warps=4, stages=2):
    a, b = torch.randn(2, 256, 256).to(dtype)
    c = torch.empty(256, 256)
    matmul_kernel[(1,)](
        a, b, c, 256, BLOCK=block, STEP=64, num_warps=warps, num_stages=stages
    )


def test_nothing_runs_and_the_same_code_is_logged_once():
    x = torch.randn(4096)
    with lab.compiled(arch=90) as log:
        assert lab.active() == "compiled"
        assert torch.equal(double(x), torch.zeros(4096))
        double(x[:2048])
        double(x.half())
    assert [launch.grid for launch in log] == [(4,), (4,)]
    assert {launch.kernel for launch in log} == {"double_kernel"}
    assert all(launch.fits and not launch.spills for launch in log)
    assert all(8 < launch.registers < 32 for launch in log)


def test_width_of_loads_hangs_on_what_divides_by_16():
    x = torch.randn(4096).half()
    with lab.compiled(arch=80) as log:
        double(x)
        double(x, n=4095)
        double(x[1:], n=4080)
    assert [set(launch.loads) for launch in log] == [{128}, {16}, {16}]
    assert [set(launch.stores) for launch in log] == [{128}, {16}, {128}]
    assert "loads 128x1; stores 128x1; no tensor cores" in str(log[0])


@pytest.mark.parametrize(
    ("arch", "instructions"),
    [(75, {"FFMA"}), (80, {"HMMA", "LDSM"}), (90, {"HGMMA"})],
)
def test_which_instructions_multiply(arch, instructions):
    with lab.compiled(arch) as log:
        matmul(torch.float16, block=64 if arch > 75 else 32)
    (launch,) = log
    assert instructions <= set(launch.instructions)
    assert launch.tensor_cores == (arch > 75)


def test_spills_and_too_much_shared_memory_are_seen():
    with lab.compiled(arch=80) as log:
        matmul(torch.float32, block=128, warps=2, stages=4)
    (launch,) = log
    assert launch.spills > 10
    assert not launch.fits
    assert launch.shared > 163 * 1024
    assert launch.warps_at_a_time == 0
    assert "(too much)" in str(launch)


def test_both_modes_serve_one_kernel_in_one_process():
    x = torch.randn(100)
    for _ in range(2):
        with lab.compiled(arch=90) as log:
            double(x)
        assert len(log) == 1
        with lab.strict():
            torch.testing.assert_close(double(x), 2 * x)
