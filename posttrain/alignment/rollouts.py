"""Let the model answer problems, and look at what it wrote.

    rollouts = roll_out(model, problems, group=8, generator=generator)
    rollouts[0].reply, rollouts[0].tokens, rollouts[0].logprobs
    scores = evaluate(model, problems, generator=generator)      # Scores

A reply is text without the mark that ends the turn; one that was cut by the limit ends
in `<cut>`, so that no parser takes it for a finished one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from posttrain.alignment.chat_template import encode_prompt
from posttrain.alignment.completions import Completions, collate
from posttrain.alignment.verifier import parse
from posttrain.alignment.word_problem_tokenizer import END_TURN, tokenizer
from posttrain.alignment.word_problems import Problem
from posttrain.foundations.sampling import Sampling
from posttrain.foundations.sampling_generate import DRAW, generate
from posttrain.foundations.tokenization import PAD

MAX_NEW = 48  # tokens of a reply; a worked solution of four steps has about 35
CUT = "<cut>"
GREEDY = Sampling(temperature=0)


@dataclass(frozen=True)
class Rollout:
    """One reply to one problem. `logprobs` are those of the model that wrote it."""

    problem: Problem
    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]
    reply: str


@dataclass(frozen=True)
class Scores:
    """Shares of all replies, and their mean length.

    right_if_thinking: the share that is right among those that think.
    """

    accuracy: float
    well_formed: float
    thinks: float
    right_if_thinking: float
    length: float  # tokens


def roll_out(
    model: nn.Module,
    problems: Sequence[Problem],
    group: int = 1,
    settings: Sampling = DRAW,
    generator: torch.Generator | None = None,
    max_new: int = MAX_NEW,
) -> list[Rollout]:
    """`group` replies to each problem; those to one problem stand together."""
    tok = tokenizer()
    end = tok.special_id(END_TURN)
    asked = [problem for problem in problems for _ in range(group)]
    prompts = [encode_prompt(tok, problem.question) for problem in asked]
    rows = generate(
        model, prompts, max_new, stop={end}, settings=settings, generator=generator
    )
    return [
        Rollout(problem, prompt, row.tokens, row.logprobs, text_of(row.tokens))
        for problem, prompt, row in zip(asked, prompts, rows, strict=True)
    ]


def text_of(tokens: Sequence[int]) -> str:
    """The reply that tokens spell; CUT behind one that did not come to its end."""
    tok = tokenizer()
    if tokens and tokens[-1] == tok.special_id(END_TURN):
        return tok.decode(tokens[:-1])
    return tok.decode(tokens) + CUT


def batch_of(rollouts: Sequence[Rollout], device: str = "cpu") -> Completions:
    """The rollouts as a batch to learn from."""
    prompts = [rollout.prompt for rollout in rollouts]
    replies = [rollout.tokens for rollout in rollouts]
    return collate(prompts, replies, tokenizer().special_id(PAD), device=device)


def evaluate(
    model: nn.Module,
    problems: Sequence[Problem],
    settings: Sampling = DRAW,
    seed: int = 0,
    max_new: int = MAX_NEW,
) -> Scores:
    """One reply to each problem: sampled with `seed`, or greedy with GREEDY."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    return score(roll_out(model, problems, 1, settings, generator, max_new))


def score(rollouts: Sequence[Rollout]) -> Scores:
    """What the verifier says of rollouts."""
    n = len(rollouts)
    parsed = [parse(rollout.reply) for rollout in rollouts]
    right = [
        p.answer == r.problem.answer for p, r in zip(parsed, rollouts, strict=True)
    ]
    thinking = [r for r, p in zip(right, parsed, strict=True) if p.thinks]
    return Scores(
        accuracy=sum(right) / n,
        well_formed=sum(p.well_formed for p in parsed) / n,
        thinks=len(thinking) / n,
        right_if_thinking=sum(thinking) / len(thinking) if thinking else 0.0,
        length=sum(len(rollout.tokens) for rollout in rollouts) / n,
    )
