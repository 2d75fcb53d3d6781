"""Checks of the exercise `language_modeling`.

References: numpy counting (bigram table), sums of logarithms with `math` (likelihood,
perplexity, bits per byte), softmax minus one-hot in float64 with numpy (gradient),
numpy with the weights of the state dict (network), exact fractions (interpolation).
Samples are judged by how often each pair occurs, against the expected share, and
exactly where the table leaves no choice.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import torch

from posttrain.checks.mistakes.language_modeling import MISTAKES
from posttrain.checks.task import TOLERANCE, Task


def draw(rng, low, high):
    """A whole number, low ... high."""
    return int(torch.randint(low, high + 1, (), generator=rng))


def number(rng, low, high):
    """A number between low and high."""
    return low + (high - low) * torch.rand((), generator=rng).item()


def table(rng, V):
    """Random rows (V, V) that sum to 1, float64, none of them near 0."""
    rows = torch.rand(V, V, generator=rng).double() + 0.15
    return rows / rows.sum(dim=1, keepdim=True)


# ------------------------------------------------------- bigram_probabilities


def bigram_cases(rng, hidden):
    yield torch.tensor([0, 1]), 2, 1.0
    yield torch.tensor([0, 1, 0, 0, 1]), 2, 0.5
    yield torch.tensor([2]), 3, 1.0  # no pair at all
    yield torch.tensor([0, 2, 2, 2, 0]), 4, 0.1  # 1 and 3 never occur
    yield torch.tensor([1, 0]), 3, 2.0  # the last token has no follower
    for _ in range(4 if hidden else 2):
        V = draw(rng, 2, 7)
        tokens = torch.randint(V, (draw(rng, 5, 60),), generator=rng)
        yield tokens, V, round(number(rng, 0.05, 2.0), 3)


def drive_bigram(answer, tokens, V, k):
    return {"probabilities": answer(tokens, V, k), "tokens": tokens}


def reference_bigram(tokens, V, k):
    counts = np.full((V, V), k, dtype=np.float64)
    np.add.at(counts, (tokens[:-1].numpy(), tokens[1:].numpy()), 1.0)
    rows = torch.from_numpy(counts / counts.sum(axis=1, keepdims=True))
    return {"probabilities": rows, "tokens": tokens}


# ------------------------------------------------------------------- text_nll


def nll_cases(rng, hidden):
    half = torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64)
    sure = torch.tensor([[0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
    yield half, torch.tensor([0])  # nothing to predict
    yield half, torch.tensor([0, 1])
    yield half, torch.tensor([0, 0, 1, 0])
    yield sure, torch.tensor([0, 1, 0, 1])
    yield sure, torch.tensor([1, 0, 0])  # impossible
    yield table(rng, 3), torch.randint(3, (2000,), generator=rng)  # p underflows
    for _ in range(4 if hidden else 1):
        V = draw(rng, 2, 6)
        tokens = torch.randint(V, (draw(rng, 3, 40),), generator=rng)
        yield table(rng, V), tokens


def drive_nll(answer, probs, tokens):
    return {"nats": answer(probs, tokens), "probs": probs, "tokens": tokens}


def reference_nll(probs, tokens):
    rows, ids = probs.tolist(), tokens.tolist()
    pairs = [rows[a][b] for a, b in pairwise(ids)]
    paid = [-math.log(p) if p > 0 else math.inf for p in pairs]
    total = math.inf if math.inf in paid else math.fsum(paid)
    return {"nats": total, "probs": probs, "tokens": tokens}


# ----------------------------------------------------------------- perplexity


def perplexity_cases(rng, hidden):
    yield [0.0], [4]
    yield [math.log(65)], [10]
    yield [1.0, 1.0], [8, 2]
    yield [1.0, 3.0], [9, 1]  # a short last batch that is hard
    yield [2.0, math.nan, 1.0], [2, 0, 2]  # a batch of padding only
    for _ in range(4 if hidden else 2):
        n = draw(rng, 2, 6)
        means = [round(number(rng, 0.2, 5.0), 4) for _ in range(n)]
        yield means, [draw(rng, 1, 64) for _ in range(n)]


def drive_perplexity(answer, means, counts):
    return {"perplexity": answer(means, counts), "means": means, "counts": counts}


def reference_perplexity(means, counts):
    pairs = [(m, c) for m, c in zip(means, counts, strict=True) if c > 0]
    total = math.fsum(m * c for m, c in pairs)
    due = math.exp(total / sum(c for _, c in pairs))
    return {"perplexity": due, "means": means, "counts": counts}


# -------------------------------------------------------------- bits_per_byte


def byte_cases(rng, hidden):
    yield math.log(2), 8, "a" * 8
    yield math.log(2), 4, "a" * 8
    yield 1.0, 3, "naïve"
    yield 2.5, 6, "猫 🙂 e\u0301"
    yield 2.9, 100, "The cat sat on the mat. " * 15
    words = ["cat ", "naïve ", "猫", "🙂", "Übung ", "мир "]
    for _ in range(4 if hidden else 2):
        picked = [words[draw(rng, 0, len(words) - 1)] for _ in range(draw(rng, 4, 20))]
        text = "".join(picked)
        yield round(number(rng, 0.5, 6.0), 4), draw(rng, 3, len(text)), text


def drive_bytes(answer, nats_per_token, n_tokens, text):
    return answer(nats_per_token, n_tokens, text)


def reference_bytes(nats_per_token, n_tokens, text):
    length = sum(len(char.encode("utf-8")) for char in text)
    return nats_per_token * n_tokens / math.log(2.0) / length


# ----------------------------------------------------- cross_entropy_gradient


def gradient_cases(rng, hidden):
    def logits(n, V, scale=2.0, dtype=torch.float32):
        return (torch.randn(n, V, generator=rng) * scale).to(dtype)

    yield torch.zeros(1, 2), torch.tensor([1]), -100
    yield torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0]), -100
    yield logits(3, 4), torch.tensor([3, 0, 1]), -100
    yield logits(3, 4), torch.tensor([3, -100, 1]), -100
    yield logits(2, 3), torch.tensor([-100, -100]), -100  # nothing counts
    yield torch.tensor([[300.0, 0.0], [-300.0, -200.0]]), torch.tensor([0, 0]), -100
    yield logits(4, 3), torch.tensor([0, 2, 0, 1]), 0  # the padding token's own id
    yield logits(5, 3, dtype=torch.float64), torch.tensor([0, -1, 2, 1, -1]), -1
    for _ in range(4 if hidden else 1):
        n, V = draw(rng, 2, 12), draw(rng, 2, 9)
        targets = torch.randint(V, (n,), generator=rng)
        drop = torch.rand(n, generator=rng) < 0.3
        yield logits(n, V), targets.masked_fill(drop, -100), -100


def drive_gradient(answer, logits, targets, ignore):
    gradient = answer(logits, targets, ignore)
    return {"gradient": gradient, "logits": logits, "targets": targets}


def reference_gradient(logits, targets, ignore):
    z = logits.double().numpy()
    due, y = np.zeros_like(z), targets.numpy()
    n = int((y != ignore).sum())
    for i in np.flatnonzero(y != ignore):
        e = np.exp(z[i] - z[i].max())
        due[i] = e / e.sum() / n
        due[i, y[i]] -= 1.0 / n
    gradient = torch.from_numpy(due).to(logits.dtype)
    return {"gradient": gradient, "logits": logits, "targets": targets}


# ----------------------------------------------------------------- mlp_logits


def mlp_cases(rng, hidden):
    def case(n, k, V, D, H, scale=0.7, dtype=torch.float32):
        def weights(*shape):
            return (torch.randn(*shape, generator=rng) * scale).to(dtype)

        state = {
            "embed.weight": weights(V, D),
            "hidden.weight": weights(H, k * D),
            "hidden.bias": weights(H),
            "head.weight": weights(V, H),
            "head.bias": weights(V),
        }
        return state, torch.randint(V, (n, k), generator=rng)

    yield case(1, 1, 2, 1, 1)
    yield case(2, 2, 3, 2, 2)
    yield case(3, 3, 5, 2, 4)
    yield case(4, 2, 6, 3, 5, dtype=torch.float64)
    for _ in range(3 if hidden else 1):
        shape = [draw(rng, 2, 6) for _ in range(5)]
        yield case(*shape)


def drive_mlp(answer, state, contexts):
    return {"logits": answer(state, contexts), "state": state, "contexts": contexts}


def reference_mlp(state, contexts):
    w = {name: value.double().numpy() for name, value in state.items()}
    rows = []
    for context in contexts.tolist():
        x = np.concatenate([w["embed.weight"][i] for i in context])
        h = np.tanh(w["hidden.weight"] @ x + w["hidden.bias"])
        rows.append(w["head.weight"] @ h + w["head.bias"])
    dtype = state["embed.weight"].dtype
    logits = torch.from_numpy(np.stack(rows)).to(dtype)
    return {"logits": logits, "state": state, "contexts": contexts}


# --------------------------------------------------- interpolated_probability


def count_all(tokens, n):
    """Every m-gram of a list, m = 1 ... n, as a tuple, and how often it occurs."""
    counts = {}
    for m in range(1, n + 1):
        for i in range(len(tokens) - m + 1):
            gram = tuple(tokens[i : i + m])
            counts[gram] = counts.get(gram, 0) + 1
    return counts


def interpolated_cases(rng, hidden):
    short = count_all([0, 1, 0, 1, 2], 3)
    yield short, (), 0, 3, 1.0  # the unigram
    yield short, (0,), 1, 3, 1.0
    yield short, (1,), 1, 3, 0.5  # the pair is new
    yield short, (2,), 0, 3, 2.0  # the context is only at the end: no follower
    yield short, (0, 1), 2, 3, 1.0
    yield short, (2, 2), 1, 4, 1.0  # the context is new
    yield short, (0, 1), 3, 4, 0.25  # the token is new
    longer = count_all([0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 0], 5)
    yield longer, (0, 0, 1, 1), 1, 2, 0.5  # more than two tokens of context
    for _ in range(5 if hidden else 2):
        V = draw(rng, 2, 4)
        text = torch.randint(V, (draw(rng, 8, 30),), generator=rng).tolist()
        context = tuple(torch.randint(V, (2,), generator=rng).tolist())
        alpha = round(number(rng, 0.2, 4.0), 3)
        yield count_all(text, 3), context, draw(rng, 0, V - 1), V, alpha


def drive_interpolated(answer, counts, context, token, V, alpha):
    before = dict(counts)
    p = answer(counts, context, token, V, alpha)
    return {"p": p, "counts unchanged": counts == before}


def reference_interpolated(counts, context, token, V, alpha):
    p, alpha = Fraction(1, V), Fraction(alpha)
    for m in range(len(context) + 1):
        h = context[len(context) - m :]
        total = sum(c for gram, c in counts.items() if gram[:-1] == h)
        p = (counts.get((*h, token), 0) + alpha * p) / (total + alpha)
    return {"p": float(p), "counts unchanged": True}


# -------------------------------------------------------------- sample_bigram


def sample_cases(rng, hidden):
    cycle = torch.eye(4, dtype=torch.float64).roll(1, dims=1)  # 0 -> 1 -> 2 -> 3 -> 0
    yield cycle, 0, 1, 7
    yield cycle, 2, 6, 7
    yield cycle[:3, :3] + torch.tensor([[0.0], [0], [1]]) * cycle[3, :3], 1, 0, 7
    weather = torch.tensor([[0.9, 0.1], [0.5, 0.5]], dtype=torch.float64)
    yield weather, 1, 40, draw(rng, 0, 10**6)  # the same twice?
    yield weather, 1, 1500, draw(rng, 0, 10**6)  # as often as the table says?
    V = draw(rng, 3, 4)
    yield table(rng, V), draw(rng, 0, V - 1), 1500, draw(rng, 0, 10**6)


def drive_sample(answer, probs, start, n, seed):
    import torch

    torch.manual_seed(seed)
    state, generator = torch.get_rng_state(), torch.Generator().manual_seed(seed)
    drawn = answer(probs, start, n, generator)
    found = {"how many": len(drawn)}
    if probs.max() < 1:
        fresh = torch.Generator().manual_seed(seed).get_state()
        found["the generator is used"] = not generator.get_state().equal(fresh)
        found["no other generator is"] = torch.get_rng_state().equal(state)
    if n <= 100:
        again = answer(probs, start, n, torch.Generator().manual_seed(seed))
        found["the same again from the same generator"] = list(drawn) == list(again)
    if n > 100 or probs.max() == 1:
        pairs, last = torch.zeros(probs.shape, dtype=torch.float64), start
        for token in drawn:
            pairs[last, token] += 1 / len(drawn)
            last = token
        found["share of each pair"] = pairs
    return found


def reference_sample(probs, start, n, seed):
    due = {"how many": n}
    if probs.max() < 1:
        due |= {"the generator is used": True, "no other generator is": True}
    if n <= 100:
        due["the same again from the same generator"] = True
    if n > 100 or probs.max() == 1:
        at, visits = np.zeros(len(probs)), np.zeros(len(probs))
        at[start] = 1.0
        for _ in range(n):
            visits += at / n
            at = at @ probs.numpy()
        due["share of each pair"] = torch.from_numpy(visits[:, None] * probs.numpy())
    return due


TASKS = {
    "bigram_probabilities": Task(
        bigram_cases, drive_bigram, reference_bigram, MISTAKES["bigram_probabilities"]
    ),
    "text_nll": Task(nll_cases, drive_nll, reference_nll, MISTAKES["text_nll"]),
    "perplexity": Task(
        perplexity_cases,
        drive_perplexity,
        reference_perplexity,
        MISTAKES["perplexity"],
        # Means of about 5 in float32 are off by 3e-7, and so is the logarithm of the
        # result: that is as right as float64 here.
        tolerance={**TOLERANCE, "float64": 1e-5},
    ),
    "bits_per_byte": Task(
        byte_cases, drive_bytes, reference_bytes, MISTAKES["bits_per_byte"]
    ),
    "cross_entropy_gradient": Task(
        gradient_cases,
        drive_gradient,
        reference_gradient,
        MISTAKES["cross_entropy_gradient"],
        forbid=(
            "F.cross_entropy",
            "F.nll_loss",
            "nn.CrossEntropyLoss",
            "torch.autograd.grad",
            "Tensor.backward",
        ),
    ),
    "mlp_logits": Task(mlp_cases, drive_mlp, reference_mlp, MISTAKES["mlp_logits"]),
    "interpolated_probability": Task(
        interpolated_cases,
        drive_interpolated,
        reference_interpolated,
        MISTAKES["interpolated_probability"],
    ),
    "sample_bigram": Task(
        sample_cases,
        drive_sample,
        reference_sample,
        MISTAKES["sample_bigram"],
        # A share q of 1500 draws has a standard deviation of sqrt(q (1 - q) / 1500),
        # times at most sqrt((1 + r) / (1 - r)), where r = 0.4 is how much a draw still
        # knows of the one before: 0.02. Every mistake moves a share by 0.2 and more.
        tolerance={**TOLERANCE, "float64": 0.13},
    ),
}
