"""The model: equal to transformers' Llama and Qwen3, and to itself when cached."""

import pytest
import torch
import torch.nn.functional as F

from posttrain.foundations import modern_architecture_parts as parts
from posttrain.foundations.attention import causal_mask
from posttrain.foundations.language_model import next_token_loss, parameter_count
from posttrain.foundations.modern_architecture import GPT, GPTConfig

SMALL = {"V": 61, "T": 48, "C": 32, "L": 3, "H": 4, "H_kv": 2, "mlp": 48}


def made(**changes) -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(**{**SMALL, **changes})).eval()


def text(B=2, T=20, V=61, seed=1):
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=2e-5):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


# --- against transformers ------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{}, {"H_kv": 1}, {"H_kv": 4}, {"tied": False}, {"rope_base": 500.0, "eps": 1e-3}],
    ids=str,
)
def test_llama_with_copied_weights_gives_the_same_logits(changes):
    from posttrain.foundations.modern_architecture_hf import from_hf, make_llama

    config = GPTConfig(**{**SMALL, **changes, "qk_norm": False})
    theirs = make_llama(config).eval()
    noisy(theirs)
    ours = from_hf(theirs).eval()
    assert ours.config == config
    tokens = text()
    close(ours(tokens), theirs(tokens).logits)


def test_qwen3_with_copied_weights_gives_the_same_logits():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from posttrain.foundations.modern_architecture_hf import from_hf

    theirs = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=61,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=48,
        )
    ).eval()
    noisy(theirs)
    close(from_hf(theirs).eval()(text()), theirs(text()).logits)


def test_gradients_are_those_of_llama():
    from posttrain.foundations.modern_architecture_hf import (
        from_hf,
        make_llama,
        their_name,
    )

    theirs = make_llama(GPTConfig(**SMALL, qk_norm=False))
    ours = from_hf(theirs)
    tokens, targets = text(seed=2), text(seed=3)
    next_token_loss(ours(tokens), targets).backward()
    next_token_loss(theirs(tokens).logits, targets).backward()
    wanted = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        close(p.grad, wanted[their_name(name)].grad)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_a_model_goes_to_transformers_and_comes_back(qk_norm, tied, tmp_path):
    from posttrain.foundations.modern_architecture_hf import from_hf, to_hf

    ours = made(qk_norm=qk_norm, tied=tied)
    noisy(ours)
    theirs = to_hf(ours).eval()
    assert theirs.config.model_type == ("qwen3" if qk_norm else "llama")
    close(theirs(text()).logits, ours(text()))
    theirs.save_pretrained(tmp_path)
    again = from_hf(type(theirs).from_pretrained(tmp_path)).eval()
    assert torch.equal(again(text()), ours(text()))


def test_what_has_no_counterpart_is_refused():
    from transformers import GPT2Config, LlamaConfig

    from posttrain.foundations.modern_architecture_hf import to_hf

    with pytest.raises(ValueError, match="window=4"):
        to_hf(made(window=4))

    from posttrain.foundations.modern_architecture_hf import config_of

    with pytest.raises(ValueError, match="'gpt2'.*llama and qwen3"):
        config_of(GPT2Config())
    with pytest.raises(ValueError, match="attention_bias"):
        config_of(LlamaConfig(attention_bias=True))
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    with pytest.raises(ValueError, match="rope_type"):
        config_of(LlamaConfig(rope_parameters=scaled))


def noisy(model):
    """Fresh norms are all 1, which would hide a gain that is not copied."""
    torch.manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))


# --- parts ---------------------------------------------------------------------------


def test_rms_norm_is_the_formula_and_the_fused_kernel():
    x, gain = torch.randn(3, 5, 16), torch.rand(16) + 0.5
    norm = parts.RMSNorm(16, eps=1e-3)
    norm.weight.data = gain
    close(norm(x), parts.rms_norm(x, gain, 1e-3), 1e-6)
    zero = parts.rms_norm(torch.zeros(1, 16), gain)
    assert torch.equal(zero, torch.zeros(1, 16))


def test_rotation_is_a_complex_product_and_sees_distance_only():
    cos, sin = parts.rope_tables(12, 8, base=100.0)
    x = torch.randn(1, 1, 12, 8)
    pairs = torch.complex(x[..., :4].double(), x[..., 4:].double())
    angle = torch.arange(12)[:, None] * 100.0 ** (-torch.arange(4) / 4)
    turned = pairs * torch.polar(torch.ones(12, 4).double(), angle.double())
    close(
        parts.rotate(x, cos, sin).double(),
        torch.cat([turned.real, turned.imag], -1),
        1e-5,
    )
    q, k = torch.randn(8).expand(1, 1, 12, 8), torch.randn(8).expand(1, 1, 12, 8)
    scores = (
        parts.rotate(q, cos, sin)[0, 0] @ parts.rotate(k, cos, sin)[0, 0].T
    )  # (12, 12)
    for distance in (-3, 0, 5):
        line = scores.diagonal(distance)
        close(line, line[:1].expand_as(line), 1e-5)


def test_swiglu_is_the_formula():
    mlp = parts.SwiGLU(6, 10)
    x = torch.randn(2, 6)
    gate, up = x @ mlp.gate_proj.weight.T, x @ mlp.up_proj.weight.T
    close(mlp(x), (gate * torch.sigmoid(gate) * up) @ mlp.down_proj.weight.T, 1e-6)


@pytest.mark.parametrize("T_q", [1, 3, 9])
@pytest.mark.parametrize("H_kv", [1, 2, 6])
def test_grouped_attention_is_a_loop_over_heads(T_q, H_kv):
    q, k, v = torch.randn(2, 6, T_q, 8), *torch.randn(2, 2, H_kv, 9, 8).unbind()
    rows = torch.rand(2, 1, T_q, 9) < 0.7
    rows[..., 0] = True
    for mask in (None, rows, rows.expand(2, 6, T_q, 9)):
        seen = causal_mask(T_q, 9) if mask is None else mask[:, :1]
        heads = []
        for h in range(6):
            own = [h // (6 // H_kv)]
            head = q[:, [h]], k[:, own], v[:, own], seen
            heads.append(F.scaled_dot_product_attention(*head))
        close(parts.grouped_attention(q, k, v, mask), torch.cat(heads, dim=1), 1e-5)


def test_window_mask():
    wanted = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]], dtype=torch.bool)
    assert torch.equal(parts.window_mask(2, 5, 3), wanted)


def test_documents_do_not_see_each_other():
    model, a, b = made(), text(1, 5, seed=3), text(1, 7, seed=4)
    documents = torch.tensor([[0] * 5 + [1] * 7])
    packed = model(torch.cat([a, b], 1), mask=parts.document_mask(documents))
    close(packed[:, :5], model(a))
    close(packed[:, 5:], model(b))  # rotary positions: only distances count


# --- the model -----------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"window": 4, "global_every": 3}], ids=str)
def test_cached_in_any_pieces_equals_all_at_once(changes):
    model, tokens = made(**changes), text()
    whole = model(tokens)
    for sizes in ([20], [1] * 20, [7, 1, 5, 7]):
        cache = model.new_cache(2, 20)
        pieces = [model(piece, cache=cache) for piece in tokens.split(sizes, 1)]
        close(torch.cat(pieces, dim=1), whole)
    assert cache.length == 20


def test_the_past_does_not_depend_on_the_future():
    model, tokens = made(), text()
    changed = tokens.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % 61
    close(model(changed)[:, :12], model(tokens)[:, :12], 1e-6)
    assert not torch.allclose(model(changed)[:, 12:], model(tokens)[:, 12:])


def test_local_layers_see_their_window_only():
    model, tokens = made(window=4, global_every=99), text(1, 20)
    reach = 3 * (4 - 1)  # three layers, each 3 tokens back
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 61
    moved = (model(changed) - model(tokens)).abs().amax(dim=-1)[0] > 1e-7
    assert moved.nonzero().flatten().tolist() == list(range(5, 5 + reach + 1))
    kinds = [GPTConfig(**SMALL, window=4, global_every=2).window_of(i) for i in (0, 1)]
    assert kinds == [4, None]


def test_positions_may_be_given_for_each_row():
    model, tokens = made(), text()
    own = torch.stack([torch.arange(20), torch.arange(20) + 9])
    shifted = model(tokens, positions=own)
    close(shifted, model(tokens))  # a shift of all positions changes nothing
    one = torch.arange(20) * 2
    assert not torch.allclose(model(tokens, positions=one), model(tokens), atol=1e-3)


def test_tied_weights_and_counts():
    tied, free = made(), made(tied=False)
    assert tied.head.weight is tied.token.weight
    assert parameter_count(free) - parameter_count(tied) == 61 * 32
    assert parameter_count(tied, embedding=False) == parameter_count(tied) - (61 * 32)


def test_the_dial_of_size():
    sizes = {4: 0.74e6, 8: 5.9e6, 16: 46.4e6}
    for depth, parameters in sizes.items():
        with torch.device("meta"):
            model = GPT(GPTConfig.of_depth(depth, V=65))
        counted = parameter_count(model, embedding=False)
        assert counted == pytest.approx(parameters, rel=0.01)
    assert GPTConfig.of_depth(4, V=65, T=99, H_kv=1).T == 99


def test_logits_of_a_fresh_model_are_small():
    torch.manual_seed(0)
    model = GPT(GPTConfig.of_depth(4, V=65))
    tokens = text(4, 64, 65)
    loss = next_token_loss(model(tokens), text(4, 64, 65, seed=9))
    assert loss.item() == pytest.approx(torch.tensor(65.0).log().item(), abs=0.1)
    x = model.token(tokens) / 0.02
    for block in model.blocks:
        x = block(x, model.cos[:64], model.sin[:64])
    assert 0.8 < x.std() < 1.8


def test_dropout_only_when_training():
    model, tokens = made(dropout=0.5), text()
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))


def test_losses_leave_out_what_is_ignored():
    logits, targets = torch.randn(2, 3, 5), torch.tensor([[1, -100, 2], [3, 4, -100]])
    each = next_token_loss(logits, targets, "none")
    wanted = -logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    close(each, wanted * (targets >= 0))
    close(next_token_loss(logits, targets), wanted[targets >= 0].mean())


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match="H_kv=3 must divide H=4"):
        GPTConfig(**{**SMALL, "H_kv": 3})
    with pytest.raises(ValueError, match="even head size"):
        GPTConfig(**{**SMALL, "C": 36})
    with pytest.raises(ValueError, match="L=0"):
        GPTConfig(**{**SMALL, "L": 0})
    with pytest.raises(ValueError, match="window=0"):
        GPTConfig(**SMALL, window=0)
    with pytest.raises(ValueError, match="49 tokens.*T=48"):
        made()(text(1, 49))


def test_bfloat16_and_float64_stay_what_they_are():
    tokens = text()
    wanted = made().double()(tokens)
    assert wanted.dtype == torch.float64
    half = made().bfloat16()(tokens)
    assert half.dtype == torch.bfloat16
    assert (half.double() - wanted).abs().max() < 0.05
