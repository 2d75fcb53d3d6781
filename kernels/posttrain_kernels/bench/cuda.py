"""A CUDA GPU as `timing` wants it."""

import torch

from posttrain_kernels.bench.timing import Call

FLUSH_BYTES = 256 * 2**20  # at least; Triton's do_bench overwrites as many
HOLD_CYCLES = 1_000_000  # half a millisecond: longer than it takes to queue a call


class Cuda:
    """The current CUDA device: marks are events on the current stream."""

    def __init__(self) -> None:
        cache = torch.cuda.get_device_properties().L2_cache_size
        size = max(FLUSH_BYTES, 4 * cache)
        self._cache = torch.empty(size, dtype=torch.int8, device="cuda")

    def flush(self) -> None:
        self._cache.zero_()

    def hold(self) -> None:
        torch.cuda._sleep(HOLD_CYCLES)  # touches no memory

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def milliseconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return start.elapsed_time(end)

    def peak_bytes(self, call: Call) -> int:
        prepared = call.prepare()
        self.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call.run(prepared)
        self.synchronize()
        return torch.cuda.max_memory_allocated() - before
