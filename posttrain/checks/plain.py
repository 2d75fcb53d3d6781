"""Plain data: all that may pass between an answer and its judge.

None, bool, int, float, str, bytes, list, tuple, dict and dense tensors, nested at
will. The wire form is JSON: tensors travel as bytes + dtype + shape. It is never
pickle, because unpickling what an untrusted answer returned would run its code.
"""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import torch

MAX_DEPTH = 20
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.complex64,
        torch.complex128,
    )
}


def encode(value: Any) -> str:
    """The wire form of `value`. Raises TypeError where it is not plain data."""
    return json.dumps(_encode(value, "the value", 0))


def decode(text: str) -> Any:
    """The value whose wire form is `text`: fresh objects, nothing shared."""
    return _decode(json.loads(text))


def copy(value: Any) -> Any:
    """A deep copy that shares no storage with `value`; refuses what is not plain."""
    return decode(encode(value))


def _encode(value: Any, where: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise TypeError(f"{where} is nested deeper than {MAX_DEPTH} levels")
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if type(value) is bytes:
        return {"bytes": base64.b64encode(value).decode()}
    if type(value) in (list, tuple):
        items = [_encode(v, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]
        return {type(value).__name__: items}
    if type(value) is dict:
        pairs = [
            [
                _encode(k, f"a key of {where}", depth + 1),
                _encode(v, f"{where}[{k!r}]", depth + 1),
            ]
            for k, v in value.items()
        ]
        return {"dict": pairs}
    if isinstance(value, torch.Tensor):
        return {"tensor": _encode_tensor(value, where)}
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise TypeError(
        f"{where} is a {kind}; an answer returns tensors, numbers, strings, "
        "or lists, tuples and dicts of them"
    )


def _encode_tensor(tensor: torch.Tensor, where: str) -> list:
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in DTYPES or tensor.layout is not torch.strided or tensor.is_meta:
        raise TypeError(
            f"{where} is a {tensor.layout} tensor of {tensor.dtype} on {tensor.device}"
        )
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().reshape(-1)
    # a lone element may keep the stride of the tensor it was taken from
    flat = flat.clone(memory_format=torch.contiguous_format)
    raw = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return [name, list(tensor.shape), base64.b64encode(raw).decode()]


def _decode(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "float":
        return float(content)
    if kind == "bytes":
        return base64.b64decode(content)
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](_decode(v) for v in content)
    if kind == "dict":
        return {_decode(k): _decode(v) for k, v in content}
    if kind == "tensor":
        return _decode_tensor(*content)
    raise ValueError(f"{kind!r} is no kind of plain data")


def _decode_tensor(name: str, shape: list[int], data: str) -> torch.Tensor:
    dtype, raw = DTYPES[name], bytearray(base64.b64decode(data))
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"{len(raw)} bytes are no {name} tensor of shape {shape}")
    if not raw:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(raw, dtype=dtype).reshape(shape)
