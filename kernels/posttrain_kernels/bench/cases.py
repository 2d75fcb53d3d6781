"""What is computed: a family with its sizes, inputs, contestants, costs and passes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from posttrain_kernels.bench.contestants import Contestant, Entry
from posttrain_kernels.bench.timing import Call
from posttrain_kernels.common import Cost

FORWARD, BACKWARD, BOTH = "forward", "backward", "both"
TINY, SMALL, MEDIUM, LARGE = "tiny", "small", "medium", "large"
MEASURED = (SMALL, MEDIUM, LARGE)  # tiny is for tests on a CPU


@dataclass(frozen=True)
class Inputs:
    """The arguments of every contestant, and the gradient that comes from above."""

    arguments: tuple
    dy: Tensor | None = None  # None: the family has no backward pass


@dataclass(frozen=True)
class Family:
    """One module of the package as a benchmark."""

    name: str
    axes: tuple[str, ...]  # what the numbers of a size are
    sizes: dict[str, tuple[int, ...]]
    make: Callable[..., Inputs]  # (*size, dtype=, device=) -> Inputs
    exact: Callable  # the reference, in little memory; fp32 arguments -> fp32 result
    entries: tuple[Entry, ...]
    costs: Callable[..., dict[str, Cost]]  # (*size, dtype=) -> {pass: Cost}
    results: tuple[str, ...]  # names: the result, then its gradients
    trained: tuple[int, ...] = ()  # which arguments get a gradient
    memory: bool = False  # is less memory what the kernel claims?
    rounds_inside: bool = False  # are logits or the like rounded before the result?

    def outcome(self, contestant: Contestant, inputs: Inputs) -> list[Tensor]:
        """The result and its gradients, in the order of `results`."""
        arguments = contestant.adapt(*inputs.arguments)
        leaves = self._leaves(arguments, copy=contestant.destroys_inputs)
        y = contestant.call(*leaves)
        return [y.detach(), *self._gradients(y, leaves, inputs.dy)]

    def expected(self, inputs: Inputs) -> list[Tensor]:
        """The same by the reference in fp32."""
        arguments = tuple(_in_fp32(x) for x in inputs.arguments)
        leaves = self._leaves(arguments, copy=False)
        y = self.exact(*leaves)
        return [y.detach(), *self._gradients(y, leaves, inputs.dy)]

    def call(self, contestant: Contestant, inputs: Inputs, which: str) -> Call:
        """One pass as a call to be timed.

        forward: without gradients. backward: the forward pass is made before the time
        starts. both: as in training, one after the other.
        """
        arguments = contestant.adapt(*inputs.arguments)

        def leaves(trained: bool = True) -> list:
            return self._leaves(arguments, contestant.destroys_inputs, trained)

        def forward(inputs: list) -> object:
            with torch.no_grad():
                return contestant.call(*inputs)

        def graph() -> tuple[Tensor, list]:
            x = leaves()
            return contestant.call(*x), x

        def backward(prepared: tuple[Tensor, list]) -> object:
            return self._gradients(*prepared, inputs.dy)

        def both(leaves: list) -> object:
            return backward((contestant.call(*leaves), leaves))

        frozen = partial(leaves, trained=False)
        passes = {FORWARD: (forward, frozen), BACKWARD: (backward, graph)}
        return Call(*(passes | {BOTH: (both, leaves)})[which])

    def _leaves(self, arguments: Sequence, copy: bool, trained: bool = True) -> list:
        """The arguments; if `trained`, those that are as fresh leaves of a graph."""
        fresh = [
            (x.detach().clone() if copy else x.detach()) if _is_tensor(x) else x
            for x in arguments
        ]
        for i in self.trained if trained else ():
            fresh[i].requires_grad_()
        return fresh

    def _gradients(self, y: Tensor, leaves: list, dy: Tensor | None) -> Sequence:
        if dy is None:
            return ()
        return torch.autograd.grad(y, [leaves[i] for i in self.trained], dy.to(y.dtype))


def by_pass(cost: Callable[..., Cost], *size: int, **options) -> dict[str, Cost]:
    """The costs of all three passes from a `cost(..., backward=)`."""
    forward = cost(*size, **options)
    backward = cost(*size, **options, backward=True)
    both = Cost(forward.bytes + backward.bytes, forward.flops + backward.flops)
    return {FORWARD: forward, BACKWARD: backward, BOTH: both}


def _is_tensor(x: object) -> bool:
    return isinstance(x, Tensor)


def _in_fp32(x: object) -> object:
    return x.float() if _is_tensor(x) and x.is_floating_point() else x
