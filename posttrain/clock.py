"""How long a call takes: one clock for all experiments."""

import time
from collections.abc import Callable

import torch


def seconds(run: Callable[[], object], device: str | None = None) -> float:
    """Seconds of one call: on a GPU by the clock, else of this process on the CPU.

    device: "cpu" or "cuda", where the work is done; None: on the GPU if there is one.
    CPU-seconds leave out what other processes did meanwhile. They add up threads, so
    let the process have one.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start
