"""The command line: a run that is killed and resumed is the undisturbed one."""

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch

from posttrain.foundations import checkpoint
from posttrain.foundations import training_loop as tl
from posttrain.foundations.run_log import RunLog, read_log
from posttrain.foundations.training_run import PRESETS, Recipe, Run, load_model
from posttrain.foundations.transformer import GPT2

STEPS = 24
TINY = [
    *("--preset", "ci", "--device", "cpu", "--steps", str(STEPS), "--T", "16"),
    *("--dropout", "0.2", "--eval-every", "12", "--save-every", "6"),
]


def run(out, *more):
    """The command line, with samples a tenth as long: they took half of the time."""
    sample = Run.sample
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "sample", lambda run, text, n: sample(run, text, n // 10))
        return tl.main([*TINY, "--out", str(out), *more])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(folder) == 0
    return folder


@pytest.fixture
def unhurried(monkeypatch):
    """A step takes long enough to be met in the middle of a run on a busy machine."""
    write = RunLog.write

    def slow(*arguments):
        time.sleep(0.05)
        write(*arguments)

    monkeypatch.setattr(RunLog, "write", slow)


def same(a, b):
    """Equal to the last bit, tensors, numbers and all."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_run(folder, undisturbed):
    mine, wanted = (checkpoint.load(f, step=STEPS) for f in (folder, undisturbed))
    assert same(mine, wanted)
    assert read_log(folder) == read_log(undisturbed)


def test_killed_and_resumed_is_bit_identical(tmp_path, undisturbed, unhurried):
    """Killed at a moment that nobody chose, somewhere after its first checkpoint."""
    process = multiprocessing.get_context("fork").Process(target=run, args=(tmp_path,))
    process.start()
    while not checkpoint.steps(tmp_path):
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert checkpoint.steps(tmp_path)[-1] < STEPS
    assert run(tmp_path, "--resume") == 0
    assert_same_run(tmp_path, undisturbed)


def test_an_interrupt_ends_between_two_steps(tmp_path, undisturbed, unhurried, capsys):
    def interrupt():
        while len(read_log(tmp_path)) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    assert run(tmp_path) == 130
    said = capsys.readouterr().out
    assert "stopping after this step" in said and "go on with --resume" in said
    assert checkpoint.steps(tmp_path)[-1] < STEPS
    assert run(tmp_path, "--resume") == 0
    assert_same_run(tmp_path, undisturbed)


def test_resuming_what_is_done_changes_nothing(tmp_path, undisturbed, capsys):
    before = read_log(undisturbed)
    assert run(undisturbed, "--resume") == 0
    assert read_log(undisturbed) == before


def test_another_recipe_is_refused_by_name(undisturbed, capsys):
    assert run(undisturbed, "--resume", "--lr", "0.5") == 1
    said = capsys.readouterr().err
    assert "recipe.lr: 0.01 in the checkpoint, now 0.5" in said


def test_a_folder_with_a_run_is_not_overwritten(undisturbed, capsys):
    assert run(undisturbed) == 1
    assert f"holds a run at step {STEPS}; add --resume" in capsys.readouterr().err


def test_nothing_to_resume(tmp_path, capsys):
    assert run(tmp_path, "--resume") == 1
    assert "holds no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precision", "fp8"], "precision='fp8'"),
        (["--optimizer", "adam"], "optimizer='adam'"),
        (["--model", "bert"], "model='bert': use 'modern' or 'gpt2'"),
        (["--data", "moby"], "unknown data set 'moby'"),
        (["--warmup", "99"], "warmup=99"),
        (["--T", "500"], "500 tokens, but the model was made for T=128"),
    ],
)
def test_bad_options_are_named(tmp_path, capsys, options, said):
    assert run(tmp_path, *options) == 1
    assert said in capsys.readouterr().err


def test_a_run_that_diverges_says_so_and_keeps_its_checkpoint(tmp_path, capsys):
    assert run(tmp_path, "--lr", "1e20", "--warmup", "0", "--optimizer", "adamw") == 1
    assert "lower the learning rate" in capsys.readouterr().err


def test_profile_and_tensorboard_leave_their_files(tmp_path):
    assert run(tmp_path, "--profile", "--tensorboard") == 0
    trace = json.loads((tmp_path / "trace.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"aten::mm", "aten::scaled_dot_product_attention"} <= names
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == list(range(1, STEPS + 1))
    assert [e.step for e in events.Scalars("val_loss")] == [12, 24]


def test_a_trained_model_is_loaded_without_its_text(undisturbed, monkeypatch):
    monkeypatch.setattr("posttrain.data.load", None)
    model, tokenizer = load_model(undisturbed)
    tokens = torch.tensor([tokenizer.encode("to be")])
    assert model(tokens).shape == (1, 5, tokenizer.vocab_size)
    saved = checkpoint.load(undisturbed)["model"]
    assert torch.equal(model.token.weight, saved["token.weight"])
    with pytest.raises(checkpoint.CheckpointError, match="run.json is missing"):
        load_model(undisturbed / "elsewhere")


def test_a_run_learns_and_samples():
    run = Run.begin(Recipe(depth=2, context=128, T=32, steps=60))
    before = run.validate(64)
    from posttrain.foundations.trainer import fit

    fit(run.trainer)
    assert run.validate(64) < before - 1.0
    assert run.sample("a", 30) == run.sample("a", 30) != run.sample("a", 30, seed=1)
    assert len(run.sample("a", 200)) == 200  # longer than the model's 128 positions


def test_gpt2_trains_too(tmp_path):
    assert run(tmp_path, "--model", "gpt2", "--depth", "1") == 0
    model, _ = load_model(tmp_path)
    assert isinstance(model, GPT2) and model.config.C == 32


def test_gpu_presets_make_one_step_at_full_shape():
    from torch._subclasses.fake_tensor import FakeTensorMode

    from posttrain.foundations.modern_architecture import GPT, GPTConfig

    for name in ("t4", "h200"):
        recipe = PRESETS[name]
        with FakeTensorMode():
            config = GPTConfig.of_depth(recipe.depth, V=67, T=recipe.context)
            model = GPT(config)
            tokens = torch.zeros(recipe.B, recipe.T, dtype=torch.long)
            model(tokens).sum().backward()
            assert model.token.weight.grad.shape == (67, config.C)


# --- the log -------------------------------------------------------------------------


def test_a_resumed_log_forgets_what_will_be_written_again(tmp_path):
    log = RunLog(tmp_path)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0 / step})
    log.close()
    RunLog(tmp_path, after=2).write(3, {"loss": 0.5})
    assert read_log(tmp_path) == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5},
        {"step": 3, "loss": 0.5},
    ]


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    RunLog(tmp_path).write(1, {"loss": 1.0})
    path = tmp_path / "log.jsonl"
    path.write_text(path.read_text() + '{"step": 2, "lo')
    assert read_log(tmp_path) == [{"step": 1, "loss": 1.0}]
    path.write_text('{"step": 2, "lo\n' + path.read_text())
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        read_log(tmp_path)
