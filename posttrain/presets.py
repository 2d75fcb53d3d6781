"""The presets of an experiment: the same work at sizes that suit a machine.

`ci` fits the book's own build, `cpu` a laptop's core, `t4` and `h200` those GPUs.
"""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def preset_named(presets: Mapping[str, T], name: str) -> T:
    """`presets[name]`. Raises ValueError, with the known names, where there is none."""
    if name not in presets:
        known = ", ".join(presets)
        raise ValueError(f"unknown preset {name!r}; known presets: {known}")
    return presets[name]
