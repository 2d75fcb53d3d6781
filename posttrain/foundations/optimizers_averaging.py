"""Which weights to keep: an average of recent ones, or those of the best step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


class EMA:
    """An exponential moving average of a model's weights, in memory of its own.

    After each step `average = decay * average + (1 - decay) * weights`: a mean over
    about the last 1 / (1 - decay) steps. Choose decay so that this is a small share of
    the run. Buffers are copied, not averaged.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must be at least 0 and below 1")
        self.decay = decay
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's present weights; call it after each step."""
        trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        for name, value in model.state_dict().items():
            if name in trained:
                self.average[name].lerp_(value, 1 - self.decay)
            else:
                self.average[name].copy_(value)

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[nn.Module]:
        """The model with the average as its weights; its own come back at the end."""
        own = {k: v.detach().clone() for k, v in model.state_dict().items()}
        model.load_state_dict(self.average)
        try:
            yield model
        finally:
            model.load_state_dict(own)


def average_checkpoints(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several state dicts of one model; integers are the last one's.

    Sums in float64, so that many checkpoints in bfloat16 do not lose digits. Raises
    ValueError for none, and for states of different models.
    """
    if not states:
        raise ValueError("there is no checkpoint to average")
    shapes = [{k: tuple(v.shape) for k, v in state.items()} for state in states]
    for number, found in enumerate(shapes):
        if found != shapes[0]:
            raise ValueError(f"checkpoint {number} has other names or shapes than 0")
    mean = dict(states[-1])
    for name, last in states[-1].items():
        if last.is_floating_point():
            total = sum(state[name].double() for state in states)
            mean[name] = (total / len(states)).to(last.dtype)
    return mean


@dataclass
class EarlyStopping:
    """Stop when `patience` evaluations in a row have not beaten the best one.

    A value counts as better when it is below the best by more than `min_delta`; NaN
    never is. Keep the weights of `best_step`, not those of the last step.
    """

    patience: int = 5
    min_delta: float = 0.0
    best: float = field(default=float("inf"), init=False)
    best_step: int | None = field(default=None, init=False)
    bad: int = field(default=0, init=False)  # evaluations since the best

    def __post_init__(self):
        if self.patience < 1 or self.min_delta < 0:
            raise ValueError(
                f"patience={self.patience} must be at least 1 and "
                f"min_delta={self.min_delta} at least 0"
            )

    def update(self, step: int, value: float) -> bool:
        """Note the validation loss at `step`; True says stop."""
        if value < self.best - self.min_delta:
            self.best, self.best_step, self.bad = value, step, 0
        else:
            self.bad += 1
        return self.bad >= self.patience
