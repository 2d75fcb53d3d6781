"""How times are taken, with a clock that is advanced by hand."""

import pytest
import torch
from posttrain_kernels.bench import limits
from posttrain_kernels.bench.timing import (
    Budget,
    Call,
    interleaved,
    quantile,
    rounds_within,
    summary,
    warm_up,
)


def taking(stopwatch, name, milliseconds):
    """A call that takes so long, after a preparation of 100 ms."""
    return Call(
        run=lambda prepared: stopwatch.spend(f"run {prepared}", milliseconds),
        prepare=lambda: stopwatch.spend(f"prepare {name}", 100) or name,
    )


def test_one_sample_flushes_holds_and_times_only_the_run(stopwatch):
    times = interleaved({"a": taking(stopwatch, "a", 5)}, stopwatch, rounds=1)
    assert times == {"a": [pytest.approx(5.001)]}
    due = ["prepare a", "flush", "hold", "mark", "run a", "mark", "synchronize"]
    assert stopwatch.log == due


def test_all_take_turns_and_every_round_begins_with_another(stopwatch):
    calls = {name: taking(stopwatch, name, 1) for name in "abc"}
    times = interleaved(calls, stopwatch, rounds=4)
    assert {name: len(each) for name, each in times.items()} == dict.fromkeys("abc", 4)
    runs = [what[-1] for what in stopwatch.log if what.startswith("run")]
    assert "".join(runs) == "abc" + "bca" + "cab" + "abc"
    assert stopwatch.log.count("synchronize") == 4  # never within a round


def test_a_slow_phase_hurts_all_alike(stopwatch):
    """The clock halves its speed after half of the rounds: the ratio stays."""
    speed = iter([1] * 20 + [2] * 20)
    calls = {
        name: Call(lambda _, ms=ms: stopwatch.spend("run", ms * next(speed)), int)
        for name, ms in (("ours", 10), ("peer", 30))
    }
    times = interleaved(calls, stopwatch, rounds=20)
    ratio = quantile(times["peer"], 0.5) / quantile(times["ours"], 0.5)
    assert ratio == pytest.approx(3, rel=1e-3)


def test_nobody_to_time(stopwatch):
    assert interleaved({}, stopwatch, rounds=5) == {}
    assert stopwatch.log == []


def test_warm_up_runs_but_does_not_time(stopwatch):
    warm_up(taking(stopwatch, "a", 5), stopwatch, times=2)
    assert stopwatch.log == ["prepare a", "run a"] * 2 + ["synchronize"]


@pytest.mark.parametrize(("milliseconds", "rounds"), [(1, 50), (198, 10), (10_000, 5)])
def test_as_many_rounds_as_the_budget_allows(stopwatch, milliseconds, rounds):
    """A round: 100 ms of preparation, 2 of flush and hold, and the run."""
    calls = {"a": taking(stopwatch, "a", milliseconds)}
    budget = Budget(seconds=3.0001, least=5, most=50)
    if milliseconds == 1:
        budget = Budget(seconds=30, least=5, most=50)
    clock = lambda: stopwatch.now / 1000  # noqa: E731
    assert rounds_within(calls, stopwatch, budget, clock) == rounds


def test_quantiles_are_those_of_pytorch():
    values = torch.rand(17).tolist()
    for q in (0, 0.2, 0.5, 0.8, 1):
        assert quantile(values, q) == pytest.approx(
            torch.tensor(values, dtype=torch.float64).quantile(q).item()
        )
    assert quantile([7.0], 0.8) == 7.0


def test_a_summary_is_in_microseconds():
    assert summary([0.003, 0.001, 0.002]) == pytest.approx(
        {"median_us": 2, "q20_us": 1.4, "q80_us": 2.6, "min_us": 1}
    )


def test_limits_are_what_the_device_took(stopwatch, monkeypatch):
    """1 MiB is read and written in 0.001 ms, and 64^3 multiply-adds are made."""
    monkeypatch.setattr(limits, "ROUNDS", 3)
    found = limits.measure(stopwatch, "cpu", torch.bfloat16, 2**20, size=64)
    assert found.bytes_per_second == pytest.approx(2 * 2**20 / 1e-6)
    assert found.flops_per_second == pytest.approx(2 * 64**3 / 1e-6)
    assert found.dtype == "bfloat16"
