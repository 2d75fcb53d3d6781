"""The lab's runs, in processes of their own: Unsloth changes the libraries it meets."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, os, sys, traceback
from dataclasses import replace
from pathlib import Path

import bitsandbytes, datasets  # both ways need these, and Unsloth need not come first

def run(lab, folder, by, name, **changes):
    from posttrain.alignment import mini_grpo_unsloth_exam as exams
    from posttrain.alignment.word_problems import Difficulty

    level = Difficulty(steps=2, most=9)
    few = {"prompts": 8, "group": 4, "batch": 16, "max_new": 16, "held_out": 16}
    small = replace(lab.PRESETS["ci"], **few, exam_every=2, save_every=2)
    settings = replace(small, **changes)
    policy = lab.load_policy(settings, folder, by == "unsloth")
    questions = exams.word_problem_questions(level, "test", 16)
    pool = exams.word_problem_questions(level, "train", 64)
    exam = exams.Exam(questions, None, settings.max_new)
    trainer = lab.make_trainer(settings, policy, pool, exam, folder / name)
    try:
        log = lab.train(trainer, settings)
    except ValueError as error:
        return {"refused": str(error)}
    modules = list(policy.model.modules())
    learned = [p.detach() for p in policy.model.parameters() if p.requires_grad]
    return {
        "by": policy.by,
        "log": log,
        "total": sum(float(p.double().abs().sum()) for p in learned),
        "four": sum(type(m) is bitsandbytes.nn.Linear4bit for m in modules),
        "training": policy.model.training,
    }

def run_all(by, folder, runs):
    if by == "unsloth":
        import unsloth
    from posttrain.alignment import mini_grpo_unsloth as lab

    for changes in runs:
        print("FOUND", by, json.dumps(run(lab, folder, by, **changes)), flush=True)

for by, runs in json.loads(sys.argv[2]).items():
    if os.fork() == 0:
        try:
            run_all(by, Path(sys.argv[1]) / by, runs)
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.wait()
"""
RUNS = {
    "unsloth": {
        "whole": {"name": "whole", "steps": 4},
        "cut": {"name": "other", "steps": 2},
        "resumed": {"name": "other", "steps": 4},
        "refused": {"name": "other", "steps": 4, "lr": 1e-4},
        "four_bit": {"name": "four", "steps": 2, "four_bit": True},
        "unseen": {"name": "unseen", "steps": 4, "exam_every": 4},
    },
    "peft": {"whole": {"name": "whole", "steps": 4}},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each run found: those of Unsloth in one process, those of PEFT in another.

    Both are forks of one that has imported what they share.
    """
    folder = tmp_path_factory.mktemp("lab")
    asked = {by: list(runs.values()) for by, runs in RUNS.items()}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder, json.dumps(asked)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    lines = [x.split(" ", 2) for x in done.stdout.splitlines() if x[:5] == "FOUND"]
    told = done.stdout[-2000:] + done.stderr[-3000:]
    result = {}
    for by, runs in RUNS.items():
        values = [json.loads(text) for _, who, text in lines if who == by]
        assert len(values) == len(runs), told
        result[by] = dict(zip(runs, values, strict=True))
    return result


@pytest.fixture(scope="module")
def unsloth(found):
    return found["unsloth"]


def kept(run):
    """What must be equal: everything but times."""
    slow = ("time", "runtime", "per_second")
    return [
        {name: value for name, value in row.items() if not name.endswith(slow)}
        for row in run["log"]
        if "train_runtime" not in row
    ]


def test_the_log_holds_exams_and_every_reward(unsloth):
    log = unsloth["whole"]["log"]
    assert [row["step"] for row in log if "exam/correct" in row] == [0, 2, 4]
    steps = [row for row in log if "reward" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    for row in steps:
        tags, number, correct = (
            row[f"rewards/{name}/mean"] for name in ("tags", "number", "correct")
        )
        assert 0 < correct < number <= tags <= 1
        assert row["reward"] == pytest.approx(0.125 * (tags + number) + correct)


def test_an_exam_leaves_the_model_in_training(unsloth):
    assert unsloth["whole"]["training"]


def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(unsloth):
    assert len(kept(unsloth["cut"])) < len(kept(unsloth["resumed"]))
    assert unsloth["resumed"]["total"] == unsloth["whole"]["total"]
    assert kept(unsloth["resumed"]) == kept(unsloth["whole"])


def test_a_run_that_is_looked_at_is_the_run_that_is_not(unsloth):
    assert unsloth["unseen"]["total"] == unsloth["whole"]["total"]
    exams = [row for row in unsloth["unseen"]["log"] if "exam/correct" in row]
    assert [row["step"] for row in exams] == [0, 4]


def test_other_settings_do_not_go_on_in_the_same_folder(unsloth):
    assert "lr: 0.002 there, 0.0001 now" in unsloth["refused"]["refused"]


def test_four_bit_weights_learn_too(unsloth):
    run = unsloth["four_bit"]
    assert run["four"] == 14  # seven projections in each of two layers
    assert unsloth["whole"]["four"] == 0
    assert [row["step"] for row in run["log"] if "reward" in row] == [1, 2]


def test_unsloth_and_peft_learn_the_same_on_a_cpu(found, unsloth):
    peft = found["peft"]["whole"]
    assert (peft["by"], unsloth["whole"]["by"]) == ("peft", "unsloth")
    assert peft["total"] == pytest.approx(unsloth["whole"]["total"], rel=1e-4)
    ours, theirs = kept(peft), kept(unsloth["whole"])
    assert ours[1]["rewards/correct/mean"] == theirs[1]["rewards/correct/mean"]
