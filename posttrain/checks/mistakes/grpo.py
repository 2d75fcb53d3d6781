"""What goes wrong in the exercise `grpo`, and the hint for each.

Each mistake is a whole answer. Where several differ from a right answer in one place
only, they share it as a base and change that place.
"""

from __future__ import annotations

import re

import torch

from posttrain.checks.task import Mistake

# ---------------------------------------------------------------- reward_of

FORM = r"<think>[^<>]*</think>([0-9]+)"


def points(found, right, correct, form):
    """Points for a match of the form with the number as its first group."""
    if not found:
        return 0.0
    return form + (correct if int(found[1]) == right else 0.0)


def reward_anywhere(reply, right, correct, form):
    """The form is looked for somewhere in the reply."""
    return points(re.search(FORM, reply), right, correct, form)


def reward_without_end(reply, right, correct, form):
    return points(re.match(FORM, reply), right, correct, form)


def reward_dollar(reply, right, correct, form):
    return points(re.match(FORM + "$", reply), right, correct, form)


def reward_greedy_thought(reply, right, correct, form):
    found = re.fullmatch(r"<think>(?:.*)</think>([0-9]+)", reply, re.DOTALL)
    return points(found, right, correct, form)


def reward_for_the_number_alone(reply, right, correct, form):
    formed = form if re.fullmatch(FORM, reply) else 0.0
    said = re.findall(r"[0-9]+", reply)
    return formed + (correct if said and int(said[-1]) == right else 0.0)


def reward_of_the_form_only(reply, right, correct, form):
    return form if re.fullmatch(FORM, reply) else 0.0


def reward_not_added(reply, right, correct, form):
    found = re.fullmatch(FORM, reply)
    if not found:
        return 0.0
    return correct if int(found[1]) == right else form


def reward_as_text(reply, right, correct, form):
    found = re.fullmatch(FORM, reply)
    if not found:
        return 0.0
    return form + (correct if found[1] == str(right) else 0.0)


def reward_other_digits(reply, right, correct, form):
    return points(
        re.fullmatch(r"<think>[^<>]*</think>(\d+)", reply), right, correct, form
    )


def reward_needs_a_thought(reply, right, correct, form):
    found = re.fullmatch(r"<think>[^<>]+</think>([0-9]+)", reply)
    return points(found, right, correct, form)


# ---------------------------------------------------------------- group_advantages


def scaled(rewards, std, centre, spread):
    """A right answer but for its centre and its spread."""
    centred = rewards - centre(rewards)
    return centred / (spread(rewards) + 1e-4) if std else centred


def group_mean(rewards):
    return rewards.mean(dim=1, keepdim=True)


def group_std(rewards):
    return rewards.std(dim=1, keepdim=True)


def advantages_std_of_the_batch(rewards, std):
    return scaled(rewards, std, group_mean, lambda r: r.std())


def advantages_of_the_batch(rewards, std):
    return scaled(rewards, std, lambda r: r.mean(), lambda r: r.std())


def advantages_biased_std(rewards, std):
    return scaled(
        rewards, std, group_mean, lambda r: r.std(dim=1, keepdim=True, correction=0)
    )


def advantages_without_eps(rewards, std):
    return scaled(rewards, std, group_mean, lambda r: group_std(r) - 1e-4)


def advantages_eps_within_the_root(rewards, std):
    spread = (rewards.var(dim=1, keepdim=True) + 1e-4).sqrt()
    return scaled(rewards, std, group_mean, lambda r: spread - 1e-4)


def advantages_always_scaled(rewards, std):
    return scaled(rewards, True, group_mean, group_std)


def advantages_over_prompts(rewards, std):
    return scaled(rewards, std, lambda r: r.mean(dim=0), lambda r: r.std(dim=0))


def advantages_variance(rewards, std):
    return scaled(rewards, std, group_mean, lambda r: r.var(dim=1, keepdim=True))


def advantages_of_the_others(rewards, std):
    """The baseline is the mean of the *other* answers: RLOO, not GRPO."""
    G = rewards.shape[1]
    return scaled(
        rewards, std, lambda r: (r.sum(1, keepdim=True) - r) / (G - 1), group_std
    )


def advantages_best_and_worst(rewards, std):
    output = torch.zeros_like(rewards)
    rows = torch.arange(len(rewards))
    output[rows, rewards.argmax(1)] += 1
    output[rows, rewards.argmin(1)] -= 1
    return output


# ---------------------------------------------------------------- token_logprobs


def chosen(logprobs, tokens):
    return logprobs.gather(-1, tokens[..., None])[..., 0]


def logprobs_not_shifted(logits, tokens, mask):
    found = chosen(logits.log_softmax(-1), tokens)[:, 1:]
    return torch.where(mask[:, 1:], found, 0.0)


def logprobs_shifted_back(logits, tokens, mask):
    found = chosen(logits[:, 1:].log_softmax(-1), tokens[:, :-1])
    return torch.where(mask[:, 1:], found, 0.0)


def logprobs_mask_not_shifted(logits, tokens, mask):
    found = chosen(logits[:, :-1].log_softmax(-1), tokens[:, 1:])
    return torch.where(mask[:, :-1], found, 0.0)


def logprobs_prompt_counted(logits, tokens, mask):
    return chosen(logits[:, :-1].log_softmax(-1), tokens[:, 1:])


def logprobs_mask_multiplied(logits, tokens, mask):
    found = chosen(logits[:, :-1].log_softmax(-1), tokens[:, 1:])
    return found * mask[:, 1:]


def logprobs_of_a_softmax(logits, tokens, mask):
    found = chosen(logits[:, :-1].softmax(-1), tokens[:, 1:]).log()
    return torch.where(mask[:, 1:], found, 0.0)


def logprobs_not_logs(logits, tokens, mask):
    found = chosen(logits[:, :-1].softmax(-1), tokens[:, 1:])
    return torch.where(mask[:, 1:], found, 0.0)


def logprobs_unnormalised(logits, tokens, mask):
    return torch.where(mask[:, 1:], chosen(logits[:, :-1], tokens[:, 1:]), 0.0)


# ---------------------------------------------------------------- kl_terms


def estimate(d, kind):
    """A right answer at the log-ratio d."""
    if kind == "k1":
        return d
    return d.square() / 2 if kind == "k2" else torch.expm1(-d) + d


def kl_turned_round(logprobs, ref_logprobs, kind):
    return estimate(ref_logprobs - logprobs, kind)


def kl_k3_turned_round(logprobs, ref_logprobs, kind):
    d = logprobs - ref_logprobs
    return d.exp() - 1 - d if kind == "k3" else estimate(d, kind)


def kl_k3_wrong_sign(logprobs, ref_logprobs, kind):
    d = logprobs - ref_logprobs
    return torch.exp(-d) - 1 - d if kind == "k3" else estimate(d, kind)


def kl_k3_without_one(logprobs, ref_logprobs, kind):
    d = logprobs - ref_logprobs
    return torch.exp(-d) + d if kind == "k3" else estimate(d, kind)


def kl_k2_without_half(logprobs, ref_logprobs, kind):
    d = logprobs - ref_logprobs
    return d.square() if kind == "k2" else estimate(d, kind)


def kl_k1_never_negative(logprobs, ref_logprobs, kind):
    d = logprobs - ref_logprobs
    return d.abs() if kind == "k1" else estimate(d, kind)


def kl_detached(logprobs, ref_logprobs, kind):
    return estimate((logprobs - ref_logprobs).detach(), kind)


def kl_weighted_by_probability(logprobs, ref_logprobs, kind):
    return logprobs.exp() * estimate(logprobs - ref_logprobs, kind)


# ---------------------------------------------------------------- clipped_terms


def surrogates(logprobs, old_logprobs, advantages, clip_low, clip_high):
    """The two surrogates of a right answer."""
    ratio = (logprobs - old_logprobs.detach()).exp()
    A = advantages.detach()[:, None]
    return ratio * A, ratio.clamp(1 - clip_low, 1 + clip_high) * A


def clip_takes_the_larger(*given):
    return -torch.max(*surrogates(*given))


def clip_sign(*given):
    return torch.min(*surrogates(*given))


def clip_always(*given):
    return -surrogates(*given)[1]


def clip_never(*given):
    return -surrogates(*given)[0]


def clip_above_only(logprobs, old_logprobs, advantages, clip_low, clip_high):
    return -torch.min(
        *surrogates(logprobs, old_logprobs, advantages, float("inf"), clip_high)
    )


def clip_dual(logprobs, old_logprobs, advantages, clip_low, clip_high):
    plain = torch.min(
        *surrogates(logprobs, old_logprobs, advantages, clip_low, clip_high)
    )
    A = advantages.detach()[:, None]
    return -torch.where(A < 0, torch.max(plain, 3 * A), plain)


def clip_one_width(logprobs, old_logprobs, advantages, clip_low, clip_high):
    return -torch.min(
        *surrogates(logprobs, old_logprobs, advantages, clip_low, clip_low)
    )


def clip_without_exp(logprobs, old_logprobs, advantages, clip_low, clip_high):
    ratio = 1 + logprobs - old_logprobs.detach()
    A = advantages.detach()[:, None]
    return -torch.min(ratio * A, ratio.clamp(1 - clip_low, 1 + clip_high) * A)


def clip_ratio_turned_round(logprobs, old_logprobs, advantages, clip_low, clip_high):
    ratio = (old_logprobs.detach() - logprobs).exp()
    A = advantages.detach()[:, None]
    return -torch.min(ratio * A, ratio.clamp(1 - clip_low, 1 + clip_high) * A)


def clip_ratio_detached(logprobs, *others):
    return -torch.min(*surrogates(logprobs.detach(), *others)) + 0 * logprobs


def clip_nothing_detached(logprobs, old_logprobs, advantages, clip_low, clip_high):
    ratio = (logprobs - old_logprobs).exp()
    A = advantages[:, None]
    return -torch.min(ratio * A, ratio.clamp(1 - clip_low, 1 + clip_high) * A)


def clip_advantages_of_tokens(logprobs, old_logprobs, advantages, clip_low, clip_high):
    """Broadcast the wrong way: an advantage for each place, not for each answer."""
    ratio = (logprobs - old_logprobs.detach()).exp()
    A = advantages.detach()
    return -torch.min(ratio * A, ratio.clamp(1 - clip_low, 1 + clip_high) * A)


def clip_of_the_log(logprobs, old_logprobs, advantages, clip_low, clip_high):
    log_ratio = logprobs - old_logprobs.detach()
    A = advantages.detach()[:, None]
    clipped = log_ratio.clamp(-clip_low, clip_high)
    return -torch.min(log_ratio.exp() * A, clipped.exp() * A)


# ---------------------------------------------------------------- aggregate


def aggregated(terms, mask, how, length):
    """A right answer."""
    terms = terms.masked_fill(~mask, 0)
    if how == "sequence":
        return (terms.sum(1) / mask.sum(1).clamp(min=1)).mean()
    if how == "token":
        return terms.sum() / mask.sum().clamp(min=1)
    return terms.sum() / (len(terms) * length)


def aggregate_token_for_sequence(terms, mask, how, length):
    return aggregated(terms, mask, "token" if how == "sequence" else how, length)


def aggregate_sequence_for_token(terms, mask, how, length):
    return aggregated(terms, mask, "sequence" if how == "token" else how, length)


def aggregate_padding_in_the_length(terms, mask, how, length):
    if how == "sequence":
        return terms.masked_fill(~mask, 0).mean(1).mean()
    if how == "token":
        return terms.masked_fill(~mask, 0).mean()
    return aggregated(terms, mask, how, length)


def aggregate_padding_counted(terms, mask, how, length):
    return aggregated(terms, torch.ones_like(mask), how, length)


def aggregate_mask_multiplied(terms, mask, how, length):
    terms = terms * mask
    if how == "sequence":
        return (terms.sum(1) / mask.sum(1).clamp(min=1)).mean()
    if how == "token":
        return terms.sum() / mask.sum().clamp(min=1)
    return terms.sum() / (len(terms) * length)


def aggregate_divides_by_nothing(terms, mask, how, length):
    if how == "sequence":
        return (terms.masked_fill(~mask, 0).sum(1) / mask.sum(1)).mean()
    return aggregated(terms, mask, how, length)


def aggregate_longest_for_constant(terms, mask, how, length):
    return aggregated(terms, mask, how, mask.shape[1])


def aggregate_constant_not_over_answers(terms, mask, how, length):
    found = aggregated(terms, mask, how, length)
    return found * len(terms) if how == "constant" else found


# ---------------------------------------------------------------- grpo_loss


def kl_of(logprobs, ref):
    return estimate(logprobs - ref, "k3")


def loss_parts(logprobs, old, rewards, clip):
    """The clipped terms of a right answer."""
    advantages = scaled(rewards, True, group_mean, group_std).flatten()
    return -torch.min(*surrogates(logprobs, old, advantages, clip, clip))


def mean_of_means(terms, mask):
    return aggregated(terms, mask, "sequence", None)


def loss_kl_turned_round(logprobs, old, ref, rewards, mask, clip, beta):
    terms = loss_parts(logprobs, old, rewards, clip)
    return mean_of_means(terms + beta * kl_of(ref, logprobs), mask)


def loss_kl_to_the_old_policy(logprobs, old, ref, rewards, mask, clip, beta):
    terms = loss_parts(logprobs, old, rewards, clip)
    return mean_of_means(terms + beta * kl_of(logprobs, old), mask)


def loss_kl_rewarded(logprobs, old, ref, rewards, mask, clip, beta):
    terms = loss_parts(logprobs, old, rewards, clip)
    return mean_of_means(terms - beta * kl_of(logprobs, ref), mask)


def loss_kl_forgotten(logprobs, old, ref, rewards, mask, clip, beta):
    return mean_of_means(loss_parts(logprobs, old, rewards, clip), mask)


def loss_kl_over_padding(logprobs, old, ref, rewards, mask, clip, beta):
    terms = loss_parts(logprobs, old, rewards, clip)
    return mean_of_means(terms, mask) + beta * kl_of(logprobs, ref).mean()


def loss_token_mean(logprobs, old, ref, rewards, mask, clip, beta):
    terms = loss_parts(logprobs, old, rewards, clip) + beta * kl_of(logprobs, ref)
    return aggregated(terms, mask, "token", None)


def loss_padding_counted(logprobs, old, ref, rewards, mask, clip, beta):
    terms = loss_parts(logprobs, old, rewards, clip) + beta * kl_of(logprobs, ref)
    return terms.mean()


def loss_advantages_of_the_batch(logprobs, old, ref, rewards, mask, clip, beta):
    advantages = advantages_of_the_batch(rewards, True).flatten()
    terms = -torch.min(*surrogates(logprobs, old, advantages, clip, clip))
    return mean_of_means(terms + beta * kl_of(logprobs, ref), mask)


def loss_advantages_not_scaled(logprobs, old, ref, rewards, mask, clip, beta):
    advantages = scaled(rewards, False, group_mean, group_std).flatten()
    terms = -torch.min(*surrogates(logprobs, old, advantages, clip, clip))
    return mean_of_means(terms + beta * kl_of(logprobs, ref), mask)


def loss_larger_surrogate(logprobs, old, ref, rewards, mask, clip, beta):
    advantages = scaled(rewards, True, group_mean, group_std).flatten()
    terms = -torch.max(*surrogates(logprobs, old, advantages, clip, clip))
    return mean_of_means(terms + beta * kl_of(logprobs, ref), mask)


def loss_answers_in_another_order(logprobs, old, ref, rewards, mask, clip, beta):
    """Rows as if the answers to one prompt stood P apart."""
    advantages = scaled(rewards, True, group_mean, group_std).T.flatten()
    terms = -torch.min(*surrogates(logprobs, old, advantages, clip, clip))
    return mean_of_means(terms + beta * kl_of(logprobs, ref), mask)


MISTAKES = {
    "reward_of": (
        Mistake(
            reward_anywhere,
            "the form is looked for *somewhere* in the reply. Words before or after it "
            "must cost the points: use `re.fullmatch`, or training will add them.",
        ),
        Mistake(
            reward_without_end,
            "`re.match` looks at the beginning only: '...15 or 16' passes. A model "
            "that may hedge will hedge.",
        ),
        Mistake(
            reward_dollar,
            "`$` also matches before a final newline. Use `re.fullmatch`.",
        ),
        Mistake(
            reward_greedy_thought,
            "`.*` lets a second <think> or </think> into the thought. No '<' and no "
            "'>' may stand between the marks.",
        ),
        Mistake(
            reward_for_the_number_alone,
            "a right number earns its points without the form. Only a well-formed "
            "reply has an answer.",
        ),
        Mistake(
            reward_of_the_form_only,
            "the number is never compared with the right one. This reward is full for "
            "empty thoughts and any number.",
        ),
        Mistake(
            reward_not_added,
            "a right answer earns both: the points for being right and those for the "
            "form.",
        ),
        Mistake(
            reward_as_text,
            "compare numbers, not texts: '015' is 15.",
        ),
        Mistake(
            reward_other_digits,
            r"`\d` matches the digits of all scripts. Write [0-9], or re.ASCII.",
        ),
        Mistake(
            reward_needs_a_thought,
            "an empty thought is well formed too. Whether thinking pays is for "
            "training to find out.",
        ),
    ),
    "group_advantages": (
        Mistake(
            advantages_std_of_the_batch,
            "the deviation is that of all rewards in the batch. Each group, a row, has "
            "its own.",
        ),
        Mistake(
            advantages_of_the_batch,
            "mean and deviation are those of the whole batch, so an easy question "
            "lifts all its answers. Compare within the group: dim=1, keepdim=True.",
        ),
        Mistake(
            advantages_biased_std,
            "the deviation divides by G, it should be that of a sample: by G - 1, the "
            "default of `Tensor.std`.",
        ),
        Mistake(
            advantages_without_eps,
            "where all answers earn the same, 0 / 0 is NaN. Add 1e-4 to the deviation.",
        ),
        Mistake(
            advantages_eps_within_the_root,
            "the 1e-4 is added to the deviation, not to the variance below the root.",
        ),
        Mistake(
            advantages_always_scaled,
            "`std=False` should leave out the division (Dr. GRPO).",
        ),
        Mistake(
            advantages_over_prompts,
            "the mean runs over the prompts. A group is a row of (P, G): dim=1.",
        ),
        Mistake(
            advantages_variance,
            "that divides by the variance. The deviation is its root.",
        ),
        Mistake(
            advantages_of_the_others,
            "the baseline is the mean of the *other* answers. That is RLOO; GRPO's "
            "mean counts the answer itself, which only costs a factor (G - 1) / G.",
        ),
        Mistake(
            advantages_best_and_worst,
            "best up, worst down forgets how good they are, and pushes even where all "
            "are right. Every answer is compared with the mean.",
        ),
    ),
    "token_logprobs": (
        Mistake(
            logprobs_not_shifted,
            "the logits at place t are about token t + 1. Here they are read as if "
            "they were about token t.",
        ),
        Mistake(
            logprobs_shifted_back,
            "the shift goes the wrong way: logits[:, :-1] belong to tokens[:, 1:].",
        ),
        Mistake(
            logprobs_mask_not_shifted,
            "the mask marks *tokens*. It is shifted as they are: mask[:, 1:].",
        ),
        Mistake(
            logprobs_prompt_counted,
            "the mask is not used: prompt and padding count.",
        ),
        Mistake(
            logprobs_mask_multiplied,
            "-inf * 0 is NaN. Use `torch.where` or `masked_fill`: outside the mask the "
            "result is 0 whatever stood there.",
        ),
        Mistake(
            logprobs_of_a_softmax,
            "a small probability underflows to 0 and its logarithm is -inf. Use "
            "`log_softmax`.",
        ),
        Mistake(logprobs_not_logs, "those are probabilities. Take `log_softmax`."),
        Mistake(
            logprobs_unnormalised,
            "a logit is no log-probability: subtract the log-sum-exp of its row.",
        ),
    ),
    "kl_terms": (
        Mistake(
            kl_turned_round,
            "the log-ratio is turned round. d = log policy - log reference, for tokens "
            "that the policy drew.",
        ),
        Mistake(
            kl_k3_turned_round,
            "k3 has the ratio turned round: it is e^-d - 1 + d, with reference over "
            "policy in the exponential. Yours has another mean than the KL.",
        ),
        Mistake(
            kl_k3_wrong_sign,
            "k3 = e^-d - 1 + d. With -d at the end its "
            "slope at d = 0 is not 0, and it can be negative.",
        ),
        Mistake(
            kl_k3_without_one,
            "k3 misses the -1: for equal policies the estimate should be 0.",
        ),
        Mistake(kl_k2_without_half, "k2 is half of d squared."),
        Mistake(
            kl_k1_never_negative,
            "k1 is d itself, negative where the reference likes the token better. Its "
            "mean is the KL only if the signs stay.",
        ),
        Mistake(
            kl_detached,
            "no gradient reaches the policy: leave out the `detach`.",
        ),
        Mistake(
            kl_weighted_by_probability,
            "the tokens were drawn by the policy, so drawing has done the weighting. "
            "Do not multiply by the probability again.",
        ),
    ),
    "clipped_terms": (
        Mistake(
            clip_takes_the_larger,
            "min and max are swapped: the objective is the *smaller* of the two "
            "surrogates, and the loss is minus that. Look at a negative advantage.",
        ),
        Mistake(
            clip_sign,
            "that is the objective, to be made large. The loss is minus that.",
        ),
        Mistake(
            clip_always,
            "where the ratio has gone the *wrong* way the clipped surrogate has no "
            "gradient to bring it back. Take the smaller of the two.",
        ),
        Mistake(clip_never, "nothing is clipped."),
        Mistake(
            clip_above_only,
            "the ratio is not clipped from below, so an answer with a negative "
            "advantage is pushed down without a limit.",
        ),
        Mistake(
            clip_one_width,
            "both sides have the width `clip_low`. The upper one is 1 + clip_high.",
        ),
        Mistake(
            clip_dual,
            "that is the dual clip, which bounds a negative advantage as well. It was "
            "not asked for: the smaller surrogate has no floor there.",
        ),
        Mistake(
            clip_without_exp,
            "the ratio of probabilities is exp of the difference of log-probabilities.",
        ),
        Mistake(
            clip_ratio_turned_round,
            "the ratio is turned round: it is the new policy over the old one.",
        ),
        Mistake(
            clip_ratio_detached,
            "no gradient reaches the policy. Detach the old log-probabilities and the "
            "advantages, never the new ones.",
        ),
        Mistake(
            clip_nothing_detached,
            "the old log-probabilities and the advantages are constants: detach them, "
            "or their gradients change what made them.",
        ),
        Mistake(
            clip_advantages_of_tokens,
            "an advantage belongs to an answer, a row: advantages[:, None].",
        ),
        Mistake(
            clip_of_the_log,
            "the ratio is clipped to 1 - clip_low ... 1 + clip_high, not its log.",
        ),
    ),
    "aggregate": (
        Mistake(
            aggregate_token_for_sequence,
            "'sequence' is the mean over each answer's tokens first, then over "
            "answers. One mean over all tokens gives a long answer more weight.",
        ),
        Mistake(
            aggregate_sequence_for_token,
            "'token' is one mean over all tokens that count, whichever answer they are "
            "of.",
        ),
        Mistake(
            aggregate_padding_in_the_length,
            "the sum is right, but padding is counted in the number that divides it. "
            "Divide by the sum of the mask.",
        ),
        Mistake(
            aggregate_padding_counted,
            "padding is counted. Take only what the mask marks.",
        ),
        Mistake(
            aggregate_mask_multiplied,
            "inf * 0 and NaN * 0 are NaN. Use `torch.where` or `masked_fill`.",
        ),
        Mistake(
            aggregate_divides_by_nothing,
            "an answer without a token gives 0 / 0. It counts as an answer with 0.",
        ),
        Mistake(
            aggregate_longest_for_constant,
            "'constant' divides by `length`, the same for every batch, and not by the "
            "longest answer of this one.",
        ),
        Mistake(
            aggregate_constant_not_over_answers,
            "'constant' divides by the number of answers as well.",
        ),
    ),
    "grpo_loss": (
        Mistake(
            loss_kl_turned_round,
            "the KL term has policy and reference swapped: d = logprobs - ref.",
        ),
        Mistake(
            loss_kl_to_the_old_policy,
            "the KL is to the reference, which never moves. The old policy is what the "
            "ratio is about.",
        ),
        Mistake(
            loss_kl_rewarded,
            "the KL is a cost: it is added to the loss.",
        ),
        Mistake(loss_kl_forgotten, "where is beta times the KL estimate?"),
        Mistake(
            loss_kl_over_padding,
            "the KL is averaged over all places, padding and prompt too. Add it to the "
            "terms before they are aggregated.",
        ),
        Mistake(
            loss_token_mean,
            "that is one mean over all tokens (DAPO). Here each answer has its own "
            "mean first.",
        ),
        Mistake(
            loss_padding_counted,
            "the mask is not used.",
        ),
        Mistake(
            loss_advantages_of_the_batch,
            "mean and deviation are those of the whole batch; each row of `rewards` is "
            "a group of its own.",
        ),
        Mistake(
            loss_advantages_not_scaled,
            "divide the advantages by the group's deviation plus 1e-4.",
        ),
        Mistake(
            loss_larger_surrogate,
            "min and max are swapped in the clip.",
        ),
        Mistake(
            loss_answers_in_another_order,
            "row p * G + i is answer i to prompt p: flatten (P, G) row by row.",
        ),
    ),
}
