"""The experiment of the chapter: seconds of attention against its length.

    naive    the whole table, in three steps
    tiled    our tiles, a loop in Python
    sdpa     `F.scaled_dot_product_attention`; on a CPU its kernel is tiled as well
    triton   the kernel of `posttrain_kernels`, on a GPU only

Each arm is timed in its forward pass and in forward and backward together, and our
tiles in several sizes. At the longest length they are timed without the causal mask as
well, where no tile can be skipped. A seed draws the inputs and the order of the arms.
Times on a CPU are CPU seconds of all threads, the median of some rounds in which the
arms take turns; on a GPU they are seconds of the clock. Run it over seeds with
`python -m ci.measure flash_attention cpu`.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from posttrain.clock import seconds
from posttrain.infrastructure.flash_attention_memory import (
    Attention,
    held_bytes,
    naive_attention,
    sdpa,
    tiled,
)
from posttrain.presets import preset_named

VERSION = 1


@dataclass(frozen=True)
class Preset:
    """Shapes of one run: B = 1, causal."""

    lengths: tuple[int, ...]
    tiles: tuple[int, ...]  # M = N; the first is the one of the arm `tiled`
    rounds: int
    H: int = 2
    D: int = 64
    device: str = "cpu"
    dtype: torch.dtype = torch.float32


PRESETS = {
    "ci": Preset((128, 256, 512), (128, 32), rounds=3),
    "cpu": Preset(
        (128, 256, 512, 1024, 2048, 4096), (256, 16, 32, 64, 128, 512, 1024), rounds=5
    ),
    "t4": Preset(
        (512, 1024, 2048, 4096, 8192),
        (512, 128, 256, 1024),
        rounds=20,
        H=8,
        device="cuda",
        dtype=torch.float16,
    ),
    "h200": Preset(
        (1024, 2048, 4096, 8192, 16384),
        (1024, 256, 512, 2048),
        rounds=20,
        H=16,
        device="cuda",
        dtype=torch.bfloat16,
    ),
}


def run(preset: str, seed: int) -> dict:
    """Seconds and kept bytes by arm and length; at the longest, seconds by tile, and
    by arm without a mask ("whole")."""
    p = preset_named(PRESETS, preset)
    torch.manual_seed(seed)
    order = random.Random(seed)
    arms = arms_of(p)
    times = {T: race(arms, inputs(p, T), p.rounds, order) for T in p.lengths}
    longest = inputs(p, p.lengths[-1])
    by_tile = {str(size): tiled(size, size) for size in sorted(p.tiles)}
    whole = arms_of(p, causal=False)
    config = asdict(p) | {"dtype": str(p.dtype), "lengths": list(p.lengths)}
    return {
        "config": config,
        "arms": {
            name: {
                "forward": [times[T][name]["forward"] for T in p.lengths],
                "step": [times[T][name]["step"] for T in p.lengths],
                "held_bytes": [
                    held_bytes(arm, 1, p.H, T, p.D, p.dtype) for T in p.lengths
                ],
            }
            for name, arm in arms.items()
        },
        "whole": race(whole, longest, p.rounds, order),
        "tiles": race(by_tile, longest, 3, order),
    }


def arms_of(p: Preset, causal: bool = True) -> dict[str, Attention]:
    """What is timed, by name."""
    size = p.tiles[0]
    arms = {
        "naive": partial(naive_attention, causal=causal),
        "tiled": tiled(size, size, causal),
        "sdpa": partial(sdpa, causal=causal),
    }
    if p.device == "cuda":
        from posttrain_kernels.flash_attention import flash_attention

        arms["triton"] = partial(flash_attention, causal=causal)
    return arms


def inputs(p: Preset, T: int) -> list[Tensor]:
    """q, k, v and the gradient of the output: (1, H, T, D) each."""
    return [
        torch.randn(1, p.H, T, p.D, device=p.device, dtype=p.dtype) for _ in range(4)
    ]


def race(
    arms: dict[str, Attention], qkvo: list[Tensor], rounds: int, order: random.Random
) -> dict[str, dict[str, float]]:
    """Median seconds of "forward" and "step" by arm; the arms take turns.

    The first round warms up and is not counted.
    """
    seen = {name: {"forward": [], "step": []} for name in arms}
    device = qkvo[0].device.type
    for number in range(rounds + 1):
        for name in order.sample(list(arms), len(arms)):
            for kind, work in (("forward", _forward), ("step", _step)):
                took = seconds(partial(work, arms[name], qkvo), device)
                if number:
                    seen[name][kind].append(took)
    return {
        name: {kind: statistics.median(values) for kind, values in kinds.items()}
        for name, kinds in seen.items()
    }


@torch.no_grad()
def _forward(attention: Attention, qkvo: list[Tensor]) -> None:
    attention(*qkvo[:3])


def _step(attention: Attention, qkvo: list[Tensor]) -> None:
    q, k, v = (x.detach().requires_grad_() for x in qkvo[:3])
    attention(q, k, v).backward(qkvo[3])
