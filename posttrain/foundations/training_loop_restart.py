"""What a resume needs, shown by leaving parts of it out.

A run is cut at a checkpoint and goes on from it, once with all of its state and once
for each part that is forgotten. All see the same text; the loss of each batch is
compared with that of the run that was never cut.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from posttrain.foundations import checkpoint
from posttrain.foundations.batches import Windows, mean_loss
from posttrain.foundations.trainer import Trainer
from posttrain.foundations.training_run import Recipe, Text, make_model, make_trainer

FORGET = {
    "nothing": (),
    "random state": ("random",),
    "optimizers": ("optimizers",),
    "step": ("step",),
    "optimizers and step": ("optimizers", "step"),
}


def restart_faults(recipe: Recipe, text: Text, cut: int, device: str = "cpu") -> dict:
    """Batch losses after step `cut`: undisturbed, and for each of FORGET.

    `exact` says whether the last weights equal the undisturbed ones to the last bit,
    `val` is the loss of these weights on held-out windows.
    """
    held_out = Windows(text.val, recipe.B, recipe.T, device=device).fixed(128)
    whole = fresh(recipe, text, device)
    losses = [whole.train_step().loss for _ in range(cut)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checkpoint.save(folder, cut, whole.state_dict(), {})
        after = [whole.train_step().loss for _ in range(recipe.steps - cut)]
        arms = {}
        for name, parts in FORGET.items():
            resumed = fresh(replace(recipe, seed=recipe.seed + 1), text, device)
            resumed.batches = whole.batches
            load(resumed, checkpoint.load(folder), forget=parts)
            curve = [resumed.train_step().loss for _ in after]
            arms[name] = {
                "loss": rounded(curve),
                "exact": same_weights(resumed, whole),
                "val": round(mean_loss(resumed.model, held_out), 4),
            }
    return {
        "before": rounded(losses),
        "undisturbed": rounded(after),
        "val": round(mean_loss(whole.model, held_out), 4),
        "arms": arms,
    }


def fresh(recipe: Recipe, text: Text, device: str) -> Trainer:
    """A trainer at step 0, as a new process makes it."""
    model = make_model(recipe, text.tokenizer.vocab_size).to(device)
    return make_trainer(recipe, model, text)


def load(trainer: Trainer, state: dict, forget: tuple[str, ...] = ()) -> None:
    """Load a checkpoint, but keep the trainer's own for what is forgotten.

    Without the step, the schedule and the batches begin again; without the optimizers'
    state, their means do; without the random state, dropout draws other numbers.
    """
    trainer.load_state_dict({**state, **select(trainer.state_dict(), forget)})


def select(state: dict, names: tuple[str, ...]) -> dict:
    """The named parts of a state."""
    return {name: state[name] for name in names}


def same_weights(a: Trainer, b: Trainer) -> bool:
    """Whether two models are equal to the last bit."""
    pairs = zip(a.model.parameters(), b.model.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


def rounded(values: list[float]) -> list[float]:
    """Losses for a results file: four digits."""
    return [round(value, 4) for value in values]
