"""The roofline against enumeration, and the challenge without a GPU."""

from types import SimpleNamespace

import pytest
import torch
from posttrain_kernels import nf4, softmax
from posttrain_kernels.bench.limits import Limits
from posttrain_kernels.bench.runner import Bench
from posttrain_kernels.bench.timing import Budget

from posttrain.infrastructure import triton_kernels_challenge as challenge
from posttrain.infrastructure import triton_kernels_roofline as roofline

TOY = roofline.GPU("toy", bandwidth=100.0, vector=50.0, matrix=400.0)


def test_the_bound_is_the_longer_of_two_times_and_they_meet_at_the_ridge():
    assert TOY.ridge() == 0.5 and TOY.ridge(matrix=True) == 4.0
    cost = roofline.Cost(bytes=200, flops=100)
    assert TOY.least_seconds(cost) == 2.0
    assert TOY.least_seconds(roofline.Cost(200, 99)) == 2.0  # memory decides
    assert TOY.least_seconds(roofline.Cost(200, 150)) == 3.0  # arithmetic decides
    assert TOY.least_seconds(roofline.Cost(200, 150), matrix=True) == 2.0


def test_eager_softmax_is_what_its_five_tensors_hold():
    x = torch.randn(3, 8, dtype=torch.float64)
    m = x.amax(1, keepdim=True)
    z = x - m
    e = z.exp()
    s = e.sum(1, keepdim=True)
    y = e / s
    kernels = ((x, m), (x, m, z), (z, e), (e, s), (e, s, y))
    due = [sum(tensor.nbytes for tensor in kernel) for kernel in kernels]
    costs = roofline.eager_softmax(3, 8, 8)
    assert [cost.bytes for cost in costs] == due
    assert sum(cost.flops for cost in costs) == softmax.cost(3, 8, torch.half).flops


def test_the_product_counts_multiplications_and_matrices():
    cost = roofline.product(2, 3, 5, itemsize=4)
    a, b = torch.ones(2, 3), torch.ones(3, 5)
    assert cost.bytes == a.nbytes + b.nbytes + (a @ b).nbytes
    assert cost.flops == 2 * int((a @ b).sum())


def test_what_the_chapter_says_of_its_kernels():
    works = {work.name: work for work in roofline.works()}
    for gpu in roofline.GPUS:
        for name in ("NF4", "cross-entropy", "RMSNorm", "softmax"):
            assert works[name].intensity < gpu.ridge()
        assert works["product, one row"].intensity < gpu.ridge(matrix=True)
        for name in ("flash attention", "product"):
            assert works[name].intensity > gpu.ridge(matrix=True)


@pytest.fixture
def bench():
    device = SimpleNamespace(synchronize=lambda: None)
    return Bench(device, "cpu", torch.float32, Limits(0.0, 0.0, "float16"), Budget())


def right(packed, absmax, code, nested_absmax, nested_code, offset, n, dtype):
    parts = packed, absmax, code, (n,), dtype, 64, nested_absmax, nested_code, offset
    return nf4.reference(nf4.NF4(*parts))


def test_an_answer_takes_part_in_the_challenge(bench):
    options = [(64, 128, 0, torch.float16), (128, 64, 1, torch.bfloat16)]
    record = challenge.measured(right, bench, repeats=1, samples=1, options=options)
    assert record["total_seconds"].keys() >= {"ours", "yours"}
    assert "no Unsloth to compare with" in challenge.verdict(record)


def test_a_wrong_answer_is_left_out_with_the_reason(bench):
    def wrong(*given):
        return right(*given) + 1

    options = [(64, 128, 0, torch.float16)]
    record = challenge.measured(wrong, bench, repeats=1, samples=1, options=options)
    text = challenge.verdict(record)
    assert "yours: left out" in text and "your kernel did not finish" in text


@pytest.mark.parametrize(("speedup", "word"), [(1.2, "reached"), (1.1, "not reached")])
def test_the_verdict_names_the_speed_up(speedup, word):
    record = {
        "total_seconds": {"yours": 1.0, "Unsloth": speedup},
        "left_out": [],
        "speedup_over_unsloth": {"yours": speedup},
    }
    assert f"{speedup:.2f} times as fast as Unsloth; 1.15 wanted: {word}." in (
        challenge.verdict(record)
    )


def test_without_a_gpu_nothing_is_scored(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    challenge.challenge(right)
    assert "Speed was not scored: PyTorch sees no CUDA GPU" in capsys.readouterr().out
