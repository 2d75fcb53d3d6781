"""Tiles against SDPA: outputs, gradients, masks, shared heads, odd sizes."""

import pytest
import torch
import torch.nn.functional as F

from posttrain.infrastructure import flash_attention_backward as back
from posttrain.infrastructure import flash_attention_tiled as tiled

SHAPES = [  # B, H, H_kv, T_q, T_k, D, M, N
    (2, 4, 2, 37, 37, 8, 16, 16),
    (1, 3, 3, 5, 70, 4, 16, 8),
    (1, 6, 1, 33, 40, 4, 7, 9),
    (1, 1, 1, 1, 1, 2, 4, 4),
    (1, 2, 2, 1, 50, 4, 64, 16),
    (2, 2, 1, 16, 16, 4, 1, 1),
]


def draw(B, H, H_kv, T_q, T_k, D, dtype=torch.float64):
    g = torch.Generator().manual_seed(T_q)
    shapes = (B, H, T_q, D), (B, H_kv, T_k, D), (B, H_kv, T_k, D), (B, H, T_q, D)
    return [torch.randn(s, generator=g, dtype=dtype) for s in shapes]


def reference(q, k, v, causal):
    T_q, T_k = q.shape[2], k.shape[2]
    mask = torch.ones(T_q, T_k).tril(T_k - T_q).bool() if causal else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_gradients_equal_sdpa(shape, causal):
    *qkv, do = draw(*shape[:6])
    found, due = [], []
    for results, attend in (
        (found, lambda *x: back.tiled_attention(*x, causal, *shape[6:])),
        (due, lambda *x: reference(*x, causal)),
    ):
        leaves = [x.clone().requires_grad_() for x in qkv]
        o = attend(*leaves)
        o.backward(do)
        results += [o, *(x.grad for x in leaves)]
    torch.testing.assert_close(found, due, rtol=1e-10, atol=1e-12)


def test_log_sum_exp():
    q, k, v, _ = draw(1, 2, 2, 9, 11, 4)
    _, lse = tiled.tiled_forward(q, k, v, True, 4, 4)
    s = (q @ k.mT / 2).masked_fill(~torch.ones(9, 11).tril(2).bool(), -torch.inf)
    torch.testing.assert_close(lse, s.logsumexp(-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errs_no_more_than_twice_as_sdpa(dtype):
    q, k, v, _ = draw(1, 2, 1, 130, 130, 16, dtype)
    exact = reference(q.double(), k.double(), v.double(), True)
    ours, lse = tiled.tiled_forward(q, k, v, True, 32, 32)
    peer = reference(q, k, v, True)
    assert ours.dtype == dtype and lse.dtype == torch.float32
    assert (ours - exact).abs().max() <= 2 * (peer - exact).abs().max()


def test_queries_that_see_no_key():
    q, k, v, do = draw(1, 1, 1, 7, 3, 4)
    q.requires_grad_()
    o = back.tiled_attention(q, k, v, True, 2, 2)
    o.backward(do)
    assert (o[:, :, :4] == 0).all() and (q.grad[:, :, :4] == 0).all()
    assert o.isfinite().all() and q.grad.isfinite().all()
    _, lse = tiled.tiled_forward(q.detach(), k, v, True, 2, 2)
    assert (lse[:, :, :4] == -torch.inf).all() and lse[:, :, 4:].isfinite().all()


def test_huge_scores():
    q, k, v, _ = draw(1, 1, 1, 20, 20, 4)
    o, _ = tiled.tiled_forward(1e4 * q, k, v, True, 4, 4)
    torch.testing.assert_close(o, reference(1e4 * q, k, v, True))


@pytest.mark.parametrize(
    "T_q,T_k,M,N", [(9, 9, 4, 4), (5, 12, 2, 3), (8, 8, 3, 5), (6, 3, 2, 2)]
)
def test_plan_says_what_the_mask_says(T_q, T_k, M, N):
    mask = torch.ones(T_q, T_k).tril(T_k - T_q)
    for i, kinds in enumerate(tiled.block_plan(T_q, T_k, M, N)):
        for j, kind in enumerate(kinds):
            share = mask[i * M : (i + 1) * M, j * N : (j + 1) * N].mean().item()
            assert kind == {0.0: "skip", 1.0: "full"}.get(share, "masked")
    kinds = {x for row in tiled.block_plan(T_q, T_k, M, N, False) for x in row}
    assert kinds == {"full"}


@pytest.mark.parametrize("splits", [1, 2, 3, 7, 50])
def test_split_keys_merge_to_the_whole(splits):
    q, k, v, _ = draw(2, 4, 2, 1, 50, 8)
    found = tiled.split_decode(q, k, v, splits)
    torch.testing.assert_close(found, reference(q, k, v, False))


def test_errors_name_the_shape():
    q, k, v, _ = draw(1, 3, 2, 4, 4, 4)
    with pytest.raises(ValueError, match="H=3 query heads cannot share H_kv=2"):
        tiled.tiled_forward(q, k, v)
    with pytest.raises(ValueError, match=r"\(1, 2, 4, 4\) and v \(1, 2, 3, 4\)"):
        tiled.tiled_forward(q[:, :2], k, v[:, :, :3])
    with pytest.raises(ValueError, match="blocks of 0"):
        tiled.tiled_forward(q[:, :2], k, v, M=0)
    with pytest.raises(ValueError, match="60 splits of 4 keys"):
        tiled.split_decode(q[:, :2], k, v, 60)
