"""Conversations packed into full rows, and the loss on what the assistant wrote.

    rows = pack_chats(chats, T, best_fit([len(c.tokens) for c in chats], T), pad)
    loss = packed_nll(model, rows.batch([0, 1])) / packed_count(rows.batch([0, 1]))

A padded batch computes on padding. Packing puts several conversations into one row. Two
things must then be told to the model: who may look at whom (a mask, block by block) and
where each conversation begins (positions that start again). With both, the loss is the
one of the padded batch, to rounding. Plans: `data_pipeline_packing`; take one that cuts
no conversation (`best_fit`): a reply that has lost its prompt teaches to guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from posttrain.alignment.chat_template import Chat
from posttrain.foundations.data_pipeline_packing import PackedBatch, Plan, Rows, pack
from posttrain.foundations.language_model import IGNORE
from posttrain.foundations.sampling import token_logprobs


def pack_chats(chats: Sequence[Chat], T: int, plan: Plan, pad: int) -> Rows:
    """Rows of T tokens; only what the assistant wrote is a target.

    The masks are packed like the tokens: what `pack` then calls the *target* of a place
    says whether the assistant wrote the next token. Raises ValueError for a
    conversation that the plan cuts.
    """
    for number, chat in enumerate(chats):
        if len(chat.tokens) > T:
            raise ValueError(
                f"chat {number} has {len(chat.tokens)} tokens and T={T}: cutting it"
                " would part a reply from its prompt; raise T or leave the chat out"
            )
    rows = pack([chat.tokens for chat in chats], T, plan, pad)
    written = pack([chat.assistant for chat in chats], T, plan).targets
    return replace(rows, targets=np.where(written == 1, rows.targets, IGNORE))


def packed_nll(model: nn.Module, batch: PackedBatch) -> Tensor:
    """Minus the log-probability of all targets, summed."""
    counts = batch.targets != IGNORE  # (B, T)
    hidden = model.hidden(batch.tokens, mask=batch.mask, positions=batch.positions)
    return -token_logprobs(model.head(hidden[counts]), batch.targets[counts]).sum()


def packed_count(batch: PackedBatch) -> int:
    """How many targets a batch has."""
    return int((batch.targets != IGNORE).sum())
