"""Every family, tiny and on the CPU: inputs, reference, contestants, check, passes."""

import dataclasses
import itertools
import re

import pytest
import torch
from posttrain_kernels.bench import check, runner
from posttrain_kernels.bench.cases import BACKWARD, BOTH, FORWARD, MEASURED
from posttrain_kernels.bench.contestants import (
    COMPILED,
    EAGER,
    OURS,
    Contestant,
    Entry,
    simple,
)
from posttrain_kernels.bench.families import FAMILIES
from posttrain_kernels.bench.runner import BenchError, measure

EVERY = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
SOFTMAX = FAMILIES["softmax"]


def against(family, *entries):
    """The family with ours, eager and these."""
    return dataclasses.replace(family, entries=(*family.entries[:2], *entries))


def tiny(family, dtype=torch.bfloat16):
    torch.manual_seed(0)
    return family.make(*family.sizes["tiny"], dtype=dtype, device="cpu")


@EVERY
def test_who_can_run_on_a_cpu_is_right_and_timed_in_every_pass(family, bench):
    case = measure(family, "tiny", bench)
    assert list(case["shape"].values()) == list(family.sizes["tiny"])
    on_cpu = {entry.name for entry in family.entries if entry.on_cpu}
    assert {OURS, EAGER} <= on_cpu
    others = {entry.name for entry in family.entries} - on_cpu
    assert {one["contestant"] for one in case["left_out"]} == others
    for timed in case["passes"]:
        assert timed["rounds"] == 2
        assert timed["limit_us"] > 0
        assert {result["contestant"] for result in timed["results"]} == on_cpu
        for result in timed["results"]:
            assert ("peak_mib" in result) == (
                family.memory and timed["pass"] != BACKWARD
            )
    passes = [timed["pass"] for timed in case["passes"]]
    due = {"nf4": [FORWARD], "linear_cross_entropy": [BOTH]}
    assert passes == due.get(family.name, [FORWARD, BACKWARD, BOTH])


@EVERY
def test_the_reference_in_little_memory_is_that_of_eager_pytorch(family, monkeypatch):
    """In fp32 they agree to rounding; the slices are made small enough to be many."""
    for module in ("cross_entropy", "linear_cross_entropy"):
        path = f"posttrain_kernels.bench.families.{module}.EXACT_ROWS"
        monkeypatch.setattr(path, 5)
    inputs = tiny(family, torch.float32)
    eager = family.entries[1].build()
    results = family.outcome(eager, inputs)
    assert len(results) == len(family.results) == 1 + len(family.trained)
    for ours, due in zip(results, family.expected(inputs), strict=True):
        torch.testing.assert_close(ours, due)


@EVERY
def test_eager_pytorch_compiles_into_one_graph(family):
    """As the contestant torch.compile asks; the compiler itself is not run here."""
    (entry,) = [entry for entry in family.entries if entry.name == COMPILED]
    assert entry.build().name == COMPILED
    eager = family.entries[1].build()
    graph = torch.compile(eager.call, fullgraph=True, dynamic=False, backend="eager")
    inputs = tiny(family)
    results = family.outcome(dataclasses.replace(eager, call=graph), inputs)
    for got, due in zip(results, family.outcome(eager, inputs), strict=True):
        assert torch.equal(got, due)


@EVERY
def test_sizes_and_costs_grow(family):
    costs = [
        family.costs(*family.sizes[size], dtype=torch.bfloat16)
        for size in ("tiny", *MEASURED)
    ]
    for smaller, larger in itertools.pairwise(costs):
        for which in smaller:
            assert smaller[which].bytes < larger[which].bytes


def test_both_passes_cost_what_each_costs():
    costs = SOFTMAX.costs(4, 8, dtype=torch.bfloat16)
    assert costs[BOTH].bytes == costs[FORWARD].bytes + costs[BACKWARD].bytes
    assert costs[BOTH].flops == costs[FORWARD].flops + costs[BACKWARD].flops


def test_the_forward_pass_asks_for_no_gradient_and_the_others_do():
    seen = []

    def call(x):
        seen.append((torch.is_grad_enabled(), x.requires_grad))
        return torch.softmax(x, dim=-1)

    inputs = tiny(SOFTMAX)
    contestant = Contestant("spy", call)
    for which in (FORWARD, BACKWARD, BOTH):
        timed = SOFTMAX.call(contestant, inputs, which)
        timed.run(timed.prepare())
    assert seen == [(False, False), (True, True), (True, True)]


def test_who_writes_over_its_inputs_gets_copies():
    def call(x):
        y = torch.softmax(x, dim=-1)
        x.data.fill_(float("nan"))
        return y

    inputs = tiny(SOFTMAX)
    before = inputs.arguments[0].clone()
    SOFTMAX.outcome(Contestant("spoiler", call, destroys_inputs=True), inputs)
    assert torch.equal(inputs.arguments[0], before)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda x: torch.softmax(x, dim=0), "Wrong: y is off by"),
        (lambda x: torch.softmax(x, dim=-1)[:1], "RuntimeError: Mismatch in shape"),
        (lambda x: torch.softmax(x, dim=-1) * float("nan"), "Wrong: y holds NaN"),
        (lambda x: torch.softmax(x.detach() + 0 * x, dim=-1), "Wrong: dx is off by"),
        (lambda x, y: x, "TypeError"),
    ],
)
def test_a_peer_that_is_wrong_or_fails_is_left_out(call, reason, bench):
    case = measure(against(SOFTMAX, simple("peer", call)), "tiny", bench)
    (left_out,) = case["left_out"]
    assert left_out["contestant"] == "peer"
    assert re.match(reason, left_out["reason"])
    for timed in case["passes"]:
        assert [r["contestant"] for r in timed["results"]] == [OURS, EAGER]


@pytest.mark.parametrize("position", [0, 1])
def test_a_wrong_kernel_of_ours_or_a_wrong_reference_ends_the_run(position, bench):
    entries = list(SOFTMAX.entries[:2])
    name = entries[position].name
    entries[position] = simple(name, lambda x: torch.softmax(x, dim=0))
    family = dataclasses.replace(SOFTMAX, entries=tuple(entries))
    with pytest.raises(BenchError, match=f"{name}: Wrong: y is off by"):
        measure(family, "tiny", bench)


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_out_of_memory_leaves_out_and_says_so(bench):
    case = measure(against(SOFTMAX, simple("peer", out_of_memory)), "tiny", bench)
    assert case["left_out"] == [{"contestant": "peer", "reason": "out of memory"}]


def test_without_eager_the_others_are_judged_by_rounding(bench):
    entries = (SOFTMAX.entries[0], simple(EAGER, out_of_memory))
    family = dataclasses.replace(SOFTMAX, entries=entries)
    case = measure(family, "tiny", bench)
    assert case["left_out"] == [{"contestant": EAGER, "reason": "out of memory"}]
    assert [r["contestant"] for r in case["passes"][0]["results"]] == [OURS]


@pytest.mark.parametrize("field", ["make", "exact"])
def test_what_cannot_be_checked_is_not_timed(field, bench):
    family = dataclasses.replace(against(SOFTMAX), **{field: out_of_memory})
    case = measure(family, "tiny", bench)
    assert case["passes"] == []
    assert [one["contestant"] for one in case["left_out"]] == [OURS, EAGER]
    assert "nothing to check it by" in case["left_out"][0]["reason"]


def test_a_backward_pass_that_was_made_before_is_not_timed_alone(bench):
    def build():
        eager = SOFTMAX.entries[1].build()
        return dataclasses.replace(eager, name="early", gradients_in_forward=True)

    case = measure(against(SOFTMAX, Entry("early", build, on_cpu=True)), "tiny", bench)
    for timed in case["passes"]:
        said = [one["reason"] for one in timed["left_out"]]
        late = ["makes its gradients in the forward pass: see both"]
        assert said == (late if timed["pass"] == BACKWARD else [])


def test_out_of_memory_in_every_contestant_times_nothing(bench, monkeypatch):
    monkeypatch.setattr(runner, "warm_up", out_of_memory)
    case = measure(against(SOFTMAX), "tiny", bench)
    for timed in case["passes"]:
        assert timed["results"] == []
        assert timed["rounds"] == 0
        assert len(timed["left_out"]) == 2


def test_the_allowance_is_four_times_the_error_of_eager_pytorch():
    exact = [torch.ones(4)]
    result = [torch.ones(4) + 0.01]
    check.check(result, exact, ["y"], [0.0026])
    with pytest.raises(check.Wrong, match="y is off by 0.01, allowed is 0.0096"):
        check.check(result, exact, ["y"], [0.0024])
    check.check(result, exact, ["y"], [0.0024], inside=torch.bfloat16)


def test_another_shape_is_wrong():
    with pytest.raises(check.Wrong, match=r"y has shape \(1,\), due is \(4,\)"):
        check.check([torch.ones(1)], [torch.ones(4)], ["y"], [1.0])
