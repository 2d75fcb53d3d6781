"""The two rules behind most shape errors: broadcasting and the matrix product.

Both work on shapes alone, as tuples, so you can ask "what would happen?" without an
array at hand. Errors name the dimension that does not fit.
"""

from posttrain.foundations.shape_validator import Shape, ShapeError


def broadcast_shape(*shapes: Shape) -> Shape:
    """The common shape that element-wise operations give arrays of these shapes.

    Shapes are aligned at the *right*; a missing dimension counts as 1; in each place
    the sizes must be equal or 1, and a 1 is stretched.
    Raises ShapeError where two sizes differ and neither is 1.
    """
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    result: list[int] = []
    for axis in range(-1, -rank - 1, -1):  # from the right, as shapes are aligned
        wide = sorted({shape[axis] for shape in padded} - {1})
        if len(wide) > 1:
            raise ShapeError(
                f"{' and '.join(map(str, shapes))} do not broadcast: dimension {axis},"
                f" counted from the right, is {wide[0]} in one and {wide[1]} in"
                " another, and neither is 1"
            )
        result.insert(0, wide[0] if wide else 1)
    return tuple(result)


def explain_broadcast(a: Shape, b: Shape) -> str:
    """How two shapes meet, as lines of text: aligned, stretched, and the result.

    Raises ShapeError where they do not fit.
    """
    result = broadcast_shape(a, b)
    width = max((len(str(size)) for size in result), default=1)
    lines = []
    for shape in (a, b):
        missing = len(result) - len(shape)
        cells = [""] * missing + [str(size) for size in shape]
        stretched = [
            f"{axis - len(result)} (x{size})"
            for axis, size in enumerate(result)
            if size != 1 and (axis < missing or shape[axis - missing] == 1)
        ]
        note = f"   repeated along {', '.join(stretched)}" if stretched else ""
        lines.append("  " + "  ".join(f"{c:>{width}}" for c in cells) + note)
    lines.append("= " + "  ".join(f"{size:>{width}}" for size in result))
    return "\n".join(lines)


def matmul_shape(a: Shape, b: Shape) -> Shape:
    """The shape of a @ b: (..., M, K) @ (..., K, N) -> (..., M, N).

    Leading dimensions broadcast. A vector (K,) is a row on the left and a column on the
    right, and that dimension is gone afterwards. Raises ShapeError where inner sizes
    differ, leading ones do not broadcast, or an operand has no dimension.
    """
    if not a or not b:
        raise ShapeError(f"{a} @ {b}: a number has no matrix product, use `*`")
    left = a if len(a) > 1 else (1, *a)
    right = b if len(b) > 1 else (*b, 1)
    if left[-1] != right[-2]:
        raise ShapeError(
            f"{a} @ {b}: the last dimension of the left, {left[-1]}, must equal the"
            f" {'last but one' if len(b) > 1 else 'only one'} of the right, {right[-2]}"
        )
    rows = left[-2:-1] if len(a) > 1 else ()
    columns = right[-1:] if len(b) > 1 else ()
    return (*broadcast_shape(left[:-2], right[:-2]), *rows, *columns)
