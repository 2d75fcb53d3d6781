"""Attention in memory linear in the length: the table of weights is never stored.

    O = softmax(Q Kᵀ / √D) V     Dao et al. 2022, algorithm 1; Dao 2023, algorithm 1

A program keeps M queries and walks over the keys in blocks of N. Softmax needs the
maximum and the sum of a whole row, so it carries both along, and whenever the maximum
rises, it scales down what it has summed (the online softmax):

    m' = max(m, max_j s_j)
    l' = l · e^(m - m') + Σ_j e^(s_j - m')
    O' = O · e^(m - m') + Σ_j e^(s_j - m') v_j         at the end: O / l

The backward pass computes the weights again, from q, k and L = m + log l, one number a
row. With P the weights, dP = dO Vᵀ and delta_i = Σ_d O_id dO_id:

    dV = Pᵀ dO       dS = P ⊙ (dP - delta)       dQ = dS K / √D       dK = dSᵀ Q / √D

One kernel walks over keys for dQ, one over queries for dK and dV: nothing is added up
by atomics, so gradients are the same every time. In grouped-query attention H / H_kv
query heads share a key head; the kernels read it where it is, repeated nowhere.
"""

import math

import torch
import triton
from torch import Tensor

from posttrain_kernels.common import (
    FLOATS,
    Cost,
    check_same_device,
    register,
)
from posttrain_kernels.flash_attention_backward import (
    flash_attention_dkdv_kernel,
    flash_attention_dq_kernel,
)
from posttrain_kernels.flash_attention_blocks import blocks
from posttrain_kernels.flash_attention_forward import flash_attention_forward_kernel

HEAD_SIZES = (16, 32, 64, 128)
LOG2_E = math.log2(math.e)


def reference(q: Tensor, k: Tensor, v: Tensor, causal: bool = True) -> Tensor:
    """Attention in plain PyTorch, with the whole table of weights: (B, H, T_q, T_k)."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))  # (B, H, T_k, D)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(~_mask(q, k), -float("inf"))
    return scores.softmax(dim=-1) @ v


def flash_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = True) -> Tensor:
    """softmax(q kᵀ / √D) v without the table of weights.

    q: (B, H, T_q, D)   k, v: (B, H_kv, T_k, D), H a multiple of H_kv, D one of 16, 32,
    64, 128. All of one dtype: fp32, fp16 or bf16; the last dimension contiguous, the
    others at any stride, so (B, T, H, D) seen through transpose(1, 2) will do. causal:
    query i sees the keys 0 ... T_k - T_q + i ("bottom-right"), and T_q <= T_k.
    Sums and softmax are fp32. Returns (B, H, T_q, D) of the same dtype.
    Raises TypeError for another dtype, ValueError for another shape, stride or device.
    Source: Dao 2023 (FlashAttention-2), algorithms 1 and 2; Ainslie et al. 2023 (GQA).
    """
    _check(q, k, v, causal)
    return _FlashAttention.apply(q, k, v, causal)


def cost(
    B: int,
    H: int,
    H_kv: int,
    T_q: int,
    T_k: int,
    D: int,
    dtype: torch.dtype,
    causal: bool = True,
    backward: bool = False,
) -> Cost:
    """Forward: q, k, v read, o written, two products. Backward: q, k, v, o, do read,
    dq, dk, dv written, five products. A product is 2 · D FLOPs for each pair of query
    and key that is not masked. lse and delta are counted, softmax is not."""
    pairs = B * H * T_q * T_k
    if causal:
        pairs -= B * H * T_q * (T_q - 1) // 2  # query i misses T_q - 1 - i keys
    queries, keys = B * H * T_q * D, B * H_kv * T_k * D
    numbers = 4 * queries + 4 * keys if backward else 2 * queries + 2 * keys
    rows = 4 * B * H * T_q * (3 if backward else 1)  # fp32; delta is written and read
    return Cost(
        bytes=numbers * dtype.itemsize + rows,
        flops=(5 if backward else 2) * 2 * D * pairs,
    )


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, causal):
        o, lse = torch.ops.posttrain_kernels.flash_attention_forward(q, k, v, causal)
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.causal = causal
        return o

    @staticmethod
    def backward(ctx, do):
        gradients = torch.ops.posttrain_kernels.flash_attention_backward(
            *ctx.saved_tensors, do.contiguous(), ctx.causal
        )
        return *gradients, None


def _launch_forward(q: Tensor, k: Tensor, v: Tensor, causal: bool):
    o, lse = _fake_forward(q, k, v, causal)
    B, H, T_q, D = q.shape
    options = blocks(D, q.dtype, "forward")
    if o.numel():
        flash_attention_forward_kernel[(triton.cdiv(T_q, options.M), B * H)](
            *(q, k, v, o, lse),
            *(_strides(x) for x in (q, k, v, o)),
            *(H, T_q, k.shape[2], LOG2_E / math.sqrt(D)),
            GROUP=H // k.shape[1],
            CAUSAL=causal,
            D=D,
            **options._asdict(),
        )
    return o, lse


def _launch_backward(
    q, k, v, o, lse, do, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    gradients = dq, dk, dv = _fake_backward(q, k, v, o, lse, do, causal)
    delta = torch.empty_like(lse)
    (B, H, T_q, D), (_, H_kv, T_k, _) = q.shape, k.shape
    scales = (LOG2_E / math.sqrt(D), 1 / math.sqrt(D))
    constants = {"GROUP": H // H_kv, "CAUSAL": causal, "D": D}
    if not q.numel():
        return dq, dk.zero_(), dv.zero_()
    options = blocks(D, q.dtype, "dq")
    flash_attention_dq_kernel[(triton.cdiv(T_q, options.M), B * H)](
        *(q, k, v, o, do, dq, lse, delta),
        *(_strides(x) for x in (q, k, v, o, do, dq)),
        *(H, T_q, T_k, *scales),
        **constants,
        **options._asdict(),
    )
    options = blocks(D, q.dtype, "dkdv")
    flash_attention_dkdv_kernel[(triton.cdiv(T_k, options.N), B * H_kv)](
        *(q, k, v, do, dk, dv, lse, delta),
        *(_strides(x) for x in (q, k, v, do, dk, dv)),
        *(H_kv, T_q, T_k, *scales),
        **constants,
        **options._asdict(),
    )
    return gradients


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Of sequence, head and row; within a row numbers are neighbours."""
    return x.stride()[:3]


def _mask(q: Tensor, k: Tensor) -> Tensor:
    """Boolean (T_q, T_k): may this query look at this key?"""
    T_q, T_k = q.shape[-2], k.shape[-2]
    table = torch.ones(T_q, T_k, dtype=torch.bool, device=q.device)
    return table.tril(T_k - T_q)


def _scores(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    """Scaled scores in base 2 and fp32 for a fallback: (B, H_kv, group, T_q, T_k)."""
    s = _grouped(q, k) @ k.float().transpose(-2, -1)[:, :, None]
    s = s * (LOG2_E / math.sqrt(q.shape[-1]))
    return s.masked_fill(~_mask(q, k), -float("inf")) if causal else s


def _grouped(x: Tensor, k: Tensor) -> Tensor:
    """(B, H, T, ...) as (B, H_kv, H / H_kv, T, ...) in fp32."""
    return x.float().unflatten(1, (k.shape[1], -1))


def _forward_in_pytorch(q: Tensor, k: Tensor, v: Tensor, causal: bool):
    s = _scores(q, k, causal)
    lse = s.mul(math.log(2)).logsumexp(dim=-1) * LOG2_E  # of powers of 2
    p = torch.exp2(s - lse[..., None])
    o, saved = _fake_forward(q, k, v, causal)
    o.copy_((p @ v.float()[:, :, None]).flatten(1, 2))
    return o, saved.copy_(lse.flatten(1, 2))


def _backward_in_pytorch(q, k, v, o, lse, do, causal: bool):
    p = torch.exp2(
        _scores(q, k, causal) - lse.unflatten(1, (k.shape[1], -1))[..., None]
    )
    do32, o32, q32 = (_grouped(x, k) for x in (do, o, q))
    dp = do32 @ v.float().transpose(-2, -1)[:, :, None]
    ds = p * (dp - (o32 * do32).sum(dim=-1, keepdim=True)) / math.sqrt(q.shape[-1])
    gradients = dq, dk, dv = _fake_backward(q, k, v, o, lse, do, causal)
    dq.copy_((ds @ k.float()[:, :, None]).flatten(1, 2))
    dk.copy_((ds.transpose(-2, -1) @ q32).sum(dim=2))  # over the heads of a group
    dv.copy_((p.transpose(-2, -1) @ do32).sum(dim=2))
    return gradients


def _fake_forward(q: Tensor, k: Tensor, v: Tensor, causal: bool):
    return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)


def _fake_backward(q, k, v, o, lse, do, causal):
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _check(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> None:
    """Raise unless q, k and v fit each other and the kernels."""
    check_same_device(q=q, k=k, v=v)
    if q.dtype not in FLOATS or not q.dtype == k.dtype == v.dtype:
        raise TypeError(
            f"q, k, v are {q.dtype}, {k.dtype}, {v.dtype}; all must be the same of"
            " float32, float16 or bfloat16"
        )
    if (
        (q.ndim, k.ndim) != (4, 4)
        or k.shape != v.shape
        or ((q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3]))
    ):
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} must be"
            " (B, H, T_q, D), (B, H_kv, T_k, D) and the same as k"
        )
    (_, H, T_q, D), (_, H_kv, T_k, _) = q.shape, k.shape
    if D not in HEAD_SIZES:
        raise ValueError(
            f"head size D={D}; the kernels take {HEAD_SIZES}: pad the heads with zeros"
            " and scale q by √(padded / D)"
        )
    if H_kv == 0 or H % H_kv:
        raise ValueError(f"H={H} query heads cannot share H_kv={H_kv} key heads evenly")
    if T_k == 0 or (causal and T_q > T_k):
        raise ValueError(
            f"T_q={T_q} queries and T_k={T_k} keys: under the causal mask the first"
            " queries would see no key; pass causal=False or more keys"
        )
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.stride(3) != 1:
            raise ValueError(
                f"{name} has strides {x.stride()}; the last must be 1: call"
                f" {name}.contiguous() first"
            )


register(
    "flash_attention_forward(Tensor q, Tensor k, Tensor v, bool causal)"
    " -> (Tensor, Tensor)",
    launch=_launch_forward,
    fallback=_forward_in_pytorch,
    fake=_fake_forward,
)
register(
    "flash_attention_backward(Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse,"
    " Tensor do, bool causal) -> (Tensor, Tensor, Tensor)",
    launch=_launch_backward,
    fallback=_backward_in_pytorch,
    fake=_fake_backward,
)
