"""Find the first NaN, Inf or overflow of a model: in which module, at which step.

    with NumericsMonitor(model) as monitor:
        for monitor.step, batch in enumerate(batches):
            loss = loss_of(model(batch))
            loss.backward()
            ...
            if monitor.first:
                print(monitor.first)
                break

A NaN spreads to everything that is computed from it, so by the time the loss shows it,
it is everywhere, and all that matters is where it was *born*. Hooks look at every
module in the order of execution: its weights, what comes in, what goes out, and on the
way back the gradients at its output, its weights and its input. The first bad tensor is
kept and the monitor falls silent, because the rest is consequence.

`limit=torch.float16` asks another question of a healthy float32 model: would this
number fit into float16? `peaks` answers how far each module is from the edge.

Each look reads one number back from the device, so a GPU waits for it: use the monitor
while you hunt, or on some steps. Not covered: torch.compile, and tensors in objects
other than tuples, lists and dictionaries. A mask of -inf that one module hands to
another counts as inf: hand over booleans.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# What it means that the first bad tensor stands at such a place.
MEANING = {
    "weight": "the last update, or the checkpoint, wrote it",
    "input": "plain code before this module made it, or it is in the data",
    "output": "this module made it from healthy inputs and weights",
    "gradient at output": "what uses this output (the loss, plain code) made it",
    "gradient of weight": "the backward pass of this module made it",
    "gradient at input": "the backward pass of this module made it",
}


@dataclass(frozen=True)
class Finding:
    """The first bad tensor. kind: "nan", "inf", or "overflow" (finite, > limit)."""

    step: int
    module: str  # dotted name; "(model)" for the whole model
    where: str  # a key of MEANING
    name: str  # of the weight, else ""
    kind: str
    bad: int  # how many of `size` entries
    size: int
    largest: float  # largest finite magnitude in it
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return (
            f"step {self.step}: {self.kind} in {self.module}, {self.where}{name}"
            f" {self.shape} {str(self.dtype).removeprefix('torch.')}: {self.bad} of"
            f" {self.size} entries, largest finite one {self.largest:.3g}."
            f" So {MEANING[self.where]}."
        )


class NumericsMonitor:
    """Hooks on every module of a model while the `with` block runs.

    limit: a dtype whose largest number counts as overflow; None: each tensor's own
    dtype, so that only inf and NaN count. stop: raise FloatingPointError at the first
    finding, so that the traceback shows the line of the model.
    """

    def __init__(
        self, model: nn.Module, limit: torch.dtype | None = None, stop: bool = False
    ):
        self.model, self.stop = model, stop
        self.limit = math.inf if limit is None else torch.finfo(limit).max
        self.step = 0
        self.first: Finding | None = None
        self.peaks: dict[tuple[str, str], float] = {}
        self._handles: list = []
        self._watching = False

    def __enter__(self) -> "NumericsMonitor":
        self._watching = True
        for name, module in self.model.named_modules():
            self._watch(name or "(model)", module)
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._watching = False  # for hooks on tensors of a graph that is still alive

    def headroom(self, dtype: torch.dtype) -> list[tuple[float, str, str]]:
        """(doublings, module, where), least first: how often the largest number seen
        there could double before `dtype` overflows; negative: it would not fit."""
        top = torch.finfo(dtype).max
        seen = [(place, peak) for place, peak in self.peaks.items() if peak > 0]
        return sorted((math.log2(top / peak), *place) for place, peak in seen)

    def _watch(self, name: str, module: nn.Module) -> None:
        """Hang the hooks of one module."""

        def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple:
            for label, weight in module.named_parameters(recurse=False):
                self._look(weight, name, "weight", label)
            for x in tensors((args, kwargs)):
                self._look(x, name, "input")
            return own_views(args, kwargs, self._looker(name, "gradient at input"))

        def after(module: nn.Module, args: tuple, output: Any) -> None:
            for y in tensors(output):
                self._look(y, name, "output")
                if y.requires_grad:
                    y.register_hook(self._looker(name, "gradient at output"))

        add = self._handles.append
        add(module.register_forward_pre_hook(before, with_kwargs=True))
        add(module.register_forward_hook(after))
        for label, weight in module.named_parameters(recurse=False):
            if weight.requires_grad:
                hook = self._looker(name, "gradient of weight", label)
                add(weight.register_hook(hook))

    def _looker(
        self, module: str, where: str, name: str = ""
    ) -> Callable[[Tensor], None]:
        """A hook for a gradient. It returns None, so the gradient stays as it is."""
        return lambda gradient: self._look(gradient, module, where, name)

    def _look(self, x: Tensor, module: str, where: str, name: str = "") -> None:
        """One reduction for a healthy tensor; NaN and Inf survive a maximum."""
        if self.first or not self._watching:
            return
        if not x.is_floating_point() or not x.numel():
            return
        peak = x.detach().abs().amax().item()
        if math.isfinite(peak) and peak <= self.limit:
            place = (module, where)
            self.peaks[place] = max(peak, self.peaks.get(place, 0.0))
            return
        self.first = examine(x.detach(), self.step, module, where, name, self.limit)
        if self.stop:
            raise FloatingPointError(str(self.first))


def examine(
    x: Tensor, step: int, module: str, where: str, name: str, limit: float
) -> Finding:
    """Describe a tensor that holds NaN, inf or numbers above `limit`."""
    nan, inf = x.isnan(), x.isinf()
    finite = x[~(nan | inf)].abs().double()
    large = finite > limit
    kinds = {"nan": nan, "inf": inf, "overflow": large}
    kind = next(kind for kind, where_bad in kinds.items() if where_bad.any())
    return Finding(
        step=step,
        module=module,
        where=where,
        name=name,
        kind=kind,
        bad=sum(int(part.sum()) for part in kinds.values()),
        size=x.numel(),
        largest=finite.max().item() if finite.numel() else math.nan,
        shape=tuple(x.shape),
        dtype=x.dtype,
    )


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in a value that may be a tensor, or tuples, lists, dicts of them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def own_views(
    args: tuple, kwargs: dict, hook: Callable[[Tensor], None]
) -> tuple[tuple, dict]:
    """The arguments, with each tensor that needs a gradient as a view of its own.

    The gradient of a tensor that several modules read is the sum of theirs. A view for
    each reader keeps them apart, so that the blame falls on one module. A tensor that
    is given twice (x, x, x) stays one object.
    """
    views: dict[int, Tensor] = {}

    def own(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.requires_grad:
            return x
        if id(x) not in views:
            views[id(x)] = x.view_as(x)
            if views[id(x)].requires_grad:
                views[id(x)].register_hook(hook)
        return views[id(x)]

    return tuple(map(own, args)), {name: own(x) for name, x in kwargs.items()}
