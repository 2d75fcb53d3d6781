"""Say which shape an array must have, and be told in words when it has another.

    dims = check_shapes(x=(x, "B T C"), W=(W, "C D"))  # {"B": 2, "T": 5, ...}

    @shaped("B T D", x="B T C", W="C D")  # the result first, then arguments by name
    def project(x, W): ...

A pattern is a row of words, one for each dimension. A name stands for a size, the same
wherever the name appears; a number is exactly that size; `_` is any size; `...`, first
only, is any number of leading dimensions. Anything with a `.shape` will do: PyTorch,
NumPy. A check reads shapes only, never values, so it costs microseconds even on a GPU.

The first fault is named together with the place that contradicts it, and where one
swapped, missing or spare dimension explains it, with the fix.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

Shape = tuple[int, ...]


class ShapeError(ValueError):
    """A shape that contradicts a pattern. The text names it, and the fix if known."""


def check_shapes(
    known: Mapping[str, int] | None = None, /, **arrays: tuple[Any, str]
) -> dict[str, int]:
    """Hold each array against its pattern; return the size of every name.

    arrays: name = (array, pattern). known: sizes that are fixed beforehand.
    Raises ShapeError for the first array that does not fit, ValueError for a pattern
    that cannot be read.
    """
    sizes = dict(known or {})
    fit(arrays, sizes, {word: f"{word} is given as {n}" for word, n in sizes.items()})
    return sizes


def fit(
    arrays: Mapping[str, tuple[Any, str]], sizes: dict[str, int], origin: dict[str, str]
) -> None:
    """`check_shapes`, adding to `sizes` and, in words, to where each size is from."""
    for name, (array, pattern) in arrays.items():
        shape, words = tuple(array.shape), parse(pattern)
        fault = first_fault(shape, words, sizes, origin)
        if fault:
            hint = suggestion(name, shape, words, sizes)
            expected = ", ".join(words)
            raise ShapeError(
                f"{name} has shape {shape}, expected ({expected}): {fault}{hint}"
            )
        for axis, word in named_axes(shape, words):
            if word not in sizes:
                sizes[word] = shape[axis]
                where = f"dimension {axis} of {name} {shape}"
                origin[word] = f"{word} is {shape[axis]} in {where}"


def shaped(returns: str | None = None, **patterns: str) -> Callable:
    """Decorator: check the named arguments before each call, and the result after it.

    returns: pattern of the result, None for no check. An argument that is None (an
    optional mask) is skipped. Raises ValueError for a name that is no parameter.
    """

    def decorate(function: Callable) -> Callable:
        signature = inspect.signature(function)
        unknown = [name for name in patterns if name not in signature.parameters]
        if unknown:
            raise ValueError(f"{function.__name__} has no parameter {unknown[0]!r}")

        @functools.wraps(function)
        def checked(*args, **kwargs):
            given = signature.bind(*args, **kwargs).arguments
            arrays = {
                name: (given[name], pattern)
                for name, pattern in patterns.items()
                if given.get(name) is not None
            }
            sizes, origin = {}, {}
            fit(arrays, sizes, origin)
            result = function(*args, **kwargs)
            if returns is not None:
                name = f"the result of {function.__name__}"
                fit({name: (result, returns)}, sizes, origin)
            return result

        return checked

    return decorate


def parse(pattern: str) -> list[str]:
    """The words of a pattern. Raises ValueError for one that means nothing."""
    words = pattern.split()
    for position, word in enumerate(words):
        if word == "..." and position == 0:
            continue
        if not (word.isidentifier() or word.isdecimal()):
            raise ValueError(
                f"pattern {pattern!r}: {word!r} is not a name, a number, `_`, or `...`"
                " in first place"
            )
    return words


def named_axes(shape: Shape, words: list[str]) -> list[tuple[int, str]]:
    """(dimension, word) for every word that is bound to a size by its name."""
    own = [word for word in words if word != "..."]
    first = len(shape) - len(own)
    axes = [(first + i, word) for i, word in enumerate(own)]
    return [(a, word) for a, word in axes if word != "_" and not word.isdecimal()]


def first_fault(
    shape: Shape, words: list[str], sizes: Mapping[str, int], origin: Mapping[str, str]
) -> str:
    """What is wrong with a shape, in words; "" if nothing."""
    own = [word for word in words if word != "..."]
    if len(shape) < len(own) or (len(shape) > len(own) and "..." not in words):
        least = "at least " if "..." in words else ""
        return f"it has {len(shape)} dimensions, {least}{len(own)} are needed"
    first, seen = len(shape) - len(own), {}
    for axis, word in enumerate(own, start=first):
        size = shape[axis]
        if word.isdecimal() and size != int(word):
            return f"dimension {axis} is {size}, not {word}"
        if word in sizes and size != sizes[word]:
            return f"dimension {axis} is {size}, but {origin[word]}"
        if word.isidentifier() and word != "_" and seen.setdefault(word, size) != size:
            return f"{word} is {seen[word]} and, in dimension {axis}, {size}"
    return ""


def suggestion(
    name: str, shape: Shape, words: list[str], sizes: Mapping[str, int]
) -> str:
    """The one step that would make the shape fit, as code; "" if there is none."""
    origin = dict.fromkeys(sizes, "")
    name = name if name.isidentifier() else "result"
    options = [
        (f"{name}.swapaxes({i}, {j})", swapped(shape, i, j))
        for i, j in combinations(range(len(shape)), 2)
    ]
    options += [
        (f"{name}.squeeze({i})", shape[:i] + shape[i + 1 :])
        for i, size in enumerate(shape)
        if size == 1
    ]
    options += [
        (f"{name}[{':, ' * i}None]", (*shape[:i], 1, *shape[i:]))
        for i in range(len(shape) + 1)
    ]
    fixes = [f for f, new in options if not first_fault(new, words, sizes, origin)]
    return f". {fixes[0]} would fit" if fixes else ""


def swapped(shape: Shape, i: int, j: int) -> Shape:
    """The shape with dimensions i and j exchanged."""
    new = list(shape)
    new[i], new[j] = new[j], new[i]
    return tuple(new)
