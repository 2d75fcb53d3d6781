"""Where two pieces of plain data differ: the first place, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch


def difference(
    came: Any, due: Any, tolerance: Mapping[str, float], where: str = ""
) -> str | None:
    """The first difference in words, or None when `came` is as good as `due`.

    Numbers may differ by `tolerance[dtype] * max(1, largest |due|)`; NaN equals NaN;
    shapes, dtypes, strings, booleans and integers must be equal; a list and a tuple
    of equal items are equal.
    """
    at = f"{where}: " if where else ""
    if isinstance(due, torch.Tensor):
        if not isinstance(came, torch.Tensor):
            return f"{at}{brief(came)}, due a tensor of shape {tuple(due.shape)}"
        return _tensor_difference(came, due, tolerance, at)
    if isinstance(due, (list, tuple)):
        return _sequence_difference(came, due, tolerance, where)
    if isinstance(due, dict):
        return _dict_difference(came, due, tolerance, where)
    if isinstance(due, float) and type(came) in (int, float):
        due_tensor = torch.tensor(due, dtype=torch.float64)
        came_tensor = torch.tensor(float(came), dtype=torch.float64)
        if _tensor_difference(came_tensor, due_tensor, tolerance, "") is None:
            return None
    elif type(came) is type(due) and came == due:
        return None
    return f"{at}{brief(came)}, due {brief(due)}"


def brief(value: Any, limit: int = 400) -> str:
    """`value` as text, cut to about `limit` characters; tensors with their shape."""
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        head = f"{dtype} tensor of shape {tuple(value.shape)}"
        if value.numel() > 24:
            return head
        digits = value.double() if value.is_floating_point() else value
        return f"{head}: {_rounded(digits.tolist())}"
    text = repr(_rounded(value))
    return text if len(text) <= limit else text[:limit] + " ..."


def size(value: Any) -> int:
    """How much there is to read in `value`: the measure of a "small" case."""
    if isinstance(value, torch.Tensor):
        return value.numel()
    if isinstance(value, (list, tuple)):
        return sum(map(size, value))
    if isinstance(value, dict):
        return sum(map(size, value.values()))
    return 1


def _tensor_difference(
    came: torch.Tensor, due: torch.Tensor, tolerance: Mapping[str, float], at: str
) -> str | None:
    if came.shape != due.shape:
        return f"{at}shape {tuple(came.shape)}, due {tuple(due.shape)}"
    if came.dtype != due.dtype:
        return f"{at}dtype {came.dtype}, due {due.dtype}"
    if not due.numel():
        return None
    bad = _wrong_places(came, due, tolerance)
    if not bad.any():
        return None
    index = tuple(bad.nonzero()[0].tolist())
    place = f" at index {list(index)}" if index else ""
    share = f"{int(bad.sum())} of {due.numel()} values differ; first"
    return f"{at}{share}{place}: came {_number(came[index])}, due {_number(due[index])}"


def _wrong_places(
    came: torch.Tensor, due: torch.Tensor, tolerance: Mapping[str, float]
) -> torch.Tensor:
    if not due.is_floating_point():
        return came != due
    name = str(due.dtype).removeprefix("torch.")
    came, due = came.double(), due.double()
    finite = due[due.isfinite()].abs()
    scale = max(1.0, finite.max().item()) if finite.numel() else 1.0
    equal = (came == due) | (came.isnan() & due.isnan())  # inf == inf, NaN is NaN
    near = (came - due).abs() <= tolerance[name] * scale
    return ~(equal | near)


def _sequence_difference(came, due, tolerance, where) -> str | None:
    at = f"{where}: " if where else ""
    if not isinstance(came, (list, tuple)):
        return f"{at}{brief(came)}, due {len(due)} values"
    if len(came) != len(due):
        return f"{at}{len(came)} values, due {len(due)}"
    for i, (a, b) in enumerate(zip(came, due, strict=True)):
        found = difference(a, b, tolerance, f"{where}[{i}]")
        if found:
            return found
    return None


def _dict_difference(came, due, tolerance, where) -> str | None:
    at = f"{where}: " if where else ""
    if not isinstance(came, dict):
        return f"{at}{brief(came)}, due a dict with keys {list(due)}"
    if came.keys() != due.keys():
        return f"{at}keys {sorted(came)}, due {sorted(due)}"
    for key in due:
        label = f"{where}.{key}" if where else str(key)
        found = difference(came[key], due[key], tolerance, label)
        if found:
            return found
    return None


def _number(value: torch.Tensor) -> str:
    return repr(_rounded(value.item()))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else value
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return value
