"""What RL did besides raising the reward: tax, drift, speed, wins.

    before_after(start, policy, problems, seed=0)

The *alignment tax* is measured on text that the reward never looked at: worked
solutions of held-out problems, written by the generator and not by the model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import nn

from posttrain.alignment import completions
from posttrain.alignment.chat_sft import Pool
from posttrain.alignment.completions import completion_logprobs
from posttrain.alignment.rollouts import MAX_NEW, Rollout, batch_of, roll_out
from posttrain.alignment.verifier import parse
from posttrain.alignment.word_problems import Problem


@torch.no_grad()
def perplexity(
    model: nn.Module, problems: Sequence[Problem], thinking: bool = True
) -> float:
    """Of the demonstrations of these problems, a token of the replies."""
    pairs = [(p.question, p.demonstration(thinking)) for p in problems]
    device = str(next(model.parameters()).device)
    batch = Pool.of(pairs, B=len(pairs), device=device).batch(range(len(pairs)))
    return completions.perplexity(model, batch)


@torch.no_grad()
def drift(start: nn.Module, policy: nn.Module, rollouts: Sequence[Rollout]) -> float:
    """KL(policy || start) in nats a reply, by the policy's own answers (k1)."""
    batch = batch_of(rollouts, str(next(policy.parameters()).device))
    ratio = completion_logprobs(policy, batch) - completion_logprobs(start, batch)
    return ratio.sum(dim=1).mean().item()


def win_rate(ours: Sequence[Rollout], theirs: Sequence[Rollout]) -> float:
    """How often our answer is right and theirs wrong; half for equal ones."""
    points = [
        0.5 + 0.5 * (_right(our) - _right(their))
        for our, their in zip(ours, theirs, strict=True)
    ]
    return sum(points) / len(points)


def before_after(
    start: nn.Module,
    policy: nn.Module,
    problems: Sequence[Problem],
    seed: int = 0,
    max_new: int = MAX_NEW,
) -> dict:
    """All of it, plain values; one sampled answer of each model to each problem."""
    answers, rates = {}, {}
    for name, model in (("before", start), ("after", policy)):
        device = next(model.parameters()).device
        generator = torch.Generator(device).manual_seed(seed)
        begun = time.process_time()
        answers[name] = roll_out(model, problems, generator=generator, max_new=max_new)
        seconds = time.process_time() - begun
        tokens = sum(len(r.tokens) for r in answers[name])
        rates[name] = {
            "tokens_per_second": tokens / seconds,
            "tokens_per_answer": tokens / len(problems),
            "thinking_perplexity": perplexity(model, problems),
            "direct_perplexity": perplexity(model, problems, thinking=False),
            "samples": [r.reply for r in answers[name][:3]],
        }
    return {
        **rates,
        "questions": [problem.question for problem in problems[:3]],
        "kl": drift(start, policy, answers["after"]),
        "win_rate": win_rate(answers["after"], answers["before"]),
    }


def _right(rollout: Rollout) -> bool:
    return parse(rollout.reply).answer == rollout.problem.answer
