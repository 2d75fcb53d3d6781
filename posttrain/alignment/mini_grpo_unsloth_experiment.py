"""The lab's run without a GPU, over seeds, and what breaks it.

`run(preset, seed)` returns numbers:

    by       who loaded the model: "unsloth", or "peft" where Unsloth is not installed
    run      the settings of the preset: log, greedy marks before and after
    four_bit the same from weights in NF4
    faults   the small cold start: as it should be, and with a fault each

All seeds begin with the same cold start; adapters, questions and draws differ. Run it
with `python -m ci.measure mini_grpo_unsloth cpu`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from posttrain.alignment import mini_grpo_unsloth as lab
from posttrain.alignment import mini_grpo_unsloth_local as local
from posttrain.alignment.mini_grpo_unsloth import PRESETS, Policy, Settings
from posttrain.alignment.mini_grpo_unsloth_exam import Exam, questions_for
from posttrain.alignment.mini_grpo_unsloth_rewards import text_of
from posttrain.results import significant

VERSION = 1
# What the faults are planted in: the small cold start at twice the speed
FAULTY = replace(PRESETS["ci"], lr=4e-3, steps=60, held_out=100)
KEPT = {
    "reward": "reward",
    "completions/mean_length": "length",
    "frac_reward_zero_std": "silent",
    "entropy": "entropy",
}


def run(preset: str, seed: int) -> dict:
    """All parts; a JSON-able dict. Raises ValueError for a preset that needs a hub."""
    settings = local_settings(preset, seed)
    unsloth, _ = lab.import_unsloth()
    return significant(
        {
            "preset": preset,
            "seed": seed,
            "by": "unsloth" if unsloth else "peft",
            "config": asdict(settings),
            "run": one_run(settings, unsloth),
            "four_bit": one_run(replace(settings, four_bit=True), unsloth),
            "faults": {
                name: fault(replace(FAULTY, seed=seed), unsloth)
                for name, fault in FAULTS.items()
            },
        }
    )


def local_settings(preset: str, seed: int) -> Settings:
    """The settings of a preset that begins with the book's own model."""
    known = [name for name, settings in PRESETS.items() if settings.model is None]
    if preset not in known:
        raise ValueError(
            f"preset {preset!r} cannot be measured here; use {' or '.join(known)}, or"
            " the notebook on a machine with a GPU"
        )
    return replace(PRESETS[preset], seed=seed)


def one_run(
    settings: Settings,
    unsloth: bool,
    rewards: Callable[[Policy], tuple[list, list[float]]] | None = None,
    special_tags: bool = False,
) -> dict:
    """Load, examine, train, examine: the log and the greedy marks."""
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy = lab.load_policy(settings, folder, unsloth)
        if special_tags:
            policy = replace(
                policy, tokenizer=local.tags_made_special(policy.tokenizer)
            )
        functions, weights = rewards(policy) if rewards else (None, None)
        pool, held_out = questions_for(settings)
        exam = Exam(held_out, settings.system, settings.max_new)
        greedy = replace(exam, temperature=0)
        before = greedy.hold(policy)
        trainer = lab.make_trainer(
            settings, policy, pool, exam, folder / "run", functions, weights
        )
        log = lab.train(trainer, settings)
        return {
            "greedy": [asdict(before), asdict(greedy.hold(policy))],
            "exams": exams(log),
            "steps": steps(log),
            "cpu_seconds": time.process_time() - begun,
        }


def exams(log: list[dict]) -> list[dict]:
    """The rows of the exams: step, and the marks."""
    return [
        {name.removeprefix("exam/"): value for name, value in row.items()}
        for row in log
        if "exam/correct" in row
    ]


def steps(log: list[dict]) -> list[dict]:
    """The rows of the steps, under our names; a reward of one's own keeps its name."""
    rows = []
    for row in log:
        if "reward" not in row:
            continue
        own = {
            name.split("/")[1]: value
            for name, value in row.items()
            if name.startswith("rewards/") and name.endswith("/mean")
        }
        ours = {ours: row[theirs] for theirs, ours in KEPT.items() if theirs in row}
        rows.append({"step": row["step"], **own, **ours})
    return rows


def anywhere_reward(policy: Policy) -> tuple[list, list[float]]:
    """Correct if the number stands anywhere: what a hurried verifier accepts."""

    def anywhere(completions, answer, **_) -> list[float]:
        pairs = zip(completions, answer, strict=True)
        return [float(str(due) in text_of(c)) for c, due in pairs]

    return [anywhere], [1.0]


FAULTS = {
    "as it should be": one_run,
    "learning rate x 5": lambda s, u: one_run(replace(s, lr=5 * s.lr), u),
    "tags are special tokens": lambda s, u: one_run(s, u, special_tags=True),
    "number anywhere": lambda s, u: one_run(s, u, anywhere_reward),
}
