"""Answers that the grader of `ppo` must tell apart. Never given to students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import torch
import torch.nn.functional as F

# ---------------------------------------------------------------- token_rewards


def rewards_by_last_flag(scores, logprobs, ref_logprobs, mask, beta):
    """The last place is the one with no other of the reply behind it."""
    behind = mask.flip(1).long().cumsum(1).flip(1)
    is_last = mask & (behind == 1)
    penalty = torch.where(mask, logprobs - ref_logprobs, torch.zeros_like(logprobs))
    return is_last * scores[:, None] - beta * penalty


def rewards_row_by_row(scores, logprobs, ref_logprobs, mask, beta):
    rows = []
    for b in range(len(mask)):
        row = torch.zeros_like(logprobs[b])
        places = mask[b].nonzero()[:, 0]
        row[places] = beta * (ref_logprobs[b, places] - logprobs[b, places])
        row[places[-1]] = row[places[-1]] + scores[b]
        rows.append(row)
    return torch.stack(rows)


def rewards_score_at_the_first(scores, logprobs, ref_logprobs, mask, beta):
    rewards = beta * (ref_logprobs - logprobs) * mask
    rewards[torch.arange(len(mask)), mask.long().argmax(1)] += scores
    return rewards


def rewards_one_behind(scores, logprobs, ref_logprobs, mask, beta):
    rewards = beta * (ref_logprobs - logprobs) * mask
    last = (torch.arange(mask.shape[1]) * mask).amax(1)
    after = (last + 1).clamp(max=mask.shape[1] - 1)
    rewards[torch.arange(len(mask)), after] += scores
    return rewards


# ---------------------------------------------------------------- gae


def gae_by_a_matrix(rewards, values, mask, gamma, lam):
    """All decays at once: A = errors @ D with D[k, t] = (gamma lam)^(k - t), k >= t."""
    values = (values * mask).detach().double()
    following = F.pad(values, (0, 1))[:, 1:]
    errors = (rewards.double() + gamma * following - values) * mask
    T = values.shape[1]
    steps = torch.arange(T)[:, None] - torch.arange(T)
    decay = torch.where(steps >= 0, (gamma * lam) ** steps.clamp(min=0).double(), 0.0)
    advantages = (errors @ decay) * mask
    returns = advantages + values
    return advantages.to(rewards.dtype), returns.to(rewards.dtype)


def gae_row_by_row(rewards, values, mask, gamma, lam):
    values = values.detach()
    advantages, returns = torch.zeros_like(values), torch.zeros_like(values)
    for b in range(len(mask)):
        places = mask[b].nonzero()[:, 0].tolist()
        later, following = 0.0, 0.0
        for t in places[::-1]:
            value = values[b, t].item()
            error = rewards[b, t].item() + gamma * following - value
            later = error + gamma * lam * later
            advantages[b, t], returns[b, t], following = later, later + value, value
    return advantages, returns


@torch.no_grad()
def gae_lets_padding_in(rewards, values, mask, gamma, lam):
    values = values * mask
    advantages = torch.zeros_like(values)
    later = following = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        later = rewards[:, t] + gamma * following - values[:, t] + gamma * lam * later
        advantages[:, t], following = later, values[:, t]
    return advantages, advantages + values


@torch.no_grad()
def gae_value_of_the_same_state(rewards, values, mask, gamma, lam):
    values = values * mask
    advantages = torch.zeros_like(values)
    later = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * values[:, t] - values[:, t]
        later = (delta + gamma * lam * later) * mask[:, t]
        advantages[:, t] = later
    return advantages, advantages + values


@torch.no_grad()
def gae_of_rewards_only(rewards, values, mask, gamma, lam):
    """Discounted rewards to come minus the value: lam = 1 whatever was asked for."""
    to_come, later = torch.zeros_like(values), torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        later = (rewards[:, t] + gamma * later) * mask[:, t]
        to_come[:, t] = later
    return (to_come - values) * mask, to_come


# ---------------------------------------------------------------- whiten


def whiten_by_sums(x, mask):
    x64, n = x.double(), mask.sum()
    mean = (x64 * mask).sum() / n
    centred = (x64 - mean) * mask
    return (centred / (centred.square().sum() / (n - 1)).sqrt()).to(x.dtype)


def whiten_by_index(x, mask):
    inside = x[mask]
    whitened = torch.zeros_like(x)
    variance, mean = torch.var_mean(inside)
    whitened[mask] = (inside - mean) * variance.rsqrt()
    return whitened


def whiten_twice(x, mask):
    inside = x[mask]
    return (x / inside.std() - inside.mean()) * mask


# ---------------------------------------------------------------- clipped_loss


def clip_by_cases(logprobs, old_logprobs, advantages, mask, clip):
    ratio = (logprobs - old_logprobs).exp()
    held = torch.where(
        advantages > 0, ratio.clamp(max=1 + clip), ratio.clamp(min=1 - clip)
    )
    return -(held * advantages * mask).sum() / mask.sum()


def clip_by_the_larger_loss(logprobs, old_logprobs, advantages, mask, clip):
    ratio = torch.exp(logprobs[mask] - old_logprobs[mask])
    a = advantages[mask]
    losses = torch.stack([-a * ratio, -a * ratio.clamp(1 - clip, 1 + clip)])
    return losses.amax(0).mean()


def clip_by_weights(logprobs, old_logprobs, advantages, mask, clip):
    """A token that went too far is left out, its loss kept: same value, same slope."""
    ratio = (logprobs - old_logprobs).exp()
    far = torch.where(advantages > 0, ratio > 1 + clip, ratio < 1 - clip)
    edge = 1 + clip * advantages.sign()
    return -(torch.where(far, edge, ratio) * advantages)[mask].mean()


def clip_in_log_space(logprobs, old_logprobs, advantages, mask, clip):
    ratio = (logprobs - old_logprobs).clamp(-clip, clip).exp()
    plain = (logprobs - old_logprobs).exp()
    return -torch.minimum(ratio * advantages, plain * advantages)[mask].mean()


def clip_detached_ratio(logprobs, old_logprobs, advantages, mask, clip):
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip).detach()
    terms = torch.minimum(ratio.detach() * advantages, clipped * advantages)
    return -(terms * logprobs)[mask].mean()


def clip_absolute_advantage(logprobs, old_logprobs, advantages, mask, clip):
    ratio = (logprobs - old_logprobs).exp()
    terms = torch.minimum(ratio, ratio.clamp(1 - clip, 1 + clip)) * advantages
    return -terms[mask].mean()


# ---------------------------------------------------------------- value_loss


def value_by_where(values, old_values, returns, mask, clip):
    near = torch.minimum(torch.maximum(values, old_values - clip), old_values + clip)
    plain, held = (values - returns).square(), (near - returns).square()
    return (torch.where(plain >= held, plain, held) * mask).sum() / (2 * mask.sum())


def value_by_half_mse(values, old_values, returns, mask, clip):
    new, old, due = values[mask], old_values[mask], returns[mask]
    near = old + torch.clamp(new - old, min=-clip, max=clip)
    return torch.maximum(0.5 * (new - due) ** 2, 0.5 * (near - due) ** 2).mean()


def value_larger_of_the_means(values, old_values, returns, mask, clip):
    near = old_values + (values - old_values).clamp(-clip, clip)
    plain = (values - returns).square()[mask].mean()
    held = (near - returns).square()[mask].mean()
    return torch.maximum(plain, held) / 2


def value_absolute_errors(values, old_values, returns, mask, clip):
    near = old_values + (values - old_values).clamp(-clip, clip)
    errors = torch.maximum((values - returns).abs(), (near - returns).abs())
    return errors[mask].mean() / 2


# ---------------------------------------------------------------- next_beta


def beta_by_tensors(beta, kl, target, n, horizon):
    error = (torch.tensor(kl, dtype=torch.float64) / target - 1).clamp(-0.2, 0.2)
    return (beta + beta * error * n / horizon).item()


def beta_relative_to_the_kl(beta, kl, target, n, horizon):
    return beta * (1 + min(max(1 - target / max(kl, 1e-9), -0.2), 0.2) * n / horizon)


def beta_compounded(beta, kl, target, n, horizon):
    return beta * (1 + min(max(kl / target - 1, -0.2), 0.2)) ** (n / horizon)


RIGHT = {
    "token_rewards": [rewards_by_last_flag, rewards_row_by_row],
    "gae": [gae_by_a_matrix, gae_row_by_row],
    "whiten": [whiten_by_sums, whiten_by_index],
    "clipped_loss": [clip_by_cases, clip_by_the_larger_loss, clip_by_weights],
    "value_loss": [value_by_where, value_by_half_mse],
    "next_beta": [beta_by_tensors],
}

WRONG = {
    "token_rewards": [rewards_score_at_the_first, rewards_one_behind],
    "gae": [gae_lets_padding_in, gae_value_of_the_same_state, gae_of_rewards_only],
    "whiten": [whiten_twice],
    "clipped_loss": [
        clip_in_log_space,
        clip_detached_ratio,
        clip_absolute_advantage,
    ],
    "value_loss": [value_larger_of_the_means, value_absolute_errors],
    "next_beta": [beta_relative_to_the_kl, beta_compounded],
}

_ANY = "only its shape is used: zeros of (B,)"
_EITHER = "the two arguments may stand in either order"

EQUIVALENT = {
    "gae: `later = torch.zeros_like(values[:, 0])` -> "
    "`later = torch.zeros_like(values[:, -1])`": _ANY,
    "gae: `following = torch.zeros_like(values[:, 0])` -> "
    "`following = torch.zeros_like(values[:, -1])`": _ANY,
    "clipped_loss: `terms = torch.minimum(ratio * advantages, clipped * advantages)` "
    "-> `terms = torch.minimum(clipped * advantages, ratio * advantages)`": _EITHER,
    "value_loss: `errors = torch.maximum((values - returns) ** 2, (near - returns) ** "
    "2)` -> `errors = torch.maximum((near - returns) ** 2, (values - returns) ** 2)`": (
        _EITHER
    ),
    "next_beta: `error = min(max(kl / target - 1, -0.2), 0.2)` -> "
    "`error = min(0.2, max(kl / target - 1, -0.2))`": _EITHER,
    "next_beta: `error = min(max(kl / target - 1, -0.2), 0.2)` -> "
    "`error = min(max(-0.2, kl / target - 1), 0.2)`": _EITHER,
}
