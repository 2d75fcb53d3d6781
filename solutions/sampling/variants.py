"""Answers that the grader of `sampling` must tell apart. Never given to students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import math

import torch
import torch.nn.functional as F

# ---------------------------------------------------------------- keep_top_k


def top_k_by_sorting(logits, k):
    ranked = logits.sort(dim=-1, descending=True).values
    least = ranked[..., min(k, ranked.shape[-1]) - 1, None]
    return torch.where(logits >= least, logits, -torch.inf)


def top_k_by_counting(logits, k):
    better = (logits[..., None, :] > logits[..., :, None]).sum(-1)
    return logits.masked_fill(better >= k, -torch.inf)


def top_k_of_probabilities(logits, k):
    probs = logits.softmax(-1)
    least = probs.topk(min(k, logits.shape[-1])).values[..., -1:]
    return probs.masked_fill(probs < least, 0.0)


# ---------------------------------------------------------------- keep_top_p


def top_p_from_the_tail(logits, p):
    """As transformers does: drop the unlikely end while it holds at most 1 - p."""
    order = logits.double().sort(dim=-1)
    tail = order.values.softmax(-1).cumsum(-1) <= 1 - p
    tail[..., -1] = False
    cut = torch.zeros_like(tail).scatter(-1, order.indices, tail)
    return logits.masked_fill(cut, -torch.inf)


def top_p_by_pairs(logits, p):
    """Each token asks how much mass the likelier ones have; no sort."""
    probs = logits.double().softmax(-1)
    likelier = logits[..., None, :] > logits[..., :, None]  # (..., V, V)
    before = (likelier * probs[..., None, :]).sum(-1)
    return torch.where(before < p, logits, -torch.inf)


def top_p_one_token_more(logits, p):
    order = logits.sort(dim=-1, descending=True)
    probs = order.values.softmax(-1)
    cut = probs.cumsum(-1) - probs >= p
    cut = torch.cat([torch.zeros_like(cut[..., :1]), cut[..., :-1]], -1)
    return logits.masked_fill(
        torch.zeros_like(cut).scatter(-1, order.indices, cut), -torch.inf
    )


def top_p_in_place(logits, p):
    order = logits.sort(dim=-1, descending=True)
    probs = order.values.softmax(-1)
    cut = probs.cumsum(-1) - probs >= p
    return logits.masked_fill_(
        torch.zeros_like(cut).scatter(-1, order.indices, cut), -torch.inf
    )


# ---------------------------------------------------------------- keep_min_p


def min_p_by_difference(logits, p):
    bar = logits.amax(-1, keepdim=True) + (math.log(p) if p else -torch.inf)
    return torch.where(logits >= bar, logits, -torch.inf)


def min_p_by_ratio(logits, p):
    ratio = (logits.double() - logits.double().amax(-1, keepdim=True)).exp()
    return logits.masked_fill(ratio < p, -torch.inf)


def min_p_of_the_mean(logits, p):
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < p * probs.mean(-1, keepdim=True), -torch.inf)


# ------------------------------------------------------- penalise_repetition


def penalty_by_power(logits, seen, penalty):
    factor = penalty ** -logits.sign()
    return logits * torch.where(seen, factor, torch.ones_like(factor))


def penalty_by_clamps(logits, seen, penalty):
    less = logits.clamp(min=0) / penalty + logits.clamp(max=0) * penalty
    output = logits.clone()
    output[seen] = less[seen]
    return output


def penalty_on_the_unseen(logits, seen, penalty):
    less = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, logits, less)


# ---------------------------------------------------------------- draw


def draw_by_gumbel(logits, temperature, generator):
    if temperature == 0:
        return logits.argmax(-1)
    u = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    return (logits / temperature - (-u.log()).log()).argmax(-1)


def draw_by_inverting_the_sum(logits, temperature, generator):
    if temperature == 0:
        return logits.max(-1).indices
    sums = (logits.double() / temperature).softmax(-1).cumsum(-1)
    u = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64)
    return (sums <= u * sums[:, -1:]).sum(-1)


def draw_with_noise_of_the_wrong_kind(logits, temperature, generator):
    if temperature == 0:
        return logits.argmax(-1)
    noise = torch.randn(logits.shape, generator=generator)
    return (logits / temperature + noise).argmax(-1)


def draw_in_place(logits, temperature, generator):
    if temperature == 0:
        return logits.argmax(-1)
    probs = logits.div_(temperature).softmax(-1)
    return torch.multinomial(probs, 1, generator=generator)[:, 0]


def draw_with_a_seed_of_its_own(logits, temperature, generator):
    if temperature == 0:
        return logits.argmax(-1)
    probs = (logits / temperature).softmax(-1)
    own = torch.Generator().manual_seed(0)
    return torch.multinomial(probs, 1, generator=own)[:, 0]


# ---------------------------------------------------------------- answer_logprobs


def logprobs_by_cross_entropy(logits, tokens, start, temperature):
    used = logits[:, start - 1 : -1].transpose(1, 2) / temperature  # (B, V, T - start)
    return -F.cross_entropy(used, tokens[:, start:], reduction="none")


def logprobs_by_logsumexp(logits, tokens, start, temperature):
    scaled = logits.double() / temperature
    every = scaled - scaled.logsumexp(-1, keepdim=True)
    found = every[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1)
    return found[:, start - 1 :].to(logits.dtype)


def logprobs_of_one_row_for_all(logits, tokens, start, temperature):
    every = (logits[:1] / temperature).log_softmax(-1).expand_as(logits)
    return every[:, start - 1 : -1].gather(-1, tokens[:, start:, None])[..., 0]


def logprobs_in_place(logits, tokens, start, temperature):
    every = logits.div_(temperature).log_softmax(-1)
    return every[:, start - 1 : -1].gather(-1, tokens[:, start:, None])[..., 0]


# ---------------------------------------------------------------- pass_at_k


def pass_by_product(n, c, k):
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def pass_by_log_gamma(n, c, k):
    if n - c < k:
        return 1.0

    def log_binomial(a, b):
        return math.lgamma(a + 1) - math.lgamma(b + 1) - math.lgamma(a - b + 1)

    return 1.0 - math.exp(log_binomial(n - c, k) - log_binomial(n, k))


def pass_with_replacement(n, c, k):
    return 1.0 - math.prod((n - c) / n for _ in range(k))


# ---------------------------------------------------------------- beam_step


def beam_by_sorting(scores, logprobs, n):
    totals = (scores.unsqueeze(1) + logprobs).reshape(-1)
    order = totals.argsort(descending=True)[:n]
    parents = torch.div(order, logprobs.shape[1], rounding_mode="floor")
    return totals[order], parents, order - parents * logprobs.shape[1]


def beam_two_stages(scores, logprobs, n):
    """The best n of each beam hold the best n of all."""
    K, V = logprobs.shape
    best = (scores[:, None] + logprobs).topk(min(n, V))
    winners = best.values.flatten().topk(n)
    parents = torch.arange(K).repeat_interleave(min(n, V))[winners.indices]
    return winners.values, parents, best.indices.flatten()[winners.indices]


def beam_worst_first(scores, logprobs, n):
    best = (scores[:, None] + logprobs).flatten().topk(n)
    V = logprobs.shape[1]
    flipped = best.indices.flip(0)
    return best.values.flip(0), flipped // V, flipped % V


def beam_in_place(scores, logprobs, n):
    best = logprobs.add_(scores[:, None]).flatten().topk(n)
    V = logprobs.shape[1]
    return best.values, best.indices // V, best.indices % V


RIGHT = {
    "keep_top_k": [top_k_by_sorting, top_k_by_counting],
    "keep_top_p": [top_p_from_the_tail, top_p_by_pairs],
    "keep_min_p": [min_p_by_difference, min_p_by_ratio],
    "penalise_repetition": [penalty_by_power, penalty_by_clamps],
    "draw": [draw_by_gumbel, draw_by_inverting_the_sum],
    "answer_logprobs": [logprobs_by_cross_entropy, logprobs_by_logsumexp],
    "pass_at_k": [pass_by_product, pass_by_log_gamma],
    "beam_step": [beam_by_sorting, beam_two_stages],
}

WRONG = {
    "keep_top_k": [top_k_of_probabilities],
    "keep_top_p": [top_p_one_token_more, top_p_in_place],
    "keep_min_p": [min_p_of_the_mean],
    "penalise_repetition": [penalty_on_the_unseen],
    "draw": [
        draw_with_noise_of_the_wrong_kind,
        draw_with_a_seed_of_its_own,
        draw_in_place,
    ],
    "answer_logprobs": [logprobs_of_one_row_for_all, logprobs_in_place],
    "pass_at_k": [pass_with_replacement],
    "beam_step": [beam_worst_first, beam_in_place],
}

_LAST = "the tensor has two dimensions: 1 is the last"
_ONE = "the dimension has size 1: its first is its last"

EQUIVALENT = {
    "keep_top_k: `least = logits.topk(min(k, logits.shape[-1])).values[..., -1:]` -> "
    "`least = logits.topk(min(logits.shape[-1], k)).values[..., -1:]`": (
        "min takes its arguments in either order"
    ),
    "keep_top_p: `order = logits.sort(dim=-1, descending=True)` -> "
    "`order = logits.sort(descending=True)`": "the last dimension is the default",
    "keep_top_p: `cut = probs.cumsum(dim=-1) - probs >= p` -> "
    "`cut = probs.cumsum(dim=-1) - probs > p`": (
        "they differ where a sum is exactly p, which rounding decides: no case is one"
    ),
    "penalise_repetition: `less = torch.where(logits > 0, logits / penalty, logits * "
    "penalty)` -> `less = torch.where(logits >= 0, logits / penalty, logits * "
    "penalty)`": "they differ at a logit of 0, which stays 0 either way",
    "draw: `probs = (logits / temperature).softmax(dim=-1)` -> "
    "`probs = (logits / temperature).softmax(dim=1)`": _LAST,
    "draw: `return logits.argmax(dim=-1)` -> `return logits.argmax(dim=1)`": _LAST,
    "draw: `return torch.multinomial(probs, 1, generator=generator)[:, 0]` -> "
    "`return torch.multinomial(probs, 2, generator=generator)[:, 0]`": (
        "of two draws without putting back, the first has the right frequencies"
    ),
    "draw: `return torch.multinomial(probs, 1, generator=generator)[:, 0]` -> "
    "`return torch.multinomial(probs, 1, generator=generator)[:, -1]`": _ONE,
    "answer_logprobs: `return logprobs.gather(-1, chosen)[..., 0]` -> "
    "`return logprobs.gather(-1, chosen)[..., -1]`": _ONE,
    "answer_logprobs: `logprobs = (logits[:, start - 1:-1] / "
    "temperature).log_softmax(dim=-1)` -> `logprobs = (logits[:, start - 1:] / "
    "temperature).log_softmax(dim=-1)`": (
        "gather reads as many positions as there are tokens; the one more is unread"
    ),
}
