"""The model that this topic starts from: it knows several ways, and errs in each.

model, recipe = restore(artifacts.get("synthetic_data.rejection_sampling", "cpu"))

The cold start of the pillar (`alignment.chat_sft`) has one way to think. Here an expert
wrote each demonstration in one of three ways and two ways of writing, and there are so
few of them that the model is right about half of the time, less where it takes more
steps.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch

from posttrain.alignment.chat_sft import Pool, sft_trainer
from posttrain.alignment.chat_sft_artifact import fine_tuned
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import Problem
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.trainer import Trainer
from posttrain.presets import preset_named
from posttrain.synthetic_data.rejection_sampling_paths import (
    FOUR_LENGTHS,
    Exam,
    demonstration,
)

TEST_SEED = 10_000


@dataclass(frozen=True)
class Start:
    """All that decides the weights."""

    exam: Exam = FOUR_LENGTHS
    C: int = 64
    L: int = 2
    T: int = 112  # the longest conversation, in tokens
    demonstrations: int = 2000
    B: int = 64
    steps: int = 400
    lr: float = 2e-2
    precision: str = "fp32"
    seed: int = 0

    def config(self) -> GPTConfig:
        """The shape of the model."""
        V = tokenizer().vocab_size
        return GPTConfig(V=V, T=self.T, C=self.C, L=self.L, H=4, H_kv=2)

    def pairs(self) -> list[tuple[str, str]]:
        """The (question, reply) demonstrations, one to a question."""
        rng = random.Random(self.seed)
        asked = self.exam.problems(self.seed, self.demonstrations)
        return [(p.question, demonstration(p, rng)) for p in asked]

    def test_problems(self, n: int) -> list[Problem]:
        """Held-out problems, the same for every seed."""
        return self.exam.problems(TEST_SEED, n, "test")

    def trainer(self, device: str = "cpu") -> Trainer:
        """A fresh model, ready to be fine-tuned."""
        torch.manual_seed(self.seed)
        model = GPT(self.config()).to(device)
        pool = Pool.of(self.pairs(), B=self.B, seed=self.seed, device=device)
        return sft_trainer(model, pool, self.steps, self.lr, precision=self.precision)


PRESETS = {
    "ci": Start(exam=Exam((1, 2)), demonstrations=1500, steps=300, B=48),
    "cpu": Start(),
    "t4": Start(
        exam=Exam((4, 6, 8), most=99),
        C=256,
        L=6,
        T=256,
        demonstrations=20_000,
        B=256,
        steps=1500,
        lr=1e-2,
        precision="fp16",
    ),
    "h200": Start(
        exam=Exam((6, 9, 12), most=99),
        C=512,
        L=8,
        T=384,
        demonstrations=50_000,
        B=512,
        steps=2000,
        lr=1e-2,
        precision="bf16",
    ),
}


def recipe_of(preset: str, seed: int = 0) -> Start:
    """The preset's recipe. Raises ValueError for an unknown preset."""
    return replace(preset_named(PRESETS, preset), seed=seed)


def build(preset: str) -> dict:
    """Fine-tune with the preset's recipe: `model` (state) and `recipe`."""
    return fine_tuned(recipe_of(preset))


def restore(artifact: dict) -> tuple[GPT, Start]:
    """The model, in evaluation mode, and the recipe that made it."""
    fields = dict(artifact["recipe"])
    exam = {**fields["exam"], "steps": tuple(fields["exam"]["steps"])}
    recipe = Start(**{**fields, "exam": Exam(**exam)})
    model = GPT(recipe.config())
    model.load_state_dict(artifact["model"])
    return model.eval(), recipe
