"""Our GPT-2 against that of `transformers`: same weights, batch and dtype, one run.

    race_training(config, B=16, T=64, pairs=15)["ratio"]    # above 1: ours is faster

The two take turns, and each pair gives one ratio, so a machine that slows down or is
shared slows both. The median pair is reported, with the range. On a CPU the clock is
the process's own CPU time, which does not run while another process has the core.

Not covered here: compiled models, several devices, servers.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from posttrain.foundations.language_model import next_token_loss
from posttrain.foundations.optimizers import AdamW
from posttrain.foundations.sampling import Sampling
from posttrain.foundations.sampling_generate import generate
from posttrain.foundations.transformer import GPT2Config
from posttrain.foundations.transformer_hf import from_hf, make_gpt2


def race(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    pairs: int,
    device: str = "cpu",
) -> dict:
    """Time two calls in turn, `pairs` times after one call of each to warm up.

    Returns seconds a call (medians) and theirs / ours of each pair: median, lowest and
    highest. Who goes first changes from pair to pair.
    """
    ours(), theirs()
    times = []
    for i in range(pairs):
        first, second = (ours, theirs) if i % 2 else (theirs, ours)
        a, b = seconds(first, device), seconds(second, device)
        times.append((a, b) if i % 2 else (b, a))
    ratios = [b / a for a, b in times]
    return {
        "ours": statistics.median(a for a, _ in times),
        "theirs": statistics.median(b for _, b in times),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def seconds(call: Callable[[], object], device: str = "cpu") -> float:
    """How long a call takes: CPU time of this process, or the wall's on a GPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    _wait(device)
    start = clock()
    call()
    _wait(device)
    return clock() - start


def race_training(
    config: GPT2Config,
    B: int,
    T: int,
    pairs: int,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict:
    """A whole training step: forward, loss, backward, AdamW. Adds tokens a second."""
    twins = twin_models(config, device, torch.float32)
    tokens = random_tokens(config, B, T, device)

    def stepper(model: nn.Module, logits: Callable[[Tensor], Tensor]):
        optimizer = AdamW(model.train().parameters(), lr=1e-4)

        def step() -> None:
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                loss = next_token_loss(logits(tokens), tokens)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    ours, theirs = twins
    result = race(
        stepper(ours, ours),
        stepper(theirs, lambda x: theirs(x, use_cache=False).logits),
        pairs,
        device,
    )
    return {"B": B, "T": T, **result, "tokens_per_second": B * T / result["ours"]}


def race_generation(
    config: GPT2Config,
    B: int,
    prompt: int,
    new: int,
    pairs: int,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict:
    """Greedy text with a cache, B rows at once. `equal`: do both write the same?"""
    ours, theirs = (m.eval() for m in twin_models(config, device, dtype))
    tokens = random_tokens(config, B, prompt, device)
    prompts = tokens.tolist()
    greedy = Sampling(temperature=0)

    def write_ours() -> list[list[int]]:
        return [row.tokens for row in generate(ours, prompts, new, settings=greedy)]

    def write_theirs() -> list[list[int]]:
        rows = theirs.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )
        return rows[:, prompt:].tolist()

    equal = write_ours() == write_theirs()
    result = race(write_ours, write_theirs, pairs, device)
    speed = B * new / result["ours"]
    return {"B": B, "new": new, "equal": equal, **result, "tokens_per_second": speed}


def peak_memory(device: str = "cpu") -> float:
    """MiB: the most that PyTorch held on the GPU, or this process on a CPU.

    The process counts from its start, Python and PyTorch themselves included.
    """
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes or KiB


def twin_models(
    config: GPT2Config, device: str, dtype: torch.dtype
) -> tuple[nn.Module, nn.Module]:
    """Ours and theirs with the same weights, no stop token, drawn from seed 0."""
    torch.manual_seed(0)
    theirs = make_gpt2(config).to(device, dtype)
    return from_hf(theirs).to(device), theirs


def random_tokens(config: GPT2Config, B: int, T: int, device: str) -> Tensor:
    """(B, T) tokens, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(config.V, (B, T), generator=generator).to(device)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
