"""Which models a method keeps in memory, and what they weigh.

    held("ppo", 7e9)                    # bytes of each role, by formula
    measured(trainer, [reference])      # bytes of a run of this book, counted

Counted: weights, gradients and optimizer states. Not counted: activations, and the KV
cache of the answers, which every method that samples needs as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from posttrain.foundations.trainer import Trainer

# Which roles a method has, with every model of the same size. The policy and the
# critic are trained, the others only read.
ROLES = {
    "sft": ("policy",),
    "dpo": ("policy", "reference"),
    "ppo": ("policy", "critic", "reference", "reward model"),
    "ppo, verifier": ("policy", "critic", "reference"),
    "ppo, verifier, no KL": ("policy", "critic"),
    "grpo, reward model": ("policy", "reference", "reward model"),
    "grpo": ("policy", "reference"),
    "grpo, no KL": ("policy",),
}
TRAINED = ("policy", "critic")


@dataclass(frozen=True)
class Layout:
    """Bytes a parameter. Defaults: mixed precision with AdamW.

    weights, gradient: bf16. states: an fp32 copy of the weights and two moments.
    """

    weights: float = 2
    gradient: float = 2
    states: float = 12


MIXED = Layout()
FP32 = Layout(weights=4, gradient=4, states=8)  # what the book's small models use


def held(method: str, parameters: float, layout: Layout = MIXED) -> dict[str, float]:
    """Bytes of each role of a method. Raises ValueError for an unknown method."""
    if method not in ROLES:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(ROLES)}")
    trained = layout.weights + layout.gradient + layout.states
    return {
        role: parameters * (trained if role in TRAINED else layout.weights)
        for role in ROLES[method]
    }


def measured(trainer: Trainer, frozen: Sequence[nn.Module] = ()) -> dict[str, int]:
    """Bytes that a run holds, counted tensor by tensor over one training step.

    frozen: models beside the trained ones. The step is really taken.
    """
    gradients = []
    hooks = [
        p.register_post_accumulate_grad_hook(lambda p: gradients.append(p.grad.nbytes))
        for p in trainer.model.parameters()
    ]
    trainer.train_step()
    for hook in hooks:
        hook.remove()
    states = [
        value.nbytes
        for optimizer in trainer.optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if hasattr(value, "nbytes") and value.ndim
    ]
    return {
        "weights": sum(p.nbytes for p in trainer.model.parameters()),
        "gradients": sum(gradients),
        "states": sum(states),
        "frozen": sum(p.nbytes for model in frozen for p in model.parameters()),
    }
