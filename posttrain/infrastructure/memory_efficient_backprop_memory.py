"""What a head takes: bytes counted from outside, and the ledger that explains them.

`PeakMemory` sees every tensor that PyTorch makes, forward and backward, and when its
storage goes away. On the meta device tensors have shapes and no numbers, so the full
size of the published challenge is counted on a laptop in a fraction of a second.

The ledger says what is alive at the moments that can be the peak. Both count what a
step makes beside hidden states and weight; the tests hold them equal.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from posttrain.infrastructure.memory_efficient_backprop import (
    SLICE,
    chunked_rows,
    chunked_sum,
    chunks,
)
from posttrain.infrastructure.memory_efficient_backprop_losses import (
    cross_entropy,
    mean_weights,
)
from posttrain.infrastructure.memory_efficient_backprop_vocabulary import (
    tiled_cross_entropy,
)

GIB = 2**30
FULL = {"N": 4 * 4096, "d": 4096, "V": 128 * 1024}  # of the published challenge

# hidden (N, d), weight (V, d), targets (N,), rows of a chunk -> the mean loss
Head = Callable[[Tensor, Tensor, Tensor, int], Tensor]


class PeakMemory(TorchDispatchMode):
    """Bytes of the tensors made inside that are alive: `now`, and their `peak`.

    `trace` holds `now` after each operator, `largest` is the largest storage of all.
    Each storage counts once, however many tensors share it. What an operator uses
    inside and gives back before it returns is not seen, nor is an allocator's waste.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = self.largest = 0
        self.trace: list[int] = []
        self._known = weakref.WeakSet()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        for given in args:
            if isinstance(given, Tensor):  # made before: an in-place result is not new
                self._known.add(given.untyped_storage())
        result = op(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(made, Tensor):
                self._note(made.untyped_storage())
        self.trace.append(self.now)
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak, self.largest = max(self.peak, self.now), max(self.largest, size)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size


def naive(hidden: Tensor, weight: Tensor, targets: Tensor, n: int) -> Tensor:
    """All logits at once; n is not used."""
    logits = F.linear(hidden, weight).float()
    return F.cross_entropy(logits, targets)


def checkpointed(hidden: Tensor, weight: Tensor, targets: Tensor, n: int) -> Tensor:
    """The naive head, its logits made again in backward; n is not used."""
    return checkpoint(naive, hidden, weight, targets, n, use_reentrant=False)


def _share(x: Tensor, weight: Tensor, targets: Tensor, N: int) -> Tensor:
    logits = F.linear(x, weight).float()
    return F.cross_entropy(logits, targets, reduction="sum") / N


def looped(hidden: Tensor, weight: Tensor, targets: Tensor, n: int) -> Tensor:
    """A loop over chunks, without more: autograd keeps what each chunk will need."""
    return sum(
        _share(hidden[here], weight, targets[here], len(hidden))
        for here in chunks(len(hidden), n)
    )


def looped_checkpoints(
    hidden: Tensor, weight: Tensor, targets: Tensor, n: int
) -> Tensor:
    """The loop with a checkpoint around each chunk: the recipe without a Function."""
    return sum(
        checkpoint(
            _share,
            *(hidden[here], weight, targets[here], len(hidden)),
            use_reentrant=False,
        )
        for here in chunks(len(hidden), n)
    )


def by_sum(hidden: Tensor, weight: Tensor, targets: Tensor, n: int) -> Tensor:
    """`chunked_sum`: gradients in the forward pass."""
    share = mean_weights(targets)
    return chunked_sum(
        cross_entropy, hidden, weight, targets, row_weights=share, chunk_rows=n
    )


def by_rows(hidden: Tensor, weight: Tensor, targets: Tensor, n: int) -> Tensor:
    """`chunked_rows`: each chunk again in the backward pass."""
    return chunked_rows(cross_entropy, hidden, weight, targets, chunk_rows=n).mean()


def by_words(hidden: Tensor, weight: Tensor, targets: Tensor, n: int) -> Tensor:
    """`tiled_cross_entropy`: n rows by 4096 words."""
    return tiled_cross_entropy(hidden, weight, targets, rows=n, words=4096).mean()


HEADS: dict[str, Head] = {
    "naive": naive,
    "checkpointed": checkpointed,
    "looped": looped,
    "looped, checkpointed": looped_checkpoints,
    "chunked_sum": by_sum,
    "chunked_rows": by_rows,
    "words": by_words,
}


def step_memory(
    head: Head,
    N: int,
    d: int,
    V: int,
    n: int,
    dtype: torch.dtype = torch.bfloat16,
    trained: bool = True,
    device: str = "meta",
) -> PeakMemory:
    """What one forward and backward pass of a head makes. trained: weight needs dW."""
    hidden = torch.zeros(N, d, dtype=dtype, device=device).requires_grad_()
    weight = torch.zeros(V, d, dtype=dtype, device=device).requires_grad_(trained)
    targets = torch.zeros(N, dtype=torch.int64, device=device)
    with PeakMemory() as memory:
        head(hidden, weight, targets, n).backward()
    return memory


def ledger(
    head: str, N: int, d: int, V: int, n: int, size: int = 2, trained: bool = True
) -> dict[str, dict[str, int]]:
    """What is alive at each moment that can be the peak: bytes by name.

    head: "naive", "chunked_sum" or "chunked_rows". size: bytes of a number of hidden,
    weight and logits; the loss works in float32. Vectors of N numbers are left out.
    Raises ValueError for another head.
    """
    n, W = min(n, N), V * d * trained
    if head == "naive":
        tables = ("log-softmax", "gradient at it", "gradient at the logits")
        products = {"G": size * N * V, "dX": size * N * d, "dW": size * W}
        return {"the loss": {x: 4 * N * V for x in tables}, "the products": products}
    if head not in ("chunked_sum", "chunked_rows"):
        raise ValueError(f"{head!r}: use 'naive', 'chunked_sum' or 'chunked_rows'")
    sums = {"dX": size * N * d, "dW in float32": 4 * W}
    piece = max(n, min(SLICE, V) if trained else 0) * d * size
    moments = {
        "a chunk's loss": sums
        | {"logits of the chunk": size * n * V, "loss, forward, back": 12 * n * V},
        "a chunk's products": sums | {"G": size * n * V, "a piece of dX or dW": piece},
        "the end": sums | {"dW": size * W * (size < 4)},
    }
    if head == "chunked_sum":
        both = {"dX": size * N * d, "dW": size * W}
        moments["backward"] = both | {f"{x}, scaled": y for x, y in both.items()}
    return moments


def ledger_peak(head: str, *shape: int, **options) -> int:
    """Bytes at the worst moment of a `ledger`."""
    return max(
        sum(alive.values()) for alive in ledger(head, *shape, **options).values()
    )
