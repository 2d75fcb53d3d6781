"""What the chapter's experiment measures, one function a question.

Losses are nats a token of the reply; accuracies are those of the exact verifier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from posttrain.alignment.chat_sft import Pool
from posttrain.alignment.chat_template import encode_prompt
from posttrain.alignment.completions import Completions, count, total_nll
from posttrain.alignment.rollouts import (
    GREEDY,
    Rollout,
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


@dataclass(frozen=True)
class Exam:
    """What every model is asked: problems, their demonstrations, how to draw."""

    problems: list[Problem]
    held_out: Completions
    seed: int
    max_new: int

    def prompts(self) -> list[list[int]]:
        """The problems through our template."""
        return [encode_prompt(tokenizer(), p.question) for p in self.problems]

    def measure(self, model: nn.Module) -> dict:
        """Loss on held-out demonstrations; accuracy of sampled and of greedy replies.

        right_at_first: the share of sampled replies that begin with a whole right
        reply, whatever is written after it.
        """
        rollouts = self.answer(model, self.prompts(), DRAW)
        sampled = score(rollouts)
        greedy = score(self.answer(model, self.prompts(), GREEDY))
        return {
            "held_out_loss": mean_nll(model, self.held_out),
            "sampled": sampled.accuracy,
            "greedy": greedy.accuracy,
            "well_formed": sampled.well_formed,
            "length": sampled.length,
            "right_at_first": right_at_first(rollouts),
        }

    def answer(
        self, model: nn.Module, prompts: Sequence[Sequence[int]], settings: Sampling
    ) -> list[Rollout]:
        """Replies to the problems when they are asked by these prompts."""
        stop = {tokenizer().special_id(END_TURN)}
        device = next(model.parameters()).device
        rows = generate(
            model.eval(),
            prompts,
            self.max_new,
            stop=stop,
            settings=settings,
            generator=torch.Generator(device).manual_seed(self.seed),
        )
        return [
            Rollout(p, list(prompt), row.tokens, row.logprobs, text_of(row.tokens))
            for p, prompt, row in zip(self.problems, prompts, rows, strict=True)
        ]


def right_at_first(rollouts: Sequence[Rollout]) -> float:
    """The share that begins with a whole, right reply."""
    begins = [FORM.match(rollout.reply) for rollout in rollouts]
    right = [
        found is not None and int(found["answer"]) == rollout.problem.answer
        for found, rollout in zip(begins, rollouts, strict=True)
    ]
    return sum(right) / len(right)


def fit_and_measure(
    trainer: Trainer, marks: int, exam: Exam
) -> tuple[list[dict], list[float]]:
    """Train to the end: a curve measured at evenly spaced steps, and every step's loss.

    train_loss is the mean over the steps since the last mark. A run whose loss is no
    number any more ends early, with DIVERGED as its loss.
    """
    curve, losses, last = [], [], 0
    at = {round(trainer.steps * (i + 1) / marks) for i in range(marks)}
    for step in range(1, trainer.steps + 1):
        losses.append(step_loss(trainer))
        diverged = losses[-1] == DIVERGED
        if step in at or diverged:
            row = {"step": step, "train_loss": sum(losses[last:]) / (step - last)}
            curve.append({**row, **exam.measure(trainer.model)})
            last = step
        if diverged:
            break
    return curve, losses


def step_loss(trainer: Trainer) -> float:
    """One step; its loss, or DIVERGED."""
    try:
        return trainer.train_step().loss
    except FloatingPointError:
        return DIVERGED


@torch.no_grad()
def mean_nll(model: nn.Module, batch: Completions) -> float:
    """Nats a target."""
    model.eval()
    loss = (total_nll(model, batch) / count(batch)).item()
    return loss if loss < DIVERGED else DIVERGED  # NaN compares as False


def perplexity(model: nn.Module, batch: Completions) -> float:
    """The exponential of the mean loss: how many tokens the model hesitates between."""
    return torch.tensor(mean_nll(model, batch)).exp().item()


def without_end(pool: Pool) -> Pool:
    """The same demonstrations, but the end mark is no target."""
    return replace(pool, replies=[reply[:-1] for reply in pool.replies])


# ------------------------------------------------------------------------- templates


def mismatches(model: nn.Module, exam: Exam) -> list[dict]:
    """The same model and questions through templates that differ a little."""
    rows = []
    for name, change in changed_templates().items():
        prompts = [change(prompt) for prompt in exam.prompts()]
        sampled = score(exam.answer(model, prompts, DRAW))
        greedy = score(exam.answer(model, prompts, GREEDY))
        rows.append({"template": name, **asdict(sampled), "greedy": greedy.accuracy})
    return rows


def changed_templates() -> dict[str, Callable[[list[int]], list[int]]]:
    """What a careless server does to a prompt, as functions on its tokens."""
    tok = tokenizer()
    space, end = tok.encode(" "), tok.special_id(END_TURN)
    return {
        "as trained": lambda prompt: prompt,
        "no mark of the assistant": lambda prompt: prompt[:-1],
        "a space before the reply": lambda prompt: [*prompt, *space],
        "a space behind the question": lambda p: [*p[:-2], *space, *p[-2:]],
        "no end of the user's turn": lambda prompt: [t for t in prompt if t != end],
        "no marks at all": lambda prompt: prompt[1:-2],
    }
