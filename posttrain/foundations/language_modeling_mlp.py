"""Two models trained by gradient: one matrix (a bigram), and Bengio's network.

    Bigram(V)            logits = W[last token]: V^2 numbers
    MLP(MLPConfig(V))    k embeddings side by side, a tanh layer, a read-out

Bengio et al. 2003, equation (1), without its optional direct connections. `start` sets
the two scales which decide whether training starts well: see `START`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posttrain.foundations.language_modeling import windows


@dataclass(frozen=True)
class MLPConfig:
    """V tokens, k of them as context, D channels an embedding, H hidden units."""

    V: int
    k: int = 3
    D: int = 16
    H: int = 128
    start: str = "calm"


# (standard deviation of a hidden unit before tanh, and of a logit, at the start)
START = {
    "calm": (1.0, 0.1),
    "loud": (1.0, 8.0),  # logits far apart: wrong and certain of it
    "saturated": (15.0, 0.1),  # tanh at its flat ends
}


class Bigram(nn.Module):
    """A row of logits for each token: softmax(W[a]) is p(. | a)."""

    k = 1

    def __init__(self, V: int):
        super().__init__()
        self.W = nn.Parameter(torch.zeros(V, V))

    def forward(self, contexts: Tensor) -> Tensor:
        """contexts (N, 1) -> logits (N, V)"""
        return self.W[contexts[:, -1]]


class MLP(nn.Module):
    """logits = U tanh(H [C(w_1); ...; C(w_k)] + d) + b."""

    def __init__(self, config: MLPConfig):
        super().__init__()
        self.config, self.k = config, config.k
        self.embed = nn.Embedding(config.V, config.D)
        self.hidden = nn.Linear(config.k * config.D, config.H)
        self.head = nn.Linear(config.H, config.V)
        start(self, config.start)

    def activations(self, contexts: Tensor) -> Tensor:
        """contexts (N, k) -> hidden units (N, H), in (-1, 1)"""
        x = self.embed(contexts).flatten(1)  # (N, k D)
        return torch.tanh(self.hidden(x))

    def forward(self, contexts: Tensor) -> Tensor:
        """contexts (N, k) -> logits (N, V)"""
        return self.head(self.activations(contexts))


@torch.no_grad()
def start(model: MLP, name: str) -> None:
    """Draw the weights; biases 0. Raises ValueError for an unknown start."""
    if name not in START:
        raise ValueError(f"unknown start {name!r}; known: {', '.join(START)}")
    before_tanh, logit = START[name]
    nn.init.normal_(model.embed.weight)
    # a sum of n products of unit variance has standard deviation sqrt(n)
    for layer, spread in ((model.hidden, before_tanh), (model.head, logit)):
        nn.init.normal_(layer.weight, std=spread / math.sqrt(layer.in_features))
        nn.init.zeros_(layer.bias)


@dataclass(frozen=True)
class TrainConfig:
    """AdamW on random windows; the rate falls by a cosine to a tenth."""

    steps: int = 1000
    B: int = 256
    lr: float = 5e-3
    weight_decay: float = 0.01
    points: int = 10  # how often to measure


def learning_rate(step: int, config: TrainConfig) -> float:
    """Half a cosine from lr to lr / 10."""
    return config.lr * (0.55 + 0.45 * math.cos(math.pi * step / config.steps))


def train(
    model: nn.Module,
    tokens: Tensor,
    config: TrainConfig,
    generator: torch.Generator,
    measure: Callable[[nn.Module], float] | None = None,
) -> dict:
    """Train on tokens (N,). Returns the loss of each step, nats, and the curve.

    measure(model) is asked `points` times: {"loss": [steps], "step": [], "val": []}.
    """
    rows, device = windows(tokens, model.k), next(model.parameters()).device
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    curve, losses = {"step": [], "val": []}, []
    every = max(1, config.steps // config.points)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        drawn = rows[torch.randint(len(rows), (config.B,), generator=generator)]
        losses.append(training_step(model, optimizer, drawn.to(device)))
        if measure and ((step + 1) % every == 0 or step + 1 == config.steps):
            curve["step"].append(step + 1)
            curve["val"].append(measure(model))
    return {"loss": torch.stack(losses).tolist(), **curve}


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, rows: Tensor
) -> Tensor:
    """One step on windows (B, k + 1). Returns the loss before it, nats a token."""
    loss = F.cross_entropy(model(rows[:, :-1]), rows[:, -1])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def descend(counts: Tensor, steps: int, lr: float = 2.0) -> tuple[Tensor, list[float]]:
    """Fit the bigram matrix to counts (V, V) by full gradient steps, from zero.

    The gradient of row a is softmax(W_a) - counts_a / c(a); each row takes its own
    steps, so that rare rows are not slower. Any lr below 4 is stable, as no curvature
    of a row's loss is above 1/2. Returns W, and before each step the gap to the counts:
    the mean over the text of KL(counts_a || softmax(W_a)), nats.
    """
    totals = counts.sum(dim=1, keepdim=True)
    if (totals == 0).any():
        raise ValueError("a row of counts is empty: nothing to fit there; leave it out")
    goal, share = counts / totals, totals[:, 0] / totals.sum()
    entropy = -torch.xlogy(goal, goal).sum(dim=1)  # (V,)
    W, gaps = torch.zeros_like(goal), []
    for _ in range(steps):
        log_p = W.log_softmax(dim=1)
        gaps.append((share * (-(goal * log_p).sum(dim=1) - entropy)).sum())
        W = W - lr * (log_p.exp() - goal)
    return W, torch.stack(gaps).tolist()


@torch.no_grad()
def saturation(model: MLP, contexts: Tensor) -> dict[str, float]:
    """How flat the tanh layer is on contexts (N, k).

    shut: share of hidden values that let less than 1 % of the gradient through,
    1 - h^2 < 0.01. dead: share of units that are shut on all contexts.
    slope: mean of 1 - h^2.
    """
    slope = 1 - model.activations(contexts).square()  # (N, H)
    shut = slope < 0.01
    return {
        "shut": shut.float().mean().item(),
        "dead": shut.all(dim=0).float().mean().item(),
        "slope": slope.mean().item(),
    }
