"""The experiment of the chapter: the RLHF pipeline, and what the critic is for.

`run(preset, seed)` returns plain numbers:

    rlhf    the three stages of `ppo_rlhf`: for each weight of the KL penalty a curve of
            the reward model's opinion, the gold judge's and the distance from the start
    critic  PPO with the exact verifier from a cold start, with several lambdas, and
            without a critic

Run it over seeds with `python -m ci.measure ppo cpu`.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass, replace

import torch

from posttrain import artifacts
from posttrain.alignment import chat_sft_artifact, ppo_rlhf
from posttrain.alignment.chat_sft_artifact import ColdStart
from posttrain.alignment.ppo_rlhf import TWO_STEPS, Setting
from posttrain.alignment.ppo_training import Recipe, ppo_trainer
from posttrain.alignment.rollouts import evaluate
from posttrain.alignment.word_problems import Difficulty
from posttrain.foundations.language_model import parameter_count
from posttrain.foundations.trainer import fit
from posttrain.presets import preset_named

VERSION = 1
PENALTIES = {  # arms of the RLHF part
    "no penalty": {"beta": 0.0},
    "beta 0.1": {"beta": 0.1},
    "steered to 2 nats": {"beta": 0.1, "target_kl": 2.0, "horizon": 500},
}
BASELINES = {  # arms of the critic part
    "critic, lambda 0.95": {"lam": 0.95},
    "critic, lambda 0": {"lam": 0.0},
    "critic, lambda 1": {"lam": 1.0},
    "no critic": {"lam": 1.0, "critic": False},
}


@dataclass(frozen=True)
class Preset:
    """Sizes of one run of the experiment."""

    rlhf: Setting
    ppo: Recipe
    penalties: tuple[str, ...]
    start: ColdStart | None  # None: the artifact of the preset, trained once for all
    verified: Recipe
    baselines: tuple[str, ...]
    test: int = 250


PRESETS = {
    "ci": Preset(
        rlhf=Setting(
            sft_B=32,
            sft_steps=120,
            sft_lr=3e-2,
            pairs=96,
            rm_B=16,
            rm_steps=30,
            test=32,
        ),
        ppo=Recipe(TWO_STEPS, prompts=32, rounds=8, max_new=80),
        penalties=("no penalty",),
        start=None,
        verified=Recipe(TWO_STEPS, prompts=64, rounds=16, max_new=24),
        baselines=("critic, lambda 0.95",),
        test=200,
    ),
    "cpu": Preset(
        rlhf=Setting(),
        ppo=Recipe(TWO_STEPS, prompts=64, rounds=50, max_new=80),
        penalties=tuple(PENALTIES),
        start=chat_sft_artifact.PRESETS["ci"],
        verified=Recipe(TWO_STEPS, rounds=30, max_new=24),
        baselines=tuple(BASELINES),
    ),
}

BIG = Setting(
    difficulty=Difficulty(steps=4, most=99),
    C=256,
    L=6,
    T=256,
    demonstrations=50_000,
    sft_B=256,
    sft_steps=2000,
    sft_lr=1e-2,
    pairs=20_000,
    rm_B=128,
    rm_steps=1000,
    rm_lr=2e-3,
    test=1000,
    max_new=144,
)
PRESETS["t4"] = replace(
    PRESETS["cpu"],
    rlhf=BIG,
    ppo=Recipe(BIG.difficulty, prompts=256, rounds=200, lr=2e-4, max_new=144),
    start=chat_sft_artifact.PRESETS["t4"],
    verified=Recipe(
        chat_sft_artifact.PRESETS["t4"].difficulty,
        prompts=256,
        rounds=200,
        lr=2e-4,
        max_new=112,
    ),
    test=1000,
)
PRESETS["h200"] = replace(PRESETS["t4"], rlhf=replace(BIG, C=512, L=8))


def run(preset: str, seed: int) -> dict:
    """All parts; raises ValueError for an unknown preset."""
    sizes = preset_named(PRESETS, preset)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "config": {
            "ppo": asdict(sizes.ppo),
            "verified": asdict(sizes.verified),
            "pairs": sizes.rlhf.pairs,
        },
        "rlhf": run_rlhf(sizes, seed, device),
        "critic": run_critic(sizes, preset, seed, device),
    }


def run_rlhf(sizes: Preset, seed: int, device: str) -> dict:
    """The pipeline once, its last stage once for each penalty."""
    setting = sizes.rlhf
    clock = time.process_time()
    start = ppo_rlhf.imitate(setting, seed, device)
    sft_seconds = time.process_time() - clock
    proxy, pairs = ppo_rlhf.learn_to_judge(setting, start, seed)
    held_out = ppo_rlhf.preferences(setting, start, seed + 1000)
    seconds = time.process_time() - clock - sft_seconds
    arms = {}
    for name in sizes.penalties:
        recipe = replace(sizes.ppo, **PENALTIES[name])
        clock = time.process_time()
        policy, looks = ppo_rlhf.optimise(setting, start, proxy, recipe, seed)
        arms[name] = {
            "looks": looks,
            "cpu_seconds": time.process_time() - clock,
            "samples": ppo_rlhf.samples(setting, policy, seed),
        }
    return {
        "sft_cpu_seconds": sft_seconds,
        "reward_model_cpu_seconds": seconds,
        "pairs": len(pairs),
        "accuracy": ppo_rlhf.accuracy(proxy, pairs),
        "held_out_accuracy": ppo_rlhf.accuracy(proxy, held_out),
        "before": ppo_rlhf.samples(setting, start, seed),
        "arms": arms,
    }


def run_critic(sizes: Preset, preset: str, seed: int, device: str) -> dict:
    """PPO with the exact verifier from one cold start, once for each baseline."""
    if sizes.start is None:
        artifact = artifacts.get("alignment.chat_sft", preset)
        start, cold = chat_sft_artifact.restore(artifact)
    else:
        cold = replace(sizes.start, seed=seed)
        trainer = cold.trainer(device)
        fit(trainer)
        start = trainer.model
    test = cold.test_problems(sizes.test)
    max_new = sizes.verified.max_new
    arms = {}
    for name in sizes.baselines:
        policy = copy.deepcopy(start).to(device)
        recipe = replace(sizes.verified, **BASELINES[name])
        clock = time.process_time()
        ppo, rounds = ppo_trainer(policy, recipe, seed=seed)
        fit(ppo)
        arms[name] = {
            "cpu_seconds": time.process_time() - clock,
            "accuracy": [round.scores.accuracy for round in rounds.log],
            "explained": [round.explained for round in rounds.log],
            "after": evaluate(policy, test, max_new=max_new).accuracy,
        }
    return {
        "before": evaluate(start, test, max_new=max_new).accuracy,
        "parameters": parameter_count(start),
        "arms": arms,
    }
