"""Checks of the exercise `attention`.

References: an enumeration (causal_mask, heads), a softmax in float64 summed with
numpy (scaled_dot_product_attention), `torch.nn.MultiheadAttention` with the same
weights and autograd (MultiHeadAttention), `F.scaled_dot_product_attention` over the
whole sequence at once (KVCache).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from posttrain.checks.mistakes.attention import MISTAKES
from posttrain.checks.task import TOLERANCE, Task

# ---------------------------------------------------------------- causal_mask


def mask_cases(rng, hidden):
    yield from [(1, 1), (3, 3), (1, 4), (2, 5), (4, 4)]
    for _ in range(6 if hidden else 2):
        t_q = int(torch.randint(1, 9, (), generator=rng))
        past = int(torch.randint(0, 9, (), generator=rng))
        yield t_q, t_q + past


def drive_mask(answer, t_q, t_k):
    return answer(t_q, t_k)


def reference_mask(t_q, t_k):
    rows = []
    for i in range(t_q):
        position = t_k - t_q + i
        rows.append([key <= position for key in range(t_k)])
    return torch.tensor(rows)


# ------------------------------------------------ scaled_dot_product_attention


def sdpa_cases(rng, hidden):
    def draw(*shape, dtype=torch.float32, scale=1.0):
        return (torch.randn(*shape, generator=rng) * scale).to(dtype)

    def mask(t_q, t_k):  # random, but every query sees at least one key
        allowed = torch.rand(t_q, t_k, generator=rng) < 0.6
        return allowed | (torch.arange(t_k) == torch.arange(t_q)[:, None] % t_k)

    yield draw(1, 2), draw(1, 2), draw(1, 2), None  # a lone token
    yield draw(2, 3), draw(3, 3), draw(3, 2), None  # T_q, T_k and d_v all differ
    yield draw(1, 4), draw(1, 4).expand(3, 4).clone(), draw(3, 2), None  # a tie
    yield draw(3, 4), draw(3, 4), draw(3, 4), torch.ones(3, 3).tril().bool()
    yield 200.0 * torch.eye(3, 4), 200.0 * torch.eye(3, 4), draw(3, 2), None  # huge
    # all scores of the second row are far below 0; the largest of each row is masked
    one = torch.tensor([[200.0, 0.0, 0.0, 0.0]])
    keys = torch.cat([one, 0.99 * one, 1.1 * one, 0.1 * one])
    seen = torch.tensor([[True, True, False, True], [True, True, True, False]])
    yield torch.cat([one, -one]), keys, draw(4, 2), seen
    yield draw(2, 3), draw(2, 3), draw(2, 2), None  # without a mask, all is seen
    yield draw(2, 2, 5, 4), draw(2, 2, 7, 4), draw(2, 2, 7, 3), mask(5, 7)
    batch_mask = torch.stack([mask(4, 6), mask(4, 6)])[:, None]  # (B, 1, T_q, T_k)
    yield draw(2, 3, 4, 8), draw(2, 3, 6, 8), draw(2, 3, 6, 8), batch_mask
    for dtype in (torch.float64, torch.bfloat16):
        yield (*(draw(2, 3, 4, dtype=dtype) for _ in range(3)), mask(3, 3))
    for _ in range(4 if hidden else 1):
        t_q, t_k, d = (int(n) for n in torch.randint(1, 24, (3,), generator=rng))
        q, k, v = draw(2, t_q, d, scale=2.0), draw(2, t_k, d), draw(2, t_k, d + 1)
        yield q, k, v, mask(t_q, t_k)


def drive_sdpa(answer, q, k, v, mask):
    output = answer(q, k, v) if mask is None else answer(q, k, v, mask)
    return {"output": output, "q": q, "k": k, "v": v, "mask": mask}


def reference_sdpa(q, k, v, mask):
    scores = np.matmul(q.double().numpy(), k.double().mT.numpy())
    scores /= math.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask.numpy(), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    output = torch.from_numpy(np.matmul(weights, v.double().numpy())).to(q.dtype)
    return {"output": output, "q": q, "k": k, "v": v, "mask": mask}


# -------------------------------------------------- split_heads, merge_heads


def split_cases(rng, hidden):
    yield torch.arange(4.0).reshape(1, 1, 4), 2
    yield torch.arange(12.0).reshape(1, 3, 4), 2
    yield torch.arange(8.0).reshape(1, 2, 4), 1
    yield torch.arange(16).reshape(2, 2, 4), 4
    # a view that is not contiguous, and a dtype that is not the default
    yield torch.randn(6, 3, 2, generator=rng).transpose(0, 2), 3
    yield torch.randn(2, 5, 12, generator=rng).double(), 3
    for _ in range(3 if hidden else 1):
        b, t, h, d = (int(n) for n in torch.randint(1, 6, (4,), generator=rng))
        yield torch.randn(b, t, h * d, generator=rng), h


def drive_split(answer, x, n_heads):
    return {"heads": answer(x, n_heads), "x": x}


def reference_split(x, n_heads):
    b, t, c = x.shape
    d = c // n_heads
    heads = torch.empty(b, n_heads, t, d, dtype=x.dtype)
    for h in range(n_heads):
        heads[:, h] = x[:, :, h * d : (h + 1) * d]
    return {"heads": heads, "x": x}


def merge_cases(rng, hidden):
    for x, n_heads in split_cases(rng, hidden):
        yield (reference_split(x, n_heads)["heads"],)


def drive_merge(answer, heads):
    return {"x": answer(heads), "heads": heads}


def reference_merge(heads):
    return {"x": torch.cat(heads.unbind(1), dim=-1), "heads": heads}


# -------------------------------------------------------- MultiHeadAttention


def multi_head_cases(rng, hidden):
    def case(b, t, c, h, t_context=None, masked=False, dtype=torch.float32):
        def draw(*shape, scale=1.0):
            return (torch.randn(*shape, generator=rng) * scale).to(dtype)

        state = {}
        for name in ("w_q", "w_k", "w_v", "w_o"):
            state[f"{name}.weight"] = draw(c, c, scale=2.0 / math.sqrt(c))
            state[f"{name}.bias"] = draw(c, scale=0.5)
        t_k = t if t_context is None else t_context
        context = None if t_context is None else draw(b, t_context, c)
        mask = torch.ones(t, t_k).tril(t_k - t).bool() if masked else None
        return h, state, draw(b, t, c), context, mask, draw(b, t, c)

    yield case(1, 1, 2, 1)  # one token, one head
    yield case(1, 2, 2, 2)  # heads of size one
    yield case(1, 2, 4, 2, masked=True)
    yield case(1, 3, 4, 2, t_context=2)
    yield case(2, 5, 12, 3, masked=True)
    yield case(2, 3, 8, 4, t_context=6, masked=True)
    yield case(2, 4, 6, 2, masked=True, dtype=torch.float64)
    for _ in range(3 if hidden else 1):
        b, t, h, d = (int(n) for n in torch.randint(1, 6, (4,), generator=rng))
        yield case(b, t, h * d, h, masked=True)


def drive_multi_head(answer, n_heads, state, x, context, mask, upstream):
    """Weights in, output and every gradient out."""
    module = answer(x.shape[-1], n_heads).to(x.dtype)
    module.load_state_dict(state)
    x.requires_grad_(True)
    if context is not None:
        context.requires_grad_(True)
    output = module(x, context=context, mask=mask)
    output.backward(upstream)
    return {
        "output": output,
        "grad x": x.grad,
        "grad context": None if context is None else context.grad,
        "grad weights": {n: p.grad for n, p in module.named_parameters()},
    }


def reference_multi_head(n_heads, state, x, context, mask, upstream):
    c = x.shape[-1]
    module = nn.MultiheadAttention(c, n_heads, batch_first=True, dtype=x.dtype)
    packed = {
        f"in_proj_{kind}": torch.cat([state[f"w_{n}.{kind}"] for n in "qkv"])
        for kind in ("weight", "bias")
    }
    packed |= {f"out_proj.{kind}": state[f"w_o.{kind}"] for kind in ("weight", "bias")}
    module.load_state_dict(packed)
    x.requires_grad_(True)
    if context is not None:
        context.requires_grad_(True)
    source = x if context is None else context
    blocked = None if mask is None else ~mask  # PyTorch's module: True = may not
    output = module(x, source, source, attn_mask=blocked, need_weights=False)[0]
    output.backward(upstream)
    grads = {}
    for kind in ("weight", "bias"):
        parts = getattr(module, f"in_proj_{kind}").grad.chunk(3)
        grads |= {f"w_{n}.{kind}": g for n, g in zip("qkv", parts, strict=True)}
        grads[f"w_o.{kind}"] = getattr(module.out_proj, kind).grad
    return {
        "output": output,
        "grad x": x.grad,
        "grad context": None if context is None else context.grad,
        "grad weights": grads,
    }


# ------------------------------------------------------------------- KVCache


def cache_cases(rng, hidden):
    def case(b, h, chunks, room, d, dtype=torch.float32):
        shape = (b, h, sum(chunks) + 1, d)  # one token more than is ever accepted
        wide = torch.randn(3, *shape, generator=rng, dtype=torch.float64)
        q, k, v = wide.to(dtype)
        return q, k, v, chunks, sum(chunks) + room

    yield case(1, 1, [1], 0, 2)
    yield case(1, 1, [1, 1], 1, 2)
    yield case(1, 1, [2, 1], 0, 2)  # a prompt, then a token
    yield case(1, 2, [1, 2, 1], 2, 3)
    yield case(2, 3, [4, 1, 1, 3], 5, 8)
    yield case(2, 2, [3, 1, 1], 0, 4, torch.float64)
    if hidden:
        for _ in range(3):
            chunks = torch.randint(1, 5, (4,), generator=rng).tolist()
            yield case(2, 2, chunks, int(torch.randint(0, 4, (), generator=rng)), 4)


def drive_cache(answer, q, k, v, chunks, max_len):
    """Feeds the chunks, then one token more than fits, then one if there is room."""
    import torch

    b, h, _, d = q.shape
    cache = answer(b, h, max_len, d, q.dtype)
    outputs, lengths, start = [], [cache.length], 0
    for n in chunks:
        part = [x[:, :, start : start + n].clone() for x in (q, k, v)]
        outputs.append(cache.step(*part))
        lengths.append(cache.length)
        for x in part:
            x.fill_(7.0)  # the caller may reuse its buffers
        start += n
    extra = [x[:, :, -1:].repeat(1, 1, max_len - start + 1, 1) for x in (q, k, v)]
    try:
        cache.step(*extra)
        overflow = "no error"
    except ValueError:
        overflow = "ValueError"
    length, room = cache.length, max_len > start
    return {
        "output": torch.cat(outputs, dim=2),
        "length after each step": lengths,
        "one step too many": overflow,
        "length after that": length,
        "a token that fits": cache.step(*(x[:, :, -1:] for x in (q, k, v)))
        if room
        else None,
    }


def reference_cache(q, k, v, chunks, max_len):
    total = sum(chunks)
    output = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    lengths = np.cumsum([0, *chunks]).tolist()
    return {
        "output": output[:, :, :total],
        "length after each step": lengths,
        "one step too many": "ValueError",
        "length after that": total,
        "a token that fits": output[:, :, total:] if max_len > total else None,
    }


TASKS = {
    "causal_mask": Task(
        mask_cases, drive_mask, reference_mask, MISTAKES["causal_mask"]
    ),
    "scaled_dot_product_attention": Task(
        sdpa_cases,
        drive_sdpa,
        reference_sdpa,
        MISTAKES["scaled_dot_product_attention"],
        forbid=("F.scaled_dot_product_attention", "nn.MultiheadAttention"),
    ),
    "split_heads": Task(
        split_cases, drive_split, reference_split, MISTAKES["split_heads"]
    ),
    "merge_heads": Task(
        merge_cases, drive_merge, reference_merge, MISTAKES["merge_heads"]
    ),
    "MultiHeadAttention": Task(
        multi_head_cases,
        drive_multi_head,
        reference_multi_head,
        MISTAKES["MultiHeadAttention"],
        # The gradient of the key's bias is zero (softmax does not see a shift), as a
        # sum of terms of size 10: what is left is their rounding, not the result's.
        tolerance={**TOLERANCE, "float32": 1e-4},
        forbid=("nn.MultiheadAttention", "F.multi_head_attention_forward"),
    ),
    "KVCache": Task(cache_cases, drive_cache, reference_cache, MISTAKES["KVCache"]),
}
