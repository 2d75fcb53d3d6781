"""The published NF4 challenge on your GPU: your kernel, ours, bitsandbytes, Unsloth.

    challenge(dequantize)      # in the exercise, after task 6

It runs `posttrain_kernels.bench.challenge`, the challenge's own protocol, with your
answer as one more contestant. Without a CUDA GPU nothing is measured, and it says so.

Source: Unsloth's challenges (2025), A, "Convert nf4 to Triton".
"""

from __future__ import annotations

from collections.abc import Callable

import torch

WANTED = 1.15  # times the speed of Unsloth's fast_dequantize
YOURS = "yours"


def challenge(answer: Callable) -> None:
    """Measure `answer` and print the verdict, or why there is none.

    answer: the function of the exercise's task `dequantize`, for CUDA tensors. Takes
    some minutes on a GPU and memory for the largest size, about 0.6 GB.
    """
    if not torch.cuda.is_available():
        print(
            "Speed was not scored: PyTorch sees no CUDA GPU here. Run this notebook on "
            "one, for instance a T4 in Colab."
        )
        return
    print(verdict(measured(answer)))


def measured(answer: Callable, bench=None, **how) -> dict:
    """The record of the challenge with `answer` as the contestant "yours".

    bench: where to measure, by default the current GPU. how: further arguments of
    `posttrain_kernels.bench.challenge.measure`.
    """
    from posttrain_kernels.bench import challenge, contestants

    one = contestants.Contestant(YOURS, _call(answer), adapt=arguments)
    entry = contestants.Entry(YOURS, lambda: one, on_cpu=True)
    return challenge.measure(bench or _gpu(), also=[entry], **how)


def arguments(weights) -> tuple:
    """What the answer gets for an NF4 tensor, and at the end the shape of the result.

    weights: a double-quantised `posttrain_kernels.nf4.NF4`.
    """
    n = torch.Size(weights.shape).numel()
    nested = weights.nested_absmax, weights.nested_code, weights.offset
    parts = weights.packed, weights.absmax, weights.code, *nested
    return *parts, n, weights.dtype, weights.shape


def verdict(record: dict) -> str:
    """The record in words: seconds of each contestant, and whether `WANTED` is reached.

    record: as `measured` returns it. Without "yours" in it (wrong values, an error) or
    without Unsloth there is no score, and the text says why.
    """
    totals = record["total_seconds"]
    lines = [f"{name}: {seconds:.3f} s" for name, seconds in totals.items()]
    lines += [f"{x['contestant']}: left out, {x['reason']}" for x in record["left_out"]]
    speedup = record["speedup_over_unsloth"].get(YOURS)
    if YOURS not in totals:
        lines.append("Speed was not scored: your kernel did not finish; see above.")
    elif speedup is None:
        lines.append("Speed was not scored: there is no Unsloth to compare with.")
    else:
        word = "reached" if speedup >= WANTED else "not reached"
        lines.append(
            f"{speedup:.2f} times as fast as Unsloth; {WANTED} wanted: {word}."
        )
    return "\n".join(lines)


def _call(answer: Callable) -> Callable:
    return lambda *given: answer(*given[:-1]).view(given[-1])


def _gpu():
    """The current GPU, as the challenge wants it; its limits are not needed."""
    from posttrain_kernels.bench.cuda import Cuda
    from posttrain_kernels.bench.limits import Limits
    from posttrain_kernels.bench.runner import Bench
    from posttrain_kernels.bench.timing import Budget

    return Bench(Cuda(), "cuda", torch.float16, Limits(0.0, 0.0, "float16"), Budget())
