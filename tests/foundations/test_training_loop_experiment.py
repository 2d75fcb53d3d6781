"""The experiment: what it holds, what its faults are, and what was measured."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from queue import Queue
from threading import Thread

import numpy as np
import pytest
import torch

from posttrain import results
from posttrain.foundations import training_loop_artifact as artifact
from posttrain.foundations import training_loop_cost as cost
from posttrain.foundations import training_loop_ddp as ddp
from posttrain.foundations import training_loop_experiment as experiment
from posttrain.foundations import training_loop_restart as restart
from posttrain.foundations import training_loop_uneven as uneven
from posttrain.foundations.batches import target_count
from posttrain.foundations.language_model import IGNORE
from posttrain.foundations.training_run import Recipe, load_text

TINY = Recipe(depth=1, context=64, T=16, B=2, steps=12, warmup=1, dropout=0.2)


def tiny_preset():
    """All of `run` in two seconds."""
    return experiment.Preset(
        recipe=replace(TINY, dropout=0.0),
        others=("fp16",),
        every=5,
        windows=4,
        grid_B=(1,),
        grid_T=(8, 16),
        restart=TINY,
        cut=8,
        uneven=replace(TINY, micro_batches=2, T=64, steps=3, decay=0.3),
    )


@pytest.fixture(scope="module")
def tiny_run():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTTRAIN_OFFLINE", "1")
        patch.setitem(experiment.PRESETS, "tiny", tiny_preset())
        once = partial(cost.step_profile, steps=1)
        patch.setattr(cost, "step_profile", once)
        yield experiment.run("tiny", 0)


def test_result_holds_what_the_chapter_shows(tiny_run):
    assert json.loads(json.dumps(tiny_run)) == tiny_run
    assert tiny_run["train"]["fp16"] == {"skipped": "this CPU has no units for fp16"}
    main = tiny_run["train"]["fp32"]
    assert main["curve"]["step"] == [5, 10, 12]
    assert main["tokens"] == 12 * 2 * 16
    assert 0 < main["cpu_seconds"] < 30 and len(main["sample"]) >= 300
    assert [row["T"] for row in tiny_run["cost"]["grid"]] == [8, 16]
    assert tiny_run["fp16"][0]["zero"] > tiny_run["fp16"][-1]["zero"]
    assert set(tiny_run["uneven"]["arms"]) == set(uneven.LOSSES)


def test_only_a_complete_state_resumes_exactly(tiny_run):
    for arms in tiny_run["restart"].values():
        exact = {name: arm["exact"] for name, arm in arms["arms"].items()}
        assert exact == {name: name == "nothing" for name in restart.FORGET}
        whole = arms["arms"]["nothing"]
        assert whole["loss"] == arms["undisturbed"] and whole["val"] == arms["val"]
        assert len(arms["before"]) == 8 and len(arms["undisturbed"]) == 4


def test_unknown_presets_are_named():
    for call in (lambda: experiment.run("huge", 0), lambda: artifact.build("huge")):
        with pytest.raises(
            ValueError, match="'huge'; known presets: ci, cpu, t4, h200"
        ):
            call()


def test_measured_shakespeare_is_within_its_limits():
    """Issue: training below 1.55, validation below 1.70, 150 CPU-seconds, each seed."""
    runs = results.load("training_loop", "cpu")["runs"]
    assert len(runs) >= 3
    for run in runs:
        main = run["result"]["train"]["fp32"]
        assert run["result"]["data"]["source"] != "fallback"
        assert run["result"]["config"]["recipe"]["precision"] == "fp32"
        assert main["train"] < 1.55
        assert main["val"] < 1.70
        assert main["cpu_seconds"] < 150


def test_measured_faults_are_what_the_chapter_says():
    for run in results.load("training_loop", "cpu")["runs"]:
        arms = run["result"]["uneven"]["arms"]
        right, wrong = (arms[name] for name in uneven.LOSSES)
        assert all(right[key] < wrong[key] for key in right)
        adamw, muon = (run["result"]["restart"][name] for name in ("adamw", "muon"))
        jumps = [
            max(np.subtract(r["arms"]["optimizers"]["loss"], r["undisturbed"])[:10])
            for r in (adamw, muon)
        ]
        assert jumps[0] > 0.05 > 0.03 > jumps[1]
        assert muon["arms"]["step"]["val"] > muon["val"] + 0.02


# --- uneven micro-batches ------------------------------------------------------------


def test_padding_does_not_count():
    texts = [np.arange(5, dtype=np.uint16), np.arange(3, dtype=np.uint16)]
    inputs, targets = uneven.padded(texts, T=3)
    assert inputs.tolist() == [[0, 1, 2], [0, 1, 0]]
    assert targets.tolist() == [[1, 2, 3], [1, 2, IGNORE]]


def test_micro_batches_are_sorted_by_length_and_follow_the_step():
    texts = [np.full(n, n, dtype=np.uint16) for n in range(2, 30)]
    batches = uneven.Speeches(texts, B=3, T=16, micro_batches=4)
    counts = [target_count(batches(5, i)) for i in range(4)]
    assert counts == sorted(counts) and counts[0] < counts[-1]
    assert torch.equal(batches(5, 1)[0], batches(5, 1)[0])
    drawn = [batches(step, 0)[0][0, 0].item() for step in range(9)]
    assert len(set(drawn)) > 1


def test_speeches_are_the_text_again():
    text = load_text("tinyshakespeare")
    parts = uneven.split_speeches(text.val[:3000], text)
    joined = "".join(text.tokenizer.decode(part.tolist()) for part in parts)
    whole = text.tokenizer.decode(text.val[:3000].tolist())
    assert joined.split() == whole.split() and len(parts) > 3


# --- processes -----------------------------------------------------------------------


@pytest.mark.parametrize(("ranks", "N"), [(2, 5), (3, 7), (4, 2), (1, 3)])
def test_a_ring_adds_up(ranks, N):
    """Ranks as threads, lines as queues: each piece goes through every rank."""
    start = torch.arange(ranks * N, dtype=torch.float64).view(ranks, N)
    lines = {(a, b): Queue() for a in range(ranks) for b in range(ranks)}
    vectors, sent = [row.clone() for row in start], [0] * ranks

    def work(rank):
        def exchange(mine, to, received, source):
            sent[rank] += mine.numel()
            lines[rank, to].put(mine.clone())
            received.copy_(lines[source, rank].get(timeout=10))

        ddp.ring_all_reduce(vectors[rank], rank, ranks, exchange)

    threads = [Thread(target=work, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(vector, start.sum(0)) for vector in vectors)
    assert sum(sent) == 2 * (ranks - 1) * N


def test_two_processes_are_one():
    program = [sys.executable, "-m", "posttrain.foundations.training_loop_ddp"]
    done = subprocess.run([*program, "--steps", "5"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ranks"] == 2 and found["steps"] == 5
    assert found["difference"]["tokens"] < 1e-5
    assert found["difference"]["ranks"] > 1e-3
    # Sums of two numbers do not depend on their order, halves and doubles are exact.
    assert found["difference"]["from_pytorch"] < 1e-6


# --- the artifact --------------------------------------------------------------------


def test_the_artifact_is_a_model_that_speaks(monkeypatch):
    monkeypatch.setitem(artifact.PRESETS, "ci", replace(TINY, dropout=0.0))
    monkeypatch.setattr(artifact, "CI_STEPS", 9)
    made = artifact.build("ci")
    model, tokenizer = artifact.restore(made)
    tokens = torch.tensor([tokenizer.encode("to be")])
    assert model(tokens).shape == (1, 5, tokenizer.vocab_size)
    assert not model.training and made["val_loss"] < 4.4
