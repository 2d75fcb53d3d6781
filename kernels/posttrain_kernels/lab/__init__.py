"""The laboratory: prove a Triton kernel without a GPU.

Two switches, for kernels of this package and for your own. Both take CPU tensors and
the wrapper that you would call on a GPU; kernels are decorated as ever, and one process
(one notebook) may use both, one after the other.

    import torch
    import triton
    import triton.language as tl
    from posttrain_kernels import lab

    @triton.jit
    def double_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + i)
        tl.store(y_ptr + i, 2 * x, mask=i < n)

    x, y = torch.randn(1000), torch.empty(1000)
    with lab.compiled(arch=90) as log:  # registers, spills, instructions on an H100
        double_kernel[(1,)](x, y, 1000, BLOCK=1024)
    print(log[0].registers, log[0].spills, log[0].loads)

    with lab.strict():  # the numbers, and every access checked
        double_kernel[(1,)](x, y, 1000, BLOCK=1024)
    # OutOfBounds: double_kernel, program (0, 0, 0), line 9 `x = tl.load(x_ptr + i)`:
    # load out of bounds in 24 of 1024 lanes of x_ptr (shape (1000,), strides (1,) ...

`assert_accurate` compares numbers as this package does: our error may be twice the one
that PyTorch makes in the same dtype. What the laboratory cannot see: speed, and races
between the threads of one program. It runs on triton 3.6 to 3.9.
"""

from posttrain_kernels.lab.accuracy import assert_accurate
from posttrain_kernels.lab.compiled import CHIPS, Chip, Launch, compiled
from posttrain_kernels.lab.interpreter import KernelError, Traffic
from posttrain_kernels.lab.strict import poisoned_memory, strict
from posttrain_kernels.lab.violations import (
    OutOfBounds,
    Overflow,
    Race,
    Undefined,
    Violation,
)
from posttrain_kernels.mode import active

__all__ = [
    "CHIPS",
    "Chip",
    "KernelError",
    "Launch",
    "OutOfBounds",
    "Overflow",
    "Race",
    "Traffic",
    "Undefined",
    "Violation",
    "active",
    "assert_accurate",
    "compiled",
    "poisoned_memory",
    "strict",
]
