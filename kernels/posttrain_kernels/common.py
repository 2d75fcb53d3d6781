"""What all kernel families share: registration, argument checks, cost, tile sizes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from posttrain_kernels import mode

LIBRARY = torch.library.Library("posttrain_kernels", "DEF")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def register(schema: str, launch: Callable, fallback: Callable, fake: Callable) -> None:
    """Make an operator `torch.ops.posttrain_kernels.<name>` of a kernel.

    schema: name, arguments and results, as in `name(Tensor x) -> Tensor`; the first
    argument is a tensor. launch: starts the kernel; used on CUDA, and for CPU tensors
    in the laboratory. fallback: the same in plain PyTorch, for CPU tensors elsewhere.
    fake: results of the right shape, dtype and stride without values, for
    torch.compile and for memory counted without memory.

    Gradients are not registered: an autograd.Function of the family calls a forward
    and a backward operator. That launches fastest, and torch.compile traces it.
    """
    name = schema.split("(")[0]

    def on_cuda(x, *arguments):
        with torch.cuda.device(x.device):  # x may be on another GPU than the current
            return launch(x, *arguments)

    def on_cpu(*arguments):
        return (launch if mode.active() else fallback)(*arguments)

    LIBRARY.define(schema)
    LIBRARY.impl(name, on_cuda, "CUDA")
    LIBRARY.impl(name, on_cpu, "CPU")
    torch.library.register_fake(f"{LIBRARY.ns}::{name}", fake, lib=LIBRARY)


@dataclass(frozen=True)
class Cost:
    """The least that a computation must move and calculate."""

    bytes: int  # to and from memory, each input read and each output written once
    flops: int  # one multiply-add = 2

    def seconds(self, bytes_per_second: float, flops_per_second: float) -> float:
        """The physical limit of a chip: whichever takes longer."""
        return max(self.bytes / bytes_per_second, self.flops / flops_per_second)


def check_rows(name: str, x: Tensor, max_columns: int) -> None:
    """Raise unless x is a tensor of rows that a kernel can take.

    Its dtype must be fp32, fp16 or bf16 (TypeError); the last dimension 1 to
    max_columns long and contiguous, the others one stride apart (ValueError).
    """
    if x.dtype not in FLOATS:
        raise TypeError(f"{name} is {x.dtype}; cast it to float32, float16 or bfloat16")
    if x.ndim < 1 or not 1 <= x.shape[-1] <= max_columns:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; this kernel holds a row in registers,"
            f" so the last dimension must be 1 to {max_columns} long"
        )
    if not _rows_are_evenly_spaced(x):
        raise ValueError(
            f"{name} has shape {tuple(x.shape)} and strides {x.stride()}; the kernel"
            f" steps from row to row by one stride: call {name}.contiguous() first"
        )


def _rows_are_evenly_spaced(x: Tensor) -> bool:
    """Can x be seen as (rows, columns) without a copy, columns contiguous?"""
    if x.stride(-1) != 1 and x.shape[-1] != 1:
        return False
    stride, count = 0, 1  # of the rows seen so far, from the innermost dimension
    for size, step in reversed(list(zip(x.shape[:-1], x.stride()[:-1], strict=True))):
        if size == 1:
            continue
        if count > 1 and step != stride * count:
            return False
        stride = step if count == 1 else stride
        count *= size
    return True


def as_rows(x: Tensor) -> Tensor:
    """(..., C) seen as (rows, C); `check_rows` has made sure that nothing is copied."""
    return x.view(-1, x.shape[-1]) if x.numel() else x.reshape(0, x.shape[-1])


def check_same_device(**tensors: Tensor) -> None:
    """Raise ValueError unless all are on one device, a CPU or a CUDA GPU."""
    devices = {name: str(tensor.device) for name, tensor in tensors.items()}
    kinds = {tensor.device.type for tensor in tensors.values()}
    if len(set(devices.values())) > 1:
        raise ValueError(f"tensors are on several devices: {devices}; move them to one")
    if not kinds <= {"cpu", "cuda", "meta"}:
        raise ValueError(f"tensors are on {kinds}; the kernels run on cuda and cpu")


def row_tile(n_cols: int) -> dict[str, int]:
    """How many rows of n_cols numbers one program takes, and by how many warps.

    A thread gets 16 numbers, two 128-bit loads in bf16: enough in flight to keep the
    memory busy. Short rows share a program. Returns the constants ROWS and BLOCK of a
    kernel and num_warps.
    """
    block = triton.next_power_of_2(n_cols)
    rows = max(1, 2048 // block)
    num_warps = min(32, max(1, rows * block // (16 * 32)))
    return {"ROWS": rows, "BLOCK": block, "num_warps": num_warps}


def multiprocessors(device: torch.device) -> int:
    """How many multiprocessors a GPU has; 1 for a CPU, where programs take turns."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def architecture() -> int:
    """What kernels are compiled for: 90 for sm_90; 0 where they are interpreted."""
    if mode.active() == "strict":
        return 0
    return triton.runtime.driver.active.get_current_target().arch
