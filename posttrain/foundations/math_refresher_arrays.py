"""Products of arrays, written as the loops that they stand for.

Slow on purpose: what `@` and `einsum` do in one call is spelled out here, one
multiplication at a time, so that you can follow it with a pencil.
"""

from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def cosine(a: Array, b: Array) -> Array:
    """Cosine of the angle between vectors (..., D): a·b / (|a| |b|), in -1 ... 1.

    Returns (...). Raises ValueError for a vector of length 0, which has no direction.
    """
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    if not np.all(lengths > 0):
        raise ValueError("a vector of length 0 has no direction, hence no cosine")
    return (a * b).sum(axis=-1) / lengths


def matmul_by_loops(A: Array, B: Array) -> Array:
    """C = A B by the definition C_mn = Σ_k A_mk B_kn: (M, K), (K, N) -> (M, N).

    Raises ValueError if the inner sizes differ.
    """
    (M, K), (K_of_B, N) = A.shape, B.shape
    if K_of_B != K:
        raise ValueError(
            f"{A.shape} @ {B.shape}: the inner sizes {K} and {K_of_B} must be equal"
        )
    C = np.zeros((M, N), dtype=np.result_type(A, B))
    for m in range(M):
        for n in range(N):
            for k in range(K):
                C[m, n] += A[m, k] * B[k, n]
    return C


def einsum_by_loops(spec: str, *arrays: Array) -> Array:
    """`np.einsum(spec, *arrays)` as loops, for a spec with an arrow: "btc,cd->btd".

    One loop for each letter. At each step the entries that the letters point at are
    multiplied, and added to the entry of the output that the letters after the arrow
    point at: so a letter that is missing there is summed over.
    Raises ValueError for a letter of two sizes, or one that only the output has.
    """
    inputs, output = spec.replace(" ", "").split("->")
    terms = inputs.split(",")
    sizes = letter_sizes(terms, arrays, output)
    result = np.zeros([sizes[c] for c in output], dtype=np.result_type(*arrays))
    for index in product(*(range(size) for size in sizes.values())):
        at = dict(zip(sizes, index, strict=True))
        entries = (
            array[tuple(at[c] for c in term)]
            for term, array in zip(terms, arrays, strict=True)
        )
        result[tuple(at[c] for c in output)] += prod(entries)
    return result


def letter_sizes(terms: list[str], arrays: tuple, output: str) -> dict[str, int]:
    """The size of each letter of an einsum, from the shapes of its arrays."""
    sizes: dict[str, int] = {}
    for term, array in zip(terms, arrays, strict=True):
        if len(term) != array.ndim:
            raise ValueError(f"{term!r} names {len(term)} axes of {array.shape}")
        for letter, size in zip(term, array.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"{letter!r} is {sizes[letter]} and also {size}")
    unknown = set(output) - set(sizes)
    if unknown:
        raise ValueError(f"{min(unknown)!r} stands after the arrow only")
    return sizes


def low_rank(A: Array, r: int) -> tuple[Array, Array]:
    """The factors (M, r) and (r, N) whose product is the nearest matrix of rank r to A.

    Nearest in the Frobenius norm: the r largest singular values are kept, and the
    squared error is the sum of the squares of the others. Raises ValueError unless
    1 <= r <= min(M, N). Source: Eckart and Young 1936.
    """
    if not 1 <= r <= min(A.shape):
        raise ValueError(f"rank r={r} must be 1 ... {min(A.shape)} for {A.shape}")
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    return U[:, :r] * s[:r], Vt[:r]
