"""The lab's runs: by PEFT here, by Unsloth in a process of its own.

Unsloth changes the libraries that it meets, so this file is a program, too.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

UNSLOTH = {
    "whole": {"name": "whole", "steps": 4},
    "cut": {"name": "other", "steps": 2},
    "resumed": {"name": "other", "steps": 4},
    "refused": {"name": "other", "steps": 4, "lr": 1e-4},
    "four_bit": {"name": "four", "steps": 2, "four_bit": True},
    "unseen": {"name": "unseen", "steps": 4, "exam_every": 4},
}


def run(by, folder, name, **changes):
    """Trains a little; what is to be looked at, as plain values."""
    import bitsandbytes

    from posttrain.alignment import mini_grpo_unsloth as lab
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


@pytest.fixture(scope="module")
def unsloth(tmp_path_factory):
    """What each run of `UNSLOTH` found."""
    folder = tmp_path_factory.mktemp("unsloth")
    done = subprocess.run(
        [sys.executable, __file__, folder],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    lines = [x for x in done.stdout.splitlines() if x.startswith("FOUND")]
    assert len(lines) == len(UNSLOTH), done.stdout[-2000:] + done.stderr[-3000:]
    found = [json.loads(line.removeprefix("FOUND")) for line in lines]
    return dict(zip(UNSLOTH, found, strict=True))


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


def test_unsloth_and_peft_learn_the_same_on_a_cpu(unsloth, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    peft = run("peft", tmp_path, **UNSLOTH["whole"])
    assert (peft["by"], unsloth["whole"]["by"]) == ("peft", "unsloth")
    assert peft["total"] == pytest.approx(unsloth["whole"]["total"], rel=1e-4)
    ours, theirs = kept(peft), kept(unsloth["whole"])
    assert ours[1]["rewards/correct/mean"] == theirs[1]["rewards/correct/mean"]


def main():
    from posttrain.alignment.mini_grpo_unsloth import import_unsloth

    imported, said = import_unsloth()
    assert imported, said
    for changes in UNSLOTH.values():
        found = run("unsloth", Path(sys.argv[1]), **changes)
        print("FOUND", json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
