"""What this GPU can do, measured: bytes a second in a copy, FLOPs in a product."""

from dataclasses import dataclass

import torch

from posttrain_kernels.bench.timing import Call, Device, interleaved, quantile, warm_up

COPY_BYTES = 2**30  # far more than any L2 cache holds
PRODUCT_SIZE = 8192
ROUNDS = 30


@dataclass(frozen=True)
class Limits:
    """Medians; random numbers, because a product of zeros draws less power."""

    bytes_per_second: float  # read and written, both counted
    flops_per_second: float  # one multiply-add = 2
    dtype: str  # of the product


def measure(
    device: Device,
    where: str,
    dtype: torch.dtype,
    copy_bytes: int = COPY_BYTES,
    size: int = PRODUCT_SIZE,
) -> Limits:
    """Copy `copy_bytes`, multiply (size, size) by (size, size) in `dtype`, in turns."""
    source = torch.ones(copy_bytes // 4, dtype=torch.int32, device=where)
    target = torch.empty_like(source)
    a, b = (torch.randn(size, size, device=where).to(dtype) for _ in range(2))
    c = torch.empty_like(a)
    calls = {
        "copy": Call(lambda _: target.copy_(source), lambda: None),
        "product": Call(lambda _: torch.mm(a, b, out=c), lambda: None),
    }
    for call in calls.values():
        warm_up(call, device, times=3)
    times = interleaved(calls, device, ROUNDS)
    seconds = {name: quantile(ms, 0.5) / 1000 for name, ms in times.items()}
    return Limits(
        bytes_per_second=2 * source.nbytes / seconds["copy"],
        flops_per_second=2 * size**3 / seconds["product"],
        dtype=str(dtype).removeprefix("torch."),
    )
