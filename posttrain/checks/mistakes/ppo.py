"""What goes wrong in the exercise `ppo`, and the hint for each."""

from __future__ import annotations

import torch

from posttrain.checks.task import Mistake

# ---------------------------------------------------------------- token_rewards


def last_of(mask):
    places = torch.arange(mask.shape[1])
    return (places * mask).amax(1)


def rewards_kl_sign(scores, logprobs, ref_logprobs, mask, beta):
    rewards = beta * (logprobs - ref_logprobs) * mask
    rewards[torch.arange(len(mask)), last_of(mask)] += scores
    return rewards


def rewards_score_in_last_column(scores, logprobs, ref_logprobs, mask, beta):
    rewards = -beta * (logprobs - ref_logprobs) * mask
    rewards[:, -1] += scores
    return rewards


def rewards_score_by_length(scores, logprobs, ref_logprobs, mask, beta):
    rewards = -beta * (logprobs - ref_logprobs) * mask
    rewards[torch.arange(len(mask)), mask.sum(1) - 1] += scores
    return rewards


def rewards_score_everywhere(scores, logprobs, ref_logprobs, mask, beta):
    return (scores[:, None] - beta * (logprobs - ref_logprobs)) * mask


def rewards_without_mask(scores, logprobs, ref_logprobs, mask, beta):
    rewards = -beta * (logprobs - ref_logprobs)
    rewards[torch.arange(len(mask)), last_of(mask)] += scores
    return rewards


def rewards_score_replaces_penalty(scores, logprobs, ref_logprobs, mask, beta):
    rewards = -beta * (logprobs - ref_logprobs) * mask
    rewards[torch.arange(len(mask)), last_of(mask)] = scores
    return rewards


def rewards_penalise_probabilities(scores, logprobs, ref_logprobs, mask, beta):
    rewards = -beta * (logprobs.exp() - ref_logprobs.exp()) * mask
    rewards[torch.arange(len(mask)), last_of(mask)] += scores
    return rewards


def rewards_penalise_distance(scores, logprobs, ref_logprobs, mask, beta):
    rewards = -beta * (logprobs - ref_logprobs).abs() * mask
    rewards[torch.arange(len(mask)), last_of(mask)] += scores
    return rewards


def rewards_beta_on_the_score(scores, logprobs, ref_logprobs, mask, beta):
    rewards = -(logprobs - ref_logprobs) * mask
    rewards[torch.arange(len(mask)), last_of(mask)] += scores
    return beta * rewards


# ---------------------------------------------------------------- gae


def backwards(rewards, values, mask, gamma, decay):
    """The recursion, with its parts to be chosen by the mistakes below."""
    advantages = torch.zeros_like(values)
    later = torch.zeros_like(values[:, 0])
    following = torch.zeros_like(later)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        later = (delta + decay * later) * mask[:, t]
        advantages[:, t] = later
        following = values[:, t]
    return advantages


@torch.no_grad()
def gae_bootstraps_from_padding(rewards, values, mask, gamma, lam):
    advantages = backwards(rewards, values, mask, gamma, gamma * lam)
    return advantages, (advantages + values) * mask


@torch.no_grad()
def gae_without_gamma_in_the_decay(rewards, values, mask, gamma, lam):
    values = values * mask
    advantages = backwards(rewards, values, mask, gamma, lam)
    return advantages, advantages + values


@torch.no_grad()
def gae_without_gamma_in_the_error(rewards, values, mask, gamma, lam):
    values = values * mask
    advantages = torch.zeros_like(values)
    later = following = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + following - values[:, t]
        later = (delta + gamma * lam * later) * mask[:, t]
        advantages[:, t], following = later, values[:, t]
    return advantages, advantages + values


@torch.no_grad()
def gae_returns_without_values(rewards, values, mask, gamma, lam):
    advantages = backwards(rewards, values * mask, mask, gamma, gamma * lam)
    return advantages, advantages


@torch.no_grad()
def gae_returns_are_rewards_to_come(rewards, values, mask, gamma, lam):
    advantages = backwards(rewards, values * mask, mask, gamma, gamma * lam)
    zero = torch.zeros_like(values)
    return advantages, backwards(rewards, zero, mask, gamma, gamma)


@torch.no_grad()
def gae_errors_alone(rewards, values, mask, gamma, lam):
    values = values * mask
    advantages = backwards(rewards, values, mask, gamma, 0.0)
    return advantages, advantages + values


@torch.no_grad()
def gae_ignores_the_critic(rewards, values, mask, gamma, lam):
    zero = torch.zeros_like(values)
    advantages = backwards(rewards, zero, mask, gamma, gamma * lam)
    return advantages, advantages + values * mask


@torch.no_grad()
def gae_forwards(rewards, values, mask, gamma, lam):
    values = values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    deltas = (rewards + gamma * following - values) * mask
    advantages, before = torch.zeros_like(values), torch.zeros_like(values[:, 0])
    for t in range(values.shape[1]):
        before = (deltas[:, t] + gamma * lam * before) * mask[:, t]
        advantages[:, t] = before
    return advantages, advantages + values


def gae_keeps_the_graph(rewards, values, mask, gamma, lam):
    values = values * mask
    later = following = torch.zeros_like(values[:, 0])
    found = []
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        later = (delta + gamma * lam * later) * mask[:, t]
        found.append(later)
        following = values[:, t]
    advantages = torch.stack(found[::-1], 1)
    return advantages, advantages + values


@torch.no_grad()
def gae_returns_outside_the_mask(rewards, values, mask, gamma, lam):
    advantages = backwards(rewards, values * mask, mask, gamma, gamma * lam)
    return advantages, advantages + values


# ---------------------------------------------------------------- whiten


def whiten_over_padding(x, mask):
    x = x * mask
    return (x - x.mean()) / (x.std() + 1e-8) * mask


def whiten_all(x, mask):
    return (x - x.mean()) / (x.std() + 1e-8) * mask


def whiten_by_row(x, mask):
    n = mask.sum(1, keepdim=True)
    mean = (x * mask).sum(1, keepdim=True) / n
    centred = (x - mean) * mask
    variance = centred.square().sum(1, keepdim=True) / (n - 1).clamp(min=1)
    return centred / (variance.sqrt() + 1e-8)


def whiten_without_centring(x, mask):
    return x / x[mask].std() * mask


def whiten_without_scaling(x, mask):
    return (x - x[mask].mean()) * mask


def whiten_by_the_variance(x, mask):
    inside = x[mask]
    return (x - inside.mean()) / inside.var() * mask


def whiten_with_n(x, mask):
    inside = x[mask]
    return (x - inside.mean()) / inside.std(correction=0) * mask


def whiten_leaves_padding(x, mask):
    inside = x[mask]
    return (x - inside.mean()) / inside.std()


def whiten_in_place(x, mask):
    inside = x[mask]
    x -= inside.mean()
    x /= inside.std()
    x *= mask
    return x


# ---------------------------------------------------------------- clipped_loss


def mean_over(terms, mask):
    return (terms * mask).sum() / mask.sum()


def clip_takes_the_larger(logprobs, old_logprobs, advantages, mask, clip):
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -mean_over(torch.max(ratio * advantages, clipped * advantages), mask)


def clip_always(logprobs, old_logprobs, advantages, mask, clip):
    ratio = (logprobs - old_logprobs).exp().clamp(1 - clip, 1 + clip)
    return -mean_over(ratio * advantages, mask)


def clip_never(logprobs, old_logprobs, advantages, mask, clip):
    ratio = (logprobs - old_logprobs).exp()
    return -mean_over(ratio * advantages, mask)


def clip_above_only(logprobs, old_logprobs, advantages, mask, clip):
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(max=1 + clip)
    return -mean_over(torch.min(ratio * advantages, clipped * advantages), mask)


def clip_without_exp(logprobs, old_logprobs, advantages, mask, clip):
    ratio = 1 + logprobs - old_logprobs
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -mean_over(torch.min(ratio * advantages, clipped * advantages), mask)


def clip_ratio_upside_down(logprobs, old_logprobs, advantages, mask, clip):
    ratio = (old_logprobs - logprobs).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -mean_over(torch.min(ratio * advantages, clipped * advantages), mask)


def clip_reward_not_loss(logprobs, old_logprobs, advantages, mask, clip):
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return mean_over(torch.min(ratio * advantages, clipped * advantages), mask)


def clip_counts_padding(logprobs, old_logprobs, advantages, mask, clip):
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -(torch.min(ratio * advantages, clipped * advantages) * mask).mean()


def clip_mean_of_means(logprobs, old_logprobs, advantages, mask, clip):
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    terms = torch.min(ratio * advantages, clipped * advantages) * mask
    return -(terms.sum(1) / mask.sum(1)).mean()


def clip_of_the_product(logprobs, old_logprobs, advantages, mask, clip):
    surrogate = (logprobs - old_logprobs).exp() * advantages
    return -mean_over(torch.min(surrogate, surrogate.clamp(1 - clip, 1 + clip)), mask)


# ---------------------------------------------------------------- value_loss


def value_takes_the_smaller(values, old_values, returns, mask, clip):
    near = old_values + (values - old_values).clamp(-clip, clip)
    errors = torch.min((values - returns).square(), (near - returns).square())
    return mean_over(errors, mask) / 2


def value_without_clip(values, old_values, returns, mask, clip):
    return mean_over((values - returns).square(), mask) / 2


def value_always_clipped(values, old_values, returns, mask, clip):
    near = old_values + (values - old_values).clamp(-clip, clip)
    return mean_over((near - returns).square(), mask) / 2


def value_without_half(values, old_values, returns, mask, clip):
    near = old_values + (values - old_values).clamp(-clip, clip)
    errors = torch.max((values - returns).square(), (near - returns).square())
    return mean_over(errors, mask)


def value_clip_as_a_ratio(values, old_values, returns, mask, clip):
    near = torch.clamp(values, 1 - clip, 1 + clip)
    errors = torch.max((values - returns).square(), (near - returns).square())
    return mean_over(errors, mask) / 2


def value_counts_padding(values, old_values, returns, mask, clip):
    near = old_values + (values - old_values).clamp(-clip, clip)
    errors = torch.max((values - returns).square(), (near - returns).square())
    return (errors * mask).mean() / 2


# ---------------------------------------------------------------- next_beta


def clamp(x, low, high):
    return max(low, min(x, high))


def beta_wrong_way(beta, kl, target, n, horizon):
    return beta * (1 - clamp(kl / target - 1, -0.2, 0.2) * n / horizon)


def beta_unclipped(beta, kl, target, n, horizon):
    return beta * (1 + (kl / target - 1) * n / horizon)


def beta_absolute_error(beta, kl, target, n, horizon):
    return beta * (1 + clamp(kl - target, -0.2, 0.2) * n / horizon)


def beta_added(beta, kl, target, n, horizon):
    return beta + clamp(kl / target - 1, -0.2, 0.2) * n / horizon


def beta_forgets_the_horizon(beta, kl, target, n, horizon):
    return beta * (1 + clamp(kl / target - 1, -0.2, 0.2))


MISTAKES = {
    "token_rewards": (
        Mistake(
            rewards_kl_sign,
            "the penalty rewards tokens that the reference finds unlikely. It is "
            "*minus* beta times log policy - log reference.",
        ),
        Mistake(
            rewards_score_in_last_column,
            "the score stands in the last column, which may be padding. It belongs to "
            "the last place of the row's mask.",
        ),
        Mistake(
            rewards_score_by_length,
            "the length of the reply is not the place of its last token: the prompt "
            "stands before it. Look for the last True of the mask.",
        ),
        Mistake(
            rewards_score_everywhere,
            "the score is paid once for each token: longer replies earn more. Pay it "
            "once, at the last token.",
        ),
        Mistake(
            rewards_without_mask,
            "tokens of the prompt and padding are penalised, too: apply the mask.",
        ),
        Mistake(
            rewards_score_replaces_penalty,
            "the last token lost its penalty: *add* the score to it.",
        ),
        Mistake(
            rewards_penalise_probabilities,
            "the penalty is the difference of log-probabilities, not of probabilities: "
            "only then is its mean the KL divergence.",
        ),
        Mistake(
            rewards_penalise_distance,
            "no absolute value: some tokens get likelier, others less likely, and only "
            "the signed sum is an estimate of the KL divergence.",
        ),
        Mistake(
            rewards_beta_on_the_score,
            "beta scales the penalty, not the score.",
        ),
    ),
    "gae": (
        Mistake(
            gae_bootstraps_from_padding,
            "the value behind the last token is not 0: it was read from padding. Mask "
            "the values first.",
        ),
        Mistake(
            gae_without_gamma_in_the_decay,
            "the sum decays by gamma * lam a step, not by lam alone.",
        ),
        Mistake(
            gae_without_gamma_in_the_error,
            "the value of the next state is discounted: r + gamma * V_next - V.",
        ),
        Mistake(
            gae_returns_without_values,
            "returns are what the critic should have said: advantages + values.",
        ),
        Mistake(
            gae_returns_are_rewards_to_come,
            "these are the plain discounted rewards; they equal advantages + values "
            "for lam = 1 only.",
        ),
        Mistake(
            gae_errors_alone,
            "that is lam = 0: each error by itself. Add the decayed sum of later ones.",
        ),
        Mistake(
            gae_ignores_the_critic,
            "the values do not enter the errors, so there is no baseline.",
        ),
        Mistake(
            gae_forwards,
            "the sum runs forwards: an action is credited with what came *before* it. "
            "Start at the end.",
        ),
        Mistake(
            gae_keeps_the_graph,
            "gradients flow from the advantages into the critic. They are targets: "
            "compute them under `torch.no_grad()`, or detach.",
        ),
        Mistake(
            gae_returns_outside_the_mask,
            "returns are 0 outside the mask; there, values of padding are left.",
        ),
    ),
    "whiten": (
        Mistake(
            whiten_over_padding,
            "zeros of padding pull the mean and the deviation. Take them over the "
            "places of the mask.",
        ),
        Mistake(
            whiten_all,
            "numbers outside the mask enter the mean and the deviation.",
        ),
        Mistake(
            whiten_by_row,
            "each reply is whitened by itself, so a good reply looks like a bad one. "
            "Take all places of the batch together.",
        ),
        Mistake(whiten_without_centring, "subtract the mean first."),
        Mistake(whiten_without_scaling, "divide by the standard deviation, too."),
        Mistake(
            whiten_by_the_variance,
            "divide by the standard deviation, the root of the variance.",
        ),
        Mistake(
            whiten_with_n,
            "the variance here is that of a sample: divide by N - 1, not by N.",
        ),
        Mistake(
            whiten_leaves_padding,
            "outside the mask the result is 0: multiply by the mask at the end.",
        ),
        Mistake(
            whiten_in_place,
            "the numbers are right, but the input was overwritten.",
        ),
    ),
    "clipped_loss": (
        Mistake(
            clip_takes_the_larger,
            "the objective takes the *smaller* surrogate, the pessimistic one; with "
            "the larger there is no limit where one is needed.",
        ),
        Mistake(
            clip_always,
            "the clipped ratio is used even where the plain one is worse. A token that "
            "moved the wrong way must be pulled back: take the minimum of both.",
        ),
        Mistake(clip_never, "the ratio is never clipped. Where does `clip` enter?"),
        Mistake(
            clip_above_only,
            "a negative advantage needs the lower edge: clip at 1 - clip, too.",
        ),
        Mistake(
            clip_without_exp,
            "the ratio is exp(log p - log p_old); the difference is its logarithm.",
        ),
        Mistake(
            clip_ratio_upside_down,
            "the ratio is new over old. Yours falls as a token gets likelier.",
        ),
        Mistake(
            clip_reward_not_loss,
            "an optimizer minimises: the loss is minus the objective.",
        ),
        Mistake(
            clip_counts_padding,
            "the mean divides by all places. Divide by those of the mask.",
        ),
        Mistake(
            clip_mean_of_means,
            "the mean is over all tokens together here. Yours gives a token of a short "
            "reply more weight.",
        ),
        Mistake(
            clip_of_the_product,
            "it is the ratio that is clipped, not the ratio times the advantage.",
        ),
    ),
    "value_loss": (
        Mistake(
            value_takes_the_smaller,
            "take the *larger* of the two errors; the smaller rewards a jump.",
        ),
        Mistake(value_without_clip, "where does `clip` enter?"),
        Mistake(
            value_always_clipped,
            "the clipped value alone has no gradient once it is far from the old one, "
            "even if it is wrong. Take the larger error of both.",
        ),
        Mistake(value_without_half, "it is half the squared error."),
        Mistake(
            value_clip_as_a_ratio,
            "a value is no ratio: it is clipped to old value - clip ... + clip.",
        ),
        Mistake(
            value_counts_padding,
            "the mean divides by all places. Divide by those of the mask.",
        ),
    ),
    "next_beta": (
        Mistake(
            beta_wrong_way,
            "a KL above the target asks for a *larger* penalty.",
        ),
        Mistake(
            beta_unclipped,
            "the error is clipped to -0.2 ... 0.2, so that one odd batch cannot undo "
            "the penalty.",
        ),
        Mistake(
            beta_absolute_error,
            "the error is relative: kl / target - 1.",
        ),
        Mistake(
            beta_added,
            "the change is a factor on beta; a sum could make it negative.",
        ),
        Mistake(
            beta_forgets_the_horizon,
            "the change is spread over `horizon` answers: n of them make n / horizon "
            "of it.",
        ),
    ),
}
