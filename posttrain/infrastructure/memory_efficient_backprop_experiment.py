"""The experiment of the chapter: memory, time, rounding and training of the heads.

    race        peak bytes and seconds of each head against vocabulary and chunk
    rounding    error of dW against float64, summed in bfloat16 or in float32
    training    losses of a small model through each head, SFT and GRPO
    skipping    tiles of the vocabulary left out below a threshold, and what it costs

A seed draws inputs, weights, batches and the order of the heads. Run it over seeds with
`python -m ci.measure memory_efficient_backprop cpu`.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from posttrain import data
from posttrain.foundations.batches import Windows
from posttrain.infrastructure import memory_efficient_backprop_training as training
from posttrain.infrastructure.memory_efficient_backprop import (
    chunk_gradient,
    chunks,
    plain_rows,
)
from posttrain.infrastructure.memory_efficient_backprop_losses import (
    cross_entropy,
    mean_weights,
)
from posttrain.infrastructure.memory_efficient_backprop_measure import (
    head_inputs,
    step_bytes,
    step_seconds,
)
from posttrain.infrastructure.memory_efficient_backprop_memory import (
    HEADS,
    step_memory,
)
from posttrain.infrastructure.memory_efficient_backprop_vocabulary import (
    tiled_cross_entropy,
)
from posttrain.presets import preset_named
from posttrain.results import significant

VERSION = 1
THRESHOLDS = [2.0**-k for k in (8, 10, 12, 14, 16, 18, 20)]


@dataclass(frozen=True)
class Preset:
    """Sizes of one run."""

    N: int
    d: int
    vocabularies: tuple[int, ...]
    n: int  # rows of a chunk, where the vocabulary varies
    chunk_rows: tuple[int, ...]  # where the chunk does, at the last vocabulary but one
    rounds: int
    rounding: tuple[int, int, int]  # N, d, V of the bfloat16 sums
    words: int  # vocabulary of the small model
    steps: int
    device: str = "cpu"
    dtype: torch.dtype = torch.float32


PRESETS = {
    "ci": Preset(256, 32, (256, 512, 1024), 32, (32, 256), 1, (256, 16, 64), 512, 4),
    "cpu": Preset(
        *(512, 256, (1024, 4096, 16384, 32768), 64),
        chunk_rows=(4, 16, 64, 256, 512),
        rounds=3,
        rounding=(4096, 64, 256),
        words=8192,
        steps=60,
    ),
    "t4": Preset(
        *(4096, 2048, (8192, 32768, 65536, 131072), 256),
        chunk_rows=(64, 256, 1024, 4096),
        rounds=5,
        rounding=(4096, 64, 256),
        words=16384,
        steps=100,
        device="cuda",
        dtype=torch.float16,
    ),
    "h200": Preset(
        *(16384, 4096, (8192, 32768, 131072, 262144), 512),
        chunk_rows=(64, 256, 512, 1024, 4096),
        rounds=10,
        rounding=(16384, 128, 1024),
        words=16384,
        steps=100,
        device="cuda",
        dtype=torch.bfloat16,
    ),
}


def run(preset: str, seed: int) -> dict:
    """The four parts, each as lists beside the sizes that they belong to."""
    p = preset_named(PRESETS, preset)
    torch.manual_seed(seed)
    order = random.Random(seed)
    config = asdict(p) | {"dtype": str(p.dtype)}
    trained, model, batches = _training(p, seed)
    middle = p.vocabularies[-2]
    return significant(
        {
            "config": {
                k: list(v) if isinstance(v, tuple) else v for k, v in config.items()
            },
            "vocabulary": [race(p, V, p.n, order) for V in p.vocabularies],
            "chunk": [race(p, middle, n, order) for n in p.chunk_rows],
            "rounding": rounding(*p.rounding),
            "training": trained,
            "skipping": skipping(model, batches),
        }
    )


def race(p: Preset, V: int, n: int, order: random.Random) -> dict[str, dict]:
    """By head: median seconds of a step, bytes of tensors, bytes that the system gave.

    The heads take turns; the first round, which counts bytes, warms up.
    """
    inputs = head_inputs(p.N, p.d, V, p.dtype, p.device)
    found = {name: {"seconds": []} for name in HEADS}
    for name, head in HEADS.items():
        found[name]["system"] = step_bytes(head, inputs, n)
        found[name]["bytes"] = step_memory(head, p.N, p.d, V, n, p.dtype).peak
    for _ in range(p.rounds):
        for name in order.sample(list(HEADS), len(HEADS)):
            found[name]["seconds"].append(step_seconds(HEADS[name], inputs, n))
    return {
        name: seen | {"seconds": statistics.median(seen["seconds"])}
        for name, seen in found.items()
    }


def rounding(N: int, d: int, V: int) -> dict[str, list]:
    """Relative error of dW, in bfloat16, by the number of chunks and the sum's dtype.

    Against float64 from the same bfloat16 inputs. "plain" has all logits at once.
    """
    hidden, weight, targets = head_inputs(N, d, V, torch.bfloat16, "cpu")
    exact = _plain_dw(hidden.double(), weight.double(), targets)

    def error(dw: Tensor) -> float:
        return ((dw.double() - exact).norm() / exact.norm()).item()

    sizes = [n for n in (N, N // 4, N // 16, N // 64, N // 256, N // 1024) if n]
    by_sum = {
        str(dtype).removeprefix("torch."): [
            error(_chunked_dw(hidden, weight, targets, n, dtype)) for n in sizes
        ]
        for dtype in (torch.float32, torch.bfloat16)
    }
    plain = error(_plain_dw(hidden, weight, targets))
    return {"chunks": [-(-N // n) for n in sizes], "plain": plain} | by_sum


def _plain_dw(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    weight = weight.detach().requires_grad_()
    plain_rows(cross_entropy, hidden.detach(), weight, targets).mean().backward()
    return weight.grad


@torch.no_grad()
def _chunked_dw(hidden, weight, targets, n: int, dtype: torch.dtype) -> Tensor:
    """dW of the mean loss, its sum over chunks kept in `dtype`."""
    share = mean_weights(targets)
    dw = torch.zeros_like(weight, dtype=dtype)
    for here in chunks(len(hidden), n):
        x, y = hidden[here], targets[here]
        _, G = chunk_gradient(x, weight, None, cross_entropy, (y,), share[here])
        dw += G.mT @ x
    return dw.to(weight.dtype)


def _training(p: Preset, seed: int) -> tuple[dict, training.GPT, Windows]:
    """SFT and GRPO by each head; the model that plain SFT made, and its batches."""
    tokens = training.words_of(data.load("tinyshakespeare").text, p.words)
    batches = Windows(tokens, B=8, T=64, seed=seed, device=p.device)
    found, model = {"sft": {}, "grpo": {}}, None
    for name, loss in training.sft_losses(n=48).items():
        fresh = training.new_model(p.words, seed).to(p.device)
        found["sft"][name] = training.sft(fresh, loss, batches, p.steps)
        model = model or fresh
        found["sft"][name]["weights_apart"] = weights_apart(model, fresh)
    for name, head in training.grpo_heads(n=48).items():
        found["grpo"][name] = training.grpo_steps(model, head, batches, 8)
    for runs in found.values():
        for arm in runs.values():  # before the numbers are rounded for the file
            pairs = zip(runs["plain"]["losses"], arm["losses"], strict=True)
            arm["losses_apart"] = max(abs(a - b) for a, b in pairs)
    return found, model, batches


def weights_apart(model: training.GPT, other: training.GPT) -> float:
    """The largest difference of any weight."""
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max((a - b).detach().abs().max().item() for a, b in pairs)


def skipping(model: training.GPT, batches: Windows) -> dict[str, list]:
    """Share of tiles left out and relative error of dW, by threshold.

    Words by frequency, as the model has them, and in a random order; tiles of 64 by 64.
    """
    tokens, targets = (x.flatten() for x in batches(10**6))
    with torch.no_grad():
        hidden = model.hidden(tokens.view(batches.B, -1)).flatten(0, 1)
    weight = model.head.weight.detach()
    order = torch.randperm(len(weight)).to(weight.device)
    shuffled = order.argsort()[targets]
    arms = {"by frequency": (weight, targets), "shuffled": (weight[order], shuffled)}
    found = {"thresholds": THRESHOLDS}
    for name, (w, y) in arms.items():
        exact, _ = _skipped(hidden, w, y, 0.0)
        tried = [_skipped(hidden, w, y, skip) for skip in THRESHOLDS]
        errors = [((dw - exact).norm() / exact.norm()).item() for dw, _ in tried]
        found[name] = {"skipped": [share for _, share in tried], "error": errors}
    return found


def _skipped(hidden, weight, targets, skip: float) -> tuple[Tensor, float]:
    """dW, and the share of tiles that were left out."""
    weight, seen = weight.clone().requires_grad_(), []
    tiled_cross_entropy(hidden, weight, targets, 64, 64, skip, seen).mean().backward()
    return weight.grad, sum(seen) / len(seen)
