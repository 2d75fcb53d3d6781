"""What the strict mode objects to."""


class Violation(AssertionError):
    """A kernel did what a GPU would let pass, or punish by a crash or a wrong number.

    The message begins with the kernel, the program and the line.
    """


class OutOfBounds(Violation):
    """A load or store leaves its tensor, or falls between the rows of a view."""


class Race(Violation):
    """Two programs touch one address, and at least one of them writes."""


class Undefined(Violation):
    """What a masked load left undefined reaches a result, an address or a mask."""


class Overflow(Violation):
    """An integer leaves the range of its type, and wraps around on a GPU."""
