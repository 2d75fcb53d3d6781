"""Which part of the laboratory is on: the wrappers ask, to launch on CPU tensors."""

import contextlib
from collections.abc import Iterator

import triton

_entered: list[str] = []


def active() -> str | None:
    """ "strict", "compiled", or None outside of the laboratory."""
    return _entered[-1] if _entered else None


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """Mark a part of the laboratory as on. They exclude each other.

    Raises RuntimeError inside another part, and where TRITON_INTERPRET is set: kernels
    decorated then can only be interpreted, and without the checks.
    """
    if _entered:
        raise RuntimeError(
            f"lab.{name}() inside lab.{active()}(): leave the one before you enter"
            " the other"
        )
    if triton.knobs.runtime.interpret:
        raise RuntimeError(
            "TRITON_INTERPRET is set: start Python without it, lab.strict() switches"
            " the interpreter on by itself"
        )
    _entered.append(name)
    try:
        yield
    finally:
        _entered.pop()
