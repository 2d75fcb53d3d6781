"""Train the hand-made network on digits: optimizers over a range of learning rates.

Used by the experiment of the chapter. Every arm of a seed gets the same pictures, the
same first weights (where shapes are equal) and the same batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posttrain.foundations.autograd_digits import (
    SEEN,
    SIZE,
    UNSEEN,
    Digits,
    make_digits,
)
from posttrain.foundations.autograd_layers import RunningStats, softmax_cross_entropy
from posttrain.foundations.autograd_net import Net
from posttrain.foundations.autograd_optim import SGD, Adam

OPTIMIZERS: dict[str, Callable] = {
    "sgd": lambda lr: SGD(lr),
    "momentum": lambda lr: SGD(lr, momentum=0.9),
    "adam": lambda lr: Adam(lr),
}
SETTINGS = ("plain", "normalised", "scaled")


@dataclass(frozen=True)
class DigitSetup:
    """Sizes of the comparison. Learning rates: 10 ** (k / 2), k in `half_decades`."""

    hidden: int  # channels of both hidden layers
    pictures: int  # for training
    steps: int
    half_decades: tuple[int, ...] = tuple(range(-8, 3))
    B: int = 64
    log_every: int = 50


@dataclass(frozen=True)
class DigitSets:
    """The digits of one run, and a factor for each pixel."""

    train: Digits
    val: Digits
    seen: Digits  # for testing: new pictures in the fonts of the training set
    unseen: Digits  # in a font family that was never shown
    scale: Tensor  # (SIZE * SIZE,)


def make_task(setup: DigitSetup, seed: int, device: str = "cpu") -> DigitSets:
    """Four sets that share no picture; the scales go from 0.1 to 10."""

    def draw(N: int, fonts: tuple[str, ...], number: int) -> Digits:
        made = make_digits(N, fonts, seed=10 * seed + number)
        return Digits(made.x.to(device), made.y.to(device))

    generator = torch.Generator().manual_seed(seed)
    scale = 10 ** (2 * torch.rand(SIZE * SIZE, generator=generator) - 1)
    held = max(500, setup.pictures // 5)
    return DigitSets(
        draw(setup.pictures, SEEN, 0),
        draw(held, SEEN, 1),
        draw(held, SEEN, 2),
        draw(held, UNSEEN, 3),
        scale.to(device),
    )


def run_digits(setup: DigitSetup, seed: int) -> tuple[dict, dict]:
    """Every optimizer in every setting; and the normalised net in the wrong mode."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    task, arms, evaluation = make_task(setup, seed, device), {}, {}
    for setting in SETTINGS:
        data = scaled(task) if setting == "scaled" else task
        for name in OPTIMIZERS:
            arms[f"{setting}, {name}"], net = sweep(setting, name, setup, data, seed)
            if (setting, name) == ("normalised", "momentum"):
                evaluation = wrong_modes(net, data.val, seed)
    return arms, evaluation


def scaled(task: DigitSets) -> DigitSets:
    """The same task with each pixel in another unit."""
    sets = {
        name: Digits(getattr(task, name).x * task.scale, getattr(task, name).y)
        for name in ("train", "val", "seen", "unseen")
    }
    return replace(task, **sets)


def sweep(
    setting: str, name: str, setup: DigitSetup, task: DigitSets, seed: int
) -> tuple[dict, Net]:
    """One optimizer over all learning rates; the best by validation loss is tested."""
    rows, best, best_net = [], None, None
    for k in setup.half_decades:
        lr = 10 ** (k / 2)
        net = build(setting, setup, seed).to(task.scale.device)
        optimizer = OPTIMIZERS[name](lr)
        curve = train(net, optimizer, task, setup, seed)
        row = {"lr": float(f"{lr:.4g}"), "val": curve["val"][-1], "curve": curve}
        rows.append(row)
        if best is None or row["val"] < best["val"]:
            best, best_net = row, net
    arm = {
        "lr": [row["lr"] for row in rows],
        "val": [row["val"] for row in rows],
        "best_lr": best["lr"],
        "curve": best["curve"],
        "val_accuracy": evaluate(best_net, task.val)[1],
        "seen_accuracy": evaluate(best_net, task.seen)[1],
        "unseen_accuracy": evaluate(best_net, task.unseen)[1],
    }
    return arm, best_net


def build(setting: str, setup: DigitSetup, seed: int) -> Net:
    """The untrained network; equal shapes start from equal numbers."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (SIZE * SIZE, setup.hidden, setup.hidden, 10)
    return Net(sizes, setting == "normalised", generator)


def train_step(net: Net, optimizer: object, x: Tensor, y: Tensor) -> Tensor:
    """One step on a batch x (B, C), y (B,); returns the loss before it."""
    loss, gradients = net.loss_and_gradients(x, y)
    names = list(net.params)
    params = [net.params[name] for name in names]
    news = optimizer.step(params, [gradients[name] for name in names])
    net.params = dict(zip(names, news, strict=True))
    return loss


def train(
    net: Net, optimizer: object, task: DigitSets, setup: DigitSetup, seed: int
) -> dict[str, list]:
    """Steps on random batches, in the same order for every arm of a seed.

    Returns steps, the mean training loss since the last entry, and the validation
    loss. A loss that is not a number is stored as that of a huge error, 1e4.
    """
    order = torch.Generator().manual_seed(seed)
    curve: dict[str, list] = {"step": [], "train": [], "val": []}
    losses = []
    for step in range(1, setup.steps + 1):
        batch = torch.randint(len(task.train.y), (setup.B,), generator=order)
        batch = batch.to(task.train.y.device)
        losses.append(
            train_step(net, optimizer, task.train.x[batch], task.train.y[batch])
        )
        if step % setup.log_every == 0 or step == setup.steps:
            curve["step"].append(step)
            curve["train"].append(finite(torch.stack(losses).mean()))
            curve["val"].append(evaluate(net, task.val)[0])
            losses = []
    return curve


def evaluate(net: Net, digits: Digits) -> tuple[float, float]:
    """Loss and accuracy in evaluation mode."""
    logits, _ = net.forward(digits.x, training=False)
    loss, _ = softmax_cross_entropy(logits, digits.y)
    return finite(loss), accuracy(logits, digits.y)


def accuracy(logits: Tensor, y: Tensor) -> float:
    """The share of rows whose largest logit is the right one."""
    return round((logits.argmax(dim=1) == y).double().mean().item(), 4)


def wrong_modes(net: Net, digits: Digits, seed: int) -> dict[str, float]:
    """Accuracy of the normalised net in evaluation mode, and in training mode.

    In training mode a row is normalised with its batch: random batches of 64 and of 4,
    and batches of 64 that hold one digit only.
    """
    order = torch.randperm(len(digits.y), generator=torch.Generator().manual_seed(seed))
    order = order.to(digits.y.device)
    by_class = digits.y.argsort(stable=True)
    return {
        "evaluation mode": evaluate(net, digits)[1],
        "training mode, batches of 64": in_batches(net, digits, order, 64),
        "training mode, batches of 4": in_batches(net, digits, order, 4),
        "training mode, one digit a batch": in_batches(net, digits, by_class, 64),
    }


def in_batches(net: Net, digits: Digits, order: Tensor, size: int) -> float:
    """Accuracy in training mode over batches in this order; `stats` stay as they are.

    Rows that do not fill a last batch are left out.
    """
    kept = net.stats
    net.stats = {
        i: RunningStats(s.mean.clone(), s.var.clone()) for i, s in kept.items()
    }
    order = order[: len(order) // size * size]
    logits = [net.forward(digits.x[b], training=True)[0] for b in order.split(size)]
    net.stats = kept
    return accuracy(torch.cat(logits), digits.y[order])


def finite(loss: Tensor) -> float:
    """A loss for the result file: 1e4 stands for anything larger, and for NaN."""
    value = loss.item()
    return round(value, 4) if value < 1e4 else 1e4
