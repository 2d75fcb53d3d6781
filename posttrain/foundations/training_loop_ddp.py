"""Data parallelism by hand: several processes, one gradient.

    python -m posttrain.foundations.training_loop_ddp --ranks 2 --steps 20

Each process ("rank") holds the whole model and its own rows of the batch. After
backward the gradients are added up over the ranks, by messages in a ring, and all take
the same step. At the end the program compares the weights with those that one process
gets from whole batches, with those of a run that averages means, and with those of
`torch.nn.parallel.DistributedDataParallel`, PyTorch's own: the same sum, in buckets
that are sent while backward still computes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from posttrain.foundations.batches import Batch, Windows, target_count, total_loss
from posttrain.foundations.language_model import IGNORE
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.optimizers_groups import clip_grad_norm

LR = 0.3  # learning rate
WAYS = ("tokens", "ranks", "pytorch")
Reduce = Callable[[Tensor], None]  # adds a tensor up over all ranks, in place
Exchange = Callable[[Tensor, int, Tensor, int], None]


def ring_all_reduce(flat: Tensor, rank: int, ranks: int, exchange: Exchange) -> None:
    """Replace `flat` (N,) by its sum over all ranks, in place.

    exchange(sent, to, received, source): send one tensor, receive another.

    In n - 1 rounds each rank sends a piece to its right and adds the one from its left:
    then piece (rank + 1) % n is complete here. In n - 1 more the complete pieces go
    round. A rank sends 2 (n - 1) / n of N numbers, however many ranks there are.
    """
    pieces = flat.tensor_split(ranks)  # views
    right, left = (rank + 1) % ranks, (rank - 1) % ranks
    for i in range(ranks - 1):
        mine, theirs = pieces[(rank - i) % ranks], pieces[(rank - i - 1) % ranks]
        received = torch.empty_like(theirs)
        exchange(mine, right, received, left)
        theirs += received
    for i in range(ranks - 1):
        mine, theirs = pieces[(rank + 1 - i) % ranks], pieces[(rank - i) % ranks]
        exchange(mine, right, theirs, left)


def exchange_by_gloo(sent: Tensor, to: int, received: Tensor, source: int) -> None:
    """Both directions at once: if all sent first, all would wait for each other."""
    sending = dist.isend(sent, to)
    dist.recv(received, source)
    sending.wait()


def parallel_step(
    model: nn.Module,
    batch: Batch,
    reduce: Reduce,
    ranks: int = 1,
    average: str = "tokens",
) -> None:
    """One step of plain gradient descent, on this rank's rows.

    average: "tokens" divides by the tokens of all ranks; "ranks" is the fault, each
    rank's mean and then the mean of these.
    """
    size = torch.tensor([float(target_count(batch))])
    if average == "tokens":
        reduce(size)  # first of all: how large is the whole step?
    else:
        size *= ranks
    (total_loss(model, batch) / size.item()).backward()
    grads = [p.grad for p in model.parameters()]
    flat = torch.cat([g.flatten() for g in grads])  # one message, not one a tensor
    reduce(flat)
    for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))
    descend(model)


def pytorch_step(
    model: DistributedDataParallel, batch: Batch, reduce: Reduce, ranks: int
) -> None:
    """The same step by PyTorch's own: `backward` itself leaves the mean over ranks.

    Mean, not sum: so the loss is multiplied by the number of ranks.
    """
    size = torch.tensor([float(target_count(batch))])
    reduce(size)
    (total_loss(model, batch) * ranks / size.item()).backward()
    descend(model)


def descend(model: nn.Module) -> None:
    """Clip, after the sum: the length of the whole. Then step, and forget."""
    clip_grad_norm(model.parameters(), 1.0)
    with torch.no_grad():
        for p in model.parameters():
            p -= LR * p.grad
            p.grad = None


def train(
    steps: int, rank: int, ranks: int, reduce: Reduce, average: str = "tokens"
) -> Tensor:
    """A tiny model on rows rank, rank + ranks, ... of each batch; its weights (P,).

    average: as in `parallel_step`, or "pytorch" for `pytorch_step`.
    """
    torch.manual_seed(0)  # all ranks begin with the same weights
    model = GPT(GPTConfig(V=31, T=16, C=32, L=2, H=2, H_kv=1))
    wrapped = DistributedDataParallel(model) if average == "pytorch" else None
    for step in range(steps):
        inputs, targets = uneven_batch(step)
        mine = inputs[rank::ranks], targets[rank::ranks]
        if wrapped is not None:
            pytorch_step(wrapped, mine, reduce, ranks)
        else:
            parallel_step(model, mine, reduce, ranks, average)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def uneven_batch(step: int) -> Batch:
    """8 windows of random text; odd rows have 2 targets, even ones 16."""
    tokens = np.random.default_rng(0).integers(31, size=2000)
    inputs, targets = Windows(tokens, B=8, T=16)(step)
    targets = targets.clone()
    targets[1::2, 2:] = IGNORE
    return inputs, targets


def worker(rank: int, ranks: int, steps: int, folder: str) -> None:
    """One process: joins the group, trains in all ways, rank 0 keeps the weights."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks
    )

    def reduce(tensor: Tensor) -> None:
        ring_all_reduce(tensor, rank, ranks, exchange_by_gloo)

    found = {way: train(steps, rank, ranks, reduce, way) for way in WAYS}
    if rank == 0:
        torch.save(found, f"{folder}/weights.pt")
    dist.destroy_process_group()


def compare(ranks: int, steps: int) -> dict:
    """Largest difference of a weight from one process's, for each of `WAYS`.

    "from_pytorch" compares "tokens" with "pytorch", several processes with several.
    Forks, so call it before this process has used autograd or several threads.
    Raises RuntimeError where a rank fails.
    """
    # DistributedDataParallel loads it when it is made: once here, not in each process.
    importlib.import_module("torch._dynamo")
    with tempfile.TemporaryDirectory() as folder:
        fork = multiprocessing.get_context("fork")
        arguments = [(rank, ranks, steps, folder) for rank in range(ranks)]
        processes = [fork.Process(target=worker, args=each) for each in arguments]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if codes := [p.exitcode for p in processes if p.exitcode]:
            raise RuntimeError(f"{len(codes)} of {ranks} ranks failed: {codes}")
        found = torch.load(Path(folder) / "weights.pt", weights_only=True)
    alone = train(steps, 0, 1, reduce=lambda tensor: None)
    apart = {way: (w - alone).abs().max().item() for way, w in found.items()}
    gap = found["tokens"] - found["pytorch"]
    apart["from_pytorch"] = gap.abs().max().item()
    return {"ranks": ranks, "steps": steps, "difference": apart}


def main(argv: list[str] | None = None) -> int:
    """Compare, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args(argv)
    print(json.dumps(compare(given.ranks, given.steps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
