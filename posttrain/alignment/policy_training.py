"""What every run after SFT shares: fresh answers, shares of them, one kind of trainer.

    rollouts = answer_fresh(model, rng, recipe)     # recipe: difficulty, prompts, ...
    shares = share_out(experience, updates, seed=round)
    trainer = policy_trainer(model, rounds, loss, steps=120, lr=5e-4, warmup=5)

A run is a function of its seed: the problems, the answers and the order of the shares
all follow from it and from the model.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from posttrain.alignment.rollouts import Rollout, roll_out
from posttrain.alignment.word_problems import Difficulty, Problem, draw
from posttrain.foundations.optimizers import AdamW
from posttrain.foundations.optimizers_schedules import wsd
from posttrain.foundations.trainer import Trainer


class Asks(Protocol):
    """The part of a recipe that says what is asked in a round."""

    difficulty: Difficulty
    prompts: int
    max_new: int


def questions(
    model: nn.Module, rng: random.Random, recipe: Asks
) -> tuple[list[Problem], torch.Generator]:
    """The problems of a round, fresh ones, and what their answers are drawn with."""
    asked = [draw(rng, recipe.difficulty) for _ in range(recipe.prompts)]
    device = next(model.parameters()).device
    return asked, torch.Generator(device).manual_seed(rng.getrandbits(60))


def answer_fresh(
    model: nn.Module, rng: random.Random, recipe: Asks, group: int = 1
) -> list[Rollout]:
    """`group` answers of the present model to each problem of a round."""
    asked, generator = questions(model, rng, recipe)
    return roll_out(model, asked, group, generator=generator, max_new=recipe.max_new)


def share_out(experience: Any, parts: int, seed: int) -> list[Any]:
    """The answers of a round in shuffled shares of like size, one for each update.

    experience: has a `batch` and gives some of its answers for a tensor of rows.
    """
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(experience.batch), generator=rng)
    return [experience[rows] for rows in order.tensor_split(parts)]


def one(batch: Any) -> int:
    """The size of a batch whose loss is a mean already."""
    return 1


def policy_trainer(
    model: nn.Module,
    batches: Callable[[int, int], Any],
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    steps: int,
    lr: float,
    warmup: int,
    size: Callable[[Any], int] = one,
    groups: list[dict] | None = None,
    max_norm: float | None = 1.0,
) -> Trainer:
    """AdamW without decay and with a short memory; a last third that falls to a tenth.

    groups: parameter groups with learning rates of their own; None: all at `lr`.
    """
    return Trainer(
        model,
        [
            AdamW(
                groups or model.parameters(),
                lr=lr,
                betas=(0.9, 0.95),
                weight_decay=0.0,
            )
        ],
        batches,
        schedule=partial(
            wsd, total=steps, warmup=warmup, decay=max(1, steps // 3), floor=0.1
        ),
        steps=steps,
        loss=loss,
        size=size,
        max_norm=max_norm,
    )
