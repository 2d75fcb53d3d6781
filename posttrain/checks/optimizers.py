"""Checks of the exercise `optimizers`.

References: explicit sums that the recursions stand for (sgd_step, AdamW), the rule
applied to what the case was built from (decay_names, EarlyStopping), closed forms
written from the other end (warmup_cosine, wsd), one vector of all gradients in float64
(clip_grad_norm), the polynomial applied to singular values (newton_schulz).
None of them imports `torch.optim`, which would cost each judge 1.7 CPU-seconds.
"""

from __future__ import annotations

import math

import torch

from posttrain.checks.draws import whole
from posttrain.checks.mistakes.optimizers import MISTAKES
from posttrain.checks.task import TOLERANCE, Task

# ---------------------------------------------------------------- sgd_step


def sgd_cases(rng, hidden):
    def case(n, steps, lr, momentum, nesterov, dtype=torch.float64):
        p = torch.randn(n, generator=rng).to(dtype)
        return p, torch.randn(steps, n, generator=rng).to(dtype), lr, momentum, nesterov

    yield case(1, 1, 0.5, 0.0, False)
    yield case(1, 2, 0.5, 0.5, False)
    yield case(1, 2, 0.5, 0.5, True)
    yield case(3, 4, 0.1, 0.9, False, torch.float32)
    for _ in range(3 if hidden else 1):
        yield case(4, 5, 0.03, 0.8, True)
        yield case(4, 5, 0.03, 0.7, False)


def drive_sgd(answer, p, grads, lr, momentum, nesterov):
    """Runs one step a gradient; parameters and velocity after each."""
    import torch

    u, history, kept = torch.zeros_like(p), [], []
    for g in grads:
        given = [x.clone() for x in (p, g, u)]
        new_p, new_u = answer(p, g, u, lr, momentum, nesterov)
        pairs = zip(given, (p, g, u), strict=True)
        kept.append(all(a.equal(b) for a, b in pairs))
        p, u = new_p, new_u
        history.append((p, u))
    return {"p and u": history, "inputs unchanged": kept}


def reference_sgd(p, grads, lr, momentum, nesterov):
    """u at step t is the sum of momentum ** (t - i) * g_i over all steps i <= t."""
    history = []
    for t in range(len(grads)):
        powers = [momentum ** (t - i) for i in range(t + 1)]
        u = sum(w * g for w, g in zip(powers, grads[: t + 1], strict=True))
        p = p - lr * (grads[t] + momentum * u if nesterov else u)
        history.append((p, u))
    return {"p and u": history, "inputs unchanged": [True] * len(grads)}


# ---------------------------------------------------------------- AdamW


def adamw_cases(rng, hidden):
    """(first weights, gradients, learning rates, settings): one row a step.

    A gradient of None means that the parameter took no part in that step.
    """

    def case(shapes, steps, *, lr=0.1, wd=0.1, eps=1e-8, betas=(0.9, 0.95), idle=()):
        weights = [torch.randn(s, generator=rng, dtype=torch.float64) for s in shapes]
        grads = [
            [
                None
                if (t, i) in idle
                else torch.randn(s, generator=rng, dtype=torch.float64)
                for i, s in enumerate(shapes)
            ]
            for t in range(steps)
        ]
        rates = [lr * (1 + t % 3) / 2 for t in range(steps)]
        return weights, grads, rates, betas, eps, wd

    yield case([(1,)], 1)
    yield case([(1,)], 2, wd=0.0)
    yield case([(1,)], 2, wd=0.5)
    yield case([(2,)], 3, eps=0.1, wd=0.0)
    yield case([(2, 3), (3,)], 4, betas=(0.8, 0.99))
    yield case([(2,), (2,)], 3, idle={(0, 0), (2, 1)})
    yield case([(2,), (1,)], 5, wd=1.0, idle={(1, 0), (2, 0), (3, 1)}, eps=1e-3)
    for _ in range(3 if hidden else 1):
        n = whole(rng, 1, 5)
        yield case([(n, 2), (n,)], 6, wd=0.3, betas=(0.5, 0.7), eps=0.01)


def drive_adamw(answer, weights, grads, rates, betas, eps, weight_decay):
    """Runs the steps; sets `optimizer.lr` before each, as a schedule does."""
    params = [w.clone().requires_grad_() for w in weights]
    optimizer = answer(iter(params), rates[0], betas, eps, weight_decay)
    history = []
    for row, lr in zip(grads, rates, strict=True):
        optimizer.lr = lr
        for p, g in zip(params, row, strict=True):
            p.grad = None if g is None else g.clone()
        optimizer.step()
        left = [None if p.grad is None else p.grad.clone() for p in params]
        assert all(p.requires_grad and p.is_leaf for p in params)
        history.append([p.detach().clone() for p in params])
    optimizer.zero_grad()
    cleared = [p.grad is None or not p.grad.any().item() for p in params]
    return {
        "weights after each step": history,
        "gradients after the last step": left,
        "cleared by zero_grad": cleared,
    }


def reference_adamw(weights, grads, rates, betas, eps, weight_decay):
    """Both running means as weighted sums over the gradients a parameter has seen."""

    def mean(values, beta):
        t = len(values)
        total = sum((1 - beta) * beta ** (t - 1 - i) * x for i, x in enumerate(values))
        return total / (1 - beta**t)

    now, history = [w.clone() for w in weights], []
    seen = [[] for _ in weights]
    for row, lr in zip(grads, rates, strict=True):
        for i, g in enumerate(row):
            if g is None:
                continue
            seen[i].append(g)
            m = mean(seen[i], betas[0])
            v = mean([x.square() for x in seen[i]], betas[1])
            step = m / (v.sqrt() + eps) + weight_decay * now[i]
            now[i] = now[i] - lr * step
        history.append([w.clone() for w in now])
    return {
        "weights after each step": history,
        "gradients after the last step": grads[-1],
        "cleared by zero_grad": [True] * len(weights),
    }


# ---------------------------------------------------------------- decay_names


def names_cases(rng, hidden):
    """Lists of (kind, name, frozen): kind is one that `drive_names` builds."""
    yield ([("linear", "fc", False)],)
    yield ([("norm", "ln", False)],)
    yield ([("embedding", "emb", False), ("linear", "fc", False)],)
    yield ([("linear", "fc", True), ("norm", "ln", False)],)
    yield ([("scalar", "s", False), ("linear", "fc", False)],)
    yield ([("norm", "a", False), ("conv", "b", False), ("bare", "c", False)],)
    kinds = ("linear", "norm", "embedding", "conv", "bare", "scalar")
    for _ in range(4 if hidden else 2):
        parts = []
        for name in "abcdef"[: whole(rng, 2, 7)]:
            kind = kinds[whole(rng, 0, len(kinds))]
            parts.append((kind, f"{name}_norm" if kind == "linear" else name, False))
        kind, name, _ = parts[0]
        yield ([(kind, name, True), *parts[1:]],)


def drive_names(answer, parts):
    """A module of the parts, every second one in a submodule."""
    import torch
    from torch import nn

    class Bare(nn.Module):
        def __init__(self, *shape):
            super().__init__()
            self.gain = nn.Parameter(torch.zeros(shape))

    make = {
        "linear": lambda: nn.Linear(2, 3),
        "norm": lambda: nn.LayerNorm(3),
        "embedding": lambda: nn.Embedding(4, 3),
        "conv": lambda: nn.Conv1d(2, 3, 2),
        "bare": lambda: Bare(3),
        "scalar": lambda: Bare(),
    }
    model, inner = nn.Module(), nn.Module()
    model.add_module("inner", inner)
    for number, (kind, name, frozen) in enumerate(parts):
        part = make[kind]()
        part.requires_grad_(not frozen)
        (inner if number % 2 else model).add_module(name, part)
    decay, rest = answer(model)
    return {"decay": sorted(decay), "no decay": sorted(rest)}


def reference_names(parts):
    """By kind of module: which of its parameters are matrices or more."""
    holds = {
        "linear": (["weight"], ["bias"]),
        "norm": ([], ["weight", "bias"]),
        "embedding": (["weight"], []),
        "conv": (["weight"], ["bias"]),
        "bare": ([], ["gain"]),
        "scalar": ([], ["gain"]),
    }
    decay, rest = [], []
    for number, (kind, name, frozen) in enumerate(parts):
        path = f"inner.{name}" if number % 2 else name
        if not frozen:
            decay += [f"{path}.{leaf}" for leaf in holds[kind][0]]
            rest += [f"{path}.{leaf}" for leaf in holds[kind][1]]
    return {"decay": sorted(decay), "no decay": sorted(rest)}


# ---------------------------------------------------------------- schedules


def cosine_cases(rng, hidden):
    yield 4, 0, 0.0
    yield 4, 2, 0.1
    yield 3, 1, 0.5
    yield 10, 4, 1.0
    yield 20, 5, 0.1
    for _ in range(4 if hidden else 1):
        warmup = whole(rng, 1, 20)
        total = warmup + whole(rng, 1, 30)
        yield total, warmup, whole(rng, 0, 10) / 10


def drive_cosine(answer, total, warmup, floor):
    """Every step of the run, and some after its end."""
    return [float(answer(t, total, warmup, floor)) for t in range(total + 5)]


def reference_cosine(total, warmup, floor):
    """sin² in place of the cosine, and the warm-up counted from its end."""
    due = [1 - (warmup - 1 - t) / warmup for t in range(warmup)]
    length = total - warmup
    for t in range(length + 5):
        angle = math.pi / 2 * (1 - min(t, length) / length)
        due.append(floor + (1 - floor) * math.sin(angle) ** 2)
    return due


def wsd_cases(rng, hidden):
    yield 4, 0, 2, 0.0
    yield 5, 2, 3, 0.0  # no stable part
    yield 6, 2, 2, 0.5
    yield 3, 0, 3, 0.0  # decay only
    yield 10, 3, 1, 0.1
    for _ in range(4 if hidden else 1):
        warmup, stable, decay = (whole(rng, n, 12) for n in (1, 0, 1))
        yield warmup + stable + decay, warmup, decay, whole(rng, 0, 10) / 10


def drive_wsd(answer, total, warmup, decay, floor):
    """Every step of the run, and some after its end."""
    return [float(answer(t, total, warmup, decay, floor)) for t in range(total + 4)]


def reference_wsd(total, warmup, decay, floor):
    """The three parts, laid end to end."""
    due = [(t + 1) / warmup for t in range(warmup)]
    due += [1.0] * (total - warmup - decay)
    due += [1 - (1 - floor) * t / decay for t in range(decay)]
    return due + [floor] * 4


# ---------------------------------------------------------------- clip_grad_norm


def clip_cases(rng, hidden):
    """(gradients, None for a parameter without one; the largest length)."""

    def draw(*shape, size=1.0):
        return size * torch.randn(shape, generator=rng, dtype=torch.float64)

    yield [torch.tensor([3.0, 4.0], dtype=torch.float64)], 1.0
    yield [torch.tensor([0.3, 0.4], dtype=torch.float64)], 1.0  # short enough
    yield [torch.tensor([3.0, 4.0], dtype=torch.float64)], 10.0  # and this one
    yield [torch.tensor([3.0], dtype=torch.float64), draw(1, size=0.01)], 0.5
    yield [draw(2), None, draw(2, 2)], 0.5
    yield [torch.zeros(2, dtype=torch.float64)], 1.0
    yield [draw(3, size=2.0).float(), draw(2, 4, size=2.0).float()], 2.0
    for _ in range(3 if hidden else 1):
        yield [draw(3, 3, size=5.0), draw(4, size=0.1), draw(2, 1, 2)], 1.0
        yield [draw(3, size=0.1), draw(2, size=0.2)], 3.0


def drive_clip(answer, grads, max_norm):
    import torch

    params = []
    for g in grads:
        p = torch.zeros(2 if g is None else g.shape, requires_grad=True)
        if g is not None:
            p = torch.zeros_like(g).requires_grad_()
            p.grad = g.clone()
        params.append(p)
    norm = answer(params, max_norm)
    left = [None if p.grad is None else p.grad.clone() for p in params]
    return {"norm before": float(norm), "gradients after": left}


def reference_clip(grads, max_norm):
    """All gradients as one long vector, in float64."""
    present = [g.double().flatten() for g in grads if g is not None]
    length = math.sqrt(sum(float((g * g).sum()) for g in present))
    factor = max_norm / length if length > max_norm else 1.0
    after = [None if g is None else (g.double() * factor).to(g.dtype) for g in grads]
    return {"norm before": length, "gradients after": after}


# ---------------------------------------------------------------- newton_schulz

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def schulz_cases(rng, hidden):
    def draw(*shape, size=1.0):
        return size * torch.randn(shape, generator=rng, dtype=torch.float64)

    yield torch.tensor([[2.0]], dtype=torch.float64), 1
    yield torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64), 1
    yield draw(2, 3), 1
    yield draw(3, 2), 1  # tall
    yield draw(4, 4, size=100.0), 5
    yield draw(2, 3, 2), 2  # two matrices at once
    yield draw(3, 2, 5, size=0.01), 5
    yield torch.zeros(2, 3, dtype=torch.float64), 5
    for _ in range(3 if hidden else 1):
        yield draw(whole(rng, 2, 6), whole(rng, 2, 6)), whole(rng, 1, 5)
        yield draw(2, whole(rng, 2, 5), whole(rng, 2, 5)), 3


def drive_schulz(answer, G, steps):
    before = G.clone()
    return {"update": answer(G, steps), "G unchanged": before.equal(G)}


def reference_schulz(G, steps):
    """The same polynomial, on the singular values alone."""
    a, b, c = NEWTON_SCHULZ
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    s = S / (S.square().sum(-1, keepdim=True).sqrt() + 1e-7)
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return {"update": (U * s[..., None, :]) @ Vh, "G unchanged": True}


# ---------------------------------------------------------------- EarlyStopping


def stopping_cases(rng, hidden):
    """(values in turn, patience, min_delta)"""
    nan = float("nan")
    yield [2.0, 1.0, 1.5, 1.6], 2, 0.0
    yield [1.0, 1.0, 1.0], 2, 0.0  # no better is not better
    yield [3.0, 4.0, 2.0, 3.0, 1.0, 2.0], 2, 0.0  # better: count anew
    yield [1.0, 2.0, 2.0, 2.0, 2.0], 2, 0.0  # no better after the first True
    yield (
        [1.0, 0.75, 0.5, 0.25, 0.0],
        2,
        0.25,
    )  # just not enough
    yield [1.0, nan, 0.5, nan, nan], 2, 0.0
    yield [nan, nan, 1.0], 2, 0.0  # the count runs before there is a best
    for _ in range(4 if hidden else 2):
        n = whole(rng, 4, 14)
        values = torch.randint(1, 40, (n,), generator=rng) / 8  # no rounding
        falls = torch.arange(n) / 4
        yield (values - falls).tolist(), whole(rng, 1, 4), whole(rng, 0, 3) / 8


def drive_stopping(answer, values, patience, min_delta):
    """Every verdict, past the first True too; what is kept after each value."""
    rule = answer(patience, min_delta)
    said = []
    for step, value in enumerate(values):
        stop = rule.update(10 * step, value)
        said.append((bool(stop), float(rule.best), rule.best_step))
    return said


def reference_stopping(values, patience, min_delta):
    """From the list alone: where the records are, and how long ago the last was."""
    best, at, said = float("inf"), None, []
    for i, value in enumerate(values):
        if value < best - min_delta:
            best, at = value, i
        waited = i + 1 if at is None else i - at
        said.append((waited >= patience, best, None if at is None else 10 * at))
    return said


OPTIMIZERS = ("optim.SGD", "optim.Adam", "optim.AdamW", "optim.Muon")

TASKS = {
    "sgd_step": Task(
        sgd_cases,
        drive_sgd,
        reference_sgd,
        MISTAKES["sgd_step"],
        forbid=OPTIMIZERS,
    ),
    "AdamW": Task(
        adamw_cases,
        drive_adamw,
        reference_adamw,
        MISTAKES["AdamW"],
        forbid=OPTIMIZERS,
    ),
    "decay_names": Task(
        names_cases, drive_names, reference_names, MISTAKES["decay_names"]
    ),
    "warmup_cosine": Task(
        cosine_cases, drive_cosine, reference_cosine, MISTAKES["warmup_cosine"]
    ),
    "wsd": Task(wsd_cases, drive_wsd, reference_wsd, MISTAKES["wsd"]),
    "clip_grad_norm": Task(
        clip_cases,
        drive_clip,
        reference_clip,
        MISTAKES["clip_grad_norm"],
        # PyTorch divides by the length + 1e-6, a share of at most 1e-6 / max_norm;
        # that is as right as dividing by the length.
        tolerance={**TOLERANCE, "float64": 1e-5, "float32": 1e-5},
        forbid=("nn.utils.clip_grad_norm_", "utils.clip_grads_with_norm_"),
    ),
    "newton_schulz": Task(
        schulz_cases,
        drive_schulz,
        reference_schulz,
        MISTAKES["newton_schulz"],
        # The 1e-7 may be added to the length or be its least value. For the smallest
        # case (|G| about 0.04) that moves each s by a share of 3e-6, and the polynomial
        # multiplies that by |s p'(s) / p(s)|, a small number.
        tolerance={**TOLERANCE, "float64": 1e-4},
    ),
    "EarlyStopping": Task(
        stopping_cases, drive_stopping, reference_stopping, MISTAKES["EarlyStopping"]
    ),
}
