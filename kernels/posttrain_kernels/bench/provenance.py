"""Where a number comes from: date, command, GPU, driver, versions."""

import os
import platform
import re
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch
import triton

from posttrain_kernels.bench.contestants import LIBRARIES, installed


def provenance(arguments: Sequence[str], seed: int) -> dict:
    """Of this run; in the form of all files in results/. The inputs are random."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["python", "-m", "posttrain_kernels.bench", *arguments]),
        "seed": seed,
        "hardware": hardware(),
        "versions": versions(),
        "data": [],
    }


def hardware() -> dict:
    """GPU and driver, processor; nothing that tells whose machine it is."""
    return {
        "gpu": torch.cuda.get_device_name(),
        "gpu_memory_gib": round(torch.cuda.mem_get_info()[1] / 2**30, 1),
        "driver": driver(),
        "cpu": _processor(),
        "cores": os.cpu_count(),
    }


def versions() -> dict:
    """Of Python, PyTorch, its CUDA, Triton and every library that takes part."""
    libraries = {LIBRARIES[name]: installed(name) for name in LIBRARIES}
    return {
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        **{name: version for name, version in libraries.items() if version},
    }


def driver() -> str | None:
    """The version of NVIDIA's driver; None where nvidia-smi does not answer."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0].strip() if done.stdout.strip() else None


def slug(gpu: str) -> str:
    """The name of a GPU in that of a file: "NVIDIA H200" is h200."""
    words = re.findall(r"[a-z0-9]+", gpu.lower())
    return "-".join(w for w in words if w not in ("nvidia", "tesla", "geforce"))


def _processor() -> str:
    """The model of the processor, as far as the system says."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
