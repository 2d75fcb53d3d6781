"""Where a measured number comes from: hardware, versions, data."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import posttrain
from ci.processes import cores

# Reported where they were used: a run that never imported one does not depend on it.
OTHERS = ("tokenizers", "tiktoken", "transformers")


def hardware() -> dict:
    """Processor, cores, memory and GPU; nothing that tells whose machine it is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    torch = sys.modules.get("torch")  # what never imported it has used no GPU
    has_gpu = torch is not None and torch.cuda.is_available()
    gpu = torch.cuda.get_device_name() if has_gpu else None
    return {
        "cpu": _processor(),
        "cores": cores(),
        "memory_gib": round(memory, 1),
        "gpu": gpu,
    }


def versions() -> dict:
    """Of Python and of the packages that a number may depend on."""
    used = [name for name in OTHERS if name in sys.modules]
    return {
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "numpy": metadata.version("numpy"),
        **{name: metadata.version(name) for name in used},
        "posttrain": posttrain.__version__,
    }


def watch_data() -> list[dict]:
    """A list that fills with each corpus that `posttrain.data.load` returns.

    Called before the experiment is imported, so that it imports the watched `load`.
    """
    from posttrain import data

    loaded, load = [], data.load

    def watched(name: str) -> data.Corpus:
        corpus = load(name)
        entry = {"name": name, "source": corpus.source, "sha256": corpus.sha256}
        if entry not in loaded:
            loaded.append(entry)
        return corpus

    data.load = watched
    return loaded


def _processor() -> str:
    """The model of the processor, as far as the system says."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
