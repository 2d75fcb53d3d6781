"""The report, the challenge and the command line, without a GPU."""

import copy
import importlib
import json
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from posttrain_kernels import nf4
from posttrain_kernels.bench import __main__ as command
from posttrain_kernels.bench import challenge, cuda, provenance, report
from posttrain_kernels.bench.contestants import Entry, installed, simple
from posttrain_kernels.bench.timing import Call

from posttrain import results

OPTIONS = ((64, 128, 3407, torch.float16), (128, 64, 3409, torch.bfloat16))


@pytest.fixture
def with_gpu(bench, monkeypatch):
    """The command believes that there is a GPU; the bench is that of the tests."""
    # first: imported where torch.cuda.is_available() lies, it stays broken for all
    installed("bitsandbytes") and importlib.import_module("bitsandbytes")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 139 * 2**30))
    monkeypatch.setattr(provenance, "driver", lambda: "580.1")
    monkeypatch.setattr(command, "_bench", lambda given: bench)
    monkeypatch.setattr(command, "SMALL", "tiny")
    monkeypatch.setattr(command, "MEASURED", ("tiny",))
    monkeypatch.setattr(
        command, "_challenge", lambda *_: challenge.measure(bench, 1, 2, OPTIONS)
    )


@pytest.fixture
def written(with_gpu, tmp_path, capsys):
    """A record of two families and the challenge, in a file; and what was printed."""
    path = tmp_path / "kernels.test.json"
    options = ["--family", "nf4", "--family", "flash_attention", "--quick"]
    options += ["--family", "nf4_challenge", "--out", str(path), "--seed", "7"]
    assert command.main(options) == 0
    return path, capsys.readouterr().out


def test_a_record_is_written_read_and_shown(written):
    path, out = written
    record = report.read(path)
    assert [case["family"] for case in record["cases"]] == ["nf4", "flash_attention"]
    assert record["provenance"]["seed"] == 7
    assert record["provenance"]["hardware"]["gpu"] == "NVIDIA H200"
    assert record["provenance"]["hardware"]["driver"] == "580.1"
    assert {"python", "torch", "triton"} <= set(record["provenance"]["versions"])
    assert record["provenance"]["command"].startswith(
        "python -m posttrain_kernels.bench --family nf4 --family flash_attention"
    )
    assert "copies 1.00 TB/s, multiplies bfloat16 at 100 TFLOP/s" in out
    assert "nf4 tiny (rows 6, columns 64; bfloat16)" in out
    names = [r["contestant"] for r in record["cases"][0]["passes"][0]["results"]]
    assert ("bitsandbytes" in names) == bool(installed("bitsandbytes"))
    assert "torch.compile left out: needs a GPU" in out
    assert f"wrote {path}" in out
    again = path.with_name("again.json")
    report.write(again, record)
    assert report.read(again) == record


def test_the_library_of_the_book_can_read_it(written, monkeypatch):
    path, _ = written
    monkeypatch.setattr(results, "_folder", lambda: path.parent)
    assert results.read("kernels.test")["limits"]["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: r.pop("limits"), "record has no field 'limits'"),
        (lambda r: r["provenance"].pop("seed"), "provenance has no field 'seed'"),
        (lambda r: r["cases"][0].pop("shape"), "case has no field 'shape'"),
        (
            lambda r: r["cases"][0]["passes"][0]["results"][0].update(median_us="1"),
            "nf4 tiny forward has 'median_us' = '1'",
        ),
        (
            lambda r: r["cases"][0]["passes"][0].update(limit_us=float("nan")),
            "nan is no measurement",
        ),
        (lambda r: r["challenge"].pop("repeats"), "challenge has no field 'repeats'"),
    ],
)
def test_what_is_no_record_is_not_written(written, tmp_path, spoil, message):
    record = copy.deepcopy(report.read(written[0]))
    spoil(record)
    with pytest.raises(ValueError, match=message):
        report.write(tmp_path / "new.json", record)
    assert not list(tmp_path.glob("new*"))


def test_numbers_have_five_digits(written):
    path, _ = written
    record = json.loads(path.read_text())
    record["limits"]["bytes_per_second"] = 4.123456789e12
    report.write(path, record)
    assert report.read(path)["limits"]["bytes_per_second"] == 4.1235e12


def test_the_table_says_how_much_slower_than_ours_and_sorts():
    result = {"median_us": 10.0, "q20_us": 9.0, "q80_us": 11.0, "min_us": 8.0}
    case = {
        **{"family": "nf4", "size": "large", "shape": {"rows": 4}, "dtype": "float16"},
        "left_out": [
            {"contestant": "Liger", "reason": "liger-kernel is not installed"}
        ],
        "passes": [
            {
                "pass": "forward",
                "left_out": [],
                "results": [
                    result
                    | {"contestant": "eager", "median_us": 25.0, "share_of_limit": 0.4},
                    result | {"contestant": "ours", "share_of_limit": 0.87},
                ],
            }
        ],
    }
    title, absent, _, first, second = report.case_lines(case)
    assert title == "nf4 large (rows 4; float16)"
    assert absent.split(maxsplit=1) == [
        "Liger",
        "left out: liger-kernel is not installed",
    ]
    assert first.split() == ["ours", "10.0", "9.0", "11.0", "87%", "1.00x", "-"]
    assert second.split() == ["eager", "25.0", "9.0", "11.0", "40%", "2.50x", "-"]


def seconds_per_call(stopwatch, seconds):
    """Contestants of the challenge that take so long for one weight."""

    def call(weights, name):
        stopwatch.spend(name, 1000 * seconds[name])
        return nf4.reference(weights)

    def build(name):
        return lambda weights: call(weights, name)

    return tuple(simple(name, build(name)) for name in seconds)


def test_the_challenge_by_its_protocol(bench, stopwatch, monkeypatch):
    """Three weights a repeat, a wait after each; sums of medians; against Unsloth."""
    entries = seconds_per_call(stopwatch, {"ours": 0.01, "Unsloth": 0.02})
    family = challenge.FAMILY
    monkeypatch.setattr(
        challenge, "FAMILY", type(family)(**vars(family) | {"entries": entries})
    )
    clock = lambda: stopwatch.now / 1000  # noqa: E731
    found = challenge.measure(
        bench, repeats=10, samples=3, options=OPTIONS, clock=clock
    )
    assert found["total_seconds"] == pytest.approx({"ours": 0.6, "Unsloth": 1.2})
    assert found["speedup_over_unsloth"]["ours"] == pytest.approx(2)
    assert found["left_out"] == []
    assert [shape["dtype"] for shape in found["shapes"]] == ["float16", "bfloat16"]
    ran = [what for what in stopwatch.log if what in ("ours", "Unsloth")]
    one_option = 2 * 3 + 2 * 2 * 3 + 3 * 2 * 10 * 3  # check, warm-up, samples
    assert len(ran) == 2 * one_option
    turns = [ran[18 + 30 * i] for i in range(6)]
    assert turns == ["ours", "Unsloth", "Unsloth", "ours", "ours", "Unsloth"]
    assert "flush" not in stopwatch.log  # the challenge leaves the cache warm


def test_who_is_wrong_in_the_challenge_has_no_sum(bench, monkeypatch):
    entries = (
        simple("ours", nf4.dequantize),
        simple("bitsandbytes", lambda w: nf4.reference(w) * 1.1),
        Entry("Unsloth", lambda: None, "unsloth"),
    )
    family = challenge.FAMILY
    monkeypatch.setattr(
        challenge, "FAMILY", type(family)(**vars(family) | {"entries": entries})
    )
    found = challenge.measure(bench, repeats=1, samples=1, options=OPTIONS)
    assert list(found["total_seconds"]) == ["ours"]
    assert found["speedup_over_unsloth"] == {}
    reasons = {one["contestant"]: one["reason"] for one in found["left_out"]}
    assert reasons["Unsloth"] in ("needs a GPU", "unsloth is not installed")
    assert reasons["bitsandbytes"].startswith("Wrong: w is off by")


def test_the_challenge_has_the_published_shapes():
    weights = challenge.mlp(64, 128, 1, torch.float16, "cpu")
    assert [w.shape for w in weights] == [(128, 64), (128, 64), (64, 128)]
    assert [(w, h) for w, h, *_ in challenge.OPTIONS] == [
        *((2048, 8192), (1024, 4096), (4096, 14336))
    ]


def test_without_a_gpu_it_says_what_can_be_done_and_measures_nothing(root):
    done = subprocess.run(
        [sys.executable, "-m", "posttrain_kernels.bench"],
        capture_output=True,
        text=True,
        cwd=root / "kernels",
        env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "no CUDA GPU" in done.stderr
    assert "posttrain_kernels.lab" in done.stderr


def test_the_list_needs_no_gpu(capsys):
    assert command.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert "    large   16384 x 4096 x 131072" in out
    assert "    against eager, torch.compile, bitsandbytes, Unsloth" in out
    assert "    14336 x 4096 bfloat16" in out
    assert "    liger-kernel  " in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--family", "gelu"], "invalid choice: 'gelu'"),
        (["--seed", "one"], "invalid int value: 'one'"),
        (["--out", "nowhere/kernels.json"], "no folder nowhere: run this in the"),
    ],
)
def test_bad_options_are_refused(options, message, with_gpu, capsys):
    with pytest.raises(SystemExit) as error:
        command.main(options)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_a_partial_run_does_not_replace_the_whole_result(
    with_gpu, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    assert command.main(["--family", "softmax"]) == 0
    assert "not written: a partial run" in capsys.readouterr().out
    assert list((tmp_path / "results").iterdir()) == []


def test_the_whole_run_is_named_after_the_gpu(with_gpu, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    assert command.main([]) == 0
    assert [path.name for path in (tmp_path / "results").iterdir()] == [
        "kernels.h200.json"
    ]
    record = report.read(tmp_path / "results/kernels.h200.json")
    assert len(record["cases"]) == 6
    assert record["challenge"]["total_seconds"]["ours"] > 0


@pytest.mark.parametrize(
    "error", [command.runner.BenchError("ours: Wrong: y"), RuntimeError("CUDA error")]
)
def test_what_fails_costs_the_others_nothing(
    with_gpu, tmp_path, monkeypatch, capsys, error
):
    """No result is written, but what was measured is kept beside it, and printed."""
    measure = command.runner.measure

    def failing(family, *rest):
        if family.name == "softmax":
            raise error
        return measure(family, *rest)

    monkeypatch.setattr(command.runner, "measure", failing)
    path = tmp_path / "kernels.json"
    options = ["--family", "softmax", "--family", "nf4", "--out", str(path)]
    assert command.main(options) == 1
    said = capsys.readouterr()
    assert f"failed: softmax tiny: {type(error).__name__}: {error}" in said.err
    assert f"nothing is written as a result; what was measured is in {path}.part" in (
        said.err
    )
    assert "nf4 tiny (rows 6" in said.out
    assert not path.exists()
    (case,) = report.read(tmp_path / "kernels.json.part")["cases"]
    assert case["family"] == "nf4"


def test_a_run_that_is_stopped_leaves_what_it_has(with_gpu, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_challenge", stopped)
    path = tmp_path / "kernels.json"
    with pytest.raises(KeyboardInterrupt):
        command.main(["--out", str(path)])
    kept = report.read(tmp_path / "kernels.json.part")["cases"]
    assert [case["family"] for case in kept] == ["softmax", "flash_attention", "nf4"]


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        ("NVIDIA H200", "h200"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
    ],
)
def test_the_name_of_a_gpu_in_a_file(gpu, name):
    assert provenance.slug(gpu) == name


def test_no_driver_where_nvidia_smi_is_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.driver() is None


def test_the_cuda_device_overwrites_four_caches_and_counts_its_own_peak(monkeypatch):
    """What it asks of torch.cuda, which answers as a GPU with 100 MiB of L2 would."""
    log = []
    L2 = SimpleNamespace(L2_cache_size=100 * 2**20)
    for name, answer in (
        ("get_device_properties", L2),
        ("synchronize", None),
        ("reset_peak_memory_stats", None),
        ("memory_allocated", 30),
        ("max_memory_allocated", 100),
        ("_sleep", None),
    ):
        said = partial(
            lambda name, answer, *_: log.append(name) or answer, name, answer
        )
        monkeypatch.setattr(torch.cuda, name, said)
    monkeypatch.setattr(
        cuda.torch, "empty", lambda size, **_: torch.zeros(size // 2**20)
    )
    device = cuda.Cuda()
    assert device._cache.numel() == 400
    device._cache.fill_(1)
    device.flush()
    assert not device._cache.any()
    device.hold()
    log.clear()
    call = Call(lambda made: log.append(f"run {made}"), lambda: log.append("make") or 1)
    assert device.peak_bytes(call) == 70
    held = ["make", "synchronize", "reset_peak_memory_stats", "memory_allocated"]
    assert log == [*held, "run 1", "synchronize", "max_memory_allocated"]


def test_on_a_gpu(gpu, tmp_path):
    """The whole way, once: shares are of this world, and ours is timed in each pass."""
    path = tmp_path / "kernels.json"
    options = ["--quick", "--family", "softmax", "--family", "nf4", "--out", str(path)]
    assert command.main(options) == 0
    record = report.read(path)
    assert record["limits"]["bytes_per_second"] > 1e10
    for case in record["cases"]:
        for timed in case["passes"]:
            shares = {r["contestant"]: r["share_of_limit"] for r in timed["results"]}
            assert {"ours", "eager"} <= set(shares)
            assert all(0 < share < 1.5 for share in shares.values())
