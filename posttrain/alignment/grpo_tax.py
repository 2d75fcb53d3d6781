"""What post-training costs a base on the text that made it.

    rows = tax(Plan(), seed=0)
    rows[1]                 {"stage": "sft", "nats": 12.9, "accuracy": 0.46, ...}

A small base reads Shakespeare. Then it learns word problems, from demonstrations alone
or with some of the old text among them (*replay*), and from there by GRPO or by more
demonstrations. After each stage: nats a token on held-out Shakespeare, which nothing
but replay asks for, and accuracy on held-out problems. The tax is the rise of the nats.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from posttrain import data
from posttrain.alignment.chat_sft import Pool, sft_trainer
from posttrain.alignment.chat_sft_artifact import ColdStart, recipe_of
from posttrain.alignment.completions import (
    Completions,
    collate,
    count,
    epoch_rows,
    total_nll,
)
from posttrain.alignment.grpo_cost import drift
from posttrain.alignment.grpo_training import Recipe, grpo_trainer
from posttrain.alignment.policy_training import policy_trainer
from posttrain.alignment.rollouts import evaluate, roll_out
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.foundations.modern_architecture import GPT
from posttrain.foundations.tokenization import PAD
from posttrain.foundations.trainer import fit

CORPUS = "tinyshakespeare"
FASTER = 10  # times the learning rate of GRPO


@dataclass(frozen=True)
class Plan:
    """Sizes. replay: the share of the rows of a batch that are old text."""

    cold: str = "ci"  # the preset whose model, problems and demonstrations these are
    characters: int = 300_000
    base_steps: int = 200
    base_batch: int = 32
    sft_steps: int = 500
    rounds: int = 30  # of GRPO; more SFT takes as many steps
    replay: float = 1 / 16
    problems: int = 200


@dataclass(frozen=True)
class Text:
    """A text in rows of T tokens: what is read, and what is held out."""

    pool: Pool
    held_out: Completions

    @classmethod
    def load(cls, plan: Plan, T: int, seed: int, device: str) -> Text:
        """The first characters of the corpus; the last tenth is held out."""
        tokens = tokenizer().encode(data.load(CORPUS).text[: plan.characters])
        rows = [tokens[i : i + T] for i in range(0, len(tokens) - T, T)]
        cut = len(rows) * 9 // 10
        pool = _as_pool(rows[:cut], plan.base_batch, seed, device)
        rest = _as_pool(rows[cut:], len(rows) - cut, seed, device)
        return cls(pool, rest.batch(range(len(rows) - cut)))

    @torch.no_grad()
    def nats(self, model: nn.Module) -> float:
        """Mean negative log-likelihood of the held-out text, nats a token."""
        return (total_nll(model, self.held_out) / count(self.held_out)).item()


def _as_pool(rows: list[list[int]], B: int, seed: int, device: str) -> Pool:
    """Plain text as a pool: every token but the first is to be predicted."""
    firsts, rests = [row[:1] for row in rows], [row[1:] for row in rows]
    return Pool(firsts, rests, B=B, seed=seed, device=device)


def mixed(demonstrations: Pool, text: Pool, share: float) -> Callable[..., Completions]:
    """Batches of as many rows as `demonstrations` has, a share of them old text.

    Raises ValueError for a share that leaves no demonstrations, or no text.
    """
    old = round(share * demonstrations.B)
    if not 0 < old < demonstrations.B:
        raise ValueError(
            f"share={share} of a batch of {demonstrations.B} is {old} rows of text;"
            " both kinds need at least one"
        )
    new = replace(demonstrations, B=demonstrations.B - old)
    text = replace(text, B=old)

    def batch(step: int, micro: int = 0) -> Completions:
        prompts, replies = [], []
        for pool in (new, text):
            rows = epoch_rows(len(pool.prompts), pool.B, pool.seed, step, micro)
            prompts += [pool.prompts[i] for i in rows]
            replies += [pool.replies[i] for i in rows]
        pad = tokenizer().special_id(PAD)
        return collate(prompts, replies, pad, device=demonstrations.device)

    return batch


def tax(plan: Plan, seed: int = 0, device: str = "cpu") -> list[dict]:
    """The stages, in order, as plain values."""
    recipe = replace(recipe_of(plan.cold, seed), steps=plan.sft_steps)
    text = Text.load(plan, recipe.T, seed, device)
    shown = Pool.of(recipe.pairs(), B=recipe.B, seed=seed, device=device)
    replayed = mixed(shown, text.pool, plan.replay)
    problems = recipe.test_problems(plan.problems)
    rows = []

    def stage(name: str, model: nn.Module) -> nn.Module:
        scores = evaluate(model, problems, seed=seed)
        row = {"stage": name, "nats": text.nats(model), **asdict(scores)}
        if name.startswith("then"):
            answers = roll_out(model, problems)
            row["drift"] = drift(start, model, answers)
        rows.append(row)
        return model

    torch.manual_seed(seed)
    fresh = GPT(recipe.config()).to(device)
    base = stage("base", _learn(fresh, text.pool, plan.base_steps, recipe.lr))
    stage("sft", _learn(base, shown, plan.sft_steps, recipe.lr))
    start = stage("sft, replay", _learn(base, replayed, plan.sft_steps, recipe.lr))
    stage("then grpo", _reinforce(start, recipe, plan.rounds, seed))
    stage("then more sft", _imitate(start, shown, plan.rounds))
    stage("then more sft, replay", _imitate(start, replayed, plan.rounds))
    stage("then more sft, fast", _imitate(start, shown, plan.rounds, FASTER))
    return rows


def _learn(
    start: nn.Module, batches: Callable[..., Completions], steps: int, lr: float
) -> nn.Module:
    """A copy of the model that has learned from the batches."""
    model = copy.deepcopy(start)
    fit(sft_trainer(model, batches, steps, lr))
    return model.eval()


def _imitate(
    start: nn.Module,
    batches: Callable[..., Completions],
    rounds: int,
    faster: float = 1,
) -> nn.Module:
    """A copy after more SFT, with the optimizer and steps of GRPO, and its rate."""
    model, grpo = copy.deepcopy(start), Recipe()
    steps = rounds * grpo.updates
    fit(
        policy_trainer(
            model,
            batches,
            total_nll,
            steps=steps,
            lr=faster * grpo.lr,
            warmup=min(5, steps // 3),
            size=count,
        )
    )
    return model.eval()


def _reinforce(
    start: nn.Module, recipe: ColdStart, rounds: int, seed: int
) -> nn.Module:
    """A copy of the model after GRPO."""
    model = copy.deepcopy(start)
    grpo = Recipe(difficulty=recipe.difficulty, rounds=rounds)
    fit(grpo_trainer(model, grpo, seed=seed)[0])
    return model.eval()
