"""PPO for language models: a reward for each token, a critic, a clipped objective.

    rewards = token_rewards(scores, logprobs, ref_logprobs, mask, beta)     # (B, T)
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=0.95)
    loss = masked_mean(clipped_terms(new, old, whiten(advantages, mask)), mask)
    loss += 0.1 * value_loss(new_values, values, returns, mask)

A state is the text so far, an action the next token, an episode one reply. Tensors are
(B, T) in the layout of `posttrain.alignment.completions`: place t holds what belongs to
the token that is predicted at t, and `mask` says which places belong to the reply.
The places of a reply stand together, with nothing masked between them.

Sources: Schulman et al. 2017 (clipping, algorithm 1), Schulman et al. 2015 (generalised
advantage estimation), Ouyang et al. 2022 (the KL in the reward), and, for the clipped
value loss and whitening, Huang et al. 2023 ("The N implementation details of RLHF").
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_rewards(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    beta: float,
) -> Tensor:
    """-beta (log policy - log reference) at each token, the score at the last: (B, T).

    scores: (B,), what the reward model or the verifier says of the whole reply. The sum
    over a reply is its score minus beta times the k1 estimate of the KL.
    """
    rewards = -beta * (logprobs - ref_logprobs) * mask
    rows = torch.arange(len(mask), device=mask.device)
    rewards[rows, last_place(mask)] += scores
    return rewards


def last_place(mask: Tensor) -> Tensor:
    """Where the last token of each reply is predicted: (B,).

    Raises ValueError for a row without any: it has nowhere to put its score.
    """
    if not mask.any(dim=1).all():
        row = int((~mask.any(dim=1)).nonzero()[0, 0])
        raise ValueError(f"row {row} has no token of a reply: its mask is all False")
    places = torch.arange(mask.shape[1], device=mask.device)
    return (places * mask).amax(dim=1)


@torch.no_grad()
def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, both (B, T), 0 outside the mask.

    δ_t = r_t + γ V_{t+1} - V_t and A_t = δ_t + γ λ A_{t+1}, from the end of each reply
    backwards; behind the last token the value is 0. returns = A + V, which the critic
    learns. lam 1: the rest of the reward minus V (no bias, most variance); lam 0: δ_t.
    Raises ValueError for gamma or lam outside 0 ... 1.
    """
    if not (0 <= gamma <= 1 and 0 <= lam <= 1):
        raise ValueError(f"gamma={gamma}, lam={lam}: both must lie in 0 ... 1")
    values = values * mask
    advantages = torch.zeros_like(values)
    later, value_after = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * value_after - values[:, t]
        later = (delta + gamma * lam * later) * mask[:, t]
        advantages[:, t], value_after = later, values[:, t]
    return advantages, advantages + values


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean over the places of the mask, all replies together."""
    return (x * mask).sum() / mask.sum()


def whiten(x: Tensor, mask: Tensor, centre: bool = True, eps: float = 1e-8) -> Tensor:
    """x over its standard deviation in the mask, around 0 unless centre=False.

    The variance is that of a sample (over N - 1), as in TRL. Zero outside the mask.
    """
    mean = masked_mean(x, mask)
    n = mask.sum()
    variance = masked_mean((x - mean).square(), mask) * n / (n - 1).clamp(min=1)
    whitened = (x - mean) * torch.rsqrt(variance + eps)
    return (whitened if centre else whitened + mean) * mask


def clipped_terms(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Tensor:
    """The loss of each token: minus the smaller of two surrogates (B, T).

    ratio = policy / old policy, once as it is and once clipped to 1 - clip_low ...
    1 + clip_high. Where the clipped one is smaller, the gradient is zero: the ratio has
    moved far enough in the direction that its advantage asked for.
    Source: Schulman et al. 2017, eq. 7.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.min(ratio * advantages, clipped * advantages)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip: float | None = 0.2,
) -> Tensor:
    """Half the mean squared error of the critic: a scalar.

    With `clip`, a value counts as at most that far from the old one wherever this makes
    the error larger: the critic gains nothing by a jump.
    """
    errors = (values - returns).square()
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        errors = torch.maximum(errors, (near - returns).square())
    return masked_mean(errors, mask) / 2


def next_beta(beta: float, kl: float, target: float, n: int, horizon: int) -> float:
    """The penalty's weight after n replies with a mean KL of `kl` nats.

    Proportional control in log space: a KL above the target raises beta, by at most a
    fifth every `horizon` replies. Source: Ziegler et al. 2019, section 2.2.
    """
    if target <= 0 or horizon < 1:
        raise ValueError(f"target={target} must be above 0, horizon={horizon} above 0")
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * n / horizon)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1: the critic knows the returns; 0: as good as their mean; it can be negative."""
    missed = (returns - values)[mask].var()
    return 1 - missed / returns[mask].var()
