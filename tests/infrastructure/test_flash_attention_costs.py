"""Bytes and FLOPs: what is counted equals the formulas."""

import math
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from posttrain.infrastructure import flash_attention_backward as back
from posttrain.infrastructure import flash_attention_experiment as X
from posttrain.infrastructure import flash_attention_io as io
from posttrain.infrastructure import flash_attention_memory as memory

SHAPES = [(37, 37, 8, 16, 16), (5, 70, 4, 16, 8), (20, 33, 4, 7, 9), (64, 64, 4, 8, 64)]


def draw(T_q, T_k, D):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(T, D, generator=g) for T in (T_q, T_k, T_k)]


@pytest.mark.parametrize("T_q,T_k,D,M,N", SHAPES)
def test_the_walks_move_what_the_formulas_say(T_q, T_k, D, M, N):
    q, k, v = draw(T_q, T_k, D)
    due = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    o, moved = io.naive_walk(q, k, v)
    torch.testing.assert_close(o, due)
    assert moved == io.naive_traffic(T_q, T_k, D)
    for causal in (False, True):
        o, moved = io.tiled_walk(q, k, v, M, N, causal)
        assert moved == io.tiled_traffic(T_q, T_k, D, M, N, causal)
        if not causal:
            torch.testing.assert_close(o, due)


def test_traffic_by_hand():
    # 2 blocks of queries, each reads 4 keys and 4 values of size 3
    assert io.tiled_traffic(4, 4, 3, 2, 2) == io.Traffic(12 + 48, 12 + 4, 32)
    # with the mask the first block reads 2 keys
    assert io.tiled_traffic(4, 4, 3, 2, 2, True).read == 12 + 36
    # keys outside: K and V once; 2 times Q, O, m, l in and O, m, l out
    moved = io.key_outer_traffic(4, 4, 3, 2)
    assert (moved.read, moved.written) == (24 + 2 * (24 + 8), 2 * (12 + 8))


def test_the_largest_tile_fits_and_one_more_does_not():
    for S, D, N in ((5000, 64, 16), (40_000, 128, 64)):
        M = io.largest_M(S, D, N)
        assert io.on_chip(M, N, D) <= S < io.on_chip(M + 1, N, D)
    with pytest.raises(ValueError, match="S=100 numbers do not hold"):
        io.largest_M(100, 64, 16)


def test_roofline():
    chip = io.Chip(flops=100.0, bandwidth=10.0)
    assert io.least_seconds(chip, 1000, 10) == 10
    assert io.least_seconds(chip, 10, 1000) == 100


@pytest.mark.parametrize("T", [64, 256])
def test_products_are_those_that_run(T):
    H, D = 2, 8
    for name, attention in (
        ("naive", memory.naive_attention),
        ("tiled", lambda *x: back.tiled_attention(*x, False, 32, 32)),
    ):
        q, k, v = (torch.randn(1, H, T, D, requires_grad=True) for _ in range(3))
        due = io.products(T, T, D, tiled=name == "tiled")
        with FlopCounterMode(display=False) as counter:
            o = attention(q, k, v)
        assert counter.get_total_flops() == H * due["forward"]
        with FlopCounterMode(display=False) as counter:
            o.sum().backward()
        assert counter.get_total_flops() == H * due["backward"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("B,H,T,D", [(1, 2, 64, 8), (2, 3, 100, 16)])
def test_bytes_that_autograd_keeps(B, H, T, D, dtype):
    shape = B, H, T, D
    size = dtype.itemsize
    naive = memory.held_bytes(memory.naive_attention, *shape, dtype)
    tiled = memory.held_bytes(memory.tiled(32, 32), *shape, dtype)
    assert naive == memory.naive_bytes(*shape, size)
    assert tiled == memory.tiled_bytes(*shape, size)


def test_sdpa_keeps_what_we_keep():
    shape = 1, 2, 300, 16
    kept = memory.held_bytes(memory.sdpa, *shape)
    assert kept == memory.tiled_bytes(*shape)


def test_experiment():
    result = X.run("ci", 0)
    assert set(result["arms"]) == {"naive", "tiled", "sdpa"}
    n = len(result["config"]["lengths"])
    for arm in result["arms"].values():
        assert all(len(arm[key]) == n for key in ("forward", "step", "held_bytes"))
        assert all(x > 0 and math.isfinite(x) for x in arm["forward"] + arm["step"])
        assert arm["held_bytes"] == sorted(arm["held_bytes"])
    assert set(result["whole"]) == set(result["arms"])
    assert {int(x) for x in result["tiles"]} == set(X.PRESETS["ci"].tiles)
    with pytest.raises(ValueError, match="'big'; known presets: ci, cpu, t4, h200"):
        X.run("big", 0)


@pytest.mark.parametrize("preset", ["t4", "h200"])
def test_big_presets_step_in_every_arm(preset):
    """Shapes and types at full length, without memory; the kernel's by its fake."""
    setup = X.PRESETS[preset]
    arms = X.arms_of(setup)
    assert set(arms) == {"naive", "tiled", "sdpa", "triton"}
    for arm in arms.values():
        with FakeTensorMode():
            qkvo = X.inputs(replace(setup, device="cpu"), setup.lengths[-1])
            q, k, v = (x.requires_grad_() for x in qkvo[:3])
            out = arm(q, k, v)
            out.backward(qkvo[3])
        assert (out.shape, out.dtype) == (qkvo[3].shape, setup.dtype)
        assert all(
            (x.grad.shape, x.grad.dtype) == (x.shape, x.dtype) for x in (q, k, v)
        )
