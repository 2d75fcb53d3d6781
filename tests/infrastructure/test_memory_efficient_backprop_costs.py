"""Bytes: what is counted equals the ledger; the challenge's bar; the experiment."""

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from posttrain.infrastructure import memory_efficient_backprop_experiment as X
from posttrain.infrastructure import memory_efficient_backprop_measure as measure
from posttrain.infrastructure import memory_efficient_backprop_memory as memory
from posttrain.infrastructure import memory_efficient_backprop_training as training

SHAPES = [
    (16384, 4096, 131072, 512),
    (64, 4096, 16384, 8),
    (2048, 256, 16384, 128),
    (50, 64, 5000, 7),
    (300, 300, 700, 400),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("trained", [True, False])
def test_the_ledger_is_what_is_counted(shape, dtype, trained):
    """To some vectors of N numbers."""
    for name in ("naive", "chunked_sum", "chunked_rows"):
        options = {"trained": trained}
        due = memory.ledger_peak(name, *shape, size=dtype.itemsize, **options)
        seen = memory.step_memory(memory.HEADS[name], *shape, dtype, **options)
        assert 0 <= seen.peak - due <= 64 + 16 * shape[0]
        assert seen.now == 0  # nothing outlives the step but the leaves' gradients
    with pytest.raises(ValueError, match="'looped': use 'naive'"):
        memory.ledger("looped", *shape)


def test_the_published_bar():
    """16384 tokens of 4096 channels, 128K words: at most half of the plain head."""
    shape, GIB = memory.FULL, memory.GIB
    peak = {
        name: memory.step_memory(head, **shape, n=1024).peak / GIB
        for name, head in memory.HEADS.items()
    }
    assert peak["naive"] == pytest.approx(24, abs=0.01)
    assert peak["checkpointed"] == pytest.approx(24, abs=0.01)
    assert 0.4 < peak["looped"] / peak["naive"] < 0.45
    for name in ("looped, checkpointed", "chunked_sum", "chunked_rows", "words"):
        assert peak[name] <= peak["naive"] / 6
    assert peak["words"] < 1.5
    frozen = memory.step_memory(memory.by_sum, **shape, n=512, trained=False)
    assert frozen.peak / GIB < 1.01


def test_the_meter_agrees_with_pytorch_s_tracker():
    N, d, V = 512, 64, 2048
    hidden = torch.zeros(N, d).requires_grad_()
    weight = torch.zeros(V, d).requires_grad_()
    targets = torch.zeros(N, dtype=torch.int64)
    tracker = MemTracker()
    with tracker:
        memory.naive(hidden, weight, targets, 0).backward()
    theirs = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    ours = memory.step_memory(memory.naive, N, d, V, 0, torch.float32, device="cpu")
    assert theirs - ours.peak == weight.nbytes  # it counts an input that has a view


def test_the_meter_by_hand():
    with memory.PeakMemory() as seen:
        a = torch.zeros(100)  # 400 bytes
        b = a.view(10, 10)  # the same storage
        c = b + 1  # 400 more
        c += 1  # in place
        assert seen.now == 800 and seen.trace == [400, 400, 800, 800]
        del c
        assert (seen.now, seen.peak, seen.largest) == (400, 800, 400)
        del a
        assert seen.now == 400  # b holds it
        del b
    assert seen.now == 0


def test_seconds_and_bytes_on_this_machine():
    inputs = measure.head_inputs(256, 16, 4096, torch.float32, "cpu")
    assert measure.step_seconds(memory.naive, inputs, 0) >= 0
    taken = measure.step_bytes(memory.naive, inputs, 0)
    if taken is not None:
        assert taken > 4 * 2**20  # three tables of 4 MiB, some of it reused
    assert inputs[0].grad is None


def test_gpu_report_says_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert measure.gpu_report({"naive": memory.naive}) == [
        "no GPU here: nothing measured"
    ]


def test_training_is_the_same_by_every_head():
    tokens = training.words_of("to be, or not to be\n" * 60, 6)
    assert tokens[:8].tolist() == [1, 2, 3, 4, 5, 1, 2, 0]
    batches = X.Windows(tokens, B=4, T=16, seed=0)
    runs, weights = {}, {}
    for name, loss in training.sft_losses(n=9).items():
        model = training.new_model(6, 0)
        runs[name] = training.sft(model, loss, batches, 5)["losses"]
        weights[name] = model
    plain = torch.tensor(runs["plain"])
    assert plain[-1] < plain[0]
    before, after = training.new_model(6, 0), weights["plain"]
    for a, b in zip(before.parameters(), after.parameters(), strict=True):
        assert not a.equal(b)  # the body learns as well
    for name, losses in runs.items():
        torch.testing.assert_close(torch.tensor(losses), plain, rtol=1e-5, atol=1e-5)
        assert X.weights_apart(weights[name], weights["plain"]) < 1e-4


@pytest.mark.parametrize("preset", ["t4", "h200"])
def test_gpu_presets_step_and_fit_without_a_gpu(preset):
    p, room = X.PRESETS[preset], {"t4": 14, "h200": 130}[preset]
    V = p.vocabularies[-1]
    inputs = (p.N + V) * p.d * p.dtype.itemsize
    for name in ("naive", "looped, checkpointed", "chunked_sum", "chunked_rows"):
        step = memory.step_memory(memory.HEADS[name], p.N, p.d, V, p.n, p.dtype)
        assert (step.peak + inputs) / memory.GIB < room


def test_experiment():
    result = X.run("ci", 0)
    p = X.PRESETS["ci"]
    assert len(result["vocabulary"]) == len(p.vocabularies)
    assert len(result["chunk"]) == len(p.chunk_rows)
    for seen in result["vocabulary"] + result["chunk"]:
        assert set(seen) == set(memory.HEADS)
        assert all(arm["seconds"] > 0 and arm["bytes"] > 0 for arm in seen.values())
    rounding = result["rounding"]
    assert rounding["bfloat16"][-1] > 3 * rounding["float32"][-1]
    for runs in result["training"].values():
        assert all(arm["losses_apart"] < 1e-5 for arm in runs.values())
    assert result["skipping"]["by frequency"]["skipped"][-1] == 0
    with pytest.raises(ValueError, match="unknown preset 'big'"):
        X.run("big", 0)
