"""The memory of one launch: every tensor argument in an address space of its own.

A pointer that the kernel sees is no real address. Argument i begins in the middle of
a span of 2^44 bytes that nobody else lives in, so whatever is added to a pointer, it is
known which tensor was meant, and an access is translated only after it was found inside
that tensor. No mistake in a kernel can crash Python or land in a neighbour.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from posttrain_kernels.lab.violations import OutOfBounds, Race

SPAN = 1 << 44  # bytes of address space for one storage
MIDDLE = 1 << 43  # where it begins, so that negative offsets are seen as well
NOBODY, MANY, ATOMIC = 0, -1, -2  # who touched an element; programs count from 1


@dataclass
class Space:
    """One storage: the arguments that lie in it, and who has touched what."""

    arguments: list[tuple[str, Tensor]] = field(default_factory=list)
    unit: int = 0  # bytes of the smallest element; access is recorded per unit
    inside: np.ndarray | None = None  # (units,) belongs to an argument; None: all do
    writer: np.ndarray | None = None  # (units,) the program that wrote
    reader: np.ndarray | None = None  # (units,) the program that read, or MANY

    @property
    def storage(self) -> torch.UntypedStorage:
        return self.arguments[0][1].untyped_storage()

    def describe(self) -> str:
        return " / ".join(
            f"{name} (shape {tuple(t.shape)}, strides {t.stride()}, {t.dtype})"
            for name, t in self.arguments
        )

    def prepare(self) -> None:
        """Make the maps. Zeroed memory is only taken where it is touched."""
        self.unit = min(t.element_size() for _, t in self.arguments)
        units = -(-self.storage.nbytes() // self.unit)
        self.writer = np.zeros(units, np.int32)
        self.reader = np.zeros(units, np.int32)
        if any(_fills_its_storage(t) for _, t in self.arguments):
            return
        self.inside = np.zeros(units, bool)
        for _, tensor in self.arguments:
            _mark(self.inside, tensor, self.unit)


class Memory:
    """The address spaces of one launch, and the checks of each access."""

    def __init__(self, races: bool = True):
        self.spaces: list[Space] = []
        self.races = races
        self.moved = dict.fromkeys(("load", "store", "atomic"), 0)  # bytes
        self.widest = 0  # lanes of one access

    def place(self, name: str, tensor: Tensor) -> int:
        """Give a tensor argument a place; the address that the kernel gets for it."""
        if tensor.device.type != "cpu":
            raise ValueError(
                f"{name} is on {tensor.device}, and the strict mode runs on the CPU;"
                f" call {name}.cpu() first"
            )
        index = self._space_of(tensor)
        space = self.spaces[index]
        space.arguments.append((name, tensor))
        space.prepare()
        offset = tensor.storage_offset() * tensor.element_size()
        return (index + 1) * SPAN + MIDDLE + offset

    def access(
        self, kind: str, addresses: np.ndarray, mask: np.ndarray, size: int, who: int
    ) -> np.ndarray:
        """Check one access and return real addresses; lanes with mask off stay 0.

        kind: "load", "store" or "atomic". addresses: uint64 of any shape, size: bytes
        of an element, who: the program, counted from 1.
        Raises OutOfBounds or Race with the first lane that is at fault.
        """
        mask = np.broadcast_to(mask, addresses.shape)
        self.moved[kind] += int(mask.sum()) * size
        self.widest = max(self.widest, mask.size)
        real = np.zeros(addresses.shape, np.uint64)
        owners = addresses // SPAN
        for owner in sorted(set(owners[mask].tolist())):
            lanes = np.flatnonzero(mask & (owners == owner))
            offsets = addresses.reshape(-1)[lanes].astype(np.int64)
            offsets -= owner * SPAN + MIDDLE
            space = self._space(owner, kind)
            _check_bounds(space, kind, lanes, offsets, size)
            if self.races:
                _check_races(space, kind, lanes, offsets // space.unit, who)
            start = np.uint64(space.storage.data_ptr())
            real.reshape(-1)[lanes] = start + offsets.astype(np.uint64)
        return real

    def _space_of(self, tensor: Tensor) -> int:
        pointer = tensor.untyped_storage().data_ptr()
        for index, space in enumerate(self.spaces):
            if space.storage.data_ptr() == pointer:
                return index
        self.spaces.append(Space())
        return len(self.spaces) - 1

    def _space(self, owner: int, kind: str) -> Space:
        if not 1 <= owner <= len(self.spaces):
            raise OutOfBounds(
                f"{kind} at address {owner * SPAN:#x}, which comes from no tensor"
                " argument: was an index added to something that is no pointer?"
            )
        return self.spaces[owner - 1]


def _fills_its_storage(tensor: Tensor) -> bool:
    size = tensor.numel() * tensor.element_size()
    return tensor.is_contiguous() and size == tensor.untyped_storage().nbytes()


def _mark(inside: np.ndarray, tensor: Tensor, unit: int) -> None:
    """Set what the elements of a view cover, in units of its storage."""
    wide = tensor.element_size() // unit
    strides = [stride * wide for stride in tensor.stride()]
    flags = torch.from_numpy(inside)
    for shift in range(wide if tensor.numel() else 0):
        start = tensor.storage_offset() * wide + shift
        flags.as_strided(tensor.shape, strides, start).fill_(True)


def _check_bounds(space, kind, lanes, offsets, size) -> None:
    bad = (offsets < 0) | (offsets + size > space.storage.nbytes())
    if space.inside is not None:
        units = np.clip(offsets // space.unit, 0, len(space.inside) - 1)
        bad |= ~space.inside[units]
    if not bad.any():
        return
    first = int(np.argmax(bad))
    within = 0 <= offsets[first] <= space.storage.nbytes() - size
    fault = (
        "falls between the elements of a view; is the stride right?"
        if within
        else "lies outside; does the mask cut off what is past the end?"
    )
    element = offsets[first] // size
    raise OutOfBounds(
        f"{kind} out of bounds in {int(bad.sum())} of {len(lanes)} lanes of"
        f" {space.describe()}: lane {lanes[first]} goes to element {element} of the"
        f" storage (byte {offsets[first]} of {space.storage.nbytes()}), which {fault}"
    )


def _check_races(space, kind, lanes, units, who) -> None:
    writer, reader = space.writer[units], space.reader[units]
    clash = (writer != NOBODY) & (writer != who)
    if kind == "atomic":
        clash &= writer != ATOMIC
    _raise_race(space, kind, lanes, units, who, clash, writer, "written")
    if kind == "load":
        shared = (reader != NOBODY) & (reader != who)
        space.reader[units] = np.where(shared, MANY, who)
        return
    clash = (reader != NOBODY) & (reader != who)
    _raise_race(space, kind, lanes, units, who, clash, reader, "read")
    space.writer[units] = ATOMIC if kind == "atomic" else who


def _raise_race(space, kind, lanes, units, who, clash, touched, verb) -> None:
    if not clash.any():
        return
    first = int(np.argmax(clash))
    other = touched[first]
    by = {MANY: "several programs", ATOMIC: "others with atomics"}
    raise Race(
        f"{kind} by program number {who - 1} at element {units[first]} (lane"
        f" {lanes[first]}) of {space.describe()}, which was {verb} by"
        f" {by.get(int(other), f'program number {other - 1}')} in the same launch;"
        " programs run in any order: give each its own elements, or use atomics"
    )
