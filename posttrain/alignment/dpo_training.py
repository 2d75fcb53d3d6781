"""DPO on a fixed set of pairs, with the trainer of pretraining.

    pairs = Pairs.of([(question, chosen reply, rejected reply), ...])
    trainer = dpo_trainer(model, pairs, Recipe(steps=100), seed=0)
    fit(trainer)

The reference is the model as it stands when the trainer is made. It never changes, and
the pairs are fixed, so what it says of them is computed once, before the first step: no
second model stays in memory, and a step costs one forward pass instead of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from posttrain.alignment.chat_template import encode_prompt, encode_reply
from posttrain.alignment.completions import Completions, collate_pairs, epoch_rows
from posttrain.alignment.dpo import Kind, dpo_loss, sequence_logprobs
from posttrain.alignment.policy_training import policy_trainer
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.foundations.tokenization import PAD
from posttrain.foundations.trainer import Trainer


@dataclass(frozen=True)
class Recipe:
    """One run. nll: weight of minus the chosen reply's mean log-probability a token."""

    steps: int = 100
    B: int = 32  # pairs of a step
    lr: float = 3e-4
    beta: float = 0.5
    kind: Kind = "sigmoid"
    label_smoothing: float = 0.0
    nll: float = 0.0
    max_norm: float | None = 1.0


@dataclass(frozen=True)
class Pairs:
    """Preferences as tokens: for each prompt the better completion and the worse."""

    prompts: list[list[int]]
    chosen: list[list[int]]
    rejected: list[list[int]]

    def __post_init__(self):
        sizes = {len(self.prompts), len(self.chosen), len(self.rejected)}
        if len(sizes) != 1:
            raise ValueError(
                f"{len(self.prompts)} prompts, {len(self.chosen)} chosen and"
                f" {len(self.rejected)} rejected completions: a pair has one of each"
            )

    @classmethod
    def of(cls, triples: Sequence[tuple[str, str, str]]) -> Pairs:
        """Encode (question, chosen reply, rejected reply)."""
        tok = tokenizer()
        return cls(
            [encode_prompt(tok, question) for question, _, _ in triples],
            [encode_reply(tok, chosen) for _, chosen, _ in triples],
            [encode_reply(tok, rejected) for _, _, rejected in triples],
        )

    def __len__(self) -> int:
        return len(self.prompts)

    def batch(self, rows: Sequence[int], device: str = "cpu") -> Completions:
        """Some pairs as 2B rows: all the chosen ones, then all the rejected."""
        return collate_pairs(
            [self.prompts[i] for i in rows],
            [self.chosen[i] for i in rows],
            [self.rejected[i] for i in rows],
            tokenizer().special_id(PAD),
            device=device,
        )


@dataclass(frozen=True)
class PairBatch:
    """2B completions, and what the reference thinks of them: (2B,)."""

    completions: Completions
    ref_logprobs: Tensor

    def __len__(self) -> int:
        return len(self.completions) // 2


class PairBatches:
    """Called with (step, micro), gives B pairs; each epoch sees every pair once."""

    def __init__(self, pairs: Pairs, ref_logprobs: Tensor, B: int, seed: int = 0):
        if len(pairs) < B:
            raise ValueError(
                f"{len(pairs)} pairs are fewer than a batch of B={B}; give more, or a"
                " smaller B"
            )
        self.pairs, self.ref_logprobs, self.B, self.seed = pairs, ref_logprobs, B, seed

    def __call__(self, step: int, micro: int = 0) -> PairBatch:
        """Batch `step`: the next B of this epoch's order (a short rest is left out)."""
        return self.batch(epoch_rows(len(self.pairs), self.B, self.seed, step, micro))

    def batch(self, rows: Sequence[int]) -> PairBatch:
        """Some pairs. `ref_logprobs` is (2, N): of the chosen, of the rejected."""
        ref = self.ref_logprobs[:, rows].flatten()  # (2B,)
        return PairBatch(self.pairs.batch(rows, self.ref_logprobs.device), ref)


@torch.no_grad()
def pair_logprobs(model: nn.Module, pairs: Pairs, B: int = 64) -> Tensor:
    """log p of every completion, chosen and rejected: (2, N)."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    parts = [
        sequence_logprobs(model, pairs.batch(rows, device)).view(2, -1)
        for rows in _chunks(len(pairs), B)
    ]
    model.train(was_training)
    return torch.cat(parts, dim=1)


def loss_of(recipe: Recipe, model: nn.Module, batch: PairBatch) -> Tensor:
    """The loss of a batch, summed over its pairs."""
    policy = sequence_logprobs(model, batch.completions)  # (2B,)
    chosen, rejected = policy.chunk(2)
    lengths = batch.completions.lengths.chunk(2)
    losses = dpo_loss(
        *(chosen, rejected, *batch.ref_logprobs.chunk(2), recipe.beta, recipe.kind),
        label_smoothing=recipe.label_smoothing,
        lengths=lengths,
    )
    return (losses - recipe.nll * chosen / lengths[0]).sum()


def dpo_trainer(
    model: nn.Module,
    pairs: Pairs,
    recipe: Recipe,
    seed: int = 0,
    reference: nn.Module | None = None,
) -> Trainer:
    """A trainer that runs DPO on `pairs`, in an order of the seed.

    reference: the model to stay near; None: `model` as it is now.
    """
    ref = pair_logprobs(reference or model, pairs)
    return policy_trainer(
        model,
        PairBatches(pairs, ref, recipe.B, seed),
        partial(loss_of, recipe),
        steps=recipe.steps,
        lr=recipe.lr,
        warmup=min(5, recipe.steps // 2),
        size=len,
        max_norm=recipe.max_norm,
    )


def _chunks(n: int, size: int) -> list[range]:
    return [range(i, min(i + size, n)) for i in range(0, n, size)]
