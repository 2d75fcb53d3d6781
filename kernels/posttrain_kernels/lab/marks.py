"""Undefined lanes, and where they go.

What a masked load without `other=` returns where the mask is off may be anything. The
strict mode marks such elements and carries the marks through every operation, so that
it can object when one of them decides what is stored, and only then.
"""

import functools

import numpy as np
import triton.language as tl
from triton.runtime import interpreter as stock
from triton.runtime.interpreter import TensorHandle


def undefined_lanes(handle: TensorHandle) -> np.ndarray | None:
    """Which elements of a value hang on undefined lanes; None: none does."""
    return handle.attr.get("undefined")


def mark(handle: TensorHandle, undefined: np.ndarray) -> TensorHandle:
    """Note on a value which of its elements are undefined, if any is."""
    if undefined.any():
        handle.attr["undefined"] = undefined
    return handle


def elementwise(method):
    """An element of the result is undefined where one of any operand is."""

    @functools.wraps(method)
    def wrapped(self, *operands):
        result = method(self, *operands)
        lanes = [undefined_lanes(h) for h in operands if isinstance(h, TensorHandle)]
        lanes = [each for each in lanes if each is not None]
        if not lanes:
            return result
        either = functools.reduce(np.logical_or, lanes)
        return mark(result, np.broadcast_to(either, result.data.shape))

    return wrapped


def moving(method):
    """The marks of undefined lanes are moved as the elements are."""

    @functools.wraps(method)
    def wrapped(self, *operands):
        result = method(self, *operands)
        blocks = [h for h in operands if isinstance(h, TensorHandle)]
        if all(undefined_lanes(h) is None for h in blocks):
            return result
        moved_flags = [flags(h) if isinstance(h, TensorHandle) else h for h in operands]
        moved = method(self, *moved_flags)
        if isinstance(result, tuple):
            return tuple(mark(r, m.data) for r, m in zip(result, moved, strict=True))
        return mark(result, moved.data)

    return wrapped


def flags(handle: TensorHandle) -> TensorHandle:
    """The marks of a value as a value of their own, of the same shape."""
    lanes = undefined_lanes(handle)
    if lanes is None:
        lanes = np.zeros(handle.data.shape, bool)
    return TensorHandle(lanes, tl.int1)


def reduce(input, axis, combine_fn, keep_dims=False, **_):
    """tl.reduce: a result is undefined where anything that went into it is."""
    return _combined(stock.ReduceOps(axis, combine_fn, keep_dims), input, _any)


def scan(input, axis, combine_fn, reverse=False, **_):
    """tl.associative_scan: undefined from the first undefined element on."""
    return _combined(stock.ScanOps(axis, combine_fn, reverse), input, _any_so_far)


def _combined(operation, input, spread):
    """A reduction or scan by the stock interpreter; bfloat16 goes through fp32."""
    inputs = input if isinstance(input, tuple) else (input,)
    wide = [t.to(tl.float32) if t.dtype == tl.bfloat16 else t for t in inputs]
    results = operation.apply(tuple(wide))
    lanes = functools.reduce(np.logical_or, [flags(t.handle).data for t in inputs])
    for result in results:
        mark(result.handle, spread(operation, lanes, result.handle.data.shape))
    results = tuple(
        result.to(t.dtype) if t.dtype == tl.bfloat16 else result
        for result, t in zip(results, inputs, strict=True)
    )
    return results if isinstance(input, tuple) else results[0]


def _any(operation, lanes, shape):
    lanes = lanes.any(operation.axis, keepdims=operation.keep_dims)
    return np.broadcast_to(lanes, shape)


def _any_so_far(operation, lanes, shape):
    axis = operation.axis
    lanes = np.flip(lanes, axis) if operation.reverse else lanes
    lanes = np.logical_or.accumulate(lanes, axis)
    return np.flip(lanes, axis) if operation.reverse else lanes
