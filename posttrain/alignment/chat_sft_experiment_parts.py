"""What the chapter's experiment measures, one function a question.

Losses are nats a token of the reply; accuracies are those of the exact verifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
from torch import nn

from posttrain.alignment.chat_sft import Pool
from posttrain.alignment.chat_template import encode_prompt
from posttrain.alignment.completions import Completions, count, total_nll
from posttrain.alignment.rollouts import (
    GREEDY,
    MAX_NEW,
    Rollout,
    Scores,
    score,
    text_of,
)
from posttrain.alignment.verifier import FORM
from posttrain.alignment.word_problem_tokenizer import END_TURN, tokenizer
from posttrain.alignment.word_problems import Problem
from posttrain.foundations.sampling import Sampling
from posttrain.foundations.sampling_generate import DRAW, generate
from posttrain.foundations.trainer import Trainer

DIVERGED = 1e4  # nats a token; written for a loss that is no number any more


def fit_and_measure(
    trainer: Trainer,
    marks: int,
    test: Sequence[Problem],
    held_out: Completions,
    seed: int,
) -> list[dict]:
    """Train to the end; losses and accuracies at evenly spaced steps.

    train_loss is the mean over the steps since the last mark. A run that diverges ends
    early with the row that it has.
    """
    curve, losses = [], []
    at = {round(trainer.steps * (i + 1) / marks) for i in range(marks)}
    for step in range(1, trainer.steps + 1):
        try:
            losses.append(trainer.train_step().loss)
        except FloatingPointError:
            losses.append(DIVERGED)
        if step in at or losses[-1] == DIVERGED:
            row = {"step": step, "train_loss": sum(losses) / len(losses)}
            curve.append({**row, **measure(trainer.model, test, held_out, seed)})
            losses = []
        if curve and curve[-1]["train_loss"] >= DIVERGED:
            break
    return curve


def measure(
    model: nn.Module, test: Sequence[Problem], held_out: Completions, seed: int
) -> dict:
    """Loss on held-out demonstrations; accuracy of sampled and of greedy replies."""
    prompts = [encode_prompt(tokenizer(), problem.question) for problem in test]
    sampled, stopless = answer(model, prompts, test, DRAW, seed)
    greedy, _ = answer(model, prompts, test, GREEDY, seed)
    return {
        "held_out_loss": mean_nll(model, held_out),
        "sampled": sampled.accuracy,
        "greedy": greedy.accuracy,
        "well_formed": sampled.well_formed,
        "length": sampled.length,
        "right_but_for_the_end": stopless,
    }


@torch.no_grad()
def mean_nll(model: nn.Module, batch: Completions) -> float:
    """Nats a target."""
    model.eval()
    loss = (total_nll(model, batch) / count(batch)).item()
    return loss if loss < DIVERGED else DIVERGED  # NaN compares as False


def perplexity(model: nn.Module, batch: Completions) -> float:
    """The exponential of the mean loss: how many tokens the model hesitates between."""
    return torch.tensor(mean_nll(model, batch)).exp().item()


def answer(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    test: Sequence[Problem],
    settings: Sampling,
    seed: int,
) -> tuple[Scores, float]:
    """Replies to the problems, asked by these prompts; how they score.

    Also the share whose first words are a right reply, whatever is written after them.
    """
    tok = tokenizer()
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    rows = generate(
        model.eval(),
        prompts,
        MAX_NEW,
        stop={tok.special_id(END_TURN)},
        settings=settings,
        generator=generator,
    )
    rollouts = [
        Rollout(problem, list(prompt), row.tokens, row.logprobs, text_of(row.tokens))
        for problem, prompt, row in zip(test, prompts, rows, strict=True)
    ]
    begins = [FORM.match(rollout.reply) for rollout in rollouts]
    right = [
        found is not None and int(found["answer"]) == rollout.problem.answer
        for found, rollout in zip(begins, rollouts, strict=True)
    ]
    return score(rollouts), sum(right) / len(right)


def without_end(pool: Pool) -> Pool:
    """The same demonstrations, but the end mark is no target."""
    return replace(pool, replies=[reply[:-1] for reply in pool.replies])


# ------------------------------------------------------------------------- templates


def mismatches(model: nn.Module, test: Sequence[Problem], seed: int) -> list[dict]:
    """The same model and questions through templates that differ a little."""
    tok = tokenizer()
    end = tok.special_id(END_TURN)
    space = tok.encode(" ")
    rows = []
    for name, change in {
        "as trained": lambda p: p,
        "no mark of the assistant": lambda p: p[:-1],
        "a space before the reply": lambda p: [*p, *space],
        "a space behind the question": lambda p: [*p[:-2], *space, *p[-2:]],
        "no end of the user's turn": lambda p: [t for t in p if t != end],
        "no marks at all": lambda p: p[1:-2],
    }.items():
        prompts = [change(encode_prompt(tok, problem.question)) for problem in test]
        sampled, _ = answer(model, prompts, test, DRAW, seed)
        greedy, _ = answer(model, prompts, test, GREEDY, seed)
        rows.append({"template": name, **asdict(sampled), "greedy": greedy.accuracy})
    return rows
