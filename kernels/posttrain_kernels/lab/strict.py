"""The strict mode: kernels run on the CPU, and what a GPU forgives is an error."""

import contextlib
from collections.abc import Iterator

import torch
from torch.utils import deterministic

from posttrain_kernels import mode
from posttrain_kernels.lab.builder import StrictBuilder
from posttrain_kernels.lab.interpreter import Interpreter, Traffic
from posttrain_kernels.lab.memory import Memory

_builder = StrictBuilder()


@contextlib.contextmanager
def strict(races: bool = True, seed: int = 0) -> Iterator[list[Traffic]]:
    """Run the kernels launched in this block on the CPU, and check all that they do.

        with lab.strict() as log:
            y = softmax(x)  # x on the CPU; the kernel runs, not its fallback
        print(log[0].loaded, log[0].stored)  # bytes

    - bfloat16 and tf32 are computed as a GPU computes them.
    - Each load and store must hit an element of the tensor whose pointer it uses:
      OutOfBounds. The gaps between the rows of a view count as outside.
    - No two programs may touch an element that one of them writes: Race. So may no two
      lanes of one store, unless they write the same. races=False leaves it out, for
      kernels that hold locks.
    - A lane that a mask switched off in a load without `other=` must not reach a
      stored value, an address or a mask: Undefined.
    - Signed integers narrower than 64 bits must not wrap around: Overflow.
    - The programs of a launch run in an order shuffled with `seed`.
    - torch.empty is filled with NaN (or the largest integer) in the block, so a result
      that no program writes is seen.

    The log gets one Traffic for each launch that came to its end.

    A violation names the kernel, the program, the line and the element. Any other
    exception in a kernel comes as KernelError, with the same. Takes milliseconds an
    operation of a program, so use small sizes. Not thread-safe: one block at a time.
    """
    with mode.entered("strict"), poisoned_memory():
        interpreter = Interpreter(lambda: _builder.begin(Memory(races)), seed)
        with interpreter.installed():
            try:
                yield interpreter.log
            finally:
                _builder.begin(Memory())  # to hold no tensors of the last launch


@contextlib.contextmanager
def poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN (or the largest integer) in this block, on any device."""
    # not torch.use_deterministic_algorithms, which imports the whole of Inductor
    before = torch.get_deterministic_debug_mode()
    fill = deterministic.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("warn")
    deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        deterministic.fill_uninitialized_memory = fill
