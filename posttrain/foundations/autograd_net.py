"""A multilayer perceptron on tensors, trained without torch.autograd.

`forward` writes a tape: for each operation its backward function, what that has saved,
and the names of the parameters that it used. `backward` reads the tape from the end.
That is the whole of reverse mode when the graph is a chain.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from posttrain.foundations import autograd_layers as layers
from posttrain.foundations.autograd_layers import RunningStats, Saved

Tape = list[tuple[Callable, Saved, tuple[str, ...]]]


class Net:
    """Linear layers with a ReLU between, with or without batch normalisation.

    sizes: channels of the input, of each hidden layer, and the number of classes.
    params: name -> Tensor: W0, b0, W1, ... and with batch_norm gamma and beta instead
    of the bias, which the mean would subtract again. stats: one RunningStats for each
    normalised layer. Weights start from N(0, 2 / C_in) (He et al. 2015).
    """

    def __init__(
        self,
        sizes: Sequence[int],
        batch_norm: bool,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ):
        self.depth = len(sizes) - 1
        self.params: dict[str, Tensor] = {}
        self.stats: dict[int, RunningStats] = {}
        for i, (C_in, C_out) in enumerate(itertools.pairwise(sizes)):
            W = torch.randn(C_in, C_out, generator=generator, dtype=dtype)
            self.params[f"W{i}"] = W * (2 / C_in) ** 0.5
            if batch_norm and i < self.depth - 1:
                self.params[f"gamma{i}"] = torch.ones(C_out, dtype=dtype)
                self.params[f"beta{i}"] = torch.zeros(C_out, dtype=dtype)
                self.stats[i] = RunningStats.fresh(C_out, dtype=dtype)
            else:
                self.params[f"b{i}"] = torch.zeros(C_out, dtype=dtype)

    def forward(self, x: Tensor, training: bool) -> tuple[Tensor, Tape]:
        """Logits (N, K) for x (N, C), and the tape that `backward` needs."""
        tape: Tape = []
        for i in range(self.depth):
            x = self._call(tape, "matmul", x, f"W{i}")
            if i in self.stats:
                x, saved = layers.batch_norm(
                    x,
                    self.params[f"gamma{i}"],
                    self.params[f"beta{i}"],
                    self.stats[i],
                    training,
                )
                names = (f"gamma{i}", f"beta{i}")
                tape.append((layers.batch_norm_backward, saved, names))
            else:
                x = self._call(tape, "add_bias", x, f"b{i}")
            if i < self.depth - 1:
                x = self._call(tape, "relu", x)
        return x, tape

    def _call(self, tape: Tape, name: str, x: Tensor, *used: str) -> Tensor:
        """Run an operation of `autograd_layers` and write it on the tape."""
        y, saved = getattr(layers, name)(x, *(self.params[key] for key in used))
        tape.append((getattr(layers, f"{name}_backward"), saved, used))
        return y

    def loss_and_gradients(
        self, x: Tensor, targets: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy in training mode, and its gradient for every parameter."""
        logits, tape = self.forward(x, training=True)
        loss, saved = layers.softmax_cross_entropy(logits, targets)
        (dlogits,) = layers.softmax_cross_entropy_backward(torch.ones_like(loss), saved)
        return loss, backward(tape, dlogits)

    def to(self, device: torch.device | str) -> Net:
        """Move parameters and statistics in place."""
        self.params = {name: p.to(device) for name, p in self.params.items()}
        for stats in self.stats.values():
            stats.mean, stats.var = stats.mean.to(device), stats.var.to(device)
        return self


def backward(tape: Tape, dy: Tensor) -> dict[str, Tensor]:
    """The gradient of every parameter on the tape, from that of the output."""
    gradients = {}
    for pull, saved, names in reversed(tape):
        dy, *rest = pull(dy, saved)
        gradients.update(zip(names, rest, strict=True))
    return gradients
