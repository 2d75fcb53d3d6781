"""Supervised fine-tuning: learn to write what the demonstrations show.

    pool = Pool.of(demonstrations)              # (question, reply) pairs
    trainer = sft_trainer(model, pool, steps=400)
    fit(trainer)

The trainer is the one of pretraining. What differs is the batch (a prompt and a reply),
and the mask: the loss counts the reply, its end mark included, and not the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from posttrain.alignment.chat_template import encode_prompt, encode_reply
from posttrain.alignment.completions import (
    Completions,
    collate,
    count,
    epoch_rows,
    total_nll,
)
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.foundations.optimizers_groups import muon_and_adamw
from posttrain.foundations.optimizers_schedules import wsd
from posttrain.foundations.tokenization import PAD
from posttrain.foundations.trainer import Trainer


@dataclass(frozen=True)
class Pool:
    """Demonstrations as tokens; called with (step, micro), it gives a batch.

    Every epoch sees each demonstration once, in an order of its own; the micro-batches
    of a step (`micro` = 0, 1, ...) each walk through an order of their own.
    """

    prompts: list[list[int]]
    replies: list[list[int]]
    B: int = 64
    seed: int = 0
    device: str = "cpu"

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]], **options) -> Pool:
        """Encode (question, reply) pairs. Raises ValueError for fewer than B."""
        tok = tokenizer()
        pool = cls(
            [encode_prompt(tok, question) for question, _ in pairs],
            [encode_reply(tok, reply) for _, reply in pairs],
            **options,
        )
        if len(pairs) < pool.B:
            raise ValueError(
                f"{len(pairs)} demonstrations are fewer than a batch of B={pool.B};"
                " give more, or a smaller B"
            )
        return pool

    def __call__(self, step: int, micro: int = 0) -> Completions:
        """Batch `step`: the next B of this epoch's order (a short rest is left out)."""
        n = len(self.prompts)
        return self.batch(epoch_rows(n, self.B, self.seed, step, micro))

    def batch(self, rows: Sequence[int]) -> Completions:
        """Some demonstrations as a batch."""
        return collate(
            [self.prompts[i] for i in rows],
            [self.replies[i] for i in rows],
            tokenizer().special_id(PAD),
            device=self.device,
        )


def whole_sequences(pool: Pool) -> Pool:
    """The same demonstrations with the loss on all tokens: the prompt's mask removed.

    The first token, the mark of the user, has no past and stays the only prompt.
    """
    pairs = zip(pool.prompts, pool.replies, strict=True)
    return replace(
        pool,
        prompts=[prompt[:1] for prompt in pool.prompts],
        replies=[[*prompt[1:], *reply] for prompt, reply in pairs],
    )


def questions_only(pool: Pool) -> Pool:
    """The questions as plain text to predict: what a base model would have read."""
    return replace(
        pool,
        prompts=[prompt[:1] for prompt in pool.prompts],
        replies=[prompt[1:-2] for prompt in pool.prompts],  # no marks of the chat
    )


def sft_trainer(
    model: nn.Module,
    pool: Pool,
    steps: int,
    lr: float = 1e-2,
    weight_decay: float = 0.0,
    precision: str = "fp32",
) -> Trainer:
    """Muon and AdamW, warm-up, a long decay; nats summed over the replies' tokens."""
    return Trainer(
        model,
        muon_and_adamw(model, lr, weight_decay),
        pool,
        schedule=partial(wsd, total=steps, warmup=10, decay=steps // 2, floor=0.02),
        steps=steps,
        loss=total_nll,
        size=count,
        precision=precision,
    )
