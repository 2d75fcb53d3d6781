"""The same conversations as padded, sorted and packed batches: loss and speed.

    rows = compare_batches(model, pairs, B=32, T=112)
    rows[2]["way"], rows[2]["loss"], rows[2]["targets_per_second"]

Padding is not paid by tokens but by places: a batch costs its longest row, B times.
Sorting by length before batching is the cheap cure; packing the thorough one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from posttrain.alignment.chat_sft_data import Pair
from posttrain.alignment.chat_sft_packing import pack_chats, packed_count, packed_nll
from posttrain.alignment.chat_template import Chat, encode_chat
from posttrain.alignment.completions import collate, count, total_nll
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.foundations.data_pipeline_packing import best_fit
from posttrain.foundations.tokenization import PAD

Loss = Callable[[nn.Module], Tensor]  # of one batch, summed over its targets


def compare_batches(
    model: nn.Module, pairs: Sequence[Pair], B: int, T: int, repeats: int = 3
) -> list[dict]:
    """One pass, forward and backward, over the same conversations in three ways.

    Each row: loss (nats a target), grad_norm, empty (share of places without a token),
    targets, and targets_per_second of CPU time (the fastest of `repeats`, which take
    turns).
    """
    chats = as_chats(pairs)
    shuffled = random.Random(0).sample(chats, len(chats))
    ways = {
        "padded": padded(shuffled, B),
        "sorted by length": padded(sorted(chats, key=lambda c: len(c.tokens)), B),
        "packed": packed(shuffled, B, T),
    }
    used = sum(len(chat.tokens) for chat in chats)
    rows = {}
    for _ in range(repeats):
        for way, (losses, targets, places) in ways.items():
            start = time.process_time()
            row = one_pass(model, losses, targets)
            seconds = time.process_time() - start
            fastest = max(
                targets / seconds, rows.get(way, {}).get("targets_per_second", 0.0)
            )
            rows[way] = {
                "way": way,
                **row,
                "empty": 1 - used / places,
                "targets": targets,
                "targets_per_second": fastest,
            }
    return list(rows.values())


def as_chats(pairs: Sequence[Pair]) -> list[Chat]:
    """Questions and replies as conversations of two turns."""
    return [
        encode_chat(
            tokenizer(),
            [
                {"role": "user", "content": question},
                {"role": "assistant", "content": reply},
            ],
        )
        for question, reply in pairs
    ]


def padded(chats: Sequence[Chat], B: int) -> tuple[list[Loss], int, int]:
    """Batches of B rows, each as long as its longest: losses, targets, places."""
    losses, targets, places = [], 0, 0
    for start in range(0, len(chats), B):
        some = chats[start : start + B]
        batch = collate(
            [chat.tokens[:1] for chat in some],
            [chat.tokens[1:] for chat in some],
            tokenizer().special_id(PAD),
            [chat.assistant[1:] for chat in some],
        )
        losses.append(lambda model, batch=batch: total_nll(model, batch))
        targets += count(batch)
        places += len(some) * (batch.tokens.shape[1] + 1)  # the last token, too
    return losses, targets, places


def packed(chats: Sequence[Chat], B: int, T: int) -> tuple[list[Loss], int, int]:
    """Packed rows, as many a batch as hold about B conversations."""
    plan = best_fit([len(chat.tokens) for chat in chats], T)
    rows = pack_chats(chats, T, plan, tokenizer().special_id(PAD))
    n = max(1, round(len(plan) * B / len(chats)))
    batches = [
        rows.batch(list(range(start, min(start + n, len(plan)))))
        for start in range(0, len(plan), n)
    ]
    losses = [lambda model, batch=batch: packed_nll(model, batch) for batch in batches]
    return losses, sum(map(packed_count, batches)), rows.tokens.size


def one_pass(model: nn.Module, losses: Sequence[Loss], targets: int) -> dict:
    """The mean loss over all batches and the length of its gradient."""
    model.zero_grad()
    total = 0.0
    for loss in losses:
        part = loss(model) / targets
        part.backward()
        total += part.item()
    squares = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
    norm = torch.stack(squares).sum().sqrt().item()
    model.zero_grad()
    return {"loss": total, "grad_norm": norm}
