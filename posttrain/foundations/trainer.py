"""One trainer for every model of the book: forward, backward, clip, step, repeat.

    trainer = Trainer(model, optimizers, batches, schedule=schedule, steps=1000)
    fit(trainer, on_step=print, hooks=[(100, evaluate), (500, save)])

What differs between pretraining, SFT, DPO and GRPO is the batch and the loss; both are
plain functions:

    batches(step, micro) -> batch       a pure function, so a run can be resumed
    loss(model, batch) -> Tensor        *summed* over what is averaged
    size(batch) -> int                  how many things (tokens, pairs) that sum has

Not covered here: several devices (`distributed_training`), saving
(`posttrain.foundations.checkpoint`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.foundations.batches import target_count, total_loss
from posttrain.foundations.optimizers_groups import clip_grad_norm
from posttrain.foundations.optimizers_schedules import set_lr

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepRecord:
    """What one step looked like. Losses in the unit of `loss`, a mean over `size`."""

    step: int  # counted from 1: so many steps are done
    loss: float  # before the step
    lr: float  # of the first group
    grad_norm: float  # before clipping
    size: int


class Trainer:
    """Model, optimizers and a step counter: all that a run is.

    schedule: step -> factor on each group's own learning rate (0 is the first step).
    micro_batches: batches whose gradients are added up before one step.
    max_norm: the gradient is shortened to this length; None leaves it.
    precision: "fp32", "bf16" or "fp16" (autocast; fp16 with loss scaling).
    Raises ValueError for a precision that is not known or steps below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        batches: Callable[[int, int], Any],
        *,
        schedule: Callable[[int], float],
        steps: int,
        loss: Callable[[nn.Module, Any], Tensor] = total_loss,
        size: Callable[[Any], int] = target_count,
        micro_batches: int = 1,
        max_norm: float | None = 1.0,
        precision: str = "fp32",
    ):
        if precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise ValueError(f"precision={precision!r}: use one of {known}")
        if steps < 1 or micro_batches < 1:
            raise ValueError(
                f"steps={steps}, micro_batches={micro_batches}: both must be at least 1"
            )
        self.model, self.optimizers, self.batches = model, list(optimizers), batches
        self.schedule, self.steps = schedule, steps
        self.loss, self.size = loss, size
        self.micro_batches, self.max_norm = micro_batches, max_norm
        self.dtype = PRECISIONS[precision]
        self.device = next(model.parameters()).device.type
        self.scaler = torch.amp.GradScaler(self.device, enabled=precision == "fp16")
        self.step = 0  # so many steps are done

    def train_step(self) -> StepRecord:
        """One step of all optimizers.

        Raises FloatingPointError for a loss or a gradient that is no finite number:
        by then nothing has been changed, so the model is still that of the step before.
        """
        self.model.train()
        set_lr(self.optimizers, self.schedule(self.step))
        micros = [self.batches(self.step, i) for i in range(self.micro_batches)]
        size = sum(self.size(micro) for micro in micros)
        if size == 0:
            raise ValueError(f"step {self.step}: no target in the batch counts")
        loss = sum(self._backward(micro, size) for micro in micros).item()
        self._demand_finite("loss", loss)
        norm = self._update()
        self.step += 1
        lr = self.optimizers[0].param_groups[0]["lr"]
        return StepRecord(self.step, loss, lr, norm, size)

    def _backward(self, micro: Any, size: int) -> Tensor:
        """Add the gradient of this part; its share of the mean loss of the step.

        All parts are divided by the size of the *whole* step. The mean of their own
        means would give a token in a short part more weight than one in a long part.
        """
        with self._autocast():
            loss = self.loss(self.model, micro) / size
        self.scaler.scale(loss).backward()
        return loss.detach()

    def _update(self) -> float:
        """Clip, step, forget the gradients; their length before clipping."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        limit = float("inf") if self.max_norm is None else self.max_norm
        norm = clip_grad_norm(self.model.parameters(), limit).item()
        if not self.scaler.is_enabled():  # the scaler leaves such a step out by itself
            self._demand_finite("gradient's length", norm)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)  # fp16: left out if a gradient overflowed
        self.scaler.update()
        self._forget_gradients()
        return norm

    def _demand_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            self._forget_gradients()
            raise FloatingPointError(
                f"the {what} of step {self.step} is {value}; lower the learning rate,"
                " lengthen the warm-up, or look at this batch"
            )

    def _forget_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def _autocast(self):
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device, self.dtype)

    def state_dict(self) -> dict:
        """All that the next step depends on, but for what the caller has made anew:
        the batches and the schedule are functions of the step."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "random": random_state(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state_dict()`: the next step is the one it would have been."""
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.scaler.load_state_dict(state["scaler"])
        set_random_state(state["random"])
        self.step = state["step"]


def fit(
    trainer: Trainer,
    on_step: Callable[[StepRecord], None] = lambda record: None,
    hooks: Sequence[tuple[int, Callable[[], None]]] = (),
) -> None:
    """Train to the last step.

    on_step: gets the record of each step. hooks: (every, call) pairs; `call` comes
    after each `every` steps and after the last one, in the order given: evaluation,
    saving, samples.
    """
    while trainer.step < trainer.steps:
        on_step(trainer.train_step())
        for every, call in hooks:
            if trainer.step % every == 0 or trainer.step == trainer.steps:
                call()


def random_state() -> dict[str, Tensor]:
    """The state of PyTorch's generators, which dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    for i in range(torch.cuda.device_count()):
        states[f"cuda:{i}"] = torch.cuda.get_rng_state(i)
    return states


def set_random_state(states: dict[str, Tensor]) -> None:
    """Undo `random_state`; generators of devices that are not here are left out."""
    torch.set_rng_state(states["cpu"])
    for i in range(torch.cuda.device_count()):
        if f"cuda:{i}" in states:
            torch.cuda.set_rng_state(states[f"cuda:{i}"], i)
