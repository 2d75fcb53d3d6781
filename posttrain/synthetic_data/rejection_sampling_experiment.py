"""The experiment of the chapter: choose among n replies, learn from them, do it again.

`run(preset, seed)` fine-tunes a start that errs in several ways of solving a problem
(`rejection_sampling_artifact`) and returns numbers:

    start     the start itself: accuracy, pass@k, distinct solutions, entropy
    choice    one reply out of n by five selectors, over n; where the learned one errs
    arms      one round of RFT, one knob turned in each: what it learned from, what came
    rounds    expert iteration, and iteration gone wrong, round by round
    shared    expert iteration from the cold start of the pillar, before and after

Run it over seeds with `python -m ci.measure rejection_sampling cpu`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from posttrain import artifacts
from posttrain.alignment import chat_sft_artifact, expert_iteration
from posttrain.alignment.rollouts import GREEDY, evaluate
from posttrain.alignment.word_problems import Problem
from posttrain.foundations.trainer import fit
from posttrain.presets import preset_named
from posttrain.results import significant
from posttrain.synthetic_data import rejection_sampling_artifact as start_artifact
from posttrain.synthetic_data.rejection_sampling import right_steps
from posttrain.synthetic_data.rejection_sampling_arms import ARMS, Draws, learn
from posttrain.synthetic_data.rejection_sampling_choice import choices
from posttrain.synthetic_data.rejection_sampling_measures import by_problem, examined
from posttrain.synthetic_data.rejection_sampling_paths import Exam
from posttrain.synthetic_data.rejection_sampling_training import (
    FOUR_ROUNDS,
    Iteration,
    answers,
    iterate,
)

VERSION = 1


@dataclass(frozen=True)
class Preset:
    """Sizes of one run.

    questions, k: of the pool that all arms of one round choose from. steps: of one
    round. problems, n: held-out problems, and how many replies choose the best of.
    """

    questions: int = 256
    k: int = 16
    steps: int = 40
    verifier_steps: int = 64
    problems: int = 100
    n: int = 64
    iteration: Iteration = FOUR_ROUNDS
    shared: str = "cpu"  # the preset of the pillar's cold start
    shared_rounds: int = 6
    max_new: int = 48
    arms: tuple[str, ...] = tuple(ARMS)
    rounds: tuple[str, ...] = (
        "fresh",
        "steps checked",
        "stale",
        "same questions",
        "no verifier",
    )


PRESETS = {
    "ci": Preset(
        questions=96,
        k=8,
        steps=24,
        verifier_steps=8,
        problems=40,
        n=16,
        iteration=Iteration(rounds=2, questions=24, steps=6),
        shared="ci",
        shared_rounds=1,
        arms=("every reply", "no verifier"),
        rounds=("fresh",),
    ),
    "cpu": Preset(),
}
PRESETS["t4"] = replace(
    PRESETS["cpu"],
    questions=2048,
    steps=200,
    verifier_steps=500,
    problems=500,
    n=256,
    iteration=Iteration(rounds=6, questions=512, k=16, steps=60, max_new=112),
    shared="t4",
    max_new=112,
)
PRESETS["h200"] = replace(
    PRESETS["t4"],
    iteration=replace(PRESETS["t4"].iteration, max_new=176),
    shared="h200",
    max_new=176,
)


def run(preset: str, seed: int) -> dict:
    """All parts; a JSON-able dict. Raises ValueError for an unknown preset."""
    setup = preset_named(PRESETS, preset)
    start, recipe = start_of(preset, seed)
    test = recipe.test_problems(setup.problems)
    pool = draws_of(setup, start, recipe.exam, seed)
    result = {
        "preset": preset,
        "seed": seed,
        "config": asdict(setup),
        "start": examine(start, test, setup),
        "choice": choices(
            start, pool, test, setup.n, setup.verifier_steps, setup.max_new
        ),
        "arms": run_arms(setup, start, pool, test),
        "rounds": run_rounds(setup, start, recipe.exam, test, seed),
        "shared": run_shared(setup, seed),
    }
    return json.loads(json.dumps(significant(result)))


def start_of(preset: str, seed: int) -> tuple[nn.Module, start_artifact.Start]:
    """The start of this seed. That of seed 0 is the artifact, made by the same code."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if seed == 0:
        name = "synthetic_data.rejection_sampling"
        model, recipe = start_artifact.restore(artifacts.get(name, preset))
        return model.to(device), recipe
    recipe = start_artifact.recipe_of(preset, seed)
    trainer = recipe.trainer(device)
    fit(trainer)
    return trainer.model.eval(), recipe


def draws_of(setup: Preset, start: nn.Module, exam: Exam, seed: int) -> Draws:
    """The replies that every arm of one round starts from."""
    return Draws(
        start,
        exam.problems(seed + 500, setup.questions),
        setup.k,
        seed,
        setup.max_new,
    )


def examine(model: nn.Module, test: Sequence[Problem], setup: Preset) -> dict:
    """The measures of a policy on held-out problems, and its greedy accuracy."""
    rollouts = answers(model, test, 16, seed=1, max_new=setup.max_new)
    greedy = evaluate(model, test, GREEDY, max_new=setup.max_new).accuracy
    return {**examined(by_problem(rollouts, 16)), "greedy": greedy}


def run_arms(
    setup: Preset, start: nn.Module, pool: Draws, test: Sequence[Problem]
) -> dict:
    """Each arm from a copy of the start: the same steps, on replies chosen its way."""
    found = {}
    for name in setup.arms:
        model = copy.deepcopy(start)
        learned = learn(model, pool, ARMS[name], setup.steps)
        found[name] = {"learned": learned, **examine(model, test, setup)}
    return found


def run_rounds(
    setup: Preset, start: nn.Module, exam: Exam, test: Sequence[Problem], seed: int
) -> dict:
    """Expert iteration in several ways: looks at each round, and held-out measures."""
    base, found = setup.iteration, {}
    ways = {
        "fresh": (base, None),
        "steps checked": (base, right_steps),
        "stale": (replace(base, stale=True), None),
        "same questions": (replace(base, same_questions=True), None),
        "no verifier": (base, lambda rollout: True),
    }
    for name in setup.rounds:
        recipe, verdict = ways[name]
        model, curve = copy.deepcopy(start), []

        def measure(model, curve=curve):
            rollouts = answers(model, test, 8, seed=2, max_new=setup.max_new)
            curve.append(examined(by_problem(rollouts, 8)))

        measure(model)
        given = {} if verdict is None else {"verdict": verdict}
        log = iterate(model, exam, recipe, seed + 900, after=measure, **given)
        found[name] = {"looks": [asdict(look) for look in log], "curve": curve}
    return found


def run_shared(setup: Preset, seed: int) -> dict:
    """Expert iteration from the pillar's cold start, which thinks only sometimes."""
    artifact = artifacts.get("alignment.chat_sft", setup.shared)
    model, cold = chat_sft_artifact.restore(artifact)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    test = cold.test_problems(setup.problems)
    before = shared_measures(model, test, setup)
    recipe = expert_iteration.Recipe(
        difficulty=cold.difficulty, rounds=setup.shared_rounds, max_new=setup.max_new
    )
    trainer, rounds = expert_iteration.rft_trainer(model, recipe, seed)
    fit(trainer)
    return {
        "before": before,
        "after": shared_measures(model, test, setup),
        "rounds": [asdict(scores) for scores in rounds.log],
        "rollouts": recipe.rounds * recipe.prompts * recipe.group,
    }


def shared_measures(model: nn.Module, test: Sequence[Problem], setup: Preset) -> dict:
    """As `examine`, and how many replies think."""
    thinks = evaluate(model, test, max_new=setup.max_new).thinks
    return {**examine(model, test, setup), "thinks": thinks}
