"""Where the library keeps what it downloads or builds."""

import os
from pathlib import Path


def folder(kind: str) -> Path:
    """`$POSTTRAIN_CACHE/<kind>`, or `~/.cache/posttrain/<kind>`."""
    chosen = os.environ.get("POSTTRAIN_CACHE")
    root = Path(chosen) if chosen else Path.home() / ".cache" / "posttrain"
    return root / kind
