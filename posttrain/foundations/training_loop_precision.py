"""Numbers of 16 bits: who has the units, and what is lost without loss scaling.

fp32  8 bits of exponent, 23 of fraction: 1e-45 ... 3e38
bf16  8 and 7: the same range, two to three digits
fp16  5 and 10: 6e-8 ... 65504, three digits
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from posttrain.foundations.batches import Batch, target_count, total_loss


def missing_units(precision: str, device: str) -> str | None:
    """Why this machine has no fast arithmetic in `precision`; None if it has.

    Without the units autocast still works, but converts and computes step by step.
    """
    if precision == "fp32" or device != "cpu":
        return None
    if precision == "bf16" and torch.cpu._is_avx512_bf16_supported():
        return None
    if precision == "bf16" and torch.cpu._is_amx_tile_supported():
        return None
    return f"this CPU has no units for {precision}"


def hidden_gradients(model: nn.Module, batch: Batch) -> Tensor:
    """Gradients of the mean loss for what flows between the blocks, as one vector.

    These are computed in 16 bits under autocast, and they are the small ones: each of
    the batch's tokens has only its own share of the mean.
    """
    seen: list[Tensor] = []

    def watch(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        output.register_hook(seen.append)

    handles = [block.register_forward_hook(watch) for block in model.blocks]
    try:
        (total_loss(model, batch) / target_count(batch)).backward()
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
    return torch.cat([g.flatten() for g in seen])


def lost_in_fp16(gradients: Tensor, scale: float) -> dict[str, float]:
    """What a scale does to the gradients in fp16: shares of those that are not 0.

    zero: rounded to nothing. coarse: below 2^-14, where digits are missing. infinite:
    above 65504.
    """
    true = gradients[gradients != 0].double()
    half = (true * scale).to(torch.float16)
    small = half.abs() < 2.0**-14
    return {
        "zero": (half == 0).double().mean().item(),
        "coarse": (small & (half != 0)).double().mean().item(),
        "infinite": half.isinf().double().mean().item(),
    }
