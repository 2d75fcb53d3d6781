"""Answers that the grader of `attention` must tell apart. Never given to students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

# ---------------------------------------------------------------- causal_mask


def mask_by_comparison(t_q, t_k):
    positions = torch.arange(t_k - t_q, t_k)[:, None]
    return torch.arange(t_k) <= positions


def mask_last_rows_of_square(t_q, t_k):
    return torch.ones(t_k, t_k).tril().bool()[t_k - t_q :]


def mask_all_true(t_q, t_k):
    return torch.ones(t_q, t_k, dtype=torch.bool)


# ------------------------------------------------ scaled_dot_product_attention


def sdpa_by_einsum_in_float64(q, k, v, mask=None):
    scores = torch.einsum("...td,...sd->...ts", q.double(), k.double())
    scores = scores / q.shape[-1] ** 0.5
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("...ts,...sd->...td", weights, v.double()).to(q.dtype)


def sdpa_online_over_keys(q, k, v, mask=None):
    """One key at a time, as flash attention does, and in float32 inside."""
    dtype, q, k, v = q.dtype, q, k, v
    if dtype == torch.bfloat16:
        q, k, v = q.float(), k.float(), v.float()
    top = torch.full(q.shape[:-1], -torch.inf, dtype=q.dtype)
    total = torch.zeros_like(top)
    output = q.new_zeros(*q.shape[:-1], v.shape[-1])
    for j in range(k.shape[-2]):
        score = (q * k[..., j : j + 1, :]).sum(-1) / math.sqrt(q.shape[-1])
        if mask is not None:
            score = torch.where(mask[..., j], score, -torch.inf)
        new_top = torch.maximum(top, score)
        safe = torch.where(new_top.isinf(), 0.0, new_top)
        shrink, weight = (top - safe).exp(), (score - safe).exp()
        total = total * shrink + weight
        output = output * shrink[..., None] + weight[..., None] * v[..., j : j + 1, :]
        top = new_top
    return (output / total[..., None]).to(dtype)


def sdpa_transposed_result(q, k, v, mask=None):
    """Not contiguous, scaled before the product, softmax over a transposed axis."""
    scores = k @ (q / math.sqrt(q.shape[-1])).transpose(-2, -1)  # (..., T_k, T_q)
    if mask is not None:
        scores = scores.masked_fill(mask.logical_not().transpose(-2, -1), -torch.inf)
    return (v.transpose(-2, -1) @ scores.softmax(-2)).transpose(-2, -1)


def sdpa_library_call(q, k, v, mask=None):
    return F.scaled_dot_product_attention(q, k, v, mask)


def sdpa_writes_into_query(q, k, v, mask=None):
    q /= math.sqrt(q.shape[-1])
    scores = q @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ v


# -------------------------------------------------- split_heads, merge_heads


def split_by_chunks(x, n_heads):
    return torch.stack(x.chunk(n_heads, dim=-1), dim=1)


def split_by_unflatten(x, n_heads):
    return x.unflatten(-1, (n_heads, -1)).movedim(2, 1)


def split_in_float32(x, n_heads):
    b, t, c = x.shape
    return x.float().reshape(b, t, n_heads, c // n_heads).transpose(1, 2)


def merge_by_cat(heads):
    return torch.cat([heads[:, h] for h in range(heads.shape[1])], dim=-1)


def merge_by_flatten(heads):
    return heads.permute(0, 2, 1, 3).contiguous().flatten(2)


def merge_sums_heads(heads):
    return heads.sum(1).repeat(1, 1, heads.shape[1])


# -------------------------------------------------------- MultiHeadAttention


class FourProjections(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads, self.d_head = n_heads, d_model // n_heads
        self.w_q = nn.Linear(d_model, d_model)
        self.w_k = nn.Linear(d_model, d_model)
        self.w_v = nn.Linear(d_model, d_model)
        self.w_o = nn.Linear(d_model, d_model)


class MultiHeadLoopOverHeads(FourProjections):
    def forward(self, x, context=None, mask=None):
        source = x if context is None else context
        queries, keys, values = self.w_q(x), self.w_k(source), self.w_v(source)
        outputs = []
        for h in range(self.n_heads):
            part = slice(h * self.d_head, (h + 1) * self.d_head)
            scores = torch.einsum("btd,bsd->bts", queries[..., part], keys[..., part])
            scores = scores * self.d_head**-0.5
            if mask is not None:
                scores = scores.masked_fill(~mask, float("-inf"))
            outputs.append(scores.softmax(-1) @ values[..., part])
        return self.w_o(torch.cat(outputs, dim=-1))


class MultiHeadByLibrary(FourProjections):
    def forward(self, x, context=None, mask=None):
        source = x if context is None else context
        q, k, v = (
            y.unflatten(-1, (self.n_heads, self.d_head)).transpose(1, 2)
            for y in (self.w_q(x), self.w_k(source), self.w_v(source))
        )
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return F.linear(
            heads.transpose(1, 2).flatten(2), self.w_o.weight, self.w_o.bias
        )


class MultiHeadSharesKeysAndValues(FourProjections):
    def forward(self, x, context=None, mask=None):
        source = x if context is None else context
        q, k, v = (
            y.unflatten(-1, (self.n_heads, self.d_head)).transpose(1, 2)
            for y in (self.w_q(x), self.w_k(source), self.w_k(source))
        )
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.w_o(heads.transpose(1, 2).flatten(2))


# ------------------------------------------------------------------- KVCache


class CacheThatConcatenates:
    def __init__(self, batch, n_heads, max_len, d_head, dtype):
        self.keys = torch.empty(batch, n_heads, 0, d_head, dtype=dtype)
        self.values = torch.empty(batch, n_heads, 0, d_head, dtype=dtype)
        self.max_len = max_len

    @property
    def length(self):
        return self.keys.shape[2]

    def step(self, q, k, v):
        past, new = self.length, k.shape[2]
        if past + new > self.max_len:
            raise ValueError("full")
        self.keys = torch.cat([self.keys, k], dim=2)
        self.values = torch.cat([self.values, v], dim=2)
        scores = q @ self.keys.transpose(-2, -1) / math.sqrt(q.shape[-1])
        future = torch.ones(new, past + new).triu(past + 1).bool()
        return scores.masked_fill(future, -torch.inf).softmax(-1) @ self.values


class CacheTokenByToken:
    def __init__(self, batch, n_heads, max_len, d_head, dtype):
        self.store = torch.zeros(2, batch, n_heads, max_len, d_head, dtype=dtype)
        self.length = 0

    def step(self, q, k, v):
        if self.length + k.shape[2] > self.store.shape[3]:
            raise ValueError("full")
        outputs = []
        for i in range(k.shape[2]):
            self.store[:, :, :, self.length] = torch.stack([k[:, :, i], v[:, :, i]])
            self.length += 1
            keys, values = self.store[:, :, :, : self.length]
            query = q[:, :, i : i + 1]
            outputs.append(F.scaled_dot_product_attention(query, keys, values))
        return torch.cat(outputs, dim=2)


class CacheRefusesTooLate:
    def __init__(self, batch, n_heads, max_len, d_head, dtype):
        self.keys = torch.empty(batch, n_heads, 0, d_head, dtype=dtype)
        self.values = torch.empty(batch, n_heads, 0, d_head, dtype=dtype)
        self.length, self.max_len = 0, max_len

    def step(self, q, k, v):
        self.keys = torch.cat([self.keys, k], dim=2)
        self.values = torch.cat([self.values, v], dim=2)
        self.length += k.shape[2]
        if self.length > self.max_len:
            raise ValueError("full, but the tokens are already counted")
        mask = torch.ones(k.shape[2], self.length, dtype=torch.bool)
        mask = mask.tril(self.length - k.shape[2])
        return F.scaled_dot_product_attention(q, self.keys, self.values, mask)


RIGHT = {
    "causal_mask": [mask_by_comparison, mask_last_rows_of_square],
    "scaled_dot_product_attention": [
        sdpa_by_einsum_in_float64,
        sdpa_online_over_keys,
        sdpa_transposed_result,
    ],
    "split_heads": [split_by_chunks, split_by_unflatten],
    "merge_heads": [merge_by_cat, merge_by_flatten],
    "MultiHeadAttention": [MultiHeadLoopOverHeads, MultiHeadByLibrary],
    "KVCache": [CacheThatConcatenates, CacheTokenByToken],
}

WRONG = {
    "causal_mask": [mask_all_true],
    "scaled_dot_product_attention": [sdpa_library_call, sdpa_writes_into_query],
    "split_heads": [split_in_float32],
    "merge_heads": [merge_sums_heads],
    "MultiHeadAttention": [MultiHeadSharesKeysAndValues],
    "KVCache": [CacheRefusesTooLate],
}

_SYMMETRIC = "transpose takes its two dimensions in either order"

EQUIVALENT = {
    "scaled_dot_product_attention: `scores = q @ k.transpose(-2, -1) / "
    "math.sqrt(q.shape[-1])` -> `scores = q @ k.transpose(-1, -2) / "
    "math.sqrt(q.shape[-1])`": _SYMMETRIC,
    "split_heads: `return x.reshape(b, t, n_heads, c // n_heads).transpose(1, 2)` -> "
    "`return x.reshape(b, t, n_heads, c // n_heads).transpose(2, 1)`": _SYMMETRIC,
    "merge_heads: `return heads.transpose(1, 2).reshape(b, t, h * d)` -> "
    "`return heads.transpose(2, 1).reshape(b, t, h * d)`": _SYMMETRIC,
    "MultiHeadAttention: `return y.reshape(b, y.shape[1], self.n_heads, "
    "-1).transpose(1, 2)` -> `return y.reshape(b, y.shape[1], self.n_heads, "
    "-1).transpose(2, 1)`": _SYMMETRIC,
    "MultiHeadAttention: `return self.w_o(heads.transpose(1, 2).reshape(b, t, c))` -> "
    "`return self.w_o(heads.transpose(2, 1).reshape(b, t, c))`": _SYMMETRIC,
}
