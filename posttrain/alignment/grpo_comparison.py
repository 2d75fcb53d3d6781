"""Five ways on from one model, at about the same compute.

    method = METHODS["grpo"](copy.deepcopy(start), budget, seed=0)
    curve = follow(method, problems, points=5)
    curve[-1].accuracy, curve[-1].cpu_seconds, curve[-1].rollouts

What each of them is given differs, and that matters more than the loss:

    grpo, ppo, dpo, rft     fresh problems, their answers by the model, and a verifier
    sft                     the demonstrations of the cold start, and nothing else

The budgets are fixed in rounds beforehand, so that a run can be repeated; the clock is
read, not obeyed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from torch import nn

from posttrain.alignment import expert_iteration, grpo_own_pairs, ppo_training
from posttrain.alignment.chat_sft import Pool, sft_trainer
from posttrain.alignment.chat_sft_artifact import ColdStart
from posttrain.alignment.grpo_training import Recipe, grpo_trainer
from posttrain.alignment.rollouts import GREEDY, Scores, evaluate
from posttrain.alignment.word_problems import Problem
from posttrain.foundations.trainer import Trainer


@dataclass(frozen=True)
class Budget:
    """How long each method runs."""

    grpo: Recipe
    ppo: ppo_training.Recipe
    dpo: grpo_own_pairs.Recipe
    rft: expert_iteration.Recipe
    sft_steps: int
    sft_lr: float


@dataclass(frozen=True)
class Method:
    """A run that has not begun. `policy` is what is evaluated."""

    trainer: Trainer
    policy: nn.Module
    rollouts: int = 0  # answers in the whole run
    demonstrations: int = 0  # that it reads, repeats counted
    log: Sequence = ()  # one entry a round


@dataclass(frozen=True)
class Point:
    """Where a run stands: what it has cost, and how good the policy is."""

    cpu_seconds: float  # of training and rollouts; evaluation is not counted
    rollouts: int
    accuracy: float  # sampled
    greedy: float


def grpo(model: nn.Module, budget: Budget, start: ColdStart, seed: int) -> Method:
    recipe = budget.grpo
    trainer, rounds = grpo_trainer(model, recipe, seed=seed)
    answers = recipe.rounds * recipe.prompts * recipe.group
    return Method(trainer, model, rollouts=answers, log=rounds.log)


def ppo(model: nn.Module, budget: Budget, start: ColdStart, seed: int) -> Method:
    recipe = budget.ppo
    trainer, rounds = ppo_training.ppo_trainer(model, recipe, seed=seed)
    answers = recipe.rounds * recipe.prompts
    return Method(trainer, model, rollouts=answers, log=rounds.log)


def dpo(model: nn.Module, budget: Budget, start: ColdStart, seed: int) -> Method:
    recipe = budget.dpo
    trainer, rounds = grpo_own_pairs.own_pairs_trainer(model, recipe, seed)
    answers = recipe.rounds * recipe.prompts * recipe.group
    return Method(trainer, model, rollouts=answers, log=rounds.log)


def rft(model: nn.Module, budget: Budget, start: ColdStart, seed: int) -> Method:
    recipe = budget.rft
    trainer, rounds = expert_iteration.rft_trainer(model, recipe, seed)
    answers = recipe.rounds * recipe.prompts * recipe.group
    return Method(trainer, model, rollouts=answers, log=rounds.log)


def sft(model: nn.Module, budget: Budget, start: ColdStart, seed: int) -> Method:
    """More of the same: the demonstrations of the cold start, in another order."""
    device = str(next(model.parameters()).device)
    pool = Pool.of(start.pairs(), B=start.B, seed=seed + 1000, device=device)
    trainer = sft_trainer(model, pool, budget.sft_steps, budget.sft_lr)
    return Method(trainer, model, demonstrations=budget.sft_steps * start.B)


METHODS: dict[str, Callable[[nn.Module, Budget, ColdStart, int], Method]] = {
    "grpo": grpo,
    "ppo": ppo,
    "dpo": dpo,
    "rft": rft,
    "sft": sft,
}


def follow(method: Method, problems: Sequence[Problem], points: int) -> list[Point]:
    """Train to the end, and evaluate `points` times on the way, evenly spaced.

    The first point is the start, at no cost.
    """
    trainer, seconds = method.trainer, 0.0
    curve = [_point(method, problems, 0.0)]
    for part in range(1, points + 1):
        until = trainer.steps * part // points
        begun = time.process_time()
        while trainer.step < until:
            trainer.train_step()
        seconds += time.process_time() - begun
        curve.append(_point(method, problems, seconds))
    return curve


def _point(method: Method, problems: Sequence[Problem], seconds: float) -> Point:
    done = method.trainer.step / method.trainer.steps
    return Point(
        round(seconds, 2),
        round(done * method.rollouts),
        evaluate(method.policy, problems).accuracy,
        evaluate(method.policy, problems, GREEDY).accuracy,
    )


def summary(method: Method, curve: Sequence[Point], scores: Scores) -> dict:
    """What is kept of a run: plain values."""
    return {
        "curve": [asdict(point) for point in curve],
        "sampled": asdict(scores),
        "greedy": curve[-1].greedy,
        "cpu_seconds": curve[-1].cpu_seconds,
        "rollouts": method.rollouts,
        "demonstrations": method.demonstrations,
        "steps": method.trainer.steps,
    }
