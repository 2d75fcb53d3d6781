"""One training run of the small character model, with everything that may differ.

The model is that of the attention chapter. Every run of a seed starts from the same
weights and reads the same batches in the same order, so two runs differ only in what
was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from posttrain.foundations.attention import causal_mask
from posttrain.foundations.attention_lm import (
    CharLM,
    LMConfig,
    evaluate,
    sample_windows,
)
from posttrain.foundations.optimizers import SGD, Adam, AdamW
from posttrain.foundations.optimizers_groups import (
    clip_grad_norm,
    muon_and_adamw,
    parameter_groups,
)
from posttrain.foundations.optimizers_noise import (
    Noise,
    flat_gradient,
    gradient_noise,
)
from posttrain.foundations.optimizers_schedules import set_lr

Schedule = Callable[[int], float]
Watch = Callable[[int, CharLM], None]
Optimizers = list[torch.optim.Optimizer]


@dataclass(frozen=True)
class Task:
    """What a run reads. train: (N,) tokens, val: (M, T + 1) windows."""

    model: LMConfig
    train: Tensor
    val: Tensor
    seed: int

    @property
    def device(self) -> torch.device:
        """Where the model is trained."""
        return self.val.device


@dataclass(frozen=True)
class Run:
    """One run: how long, how large a batch, what happens to loss and gradient."""

    steps: int
    B: int = 16
    clip: float = 1.0
    dropout: float = 0.0
    label_smoothing: float = 0.0
    log_every: int = 25


OPTIMIZERS: dict[str, Callable[[CharLM, float], Optimizers]] = {
    "SGD": lambda model, lr: [SGD(model.parameters(), lr)],
    "momentum": lambda model, lr: [SGD(model.parameters(), lr, momentum=0.9)],
    "Adam": lambda model, lr: [Adam(model.parameters(), lr)],
    "AdamW": lambda model, lr: adamw(model, lr),
    "Muon": lambda model, lr: muon_and_adamw(model, lr),
}


def adamw(model: CharLM, lr: float, weight_decay: float = 0.1) -> Optimizers:
    """AdamW with decay for matrices only."""
    return [AdamW(parameter_groups(model.parameters(), weight_decay), lr=lr)]


def fresh_model(task: Task, dropout: float = 0.0) -> CharLM:
    """The untrained model of a seed."""
    torch.manual_seed(task.seed)
    return CharLM(replace(task.model, dropout=dropout)).to(task.device)


def batch_loss(model: CharLM, windows: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy (nats a character) of windows (B, T + 1)."""
    mask = causal_mask(windows.shape[1] - 1, device=windows.device)
    logits, _ = model(windows[:, :-1], mask)  # (B, T, V)
    return F.cross_entropy(
        logits.transpose(1, 2), windows[:, 1:], label_smoothing=label_smoothing
    )


def validation_loss(model: CharLM, task: Task) -> float:
    """Mean loss (nats a character) on the validation windows."""
    mask = causal_mask(task.model.T, device=task.device)
    return evaluate(model, task.val, mask).mean().item()


def train_step(
    model: CharLM, optimizers: Optimizers, windows: Tensor, run: Run
) -> tuple[Tensor, Tensor]:
    """One step. Returns the loss before it, and the gradient's length unclipped."""
    loss = batch_loss(model, windows, run.label_smoothing)
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = clip_grad_norm(model.parameters(), run.clip)
    for optimizer in optimizers:
        optimizer.step()
    return loss.detach(), norm


def train(
    make: Callable[[CharLM], Optimizers],
    schedule: Schedule,
    task: Task,
    run: Run,
    watch: Watch | None = None,
) -> tuple[dict[str, list], CharLM]:
    """Train a fresh model; `watch(step, model)` is called after every step.

    Returns the curve: step, train (mean loss since the last point), val, norm (largest
    length of a gradient since the last point, before clipping), and the model.
    """
    model = fresh_model(task, run.dropout)
    optimizers, order = make(model), torch.Generator().manual_seed(task.seed)
    curve, losses, norms = {"step": [], "train": [], "val": [], "norm": []}, [], []
    for step in range(run.steps):
        set_lr(optimizers, schedule(step))
        windows = sample_windows(task.train, run.B, task.model.T, order)
        loss, norm = train_step(model, optimizers, windows.to(task.device), run)
        losses.append(loss)
        norms.append(norm)
        if watch is not None:
            watch(step, model)
        if (step + 1) % run.log_every == 0 or step + 1 == run.steps:
            curve["step"].append(step + 1)
            curve["train"].append(short(torch.stack(losses).mean().item()))
            curve["val"].append(short(validation_loss(model, task)))
            curve["norm"].append(short(torch.stack(norms).max().item()))
            losses, norms = [], []
    return curve, model


def steps_until(
    target: float,
    make: Callable[[CharLM], Optimizers],
    schedule: Schedule,
    task: Task,
    run: Run,
) -> int | None:
    """Steps until the validation loss is at or below `target`; None: not in time.

    Asked every `run.log_every` steps; between two answers the loss is taken as a line.
    """
    model = fresh_model(task)
    optimizers, order = make(model), torch.Generator().manual_seed(task.seed)
    before = validation_loss(model, task)
    for step in range(run.steps):
        set_lr(optimizers, schedule(step))
        windows = sample_windows(task.train, run.B, task.model.T, order)
        train_step(model, optimizers, windows.to(task.device), run)
        if (step + 1) % run.log_every == 0:
            now = validation_loss(model, task)
            if now <= target:
                share = (now - target) / (now - before)  # of the last stretch
                return round(step + 1 - share * run.log_every)
            before = now
    return None


def measure_noise(model: CharLM, task: Task, batches: int, B: int, seed: int) -> Noise:
    """Noise of the gradient at the model's weights, from batches of B windows."""
    params, order = list(model.parameters()), torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(batches):
        windows = sample_windows(task.train, B, task.model.T, order).to(task.device)
        model.zero_grad(set_to_none=True)
        batch_loss(model, windows).backward()
        rows.append(flat_gradient(params))
    model.zero_grad(set_to_none=True)
    return gradient_noise(torch.stack(rows), B)


def short(value: float) -> float | None:
    """Four decimals for the result file; None where it is no finite number."""
    return round(value, 4) if math.isfinite(value) else None
