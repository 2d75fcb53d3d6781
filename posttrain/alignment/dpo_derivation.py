"""From the objective of RLHF to the loss of DPO, one function for each step.

Everything is finite: `ref` (..., Y) is the reference's distribution over the Y replies
to a prompt, `rewards` (..., Y) what each reply is worth, and sums run over all replies.
So every claim of the derivation can be checked by machine, on random distributions:

    star = optimal_policy(ref, rewards, beta)               # nothing scores higher
    reward_of(star, ref, beta, log_partition(...))          # gives the rewards back
    preference(star, ref, beta)                             # ... and Z is gone

Source: Rafailov et al. 2023, sections 3 and 4, appendix A.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def objective(policy: Tensor, ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """Expected reward minus beta KL(policy || ref), (...). Source: eq. 3.

    A reply that the reference never gives costs infinitely much.
    """
    kl = torch.xlogy(policy, policy) - torch.xlogy(policy, ref)  # (..., Y)
    return (policy * rewards - beta * kl).sum(dim=-1)


def log_partition(ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """log Z, with Z the sum of ref * exp(rewards / beta): (...). Source: eq. 4."""
    return torch.logsumexp(ref.log() + rewards / beta, dim=-1)


def optimal_policy(ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """The policy with the highest objective: ref * exp(rewards / beta) / Z, (..., Y).

    A softmax over log ref + rewards / beta, so huge rewards do not overflow.
    """
    return torch.softmax(ref.log() + rewards / beta, dim=-1)


def reward_of(policy: Tensor, ref: Tensor, beta: float, log_z: Tensor) -> Tensor:
    """The rewards for which `policy` is optimal: beta (log policy / ref + log Z).

    log_z: (...), free: any choice gives rewards for which `policy` is optimal, since a
    number added to all rewards of a prompt changes no policy. Source: eq. 5.
    """
    return beta * (policy.log() - ref.log() + log_z[..., None])


def bradley_terry(rewards: Tensor) -> Tensor:
    """P(first reply is preferred to second), (..., Y, Y): sigmoid of the difference.

    Source: Bradley and Terry 1952; eq. 1 of Rafailov et al.
    """
    return torch.sigmoid(rewards[..., :, None] - rewards[..., None, :])


def preference(policy: Tensor, ref: Tensor, beta: float) -> Tensor:
    """The same from the policy alone, (..., Y, Y): no reward, no partition function.

    Source: eq. 6.
    """
    return bradley_terry(beta * (policy.log() - ref.log()))


def expected_loss(
    policy: Tensor, ref: Tensor, beta: float, labels: Tensor, pairs: Tensor
) -> Tensor:
    """The loss of DPO over all pairs of replies, in expectation: one number.

    labels: (..., Y, Y), the true probability that the first is preferred; pairs:
    (..., Y, Y), how often a pair is asked about, summing to 1. Source: eq. 7.
    """
    ratio = beta * (policy.log() - ref.log())
    margin = ratio[..., :, None] - ratio[..., None, :]  # (..., Y, Y)
    terms = labels * F.logsigmoid(margin) + (1 - labels) * F.logsigmoid(-margin)
    return -(pairs * terms).sum()


def loss_gradient(
    logits: Tensor, ref: Tensor, beta: float, winner: Tensor, loser: Tensor
) -> Tensor:
    """Gradient of one pair's loss at the logits (Y,) of a softmax policy: (Y,).

    -beta sigmoid(-margin) (grad log policy(winner) - grad log policy(loser)); each of
    the two is a one-hot vector minus the policy, so in the difference the policy is
    gone: the winner's logit goes up, the loser's down, as much, and no other moves.
    Source: section 4, "What does the DPO update do?".
    """
    ratio = torch.log_softmax(logits, dim=-1) - ref.log()
    margin = beta * (ratio[winner] - ratio[loser])
    direction = torch.zeros_like(logits)
    direction[winner] += 1
    direction[loser] -= 1
    return -beta * torch.sigmoid(-margin) * direction
