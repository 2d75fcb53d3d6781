"""Answers that the grader of `modern_architecture` must tell apart. Not for students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import math

import torch
import torch.nn.functional as F

# ------------------------------------------------------------------- rms_norm


def norm_by_library(x, gain, eps):
    wide = x.double()
    return F.rms_norm(wide, wide.shape[-1:], gain.double(), eps).to(x.dtype)


def norm_by_einsum(x, gain, eps):
    wide = x.double()
    square = torch.einsum("...c,...c->...", wide, wide) / x.shape[-1]
    return (wide * (square + eps).rsqrt()[..., None] * gain).to(x.dtype)


def norm_in_place(x, gain, eps):
    wide = x.double()
    x.copy_(wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt() * gain)
    return x


def norm_returns_float32(x, gain, eps):
    wide = x.float()
    return wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt() * gain


# --------------------------------------------------------------------- rotate


def rotate_by_complex_numbers(x, positions, base):
    half = x.shape[-1] // 2
    speed = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.outer(positions.double(), speed)
    pairs = torch.complex(x[..., :half].double(), x[..., half:].double())
    pairs = pairs * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([pairs.real, pairs.imag], dim=-1).to(x.dtype)


def rotate_by_roll_in_float32(x, positions, base):
    D = x.shape[-1]
    speed = 1.0 / base ** (torch.arange(0, D, 2).float() / D)
    angle = positions.float()[:, None] * speed
    cos, sin = angle.cos().repeat(1, 2), torch.cat([-angle.sin(), angle.sin()], -1)
    wide = x.float()
    return (wide * cos + wide.roll(D // 2, -1) * sin).to(x.dtype)


def rotate_by_matrices(x, positions, base):
    D = x.shape[-1]
    out = torch.empty_like(x)
    for t, p in enumerate(positions.tolist()):
        turn = torch.zeros(D, D, dtype=torch.float64)
        for i in range(D // 2):
            a, j = p * base ** (-2 * i / D), i + D // 2
            turn[i, i] = turn[j, j] = math.cos(a)
            turn[i, j], turn[j, i] = -math.sin(a), math.sin(a)
        out[:, :, t] = (x[:, :, t].double() @ turn.T).to(x.dtype)
    return out


def rotate_nothing(x, positions, base):
    return x.clone()


# ----------------------------------------------------------------- alibi_bias


def alibi_one_list(n_heads, t):
    n = 2 ** int(math.log2(n_heads))
    exponent = [-8 * (h + 1) / n for h in range(n)]
    exponent += [-4 * (2 * h + 1) / n for h in range(n_heads - n)]
    slopes = 2.0 ** torch.tensor(exponent, dtype=torch.float64)
    near = torch.arange(t) - torch.arange(t)[:, None]
    bias = slopes[:, None, None] * near.clamp(max=0)
    return (bias + torch.full((t, t), -math.inf).triu(1).double()).float()


def alibi_same_slope(n_heads, t):
    distance = torch.arange(t)[:, None] - torch.arange(t)
    bias = -torch.full((n_heads, 1, 1), 2**-8) * distance
    return bias.masked_fill(distance < 0, -math.inf)


# --------------------------------------------------------------------- swiglu


def swiglu_by_linear(x, w_gate, w_up, w_down):
    gate = F.linear(x, w_gate)
    return F.linear(gate * gate.sigmoid() * F.linear(x, w_up), w_down)


def swiglu_one_product(x, w_gate, w_up, w_down):
    both = torch.einsum("...c,fc->...f", x, torch.cat([w_gate, w_up]))
    gate, up = both.chunk(2, dim=-1)
    return torch.einsum("...f,cf->...c", F.silu(gate) * up, w_down)


def swiglu_with_relu(x, w_gate, w_up, w_down):
    return (F.relu(x @ w_gate.T) * (x @ w_up.T)) @ w_down.T


# ---------------------------------------------------- grouped_query_attention


def gqa_by_library(q, k, v):
    t_q, t_k = q.shape[2], k.shape[2]
    mask = torch.ones(t_q, t_k, dtype=torch.bool).tril(t_k - t_q)
    return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)


def gqa_grouped_einsum(q, k, v):
    B, H, t_q, D = q.shape
    q = q.view(B, k.shape[1], -1, t_q, D)  # (B, H_kv, group, T_q, D)
    scores = torch.einsum("bhgtd,bhsd->bhgts", q, k) / D**0.5
    ahead = torch.ones(t_q, k.shape[2]).triu(k.shape[2] - t_q + 1).bool()
    weights = scores.masked_fill(ahead, -math.inf).softmax(-1)
    return torch.einsum("bhgts,bhsd->bhgtd", weights, v).reshape(B, H, t_q, D)


def gqa_values_tiled(q, k, v):
    group = q.shape[1] // k.shape[1]
    t_q, t_k = q.shape[2], k.shape[2]
    mask = torch.ones(t_q, t_k, dtype=torch.bool).tril(t_k - t_q)
    k, v = k.repeat_interleave(group, dim=1), v.repeat(1, group, 1, 1)
    return F.scaled_dot_product_attention(q, k, v, mask)


# ---------------------------------------------------------------- window_mask


def window_by_triangles(t_q, t_k, window):
    full = torch.ones(t_k, t_k, dtype=torch.bool)
    return full.tril().triu(1 - window)[t_k - t_q :]


def window_by_loop(t_q, t_k, window):
    mask = torch.zeros(t_q, t_k, dtype=torch.bool)
    for i in range(t_q):
        own = t_k - t_q + i
        mask[i, max(0, own - window + 1) : own + 1] = True
    return mask


def window_of_floats(t_q, t_k, window):
    return window_by_loop(t_q, t_k, window).float()


# ---------------------------------------------------------------- RotaryCache


class RotatesAllKeysAtEachStep:
    """Keeps keys as they came: right, and more work."""

    def __init__(self, rotate):
        self.rotate, self.k, self.v = rotate, [], []

    @property
    def length(self):
        return sum(k.shape[2] for k in self.k)

    def step(self, q, k, v):
        past = self.length
        self.k.append(k)
        self.v.append(v)
        places = torch.arange(self.length)
        keys = self.rotate(torch.cat(self.k, dim=2), places)
        q = self.rotate(q, places[past:])
        scores = q @ keys.transpose(-2, -1) / q.shape[-1] ** 0.5
        ahead = places > places[past:, None]
        weights = scores.masked_fill(ahead, -math.inf).softmax(-1)
        return weights @ torch.cat(self.v, dim=2)


class OneTokenAtATime:
    """Positions shifted by a constant: only distances count."""

    def __init__(self, rotate):
        self.rotate, self.length = rotate, 0
        self.pairs = []

    def step(self, q, k, v):
        outputs = []
        for i in range(q.shape[2]):
            place = torch.tensor([self.length + 3])
            new = self.rotate(k[:, :, i : i + 1], place), v[:, :, i : i + 1]
            self.pairs.append(new)
            self.length += 1
            keys, values = (torch.cat(x, dim=2) for x in zip(*self.pairs, strict=True))
            query = self.rotate(q[:, :, i : i + 1], place)
            outputs.append(F.scaled_dot_product_attention(query, keys, values))
        return torch.cat(outputs, dim=2)


class ForgetsTheOldest:
    def __init__(self, rotate):
        self.rotate, self.length = rotate, 0

    def step(self, q, k, v):
        places = torch.arange(self.length, self.length + k.shape[2])
        self.length += k.shape[2]
        q, k = self.rotate(q, places), self.rotate(k, places)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


# ---------------------------------------------------------------- cache_bytes


def bytes_layer_by_layer(layers, t, n_kv_heads, d_head, size, window, n_global):
    total = 0
    for layer in range(layers):
        kept = t if window is None or layer < n_global else min(window, t)
        total += kept * n_kv_heads * d_head * size
    return 2 * total


def bytes_as_float(layers, t, n_kv_heads, d_head, size, window, n_global):
    return float(
        bytes_layer_by_layer(layers, t, n_kv_heads, d_head, size, window, n_global)
    )


RIGHT = {
    "rms_norm": [norm_by_library, norm_by_einsum],
    "rotate": [
        rotate_by_complex_numbers,
        rotate_by_roll_in_float32,
        rotate_by_matrices,
    ],
    "alibi_bias": [alibi_one_list],
    "swiglu": [swiglu_by_linear, swiglu_one_product],
    "grouped_query_attention": [gqa_by_library, gqa_grouped_einsum],
    "window_mask": [window_by_triangles, window_by_loop],
    "RotaryCache": [RotatesAllKeysAtEachStep, OneTokenAtATime],
    "cache_bytes": [bytes_layer_by_layer],
}

WRONG = {
    "rms_norm": [norm_in_place, norm_returns_float32],
    "rotate": [rotate_nothing],
    "alibi_bias": [alibi_same_slope],
    "swiglu": [swiglu_with_relu],
    "grouped_query_attention": [gqa_values_tiled],
    "window_mask": [window_of_floats],
    "RotaryCache": [ForgetsTheOldest],
    "cache_bytes": [bytes_as_float],
}

EQUIVALENT = {
    "alibi_bias: `slopes += [2 ** (-4 * h / n) for h in range(1, 2 * n, 2)]` -> "
    "`slopes += [2 ** (-4 * h / n) for h in range(1, 3 * n, 2)]`": (
        "more slopes than heads; the next line cuts them off"
    ),
    "cache_bytes: `local = t if window is None else min(t, window)` -> "
    "`local = t if window is None else min(window, t)`": (
        "min takes its arguments in either order"
    ),
}
