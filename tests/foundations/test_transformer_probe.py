"""The cost formulas and the probes: against the tensors, the products, closed forms."""

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from posttrain.foundations import transformer_probe as probe
from posttrain.foundations.language_model import next_token_loss, parameter_count
from posttrain.foundations.transformer import GPT2, GPT2Config
from posttrain.foundations.transformer_cost import (
    flops_per_token,
    matrix_parameters,
    parameters,
)

SMALL = {"V": 53, "T": 32, "C": 24, "L": 3, "H": 3}


def text(B=2, T=20, V=53, seed=1):
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "changes",
    [{}, {"tied": False}, {"positions": "none"}, {"pre_norm": False}, {"L": 1}],
    ids=str,
)
def test_parameters_are_those_of_the_model(changes):
    config = GPT2Config(**{**SMALL, **changes})
    counted = parameters(config)
    assert counted["all"] == parameter_count(GPT2(config))
    assert counted["all"] == sum(n for part, n in counted.items() if part != "all")


def test_parameters_of_the_published_models():
    small = GPT2Config.small()
    assert parameters(small)["all"] == 124_439_808
    distilled = GPT2Config(V=50_257, T=1024, C=768, L=6, H=12)
    assert parameters(distilled)["all"] == 81_912_576


def test_flops_are_what_torch_counts():
    config = GPT2Config(**SMALL)
    model, tokens = GPT2(config), text()
    counter = FlopCounterMode(display=False)
    # the unfused products of attention are counted everywhere
    with counter, sdpa_kernel(SDPBackend.MATH):
        next_token_loss(model(tokens), text(seed=2)).backward()
    assert counter.get_total_flops() == flops_per_token(config, 20) * tokens.numel()
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2)
    assert matrix_parameters(config) == matrices - config.T * config.C


def test_the_stream_grows_as_derived():
    torch.manual_seed(0)
    config = GPT2Config(V=997, C=256, L=1, H=4, T=64)
    model = GPT2(config)
    embedded, _, after = probe.stream_variances(model, text(4, 64, 997))
    assert embedded == pytest.approx(2 * 0.02**2, rel=0.05)
    block = model.blocks[0]
    x = torch.randn(500, 256)
    wrote = block.mlp(block.norm_2(x)).square().mean().item()
    assert wrote == pytest.approx(probe.mlp_write_variance(config) / 2, rel=0.1)
    x = model.hidden(text(4, 64, 997))
    assert after > embedded
    assert x.square().mean().item() == pytest.approx(1, abs=0.02)


def test_the_residual_factor_makes_growth_independent_of_depth():
    ends = []
    for L in (2, 8, 32):
        torch.manual_seed(0)
        model = GPT2(GPT2Config(V=97, C=64, L=L, H=4, T=32))
        ends.append(probe.stream_variances(model, text(4, 32, 97))[-1])
    assert max(ends) < 1.25 * min(ends)


def test_gradients_are_those_of_backward():
    model = GPT2(GPT2Config(**SMALL))
    found = probe.gradient_lengths(model, text(), text(seed=2))
    next_token_loss(model(text()), text(seed=2)).backward()
    wanted = [b.mlp.down_proj.weight.grad.norm().item() for b in model.blocks]
    assert found == pytest.approx(wanted)


def test_difference_between_positions():
    model = GPT2(GPT2Config(**SMALL))
    fresh = probe.difference_between_positions(model, text())
    assert 0.5 < fresh < 1
    with torch.no_grad():
        model.norm.weight.zero_()
        model.norm.bias.fill_(2.0)
    assert probe.difference_between_positions(model, text()) == 0


def test_no_stream_in_a_post_norm_model():
    with pytest.raises(ValueError, match="pre_norm=False"):
        probe.stream_variances(GPT2(GPT2Config(**SMALL, pre_norm=False)), text())


def test_expected_write_of_a_wide_mlp():
    """For small u gelu(u)² is near u²/4: the closed form of the limit."""
    config = GPT2Config(V=5, C=4, H=1)
    limit = 4 * config.C * 1e-6 * (config.C * 1e-6) / 4
    assert probe.mlp_write_variance(config, std=1e-3) == pytest.approx(limit, rel=1e-3)
    assert math.isfinite(probe.mlp_write_variance(GPT2Config.small()))
