"""What goes wrong in the exercise `sampling`, and the hint for each."""

from __future__ import annotations

import math

import torch

from posttrain.checks.task import Mistake

# ---------------------------------------------------------------- keep_top_k


def top_k_fills_with_zero(logits, k):
    least = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < least, 0.0)


def top_k_breaks_ties(logits, k):
    best = logits.topk(min(k, logits.shape[-1]))
    return torch.full_like(logits, -torch.inf).scatter(-1, best.indices, best.values)


def top_k_counts_a_tie_once(logits, k):
    def least(row):
        ranked = row.unique()
        return ranked[-min(k, len(ranked))]

    rows = logits.reshape(-1, logits.shape[-1])
    bars = torch.stack([least(row) for row in rows]).reshape(*logits.shape[:-1], 1)
    return logits.masked_fill(logits < bars, -torch.inf)


def top_k_cuts_the_kth(logits, k):
    least = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits <= least, -torch.inf)


def top_k_too_large(logits, k):
    least = logits.topk(k).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def top_k_in_place(logits, k):
    least = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill_(logits < least, -torch.inf)


def top_k_over_the_batch(logits, k):
    least = logits.flatten().topk(min(k, logits.numel())).values[-1]
    return logits.masked_fill(logits < least, -torch.inf)


# ---------------------------------------------------------------- keep_top_p


def sorted_probs(logits):
    order = logits.sort(dim=-1, descending=True)
    return order.values.softmax(-1), order.indices


def unsorted(cut, indices):
    return torch.zeros_like(cut).scatter(-1, indices, cut)


def top_p_cuts_the_crossing_token(logits, p):
    probs, indices = sorted_probs(logits)
    cut = probs.cumsum(-1) > p
    return logits.masked_fill(unsorted(cut, indices), -torch.inf)


def top_p_keeps_the_first_only_by_hand(logits, p):
    probs, indices = sorted_probs(logits)
    cut = probs.cumsum(-1) > p
    cut[..., 0] = False
    return logits.masked_fill(unsorted(cut, indices), -torch.inf)


def top_p_forgets_to_unsort(logits, p):
    probs, _ = sorted_probs(logits)
    return logits.masked_fill(probs.cumsum(-1) - probs >= p, -torch.inf)


def top_p_gathers_instead_of_scatters(logits, p):
    probs, indices = sorted_probs(logits)
    cut = probs.cumsum(-1) - probs >= p
    return logits.masked_fill(cut.gather(-1, indices), -torch.inf)


def top_p_from_the_unlikely_end(logits, p):
    order = logits.sort(dim=-1)
    probs = order.values.softmax(-1)
    cut = probs.cumsum(-1) - probs >= p
    return logits.masked_fill(unsorted(cut, order.indices), -torch.inf)


def top_p_as_a_threshold(logits, p):
    return logits.masked_fill(logits.softmax(-1) < 1 - p, -torch.inf)


def top_p_of_logits(logits, p):
    order = logits.sort(dim=-1, descending=True)
    cut = order.values.cumsum(-1) - order.values >= p
    return logits.masked_fill(unsorted(cut, order.indices), -torch.inf)


# ---------------------------------------------------------------- keep_min_p


def min_p_absolute(logits, p):
    return logits.masked_fill(logits.softmax(-1) < p, -torch.inf)


def min_p_of_logits(logits, p):
    return logits.masked_fill(logits < p * logits.amax(-1, keepdim=True), -torch.inf)


def min_p_over_the_batch(logits, p):
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < p * probs.max(), -torch.inf)


def min_p_returns_probabilities(logits, p):
    probs = logits.softmax(-1)
    return probs.masked_fill(probs < p * probs.amax(-1, keepdim=True), 0.0)


# ------------------------------------------------------- penalise_repetition


def penalty_divides_always(logits, seen, penalty):
    return torch.where(seen, logits / penalty, logits)


def penalty_subtracts(logits, seen, penalty):
    return torch.where(seen, logits - penalty, logits)


def penalty_on_all(logits, seen, penalty):
    return torch.where(logits > 0, logits / penalty, logits * penalty)


def penalty_the_wrong_way(logits, seen, penalty):
    more = torch.where(logits > 0, logits * penalty, logits / penalty)
    return torch.where(seen, more, logits)


def penalty_cuts(logits, seen, penalty):
    return logits.masked_fill(seen, -torch.inf)


# ---------------------------------------------------------------- draw


def draw_with(weights, generator):
    return torch.multinomial(weights, 1, generator=generator)[:, 0]


def draw_times_temperature(logits, temperature, generator):
    if temperature == 0:
        return logits.argmax(-1)
    return draw_with((logits * temperature).softmax(-1), generator)


def draw_softmax_first(logits, temperature, generator):
    if temperature == 0:
        return logits.argmax(-1)
    return draw_with(logits.softmax(-1) / temperature, generator)


def draw_softmax_twice(logits, temperature, generator):
    if temperature == 0:
        return logits.argmax(-1)
    return draw_with((logits.softmax(-1) / temperature).softmax(-1), generator)


def draw_ignores_the_generator(logits, temperature, generator):
    if temperature == 0:
        return logits.argmax(-1)
    return draw_with((logits / temperature).softmax(-1), None)


def draw_one_number_for_all_rows(logits, temperature, generator):
    if temperature == 0:
        return logits.argmax(-1)
    u = torch.rand((), generator=generator)
    sums = (logits / temperature).softmax(-1).cumsum(-1)
    return (sums < u).sum(-1).clamp(max=logits.shape[-1] - 1)


def draw_is_greedy(logits, temperature, generator):
    return logits.argmax(-1)


def draw_keeps_a_dimension(logits, temperature, generator):
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    probs = (logits / temperature).softmax(-1)
    return torch.multinomial(probs, 1, generator=generator)


def draw_loses_the_dimension(logits, temperature, generator):
    if temperature == 0:
        return logits.argmax(-1)
    probs = (logits / temperature).softmax(-1)
    return torch.multinomial(probs, 1, generator=generator).squeeze()


def draw_nearly_greedy(logits, temperature, generator):
    return draw_with((logits / max(temperature, 1e-6)).softmax(-1), generator)


def draw_starts_over(logits, temperature, generator):
    if temperature == 0:
        return logits.argmax(-1)
    generator.manual_seed(generator.initial_seed())
    return draw_with((logits / temperature).softmax(-1), generator)


def draw_divides_by_zero(logits, temperature, generator):
    return draw_with((logits / temperature).softmax(-1), generator)


# ---------------------------------------------------------------- answer_logprobs


def picked(logprobs, tokens):
    return logprobs.gather(-1, tokens[..., None])[..., 0]


def logprobs_not_shifted(logits, tokens, start, temperature):
    logprobs = (logits / temperature).log_softmax(-1)
    return picked(logprobs, tokens)[:, start:]


def logprobs_one_too_few(logits, tokens, start, temperature):
    logprobs = (logits / temperature).log_softmax(-1)
    return picked(logprobs[:, start:-1], tokens[:, start + 1 :])


def logprobs_with_the_prompt(logits, tokens, start, temperature):
    logprobs = (logits / temperature).log_softmax(-1)
    return picked(logprobs[:, :-1], tokens[:, 1:])


def logprobs_without_temperature(logits, tokens, start, temperature):
    logprobs = logits.log_softmax(-1)
    return picked(logprobs[:, start - 1 : -1], tokens[:, start:])


def logprobs_temperature_last(logits, tokens, start, temperature):
    logprobs = logits.log_softmax(-1) / temperature
    return picked(logprobs[:, start - 1 : -1], tokens[:, start:])


def logprobs_underflow(logits, tokens, start, temperature):
    logprobs = (logits / temperature).softmax(-1).log()
    return picked(logprobs[:, start - 1 : -1], tokens[:, start:])


def logprobs_summed(logits, tokens, start, temperature):
    logprobs = (logits / temperature).log_softmax(-1)
    return picked(logprobs[:, start - 1 : -1], tokens[:, start:]).sum(-1)


# ---------------------------------------------------------------- pass_at_k


def pass_biased(n, c, k):
    return 1 - (1 - c / n) ** k


def pass_of_one(n, c, k):
    return c / n


def pass_all_right(n, c, k):
    return math.comb(c, k) / math.comb(n, k)


def pass_k_over_n(n, c, k):
    return min(1.0, c * k / n)


def pass_overflows(n, c, k):
    if n - c < k:
        return 1.0

    def binomial(a, b):
        total = 1.0
        for i in range(b):
            total *= (a - i) / (b - i)
        return total

    return 1 - binomial(n - c, k) / binomial(n, k)


# ---------------------------------------------------------------- beam_step


def parts(flat, totals):
    best = flat.topk(min(totals, flat.numel()))
    return best.values, best.indices


def beam_forgets_the_past(scores, logprobs, n):
    values, indices = parts(logprobs.flatten(), n)
    V = logprobs.shape[1]
    return values, indices // V, indices % V


def beam_swaps_parent_and_token(scores, logprobs, n):
    values, indices = parts((scores[:, None] + logprobs).flatten(), n)
    V = logprobs.shape[1]
    return values, indices % V, indices // V


def beam_divides_by_the_width(scores, logprobs, n):
    values, indices = parts((scores[:, None] + logprobs).flatten(), n)
    K = logprobs.shape[0]
    return values, indices // K, indices % K


def beam_best_of_each(scores, logprobs, n):
    best = (scores[:, None] + logprobs).max(-1)
    order = best.values.argsort(descending=True)[:n]
    return best.values[order], order, best.indices[order]


def beam_multiplies(scores, logprobs, n):
    values, indices = parts((scores[:, None] * logprobs).flatten(), n)
    V = logprobs.shape[1]
    return values, indices // V, indices % V


def beam_counts_the_living(scores, logprobs, n):
    alive = scores > -torch.inf
    values, indices = parts((scores[alive, None] + logprobs[alive]).flatten(), n)
    V = logprobs.shape[1]
    return values, indices // V, indices % V


def beam_adds_probabilities(scores, logprobs, n):
    values, indices = parts((scores[:, None].exp() + logprobs.exp()).flatten(), n)
    V = logprobs.shape[1]
    return values.log(), indices // V, indices % V


MISTAKES = {
    "keep_top_k": (
        Mistake(
            top_k_fills_with_zero,
            "a logit of 0 is not a probability of 0: it may well be the largest. Write "
            "-inf, whose exponential is 0.",
        ),
        Mistake(
            top_k_breaks_ties,
            "tokens that tie with the k-th stay, all of them. Compare with the k-th "
            "largest logit instead of taking k indices.",
        ),
        Mistake(
            top_k_counts_a_tie_once,
            "equal logits count as one, so too many tokens stay. The k-th likeliest of "
            "3, 3, 2 for k = 2 is the second 3.",
        ),
        Mistake(
            top_k_cuts_the_kth,
            "the k-th token itself is cut. Only what is *below* the k-th logit goes.",
        ),
        Mistake(
            top_k_too_large,
            "k may be larger than the vocabulary: `topk` then raises. Take min(k, V).",
        ),
        Mistake(
            top_k_in_place,
            "the caller's logits are changed (`masked_fill_`). They are needed again, "
            "for the log-probabilities. Use `masked_fill`.",
        ),
        Mistake(
            top_k_over_the_batch,
            "the k best are taken over the whole batch. Each row has its own: work "
            "along the last dimension.",
        ),
    ),
    "keep_top_p": (
        Mistake(
            top_p_cuts_the_crossing_token,
            "the token that crosses p is cut, so the rest holds less than p, and "
            "nothing at all if the likeliest token has more than p. Look at the sum "
            "*before* each token.",
        ),
        Mistake(
            top_p_keeps_the_first_only_by_hand,
            "the token that crosses p is cut unless it is the first. The nucleus is "
            "the smallest set with p *or more*: look at the sum before each token.",
        ),
        Mistake(
            top_p_forgets_to_unsort,
            "the cut is in sorted order and the logits are not. Scatter it back with "
            "the indices of the sort.",
        ),
        Mistake(
            top_p_gathers_instead_of_scatters,
            "`gather` applies the sort once more; the way back is `scatter`: place i "
            "of the sorted row belongs at indices[i].",
        ),
        Mistake(
            top_p_from_the_unlikely_end,
            "the sort runs from the unlikely end. Start with the likeliest token.",
        ),
        Mistake(
            top_p_as_a_threshold,
            "p is no threshold for single tokens. It is the mass that the kept ones "
            "have together.",
        ),
        Mistake(
            top_p_of_logits,
            "you sum logits. Mass is a matter of probabilities: softmax first.",
        ),
    ),
    "keep_min_p": (
        Mistake(
            min_p_absolute,
            "the bar is p itself. It must be p times the largest probability of the "
            "row, so that it moves with the model's confidence.",
        ),
        Mistake(
            min_p_of_logits,
            "you compare logits. A ratio of probabilities is a *difference* of logits: "
            "compare after the softmax, or with max + log(p).",
        ),
        Mistake(
            min_p_over_the_batch,
            "the largest probability is taken over the batch. Each row has its own.",
        ),
        Mistake(
            min_p_returns_probabilities,
            "return logits, with -inf where a token is cut. The next rule of the chain "
            "expects them.",
        ),
    ),
    "penalise_repetition": (
        Mistake(
            penalty_divides_always,
            "dividing a *negative* logit by the penalty brings it nearer to 0: the "
            "token becomes likelier. Multiply those.",
        ),
        Mistake(
            penalty_subtracts,
            "that is the presence penalty, another rule. This one divides positive "
            "logits and multiplies negative ones.",
        ),
        Mistake(
            penalty_on_all,
            "every token is penalised. Only those of `seen` are.",
        ),
        Mistake(
            penalty_the_wrong_way,
            "the two branches are swapped: seen tokens become likelier.",
        ),
        Mistake(
            penalty_cuts,
            "seen tokens are forbidden. A penalty makes them less likely, by a factor.",
        ),
    ),
    "draw": (
        Mistake(
            draw_times_temperature,
            "you multiply by the temperature. A high one must *flatten*: divide.",
        ),
        Mistake(
            draw_softmax_first,
            "the temperature divides probabilities, and `multinomial` norms them "
            "again, so it has no effect. Divide the logits, then take the softmax.",
        ),
        Mistake(
            draw_softmax_twice,
            "there are two softmaxes. The inner one squeezes all logits into 0 ... 1, "
            "so the result is nearly uniform.",
        ),
        Mistake(
            draw_ignores_the_generator,
            "the draws come from PyTorch's global generator, so nobody can repeat "
            "them. Pass `generator=generator`.",
        ),
        Mistake(
            draw_one_number_for_all_rows,
            "one random number serves all rows: neighbours with equal logits always "
            "get the same token. Draw one for each row.",
        ),
        Mistake(
            draw_is_greedy,
            "this is always the likeliest token. Only temperature 0 is greedy.",
        ),
        Mistake(
            draw_keeps_a_dimension,
            "the result is (B, 1). Return (B,), one integer a row.",
        ),
        Mistake(
            draw_loses_the_dimension,
            "`squeeze()` drops every dimension of size 1, so a batch of one row gives "
            "a number without a shape. Drop the last one only.",
        ),
        Mistake(
            draw_nearly_greedy,
            "a tiny temperature in place of 0 still draws: it takes numbers from the "
            "generator, and near ties stay random. Return the argmax.",
        ),
        Mistake(
            draw_starts_over,
            "the generator is set back to its seed at each call, so every token of a "
            "text is drawn with the same number. Only pass it on.",
        ),
        Mistake(
            draw_divides_by_zero,
            "a temperature of 0 is a division by zero. Return the argmax for it.",
        ),
    ),
    "answer_logprobs": (
        Mistake(
            logprobs_not_shifted,
            "the logits at position t are about token t + 1. You read token t's own "
            "probability from them: off by one.",
        ),
        Mistake(
            logprobs_one_too_few,
            "the first token of the answer is missing: the *last* token of the prompt "
            "predicts it, at position start - 1.",
        ),
        Mistake(
            logprobs_with_the_prompt,
            "the tokens of the prompt are in it. Nobody drew those: begin at `start`.",
        ),
        Mistake(
            logprobs_without_temperature,
            "these are the model's log-probabilities at temperature 1. The tokens were "
            "drawn from softmax(logits / temperature).",
        ),
        Mistake(
            logprobs_temperature_last,
            "log p / temperature is not normed: the probabilities no longer sum to 1. "
            "Divide the logits first, then take the log-softmax.",
        ),
        Mistake(
            logprobs_underflow,
            "a small probability underflows to 0 and its logarithm is -inf. Use "
            "`log_softmax`, which never leaves the logarithm.",
        ),
        Mistake(
            logprobs_summed,
            "return one number for each token. Sums come later, under a mask.",
        ),
    ),
    "pass_at_k": (
        Mistake(
            pass_biased,
            "1 - (1 - c/n) ** k plugs an estimate into a curved function: too low on "
            "average. Count subsets: 1 - C(n - c, k) / C(n, k).",
        ),
        Mistake(pass_of_one, "that is pass@1. Where is k?"),
        Mistake(
            pass_all_right,
            "that is the probability that *all* k are right. One right one is enough.",
        ),
        Mistake(
            pass_k_over_n,
            "k times the chance of one counts a group with two right ones twice. Take "
            "the complement: all k wrong.",
        ),
        Mistake(
            pass_overflows,
            "the binomials overflow a float for large n, and inf / inf is NaN. "
            "Multiply the ratios 1 - k / i instead, or use `math.comb`.",
        ),
    ),
    "beam_step": (
        Mistake(
            beam_forgets_the_past,
            "the beams are ranked by their newest token alone. Add the score so far.",
        ),
        Mistake(
            beam_swaps_parent_and_token,
            "parent and token are swapped. In a flattened (K, V) table the place is "
            "parent * V + token.",
        ),
        Mistake(
            beam_divides_by_the_width,
            "the rows of the table are V long, so divide by V, not by K.",
        ),
        Mistake(
            beam_best_of_each,
            "each beam brings its best token only. Two of the best may come from one "
            "beam: choose among all K * V.",
        ),
        Mistake(
            beam_multiplies,
            "log-probabilities add; it is probabilities that multiply.",
        ),
        Mistake(
            beam_counts_the_living,
            "the dead beams were taken out first, so the parents are counted among "
            "the living. A parent is a place in `scores`.",
        ),
        Mistake(
            beam_adds_probabilities,
            "the probability of a text is the *product* over its tokens: add the "
            "logarithms.",
        ),
    ),
}
