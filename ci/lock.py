"""Freezes what the direct needs in requirements.txt need in turn: `make lock`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# What the packages of requirements.txt need in turn: `make lock`.\n"
# Builds of torch differ by machine and bring these themselves, in fitting versions.
LEFT_OUT = re.compile(r"(torch|triton|nvidia-.*|cuda-.*|posttrain)==", re.IGNORECASE)


def frozen() -> str:
    """The text of constraints.txt for the packages installed now."""
    command = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    direct = {_name(line) for line in (ROOT / "requirements.txt").open()}
    lines = [
        line
        for line in done.stdout.splitlines()
        if "==" in line and not LEFT_OUT.match(line) and _name(line) not in direct
    ]
    return HEADER + "\n".join(lines) + "\n"


def _name(line: str) -> str:
    return re.split(r"[=<>\[ ]", line.strip(), maxsplit=1)[0].lower().replace("_", "-")


if __name__ == "__main__":
    (ROOT / "constraints.txt").write_text(frozen())
    print("wrote constraints.txt")
