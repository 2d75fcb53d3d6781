"""What attention keeps between its forward and its backward pass: formula and count.

Autograd keeps what the gradient will need. `torch.autograd.graph.saved_tensors_hooks`
sees each tensor that is kept, and fake tensors have shapes and no numbers, so that a
length of 100,000 can be counted on a laptop in the time of a few calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from posttrain.infrastructure.flash_attention_backward import tiled_attention

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def naive_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = True) -> Tensor:
    """Attention with the whole table. q, k, v, result: (B, H, T, D)."""
    T = q.shape[2]
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, H, T, T)
    if causal:
        hidden = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores.softmax(dim=-1) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool = True) -> Tensor:
    """PyTorch's own, of the same shapes."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def tiled(M: int, N: int, causal: bool = True) -> Attention:
    """`tiled_attention` with these tiles."""
    return lambda q, k, v: tiled_attention(q, k, v, causal, M, N)


def held_bytes(
    attention: Attention,
    B: int,
    H: int,
    T: int,
    D: int,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Bytes that autograd keeps for the backward pass, q, k and v among them.

    Counted on fake tensors: nothing is computed. A storage that is kept by several
    operations counts once.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage._cdata] = storage  # held, so that no address comes back
        return x

    with FakeTensorMode():
        q, k, v = (torch.empty(B, H, T, D, dtype=dtype) for _ in range(3))
        with saved_tensors_hooks(note, lambda x: x):
            attention(*(x.requires_grad_() for x in (q, k, v)))
    return sum(storage.nbytes() for storage in kept.values())


def naive_bytes(B: int, H: int, T: int, D: int, itemsize: int = 4) -> int:
    """What `naive_attention` keeps: q, k, v, the weights and the causal mask.

    The scores need not stay: softmax's gradient is a function of its result. The mask
    is one byte a pair and shared by all heads.
    """
    return B * H * (3 * T * D + T * T) * itemsize + T * T


def tiled_bytes(B: int, H: int, T: int, D: int, itemsize: int = 4) -> int:
    """What `tiled_attention` keeps: q, k, v, o, and one float32 number a row."""
    return B * H * (4 * T * D * itemsize + T * 4)
