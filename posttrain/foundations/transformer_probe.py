"""Looking into a GPT-2: how large its stream is, where gradients go, who differs.

Each function runs a fresh or trained model once and returns plain numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from posttrain.foundations.language_model import next_token_loss
from posttrain.foundations.transformer import GPT2, GPT2Config


@torch.no_grad()
def stream_variances(model: GPT2, tokens: Tensor) -> list[float]:
    """Mean square of the residual stream: embedded, then after each of the 2 L sums.

    tokens: (B, T). Raises ValueError for a post-norm model, whose stream is 1 always.
    """
    if not model.config.pre_norm:
        raise ValueError("pre_norm=False: its stream is normalised after each sum")
    x = model.token(tokens) + model.place(torch.arange(tokens.shape[1]))
    found = [x]
    for block in model.blocks:
        found.append(found[-1] + block.attention(block.norm_1(found[-1])))
        found.append(found[-1] + block.mlp(block.norm_2(found[-1])))
    return [x.square().mean().item() for x in found]


def mlp_write_variance(config: GPT2Config, std: float = 0.02) -> float:
    """Expected mean square of what one fresh MLP writes, before the residual factor.

    Its input has mean square 1 (a norm), so each of 4 C hidden numbers is gelu(u) with
    u of variance C std², and the sum over them has variance 4 C std² E[gelu(u)²].
    """
    u = torch.linspace(-8, 8, 4001, dtype=torch.float64)  # in deviations
    density = (-u.square() / 2).exp()
    wide = F.gelu(u * config.C**0.5 * std, approximate="tanh").square()
    mean = (density * wide).sum() / density.sum()
    return (4 * config.C * std**2 * mean).item()


def gradient_lengths(model: GPT2, tokens: Tensor, targets: Tensor) -> list[float]:
    """Length of the loss's gradient at each block's `down_proj.weight`, first to last.

    The quantity of Xiong et al. 2020, theorem 1 (their W^{2,l}).
    """
    loss = next_token_loss(model(tokens), targets)
    weights = [block.mlp.down_proj.weight for block in model.blocks]
    return [g.norm().item() for g in torch.autograd.grad(loss, weights)]


@torch.no_grad()
def difference_between_positions(model: GPT2, tokens: Tensor) -> float:
    """Share of the final vectors' mean square that differs between positions.

    1: the mean over all positions is 0. 0: every position has the same vector, so the
    read-out predicts the same everywhere.
    """
    x = model.hidden(tokens).flatten(0, 1)  # (B T, C)
    return ((x - x.mean(dim=0)).square().mean() / x.square().mean()).item()
