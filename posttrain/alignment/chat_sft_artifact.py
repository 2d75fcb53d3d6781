"""The cold start: the model that the chapters on RL and preferences begin with.

model, recipe = restore(artifacts.get("alignment.chat_sft", "cpu"))
evaluate(model, recipe.test_problems())

It was shown demonstrations of which only some think before they answer, and it does as
they did. Those that think are nearly always right. Nothing told it that this matters:
that is left for RL to find out.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, replace

import torch

from posttrain.alignment.chat_sft import Pool, sft_trainer
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import (
    FOUR_STEPS,
    Difficulty,
    Problem,
    problems,
)
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.trainer import Trainer, fit
from posttrain.presets import preset_named

TEST_SEED = 10_000


@dataclass(frozen=True)
class ColdStart:
    """All that decides the weights."""

    difficulty: Difficulty = FOUR_STEPS
    C: int = 96
    L: int = 3
    T: int = 112  # the longest conversation, in tokens
    demonstrations: int = 6000
    thinking: float = 0.3  # the share of demonstrations that think
    B: int = 64
    steps: int = 400
    lr: float = 1e-2
    precision: str = "fp32"
    seed: int = 0

    def config(self) -> GPTConfig:
        """The shape of the model."""
        V = tokenizer().vocab_size
        return GPTConfig(V=V, T=self.T, C=self.C, L=self.L, H=4, H_kv=2)

    def pairs(self) -> list[tuple[str, str]]:
        """The fixed pool of (question, reply) demonstrations."""
        rng = random.Random(self.seed)
        pool = problems(self.seed, self.demonstrations, self.difficulty)
        return [
            (p.question, p.demonstration(rng.random() < self.thinking)) for p in pool
        ]

    def test_problems(self, n: int = 400) -> list[Problem]:
        """Held-out problems, the same for every seed."""
        return problems(TEST_SEED, n, self.difficulty, "test")

    def trainer(self, device: str = "cpu") -> Trainer:
        """A fresh model, ready to be fine-tuned."""
        torch.manual_seed(self.seed)
        model = GPT(self.config()).to(device)
        pool = Pool.of(self.pairs(), B=self.B, seed=self.seed, device=device)
        return sft_trainer(model, pool, self.steps, self.lr, precision=self.precision)


PRESETS = {
    "ci": ColdStart(
        difficulty=Difficulty(steps=2, most=9),
        C=64,
        L=2,
        demonstrations=2000,
        thinking=0.4,
        lr=2e-2,
    ),
    "cpu": ColdStart(),
    "t4": ColdStart(
        difficulty=Difficulty(steps=8, most=99),
        C=256,
        L=6,
        T=256,
        demonstrations=50_000,
        B=256,
        steps=2000,
        precision="fp16",
    ),
    "h200": ColdStart(
        difficulty=Difficulty(steps=12, most=99),
        C=512,
        L=8,
        T=384,
        demonstrations=200_000,
        B=512,
        steps=3000,
        precision="bf16",
    ),
}


def recipe_of(preset: str, seed: int = 0) -> ColdStart:
    """The preset's recipe. Raises ValueError for an unknown preset."""
    return replace(preset_named(PRESETS, preset), seed=seed)


def build(preset: str) -> dict:
    """Fine-tune with the preset's recipe: `model` (state) and `recipe`."""
    return fine_tuned(recipe_of(preset))


def fine_tuned(recipe) -> dict:
    """What an artifact keeps of a recipe (a dataclass with `trainer(device)`)."""
    trainer = recipe.trainer("cuda" if torch.cuda.is_available() else "cpu")
    fit(trainer)
    state = trainer.model.cpu().state_dict()
    return {
        "model": {name: tensor.clone() for name, tensor in state.items()},
        "recipe": asdict(recipe),
    }


def restore(artifact: dict) -> tuple[GPT, ColdStart]:
    """The model, in evaluation mode, and the recipe that made it."""
    fields = dict(artifact["recipe"])
    recipe = ColdStart(**{**fields, "difficulty": Difficulty(**fields["difficulty"])})
    model = GPT(recipe.config())
    model.load_state_dict(artifact["model"])
    return model.eval(), recipe
