"""What training holds, in bytes: full fine-tuning, LoRA and QLoRA.

    full     2 w + 2 g + 4 master + 4 m + 4 v = 16 bytes for each parameter
    LoRA     2 for each frozen parameter, 16 for each one of the adapters
    QLoRA    0.516 for each frozen weight of a linear layer, 2 for the rest (embedding,
             read-out, norms), 16 for each one of the adapters

w and g are bf16; master weights and AdamW's moments are fp32. Activations, the logits
and a framework's buffers come on top: they depend on batch and length, not on this.
The numbers are a formula's, not a measurement of any framework.
"""

from __future__ import annotations

from dataclasses import dataclass

WEIGHT, GRADIENT, MASTER, MOMENTS = 2, 2, 4, 8  # bytes for each parameter
METHODS = ("full", "lora", "qlora")


@dataclass(frozen=True)
class Shape:
    """A Llama-like model: C channels, F hidden in the MLP, L layers, V vocabulary."""

    C: int
    F: int
    L: int
    H: int
    H_kv: int
    V: int
    tied: bool = False

    def linears(self) -> list[tuple[int, int]]:
        """(N, K) of every linear layer of the blocks."""
        kv = self.C * self.H_kv // self.H
        attention = [(self.C, self.C), (kv, self.C), (kv, self.C), (self.C, self.C)]
        mlp = [(self.F, self.C), (self.F, self.C), (self.C, self.F)]
        return self.L * (attention + mlp)

    @property
    def in_linears(self) -> int:
        """Weights of the linear layers of the blocks."""
        return sum(N * K for N, K in self.linears())

    @property
    def elsewhere(self) -> int:
        """Embedding, read-out and gains of the norms."""
        tables = self.V * self.C * (1 if self.tied else 2)
        return tables + (2 * self.L + 1) * self.C

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.in_linears + self.elsewhere

    def adapters(self, r: int) -> int:
        """Parameters of A (r, K) and B (N, r) at every linear layer."""
        return sum(r * (N + K) for N, K in self.linears())


SHAPES = {
    "Llama 2 7B": Shape(C=4096, F=11008, L=32, H=32, H_kv=32, V=32000),
    "Llama 3 8B": Shape(C=4096, F=14336, L=32, H=32, H_kv=8, V=128256),
    "Llama 3 70B": Shape(C=8192, F=28672, L=80, H=64, H_kv=8, V=128256),
    "Llama 3.1 405B": Shape(C=16384, F=53248, L=126, H=128, H_kv=8, V=128256),
}


def bits_per_weight(
    bits: int = 4, blocksize: int = 64, nested: bool = True, nested_blocksize: int = 256
) -> float:
    """Codes, and each weight's share of its block's absmax: 8 bits and a share of an
    fp32 if that is quantized as well, else fp32.

    Source: Dettmers et al. 2023, section 3 (Double Quantization).
    """
    if not nested:
        return bits + 32 / blocksize
    return bits + 8 / blocksize + 32 / (blocksize * nested_blocksize)


def training_bytes(shape: Shape, method: str, r: int = 16) -> dict[str, float]:
    """Bytes that are held for "weights", "gradients", "optimizer" and "adapters".

    The adapters' entry is all of theirs: weights, gradients, masters and moments.
    Raises ValueError for an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: use one of {METHODS}")
    n, each = shape.parameters, WEIGHT + GRADIENT + MASTER + MOMENTS
    held = dict.fromkeys(("weights", "gradients", "optimizer", "adapters"), 0.0)
    held["weights"] = WEIGHT * n
    if method == "full":
        held["gradients"] = GRADIENT * n
        held["optimizer"] = (MASTER + MOMENTS) * n
    else:
        held["adapters"] = each * shape.adapters(r)
    if method == "qlora":
        codes = bits_per_weight() / 8 * shape.in_linears
        held["weights"] = codes + WEIGHT * shape.elsewhere
    return held


def held_bytes(model, optimizers=()) -> dict[str, int]:
    """The same, measured: bytes of a module's tensors once an optimizer has stepped.

    Gradients are counted at the size of what is trained: between the backward pass and
    the step they all exist.
    """

    def total(tensors) -> int:
        storages = {t.untyped_storage().data_ptr(): t for t in tensors}
        return sum(t.untyped_storage().nbytes() for t in storages.values())

    parameters = list(model.parameters())
    states = [s for o in optimizers for s in o.state.values()]
    moments = [t for s in states for t in s.values() if hasattr(t, "untyped_storage")]
    return {
        "weights": total([*parameters, *model.buffers()]),
        "gradients": total([p for p in parameters if p.requires_grad]),
        "optimizer": total(moments),
    }
