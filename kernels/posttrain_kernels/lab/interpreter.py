"""Runs a kernel on the CPU: each program as plain Python, each block a NumPy array.

Triton carries an interpreter, which TRITON_INTERPRET=1 switches on for good when a
kernel is decorated. Here an ordinary `@triton.jit` kernel is interpreted while a
`with` block lasts, so that one process (one notebook) can run it, compile it and, where
there is a GPU, launch it.
"""

import contextlib
import dataclasses
import inspect
import linecache
import random
import traceback
import types
import weakref
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import torch
import triton
import triton.language as tl
from triton.backends.nvidia.compiler import CUDAOptions
from triton.runtime import interpreter as stock
from triton.runtime.jit import JITFunction, get_jit_fn_file_line, mangle_type

from posttrain_kernels.lab.violations import Violation

# What the stock interpreter replaces in the language, and does not always put back.
LANGUAGE = (
    *(tl, tl.core, tl.math, tl.tensor, tl.dtype),
    tl.core.tensor_descriptor_base,
)
# num_warps and the like: they change how a kernel runs on a GPU, not what it computes.
OPTIONS = {field.name for field in dataclasses.fields(CUDAOptions)}


class KernelError(RuntimeError):
    """An exception inside a kernel, with the program and the line where it arose."""


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What the programs of one launch asked of the memory, lanes with mask off not.

    A GPU serves some of it from its caches: `loaded` counts each request, `Cost.bytes`
    of a kernel each number once. `tensors` are the arguments that it was given.
    """

    kernel: str
    grid: tuple[int, ...]  # programs along each axis
    loaded: int  # bytes; what an atomic operation reads is among them
    stored: int  # bytes; what an atomic operation writes is among them
    widest: int  # lanes of the widest load or store: how large is a tile?
    tensors: dict[str, torch.Tensor] = dataclasses.field(repr=False, compare=False)


class Interpreter:
    """Interprets every launch while it is installed, and notes it in `log`.

    begin() gives the builder of one launch: it does the arithmetic and the memory
    accesses. seed: the programs of a launch run in an order shuffled with it.
    """

    def __init__(self, begin: Callable, seed: int):
        self.begin = begin
        self.log: list[Traffic] = []
        self.order = random.Random(seed)
        self.rewritten: dict[Callable, Callable] = {}

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Every launch of a kernel in this block goes to `launch`."""
        run, call = JITFunction.run, JITFunction.__call__
        JITFunction.run = lambda kernel, *a, **k: self.launch(kernel, *a, **k)
        JITFunction.__call__ = lambda function, *a, **k: self._rewrite(function)(
            *a, **k
        )
        try:
            yield
        finally:
            JITFunction.run, JITFunction.__call__ = run, call

    def launch(self, kernel: JITFunction, *args, grid, warmup=False, **kwargs) -> None:
        """Run all programs of a launch, in shuffled order, and note what they moved."""
        names = {p.name for p in kernel.params}
        unknown = kwargs.keys() - names - OPTIONS
        if unknown:
            raise TypeError(
                f"{kernel.__name__} takes no {sorted(unknown)}; its parameters are"
                f" {sorted(names)}, options of a launch {sorted(OPTIONS)}"
            )
        given = {name: value for name, value in kwargs.items() if name in names}
        bound = inspect.getcallargs(kernel.fn, *args, **given)
        builder = self.begin()
        with _interpreting(builder):
            values = {p.name: _value(p, bound[p.name], builder) for p in kernel.params}
            size = grid(bound) if callable(grid) else tuple(grid)
            builder.set_grid_dim(*size, *(1,) * (3 - len(size)))
            for program in self._shuffled(builder.grid_dim):
                builder.set_grid_idx(*program)
                self._run_program(kernel, program, values)
        self.log.append(_traffic(kernel.__name__, builder))

    def _shuffled(self, dims: tuple[int, ...]) -> list[tuple[int, ...]]:
        programs = list(product(*map(range, dims)))
        self.order.shuffle(programs)
        return programs

    def _run_program(self, kernel, program, values) -> None:
        try:
            self._rewrite(kernel)(**values)
        except Exception as error:
            kind = type(error) if isinstance(error, Violation) else KernelError
            place = f"{kernel.__name__}, program {program}{self._line(error)}"
            raise kind(f"{place}: {error}") from (
                None if isinstance(error, Violation) else error
            )

    def _line(self, error: Exception) -> str:
        """The innermost line of a kernel on the way to the error, with its text."""
        code = {function.__code__ for function in self.rewritten.values()}
        frames = [
            (frame.f_code.co_filename, line)
            for frame, line in traceback.walk_tb(error.__traceback__)
            if frame.f_code in code and frame.f_globals["__name__"][:7] != "triton."
        ]
        if not frames:
            return ""
        file, line = frames[-1]
        return f", line {line} `{linecache.getline(file, line).strip()}`"

    def _rewrite(self, function: JITFunction) -> Callable:
        """The Python function behind a kernel, with assignments that make tensors."""
        if function.fn not in self.rewritten:
            self.rewritten[function.fn] = _Rewriter(function).rewrite_ast()
        return self.rewritten[function.fn]


def _traffic(name: str, builder) -> Traffic:
    memory = builder.memory
    loaded, stored = (
        memory.moved[kind] + memory.moved["atomic"] for kind in ("load", "store")
    )
    tensors = dict(pair for space in memory.spaces for pair in space.arguments)
    return Traffic(name, builder.grid_dim, loaded, stored, memory.widest, tensors)


# The code of a kernel as `_Rewriter` leaves it. What its globals hold may change from
# run to run (a notebook defines a helper anew), so they are looked at each time.
_codes: weakref.WeakKeyDictionary[Callable, types.CodeType] = (
    weakref.WeakKeyDictionary()
)


class _Rewriter(stock.FunctionRewriter):
    """As the stock one, but it leaves the module of the kernel as it is."""

    def __init__(self, kernel: JITFunction):
        super().__init__(kernel.fn)
        self.kernel = kernel

    def _get_jit_fn_file_line(self):
        return get_jit_fn_file_line(self.kernel)  # theirs makes the kernel once more

    def rewrite_ast(self) -> Callable:
        if self.fn in _codes:
            return self._exec(_codes[self.fn])
        return super().rewrite_ast()

    def _compile_and_exec(self, tree):
        _codes[self.fn] = compile(tree, self.filename, "exec")
        return self._exec(_codes[self.fn])

    def _exec(self, code: types.CodeType) -> Callable:
        nonlocals = inspect.getclosurevars(self.fn).nonlocals
        space = self.fn.__globals__ | nonlocals
        space |= {"interpreter_semantic": stock.interpreter_semantic, "range": _range}
        exec(code, space)
        return space[self.fn.__name__]


@contextlib.contextmanager
def _interpreting(builder) -> Iterator[None]:
    """The language computes with `builder` in this block."""
    changes = _changes_for(builder)
    before = [vars(place).get(name, _ABSENT) for place, name, _ in changes]
    with _computing_with(builder):
        try:
            for place, name, value in changes:
                setattr(place, name, value)
            yield
        finally:
            for (place, name, _), was in zip(changes, before, strict=True):
                if was is _ABSENT:
                    delattr(place, name)
                else:
                    setattr(place, name, was)


@contextlib.contextmanager
def _computing_with(builder) -> Iterator[None]:
    """What the stock interpreter looks up as it goes is `builder` in this block."""
    semantic, before = stock.interpreter_semantic, stock.interpreter_builder
    with triton.knobs.runtime.scope(), np.errstate(all="ignore"):
        triton.knobs.runtime.interpret = True  # constexpr functions give plain numbers
        # What patches the language takes the builder from here in triton 3.6, and from
        # the semantic since then.
        stock.interpreter_builder = semantic.builder = builder
        try:
            yield
        finally:
            stock.interpreter_builder = semantic.builder = before


_ABSENT = object()
# For each builder, what it changes in the language: the place, the name, what it is
# then. Found out once, for that takes as long as a small launch.
_changes: weakref.WeakKeyDictionary[object, list[tuple[object, str, object]]] = (
    weakref.WeakKeyDictionary()
)


def _changes_for(builder) -> list[tuple[object, str, object]]:
    if builder not in _changes:
        with _restored(LANGUAGE) as before, _computing_with(builder):
            modules = {"tl": tl, "core": tl.core}
            stock._patch_lang(types.SimpleNamespace(__globals__=modules))
            tl.range = _range
            builder.patch_language()
            _changes[builder] = [
                (place, name, value)
                for place, was in zip(LANGUAGE, before, strict=True)
                for name, value in vars(place).items()
                if was.get(name, _ABSENT) is not value
            ]
    return _changes[builder]


@contextlib.contextmanager
def _restored(places) -> Iterator[list[dict]]:
    """Put the attributes of modules and classes back as they were; what they were."""
    saved = [dict(vars(place)) for place in places]
    try:
        yield saved
    finally:
        for place, before in zip(places, saved, strict=True):
            for name in vars(place).keys() - before.keys():
                delattr(place, name)
            for name, value in before.items():
                if vars(place)[name] is not value:
                    setattr(place, name, value)


def _range(*bounds, **_) -> Iterator[tl.tensor]:
    """range() as the compiler sees it: the variable is a tensor, as wide as its bounds.

    A plain int would hide overflow, and has no `.to`.
    """
    wide = any(isinstance(b, tl.tensor) and b.dtype == tl.int64 for b in bounds)
    for i in range(*bounds):
        value = stock.interpreter_semantic.to_tensor(i)
        yield value.to(tl.int64) if wide else value


def _value(parameter, argument, builder):
    """What the kernel gets for an argument: a pointer, a scalar, or a constant."""
    if parameter.is_constexpr:
        return argument
    if isinstance(argument, torch.Tensor):
        pointer = tl.str_to_ty(mangle_type(argument), None)
        address = builder.memory.place(parameter.name, argument)
        data = np.array([address], np.uint64)
        return tl.tensor(stock.TensorHandle(data, pointer), pointer)
    if isinstance(argument, float):  # the stock interpreter leaves it a Python number,
        data = np.array([argument], np.float32)  # to which fp16 would not widen
        return tl.tensor(stock.TensorHandle(data, tl.float32), tl.float32)
    return stock._implicit_cvt(argument)
