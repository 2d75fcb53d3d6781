"""What every language model of the book shares: its cache, its loss, its size.

A model here is a plain `nn.Module` that later parts (sampling, fine-tuning, serving)
can use without knowing what is inside:

    model.config.V, model.config.T          vocabulary, longest sequence
    model(tokens, mask=, positions=, cache=)     (B, T) -> logits (B, T, V)
    model.hidden(tokens, ...)               (B, T) -> (B, T, C), what the read-out reads
    model.head                              the read-out, an nn.Linear
    model.new_cache(B, T_max)               an empty `Cache`

mask: boolean, True = may look, broadcastable to (B, H, T, T_k); None: causal.
positions: (T,) or (B, T); None: count on from the cache.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

IGNORE = -100  # a target that counts for nothing: padding, or a prompt


class Cache(list):
    """One `KVCache` (or what stands in for it) a layer, filled together."""

    @property
    def length(self) -> int:
        """How many tokens it holds."""
        return self[0].length


def next_token_loss(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy in nats of logits (B, T, V) against targets (B, T).

    Targets equal to IGNORE count for nothing. reduction: "mean" over the others,
    "sum", or "none" for (B, T). Computed in float32.
    """
    return F.cross_entropy(
        logits.float().transpose(1, 2),
        targets,
        ignore_index=IGNORE,
        reduction=reduction,
    )


def parameter_count(model: nn.Module, embedding: bool = True) -> int:
    """How many different numbers are trained; without the embedding on request."""
    outer = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return sum(p.numel() for p in model.parameters() if embedding or id(p) not in outer)
