"""The chapter's small kernels: right values, and the claims that are made of them."""

import pytest
import torch
from posttrain_kernels import lab, nf4, rms_norm

from posttrain.infrastructure import triton_kernels as small
from posttrain.infrastructure import triton_kernels_nf4 as ways


def normal(*shape, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g).to(dtype)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_add(n, dtype):
    x, y = normal(n, dtype=dtype), normal(n, dtype=dtype, seed=1)
    with lab.strict() as log:
        assert torch.equal(small.add(x, y, block=64), x + y)
    assert log[0].grid == (-(-n // 64), 1, 1)
    assert (log[0].loaded, log[0].stored) == (2 * x.nbytes, x.nbytes)


@pytest.mark.parametrize(("R", "C", "programs"), [(1, 1, 1), (7, 5, 3), (6, 33, 4)])
def test_both_weight_gradients_are_those_of_rms_norm(R, C, programs):
    x, dy = normal(R, C), normal(R, C, seed=1)
    weight = normal(C, seed=2).requires_grad_()
    rms_norm.rms_norm(x, weight).backward(dy)
    r = (x.square().mean(-1) + 1e-6).rsqrt()
    with lab.strict():
        atomics = small.weight_gradient_by_atomics(dy, x, r)
        parts = small.weight_gradient_by_parts(dy, x, r, programs)
    torch.testing.assert_close(atomics, weight.grad)
    torch.testing.assert_close(parts, weight.grad)


def test_partial_sums_move_less_and_do_not_hang_on_the_order():
    x, dy, r = normal(64, 8), normal(64, 8, seed=1), torch.rand(64)
    atomics, parts = [], []
    for seed in range(6):
        with lab.strict(seed=seed) as log:
            atomics.append(small.weight_gradient_by_atomics(dy, x, r))
            parts.append(small.weight_gradient_by_parts(dy, x, r, 4))
    assert log[0].stored == 64 * 8 * 4 and log[1].stored == 4 * 8 * 4
    assert log[0].loaded - log[1].loaded == 64 * 8 * 4  # atomics read as well
    assert any(not torch.equal(x, atomics[0]) for x in atomics)
    assert all(torch.equal(x, parts[0]) for x in parts)


@pytest.mark.parametrize("way", ways.WAYS)
def test_every_way_decodes_every_code(way):
    packed = torch.arange(256, dtype=torch.uint8).repeat(9)  # more than one program
    absmax = normal(72).abs()
    code = torch.tensor(nf4.CODE)
    whole = nf4.NF4(packed, absmax, code, (4608,), torch.float16)
    with lab.strict():
        came = ways.decode(packed, absmax, code, way)
    assert torch.equal(came, nf4.reference(whole))


def test_select_reads_no_table():
    packed, absmax = torch.zeros(1024, dtype=torch.uint8), torch.ones(32)
    loaded = {}
    for way in ways.WAYS:
        with lab.strict() as log:
            ways.decode(packed, absmax, torch.tensor(nf4.CODE), way)
        loaded[way] = log[0].loaded - packed.nbytes - absmax.nbytes
    assert loaded == {"table": 2048 * 4, "gather": 16 * 4, "select": 0}


def test_decode_says_what_it_does_not_take():
    packed, code = torch.zeros(64, dtype=torch.uint8), torch.tensor(nf4.CODE)
    with pytest.raises(ValueError, match="way='tabel' is none of table, gather"):
        ways.decode(packed, torch.ones(2), code, "tabel")
    with pytest.raises(ValueError, match="128 weights and 1 scales"):
        ways.decode(packed, torch.ones(1), code, "table")
