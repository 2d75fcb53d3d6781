"""The experiment of the chapter: five ways on from a cold start, and runs gone wrong.

`run(preset, seed)` fine-tunes its own cold start and returns numbers:

    start     the cold start: what it cost, how good it is
    methods   GRPO, PPO, DPO on own pairs, RFT and more SFT at about equal compute:
              sampled and greedy accuracy over rollouts and CPU-seconds
    rounds    GRPO's own log: reward, accuracy, length, silent groups
    cost      GRPO against its start: tax, drift, speed, wins
    tax       a base that read Shakespeare first: what SFT, GRPO and replay do to that
    faults    a smaller cold start (the artifact of the `ci` preset), with a fault each

Run it over seeds with `python -m ci.measure grpo cpu`.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from posttrain import artifacts
from posttrain.alignment import (
    chat_sft_artifact,
    expert_iteration,
    grpo_own_pairs,
    ppo_training,
)
from posttrain.alignment.grpo_comparison import METHODS, Budget, follow, summary
from posttrain.alignment.grpo_cost import before_after
from posttrain.alignment.grpo_faults import FAULTS, faulty_trainer
from posttrain.alignment.grpo_tax import Plan, tax
from posttrain.alignment.grpo_training import Recipe, Round
from posttrain.alignment.rollouts import GREEDY, evaluate
from posttrain.alignment.word_problems import Problem
from posttrain.foundations.trainer import fit
from posttrain.presets import preset_named
from posttrain.results import significant

VERSION = 2
TAX = Plan()


@dataclass(frozen=True)
class Preset:
    """Sizes of one run. cold: the preset of the cold start."""

    cold: str
    grpo: int  # rounds
    ppo: int
    dpo: int
    rft: int
    sft: int  # steps
    problems: int  # held out
    points: int  # of each curve
    fault_rounds: int
    max_new: int = 48
    faults: tuple[str, ...] = tuple(FAULTS)
    methods: tuple[str, ...] = tuple(METHODS)
    tax: Plan = TAX


PRESETS = {
    "ci": Preset(
        cold="ci",
        grpo=6,
        ppo=4,
        dpo=4,
        rft=2,
        sft=24,
        problems=100,
        points=2,
        fault_rounds=3,
        tax=Plan(
            characters=20_000,
            base_steps=20,
            base_batch=8,
            sft_steps=20,
            rounds=1,
            problems=20,
        ),
    ),
    "cpu": Preset(
        cold="cpu",
        grpo=40,
        ppo=20,
        dpo=27,
        rft=21,
        sft=135,
        problems=300,
        points=5,
        fault_rounds=20,
    ),
}
PRESETS["t4"] = replace(
    PRESETS["cpu"],
    cold="t4",
    grpo=200,
    ppo=100,
    dpo=135,
    rft=105,
    sft=675,
    problems=1000,
    max_new=112,
)
PRESETS["h200"] = replace(PRESETS["t4"], cold="h200", max_new=176)


def budget_of(setup: Preset, start: chat_sft_artifact.ColdStart) -> Budget:
    """The recipes of the five methods."""
    d = {"difficulty": start.difficulty, "max_new": setup.max_new}
    return Budget(
        grpo=Recipe(rounds=setup.grpo, **d),
        ppo=ppo_training.Recipe(rounds=setup.ppo, **d),
        dpo=grpo_own_pairs.Recipe(rounds=setup.dpo, **d),
        rft=expert_iteration.Recipe(rounds=setup.rft, **d),
        sft_steps=setup.sft,
        sft_lr=start.lr / 4,
    )


def run(preset: str, seed: int) -> dict:
    """All parts; a JSON-able dict. Raises ValueError for an unknown preset."""
    setup = preset_named(PRESETS, preset)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = chat_sft_artifact.recipe_of(setup.cold, seed)
    problems = recipe.test_problems(setup.problems)
    trainer = recipe.trainer(device)
    begun = time.process_time()
    fit(trainer)
    seconds = time.process_time() - begun
    start = trainer.model.eval()
    result = {
        "preset": preset,
        "seed": seed,
        "config": asdict(setup),
        "start": {
            "cpu_seconds": round(seconds, 2),
            "demonstrations": recipe.demonstrations,
            "sampled": asdict(evaluate(start, problems, max_new=setup.max_new)),
            "greedy": evaluate(start, problems, GREEDY, max_new=setup.max_new).accuracy,
        },
        **run_methods(setup, recipe, start, problems, seed),
        "tax": tax(setup.tax, seed, device),
        "faults": run_faults(setup, seed, device),
    }
    return json.loads(json.dumps(significant(result)))


def run_methods(
    setup: Preset,
    recipe: chat_sft_artifact.ColdStart,
    start: nn.Module,
    problems: Sequence[Problem],
    seed: int,
) -> dict:
    """Each method from a copy of the start; GRPO's log and its side effects."""
    budget, result = budget_of(setup, recipe), {"methods": {}}
    for name in setup.methods:
        method = METHODS[name](copy.deepcopy(start), budget, recipe, seed)
        curve = follow(method, problems, setup.points)
        result["methods"][name] = summary(method, curve, problems)
        if name == "grpo":
            result["rounds"] = [row_of(entry) for entry in method.log]
            result["cost"] = before_after(
                start, method.policy, problems, seed, setup.max_new
            )
    return result


def run_faults(setup: Preset, seed: int, device: str) -> dict:
    """Each planted fault from the small cold start: its log, and the truth."""
    artifact = artifacts.get("alignment.chat_sft", "ci")
    result = {}
    for name in setup.faults:
        model, recipe = chat_sft_artifact.restore(artifact)
        problems = recipe.test_problems(min(setup.problems, 200))
        grpo = Recipe(difficulty=recipe.difficulty, rounds=setup.fault_rounds)
        trainer, rounds = faulty_trainer(name, model.to(device), grpo, seed)
        fit(trainer)
        scores = evaluate(model, problems)
        result[name] = {
            "rounds": [row_of(entry) for entry in rounds.log],
            "sampled": asdict(scores),
        }
    return result


def row_of(entry: Round) -> dict:
    """One round as plain values."""
    return {"reward": entry.reward, "silent": entry.silent, **asdict(entry.scores)}
