"""What goes wrong in the exercise `modern_architecture`, and the hint for each."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from posttrain.checks.task import Mistake

# ------------------------------------------------------------------- rms_norm


def norm_of(x, gain, eps, center=False, inside=True, root=True):
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if center:
        wide = wide - wide.mean(-1, keepdim=True)
    square = wide.square().mean(-1, keepdim=True)
    if not root:
        return (wide / (square + eps) * gain).to(x.dtype)
    rms = (square + eps).sqrt() if inside else square.sqrt() + eps
    return (wide / rms * gain).to(x.dtype)


def norm_is_layer_norm(x, gain, eps):
    return norm_of(x, gain, eps, center=True)


def norm_eps_outside_root(x, gain, eps):
    return norm_of(x, gain, eps, inside=False)


def norm_without_root(x, gain, eps):
    return norm_of(x, gain, eps, root=False)


def norm_without_gain(x, gain, eps):
    return norm_of(x, torch.ones_like(gain), eps)


def norm_by_length(x, gain, eps):
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    length = (wide.square().sum(-1, keepdim=True) + eps).sqrt()
    return (wide / length * gain).to(x.dtype)


def norm_in_half_precision(x, gain, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain


def norm_always_in_float32(x, gain, eps):
    wide = x.float()
    return (wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt() * gain).to(
        x.dtype
    )


def norm_over_everything(x, gain, eps):
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return (wide / (wide.square().mean() + eps).sqrt() * gain).to(x.dtype)


# --------------------------------------------------------------------- rotate


def angles(positions, D, base):
    speed = base ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    return positions.double()[:, None] * speed


def rotate_interleaved(x, positions, base):
    angle = angles(positions, x.shape[-1], base)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)


def half_split(x, angle, dtype=None):
    cos, sin = (y.to(dtype or x.dtype) for y in (angle.cos(), angle.sin()))
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def rotate_other_way(x, positions, base):
    return half_split(x, -angles(positions, x.shape[-1], base))


def rotate_from_zero(x, positions, base):
    counted = torch.arange(x.shape[2])
    return half_split(x, angles(counted, x.shape[-1], base))


def rotate_one_ahead(x, positions, base):
    return half_split(x, angles(positions + 1, x.shape[-1], base))


def rotate_at_half_speed(x, positions, base):
    D = x.shape[-1]
    speed = base ** (-torch.arange(D // 2, dtype=torch.float64) / D)
    return half_split(x, positions.double()[:, None] * speed)


def rotate_minus_sign_lost(x, positions, base):
    angle = angles(positions, x.shape[-1], base)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos + b * sin, b * cos + a * sin], dim=-1)


def rotate_fixed_base(x, positions, base):
    return half_split(x, angles(positions, x.shape[-1], 10_000.0))


def rotate_angles_in_half(x, positions, base):
    D = x.shape[-1]
    speed = base ** (-torch.arange(0, D, 2, dtype=torch.float32) / D)
    return half_split(x, (positions[:, None] * speed).to(x.dtype))


# ----------------------------------------------------------------- alibi_bias


def bias_from(slopes, t, ahead=-math.inf):
    distance = torch.arange(t)[:, None] - torch.arange(t)
    bias = -torch.as_tensor(slopes)[:, None, None] * distance
    return bias.masked_fill(distance < 0, ahead)


def slopes_of(n_heads):
    n = 1 << (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * i / n) for i in range(1, n + 1)]
    slopes += [2 ** (-4 * i / n) for i in range(1, 2 * n, 2)]
    return torch.tensor(slopes[:n_heads])


def alibi_powers_only(n_heads, t):
    return bias_from([2 ** (-8 * i / n_heads) for i in range(1, n_heads + 1)], t)


def alibi_rewards_distance(n_heads, t):
    return bias_from(-slopes_of(n_heads), t)


def alibi_without_mask(n_heads, t):
    distance = (torch.arange(t)[:, None] - torch.arange(t)).abs()
    return -slopes_of(n_heads)[:, None, None] * distance


def alibi_counts_from_zero(n_heads, t):
    n = 1 << (n_heads.bit_length() - 1)
    steeper = 2 ** (8 / n)
    return bias_from(slopes_of(n_heads) * steeper, t)


def alibi_zero_ahead(n_heads, t):
    return bias_from(slopes_of(n_heads), t, ahead=0.0)


# --------------------------------------------------------------------- swiglu


def swiglu_gates_the_other(x, w_gate, w_up, w_down):
    return ((x @ w_gate.T) * F.silu(x @ w_up.T)) @ w_down.T


def swiglu_is_glu(x, w_gate, w_up, w_down):
    return (torch.sigmoid(x @ w_gate.T) * (x @ w_up.T)) @ w_down.T


def swiglu_is_geglu(x, w_gate, w_up, w_down):
    return (F.gelu(x @ w_gate.T) * (x @ w_up.T)) @ w_down.T


def swiglu_adds(x, w_gate, w_up, w_down):
    return (F.silu(x @ w_gate.T) + x @ w_up.T) @ w_down.T


def swiglu_without_gate(x, w_gate, w_up, w_down):
    return F.silu(x @ w_up.T) @ w_down.T


def swiglu_activates_the_product(x, w_gate, w_up, w_down):
    return F.silu((x @ w_gate.T) * (x @ w_up.T)) @ w_down.T


# ---------------------------------------------------- grouped_query_attention


def attend(q, k, v, diagonal=None, scale=None):
    T_q, T_k = q.shape[2], k.shape[2]
    diagonal = T_k - T_q if diagonal is None else diagonal
    mask = torch.ones(T_q, T_k, dtype=torch.bool).tril(diagonal)
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale)


def shared(x, H):
    return x.repeat_interleave(H // x.shape[1], dim=1)


def gqa_repeat_tiles(q, k, v):
    times = q.shape[1] // k.shape[1]
    return attend(q, k.repeat(1, times, 1, 1), v.repeat(1, times, 1, 1))


def gqa_not_causal(q, k, v):
    return attend(q, shared(k, q.shape[1]), shared(v, q.shape[1]), k.shape[2])


def gqa_mask_top_left(q, k, v):
    return attend(q, shared(k, q.shape[1]), shared(v, q.shape[1]), 0)


def gqa_without_scale(q, k, v):
    return attend(q, shared(k, q.shape[1]), shared(v, q.shape[1]), scale=1.0)


def gqa_first_head_for_all(q, k, v):
    return attend(q, k[:, :1].expand_as(shared(k, q.shape[1])), shared(v, q.shape[1]))


def gqa_means_the_queries(q, k, v):
    B, _, T, D = q.shape
    mean = q.view(B, k.shape[1], -1, T, D).mean(2)
    return attend(mean, k, v)


# ---------------------------------------------------------------- window_mask


def places(t_q, t_k):
    return torch.arange(t_k - t_q, t_k)[:, None], torch.arange(t_k)


def window_too_narrow(t_q, t_k, window):
    i, j = places(t_q, t_k)
    return (j <= i) & (j > i - window + 1)


def window_too_wide(t_q, t_k, window):
    i, j = places(t_q, t_k)
    return (j <= i) & (j >= i - window)


def window_not_causal(t_q, t_k, window):
    i, j = places(t_q, t_k)
    return (j - i).abs() < window


def window_top_left(t_q, t_k, window):
    i, j = torch.arange(t_q)[:, None], torch.arange(t_k)
    return (j <= i) & (j > i - window)


def window_blocks(t_q, t_k, window):
    i, j = places(t_q, t_k)
    return (j <= i) & (i // window == j // window)


def window_ignored(t_q, t_k, window):
    i, j = places(t_q, t_k)
    return j <= i


# ---------------------------------------------------------------- RotaryCache


class RightCache:
    """A right answer, cut into the places where each mistake goes wrong."""

    first = 0  # position of the first token

    def __init__(self, rotate):
        self.rotate, self.k, self.v, self.length = rotate, None, None, 0

    def places(self, n):
        return torch.arange(self.first + self.length, self.first + self.length + n)

    def turn(self, q, k, v):
        places = self.places(k.shape[2])
        return self.rotate(q, places), self.rotate(k, places), v

    def seen(self, k):
        return k

    def diagonal(self, n):
        return self.length - n

    def step(self, q, k, v):
        q, k, v = self.turn(q, k, v)
        if self.k is not None:
            k, v = torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)
        self.k, self.v, self.length = k, v, k.shape[2]
        return attend(q, self.seen(k), v, self.diagonal(q.shape[2]))


class CachePositionsFromZero(RightCache):
    def places(self, n):
        return torch.arange(n)


class CacheQueryOneBehind(RightCache):
    def turn(self, q, k, v):
        places = self.places(k.shape[2])
        return self.rotate(q, places - (self.length > 0)), self.rotate(k, places), v


class CacheRotatesKeysTwice(RightCache):
    def seen(self, k):
        return self.rotate(k, torch.arange(k.shape[2]))


class CacheRotatesValues(RightCache):
    def turn(self, q, k, v):
        return *super().turn(q, k, v)[:2], self.rotate(v, self.places(v.shape[2]))


class CacheRotatesQueriesOnly(RightCache):
    def turn(self, q, k, v):
        return self.rotate(q, self.places(q.shape[2])), k, v


class CacheWithoutMask(RightCache):
    def diagonal(self, n):
        return self.length


class CacheMaskTopLeft(RightCache):
    def diagonal(self, n):
        return 0


# ---------------------------------------------------------------- cache_bytes


def bytes_of(layers, t, n_kv_heads, d_head, size, window, n_global, both=2):
    local = t if window is None else min(t, window)
    tokens = n_global * t + (layers - n_global) * local
    return both * tokens * n_kv_heads * d_head * size


def bytes_keys_only(*case):
    return bytes_of(*case, both=1)


def bytes_window_ignored(layers, t, n_kv_heads, d_head, size, window, n_global):
    return bytes_of(layers, t, n_kv_heads, d_head, size, None, n_global)


def bytes_window_everywhere(layers, t, n_kv_heads, d_head, size, window, n_global):
    return bytes_of(layers, t, n_kv_heads, d_head, size, window, 0)


def bytes_of_empty_windows(layers, t, n_kv_heads, d_head, size, window, n_global):
    local = t if window is None else window
    tokens = n_global * t + (layers - n_global) * local
    return 2 * tokens * n_kv_heads * d_head * size


def bytes_of_local_layers_only(layers, t, n_kv_heads, d_head, size, window, n_global):
    kept = 0 if window is None else n_global
    local = t if window is None else min(t, window)
    tokens = kept * t + (layers - n_global) * local
    return 2 * tokens * n_kv_heads * d_head * size


def bytes_of_numbers(layers, t, n_kv_heads, d_head, size, window, n_global):
    return bytes_of(layers, t, n_kv_heads, d_head, 1, window, n_global)


MISTAKES = {
    "rms_norm": (
        Mistake(
            norm_is_layer_norm,
            "you subtract the mean. That is LayerNorm; RMSNorm leaves the mean in.",
        ),
        Mistake(
            norm_eps_outside_root,
            "eps belongs under the root, beside the mean of squares: sqrt(mean + eps).",
        ),
        Mistake(
            norm_without_root,
            "you divide by the mean of squares. The root of it has the unit of x.",
        ),
        Mistake(norm_without_gain, "the gain is not used."),
        Mistake(
            norm_by_length,
            "you divide by the length, the root of the *sum* of squares. The root of "
            "the *mean* leaves entries of size 1, whatever the number of channels.",
        ),
        Mistake(
            norm_in_half_precision,
            "300 squared is more than float16 can hold, so the mean becomes inf and "
            "the output 0. Take the squares in float32 and convert the result back.",
        ),
        Mistake(
            norm_always_in_float32,
            "float64 loses half of its digits on the way through float32. Widen only "
            "what is narrower.",
        ),
        Mistake(
            norm_over_everything,
            "each token has its own rms: the mean runs over the last dimension only.",
        ),
    ),
    "rotate": (
        Mistake(
            rotate_interleaved,
            "you turn the pairs (x[2i], x[2i + 1]), as the paper draws them. Llama in "
            "transformers pairs x[i] with x[i + D/2]. Both are fine to train with; "
            "with copied weights only one is right.",
        ),
        Mistake(
            rotate_other_way,
            "you turn clockwise: the minus belongs to the first half, a cos - b sin.",
        ),
        Mistake(
            rotate_from_zero,
            "you count positions from 0 and do not use `positions`. With a cache, the "
            "first token of a step is not at position 0.",
        ),
        Mistake(rotate_one_ahead, "every position is one too large."),
        Mistake(
            rotate_at_half_speed,
            "the speed of pair i is base^(-2i / D), with i = 0 ... D/2 - 1. Yours is "
            "base^(-i / D), so the slow half of the pairs is missing.",
        ),
        Mistake(
            rotate_minus_sign_lost,
            "both halves have a plus. That is no rotation: it changes lengths. The "
            "first half is a cos - b sin.",
        ),
        Mistake(rotate_fixed_base, "`base` is not used."),
        Mistake(
            rotate_angles_in_half,
            "the angles are in the dtype of x. bfloat16 knows 3 digits: position 300 "
            "would be a turn off. Compute them in float32, convert cos and sin.",
        ),
    ),
    "alibi_bias": (
        Mistake(
            alibi_powers_only,
            "right for powers of 2. For other head counts take the slopes of the "
            "largest power of 2 below, then every other slope of twice that number.",
        ),
        Mistake(
            alibi_rewards_distance,
            "the sign is wrong: a key that is far away should get a *lower* score.",
        ),
        Mistake(
            alibi_without_mask,
            "the future is visible: where the key comes after the query, the bias is "
            "-inf.",
        ),
        Mistake(
            alibi_counts_from_zero,
            "the first slope is 2^(-8/n), not 1: count the heads from 1.",
        ),
        Mistake(
            alibi_zero_ahead,
            "the future has bias 0, the best of all. It should be -inf.",
        ),
    ),
    "swiglu": (
        Mistake(
            swiglu_gates_the_other,
            "silu goes on the product with w_gate; the one with w_up stays linear.",
        ),
        Mistake(
            swiglu_is_glu,
            "sigmoid(g) * u is the plain GLU. Swish keeps g: g * sigmoid(g), F.silu.",
        ),
        Mistake(swiglu_is_geglu, "GELU makes it GEGLU. SwiGLU has F.silu there."),
        Mistake(swiglu_adds, "the two branches are multiplied, not added."),
        Mistake(swiglu_without_gate, "w_gate is not used."),
        Mistake(
            swiglu_activates_the_product,
            "silu acts on the gate branch, before the product.",
        ),
    ),
    "grouped_query_attention": (
        Mistake(
            gqa_repeat_tiles,
            "`repeat` gives heads 0, 1, 0, 1. Neighbouring queries share a head: 0, 0, "
            "1, 1. That is `repeat_interleave`. Copied weights fit only that order.",
        ),
        Mistake(gqa_not_causal, "there is no causal mask."),
        Mistake(
            gqa_mask_top_left,
            "with T_q < T_k the queries are the last T_q tokens: align the triangle to "
            "the bottom right, tril(T_k - T_q).",
        ),
        Mistake(gqa_without_scale, "the scores are not divided by sqrt(D)."),
        Mistake(
            gqa_first_head_for_all,
            "all queries use the first head of keys. Query head h reads h // (H/H_kv).",
        ),
        Mistake(
            gqa_means_the_queries,
            "queries keep all H heads; only keys and values are shared.",
        ),
    ),
    "window_mask": (
        Mistake(
            window_too_narrow,
            "one too few: `window` tokens *with* the token itself, so j > i - window.",
        ),
        Mistake(
            window_too_wide,
            "one too many: `window` counts the token itself, so j > i - window.",
        ),
        Mistake(window_not_causal, "the window reaches into the future as well."),
        Mistake(
            window_top_left,
            "the queries are the last t_q tokens: query i stands at t_k - t_q + i.",
        ),
        Mistake(
            window_blocks,
            "these are blocks that do not overlap. The window slides: each token sees "
            "its own last `window` tokens.",
        ),
        Mistake(window_ignored, "`window` is not used."),
    ),
    "RotaryCache": (
        Mistake(
            CachePositionsFromZero,
            "each step counts positions from 0 again. The new tokens stand after those "
            "in the cache: count on from `self.length`.",
        ),
        Mistake(
            CacheQueryOneBehind,
            "the query's position is one less than its key's: update the length after "
            "both are rotated.",
        ),
        Mistake(
            CacheRotatesKeysTwice,
            "keys are rotated when they are stored and again when they are used, so "
            "distances count double. Once is enough.",
        ),
        Mistake(
            CacheRotatesValues,
            "values are not rotated: positions belong into the scores only.",
        ),
        Mistake(
            CacheRotatesQueriesOnly,
            "the keys are not rotated. Only the difference of two angles is a "
            "distance.",
        ),
        Mistake(
            CacheWithoutMask,
            "within a chunk, tokens see those after them. A causal mask is missing.",
        ),
        Mistake(
            CacheMaskTopLeft,
            "the triangle is at the top left: a lone new token sees the oldest only.",
        ),
    ),
    "cache_bytes": (
        Mistake(bytes_keys_only, "keys *and* values are kept: twice as much."),
        Mistake(bytes_window_ignored, "the window is not used."),
        Mistake(
            bytes_window_everywhere,
            "`n_global` layers keep all tokens, whatever the window.",
        ),
        Mistake(
            bytes_of_empty_windows,
            "a text shorter than the window has only its own tokens: min(t, window).",
        ),
        Mistake(
            bytes_of_local_layers_only,
            "without a window there are no local layers: all `layers` keep all tokens, "
            "whatever `n_global` says.",
        ),
        Mistake(
            bytes_of_numbers, "that is the number of entries; each takes several bytes."
        ),
    ),
}
