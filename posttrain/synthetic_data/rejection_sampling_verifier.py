"""A verifier that is learned: which replies are right, said by a model of its own.

    judge = RewardModel(policy)             # the policy's body, a head to one number
    fit(verifier_trainer(judge, labelled, steps=100))
    log_odds(judge, rollouts)                               # of "right": (N,)

It is trained on the policy's own replies to questions whose answer is known, and asked
about questions whose answer is not. Source: Cobbe et al. 2021 (there every token is
labelled; here the last one, as in `reward_model`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from posttrain.alignment.completions import Completions, epoch_rows
from posttrain.alignment.reward_model import RewardModel
from posttrain.alignment.rollouts import Rollout, batch_of
from posttrain.foundations.optimizers_groups import muon_and_adamw
from posttrain.foundations.optimizers_schedules import wsd
from posttrain.foundations.trainer import Trainer


@dataclass(frozen=True)
class Labelled:
    """Replies and whether each is right; called with (step, micro), it gives a batch.

    Every epoch sees each reply once. Raises ValueError for fewer than B.
    """

    rollouts: Sequence[Rollout]
    right: Sequence[bool]
    B: int = 64
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self):
        if len(self.rollouts) < self.B:
            raise ValueError(
                f"{len(self.rollouts)} replies are fewer than a batch of B={self.B};"
                " give more, or a smaller B"
            )

    def __call__(self, step: int, micro: int = 0) -> tuple[Completions, Tensor]:
        """Batch `step`: B replies and their labels, (B,) of 0 and 1."""
        rows = epoch_rows(len(self.rollouts), self.B, self.seed, step, micro)
        labels = torch.tensor([float(self.right[i]) for i in rows], device=self.device)
        return batch_of([self.rollouts[i] for i in rows], self.device), labels


def total_label_loss(model: RewardModel, batch: tuple[Completions, Tensor]) -> Tensor:
    """- log P(label), summed over the batch; the model's number is the log-odds."""
    replies, labels = batch
    return F.binary_cross_entropy_with_logits(model(replies), labels, reduction="sum")


def verifier_trainer(
    model: RewardModel, labelled: Labelled, steps: int, lr: float = 5e-3
) -> Trainer:
    """Muon and AdamW, as for the reward model; the mean loss of a reply in nats."""
    return Trainer(
        model,
        muon_and_adamw(model, lr, 0.0),
        labelled,
        schedule=partial(
            wsd, total=steps, warmup=min(10, steps // 4), decay=steps // 2, floor=0.02
        ),
        steps=steps,
        loss=total_label_loss,
        size=lambda batch: len(batch[1]),
    )


@torch.no_grad()
def log_odds(model: RewardModel, rollouts: Sequence[Rollout], B: int = 256) -> Tensor:
    """What the verifier says of each reply, as the policy wrote it: (N,), on the CPU.

    Replies of like length share a batch, so that little is spent on padding.
    """
    device = str(next(model.parameters()).device)
    lengths = [len(rollout.prompt) + len(rollout.tokens) for rollout in rollouts]
    order = sorted(range(len(rollouts)), key=lengths.__getitem__)
    found = torch.empty(len(rollouts))
    model.eval()
    for start in range(0, len(order), B):
        rows = order[start : start + B]
        batch = batch_of([rollouts[i] for i in rows], device)
        found[rows] = model(batch).float().cpu()
    return found
