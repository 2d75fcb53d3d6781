"""Where the kernels are tried: in the strict mode, and on a GPU where there is one.

On a machine with PyTorch, Triton and pytest, but not all that the book needs:

    PYTHONPATH=.:kernels python -m pytest tests/kernels -k "cuda or gpu" -rs \\
        -o filterwarnings=
"""

from collections.abc import Iterator

import pytest
import torch
from posttrain_kernels import lab
from posttrain_kernels.bench.limits import Limits
from posttrain_kernels.bench.runner import Bench
from posttrain_kernels.bench.timing import Budget

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(params=["strict", "cuda"])
def device(request) -> Iterator[str]:
    """The device to put tensors on; torch.empty is poisoned with NaN on either."""
    if request.param == "strict":
        with lab.strict():
            yield "cpu"
    else:
        with lab.poisoned_memory():
            yield request.getfixturevalue("gpu")


@pytest.fixture
def gpu() -> str:
    """The name of the GPU's device; a test that asks for it is skipped without one."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU, and this machine has none")
    return "cuda"


@pytest.fixture(params=DTYPES, ids=["fp32", "fp16", "bf16"])
def dtype(request) -> torch.dtype:
    """The dtypes that every kernel takes."""
    return request.param


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def gradients():
    """A function: result of f and its gradients for the inputs, given dy."""

    def run(f, inputs, dy):
        inputs = [x.detach().requires_grad_() for x in inputs]
        y = f(*inputs)
        return [y.detach(), *torch.autograd.grad(y, inputs, dy.to(y.dtype))]

    return run


@pytest.fixture
def compare(gradients):
    """A function: hold f and its gradients against a peer in the same dtype, and the
    truth in fp64."""

    def run(names, f, peer, inputs, dy, factor=2.0):
        ours = gradients(f, inputs, dy)
        theirs = gradients(peer, inputs, dy)
        truth = gradients(peer, [x.double() for x in inputs], dy.double())
        for name, a, b, c in zip(names, ours, theirs, truth, strict=True):
            lab.assert_accurate(a, b, c, factor, what=name)

    return run


class Stopwatch:
    """A device for benchmarks whose clock is advanced by hand: 1 ms a flush or hold."""

    def __init__(self):
        self.now = 0.0  # milliseconds
        self.log = []

    def spend(self, what, milliseconds):
        self.log.append(what)
        self.now += milliseconds

    def flush(self):
        self.spend("flush", 1)

    def hold(self):
        self.spend("hold", 1)

    def mark(self):
        self.log.append("mark")
        self.now += 0.001
        return self.now

    def synchronize(self):
        self.log.append("synchronize")

    def milliseconds(self, start, end):
        return end - start

    def peak_bytes(self, call):
        call.run(call.prepare())
        return 2**20


@pytest.fixture
def stopwatch() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
def bench(stopwatch) -> Bench:
    """A benchmark on the CPU with the stopwatch: no number of it means anything."""
    return Bench(
        device=stopwatch,
        where="cpu",
        dtype=torch.bfloat16,
        limits=Limits(1e12, 1e14, "bfloat16"),
        budget=Budget(seconds=0, least=2, most=2, warm_up=1),
    )
