"""The attention code against PyTorch's own, on every branch and at the edges."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from posttrain.foundations.attention import (
    KVCache,
    MultiHeadAttention,
    attention_cost,
    causal_mask,
    merge_heads,
    multi_head_einsum,
    scaled_dot_product_attention,
    split_heads,
)

B, H, T_q, T_k, D = 2, 3, 5, 7, 4
C = H * D


def qkv(*, size=1.0, dtype=torch.float32, T_q=T_q, T_k=T_k, D_v=D, seed=0):
    """Random q, k, v; `size` makes the scores large."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(B, H, T_q, D, generator=generator) * size
    k = torch.randn(B, H, T_k, D, generator=generator) * size
    v = torch.randn(B, H, T_k, D_v, generator=generator)
    return [x.to(dtype).requires_grad_() for x in (q, k, v)]


def masks():
    """One of each kind: none, causal, per head, padding, a query that sees nothing."""
    random = torch.rand(B, H, T_q, T_k, generator=torch.Generator().manual_seed(1))
    some = random < 0.5
    some[..., 0] = True
    nothing = torch.ones(T_q, T_k, dtype=torch.bool)
    nothing[2] = False
    padding = (torch.arange(T_k) < 4).expand(B, 1, 1, T_k)
    return {
        "none": None,
        "causal": causal_mask(T_q, T_k),
        "per head": some,
        "padding": padding,
        "sees nothing": nothing,
    }


@pytest.mark.parametrize("name", masks())
@pytest.mark.parametrize("size", [1.0, 100.0])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-14)]
)
def test_equals_torch_with_gradients(name, size, dtype, tolerance):
    mask, inputs = masks()[name], qkv(size=size, dtype=dtype)
    ours, weights = scaled_dot_product_attention(*inputs, mask)
    theirs = F.scaled_dot_product_attention(*inputs, attn_mask=mask)
    limit = 10 * tolerance * size  # a score of 10,000 is known to 0.001 in fp32
    torch.testing.assert_close(ours, theirs, atol=limit, rtol=limit)
    upstream = torch.randn(ours.shape, dtype=dtype)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, upstream),
        torch.autograd.grad(theirs, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=limit, rtol=limit)
        assert a.isfinite().all()
    sums = weights.sum(dim=-1)
    seen = torch.ones(1) if mask is None else mask.any(dim=-1)
    torch.testing.assert_close(sums, seen.to(dtype).expand_as(sums))
    if mask is not None:
        assert (weights.masked_select(~mask) == 0).all()


def test_bfloat16_is_as_exact_as_torch():
    q, k, v = (x.detach() for x in qkv(dtype=torch.bfloat16, T_q=33, T_k=65))
    mask = causal_mask(33, 65)
    exact = F.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), attn_mask=mask
    )
    ours, _ = scaled_dot_product_attention(q, k, v, mask)
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert ours.dtype == torch.bfloat16
    error = (ours.double() - exact).abs().max()
    # their kernel rounds once, ours after each of four products: 2 ** -8 each
    assert error <= 2 * (theirs.double() - exact).abs().max() + 2 * 2**-8


def test_scale_zero_is_the_plain_mean_and_one_is_no_scale():
    q, k, v = qkv(D_v=6)
    uniform, weights = scaled_dot_product_attention(q, k, v, scale=0.0)
    assert uniform.shape == (B, H, T_q, 6)
    torch.testing.assert_close(uniform, v.mean(dim=-2, keepdim=True).expand_as(uniform))
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / T_k))
    for scale in (1.0, None):  # None counts the channels of q, not those of v
        ours, _ = scaled_dot_product_attention(q, k, v, scale=scale)
        theirs = F.scaled_dot_product_attention(q, k, v, scale=scale)
        torch.testing.assert_close(ours, theirs)


def test_one_key_gets_all_the_weight():
    q, k, v = qkv(T_q=1, T_k=1)
    output, weights = scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(output, v)
    assert (weights == 1).all()


def test_works_without_batch_or_heads():
    q, k, v = (x[0, 0] for x in qkv())
    output, weights = scaled_dot_product_attention(q, k, v)
    assert output.shape == (T_q, D)
    assert weights.shape == (T_q, T_k)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"q": (B, H, T_q, 3)}, ValueError, "same last dimension"),
        ({"v": (B, H, 6, D)}, ValueError, "same T_k"),
        ({"mask": torch.ones(T_q, T_k)}, TypeError, "torch.float32"),
        ({"mask": torch.ones(4, T_k, dtype=torch.bool)}, ValueError, "(5, 7)"),
        ({"mask": torch.ones(T_q, 6, dtype=torch.bool)}, ValueError, "(5, 6)"),
    ],
)
def test_names_the_wrong_shape(change, error, words):
    q, k, v = qkv()
    q = torch.zeros(change["q"]) if "q" in change else q
    v = torch.zeros(change["v"]) if "v" in change else v
    with pytest.raises(error) as raised:
        scaled_dot_product_attention(q, k, v, change.get("mask"))
    assert words in str(raised.value)


def test_causal_mask_is_aligned_at_the_bottom_right():
    expected = [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert causal_mask(3, 5).tolist() == [[bool(x) for x in row] for row in expected]
    assert causal_mask(4).equal(torch.ones(4, 4).tril().bool())
    assert causal_mask(1, 9).all()


@pytest.mark.parametrize("lengths", [(5, 3), (0, 3), (0, 0)])
def test_causal_mask_refuses_queries_without_keys(lengths):
    with pytest.raises(ValueError, match=rf"T_q={lengths[0]}, T_k={lengths[1]}"):
        causal_mask(*lengths)


def test_a_causal_output_does_not_depend_on_the_future():
    q, k, v = qkv(T_q=T_k)
    mask = causal_mask(T_k)
    before, _ = scaled_dot_product_attention(q, k, v, mask)
    later = torch.arange(T_k)[:, None] > 3
    after, _ = scaled_dot_product_attention(
        q, torch.where(later, 99.0, k), torch.where(later, -99.0, v), mask
    )
    assert before[:, :, :4].equal(after[:, :, :4])
    assert not before[:, :, 4:].isclose(after[:, :, 4:]).any(dim=-1).any()


def test_split_heads_cuts_channels_and_merge_heads_undoes_it():
    x = torch.randn(B, T_q, C)
    heads = split_heads(x, H)
    assert heads.shape == (B, H, T_q, D)
    for h in range(H):
        assert heads[:, h].equal(x[:, :, h * D : (h + 1) * D])
    assert merge_heads(heads).equal(x)


@pytest.mark.parametrize(
    "make",
    [lambda: split_heads(torch.zeros(1, 2, 10), 3), lambda: MultiHeadAttention(10, 3)],
)
def test_heads_must_divide_channels(make):
    with pytest.raises(ValueError, match="C=10 channels cannot be cut into H=3"):
        make()


def torch_twin(ours: MultiHeadAttention) -> nn.MultiheadAttention:
    """PyTorch's module with the weights of ours."""
    layers = (ours.q_proj, ours.k_proj, ours.v_proj)
    bias = ours.out_proj.bias is not None
    theirs = nn.MultiheadAttention(C, H, bias=bias, batch_first=True)
    state = {
        "in_proj_weight": torch.cat([layer.weight for layer in layers]),
        "out_proj.weight": ours.out_proj.weight,
    }
    if bias:
        state["in_proj_bias"] = torch.cat([layer.bias for layer in layers])
        state["out_proj.bias"] = ours.out_proj.bias
    theirs.load_state_dict(state)
    return theirs


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("cross", [False, True])
def test_module_equals_torch_with_gradients(bias, cross):
    torch.manual_seed(0)
    ours = MultiHeadAttention(C, H, bias=bias)
    theirs = torch_twin(ours)
    x = torch.randn(B, T_q, C, requires_grad=True)
    memory = torch.randn(B, T_k, C, requires_grad=True) if cross else x
    mask = causal_mask(T_q, memory.shape[1])
    y, weights = ours(x, memory if cross else None, mask)
    # PyTorch's module means the opposite by its mask: True = may NOT look
    y_torch, weights_torch = theirs(
        x, memory, memory, attn_mask=~mask, average_attn_weights=False
    )
    torch.testing.assert_close(y, y_torch)
    torch.testing.assert_close(weights, weights_torch)

    upstream = torch.randn_like(y)
    inputs = [x, memory] if cross else [x]
    for a, b in zip(
        torch.autograd.grad(y, inputs, upstream, retain_graph=True),
        torch.autograd.grad(y_torch, inputs, upstream, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    y.backward(upstream)
    y_torch.backward(upstream)
    layers = (ours.q_proj, ours.k_proj, ours.v_proj)
    stacked = torch.cat([layer.weight.grad for layer in layers])
    torch.testing.assert_close(stacked, theirs.in_proj_weight.grad)
    torch.testing.assert_close(ours.out_proj.weight.grad, theirs.out_proj.weight.grad)
    if bias:
        stacked = torch.cat([layer.bias.grad for layer in layers])
        # the gradient of the key's bias is zero in exact arithmetic
        torch.testing.assert_close(stacked, theirs.in_proj_bias.grad, atol=1e-5, rtol=0)


def test_einsum_form_equals_the_module():
    torch.manual_seed(0)
    layer = MultiHeadAttention(C, H)
    x, memory = torch.randn(B, T_q, C), torch.randn(B, T_k, C)
    mask = causal_mask(T_q, T_k)
    ins = (layer.q_proj, layer.k_proj, layer.v_proj)
    W_q, W_k, W_v = (p.weight.T.reshape(C, H, D).transpose(0, 1) for p in ins)
    W_o = layer.out_proj.weight.T.reshape(H, D, C)
    y = multi_head_einsum(x, memory, W_q, W_k, W_v, W_o, mask)
    torch.testing.assert_close(y, layer(x, memory, mask)[0])


@pytest.mark.parametrize("chunks", [[1] * 6, [4, 1, 1], [2, 3, 1], [6]])
def test_cached_steps_equal_the_full_pass(chunks):
    torch.manual_seed(0)
    layer = MultiHeadAttention(C, H)
    x = torch.randn(B, 6, C)
    full, weights = layer(x, mask=causal_mask(6))
    cache, start = KVCache(B, H, 6, D), 0
    for n in chunks:
        step, seen = layer(
            x[:, start : start + n], mask=causal_mask(n, start + n), cache=cache
        )
        torch.testing.assert_close(step, full[:, start : start + n])
        torch.testing.assert_close(seen, weights[:, :, start : start + n, : start + n])
        start += n
        assert cache.length == start


def test_a_full_cache_says_so():
    cache = KVCache(B, H, 3, D, dtype=torch.float64)
    k = torch.ones(B, H, 2, D, dtype=torch.float64)
    keys, values = cache.append(k, 2 * k)
    assert keys.dtype == torch.float64
    assert keys.equal(k)
    assert values.equal(2 * k)
    with pytest.raises(ValueError, match="room for 3 tokens, 4 are needed"):
        cache.append(k, k)
    assert cache.length == 2


@pytest.mark.parametrize("case", ["self", "cross", "cached"])
def test_flops_are_what_torch_counts(case):
    layer = MultiHeadAttention(C, H)
    x, memory, cache = torch.randn(B, T_q, C), None, None
    if case == "cross":
        memory = torch.randn(B, T_k, C)
    if case == "cached":
        cache = KVCache(B, H, T_k, D)
        old = torch.randn(B, H, T_k - T_q, D)
        cache.append(old, old)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        _, weights = layer(x, memory, cache=cache)
    keys = weights.shape[-1]
    cost = attention_cost(B, T_q, keys, C, H, cached=case == "cached")
    assert cost.flops == counter.get_total_flops()


def test_bytes_are_those_of_the_tensors():
    layer = MultiHeadAttention(C, H)
    x, cache = torch.randn(B, T_q, C), KVCache(B, H, T_k, D)
    y, weights = layer(x, torch.randn(B, T_k, C), cache=cache)
    cost = attention_cost(B, T_q, T_k, C, H, bytes_per_number=4)
    assert cost.weight_bytes == sum(p.nbytes for p in layer.parameters())
    assert cost.io_bytes == x.nbytes + y.nbytes
    assert cost.kv_bytes == cache.k.nbytes + cache.v.nbytes
    assert cost.table_bytes == weights.nbytes
    assert cost.bytes == cost.weight_bytes + cost.io_bytes + cost.kv_bytes
    assert cost.intensity == cost.flops / cost.bytes
