"""Checks of the exercise `modern_architecture`.

References: complex numbers in double precision (rotate, RotaryCache), float64 with
numpy (rms_norm, swiglu), a loop over heads (grouped_query_attention), the rule of the
paper taken recursively (alibi_bias), enumerations (window_mask, cache_bytes).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from posttrain.checks.draws import whole
from posttrain.checks.mistakes.modern_architecture import MISTAKES
from posttrain.checks.task import TOLERANCE, Task

# ------------------------------------------------------------------- rms_norm


def norm_cases(rng, hidden):
    def case(*shape, size=1.0, eps=1e-5, dtype=torch.float32):
        x = (torch.randn(*shape, generator=rng) * size).to(dtype)
        gain = (torch.rand(shape[-1], generator=rng) + 0.5).to(dtype)
        return x, gain, eps

    yield torch.tensor([3.0, 4.0]), torch.ones(2), 0.0
    yield torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([1.0, 2.0]), 1e-5
    x, gain, eps = case(2, 3, 4)
    yield x + 2.0, gain, eps  # the mean stays: this is not LayerNorm
    yield case(3, 4, size=1e-3)  # eps counts
    yield case(3, 4, size=1e-2, eps=1e-2)
    yield case(2, 4, 6, dtype=torch.float64)
    yield case(4, 8, size=400.0, dtype=torch.float16)  # squares are above 65504
    yield case(4, 8, dtype=torch.bfloat16)
    for _ in range(3 if hidden else 1):
        B, T, C = (whole(rng, 1, 9) for _ in range(3))
        yield case(B, T, C)


def drive_norm(answer, x, gain, eps):
    return {"output": answer(x, gain, eps), "x": x}


def reference_norm(x, gain, eps):
    wide = x.double().numpy()
    rms = np.sqrt((wide * wide).mean(-1, keepdims=True) + eps)
    output = wide / rms * gain.double().numpy()
    return {"output": torch.from_numpy(output).to(x.dtype), "x": x}


# --------------------------------------------------------------------- rotate


def rotate_cases(rng, hidden):
    def case(B, H, positions, D, base=10_000.0, dtype=torch.float32):
        x = torch.randn(B, H, len(positions), D, generator=rng).to(dtype)
        return x, torch.tensor(positions), base

    yield torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), torch.tensor([1]), 10_000.0
    yield torch.arange(4.0).view(1, 1, 1, 4), torch.tensor([0]), 10_000.0
    yield torch.arange(1.0, 5.0).view(1, 1, 1, 4), torch.tensor([3]), 100.0
    yield case(1, 2, [0, 1, 2], 4, 100.0)
    yield case(2, 3, [7, 8, 9, 10], 8)  # a step with a cache does not begin at 0
    yield case(2, 2, [5, 2, 11], 6, 500.0)
    yield case(1, 2, [0, 250, 391], 8, 50.0, torch.bfloat16)
    for _ in range(3 if hidden else 1):
        start, T = whole(rng, 0, 30), whole(rng, 1, 10)
        D = 2 * whole(rng, 2, 6)
        yield case(2, 2, list(range(start, start + T)), D, 10.0 ** whole(rng, 1, 5))


def drive_rotate(answer, x, positions, base):
    return {"output": answer(x, positions, base), "x": x, "positions": positions}


def turned(x, positions, base):
    """x (..., T, D) as complex numbers, times e^(i angle), in double precision."""
    half = x.shape[-1] // 2
    wide = x.double().numpy()
    pairs = wide[..., :half] + 1j * wide[..., half:]
    speed = np.array([base ** (-i / half) for i in range(half)])
    pairs = pairs * np.exp(1j * np.outer(positions.numpy(), speed))
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def reference_rotate(x, positions, base):
    output = torch.from_numpy(turned(x, positions, base)).to(x.dtype)
    return {"output": output, "x": x, "positions": positions}


# ----------------------------------------------------------------- alibi_bias


def alibi_cases(rng, hidden):
    yield from [(1, 1), (1, 3), (2, 3), (8, 4), (3, 3), (6, 2), (12, 3)]
    for _ in range(5 if hidden else 2):
        yield whole(rng, 1, 40), whole(rng, 1, 9)


def drive_alibi(answer, n_heads, t):
    return answer(n_heads, t)


def reference_alibi(n_heads, t):
    slopes = paper_slopes(n_heads)
    bias = torch.empty(n_heads, t, t)
    for h in range(n_heads):
        for i in range(t):
            for j in range(t):
                bias[h, i, j] = -slopes[h] * (i - j) if j <= i else -math.inf
    return bias


def paper_slopes(n):
    """By recursion, as in the code of Press et al. 2022."""
    power = 1
    while power * 2 <= n:
        power *= 2
    if power == n:
        first = 2.0 ** (-8.0 / n)
        return [first ** (h + 1) for h in range(n)]
    return paper_slopes(power) + paper_slopes(2 * power)[0::2][: n - power]


# --------------------------------------------------------------------- swiglu


def swiglu_cases(rng, hidden):
    def case(*shape, F, dtype=torch.float32, size=1.0):
        C = shape[-1]
        x = (torch.randn(*shape, generator=rng) * size).to(dtype)
        gate, up = (torch.randn(F, C, generator=rng) / C**0.5 for _ in range(2))
        down = torch.randn(C, F, generator=rng) / F**0.5
        return x, gate.to(dtype), up.to(dtype), down.to(dtype)

    one = torch.ones(1, 1)
    yield one, one, 3 * one, one
    yield case(2, 2, F=3)
    yield case(2, 3, 4, F=4)  # square matrices: a transpose more or less fits
    yield case(2, 3, 4, F=6, size=4.0)
    yield case(3, 4, F=5, dtype=torch.float64)
    for _ in range(3 if hidden else 1):
        yield case(2, whole(rng, 1, 6), whole(rng, 1, 9), F=whole(rng, 1, 12))


def drive_swiglu(answer, x, w_gate, w_up, w_down):
    return answer(x, w_gate, w_up, w_down)


def reference_swiglu(x, w_gate, w_up, w_down):
    x_, gate, up, down = (w.double().numpy() for w in (x, w_gate, w_up, w_down))
    g = np.einsum("...c,fc->...f", x_, gate)
    hidden = g / (1 + np.exp(-g)) * np.einsum("...c,fc->...f", x_, up)
    return torch.from_numpy(np.einsum("...f,cf->...c", hidden, down)).to(x.dtype)


# ---------------------------------------------------- grouped_query_attention


def gqa_cases(rng, hidden):
    def case(B, H, H_kv, T_q, T_k, D, dtype=torch.float32):
        q = torch.randn(B, H, T_q, D, generator=rng).to(dtype)
        k, v = (torch.randn(B, H_kv, T_k, D, generator=rng).to(dtype) for _ in "kv")
        return q, k, v

    yield case(1, 1, 1, 1, 1, 2)
    yield case(1, 4, 2, 1, 1, 2)  # one token: each head returns its group's value
    yield case(1, 4, 2, 3, 3, 2)
    yield case(2, 6, 2, 4, 4, 3)  # three queries to a group
    yield case(2, 4, 4, 3, 3, 2)  # multi-head
    yield case(2, 4, 1, 3, 3, 2)  # multi-query
    yield case(2, 4, 2, 1, 5, 4)  # a cached step
    yield case(1, 6, 3, 2, 6, 4, torch.float64)
    for _ in range(3 if hidden else 1):
        H_kv, T_q = whole(rng, 1, 4), whole(rng, 1, 6)
        H, past = H_kv * whole(rng, 1, 4), whole(rng, 0, 5)
        yield case(2, H, H_kv, T_q, T_q + past, whole(rng, 2, 9))


def drive_gqa(answer, q, k, v):
    return answer(q, k, v)


def reference_gqa(q, k, v):
    group = q.shape[1] // k.shape[1]
    wide = [x.double().numpy() for x in (q, k, v)]
    heads = [
        one_head(wide[0][:, h], wide[1][:, h // group], wide[2][:, h // group])
        for h in range(q.shape[1])
    ]
    return torch.from_numpy(np.stack(heads, axis=1)).to(q.dtype)


def one_head(q, k, v):
    """Causal attention of (B, T_q, D) over (B, T_k, D), the queries being the last."""
    T_q, T_k = q.shape[1], k.shape[1]
    scores = np.einsum("btd,bsd->bts", q, k) / math.sqrt(q.shape[-1])
    ahead = np.arange(T_k) > np.arange(T_k - T_q, T_k)[:, None]
    scores = np.where(ahead, -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bts,bsd->btd", weights, v)


# ---------------------------------------------------------------- window_mask


def window_cases(rng, hidden):
    yield from [(1, 1, 1), (3, 3, 1), (4, 4, 2), (5, 5, 3), (3, 3, 9), (1, 5, 3)]
    yield from [(2, 5, 3), (4, 4, 4)]
    for _ in range(6 if hidden else 2):
        t_q, past = whole(rng, 1, 8), whole(rng, 0, 8)
        yield t_q, t_q + past, whole(rng, 1, 8)


def drive_window(answer, t_q, t_k, window):
    return answer(t_q, t_k, window)


def reference_window(t_q, t_k, window):
    rows = []
    for i in range(t_q):
        own = t_k - t_q + i
        rows.append([j in range(own - window + 1, own + 1) for j in range(t_k)])
    return torch.tensor(rows)


# ---------------------------------------------------------------- RotaryCache


def cache_cases(rng, hidden):
    def case(B, H, chunks, D, base=100.0):
        shape = (3, B, H, sum(chunks), D)
        q, k, v = torch.randn(shape, generator=rng).unbind()
        return q, k, v, chunks, base

    yield case(1, 1, [1], 2)
    yield case(1, 1, [1, 1], 2)
    yield case(1, 1, [2, 1], 2)
    yield case(1, 2, [1, 1, 1, 1], 4)
    yield case(2, 2, [4, 1, 3, 1], 6)
    for _ in range(3 if hidden else 1):
        chunks = torch.randint(1, 5, (whole(rng, 2, 5),), generator=rng).tolist()
        yield case(2, 3, chunks, 4, 10.0 ** whole(rng, 1, 4))


def drive_cache(answer, q, k, v, chunks, base):
    """Feeds the chunks one after the other to a cache that is given `rotate`."""
    import torch

    def rotate(x, positions):
        half = x.shape[-1] // 2
        speed = base ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = positions.double()[:, None] * speed
        a, b = x[..., :half].double(), x[..., half:].double()
        left = a * angle.cos() - b * angle.sin()
        right = b * angle.cos() + a * angle.sin()
        return torch.cat([left, right], dim=-1).to(x.dtype)

    cache, outputs = answer(rotate), []
    lengths = [cache.length]
    for part in zip(*(x.split(chunks, dim=2) for x in (q, k, v)), strict=True):
        outputs.append(cache.step(*(x.clone() for x in part)))
        lengths.append(cache.length)
    return {"output": torch.cat(outputs, dim=2), "length after each step": lengths}


def reference_cache(q, k, v, chunks, base):
    positions = torch.arange(q.shape[2])
    turned_q, turned_k = turned(q, positions, base), turned(k, positions, base)
    wide = v.double().numpy()
    heads = [
        one_head(turned_q[:, h], turned_k[:, h], wide[:, h]) for h in range(q.shape[1])
    ]
    return {
        "output": torch.from_numpy(np.stack(heads, axis=1)).to(q.dtype),
        "length after each step": np.cumsum([0, *chunks]).tolist(),
    }


# ---------------------------------------------------------------- cache_bytes


def bytes_cases(rng, hidden):
    yield 1, 1, 1, 2, 2, None, 0
    yield 32, 2048, 8, 128, 2, None, 0  # Llama-3-8B
    yield 3, 5, 2, 4, 4, None, 0
    yield 4, 10, 2, 8, 2, None, 3  # without a window, all layers keep all
    yield 4, 100, 2, 8, 2, 16, 1
    yield 4, 10, 2, 8, 2, 16, 1  # the text is shorter than the window
    yield 6, 64, 1, 16, 1, 8, 0  # no global layer
    for _ in range(5 if hidden else 2):
        layers = whole(rng, 1, 9)
        yield (
            layers,
            whole(rng, 1, 99),
            whole(rng, 1, 9),
            2 * whole(rng, 1, 9),
            2,
            whole(rng, 1, 60),
            whole(rng, 0, layers + 1),
        )


def drive_bytes(answer, layers, t, n_kv_heads, d_head, size, window, n_global):
    return answer(layers, t, n_kv_heads, d_head, size, window, n_global)


def reference_bytes(layers, t, n_kv_heads, d_head, size, window, n_global):
    total = 0
    for layer in range(layers):
        for token in range(t):
            seen = window is None or layer < n_global or token >= t - window
            total += 2 * n_kv_heads * d_head * size * seen
    return total


TASKS = {
    "rms_norm": Task(norm_cases, drive_norm, reference_norm, MISTAKES["rms_norm"]),
    "rotate": Task(
        rotate_cases,
        drive_rotate,
        reference_rotate,
        MISTAKES["rotate"],
        # In float32 an angle of up to 40 rad is known to 40 * 6e-8 = 2.4e-6, and its
        # factor, the speed, adds as much again.
        tolerance={**TOLERANCE, "float32": 3e-5},
    ),
    "alibi_bias": Task(
        alibi_cases, drive_alibi, reference_alibi, MISTAKES["alibi_bias"]
    ),
    "swiglu": Task(swiglu_cases, drive_swiglu, reference_swiglu, MISTAKES["swiglu"]),
    "grouped_query_attention": Task(
        gqa_cases, drive_gqa, reference_gqa, MISTAKES["grouped_query_attention"]
    ),
    "window_mask": Task(
        window_cases, drive_window, reference_window, MISTAKES["window_mask"]
    ),
    "RotaryCache": Task(
        cache_cases, drive_cache, reference_cache, MISTAKES["RotaryCache"]
    ),
    "cache_bytes": Task(
        bytes_cases, drive_bytes, reference_bytes, MISTAKES["cache_bytes"]
    ),
}
