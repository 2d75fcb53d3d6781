"""Seconds and peak bytes of one step of a head, on the machine that is there.

A head is any function `head(hidden, weight, targets, n)` that returns a loss: ours, the
naive one, or yours. On a GPU the allocator is asked (`torch.cuda`), and the clock is
read when the GPU is idle. On a CPU seconds are those of the processor, and bytes the
growth of the process's resident memory, which Linux keeps a mark of.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from posttrain.clock import seconds

MIB = 2**20
Head = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def head_inputs(
    N: int, d: int, V: int, dtype: torch.dtype, device: str, trained: bool = True
) -> list[Tensor]:
    """Random hidden states, a weight with logits of about unit size, and targets."""
    hidden = torch.randn(N, d, device=device, dtype=dtype).requires_grad_()
    weight = torch.randn(V, d, device=device, dtype=dtype).mul_(d**-0.5)
    targets = torch.randint(V, (N,), device=device)
    return [hidden, weight.requires_grad_(trained), targets]


def step(head: Head, inputs: list[Tensor], n: int) -> None:
    """Forward and backward; the gradients are forgotten."""
    head(*inputs, n).backward()
    for x in inputs[:2]:
        x.grad = None


def step_seconds(head: Head, inputs: list[Tensor], n: int) -> float:
    """Seconds of one step: of the processor on a CPU, of the clock on a GPU."""
    return seconds(partial(step, head, inputs, n), inputs[0].device.type)


def step_bytes(head: Head, inputs: list[Tensor], n: int) -> int | None:
    """Peak bytes of one step beside its inputs; None where nobody keeps a mark.

    On a CPU it is what the process took from the system: it counts what operators use
    inside, and is a few MiB off where memory that was given back is used again.
    """
    if inputs[0].device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(head, inputs, n)
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free goes back to the system
        Path("/proc/self/clear_refs").write_text("5")  # the mark starts again from here
        before = _resident("VmRSS")
        step(head, inputs, n)
        return _resident("VmHWM") - before
    except (OSError, AttributeError):  # not Linux, or another C library
        return None


def _resident(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024


def gpu_report(
    heads: Mapping[str, Head],
    N: int = 4 * 4096,
    d: int = 4096,
    V: int = 128 * 1024,
    n: int = 512,
    rounds: int = 5,
) -> list[str]:
    """A line for each head: peak MiB and median milliseconds on the GPU.

    Where there is no GPU, one line that says so. A head that does not fit says so too.
    bfloat16, or float16 where the GPU has no bfloat16.
    """
    if not torch.cuda.is_available():
        return ["no GPU here: nothing measured"]
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    inputs = head_inputs(N, d, V, dtype, "cuda")
    lines = [f"{torch.cuda.get_device_name()}, {dtype}, N={N} d={d} V={V} n={n}"]
    for name, head in heads.items():
        try:
            peak = step_bytes(head, inputs, n)  # the first step warms up as well
            times = sorted(step_seconds(head, inputs, n) for _ in range(rounds))
            middle = times[rounds // 2] * 1e3
            lines.append(f"{name}: {peak / MIB:.0f} MiB, {middle:.1f} ms")
        except torch.cuda.OutOfMemoryError:
            lines.append(f"{name}: does not fit")
            torch.cuda.empty_cache()
    return lines
