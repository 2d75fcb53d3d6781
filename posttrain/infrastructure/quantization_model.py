"""What is done to a whole model: other linear layers, planted outliers, smoothing.

All functions return a changed copy. The read-out and the embedding stay as they are,
as bitsandbytes and QLoRA leave them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from posttrain.foundations.batches import Batch
from posttrain.foundations.modern_architecture import GPT
from posttrain.infrastructure.quantization import round_trip
from posttrain.infrastructure.quantization_linear import smoothing


def linears(model: GPT) -> list[tuple[str, nn.Linear]]:
    """What is quantized, by name: all linear layers but the read-out."""
    layers = model.named_modules()
    return [(n, m) for n, m in layers if isinstance(m, nn.Linear) and n != "head"]


def replace_linears(model: GPT, make: Callable[[str, nn.Linear], nn.Module]) -> GPT:
    """A copy whose linear layers are make(name, layer), all but the read-out."""
    model = copy.deepcopy(model)
    for name, layer in linears(model):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, make(name, layer))
    return model


def with_weights(model: GPT, change: Callable[[Tensor], Tensor]) -> GPT:
    """A copy in which every replaceable weight is change(weight)."""

    def changed(name: str, layer: nn.Linear) -> nn.Linear:
        layer.weight = nn.Parameter(change(layer.weight.detach()))
        return layer

    return replace_linears(model, changed)


class RoundedInput(nn.Module):
    """A linear layer whose input is quantized and decoded on the way in."""

    def __init__(self, layer: nn.Linear, bits: int, share: str):
        super().__init__()
        self.layer, self.bits, self.share = layer, bits, share

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N). share: "row" is a scale for each token."""
        flat = x.reshape(-1, x.shape[-1])
        return self.layer(round_trip(flat, self.bits, self.share).view(x.shape))


def readers(model: GPT) -> Iterator[tuple[nn.Module, dict[str, nn.Linear]]]:
    """Each norm of a block, with the named linear layers that read its output."""
    for i, block in enumerate(model.blocks):
        for norm, part, names in (
            (block.norm_1, "attention", ("q_proj", "k_proj", "v_proj")),
            (block.norm_2, "mlp", ("gate_proj", "up_proj")),
        ):
            module = getattr(block, part)
            yield norm, {f"blocks.{i}.{part}.{n}": getattr(module, n) for n in names}


@torch.no_grad()
def plant_outliers(model: GPT, channels: list[int], factor: float) -> GPT:
    """The same function, with outliers: a norm's gain times `factor` in some channels,
    and the columns that read them divided by it.

    With a power of two no bit of the result changes.
    """
    model = copy.deepcopy(model)
    for norm, layers in readers(model):
        norm.weight[channels] *= factor
        for layer in layers.values():
            layer.weight[:, channels] /= factor
    return model


@torch.no_grad()
def input_absmax(model: GPT, batches: list[Batch]) -> dict[str, Tensor]:
    """For each linear layer, the largest magnitude of every input channel: (K,)."""
    seen, hooks = {}, []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):

            def look(layer, given, name=name):
                largest = given[0].abs().flatten(0, -2).amax(dim=0)
                seen[name] = torch.maximum(seen.get(name, largest), largest)

            hooks.append(layer.register_forward_pre_hook(look))
    for inputs, _ in batches:
        model(inputs)
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def smooth(model: GPT, absmax: dict[str, Tensor], alpha: float = 0.5) -> GPT:
    """The same function, with the range of activations moved into the weights.

    absmax: of `input_absmax`. A norm's gain is divided by `smoothing`'s factors, and
    the columns that read it are multiplied. Source: Xiao et al. 2023.
    """
    model = copy.deepcopy(model)
    for norm, layers in readers(model):
        weights = [layer.weight for layer in layers.values()]
        factor = smoothing(absmax[next(iter(layers))], weights, alpha)  # (C,)
        norm.weight /= factor
        for weight in weights:
            weight *= factor
    return model
