"""Answers that the grader of `grpo` must tell apart. Never given to students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import math
import re

import torch
import torch.nn.functional as F

# ---------------------------------------------------------------- reward_of


def reward_by_parts(reply, right, correct, form):
    head, mark, number = reply.rpartition("</think>")
    thought = head.removeprefix("<think>")
    formed = mark and head != thought and not re.search("[<>]", thought)
    if not (formed and number.isascii() and number.isdigit()):
        return 0
    return form + correct * (int(number) == right)


def reward_pattern_with_flags(reply, right, correct, form):
    found = re.compile(r"\A<think>([^<>]*)</think>(\d+)\Z", re.ASCII).match(reply)
    return float(bool(found)) and form + correct * float(int(found[2]) == right)


def reward_strips(reply, right, correct, form):
    found = re.fullmatch("<think>[^<>]*</think>([0-9]+)", reply.strip())
    return form + correct * (int(found[1]) == right) if found else 0.0


def reward_stops_at_lines(reply, right, correct, form):
    found = re.fullmatch("<think>((?![<>]).)*</think>([0-9]+)", reply)
    return form + correct * (int(found[2]) == right) if found else 0.0


# ---------------------------------------------------------------- group_advantages


def advantages_in_loops(rewards, std):
    rows = []
    for row in rewards.double():
        centred = row - row.sum() / len(row)
        spread = (centred.square().sum() / (len(row) - 1)).sqrt() + 1e-4
        rows.append(centred / spread if std else centred)
    return torch.stack(rows).to(rewards.dtype)


def advantages_layer_norm_like(rewards, std):
    variance, mean = torch.var_mean(rewards, dim=-1, keepdim=True)
    return (rewards - mean) / (variance.sqrt() + 1e-4 if std else 1)


def advantages_eps_too_small(rewards, std):
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, keepdim=True) + 1e-8) if std else centred


def advantages_whitened_again(rewards, std):
    centred = rewards - rewards.mean(1, keepdim=True)
    if not std:
        return centred
    scaled = centred / (rewards.std(1, keepdim=True) + 1e-4)
    return (scaled - scaled.mean()) / (scaled.std() + 1e-4)


def advantages_of_ranks(rewards, std):
    ranks = rewards.argsort(1).argsort(1).to(rewards.dtype)
    centred = ranks - ranks.mean(1, keepdim=True)
    return centred / (ranks.std(1, keepdim=True) + 1e-4) if std else centred


# ---------------------------------------------------------------- token_logprobs


def logprobs_by_cross_entropy(logits, tokens, mask):
    targets = tokens[:, 1:].masked_fill(~mask[:, 1:], -100)
    return -F.cross_entropy(
        logits[:, :-1].transpose(1, 2), targets, ignore_index=-100, reduction="none"
    )


def logprobs_only_where_needed(logits, tokens, mask):
    keep = mask[:, 1:]
    rows = logits[:, :-1][keep]  # (N, V)
    chosen = rows.gather(1, tokens[:, 1:][keep][:, None])[:, 0] - rows.logsumexp(1)
    output = torch.zeros(keep.shape, dtype=logits.dtype)
    return output.masked_scatter(keep, chosen)


def logprobs_of_the_likeliest(logits, tokens, mask):
    best = logits[:, :-1].log_softmax(-1).amax(-1)
    return best.masked_fill(~mask[:, 1:], 0.0)


def logprobs_with_the_last(logits, tokens, mask):
    chosen = logits.log_softmax(-1).gather(-1, tokens.roll(-1, 1)[..., None])[..., 0]
    return chosen.masked_fill(~mask.roll(-1, 1), 0.0)


def logprobs_over_places(logits, tokens, mask):
    chosen = logits[:, :-1].log_softmax(1).gather(-1, tokens[:, 1:, None])[..., 0]
    return chosen.masked_fill(~mask[:, 1:], 0.0)


# ---------------------------------------------------------------- kl_terms


def kl_by_ratio(logprobs, ref_logprobs, kind):
    log_ratio = ref_logprobs - logprobs  # reference over policy
    terms = {
        "k1": -log_ratio,
        "k2": 0.5 * log_ratio * log_ratio,
        "k3": log_ratio.expm1() - log_ratio,
    }
    return terms[kind]


def kl_always_k3(logprobs, ref_logprobs, kind):
    d = logprobs - ref_logprobs
    return torch.expm1(-d) + d


def kl_means(logprobs, ref_logprobs, kind):
    d = logprobs - ref_logprobs
    terms = {"k1": d, "k2": d**2 / 2, "k3": torch.expm1(-d) + d}[kind]
    return terms.mean()


def kl_reference_in_the_graph_only(logprobs, ref_logprobs, kind):
    d = logprobs.detach() - ref_logprobs
    terms = {"k1": d, "k2": d**2 / 2, "k3": torch.expm1(-d) + d}[kind]
    return terms + logprobs - logprobs.detach()


# ---------------------------------------------------------------- clipped_terms


def clip_by_cases(logprobs, old_logprobs, advantages, clip_low, clip_high):
    with torch.no_grad():
        A = advantages[:, None].expand_as(logprobs)
        old = old_logprobs.clone()
    ratio = (logprobs - old).exp()
    too_far = torch.where(A > 0, ratio > 1 + clip_high, ratio < 1 - clip_low)
    limit = torch.where(A > 0, 1 + clip_high, 1 - clip_low)
    return -A * torch.where(too_far, limit.to(ratio.dtype), ratio)


def clip_as_larger_loss(logprobs, old_logprobs, advantages, clip_low, clip_high):
    A = -advantages.detach().unsqueeze(-1)
    ratio = torch.exp(logprobs) / torch.exp(old_logprobs.detach())
    bounded = torch.clip(ratio, 1 - clip_low, 1 + clip_high)
    return torch.maximum(A * ratio, A * bounded)


def clip_below_only(logprobs, old_logprobs, advantages, clip_low, clip_high):
    ratio = torch.exp(logprobs - old_logprobs.detach())
    A = advantages.detach()[:, None]
    return -torch.min(ratio * A, ratio.clamp(min=1 - clip_low) * A)


def clip_widths_swapped(logprobs, old_logprobs, advantages, clip_low, clip_high):
    ratio = torch.exp(logprobs - old_logprobs.detach())
    A = advantages.detach()[:, None]
    return -torch.min(ratio * A, ratio.clamp(1 - clip_high, 1 + clip_low) * A)


def clip_old_in_the_graph(logprobs, old_logprobs, advantages, clip_low, clip_high):
    ratio = torch.exp(logprobs - old_logprobs)
    A = advantages.detach()[:, None]
    return -torch.min(ratio * A, ratio.clamp(1 - clip_low, 1 + clip_high) * A)


def clip_ratio_of_answers(logprobs, old_logprobs, advantages, clip_low, clip_high):
    log_ratio = (logprobs - old_logprobs.detach()).mean(1, keepdim=True)
    ratio = log_ratio.exp().expand_as(logprobs)
    A = advantages.detach()[:, None]
    return -torch.min(ratio * A, ratio.clamp(1 - clip_low, 1 + clip_high) * A)


# ---------------------------------------------------------------- aggregate


def aggregate_in_loops(terms, mask, how, length):
    rows = [row[keep] for row, keep in zip(terms, mask, strict=True)]
    if how == "sequence":
        means = [row.mean() if len(row) else row.sum() for row in rows]
        return torch.stack(means).mean()
    if how == "token":
        return torch.cat(rows).sum() / max(1, sum(map(len, rows)))
    return sum(row.sum() for row in rows) / len(rows) / length


def aggregate_by_weights(terms, mask, how, length):
    if how == "sequence":
        weights = mask / mask.sum(1, keepdim=True).clamp(min=1) / len(mask)
    elif how == "token":
        weights = mask / mask.sum().clamp(min=1)
    else:
        weights = mask / (length * len(mask))
    return (torch.where(mask, terms, 0) * weights.to(terms.dtype)).sum()


def aggregate_answers_with_tokens(terms, mask, how, length):
    """An empty answer is left out of the mean, where it should count as 0."""
    terms = terms.masked_fill(~mask, 0)
    if how == "sequence":
        kept = mask.any(1)
        return (terms[kept].sum(1) / mask[kept].sum(1)).sum() / kept.sum().clamp(min=1)
    if how == "token":
        return terms.sum() / mask.sum().clamp(min=1)
    return terms.sum() / (len(terms) * length)


def aggregate_constant_mean(terms, mask, how, length):
    terms = terms.masked_fill(~mask, 0)
    if how == "sequence":
        return (terms.sum(1) / mask.sum(1).clamp(min=1)).mean()
    if how == "token":
        return terms.sum() / mask.sum().clamp(min=1)
    return terms.mean() / length


# ---------------------------------------------------------------- grpo_loss


def loss_in_loops(logprobs, old, ref, rewards, mask, clip, beta):
    P, G = rewards.shape
    total = 0.0 * logprobs.sum()
    for b in range(P * G):
        group = rewards[b // G]
        A = ((rewards[b // G, b % G] - group.mean()) / (group.std() + 1e-4)).item()
        terms = []
        for t in mask[b].nonzero()[:, 0]:
            ratio = (logprobs[b, t] - old[b, t]).exp()
            limit = 1 + math.copysign(clip, A)
            surrogate = ratio if (ratio - limit) * A < 0 else torch.tensor(limit)
            log_ratio = ref[b, t] - logprobs[b, t]
            terms.append(beta * (log_ratio.exp() - log_ratio - 1) - surrogate * A)
        if terms:
            total = total + torch.stack(terms).mean() / (P * G)
    return total


def loss_policy_and_kl_apart(logprobs, old, ref, rewards, mask, clip, beta):
    A = rewards - rewards.mean(-1, keepdim=True)
    A = (A / (rewards.std(-1, keepdim=True) + 1e-4)).flatten()[:, None]
    ratio = (logprobs - old).exp()
    policy = torch.max(-A * ratio, -A * ratio.clip(1 - clip, 1 + clip))
    kl = torch.expm1(ref - logprobs) - (ref - logprobs)
    weights = mask / mask.sum(1, keepdim=True).clamp(min=1) / len(mask)
    return (policy * weights).sum() + beta * (kl * weights).sum()


def right_but(kl="k3", how="sequence", correction=1, eps=1e-4):
    """The loss with one choice changed."""

    def loss(logprobs, old, ref, rewards, mask, clip, beta):
        A = rewards - rewards.mean(1, keepdim=True)
        A = A / (rewards.std(1, keepdim=True, correction=correction) + eps)
        A = A.reshape(-1, 1)
        ratio = (logprobs - old).exp()
        terms = -torch.min(ratio * A, ratio.clamp(1 - clip, 1 + clip) * A)
        d = logprobs - ref
        terms = (
            terms
            + beta
            * {
                "k1": d,
                "k2": d**2 / 2,
                "k3": torch.expm1(-d) + d,
                "k3 times ratio": (torch.expm1(-d) + d) * ratio,
            }[kl]
        )
        terms = terms.masked_fill(~mask, 0)
        if how == "constant":
            return terms.sum() / mask.numel()
        return (terms.sum(1) / mask.sum(1).clamp(min=1)).mean()

    return loss


def loss_with_k1(*given):
    return right_but(kl="k1")(*given)


def loss_with_k2(*given):
    return right_but(kl="k2")(*given)


def loss_with_weighted_kl(*given):
    return right_but(kl="k3 times ratio")(*given)


def loss_over_the_longest(*given):
    return right_but(how="constant")(*given)


def loss_biased_std(*given):
    return right_but(correction=0)(*given)


RIGHT = {
    "reward_of": [reward_by_parts, reward_pattern_with_flags],
    "group_advantages": [advantages_in_loops, advantages_layer_norm_like],
    "token_logprobs": [logprobs_by_cross_entropy, logprobs_only_where_needed],
    "kl_terms": [kl_by_ratio],
    "clipped_terms": [clip_by_cases, clip_as_larger_loss],
    "aggregate": [aggregate_in_loops, aggregate_by_weights],
    "grpo_loss": [loss_in_loops, loss_policy_and_kl_apart],
}
WRONG = {
    "reward_of": [reward_strips, reward_stops_at_lines],
    "group_advantages": [
        advantages_eps_too_small,
        advantages_whitened_again,
        advantages_of_ranks,
    ],
    "token_logprobs": [
        logprobs_of_the_likeliest,
        logprobs_with_the_last,
        logprobs_over_places,
    ],
    "kl_terms": [kl_always_k3, kl_means, kl_reference_in_the_graph_only],
    "clipped_terms": [
        clip_below_only,
        clip_widths_swapped,
        clip_old_in_the_graph,
        clip_ratio_of_answers,
    ],
    "aggregate": [aggregate_answers_with_tokens, aggregate_constant_mean],
    "grpo_loss": [
        loss_with_k1,
        loss_with_k2,
        loss_with_weighted_kl,
        loss_over_the_longest,
        loss_biased_std,
    ],
}
_ORDER = "the smaller of two does not depend on their order"
EQUIVALENT = {
    "token_logprobs: `chosen = logprobs.gather(-1, tokens[:, 1:, None])[..., 0]` -> "
    "`chosen = logprobs.gather(-1, tokens[:, 1:, None])[..., -1]`": (
        "the last dimension has one entry: the first is the last"
    ),
    "token_logprobs: `logprobs = logits[:, :-1].log_softmax(dim=-1)` -> "
    "`logprobs = logits[:, :].log_softmax(dim=-1)`": (
        "gather reads as many places as the index has: the last one is never read"
    ),
    "clipped_terms: `return -torch.min(ratio * advantages, clipped * advantages)` -> "
    "`return -torch.min(clipped * advantages, ratio * advantages)`": _ORDER,
    "grpo_loss: `terms = -torch.min(ratio * advantages, clipped * advantages)` -> "
    "`terms = -torch.min(clipped * advantages, ratio * advantages)`": _ORDER,
}
