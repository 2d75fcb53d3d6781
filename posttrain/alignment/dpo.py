"""Direct preference optimization: learn from pairs, without a reward model.

    chosen, rejected = sequence_logprobs(model, batch).chunk(2)      # (B,) each
    losses = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.1)
    losses.mean().backward()

All log-probabilities here are those of whole completions: sums over their tokens, the
prompt's left out. What depends on which model they belong to is a subtraction; what
depends on the kind of loss is one line.

Source: Rafailov et al. 2023 (sigmoid, eq. 7); Azar et al. 2023 (IPO, eq. 17); Zhao et
al. 2023 (hinge); Mitchell 2023 (label smoothing, https://ericmitchell.ai/cdpo.pdf).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posttrain.alignment.completions import Completions, completion_logprobs

Kind = Literal["sigmoid", "ipo", "hinge"]


def sequence_logprobs(model: nn.Module, batch: Completions) -> Tensor:
    """log p(completion | prompt) of each row, the sum over its tokens: (B,)."""
    return completion_logprobs(model, batch).sum(dim=1)


def implicit_rewards(policy: Tensor, ref: Tensor, beta: float) -> Tensor:
    """The reward that a policy stands for: beta (log policy - log reference), (B,).

    Right up to a number that depends on the prompt alone, which no comparison of two
    replies to one prompt can see. Source: Rafailov et al. 2023, eq. 5.
    """
    return beta * (policy - ref)


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float,
    kind: Kind = "sigmoid",
    *,
    label_smoothing: float = 0.0,
    lengths: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The loss of each pair, (B,), from four summed log-probabilities, (B,) each.

    kind: "sigmoid" (DPO: minus the log-likelihood of the preference), "hinge" (nothing
        to learn once the margin is 1), "ipo" (the margin of the log-ratios should be
        1 / (2 beta), no less and no more).
    label_smoothing: the share of labels believed to be turned round; sigmoid only.
    lengths: tokens of the chosen and of the rejected completions. IPO needs them: here,
        as in TRL, its log-ratios are means over tokens.
    Raises ValueError for an unknown kind, for a beta that is not above 0, for smoothing
    outside 0 ... 0.5 or of another kind, and for IPO without lengths.
    """
    _check(beta, kind, label_smoothing, lengths)
    chosen, rejected = policy_chosen - ref_chosen, policy_rejected - ref_rejected
    if kind == "ipo":
        gap = chosen / lengths[0] - rejected / lengths[1]
        return (gap - 1 / (2 * beta)).square()
    margin = beta * (chosen - rejected)
    if kind == "hinge":
        return torch.relu(1 - margin)
    right, turned = -F.logsigmoid(margin), -F.logsigmoid(-margin)
    return (1 - label_smoothing) * right + label_smoothing * turned


def gradient_weight(margin: Tensor, beta: float) -> Tensor:
    """How hard the sigmoid loss pulls at each pair: beta * sigmoid(-margin).

    margin: difference of the implicit rewards, chosen minus rejected. The gradient of a
    pair's loss is minus this weight times the gradient of log policy(chosen) - log
    policy(rejected). Source: Rafailov et al. 2023, section 4.
    """
    return beta * torch.sigmoid(-margin)


def _check(beta: float, kind: str, label_smoothing: float, lengths: object) -> None:
    if kind not in ("sigmoid", "ipo", "hinge"):
        raise ValueError(f"kind={kind!r}: use 'sigmoid', 'ipo' or 'hinge'")
    if not beta > 0:
        raise ValueError(
            f"beta={beta} must be above 0: at 0 nothing ties policy to reference"
        )
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"label_smoothing={label_smoothing} must lie in 0 ... 0.5: at 0.5 a label"
            " says nothing"
        )
    if label_smoothing and kind != "sigmoid":
        raise ValueError(f"label_smoothing needs kind='sigmoid', not {kind!r}")
    if kind == "ipo" and lengths is None:
        raise ValueError("kind='ipo' needs lengths=(chosen, rejected), in tokens")
