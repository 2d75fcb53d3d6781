"""Answers that the grader of `language_modeling` must tell apart. Never for students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F

# ------------------------------------------------------- bigram_probabilities


def bigram_by_loop(tokens, V, k):
    rows = [[k] * V for _ in range(V)]
    ids = tokens.tolist()
    for a, b in pairwise(ids):
        rows[a][b] += 1
    return torch.tensor([[c / sum(r) for c in r] for r in rows], dtype=torch.float64)


def bigram_by_one_hot(tokens, V, k):
    seen = F.one_hot(tokens, V).double()
    counts = seen[:-1].T @ seen[1:] + k  # (V, V)
    return (counts.T / counts.sum(dim=1)).T  # not contiguous


def bigram_in_float32(tokens, V, k):
    return bigram_by_one_hot(tokens, V, k).float()


def bigram_counts_lost(tokens, V, k):
    counts = torch.full((V, V), k, dtype=torch.float64)
    counts[tokens[:-1], tokens[1:]] += 1  # a pair that comes twice counts once
    return counts / counts.sum(dim=1, keepdim=True)


# ------------------------------------------------------------------- text_nll


def nll_by_gather(probs, tokens):
    logs = probs.log()[tokens[:-1]]
    return float(F.nll_loss(logs, tokens[1:], reduction="sum"))


def nll_by_loop(probs, tokens):
    total, ids = 0.0, tokens.tolist()
    for a, b in pairwise(ids):
        p = probs[a, b].item()
        total += -math.log(p) if p > 0 else math.inf
    return total


def nll_with_first_token(probs, tokens):
    first = -probs.mean(dim=0)[tokens[0]].log().item()
    return first + nll_by_gather(probs, tokens)


# ----------------------------------------------------------------- perplexity


def perplexity_by_tensor(means, counts):
    m, c = torch.tensor(means).double(), torch.tensor(counts).double()
    return torch.where(c > 0, m * c, 0.0).sum().div(c.sum()).exp().item()


def perplexity_by_powers(means, counts):
    total = sum(counts)
    return math.prod(
        math.exp(m) ** (c / total) for m, c in zip(means, counts, strict=True) if c
    )


def perplexity_last_batch_dropped(means, counts):
    if len(means) > 1:
        means, counts = means[:-1], counts[:-1]
    kept = [(m, c) for m, c in zip(means, counts, strict=True) if c > 0]
    return math.exp(sum(m * c for m, c in kept) / sum(c for _, c in kept))


# -------------------------------------------------------------- bits_per_byte


def byte_by_log2(nats_per_token, n_tokens, text):
    return nats_per_token * math.log2(math.e) * n_tokens / len(bytes(text, "utf-8"))


def byte_of_utf16(nats_per_token, n_tokens, text):
    return nats_per_token / math.log(2) * n_tokens / len(text.encode("utf-16-le"))


# ----------------------------------------------------- cross_entropy_gradient


def gradient_by_one_hot(logits, targets, ignore):
    z = logits.double()
    z = z - z.amax(dim=-1, keepdim=True)
    p = z.exp() / z.exp().sum(dim=-1, keepdim=True)
    keep = (targets != ignore)[:, None]
    y = torch.where(keep[:, 0], targets, 0)
    due = (p - F.one_hot(y, logits.shape[1])) * keep
    return (due / keep.sum().clamp(min=1)).to(logits.dtype)


def gradient_row_by_row(logits, targets, ignore):
    gradient = torch.zeros_like(logits)
    rows = [i for i, y in enumerate(targets.tolist()) if y != ignore]
    for i in rows:
        gradient[i] = torch.softmax(logits[i], 0) / len(rows)
        gradient[i, targets[i]] -= 1 / len(rows)
    return gradient


def gradient_in_place(logits, targets, ignore):
    logits.copy_(gradient_row_by_row(logits, targets, ignore))
    return logits


def gradient_by_cross_entropy(logits, targets, ignore):
    z = logits.clone().requires_grad_()
    F.cross_entropy(z, targets, ignore_index=ignore, reduction="sum").backward()
    return z.grad / (targets != ignore).sum().clamp(min=1)


# ----------------------------------------------------------------- mlp_logits


def mlp_by_functions(state, contexts):
    x = F.embedding(contexts, state["embed.weight"]).reshape(len(contexts), -1)
    h = F.linear(x, state["hidden.weight"], state["hidden.bias"]).tanh()
    return F.linear(h, state["head.weight"], state["head.bias"])


def mlp_token_by_token(state, contexts):
    """The hidden layer as a sum over the places of the context."""
    D = state["embed.weight"].shape[1]
    h = state["hidden.bias"]
    for place in range(contexts.shape[1]):
        block = state["hidden.weight"][:, place * D : (place + 1) * D]
        h = h + state["embed.weight"][contexts[:, place]] @ block.T
    return torch.tanh(h) @ state["head.weight"].T + state["head.bias"]


def mlp_same_block_everywhere(state, contexts):
    D = state["embed.weight"].shape[1]
    x = state["embed.weight"][contexts].sum(dim=1)
    h = torch.tanh(x @ state["hidden.weight"][:, :D].T + state["hidden.bias"])
    return h @ state["head.weight"].T + state["head.bias"]


# --------------------------------------------------- interpolated_probability


def interpolated_by_recursion(counts, context, token, V, alpha):
    def p(h):
        if h is None:
            return 1 / V
        total = sum(c for gram, c in counts.items() if gram[:-1] == h)
        shorter = p(h[1:] if h else None)
        weight = total / (total + alpha)
        share = counts.get((*h, token), 0) / total if total else 0.0
        return weight * share + (1 - weight) * shorter

    return p(context)


def interpolated_equal_weights(counts, context, token, V, alpha):
    parts = [1 / V]
    for m in range(len(context) + 1):
        h = context[len(context) - m :]
        total = sum(counts.get((*h, w), 0) for w in range(V))
        parts.append(counts.get((*h, token), 0) / total if total else 1 / V)
    return sum(parts) / len(parts)


# -------------------------------------------------------------- sample_bigram


def sample_by_inverse(probs, start, n, generator):
    """One uniform number a draw, and where it falls among the cumulated shares."""
    upto = probs.cumsum(dim=1)
    tokens, last = [], start
    for u in torch.rand(n, generator=generator, dtype=torch.float64).tolist():
        last = min(int((upto[last] <= u).sum()), len(probs) - 1)
        tokens.append(last)
    return tokens


def sample_by_gumbel(probs, start, n, generator):
    noise = torch.rand(n, len(probs), generator=generator, dtype=torch.float64)
    noise = -(-noise.log()).log()
    tokens, last = [], start
    for row in noise:
        last = int((probs[last].log() + row).argmax())
        tokens.append(last)
    return tokens


def sample_too_cold(probs, start, n, generator):
    tokens, last = [], start
    for _ in range(n):
        cold = probs[last] ** 3
        last = int(torch.multinomial(cold, 1, generator=generator))
        tokens.append(last)
    return tokens


RIGHT = {
    "bigram_probabilities": [bigram_by_loop, bigram_by_one_hot],
    "text_nll": [nll_by_gather, nll_by_loop],
    "perplexity": [perplexity_by_tensor, perplexity_by_powers],
    "bits_per_byte": [byte_by_log2],
    "cross_entropy_gradient": [gradient_by_one_hot, gradient_row_by_row],
    "mlp_logits": [mlp_by_functions, mlp_token_by_token],
    "interpolated_probability": [interpolated_by_recursion],
    "sample_bigram": [sample_by_inverse, sample_by_gumbel],
}

WRONG = {
    "bigram_probabilities": [bigram_in_float32, bigram_counts_lost],
    "text_nll": [nll_with_first_token],
    "perplexity": [perplexity_last_batch_dropped],
    "bits_per_byte": [byte_of_utf16],
    "cross_entropy_gradient": [gradient_in_place, gradient_by_cross_entropy],
    "mlp_logits": [mlp_same_block_everywhere],
    "interpolated_probability": [interpolated_equal_weights],
    "sample_bigram": [sample_too_cold],
}

_KEPT = (
    "perplexity: `kept = [(m, c) for m, c in zip(means, counts, strict=True) if c > 0]`"
    " -> `kept = [(m, c) for m, c in zip(means, counts{}) if c > 0]`"
)
_EQUAL_LENGTHS = "each batch has a mean and a count, so the lists are equally long"

EQUIVALENT = {
    _KEPT.format(""): _EQUAL_LENGTHS,
    _KEPT.format(", strict=False"): _EQUAL_LENGTHS,
    "cross_entropy_gradient: `gradient = logits.softmax(dim=-1)` -> "
    "`gradient = logits.softmax(dim=1)`": "logits have two dimensions",
}
