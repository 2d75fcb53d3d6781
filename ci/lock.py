"""Freezes what the direct needs in `DIRECT` need in turn: `make lock`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIRECT = ("requirements.txt", "requirements-nodeps.txt")
HEADER = "# What the packages of requirements.txt need in turn: `make lock`.\n"
# Builds of torch differ by machine and bring these themselves, in fitting versions.
LEFT_OUT = re.compile(r"(torch|triton|nvidia-.*|cuda-.*|posttrain)==", re.IGNORECASE)


def frozen() -> str:
    """The text of constraints.txt for the packages installed now."""
    command = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    direct = direct_names()
    lines = [
        line
        for line in done.stdout.splitlines()
        if "==" in line and not LEFT_OUT.match(line) and _name(line) not in direct
    ]
    return HEADER + "\n".join(lines) + "\n"


def direct_names() -> set[str]:
    """The packages that we name ourselves."""
    return {_name(line) for name in DIRECT for line in (ROOT / name).open()}


def _name(line: str) -> str:
    return re.split(r"[=<>\[ ]", line.strip(), maxsplit=1)[0].lower().replace("_", "-")


if __name__ == "__main__":
    (ROOT / "constraints.txt").write_text(frozen())
    print("wrote constraints.txt")
