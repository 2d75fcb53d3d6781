"""A reward model: a language model's body that ends in one number, and its loss.

    model = RewardModel(sft_model)              # a copy of the body, a new scalar head
    rewards = model(batch)                      # Completions of B rows -> (B,)
    loss = bradley_terry_loss(chosen, rejected)             # (B,), (B,) -> ()

The reward of a reply is read at its last token, the mark that ends the turn: only there
has the causal model seen all of it. Differences of rewards for one prompt mean
something (the log of the odds that one reply is preferred); their sum with any function
of the prompt would fit the same preferences as well.

Training on pairs is in `reward_model_training`.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posttrain.alignment.completions import Completions
from posttrain.foundations.modern_architecture import GPT


class RewardModel(nn.Module):
    """The body of `gpt`, copied, and a linear head to one number in place of its own.

    The head starts at 0: every reply is worth the same, every preference even.
    """

    def __init__(self, gpt: GPT):
        super().__init__()
        self.gpt = copy.deepcopy(gpt)
        weight = gpt.token.weight
        self.gpt.head = nn.Linear(
            gpt.config.C, 1, bias=False, dtype=weight.dtype, device=weight.device
        )
        nn.init.zeros_(self.gpt.head.weight)

    def forward(self, batch: Completions) -> Tensor:
        """The reward of each completion, read at its last token: (B,)."""
        tokens, last = whole_rows(batch)
        hidden = self.gpt.hidden(tokens)  # (B, T + 1, C)
        rows = torch.arange(len(tokens), device=tokens.device)
        return self.gpt.head(hidden[rows, last]).squeeze(-1)

    def scores(self, tokens: Tensor) -> Tensor:
        """The number at every token, (B, T) -> (B, T): what a critic is trained on."""
        return self.gpt(tokens).squeeze(-1)


def whole_rows(batch: Completions) -> tuple[Tensor, Tensor]:
    """Prompts and completions with their last token, (B, T + 1); its index, (B,).

    `Completions.tokens` are what a language model reads: the last token of a reply is
    only a target. It is put back. Raises ValueError for a row without a target.
    """
    if not batch.mask.any(dim=1).all():
        row = (~batch.mask.any(dim=1)).nonzero()[0].item()
        raise ValueError(f"row {row} has no target: there is no reply to reward")
    T = batch.tokens.shape[1]
    places = torch.arange(T, device=batch.tokens.device)
    final = (places * batch.mask).amax(dim=1, keepdim=True)  # (B, 1)
    tokens = F.pad(batch.tokens, (0, 1))
    tokens.scatter_(1, final + 1, batch.targets.gather(1, final))
    return tokens, final.squeeze(1) + 1


def win_probability(reward: Tensor, other: Tensor) -> Tensor:
    """P(the first is preferred) = σ(reward - other). Source: Bradley & Terry 1952."""
    return torch.sigmoid(reward - other)


def pair_losses(
    chosen: Tensor,
    rejected: Tensor,
    margin: Tensor | float = 0.0,
    target: Tensor | float = 1.0,
    centring: float = 0.0,
) -> Tensor:
    """The loss of each pair, in nats: (B,).

        - q log σ(d) - (1 - q) log σ(-d) + c (chosen + rejected)²
        d = chosen - rejected - margin,  q = target,  c = centring

    margin: by how much the chosen reply should win, more for a stronger preference.
    target: how likely the label is right: 1 for sure, 0.9 with label smoothing 0.1, 0.5
    for a tie. centring: the price of a mean that is not 0, which the rest leaves open.
    Sources: Ouyang et al. 2022 (the loss), Touvron et al. 2023, equation 2 (the
    margin), Eisenstein et al. 2023 (centring).
    """
    d = chosen - rejected - margin
    losses = -(target * F.logsigmoid(d) + (1 - target) * F.logsigmoid(-d))
    return losses + centring * (chosen + rejected) ** 2


def bradley_terry_loss(
    chosen: Tensor,
    rejected: Tensor,
    margin: Tensor | float = 0.0,
    target: Tensor | float = 1.0,
    centring: float = 0.0,
) -> Tensor:
    """The mean of `pair_losses`: a scalar."""
    return pair_losses(chosen, rejected, margin, target, centring).mean()
