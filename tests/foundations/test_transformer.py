"""GPT-2 from scratch: equal to transformers' with its weights, and to its formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from posttrain.foundations import transformer as tr
from posttrain.foundations.language_model import next_token_loss, parameter_count
from posttrain.foundations.sampling import Sampling
from posttrain.foundations.sampling_generate import generate
from posttrain.foundations.transformer import GPT2, GPT2Config

SMALL = {"V": 53, "T": 32, "C": 24, "L": 2, "H": 3}


def made(**changes):
    torch.manual_seed(0)
    model = GPT2(GPT2Config(**{**SMALL, **changes})).eval()
    noisy(model)
    return model


def noisy(model):
    """Fresh gains are 1 and biases 0, which would hide that one is not copied."""
    torch.manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))


def text(B=2, T=20, V=53, seed=1):
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=2e-5):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


# --- against transformers ------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"eps": 1e-2}], ids=str)
def test_gpt2_with_copied_weights_gives_the_same_logits_and_gradients(changes):
    from posttrain.foundations.transformer_hf import from_hf, make_gpt2, translated

    config = GPT2Config(**{**SMALL, **changes})
    theirs = make_gpt2(config).eval()
    noisy(theirs)
    ours = from_hf(theirs).eval()
    assert ours.config == config
    tokens, targets = text(), text(seed=2)
    close(ours(tokens), theirs(tokens).logits)
    next_token_loss(ours(tokens), targets).backward()
    next_token_loss(theirs(tokens).logits, targets).backward()
    with torch.no_grad():  # their gradients, translated as their weights are
        for p in theirs.parameters():
            p.copy_(p.grad)
    wanted = translated(theirs)
    for name, p in ours.named_parameters():
        close(p.grad, wanted[name])


def test_greedy_text_is_that_of_transformers():
    from posttrain.foundations.transformer_hf import from_hf, make_gpt2

    theirs = make_gpt2(GPT2Config(**SMALL)).eval()
    noisy(theirs)
    prompt = text(1, 5)
    wanted = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=20,
        do_sample=False,
        pad_token_id=0,
    )
    ours = from_hf(theirs)
    rows = generate(ours, prompt.tolist(), 20, settings=Sampling(temperature=0))
    assert rows[0].tokens == wanted[0, 5:].tolist()


def test_what_has_no_counterpart_is_refused():
    from transformers import GPT2Config as Theirs
    from transformers import LlamaConfig

    from posttrain.foundations.transformer_hf import config_of, make_gpt2

    with pytest.raises(ValueError, match="'llama'"):
        config_of(LlamaConfig())
    with pytest.raises(ValueError, match="activation_function='relu'"):
        config_of(Theirs(activation_function="relu"))
    with pytest.raises(ValueError, match="sinusoidal"):
        make_gpt2(GPT2Config(**SMALL, positions="sinusoidal"))


def test_small_is_gpt2_small():
    with torch.device("meta"):
        model = GPT2(GPT2Config.small())
    assert parameter_count(model) == 124_439_808  # as `transformers` counts it


# --- parts ---------------------------------------------------------------------------


def test_layer_norm_and_gelu_are_their_formulas():
    x, gain, bias = torch.randn(3, 16) * 4 + 1, torch.randn(16), torch.randn(16)
    close(tr.layer_norm(x, gain, bias, 1e-3), F.layer_norm(x, (16,), gain, bias, 1e-3))
    close(tr.gelu(x), F.gelu(x, approximate="tanh"), 1e-6)
    exact = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    assert (tr.gelu(x) - exact).abs().max() < 1e-3


def test_sinusoids_turn_alike_for_every_shift():
    table = tr.sinusoids(50, 8)
    assert table[7, 2].item() == pytest.approx(math.sin(7 / 10_000 ** (2 / 8)))
    assert table[7, 3].item() == pytest.approx(math.cos(7 / 10_000 ** (2 / 8)))
    products = table @ table.T
    for distance in (1, 9):
        line = products.diagonal(distance)
        close(line, line[:1].expand_as(line), 1e-4)


def test_attention_is_that_of_the_chapter_before():
    from posttrain.foundations.attention import MultiHeadAttention, causal_mask

    torch.manual_seed(0)
    mine = tr.Attention(GPT2Config(**SMALL))
    slow = MultiHeadAttention(24, 3, bias=True)
    slow.load_state_dict(mine.state_dict())
    x = torch.randn(2, 9, 24)
    close(mine(x), slow(x, mask=causal_mask(9))[0], 1e-6)


def test_post_norm_is_the_older_block():
    block = tr.Block(GPT2Config(**SMALL, pre_norm=False))
    x = torch.randn(2, 5, 24)
    after = F.layer_norm(x + block.attention(x), (24,))
    close(block(x), F.layer_norm(after + block.mlp(after), (24,)), 1e-5)


# --- the model -----------------------------------------------------------------------


@pytest.mark.parametrize("positions", tr.POSITIONS)
@pytest.mark.parametrize("pre_norm", [True, False])
def test_cached_in_any_pieces_equals_all_at_once(positions, pre_norm):
    model, tokens = made(positions=positions, pre_norm=pre_norm), text()
    whole = model(tokens)
    for sizes in ([20], [1] * 20, [7, 1, 5, 7]):
        cache = model.new_cache(2, 20)
        pieces = [model(piece, cache=cache) for piece in tokens.split(sizes, 1)]
        close(torch.cat(pieces, dim=1), whole)


def test_a_padded_batch_equals_each_row_alone():
    """Learned positions are absolute: a padded row has to count its own."""
    model = made().double()
    prompts, greedy = [[1, 2, 3, 4, 5, 6], [9], [7, 7]], Sampling(temperature=0)
    together = generate(model, prompts, 20, settings=greedy)
    for prompt, row in zip(prompts, together, strict=True):
        assert generate(model, [prompt], 20, settings=greedy)[0].tokens == row.tokens


def test_order_is_seen_only_through_positions_and_the_mask():
    blind, tokens = made(positions="none"), text(1, 6)
    swapped = tokens[:, [1, 0, 2, 3, 4, 5]]
    everyone = torch.ones(6, 6, dtype=torch.bool)
    close(blind(tokens, mask=everyone)[:, 2:], blind(swapped, mask=everyone)[:, 2:])
    for positions in ("learned", "sinusoidal"):
        model = made(positions=positions)
        moved = model(tokens, mask=everyone) - model(swapped, mask=everyone)
        assert moved[:, 2:].abs().max() > 1e-3


def test_the_past_does_not_depend_on_the_future():
    model, tokens = made(), text()
    changed = tokens.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % 53
    close(model(changed)[:, :12], model(tokens)[:, :12], 1e-6)


def test_a_fresh_model_knows_nothing_and_its_stream_stays_flat():
    torch.manual_seed(0)
    model = GPT2(GPT2Config(V=65, C=128, L=8, H=4))
    tokens = text(4, 64, 65)
    loss = next_token_loss(model(tokens), text(4, 64, 65, seed=9))
    assert loss.item() == pytest.approx(math.log(65), abs=0.1)
    for name, p in model.named_parameters():
        if name.endswith(("out_proj.weight", "down_proj.weight")):
            assert p.std().item() == pytest.approx(0.02 / 4, rel=0.05)


def test_dropout_only_when_training():
    model, tokens = made(dropout=0.5), text()
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match="C=25.*H=3"):
        GPT2Config(**{**SMALL, "C": 25})
    with pytest.raises(ValueError, match="positions='rope'"):
        GPT2Config(**SMALL, positions="rope")
    with pytest.raises(ValueError, match="L=0"):
        GPT2Config(**{**SMALL, "L": 0})
    with pytest.raises(ValueError, match="33 tokens.*32 positions"):
        made()(text(1, 33))
