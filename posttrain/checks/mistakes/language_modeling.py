"""What goes wrong in the exercise `language_modeling`, and the hint for each."""

from __future__ import annotations

import math

import torch

from posttrain.checks.task import Mistake

# ------------------------------------------------------- bigram_probabilities


def _counts(tokens, V):
    """A right count (V, V), for the mistakes that come after it."""
    flat = tokens[:-1] * V + tokens[1:]
    return torch.bincount(flat, minlength=V * V).view(V, V).double()


def bigram_columns(tokens, V, k):
    counts = _counts(tokens, V) + k
    return counts / counts.sum(dim=0, keepdim=True)


def bigram_backwards(tokens, V, k):
    counts = _counts(tokens.flip(0), V) + k
    return counts / counts.sum(dim=1, keepdim=True)


def bigram_denominator_without_k(tokens, V, k):
    counts = _counts(tokens, V)
    return (counts + k) / counts.sum(dim=1, keepdim=True).clamp(min=1)


def bigram_k_once(tokens, V, k):
    counts = _counts(tokens, V)
    return (counts + k) / (counts.sum(dim=1, keepdim=True) + k)


def bigram_only_unseen(tokens, V, k):
    counts = _counts(tokens, V)
    counts = torch.where(counts == 0, k, counts)
    return counts / counts.sum(dim=1, keepdim=True)


def bigram_round_the_end(tokens, V, k):
    flat = tokens * V + tokens.roll(-1)
    counts = torch.bincount(flat, minlength=V * V).view(V, V).double() + k
    return counts / counts.sum(dim=1, keepdim=True)


def bigram_each_pair_once(tokens, V, k):
    counts = (_counts(tokens, V) > 0).double() + k
    return counts / counts.sum(dim=1, keepdim=True)


# ------------------------------------------------------------------- text_nll


def nll_mean(probs, tokens):
    total = -probs[tokens[:-1], tokens[1:]].log().sum().item()
    return total / max(1, len(tokens) - 1)


def nll_bits(probs, tokens):
    return -probs[tokens[:-1], tokens[1:]].log2().sum().item()


def nll_of_product(probs, tokens):
    return -probs[tokens[:-1], tokens[1:]].prod().log().item()


def nll_backwards(probs, tokens):
    return -probs[tokens[1:], tokens[:-1]].log().sum().item()


def nll_not_shifted(probs, tokens):
    return -probs[tokens[:-1], tokens[:-1]].log().sum().item()


def nll_with_epsilon(probs, tokens):
    return -(probs[tokens[:-1], tokens[1:]] + 1e-9).log().sum().item()


# ----------------------------------------------------------------- perplexity


def _counted(means, counts):
    return [(m, c) for m, c in zip(means, counts, strict=True) if c > 0]


def perplexity_mean_of_means(means, counts):
    kept = [m for m, _ in _counted(means, counts)]
    return math.exp(sum(kept) / len(kept))


def perplexity_mean_of_perplexities(means, counts):
    kept = _counted(means, counts)
    return sum(math.exp(m) * c for m, c in kept) / sum(c for _, c in kept)


def perplexity_base_two(means, counts):
    kept = _counted(means, counts)
    return 2 ** (sum(m * c for m, c in kept) / sum(c for _, c in kept))


def perplexity_of_sums(means, counts):
    kept = _counted(means, counts)
    return math.exp(sum(m for m, _ in kept) / sum(c for _, c in kept))


def perplexity_nan(means, counts):
    total = sum(m * c for m, c in zip(means, counts, strict=True))
    return math.exp(total / sum(counts))


# -------------------------------------------------------------- bits_per_byte


def byte_characters(nats_per_token, n_tokens, text):
    return nats_per_token * n_tokens / math.log(2) / len(text)


def byte_nats(nats_per_token, n_tokens, text):
    return nats_per_token * n_tokens / len(text.encode())


def byte_token(nats_per_token, n_tokens, text):
    return nats_per_token / math.log(2)


def byte_upside_down(nats_per_token, n_tokens, text):
    return nats_per_token / math.log(2) * len(text.encode()) / n_tokens


def byte_times_ln2(nats_per_token, n_tokens, text):
    return nats_per_token * n_tokens * math.log(2) / len(text.encode())


# ----------------------------------------------------- cross_entropy_gradient


def _gradient(logits, targets, ignore, weigh):
    """Softmax minus one-hot, with `weigh(counted)` as the weight of each row."""
    counted = targets != ignore
    one_hot = torch.zeros_like(logits)
    rows = torch.arange(len(targets))
    one_hot[rows[counted], targets[counted]] = 1.0
    return (logits.softmax(dim=-1) - one_hot) * weigh(counted)[:, None]


def _mean(counted):
    return counted / counted.sum().clamp(min=1)


def gradient_divides_by_all(logits, targets, ignore):
    return _gradient(logits, targets, ignore, lambda c: c / len(c))


def gradient_of_the_sum(logits, targets, ignore):
    return _gradient(logits, targets, ignore, lambda c: c.to(logits.dtype))


def gradient_keeps_ignored(logits, targets, ignore):
    def all_rows(c):
        return torch.ones(len(c)) / c.sum().clamp(min=1)

    return _gradient(logits, targets, ignore, all_rows).to(logits.dtype)


def gradient_sign(logits, targets, ignore):
    return -_gradient(logits, targets, ignore, _mean)


def gradient_overflows(logits, targets, ignore):
    counted = targets != ignore
    p = logits.exp() / logits.exp().sum(dim=-1, keepdim=True)
    rows = torch.arange(len(targets))
    p[rows[counted], targets[counted]] -= 1.0
    p[~counted] = 0.0
    return p / counted.sum().clamp(min=1)


def gradient_one_largest_logit(logits, targets, ignore):
    p = (logits - logits.max()).exp()
    p = p / p.sum(dim=-1, keepdim=True)
    counted = targets != ignore
    rows = torch.arange(len(targets))
    p[rows[counted], targets[counted]] -= 1.0
    p[~counted] = 0.0
    return p / counted.sum().clamp(min=1)


def gradient_zero_by_zero(logits, targets, ignore):
    return _gradient(logits, targets, ignore, lambda c: c / c.sum())


def gradient_only_minus_100(logits, targets, ignore):
    valid = torch.where(targets < 0, -100, targets)
    return _gradient(logits, valid, -100, _mean)


# ----------------------------------------------------------------- mlp_logits


def _mlp(state, x, squash=torch.tanh):
    h = squash(x @ state["hidden.weight"].T + state["hidden.bias"])
    return h @ state["head.weight"].T + state["head.bias"]


def mlp_reversed(state, contexts):
    return _mlp(state, state["embed.weight"][contexts.flip(1)].flatten(1))


def mlp_by_channel(state, contexts):
    x = state["embed.weight"][contexts]  # (N, k, D)
    return _mlp(state, x.transpose(1, 2).flatten(1))


def mlp_relu(state, contexts):
    x = state["embed.weight"][contexts].flatten(1)
    return _mlp(state, x, torch.relu)


def mlp_linear(state, contexts):
    return _mlp(state, state["embed.weight"][contexts].flatten(1), lambda h: h)


def mlp_without_biases(state, contexts):
    x = state["embed.weight"][contexts].flatten(1)
    return torch.tanh(x @ state["hidden.weight"].T) @ state["head.weight"].T


def mlp_probabilities(state, contexts):
    x = state["embed.weight"][contexts].flatten(1)
    return _mlp(state, x).softmax(dim=-1)


# --------------------------------------------------- interpolated_probability


def _total(counts, h):
    return sum(c for gram, c in counts.items() if gram[:-1] == h)


def interpolated_longest_only(counts, context, token, V, alpha):
    total = _total(counts, context)
    return (counts.get((*context, token), 0) + alpha / V) / (total + alpha)


def interpolated_first_tokens(counts, context, token, V, alpha):
    p = 1 / V
    for m in range(len(context) + 1):
        h = context[:m]
        p = (counts.get((*h, token), 0) + alpha * p) / (_total(counts, h) + alpha)
    return p


def interpolated_count_of_context(counts, context, token, V, alpha):
    p = 1 / V
    for m in range(len(context) + 1):
        h = context[len(context) - m :]
        total = counts.get(h, 0) if h else _total(counts, ())
        p = (counts.get((*h, token), 0) + alpha * p) / (total + alpha)
    return p


def interpolated_stops_at_counts(counts, context, token, V, alpha):
    for m in range(len(context), -1, -1):
        h = context[len(context) - m :]
        if (*h, token) in counts:
            return counts[(*h, token)] / _total(counts, h)
    return 1 / V


def interpolated_without_uniform(counts, context, token, V, alpha):
    p = counts.get((token,), 0) / _total(counts, ())
    for m in range(1, len(context) + 1):
        h = context[len(context) - m :]
        p = (counts.get((*h, token), 0) + alpha * p) / (_total(counts, h) + alpha)
    return p


def interpolated_trigrams_at_most(counts, context, token, V, alpha):
    p = 1 / V
    for m in range(min(len(context), 2) + 1):
        h = context[len(context) - m :]
        p = (counts.get((*h, token), 0) + alpha * p) / (_total(counts, h) + alpha)
    return p


# -------------------------------------------------------------- sample_bigram


def _chain(probs, start, n, generator, row):
    drawn, last = [], start
    for _ in range(n):
        last = int(torch.multinomial(row(probs, last), 1, generator=generator))
        drawn.append(last)
    return drawn


def sample_argmax(probs, start, n, generator):
    drawn, last = [], start
    for _ in range(n):
        last = int(probs[last].argmax())
        drawn.append(last)
    return drawn


def sample_columns(probs, start, n, generator):
    return _chain(probs, start, n, generator, lambda p, last: p[:, last])


def sample_never_moves_on(probs, start, n, generator):
    return _chain(probs, start, n, generator, lambda p, last: p[start])


def sample_with_start(probs, start, n, generator):
    return [start, *_chain(probs, start, n, generator, lambda p, last: p[last])]


def sample_forgets_generator(probs, start, n, generator):
    return _chain(probs, start, n, None, lambda p, last: p[last])


def sample_with_a_copy(probs, start, n, generator):
    own = torch.Generator().manual_seed(generator.initial_seed())
    return _chain(probs, start, n, own, lambda p, last: p[last])


def sample_seeds_everybody(probs, start, n, generator):
    torch.manual_seed(generator.initial_seed())
    return _chain(probs, start, n, None, lambda p, last: p[last])


def sample_softmax_again(probs, start, n, generator):
    return _chain(probs, start, n, generator, lambda p, last: p[last].softmax(0))


MISTAKES = {
    "bigram_probabilities": (
        Mistake(
            bigram_columns,
            "Your columns sum to 1. Row a must: it says what follows token a.",
        ),
        Mistake(
            bigram_backwards,
            "The row is the earlier token of a pair, the column the later one.",
        ),
        Mistake(
            bigram_denominator_without_k,
            "The rows do not sum to 1. Adding k to V counts adds k V to their sum.",
        ),
        Mistake(
            bigram_k_once,
            "The rows do not sum to 1: k is added to V counts, so the sum grows by"
            " k V, not by k.",
        ),
        Mistake(
            bigram_only_unseen,
            "Add-k adds k to every count, also to those that are not 0.",
        ),
        Mistake(
            bigram_round_the_end,
            "The last token has no follower: N tokens make N - 1 pairs.",
        ),
        Mistake(
            bigram_each_pair_once,
            "A pair that occurs five times counts five. `counts[a, b] += 1` with index"
            " tensors adds 1 only once; use bincount or index_put_ with accumulate.",
        ),
    ),
    "text_nll": (
        Mistake(nll_mean, "The whole text is asked for: the sum, not the mean."),
        Mistake(nll_bits, "Nats are asked for: the natural logarithm, not base 2."),
        Mistake(
            nll_of_product,
            "The product of 2000 probabilities is 0.0 in floating point. Sum"
            " logarithms.",
        ),
        Mistake(
            nll_backwards,
            "probs[a, b] is p(b | a): the row is the token that comes first.",
        ),
        Mistake(
            nll_not_shifted,
            "You score each token as its own follower. Shift: inputs are tokens[:-1],"
            " targets tokens[1:].",
        ),
        Mistake(
            nll_with_epsilon,
            "No epsilon inside the logarithm: it turns an impossible event into a cheap"
            " one. The answer is then inf, and smoothing belongs into the model.",
        ),
    ),
    "perplexity": (
        Mistake(
            perplexity_mean_of_means,
            "A mean of means gives a batch of one token the weight of a batch of nine."
            " Go back to sums: mean times count.",
        ),
        Mistake(
            perplexity_mean_of_perplexities,
            "Average the losses first and take exp last. The mean of exponentials is"
            " larger (Jensen).",
        ),
        Mistake(
            perplexity_base_two,
            "The losses are nats, so the base is e. 2 belongs to bits.",
        ),
        Mistake(
            perplexity_of_sums,
            "The entries are means already: multiply each by its count before you"
            " divide by all tokens.",
        ),
        Mistake(
            perplexity_nan,
            "A batch with no token has the mean NaN, and NaN times 0 is NaN. Skip it.",
        ),
    ),
    "bits_per_byte": (
        Mistake(
            byte_characters,
            "len(text) counts characters. Bytes are len(text.encode()): an é has two.",
        ),
        Mistake(byte_nats, "These are nats. One bit is ln 2 nats, so divide by ln 2."),
        Mistake(
            byte_token,
            "These are bits a token. Multiply by the tokens and divide by the bytes.",
        ),
        Mistake(
            byte_upside_down,
            "Upside down: the total is nats a token times tokens, spread over bytes.",
        ),
        Mistake(
            byte_times_ln2,
            "Nats to bits is a division by ln 2 = 0.693: the number of bits is larger.",
        ),
    ),
    "cross_entropy_gradient": (
        Mistake(
            gradient_divides_by_all,
            "The mean is over the targets that count, not over all rows.",
        ),
        Mistake(
            gradient_of_the_sum,
            "That is the gradient of the sum. The mean divides by the number of targets"
            " that count.",
        ),
        Mistake(
            gradient_keeps_ignored,
            "An ignored row is not in the loss, so its gradient is exactly zero.",
        ),
        Mistake(
            gradient_sign,
            "The sign: raising the logit of the target lowers the loss, so its gradient"
            " is negative.",
        ),
        Mistake(
            gradient_one_largest_logit,
            "You subtract the largest of all logits, so a row far below it underflows"
            " to 0 / 0. Take the maximum of each row.",
        ),
        Mistake(
            gradient_overflows,
            "exp(300) is inf in float32 and inf / inf is NaN. Subtract the largest"
            " logit of the row first.",
        ),
        Mistake(
            gradient_zero_by_zero,
            "Where no target counts you divide 0 by 0. Return zeros.",
        ),
        Mistake(
            gradient_only_minus_100,
            "What is ignored is the argument `ignore`, not always -100.",
        ),
    ),
    "mlp_logits": (
        Mistake(
            mlp_reversed,
            "The embeddings stand in the order of the context, oldest first.",
        ),
        Mistake(
            mlp_by_channel,
            "Lay whole embeddings side by side: (N, k, D) to (N, k D), without a"
            " transpose.",
        ),
        Mistake(mlp_relu, "The hidden layer of this network is a tanh."),
        Mistake(
            mlp_linear,
            "There is no tanh. Two linear layers in a row are one linear layer.",
        ),
        Mistake(mlp_without_biases, "Both layers have a bias in the state dict."),
        Mistake(mlp_probabilities, "Logits are asked for: no softmax at the end."),
    ),
    "interpolated_probability": (
        Mistake(
            interpolated_trigrams_at_most,
            "You stop at trigrams. The context may be longer: go up to all of it.",
        ),
        Mistake(
            interpolated_longest_only,
            "Each context falls back on the next shorter one. You go from the longest"
            " straight to 1 / V.",
        ),
        Mistake(
            interpolated_first_tokens,
            "The shorter context keeps the *last* tokens, those next to the target.",
        ),
        Mistake(
            interpolated_count_of_context,
            "c(h) is how often something *followed* h: the sum of c(h, w) over w. At"
            " the end of the text the two differ, and the sum over w is not 1.",
        ),
        Mistake(
            interpolated_stops_at_counts,
            "That is backing off without a discount: it uses the first order that has"
            " the n-gram, and the probabilities add up to more than 1. Mix instead.",
        ),
        Mistake(
            interpolated_without_uniform,
            "The recursion starts one step lower, at 1 / V, so that a token that was"
            " never seen has a probability, too.",
        ),
    ),
    "sample_bigram": (
        Mistake(
            sample_with_a_copy,
            "The generator itself stays where it is, so the next call draws the same"
            " text again. Pass it to `multinomial`.",
        ),
        Mistake(
            sample_seeds_everybody,
            "You seed PyTorch's global generator, and with it all who use it. Pass"
            " `generator` to `multinomial`.",
        ),
        Mistake(
            sample_argmax,
            "That is the likeliest follower each time, and soon a loop. Draw from the"
            " row.",
        ),
        Mistake(
            sample_columns,
            "Row a holds p(. | a). You draw from a column, which is no distribution.",
        ),
        Mistake(
            sample_never_moves_on,
            "Each draw must condition on the token drawn before it, not on `start`.",
        ),
        Mistake(sample_with_start, "Return the n new tokens only, without `start`."),
        Mistake(
            sample_forgets_generator,
            "Pass the generator on to every draw; otherwise nobody can repeat the"
            " sample.",
        ),
        Mistake(
            sample_softmax_again,
            "The rows are probabilities already; a softmax over them makes them nearly"
            " uniform.",
        ),
    ),
}
