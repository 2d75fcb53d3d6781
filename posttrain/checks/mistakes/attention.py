"""What goes wrong in the exercise `attention`, and the hint for each.

Each mistake is a whole answer. Where several differ from a right answer in one
place only, they share it as a base and change that place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from posttrain.checks.task import Mistake

# ---------------------------------------------------------------- causal_mask


def mask_top_left(t_q, t_k):
    return torch.ones(t_q, t_k, dtype=torch.bool).tril()


def mask_flipped(t_q, t_k):
    return torch.ones(t_q, t_k, dtype=torch.bool).triu(t_k - t_q + 1)


def mask_sees_next(t_q, t_k):
    return torch.ones(t_q, t_k, dtype=torch.bool).tril(t_k - t_q + 1)


def mask_not_itself(t_q, t_k):
    return torch.ones(t_q, t_k, dtype=torch.bool).tril(t_k - t_q - 1)


def mask_of_floats(t_q, t_k):
    return torch.ones(t_q, t_k).tril(t_k - t_q)


# ------------------------------------------------ scaled_dot_product_attention


def scores_of(q, k, mask, scale):
    scores = q @ k.transpose(-2, -1) * scale
    return scores if mask is None else scores.masked_fill(~mask, float("-inf"))


def sdpa_no_scale(q, k, v, mask=None):
    return scores_of(q, k, mask, 1.0).softmax(-1) @ v


def sdpa_scaled_by_d(q, k, v, mask=None):
    return scores_of(q, k, mask, 1 / q.shape[-1]).softmax(-1) @ v


def sdpa_softmax_over_queries(q, k, v, mask=None):
    return scores_of(q, k, mask, q.shape[-1] ** -0.5).softmax(-2) @ v


def sdpa_mask_inverted(q, k, v, mask=None):
    inverted = None if mask is None else ~mask
    return scores_of(q, k, inverted, q.shape[-1] ** -0.5).softmax(-1) @ v


def sdpa_mask_after_softmax(q, k, v, mask=None):
    weights = scores_of(q, k, None, q.shape[-1] ** -0.5).softmax(-1)
    return (weights if mask is None else weights * mask) @ v


def sdpa_mask_ignored(q, k, v, mask=None):
    return scores_of(q, k, None, q.shape[-1] ** -0.5).softmax(-1) @ v


def sdpa_exp_overflows(q, k, v, mask=None):
    weights = scores_of(q, k, mask, q.shape[-1] ** -0.5).exp()
    return weights / weights.sum(-1, keepdim=True) @ v


def sdpa_one_largest_score(q, k, v, mask=None):
    scores = scores_of(q, k, mask, q.shape[-1] ** -0.5)
    weights = (scores - scores.max()).exp()
    return weights / weights.sum(-1, keepdim=True) @ v


def sdpa_largest_of_the_masked(q, k, v, mask=None):
    scores = scores_of(q, k, None, q.shape[-1] ** -0.5)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    weights = weights if mask is None else weights * mask
    return weights / weights.sum(-1, keepdim=True) @ v


def sdpa_clamps_scores(q, k, v, mask=None):
    scores = scores_of(q, k, None, q.shape[-1] ** -0.5).clamp(-80, 80)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.exp()
    return weights / weights.sum(-1, keepdim=True) @ v


def sdpa_masks_with_a_number(q, k, v, mask=None):
    scores = scores_of(q, k, None, q.shape[-1] ** -0.5)
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e4)
    return scores.softmax(-1) @ v


def sdpa_always_causal(q, k, v, mask=None):
    if mask is None:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    return scores_of(q, k, mask, q.shape[-1] ** -0.5).softmax(-1) @ v


# -------------------------------------------------- split_heads, merge_heads


def split_by_reshape_only(x, n_heads):
    b, t, c = x.shape
    return x.reshape(b, n_heads, t, c // n_heads)


def split_without_transpose(x, n_heads):
    b, t, c = x.shape
    return x.reshape(b, t, n_heads, c // n_heads)


def split_interleaved(x, n_heads):
    b, t, c = x.shape
    return x.reshape(b, t, c // n_heads, n_heads).permute(0, 3, 1, 2)


def merge_by_reshape_only(heads):
    b, h, t, d = heads.shape
    return heads.reshape(b, t, h * d)


def merge_interleaved(heads):
    b, h, t, d = heads.shape
    return heads.permute(0, 2, 3, 1).reshape(b, t, h * d)


def merge_view_of_strided(heads):
    b, h, t, d = heads.shape
    return heads.transpose(1, 2).view(b, t, h * d)


# -------------------------------------------------------- MultiHeadAttention


class RightMultiHead(nn.Module):
    """A right answer, cut into the places where each mistake goes wrong."""

    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        for name in ("w_q", "w_k", "w_v", "w_o"):
            setattr(self, name, nn.Linear(d_model, d_model))

    def split(self, x):
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def attend(self, q, k, v, mask):
        return F.scaled_dot_product_attention(q, k, v, mask)

    def merge(self, heads):
        return heads.transpose(1, 2).flatten(2)

    def forward(self, x, context=None, mask=None):
        source = x if context is None else context
        q, k = self.split(self.w_q(x)), self.split(self.w_k(source))
        heads = self.attend(q, k, self.split(self.w_v(source)), mask)
        return self.project(self.merge(heads))

    def project(self, merged):
        return self.w_o(merged)


class MultiHeadScaledByModelSize(RightMultiHead):
    def attend(self, q, k, v, mask):
        scale = (q.shape[-1] * self.n_heads) ** -0.5
        return F.scaled_dot_product_attention(q, k, v, mask, scale=scale)


class MultiHeadIgnoresContext(RightMultiHead):
    def forward(self, x, context=None, mask=None):
        return super().forward(x, None, mask)


class MultiHeadWithoutOutputProjection(RightMultiHead):
    def project(self, merged):
        return merged


class MultiHeadMergedWithoutTranspose(RightMultiHead):
    def merge(self, heads):
        b, h, t, d = heads.shape
        return heads.reshape(b, t, h * d)


class MultiHeadLosesGradients(RightMultiHead):
    def attend(self, q, k, v, mask):
        return super().attend(q.detach(), k.detach(), v, mask)


# ------------------------------------------------------------------- KVCache


class RightCache:
    """A right answer, cut into the places where each mistake goes wrong."""

    def __init__(self, batch, n_heads, max_len, d_head, dtype):
        self.keys = torch.zeros(batch, n_heads, max_len, d_head, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self.length, self.max_len = 0, max_len

    def store(self, k, v, end):
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]

    def mask(self, n_new, end):
        return torch.ones(n_new, end, dtype=torch.bool).tril(end - n_new)

    def step(self, q, k, v):
        n_new, end = k.shape[2], self.length + k.shape[2]
        if end > self.max_len:
            raise ValueError("the cache is full")
        k, v = self.store(k, v, end)
        self.length = end
        return F.scaled_dot_product_attention(q, k, v, self.mask(n_new, end))


class CacheOnlyNewTokens(RightCache):
    def store(self, k, v, end):
        return k, v

    def mask(self, n_new, end):
        return super().mask(n_new, n_new)


class CacheWithoutMask(RightCache):
    def mask(self, n_new, end):
        return torch.ones(n_new, end, dtype=torch.bool)


class CacheMaskTopLeft(RightCache):
    def mask(self, n_new, end):
        return torch.ones(n_new, end, dtype=torch.bool).tril()


class CacheAttendsToEmptySlots(RightCache):
    def store(self, k, v, end):
        super().store(k, v, end)
        return self.keys, self.values

    def mask(self, n_new, end):
        empty = torch.ones(n_new, self.max_len - end, dtype=torch.bool)
        return torch.cat([super().mask(n_new, end), empty], dim=1)


class CacheKeepsReferences(RightCache):
    def __init__(self, batch, n_heads, max_len, d_head, dtype):
        super().__init__(batch, n_heads, max_len, d_head, dtype)
        self.keys, self.values = [], []

    def store(self, k, v, end):
        self.keys.append(k)
        self.values.append(v)
        return torch.cat(self.keys, dim=2), torch.cat(self.values, dim=2)


class CacheStoresWhatItRefuses(RightCache):
    def step(self, q, k, v):
        self.keys = torch.cat([self.keys[:, :, : self.stored], k], dim=2)
        self.values = torch.cat([self.values[:, :, : self.stored], v], dim=2)
        self.stored = self.keys.shape[2]
        if self.length + k.shape[2] > self.max_len:
            raise ValueError("the cache is full")
        self.length += k.shape[2]
        mask = self.mask(k.shape[2], self.stored)
        return F.scaled_dot_product_attention(q, self.keys, self.values, mask)

    stored = 0


class CacheOfFloat32(RightCache):
    def store(self, k, v, end):
        self.keys, self.values = self.keys.float(), self.values.float()
        k, v = super().store(k, v, end)
        return k.to(self.dtype), v.to(self.dtype)

    def __init__(self, batch, n_heads, max_len, d_head, dtype):
        super().__init__(batch, n_heads, max_len, d_head, dtype)
        self.dtype = dtype


class CacheGrowsForEver(RightCache):
    def step(self, q, k, v):
        room = torch.zeros_like(k)
        self.keys = torch.cat([self.keys, room], dim=2)
        self.values = torch.cat([self.values, room], dim=2)
        self.max_len += k.shape[2]
        return super().step(q, k, v)


MISTAKES = {
    "causal_mask": (
        Mistake(
            mask_top_left,
            "with T_q < T_k the queries are the *last* T_q positions: the lone new "
            "token of a cached step sees every key. Align the triangle to the bottom "
            "right, `tril(diagonal=T_k - T_q)`.",
        ),
        Mistake(
            mask_flipped,
            "True means *may attend* here. This mask is True for the future.",
        ),
        Mistake(
            mask_sees_next,
            "off by one: each position sees the token after it, which is the very "
            "token it has to predict. Training loss would look too good.",
        ),
        Mistake(
            mask_not_itself,
            "off by one the other way: a position may attend to itself, and the first "
            "one has nothing else to look at.",
        ),
        Mistake(mask_of_floats, "return a boolean tensor: dtype=torch.bool."),
    ),
    "scaled_dot_product_attention": (
        Mistake(
            sdpa_no_scale,
            "the scores are not scaled. Divide q @ k.T by sqrt(d), or their variance "
            "grows with d and the softmax saturates.",
        ),
        Mistake(
            sdpa_scaled_by_d,
            "you divide by d. A sum of d products of unit variance has variance d, so "
            "its standard deviation is sqrt(d): divide by that.",
        ),
        Mistake(
            sdpa_softmax_over_queries,
            "the softmax runs over the queries. Each *query* spreads a weight of one "
            "over the keys: softmax over the last dimension.",
        ),
        Mistake(
            sdpa_mask_inverted,
            "the mask is read the wrong way round. True means *may attend*: fill with "
            "-inf where the mask is False.",
        ),
        Mistake(
            sdpa_mask_after_softmax,
            "you zero weights after the softmax, so the rest no longer sums to one. "
            "Put -inf into the scores before it.",
        ),
        Mistake(sdpa_mask_ignored, "the mask is not used."),
        Mistake(
            sdpa_exp_overflows,
            "exp of a large score overflows to inf, and inf / inf is NaN. Subtract the "
            "row's maximum first, or use torch.softmax.",
        ),
        Mistake(
            sdpa_one_largest_score,
            "you subtract the largest of all scores, so a row whose own scores are far "
            "below it underflows to 0 / 0. Take the maximum of each row.",
        ),
        Mistake(
            sdpa_largest_of_the_masked,
            "the maximum is one that is masked, and what may be seen underflows to 0 "
            "beside it. Mask first, then take the maximum.",
        ),
        Mistake(
            sdpa_clamps_scores,
            "clamped scores are finite and wrong: two large ones become equal. "
            "Subtract the row's maximum instead.",
        ),
        Mistake(
            sdpa_masks_with_a_number,
            "-10,000 is not small enough: real scores may lie below it, and then the "
            "masked key wins. Fill with -inf.",
        ),
        Mistake(
            sdpa_always_causal,
            "without a mask every query sees every key. Causal is what the caller's "
            "mask makes of it.",
        ),
    ),
    "split_heads": (
        Mistake(
            split_by_reshape_only,
            "reshape(B, H, T, D) reads memory in order, so it mixes tokens and heads. "
            "Reshape to (B, T, H, D) first, then swap T and H.",
        ),
        Mistake(
            split_without_transpose,
            "the result is (B, T, H, D). Swap T and H, so that the matrix products run "
            "over (T, D) of each head.",
        ),
        Mistake(
            split_interleaved,
            "head h must be the channels h*D to (h+1)*D, in one block. You give it "
            "every H-th channel.",
        ),
    ),
    "merge_heads": (
        Mistake(
            merge_by_reshape_only,
            "reshape alone mixes tokens and heads. Swap H and T back first, then "
            "reshape to (B, T, H * D).",
        ),
        Mistake(
            merge_interleaved,
            "the channels of the heads are interleaved. Head 0's D channels come "
            "first, then head 1's.",
        ),
        Mistake(
            merge_view_of_strided,
            "`view` cannot merge dimensions that are not adjacent in memory, and after "
            "a transpose they are not: use `reshape`, or `.contiguous()` first.",
        ),
    ),
    "MultiHeadAttention": (
        Mistake(
            MultiHeadScaledByModelSize,
            "you scale by sqrt(d_model). Each head's dot product sums over "
            "d_head = d_model / n_heads products: scale by sqrt(d_head).",
        ),
        Mistake(
            MultiHeadIgnoresContext,
            "the context is not used. In cross-attention the queries come from x, the "
            "keys and the values from the context.",
        ),
        Mistake(
            MultiHeadWithoutOutputProjection,
            "the output projection w_o is missing. Without it the heads are never "
            "mixed.",
        ),
        Mistake(
            MultiHeadMergedWithoutTranspose,
            "the heads are merged without swapping H and T back, so tokens and heads "
            "are mixed up.",
        ),
        Mistake(
            MultiHeadLosesGradients,
            "the output is right but gradients are lost: queries and keys leave the "
            "graph on the way to the weights (`.detach()`, `.data`, `no_grad`).",
        ),
    ),
    "KVCache": (
        Mistake(
            CacheStoresWhatItRefuses,
            "the tokens that do not fit are stored before `step` raises, so the next "
            "step sees them. Look at the room first.",
        ),
        Mistake(
            CacheOfFloat32,
            "the store is float32 whatever `dtype` says: float64 loses digits in it.",
        ),
        Mistake(
            CacheOnlyNewTokens,
            "each step attends to the new tokens only. The queries must see all keys "
            "and values that are stored.",
        ),
        Mistake(
            CacheWithoutMask,
            "when a chunk has several tokens, the earlier ones see the later ones. A "
            "cached prefill needs the causal mask too.",
        ),
        Mistake(
            CacheMaskTopLeft,
            "the causal mask is aligned to the top left. Query i of the chunk stands "
            "at position length + i: `tril(diagonal=length)`.",
        ),
        Mistake(
            CacheAttendsToEmptySlots,
            "the queries also attend to the empty slots. A key of zeros scores zero, "
            "not -inf: it takes weight. Slice to the length first.",
        ),
        Mistake(
            CacheKeepsReferences,
            "you keep the caller's tensors. It may reuse its buffers after the call: "
            "copy k and v into storage of your own.",
        ),
        Mistake(
            CacheGrowsForEver,
            "the cache must refuse what does not fit: raise ValueError when length + "
            "new tokens > max_len, and leave its state as it was.",
        ),
    ),
}
