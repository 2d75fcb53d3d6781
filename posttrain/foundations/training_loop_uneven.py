"""Accumulation over micro-batches of uneven size, done right and done wrong.

A play is cut into its speeches. Those of one step are sorted by length, so that little
is padding, and cut into micro-batches: the first one holds a few dozen tokens, the last
one a thousand. The two losses of `LOSSES` differ in one division only:

    sum over tokens   sum of all losses / number of all tokens
    mean of means     each micro-batch its own mean, then their mean
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from posttrain.foundations.batches import Batch, mean_loss, target_count, total_loss
from posttrain.foundations.language_model import IGNORE
from posttrain.foundations.trainer import Trainer, fit
from posttrain.foundations.training_run import Recipe, Text, make_model, make_trainer

CLASSES = {"short": (0, 50), "middle": (50, 150), "long": (150, 10**9)}  # targets


def own_mean(model: nn.Module, batch: Batch) -> Tensor:
    """The fault: a micro-batch is averaged before the size of the step is known."""
    return total_loss(model, batch) / target_count(batch)


def one(batch: Batch) -> int:
    """... and then counts as one, whatever it holds."""
    return 1


LOSSES = {
    "sum over tokens": (total_loss, target_count),
    "mean of means": (own_mean, one),
}


@dataclass(frozen=True)
class Speeches:
    """A step's speeches, sorted by length and cut into micro-batches of B.

    texts: arrays of tokens; of each at most T + 1 are used. A batch is a function of
    seed, step and micro, as `Windows` is.
    """

    texts: Sequence[np.ndarray]
    B: int
    T: int
    micro_batches: int
    seed: int = 0
    device: str = "cpu"

    def __call__(self, step: int, micro: int = 0) -> Batch:
        """Micro-batch `micro` of the step: inputs (B, T') and targets, T' <= T."""
        random = np.random.default_rng((self.seed, step))
        chosen = random.integers(len(self.texts), size=self.B * self.micro_batches)
        drawn = sorted((self.texts[i] for i in chosen), key=len)
        part = drawn[micro * self.B : (micro + 1) * self.B]
        return padded(part, self.T, self.device)


def padded(texts: Sequence[np.ndarray], T: int, device: str = "cpu") -> Batch:
    """Inputs and targets (B, T'), as wide as the longest; padding does not count."""
    width = min(T, max(map(len, texts)) - 1)
    inputs = torch.zeros(len(texts), width, dtype=torch.long)
    targets = torch.full((len(texts), width), IGNORE)
    for row, text in enumerate(texts):
        tokens = torch.from_numpy(text[: width + 1].astype(np.int64))
        inputs[row, : len(tokens) - 1] = tokens[:-1]
        targets[row, : len(tokens) - 1] = tokens[1:]
    return inputs.to(device), targets.to(device)


def split_speeches(tokens: np.ndarray, text: Text) -> list[np.ndarray]:
    """The paragraphs of a text, each with the empty line that ends it."""
    parts = text.tokenizer.decode(tokens.tolist()).split("\n\n")
    encoded = [text.tokenizer.encode(part + "\n\n") for part in parts if part.strip()]
    return [np.array(part, dtype=np.uint16) for part in encoded]


def compare(recipe: Recipe, text: Text, device: str = "cpu") -> dict:
    """Train with both losses, from equal weights on equal batches.

    Returns for each the nats a token on held-out speeches, all and by length; and how
    far the two gradients are apart.
    """
    train = split_speeches(text.train, text)
    held_out = by_length(split_speeches(text.val, text), recipe, device)
    arms, trainers = {}, []
    for name in LOSSES:
        trainer = make(name, recipe, text, train, device)
        fit(trainer)
        trainers.append(trainer)
        arms[name] = {
            key: round(mean_loss(trainer.model, batches), 4)
            for key, batches in held_out.items()
        }
    tokens = [count_tokens(trainers[0], step) for step in range(recipe.steps)]
    return {
        "arms": arms,
        "tokens": np.mean(tokens, axis=0).round(1).tolist(),  # by micro-batch
        "gradient": compare_gradients(*trainers),
        "share": {k: sum(map(target_count, b)) for k, b in held_out.items()},
    }


def make(name: str, recipe: Recipe, text: Text, train, device: str = "cpu") -> Trainer:
    """The recipe's trainer on speeches, with the loss `name` of `LOSSES`."""
    model = make_model(recipe, text.tokenizer.vocab_size).to(device)
    trainer = make_trainer(recipe, model, text)
    trainer.loss, trainer.size = LOSSES[name]
    trainer.batches = Speeches(
        train, recipe.B, recipe.T, recipe.micro_batches, recipe.seed, device
    )
    return trainer


def by_length(
    texts: Sequence[np.ndarray], recipe: Recipe, device: str = "cpu", limit: int = 256
) -> dict[str, list[Batch]]:
    """Held-out batches by class of length, and "all"; `limit` speeches at most."""
    chosen = texts[:: max(1, len(texts) // limit)][:limit]
    groups: dict[str, list[Batch]] = {"all": []}
    for name, (low, high) in CLASSES.items():
        group = sorted((t for t in chosen if low <= len(t) - 1 < high), key=len)
        parts = [group[i : i + 32] for i in range(0, len(group), 32)]
        groups[name] = [padded(part, recipe.T, device) for part in parts]
        groups["all"] += groups[name]
    return {name: batches for name, batches in groups.items() if batches}


def count_tokens(trainer: Trainer, step: int) -> list[int]:
    """How many targets each micro-batch of a step has."""
    batches = (trainer.batches(step, i) for i in range(trainer.micro_batches))
    return [target_count(batch) for batch in batches]


def compare_gradients(right: Trainer, wrong: Trainer, steps: int = 10) -> dict:
    """Cosine and lengths of the two gradients, at the weights of `right`: means."""
    rows = []
    for step in range(right.steps, right.steps + steps):
        a, b = (gradient(right.model, each, step) for each in (right, wrong))
        cosine = torch.cosine_similarity(a, b, dim=0).item()
        rows.append((cosine, ((a - b).norm() / a.norm()).item()))
    cosine, error = np.mean(rows, axis=0).round(4).tolist()
    return {"cosine": cosine, "error": error}


def gradient(model: nn.Module, trainer: Trainer, step: int) -> Tensor:
    """The gradient of a step as one vector, by the trainer's loss and size."""
    micros = [trainer.batches(step, i) for i in range(trainer.micro_batches)]
    size = sum(trainer.size(micro) for micro in micros)
    loss = sum(trainer.loss(model, micro) for micro in micros) / size
    parts = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([part.flatten() for part in parts])
