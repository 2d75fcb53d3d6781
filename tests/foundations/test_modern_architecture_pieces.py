"""ALiBi, gated MLPs, the smaller caches, the arms between GPT-2 and Llama, timing."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from posttrain.foundations import modern_architecture as ma
from posttrain.foundations import modern_architecture_ablation as ablation
from posttrain.foundations import modern_architecture_alibi as alibi
from posttrain.foundations import modern_architecture_cache as caches
from posttrain.foundations import modern_architecture_glu as glu
from posttrain.foundations import modern_architecture_parts as parts
from posttrain.foundations import modern_architecture_speed as speed
from posttrain.foundations.attention import KVCache
from posttrain.foundations.language_model import parameter_count


def close(a, b, tolerance=2e-5):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


# --- ALiBi ---------------------------------------------------------------------------


@pytest.mark.parametrize("H", [1, 2, 3, 6, 8, 12, 32])
def test_slopes_are_those_of_transformers(H):
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    mask = torch.ones(1, 4)
    theirs = build_alibi_tensor(mask, H, torch.float32)  # (H, 1, 4): slope * position
    close(alibi.alibi_slopes(H), theirs.view(H, 4)[:, 1], 1e-6)


def test_the_bias_is_a_price_for_distance():
    bias = alibi.alibi_bias(4, 2, 4)
    inf = float("inf")
    wanted = torch.tensor([[-2.0, -1.0, 0.0, -inf], [-3.0, -2.0, -1.0, 0.0]]) / 16
    assert torch.equal(bias[1], wanted)  # the second of 4 slopes: 2^-4


def test_alibi_attention_is_a_loop_over_heads():
    q, (k, v) = torch.randn(2, 6, 3, 8), torch.randn(2, 2, 3, 7, 8)
    y = alibi.alibi_attention(q, k, v)
    for h in range(6):
        scores = q[:, h] @ k[:, h // 2].mT / 8**0.5 + alibi.alibi_bias(6, 3, 7)[h]
        close(y[:, h], scores.softmax(-1) @ v[:, h // 2])
    with pytest.raises(ValueError, match="H=0"):
        alibi.alibi_slopes(0)


# --- gated MLPs ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "function"),
    [
        ("sigmoid", torch.sigmoid),
        ("relu", torch.relu),
        ("gelu", F.gelu),
        ("swish", lambda g: g * torch.sigmoid(g)),
        ("identity", lambda g: g),
    ],
)
def test_gated_mlps_are_their_formula(gate, function):
    mlp, x = glu.GatedMLP(6, 10, gate, bias=True), torch.randn(2, 6)
    close(mlp(x), mlp.down_proj(function(mlp.gate_proj(x)) * mlp.up_proj(x)), 1e-6)
    if gate == "sigmoid":
        both = torch.cat([mlp.up_proj(x), mlp.gate_proj(x)], dim=-1)
        close(mlp(x), mlp.down_proj(F.glu(both)), 1e-6)


def test_swiglu_is_one_of_them():
    swiglu, gated = parts.SwiGLU(6, 10), glu.GatedMLP(6, 10)
    gated.load_state_dict(swiglu.state_dict())
    x = torch.randn(2, 6)
    assert torch.equal(gated(x), swiglu(x))
    with pytest.raises(ValueError, match="'silu'.*sigmoid, relu, gelu, swish"):
        glu.GatedMLP(6, 10, "silu")


def test_matched_width_keeps_the_weights():
    for width in (3, 96, 3072):
        plain = glu.PlainMLP(12, width, bias=False)
        gated = glu.GatedMLP(12, glu.matched_width(width))
        assert parameter_count(gated) == parameter_count(plain)
    assert glu.matched_width(16384, 256) == 11008  # Llama-2-7B
    assert glu.matched_width(4) == 3  # rounded up
    with pytest.raises(ValueError, match="F=0"):
        glu.matched_width(0)


# --- caches --------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 5, 40])
@pytest.mark.parametrize("sizes", [[9], [1] * 9, [4, 1, 4], [2, 7]])
def test_a_window_cache_loses_nothing_that_is_in_sight(window, sizes):
    q, k, v = torch.randn(3, 2, 3, 9, 4)
    cache, outputs, start = caches.WindowCache(2, 3, window, 4), [], 0
    for size in sizes:
        new = slice(start, start + size)
        keys, values = cache.append(k[:, :, new], v[:, :, new])
        mask = parts.within_window(None, size, keys.shape[2], window, None)
        outputs.append(parts.grouped_attention(q[:, :, new], keys, values, mask))
        start += size
    mask = parts.window_mask(9, 9, window)
    close(torch.cat(outputs, 2), parts.grouped_attention(q, k, v, mask))
    assert cache.length == 9
    assert cache.k.shape[2] == min(9, window)
    assert caches.held_bytes(cache) == 2 * 2 * 3 * min(9, window) * 4 * 4
    cache.select(torch.tensor([1, 1, 0]))
    assert cache.k.shape[0] == cache.v.shape[0] == 3


def test_padding_and_windows_go_together():
    from posttrain.foundations.sampling_generate import generate

    config = ma.GPTConfig(V=61, T=40, C=32, L=3, H=4, window=5, global_every=3)
    torch.manual_seed(0)
    model = ma.GPT(config).eval()
    prompts = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3], [2, 7], [1, 8, 2, 8, 1, 8]]
    together = generate(model, prompts, 12, settings=speed.GREEDY)
    for prompt, row in zip(prompts, together, strict=True):
        [alone] = generate(model, [prompt], 12, settings=speed.GREEDY)
        assert row.tokens == alone.tokens


def test_a_latent_cache_returns_what_was_stored():
    cache = caches.LatentCache(2, 5, 6, 3)
    latent, key = torch.randn(2, 5, 6), torch.randn(2, 5, 3)
    cache.append(latent[:, :2], key[:, :2])
    got = cache.append(latent[:, 2:], key[:, 2:])
    assert torch.equal(got[0], latent)
    assert torch.equal(got[1], key)
    with pytest.raises(ValueError, match="room for 5 tokens, 6 are needed"):
        cache.append(latent[:, :1], key[:, :1])


def test_bytes_by_hand():
    width = caches.kv_width(8, 128)
    assert caches.cache_bytes(32, 1, width) == 131072  # Llama-3-8B, a token
    assert caches.latent_width(512, 64) == 576
    assert caches.cache_bytes(4, 100, 10, 3, 2, window=7, global_layers=1) == (
        3 * (100 + 3 * 7) * 10 * 2
    )
    assert caches.cache_bytes(2, 5, 10, window=7) == 2 * 5 * 10 * 2
    with pytest.raises(ValueError, match="global_layers=3 must be 0 ... L=2"):
        caches.cache_bytes(2, 5, 10, global_layers=3)


def test_local_layers_of_the_model_keep_their_window():
    config = ma.GPTConfig(V=9, T=30, C=16, L=4, H=2, window=6, global_every=2)
    held = ma.GPT(config).new_cache(2, 30)
    kinds = [type(layer) for layer in held]
    assert kinds == [caches.WindowCache, KVCache] * 2
    assert {type(c) for c in ma.GPT(config).new_cache(2, 6)} == {KVCache}


# --- the arms ------------------------------------------------------------------------

BASE = ablation.AblationConfig(V=13, T=10, C=32, L=2, H=8, H_kv=8, F=128)


def test_each_arm_is_one_change_more_at_equal_parameters():
    arms = list(ablation.steps_from_gpt2(BASE).values())
    assert arms[0] == BASE
    assert (arms[-1].H_kv, arms[-1].bias, arms[-1].qk_norm) == (2, False, True)
    for before, after in pairwise(arms):
        moved = [n for n in vars(after) if getattr(before, n) != getattr(after, n)]
        assert len(set(moved) - {"F"}) == 1
    sizes = [parameter_count(ablation.AblationGPT(arm)) for arm in arms]
    assert sizes == [ablation.size_of(arm) for arm in arms]
    for size, arm in zip(sizes, arms, strict=True):
        one_wider = ablation.size_of(replace(arm, F=arm.F + 1)) - size
        assert abs(size - sizes[0]) <= one_wider / 2
    with pytest.raises(ValueError, match="more than 10"):
        ablation.with_parameters(BASE, 10)


def test_the_last_arm_is_the_gpt_of_the_book():
    last = list(ablation.steps_from_gpt2(BASE).values())[-1]
    ours = ma.GPT(ma.GPTConfig(V=13, T=10, C=32, L=2, H=8, H_kv=2, mlp=last.F))
    arm = ablation.AblationGPT(last)
    torch.manual_seed(0)
    for p in arm.parameters():
        p.data.add_(0.2 * torch.randn_like(p))
    ours.load_state_dict(arm.state_dict())
    tokens = torch.randint(13, (2, 10))
    close(ours(tokens), arm(tokens))


def test_the_first_arm_is_gpt2_of_transformers():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 13, "n_positions": 10, "n_embd": 32, "n_layer": 2}
    theirs = GPT2LMHeadModel(GPT2Config(**sizes, n_head=8)).eval()
    torch.manual_seed(0)
    for p in theirs.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    arm, t = ablation.AblationGPT(BASE), theirs.transformer
    state = {"token.weight": t.wte.weight, "position.weight": t.wpe.weight}
    for i, block in enumerate(t.h):
        names = {"norm_1": block.ln_1, "norm_2": block.ln_2}
        linear = {
            "attention.out_proj": block.attn.c_proj,
            "mlp.up_proj": block.mlp.c_fc,
            "mlp.down_proj": block.mlp.c_proj,
        }
        for kind in ("weight", "bias"):
            stacked = turned(getattr(block.attn.c_attn, kind)).chunk(3)
            for n, part in zip("qkv", stacked, strict=True):
                state[f"blocks.{i}.attention.{n}_proj.{kind}"] = part
            for name, module in linear.items():
                state[f"blocks.{i}.{name}.{kind}"] = turned(getattr(module, kind))
            for name, module in names.items():
                state[f"blocks.{i}.{name}.{kind}"] = getattr(module, kind)
    for kind in ("weight", "bias"):
        state[f"norm.{kind}"] = getattr(t.ln_f, kind)
    state["head.weight"] = t.wte.weight
    arm.load_state_dict(state)
    tokens = torch.randint(13, (2, 10))
    close(arm(tokens), theirs(tokens).logits)


def turned(p):
    """GPT-2 in transformers stores (in, out) where nn.Linear stores (out, in)."""
    return p.mT if p.ndim == 2 else p


@pytest.mark.parametrize("position", ablation.POSITIONS)
def test_positions_do_what_they_say(position):
    torch.manual_seed(0)
    model = ablation.AblationGPT(replace(BASE, position=position, H_kv=2))
    for block in model.blocks:  # scores large enough to see
        block.attention.q_proj.weight.data *= 8
    tokens = torch.randint(13, (1, 8))
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 13
    moved = (model(changed) - model(tokens)).abs().amax(-1)[0] > 1e-7
    assert moved.nonzero().flatten().tolist() == [5, 6, 7]
    # Of two texts that differ in the order of the first tokens only, a block without
    # positions gives the last token the same output.
    x, orders = torch.randn(1, 6, 32), ([0, 1, 2, 3, 4, 5], [2, 0, 1, 4, 3, 5])
    if position != "learned":
        block = model.blocks[0]
        last = [
            block(x[:, o], model.cos[:6], model.sin[:6], None)[0, -1] for o in orders
        ]
        assert torch.allclose(*last, atol=1e-5) == (position == "none")


def test_arms_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="position='sine'.*learned, rope"):
        replace(BASE, position="sine")
    with pytest.raises(ValueError, match="11 tokens, but the model was made for 10"):
        ablation.AblationGPT(BASE)(torch.zeros(1, 11, dtype=torch.long))
    model = ablation.AblationGPT(replace(BASE, position="alibi"))
    with pytest.raises(ValueError, match="ALiBi arm has its own"):
        model(torch.zeros(1, 4, dtype=torch.long), mask=torch.ones(4, 4).bool())


# --- timing --------------------------------------------------------------------------


def test_pairs_alternate_and_the_ratio_is_their_median(monkeypatch):
    calls, clock = [], iter(range(99))
    monkeypatch.setattr(
        speed, "seconds", lambda run: run() or float(next(clock)) or 1.0
    )
    pairs = speed.interleaved(lambda: calls.append("a"), lambda: calls.append("b"), 3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert pairs == [(1.0, 1.0), (3.0, 2.0), (4.0, 5.0)]
    assert speed.ratio([(1.0, 2.0), (2.0, 2.0), (1.0, 30.0)]) == 2.0


def test_all_ways_to_generate_agree():
    config = ma.GPTConfig(V=31, T=40, C=32, L=2, H=4)
    ours, theirs = (m.eval() for m in speed.same_weights(config))
    prompt = torch.randint(31, (2, 6))
    texts = [
        way(model, prompt, 9)
        for way, model in (
            (speed.greedy_ours, ours),
            (speed.greedy_uncached, ours),
            (speed.greedy_theirs, theirs),
        )
    ]
    assert texts[0] == texts[1] == texts[2]
    assert [len(row) for row in texts[0]] == [9, 9]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, theirs)]
    tokens = torch.randint(31, (2, 9))
    for _ in range(2):
        losses = [
            speed.training_step(m, o, tokens)
            for m, o in zip((ours, theirs), optimizers, strict=True)
        ]
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)
