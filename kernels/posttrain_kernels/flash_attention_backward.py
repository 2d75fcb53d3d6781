"""The two backward kernels behind `flash_attention`, which explains the method.

Both compute the weights again from q, k and L, which is `lse` here, in base 2. Letters
as in `flash_attention_forward`; `dq_scale` and `dk_scale` are 1 / √D.
"""

import triton
import triton.language as tl

from posttrain_kernels.flash_attention_forward import (
    key_range,
    load_rows,
    tile,
    visible,
)


@triton.jit
def flash_attention_dq_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    o_ptr,
    do_ptr,
    dq_ptr,
    lse_ptr,
    delta_ptr,
    q_strides,
    k_strides,
    v_strides,
    o_strides,
    do_strides,
    dq_strides,
    n_heads,
    n_queries,
    n_keys,
    scale,
    dq_scale,
    GROUP: tl.constexpr,
    CAUSAL: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
):
    """One program: dq of M queries of one head. Writes delta for the other kernel."""
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * M
    b = (tl.program_id(1) // n_heads).to(tl.int64)
    h = (tl.program_id(1) % n_heads).to(tl.int64)
    queries = first + tl.arange(0, M)
    exists = queries < n_queries
    shift = n_keys - n_queries
    q = load_rows(tile(q_ptr, q_strides, b, h, first, M, D), queries, n_queries, True)
    o = load_rows(tile(o_ptr, o_strides, b, h, first, M, D), queries, n_queries, True)
    do_at = tile(do_ptr, do_strides, b, h, first, M, D)
    do = load_rows(do_at, queries, n_queries, True)
    row = tl.program_id(1).to(tl.int64) * n_queries + queries
    lse = tl.load(lse_ptr + row, mask=exists, other=0.0)
    delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), axis=1)  # (M,)
    tl.store(delta_ptr + row, delta, mask=exists)
    dq = tl.zeros((M, D), tl.float32)
    full, end = key_range(first, n_keys, shift, M, N, CAUSAL)
    for MASKED in tl.static_range(2):  # first the blocks that all queries see whole
        for start in range(full if MASKED else 0, end if MASKED else full, N):
            keys = start + tl.arange(0, N)
            k_at = tile(k_ptr, k_strides, b, h // GROUP, start, N, D)
            k = load_rows(k_at, keys, n_keys, MASKED)
            v_at = tile(v_ptr, v_strides, b, h // GROUP, start, N, D)
            v = load_rows(v_at, keys, n_keys, MASKED)
            s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # (M, N)
            p = tl.exp2(s - lse[:, None])
            if MASKED:
                ok = visible(queries[:, None], keys[None, :], n_keys, shift, CAUSAL)
                p = tl.where(ok, p, 0.0)
            dp = tl.dot(do, tl.trans(v), input_precision="ieee")
            ds = p * (dp - delta[:, None])
            dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
    dq_at = tile(dq_ptr, dq_strides, b, h, first, M, D)
    dq = (dq * dq_scale).to(dq_ptr.dtype.element_ty)
    tl.store(dq_at, dq, mask=exists[:, None])


@triton.jit
def flash_attention_dkdv_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    do_ptr,
    dk_ptr,
    dv_ptr,
    lse_ptr,
    delta_ptr,
    q_strides,
    k_strides,
    v_strides,
    do_strides,
    dk_strides,
    dv_strides,
    n_kv_heads,
    n_queries,
    n_keys,
    scale,
    dk_scale,
    GROUP: tl.constexpr,
    CAUSAL: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
):
    """One program: dk and dv of N keys, summed over the queries of GROUP heads.

    The scores are transposed, (N, M), so that no product needs a transposed left side.
    """
    first = tl.program_id(0) * N
    b = (tl.program_id(1) // n_kv_heads).to(tl.int64)
    kv = (tl.program_id(1) % n_kv_heads).to(tl.int64)
    keys = first + tl.arange(0, N)
    shift = n_keys - n_queries
    k = load_rows(tile(k_ptr, k_strides, b, kv, first, N, D), keys, n_keys, True)
    v = load_rows(tile(v_ptr, v_strides, b, kv, first, N, D), keys, n_keys, True)
    dk = tl.zeros((N, D), tl.float32)
    dv = tl.zeros((N, D), tl.float32)
    lowest = 0
    if CAUSAL:  # the first query that sees the first key
        lowest = tl.maximum(first - shift, 0) // M * M
    for member in range(GROUP):
        h = kv * GROUP + member
        row = (b * n_kv_heads * GROUP + h) * n_queries
        for start in range(lowest, n_queries, M):
            queries = start + tl.arange(0, M)
            exists = queries < n_queries
            q_at = tile(q_ptr, q_strides, b, h, start, M, D)
            q = load_rows(q_at, queries, n_queries, True)
            do_at = tile(do_ptr, do_strides, b, h, start, M, D)
            do = load_rows(do_at, queries, n_queries, True)
            lse = tl.load(lse_ptr + row + queries, mask=exists, other=0.0)
            delta = tl.load(delta_ptr + row + queries, mask=exists, other=0.0)
            s = tl.dot(k, tl.trans(q), input_precision="ieee") * scale  # (N, M)
            p = tl.exp2(s - lse[None, :])
            ok = visible(queries[None, :], keys[:, None], n_keys, shift, CAUSAL)
            p = tl.where(ok & exists[None, :], p, 0.0)
            dv = tl.dot(p.to(do.dtype), do, dv, input_precision="ieee")
            dp = tl.dot(v, tl.trans(do), input_precision="ieee")
            ds = p * (dp - delta[None, :])
            dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
    exists = (keys < n_keys)[:, None]
    dk_at = tile(dk_ptr, dk_strides, b, kv, first, N, D)
    dv_at = tile(dv_ptr, dv_strides, b, kv, first, N, D)
    tl.store(dk_at, (dk * dk_scale).to(dk_ptr.dtype.element_ty), mask=exists)
    tl.store(dv_at, dv.to(dv_ptr.dtype.element_ty), mask=exists)
