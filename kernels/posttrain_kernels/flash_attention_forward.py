"""The forward kernel behind `flash_attention`, which explains the method.

Letters: b sequence, h query head, M rows of queries and N rows of keys in a block, D
head size. Scores are kept in base 2, since exp2 is one instruction: `scale` is
log2(e) / √D. `shift` is T_k - T_q: under the causal mask query i sees the keys 0 ...
i + shift. Products take the dtype of the inputs and sum in fp32.
"""

import triton
import triton.language as tl


@triton.jit
def tile(ptr, strides, b, h, first, ROWS: tl.constexpr, D: tl.constexpr):
    """Pointers to ROWS rows of head h of sequence b, from row `first` on: (ROWS, D)."""
    start = ptr + b * strides[0] + h * strides[1] + first.to(tl.int64) * strides[2]
    return start + tl.arange(0, ROWS)[:, None] * strides[2] + tl.arange(0, D)[None, :]


@triton.jit
def load_rows(pointers, rows, n_rows, MASKED: tl.constexpr):
    """Load (ROWS, D); rows from n_rows on are zero. MASKED False: there are none."""
    if MASKED:
        x = tl.load(pointers, mask=(rows < n_rows)[:, None], other=0.0)
    else:
        x = tl.load(pointers)
    return x


@triton.jit
def visible(queries, keys, n_keys, shift, CAUSAL: tl.constexpr):
    """Which query may look at which key; both broadcast against each other."""
    ok = keys < n_keys
    if CAUSAL:
        ok = ok & (keys <= queries + shift)
    return ok


@triton.jit
def key_range(first_query, n_keys, shift, M, N, CAUSAL: tl.constexpr):
    """Where the keys end that all M queries see, in whole blocks, and that any does."""
    end = n_keys
    full = n_keys
    if CAUSAL:
        end = tl.minimum(first_query + M + shift, n_keys)
        full = tl.minimum(first_query + 1 + shift, n_keys)
    return full // N * N, end


@triton.jit
def flash_attention_forward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    o_ptr,
    lse_ptr,
    q_strides,
    k_strides,
    v_strides,
    o_strides,
    n_heads,
    n_queries,
    n_keys,
    scale,
    GROUP: tl.constexpr,
    CAUSAL: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
):
    """One program: M queries of one head, against all keys that they may see."""
    # under the causal mask the last queries have most to do, so they start first
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * M
    b = (tl.program_id(1) // n_heads).to(tl.int64)
    h = (tl.program_id(1) % n_heads).to(tl.int64)
    queries = first + tl.arange(0, M)
    shift = n_keys - n_queries
    q = load_rows(tile(q_ptr, q_strides, b, h, first, M, D), queries, n_queries, True)
    acc = tl.zeros((M, D), tl.float32)
    l = tl.zeros((M,), tl.float32)
    m = tl.full((M,), -float("inf"), tl.float32)
    full, end = key_range(first, n_keys, shift, M, N, CAUSAL)
    for MASKED in tl.static_range(2):  # first the blocks that all queries see whole
        for start in range(full if MASKED else 0, end if MASKED else full, N):
            keys = start + tl.arange(0, N)
            k_at = tile(k_ptr, k_strides, b, h // GROUP, start, N, D)
            k = load_rows(k_at, keys, n_keys, MASKED)
            s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # (M, N)
            if MASKED:
                ok = visible(queries[:, None], keys[None, :], n_keys, shift, CAUSAL)
                s = tl.where(ok, s, -float("inf"))
            higher = tl.maximum(m, tl.max(s, axis=1))  # (M,)
            p = tl.exp2(s - higher[:, None])
            shrink = tl.exp2(m - higher)  # what came before had the old maximum
            l = l * shrink + tl.sum(p, axis=1)
            v_at = tile(v_ptr, v_strides, b, h // GROUP, start, N, D)
            v = load_rows(v_at, keys, n_keys, MASKED)
            acc = acc * shrink[:, None]
            acc = tl.dot(p.to(v.dtype), v, acc, input_precision="ieee")  # (M, D)
            m = higher
    o = acc / l[:, None]
    exists = queries < n_queries
    lse_at = lse_ptr + tl.program_id(1).to(tl.int64) * n_queries + queries
    tl.store(lse_at, m + tl.log2(l), mask=exists)
    o_at = tile(o_ptr, o_strides, b, h, first, M, D)
    tl.store(o_at, o.to(o_ptr.dtype.element_ty), mask=exists[:, None])
