"""What became of a model: its replies judged, read, and measured by the SFT model.

    exam = Exam(sft_model, problems, judge)
    rollouts = exam.answers(dpo_model)
    exam.grade(rollouts)                 # Grades: win-rate, accuracy, parses, ...

Every model answers the same problems with the same seed. A preference is cheap to win
by broken text that happens to please, so the win-rate never stands alone here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from posttrain.alignment import completions
from posttrain.alignment.dpo_judge import Judge, ScoreJudge, win_rate
from posttrain.alignment.rollouts import Rollout, batch_of, roll_out
from posttrain.alignment.word_problem_styles import read
from posttrain.alignment.word_problems import Problem


@dataclass(frozen=True)
class Grades:
    """Shares of all replies but for the last two.

    win_rate: against the SFT model's replies to the same problems, ties half.
    parses: the grammar has the reply. accuracy, polite, terse: of those that parse, in
    shares of *all*. perplexity: of the replies under the SFT model, per token.
    """

    win_rate: float
    parses: float
    accuracy: float
    polite: float
    terse: float
    perplexity: float
    length: float  # tokens


class Exam:
    """The same problems for every model, and the SFT model's replies to them.

    max_new: tokens of a reply; one that is longer is cut, and loses.
    """

    def __init__(
        self,
        sft: nn.Module,
        problems: Sequence[Problem],
        judge: Judge | None = None,
        seed: int = 0,
        max_new: int = 80,
    ):
        self.sft, self.problems, self.seed = sft, problems, seed
        self.max_new = max_new
        self.judge = judge or ScoreJudge()
        self.theirs = [rollout.reply for rollout in self.answers(sft)]

    def answers(self, model: nn.Module) -> list[Rollout]:
        """One sampled reply to each problem."""
        model.eval()
        device = next(model.parameters()).device
        generator = torch.Generator(device).manual_seed(self.seed)
        return roll_out(model, self.problems, generator=generator, max_new=self.max_new)

    def grade(self, rollouts: Sequence[Rollout]) -> Grades:
        """All measures of a model, from its `answers`."""
        ours = [rollout.reply for rollout in rollouts]
        found = [read(reply) for reply in ours]
        right = [
            r is not None and r.answer == problem.answer
            for r, problem in zip(found, self.problems, strict=True)
        ]
        n = len(rollouts)
        return Grades(
            win_rate=win_rate(self.judge, self.problems, ours, self.theirs),
            parses=sum(r is not None for r in found) / n,
            accuracy=sum(right) / n,
            polite=sum(r is not None and r.style.polite for r in found) / n,
            terse=sum(r is not None and not r.style.rambling for r in found) / n,
            perplexity=perplexity(self.sft, rollouts),
            length=sum(len(rollout.tokens) for rollout in rollouts) / n,
        )


@torch.no_grad()
def perplexity(model: nn.Module, rollouts: Sequence[Rollout]) -> float:
    """exp of the mean nats a token that `model` needs for these replies."""
    device = next(model.parameters()).device
    batch = batch_of(rollouts, device)
    return completions.perplexity(model, batch)
