"""Two faults of training on pairs that raise no error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from posttrain.alignment.completions import Completions
from posttrain.alignment.reward_model import RewardModel, whole_rows
from posttrain.alignment.reward_model_training import Preference


class LastColumn(RewardModel):
    """Reads the last column of the batch: padding, for all but the longest row."""

    def forward(self, batch: Completions) -> Tensor:
        """What the padding says: (B,)."""
        tokens, _ = whole_rows(batch)
        return self.scores(tokens)[:, -1]


def across_prompts(preferences: Sequence[Preference]) -> list[Preference]:
    """Each chosen reply against the rejected one of the next question.

    That one is put under the wrong question, too: what a shuffle of one column does.
    """
    shifted = [*preferences[1:], preferences[0]]
    return [
        replace(mine, rejected=other.rejected)
        for mine, other in zip(preferences, shifted, strict=True)
    ]
