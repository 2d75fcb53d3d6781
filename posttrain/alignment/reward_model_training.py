"""Train a reward model on pairs of replies, and ask it what replies are worth.

    pool = PairPool.of([Preference(question, chosen, rejected), ...])
    fit(reward_trainer(model, pool, steps=200))
    rewards_of(model, [(question, reply), ...])             # (N,)

The trainer is the one of pretraining. What differs is the batch (two replies to one
prompt) and the loss, a sum over pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from posttrain.alignment.chat_template import encode_prompt, encode_reply
from posttrain.alignment.completions import (
    Completions,
    collate,
    collate_pairs,
    epoch_rows,
)
from posttrain.alignment.reward_model import RewardModel, pair_losses
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.foundations.optimizers_groups import muon_and_adamw
from posttrain.foundations.optimizers_schedules import wsd
from posttrain.foundations.tokenization import PAD
from posttrain.foundations.trainer import Trainer


@dataclass(frozen=True)
class Preference:
    """Two replies to one question, as a label orders them.

    margin: how strong the preference is, in units of reward. target: how likely the
    label is right; 0.5 says that the two are tied.
    """

    question: str
    chosen: str
    rejected: str
    margin: float = 0.0
    target: float = 1.0


@dataclass(frozen=True)
class Pairs:
    """B pairs: the rows of `replies` are the B chosen ones, then the B rejected."""

    replies: Completions  # 2 B rows
    margin: Tensor  # (B,)
    target: Tensor  # (B,)

    def __len__(self) -> int:
        return len(self.margin)


@dataclass(frozen=True)
class PairPool:
    """Preferences as tokens; called with (step, micro), it gives a batch.

    Every epoch sees each pair once, in an order of its own.
    """

    preferences: list[Preference]
    prompts: list[list[int]]
    chosen: list[list[int]]
    rejected: list[list[int]]
    B: int = 32
    seed: int = 0
    device: str = "cpu"

    @classmethod
    def of(cls, preferences: Sequence[Preference], **options) -> PairPool:
        """Encode preferences. Raises ValueError for fewer than B."""
        tok = tokenizer()
        pool = cls(
            list(preferences),
            [encode_prompt(tok, p.question) for p in preferences],
            [encode_reply(tok, p.chosen) for p in preferences],
            [encode_reply(tok, p.rejected) for p in preferences],
            **options,
        )
        if len(preferences) < pool.B:
            raise ValueError(
                f"{len(preferences)} pairs are fewer than a batch of B={pool.B}; give"
                " more, or a smaller B"
            )
        return pool

    def __call__(self, step: int, micro: int = 0) -> Pairs:
        """Batch `step`: the next B of this epoch's order (a short rest is left out)."""
        n = len(self.prompts)
        return self.batch(epoch_rows(n, self.B, self.seed, step, micro))

    def batch(self, rows: Sequence[int]) -> Pairs:
        """Some pairs as a batch."""
        replies = collate_pairs(
            [self.prompts[i] for i in rows],
            [self.chosen[i] for i in rows],
            [self.rejected[i] for i in rows],
            tokenizer().special_id(PAD),
            device=self.device,
        )
        margin = [self.preferences[i].margin for i in rows]
        target = [self.preferences[i].target for i in rows]
        return Pairs(
            replies,
            torch.tensor(margin, device=self.device),
            torch.tensor(target, device=self.device),
        )


def total_pair_loss(centring: float, model: RewardModel, pairs: Pairs) -> Tensor:
    """The losses of all pairs, summed. Both halves go through the model at once."""
    chosen, rejected = model(pairs.replies).chunk(2)
    return pair_losses(chosen, rejected, pairs.margin, pairs.target, centring).sum()


def reward_trainer(
    model: RewardModel,
    pool: PairPool,
    steps: int,
    lr: float = 2e-3,
    centring: float = 0.01,
    weight_decay: float = 0.0,
    precision: str = "fp32",
) -> Trainer:
    """Muon and AdamW, warm-up, a long decay; the mean loss of a pair in nats."""
    return Trainer(
        model,
        muon_and_adamw(model, lr, weight_decay),
        pool,
        schedule=partial(wsd, total=steps, warmup=10, decay=steps // 2, floor=0.02),
        steps=steps,
        loss=partial(total_pair_loss, centring),
        size=len,
        precision=precision,
    )


@torch.no_grad()
def rewards_of(
    model: RewardModel, replies: Sequence[tuple[str, str]], B: int = 256
) -> Tensor:
    """What each (question, reply) is worth to the model: (N,), on the CPU.

    Rows of like length share a batch, so that little is spent on padding.
    """
    tok = tokenizer()
    device = next(model.parameters()).device
    prompts = [encode_prompt(tok, question) for question, _ in replies]
    answers = [encode_reply(tok, reply) for _, reply in replies]
    order = sorted(range(len(replies)), key=lambda i: len(prompts[i]) + len(answers[i]))
    rewards = torch.empty(len(replies))
    model.eval()
    for start in range(0, len(order), B):
        rows = order[start : start + B]
        batch = collate(
            [prompts[i] for i in rows],
            [answers[i] for i in rows],
            tok.special_id(PAD),
            device=device,
        )
        rewards[rows] = model(batch).float().cpu()
    return rewards
