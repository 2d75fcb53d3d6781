"""The compile-only mode: what a kernel becomes on a GPU that you need not have.

The triton wheel carries the assembler and the disassembler, so nothing else is needed:
no GPU, no driver, no CUDA toolkit.
"""

import contextlib
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from posttrain_kernels import mode

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


@dataclass(frozen=True)
class Chip:
    """The limits of one multiprocessor. Source: CUDA C++ Programming Guide, 20.2."""

    shared_per_block: int  # bytes one program may use
    shared: int  # bytes of all its programs
    warps: int  # warps that may wait there at a time
    registers: int = 65536  # of 32 bits


CHIPS = {
    75: Chip(shared_per_block=64 << 10, shared=64 << 10, warps=32),  # T4
    80: Chip(shared_per_block=163 << 10, shared=164 << 10, warps=64),  # A100
    86: Chip(shared_per_block=99 << 10, shared=100 << 10, warps=48),  # RTX 3090
    89: Chip(shared_per_block=99 << 10, shared=100 << 10, warps=48),  # L4, RTX 4090
    90: Chip(shared_per_block=227 << 10, shared=228 << 10, warps=64),  # H100, H200
}


@dataclass(frozen=True)
class Launch:
    """What one launch was compiled to."""

    kernel: str
    arch: int  # 90 stands for sm_90
    grid: tuple[int, ...]  # programs along each axis
    num_warps: int  # warps of one program
    registers: int  # of 32 bits, per thread; at most 255
    shared: int  # bytes of shared memory per program
    spills: int  # instructions that load or store a register that did not fit
    instructions: Counter = field(repr=False)  # machine instruction -> how often
    loads: Counter = field(repr=False)  # bits per thread -> loads from global memory
    stores: Counter = field(repr=False)  # bits per thread -> stores to global memory
    sass: str = field(repr=False)  # the machine code as text

    @property
    def fits(self) -> bool:
        """Is there enough shared memory for one program?"""
        return self.shared <= CHIPS[self.arch].shared_per_block

    @property
    def tensor_cores(self) -> bool:
        """Does it multiply matrices with tensor cores?"""
        return any(name.endswith("MMA") for name in self.instructions)

    @property
    def warps_at_a_time(self) -> int:
        """Warps that one multiprocessor can hold; more of them hide more latency."""
        chip = CHIPS[self.arch]
        per_warp = -(-self.registers * 32 // 256) * 256  # given out in steps of 256
        programs = min(
            chip.registers // (per_warp * self.num_warps),
            chip.shared // (self.shared + 1024),  # 1 KiB each for the system
            chip.warps // self.num_warps,
        )
        return programs * self.num_warps

    def __str__(self) -> str:
        matrix = sorted(n for n in self.instructions if n.endswith(("MMA", "LDSM")))
        widths = [
            f"{what} "
            + " ".join(
                f"{bits}x{n}" for bits, n in sorted(counts.items(), reverse=True)
            )
            for what, counts in (("loads", self.loads), ("stores", self.stores))
        ]
        return (
            f"{self.kernel:34} sm_{self.arch} {self.num_warps:2} warps"
            f" {self.registers:3} registers {self.spills:3} spills"
            f" {self.shared:6} B shared{'' if self.fits else ' (too much)'}"
            f" {self.warps_at_a_time:2} warps at a time; {'; '.join(widths)};"
            f" {' '.join(matrix) or 'no tensor cores'}"
        )


@contextlib.contextmanager
def compiled(arch: int = 90) -> Iterator[list[Launch]]:
    """Compile the kernels launched in this block for a GPU, and run none of them.

        with lab.compiled(arch=90) as log:
            softmax(torch.randn(8, 4096, dtype=torch.bfloat16))  # a CPU tensor
        for launch in log:
            print(launch)

    arch: 75 (T4), 80 (A100), 86, 89 or 90 (H100). The log gets one Launch for each
    kernel compiled; a launch that needs no new machine code adds nothing. Dtypes, and
    which pointers, sizes and strides are multiples of 16, decide what is compiled, as
    on a GPU; the results of the wrappers hold no numbers. Takes 0.2 to 4 s a kernel.
    Raises ValueError for an arch that it has no limits of.
    """
    if arch not in CHIPS:
        known = ", ".join(map(str, CHIPS))
        raise ValueError(f"arch={arch} is unknown; use one of {known}")
    log: list[Launch] = []
    seen = set()
    run = JITFunction.run

    def compile_only(kernel, *args, grid, warmup=False, **kwargs):
        binary = run(kernel, *args, grid=grid, warmup=True, **kwargs)
        if binary.hash not in seen:
            seen.add(binary.hash)
            size = _grid(kernel, grid, args, kwargs)
            log.append(_inspect(kernel.__name__, arch, size, binary))
        return binary

    with mode.entered("compiled"), _driver(_NoDevice(arch)):
        JITFunction.run = compile_only
        try:
            yield log
        finally:
            JITFunction.run = run


class _NoDevice:
    """As much of a driver as the compiler asks for."""

    def __init__(self, arch: int):
        self.target = GPUTarget("cuda", arch, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch  # kernels are kept by device: each arch is one

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@contextlib.contextmanager
def _driver(replacement: _NoDevice) -> Iterator[None]:
    before = driver._active
    driver.set_active(replacement)
    try:
        yield
    finally:
        driver._active = before


def _grid(kernel: JITFunction, grid, args, kwargs) -> tuple[int, ...]:
    if callable(grid):
        names = [parameter.name for parameter in kernel.params]
        grid = grid(dict(zip(names, args, strict=False)) | kwargs)
    return tuple(grid)


def _inspect(name: str, arch: int, grid: tuple[int, ...], binary) -> Launch:
    """Read the machine code of a compiled kernel."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(binary.asm["cubin"])
        usage = _tool("cuobjdump", "-res-usage", file)
        sass = _tool("nvdisasm", "-c", file)
    found = re.findall(
        r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", sass, re.M
    )
    instructions = Counter(full.split(".")[0] for full in found)
    return Launch(
        kernel=name,
        arch=arch,
        grid=grid,
        num_warps=binary.metadata.num_warps,
        registers=int(re.search(r"\bREG:(\d+)", usage).group(1)),
        shared=binary.metadata.shared,
        spills=instructions["LDL"] + instructions["STL"],
        instructions=instructions,
        loads=Counter(_bits(f) for f in found if f.startswith(("LDG.", "LDGSTS."))),
        stores=Counter(_bits(f) for f in found if f.startswith("STG.")),
        sass=sass,
    )


def _bits(instruction: str) -> int:
    """How much one thread moves: LDG.E.128 -> 128, LDG.E.U16 -> 16, LDG.E -> 32."""
    parts = set(instruction.split("."))
    for bits in (128, 64, 16, 8):
        if parts & {f"{bits}", f"U{bits}", f"S{bits}"}:
            return bits
    return 32


def _tool(name: str, *arguments) -> str:
    command = [TOOLS / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
