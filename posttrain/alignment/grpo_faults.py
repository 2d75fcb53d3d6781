"""Runs of GRPO that go wrong, each by one planted fault.

    trainer, rounds = faulty_trainer("length price", model, recipe, seed=0)
    fit(trainer)
    rounds.log                      # what a dashboard would have shown
    evaluate(trainer.model, ...)    # what happened

Each fault changes one thing of a recipe that works: a number, the reward, the prompts,
the mask, or the advantages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from posttrain.alignment.grpo import DAPO
from posttrain.alignment.grpo_training import (
    Recipe,
    Rounds,
    loss_of,
    trainer_of,
)
from posttrain.alignment.rollouts import Rollout, text_of
from posttrain.alignment.verifier import STRICT
from posttrain.alignment.word_problem_tokenizer import END_TURN, tokenizer
from posttrain.alignment.word_problems import Problem
from posttrain.foundations.sampling_generate import generate
from posttrain.foundations.trainer import Trainer

PRICE = 0.05  # points a character


def priced(reply: str, answer: int) -> float:
    """The strict reward minus a price for length that nobody weighed against it."""
    return STRICT(reply, answer) - PRICE * len(reply)


def best_and_worst(rewards: Tensor) -> Tensor:
    """1 for one best answer of each group, -1 for one worst, 0 for the rest: (P, G).

    What is sometimes called GRPO. Of answers that earn the same the first is taken as
    best and the last as worst, so a group without a difference still pushes.
    """
    advantages = torch.zeros_like(rewards)
    rows = torch.arange(len(rewards), device=rewards.device)
    advantages[rows, rewards.argmax(dim=1)] += 1
    last = rewards.shape[1] - 1 - rewards.flip(1).argmin(dim=1)
    advantages[rows, last] -= 1
    return advantages


class WithoutMark(Rounds):
    """The prompt lacks the mark after which the assistant speaks."""

    def answers(
        self, asked: list[Problem], generator: torch.Generator
    ) -> list[Rollout]:
        tok, recipe = tokenizer(), self.recipe
        every = [problem for problem in asked for _ in range(recipe.group)]
        texts = [tok.encode(problem.question) for problem in every]
        user, end = tok.special_id("<|user|>"), tok.special_id(END_TURN)
        prompts = [[user, *text, end] for text in texts]
        rows = generate(
            self.model, prompts, recipe.max_new, stop={end}, generator=generator
        )
        return [
            Rollout(problem, prompt, row.tokens, row.logprobs, text_of(row.tokens))
            for problem, prompt, row in zip(every, prompts, rows, strict=True)
        ]


class BestAndWorst(Rounds):
    """One answer of each group up, one down, however many are right."""

    def advantages(self, rewards: Tensor) -> Tensor:
        return best_and_worst(rewards)


@dataclass(frozen=True)
class Fault:
    """What differs from a run that works. `what` says it in words."""

    what: str
    changes: dict | None = None  # of the recipe
    reward: Callable[[str, int], float] = STRICT
    rounds: type[Rounds] = Rounds


STALE = {"updates": 8, "lr": 1e-3}
UNCLIPPED = replace(DAPO, clip_low=1 - 1e-6, clip_high=1e6)
FAULTS = {
    "none": Fault("nothing: the recipe as it is"),
    "learning rate": Fault("a learning rate 20 times as high", {"lr": 1e-2}),
    "stale": Fault("8 updates a round, twice the learning rate", STALE),
    "stale, no clip": Fault(
        "the same without the clip", {**STALE, "objective": UNCLIPPED}
    ),
    "length price": Fault("a reward that charges for every character", reward=priced),
    "no mark": Fault("prompts without the assistant's mark", rounds=WithoutMark),
    "best and worst": Fault(
        "groups of 4: the best answer up, the worst down",
        {"prompts": 32, "group": 4},
        rounds=BestAndWorst,
    ),
}


def faulty_trainer(
    name: str, model: nn.Module, recipe: Recipe, seed: int = 0
) -> tuple[Trainer, Rounds]:
    """A trainer with the fault `name` planted, and the rounds that it plays.

    Raises ValueError for an unknown name.
    """
    if name not in FAULTS:
        raise ValueError(f"unknown fault {name!r}; known: {', '.join(FAULTS)}")
    fault = FAULTS[name]
    recipe = replace(recipe, **(fault.changes or {}))
    rounds = fault.rounds(model, recipe, fault.reward, seed)
    return trainer_of(rounds, partial(loss_of, recipe.objective)), rounds
