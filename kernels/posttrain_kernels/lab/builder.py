"""The arithmetic and the memory accesses of the strict mode, operation by operation.

The language turns each line of a kernel into calls of a builder. On the way to a GPU
the builder writes them down for the compiler; this one computes them, and checks.
"""

import numpy as np
import triton.language as tl
from triton._C.libtriton import interpreter as machine
from triton._C.libtriton import ir
from triton.runtime import interpreter as stock
from triton.runtime.interpreter import TensorHandle

from posttrain_kernels.lab.marks import (
    elementwise,
    flags,
    mark,
    moving,
    reduce,
    scan,
    undefined_lanes,
)
from posttrain_kernels.lab.memory import Memory
from posttrain_kernels.lab.numerics import bf16_to_fp32, fp32_to_bf16, round_to_tf32
from posttrain_kernels.lab.violations import Overflow, Race, Undefined


def _is_bf16(handle) -> bool:
    return isinstance(handle, TensorHandle) and handle.dtype.scalar == tl.bfloat16


def _widen(handle):
    """A bfloat16 value as fp32, anything else as it is."""
    if not _is_bf16(handle):
        return handle
    return TensorHandle(bf16_to_fp32(handle.data), tl.float32)


def _narrow(handle: TensorHandle) -> TensorHandle:
    """An fp32 result of a bfloat16 operation, rounded; a comparison as it is."""
    if handle.data.dtype.kind != "f":
        return handle
    return TensorHandle(fp32_to_bf16(handle.data), tl.bfloat16)


class StrictBuilder(stock.InterpreterBuilder):
    """The arithmetic of the launches, and the memory of each, with all checks."""

    memory: Memory

    def __init__(self):
        super().__init__()
        self.options = stock.InterpreterOptions(debug=True, sanitize_overflow=False)
        self.codegen_fns["min_dot_size"] = _min_dot_size

    def begin(self, memory: Memory) -> "StrictBuilder":
        """Get ready for the next launch; one builder serves all, one by one."""
        self.memory = memory
        return self

    @property
    def who(self) -> int:
        """The running program, counted from 1 in the order of the grid."""
        (x, y, z), (_, ny, nz) = self.grid_idx, self.grid_dim
        return (x * ny + y) * nz + z + 1

    def patch_language(self) -> None:
        """Reductions and scans bypass the builder, so they are wrapped here."""
        for module in (tl, tl.core):
            module.reduce = reduce
            module.associative_scan = scan
        tl.tensor.T = property(tl.trans)
        # triton 3.6 calls int() on an array here, which NumPy 2.4 no longer takes
        tl.tensor.__index__ = lambda tensor: int(tensor.handle.data.item())

    def get_bf16(self, value: float) -> TensorHandle:
        return TensorHandle(fp32_to_bf16(np.array([value], np.float32)), tl.bfloat16)

    @elementwise
    def cast_impl(self, src, dst_type):
        src = _widen(src)
        if dst_type.scalar == tl.bfloat16:
            return TensorHandle(fp32_to_bf16(src.data.astype(np.float32)), tl.bfloat16)
        if src.dtype.scalar == dst_type.scalar:
            return src
        return super().cast_impl(src, dst_type)

    @elementwise
    def create_fp_to_fp(self, src, dst_type, rounding):
        if dst_type.scalar == tl.bfloat16 and src.dtype.scalar == tl.float32:
            truncate = rounding == ir.ROUNDING_MODE.RTZ
            return TensorHandle(fp32_to_bf16(src.data, truncate), tl.bfloat16)
        return super().create_fp_to_fp(_widen(src), dst_type, rounding)

    @elementwise
    def binary_op(self, lhs, rhs, op):
        if _is_bf16(lhs):
            return _narrow(super().binary_op(_widen(lhs), _widen(rhs), op))
        result = super().binary_op(lhs, rhs, op)
        if op in (np.add, np.subtract, np.multiply):
            _check_overflow(lhs, rhs, op)
        return result

    def create_and(self, lhs, rhs):
        """False and undefined is False."""
        result = super().create_and(lhs, rhs)
        if undefined_lanes(result) is None or result.data.dtype != np.bool_:
            return result
        left, right = flags(lhs).data, flags(rhs).data
        lanes = (left & right) | (left & rhs.data) | (right & lhs.data)
        result.attr.clear()
        return mark(result, np.broadcast_to(lanes, result.data.shape))

    @elementwise
    def unary_op(self, arg, op):
        if _is_bf16(arg):
            return _narrow(super().unary_op(_widen(arg), op))
        return super().unary_op(arg, op)

    @elementwise
    def create_fma(self, x, y, z):
        if _is_bf16(z):
            return _narrow(super().create_fma(_widen(x), _widen(y), _widen(z)))
        return super().create_fma(x, y, z)

    def create_clampf(self, arg, low, high, propagate_nans):
        wide = [_widen(handle) for handle in (arg, low, high)]
        result = elementwise(stock.InterpreterBuilder.create_clampf)(
            self, *wide, propagate_nans
        )
        return _narrow(result) if _is_bf16(arg) else result

    def create_select(self, condition, lhs, rhs):
        """Undefined where the condition is, or the value that it chooses."""
        result = super().create_select(condition, lhs, rhs)
        lanes = np.where(condition.data, flags(lhs).data, flags(rhs).data)
        lanes = lanes | flags(condition).data
        return mark(result, np.broadcast_to(lanes, result.data.shape))

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        """a (M, K) times b (K, N) plus d (M, N): a row or column spoils all of it."""
        left, right = _widen(a), _widen(b)
        if a.dtype.scalar == tl.float32 and input_precision == ir.INPUT_PRECISION.TF32:
            left = TensorHandle(round_to_tf32(a.data), tl.float32)
            right = TensorHandle(round_to_tf32(b.data), tl.float32)
        result = super().create_dot(
            left, right, d, input_precision, max_num_imprecise_acc
        )
        rows = flags(a).data.any(-1, keepdims=True)
        columns = flags(b).data.any(-2, keepdims=True)
        return mark(result, rows | columns | flags(d).data)

    def create_gather(self, src, indices, axis):
        result = super().create_gather(src, indices, axis)
        moved = np.take_along_axis(flags(src).data, indices.data, axis)
        return mark(result, moved | flags(indices).data)

    def create_masked_load(self, ptrs, mask, other, *hints):
        mask, kind = _handle(mask), ptrs.get_element_ty()
        real = self._access("load", ptrs, mask)
        fill = _undefined_value(real.shape, kind) if other is None else other
        number = stock._get_np_dtype(kind)
        data = machine.load(real, _full(mask, real), fill.data, number)
        lanes = np.True_ if other is None else flags(fill).data
        result = TensorHandle(data, kind)
        return mark(result, np.broadcast_to(~mask.data & lanes, real.shape))

    def create_masked_store(self, ptrs, value, mask, *hints):
        mask = _handle(mask)
        real = self._access("store", ptrs, mask)
        _check_defined("the stored value", value, mask)
        _check_lanes_agree(real, value, mask)
        full = np.broadcast_to(value.data, real.shape)
        machine.store(real, np.ascontiguousarray(full), _full(mask, real))

    def create_atomic_rmw(self, op, ptr, value, mask, *order):
        if _is_bf16(value):
            raise NotImplementedError("the strict mode has no atomics in bfloat16")
        _check_defined("the value of an atomic operation", value, mask)
        real = TensorHandle(self._access("atomic", ptr, mask), ptr.dtype)
        return super().create_atomic_rmw(op, real, value, mask, *order)

    def create_atomic_cas(self, ptr, compare, value, *order):
        mask = TensorHandle(np.ones(ptr.data.shape, bool), tl.int1)
        _check_defined("the value of an atomic operation", value, mask)
        real = TensorHandle(self._access("atomic", ptr, mask), ptr.dtype)
        return super().create_atomic_cas(real, compare, value, *order)

    def _access(self, kind: str, ptrs: TensorHandle, mask: TensorHandle) -> np.ndarray:
        """The real addresses of an access, checked."""
        everywhere = TensorHandle(np.ones(1, bool), tl.int1)
        _check_defined(f"the mask of a {kind}", mask, everywhere)
        _check_defined(f"an address of a {kind}", ptrs, mask)
        size = max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
        return self.memory.access(kind, ptrs.data, mask.data, size, self.who)


SAME_SHAPE = "idiv ashr umulhi fabs erf rsqrt bitcast addptr"
REARRANGED = "reshape trans expand_dims broadcast cat join split splat unsplat"
for names, wrapper in ((SAME_SHAPE, elementwise), (REARRANGED, moving)):
    for name in names.split():
        method = getattr(StrictBuilder, f"create_{name}")
        setattr(StrictBuilder, f"create_{name}", wrapper(method))


def _handle(mask: TensorHandle | np.ndarray) -> TensorHandle:
    """A mask as a handle; block pointers and descriptors give bare arrays."""
    return mask if isinstance(mask, TensorHandle) else TensorHandle(mask, tl.int1)


def _full(mask: TensorHandle, like: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(mask.data, like.shape))


def _undefined_value(shape: tuple[int, ...], kind: tl.dtype) -> TensorHandle:
    """What a lane without `other` gets: NaN, or 0 for integers (they are tracked)."""
    number = stock._get_np_dtype(kind)
    if kind.scalar == tl.bfloat16:
        return TensorHandle(np.full(shape, 0x7FC0, number), kind)
    value = np.nan if number.kind == "f" else 0
    return TensorHandle(np.full(shape, value, number), kind)


def _check_defined(what: str, value: TensorHandle, mask: TensorHandle) -> None:
    lanes = undefined_lanes(value)
    if lanes is None:
        return
    bad = np.broadcast_to(lanes, np.broadcast(lanes, mask.data).shape) & mask.data
    if bad.any():
        raise Undefined(
            f"{what} is undefined in {int(bad.sum())} of {bad.size} lanes, first in"
            f" lane {int(np.argmax(bad))}: it hangs on a masked load without `other=`;"
            " say there what the lanes that are switched off shall hold"
        )


def _check_lanes_agree(real, value, mask) -> None:
    """Lanes of one store that hit one address must write the same."""
    on = np.broadcast_to(mask.data, real.shape)
    addresses, values = real[on], np.broadcast_to(value.data, real.shape)[on]
    unique, first, which = np.unique(addresses, return_index=True, return_inverse=True)
    if len(unique) == len(addresses):
        return
    different = values[first][which.reshape(-1)].tobytes() != values.tobytes()
    if different:
        raise Race(
            f"{len(addresses)} lanes of one store write {len(unique)} different"
            " elements: lanes that hit the same one write different values"
        )


def _check_overflow(lhs: TensorHandle, rhs: TensorHandle, op) -> None:
    kind = lhs.dtype.scalar
    if not kind.is_int_signed() or kind.primitive_bitwidth in (1, 64):
        return
    wide = op(lhs.data.astype(np.int64), rhs.data.astype(np.int64))
    most = 2 ** (kind.primitive_bitwidth - 1)
    bad = (wide < -most) | (wide >= most)
    for handle in (lhs, rhs):
        bad = bad & ~flags(handle).data
    if not bad.any():
        return
    lane = int(np.argmax(bad))
    left, right = (np.broadcast_to(h.data, bad.shape).flat[lane] for h in (lhs, rhs))
    raise Overflow(
        f"{kind} overflow in {int(bad.sum())} of {bad.size} lanes: {op.__name__} of"
        f" {left} and {right} is {wide.flat[lane]} in lane {lane}, which {kind} cannot"
        " hold; widen one side with .to(tl.int64) first"
    )


def _min_dot_size(lhs_type, rhs_type) -> tuple[int, int, int]:
    """(M, N, K) below which a GPU has no instruction, as the compiler demands it."""
    return (1, 1, 32) if lhs_type.scalar.primitive_bitwidth == 8 else (1, 1, 16)
