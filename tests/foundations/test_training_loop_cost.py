"""FLOPs and bytes by formula are those that PyTorch counts; a profile adds up."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from posttrain.foundations import training_loop as tl
from posttrain.foundations import training_loop_cost as cost
from posttrain.foundations.batches import Windows, total_loss
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.optimizers_groups import muon_and_adamw
from posttrain.foundations.trainer import Trainer
from posttrain.foundations.training_loop_precision import (
    hidden_gradients,
    lost_in_fp16,
    missing_units,
)
from posttrain.foundations.training_run import Recipe

TOKENS = np.random.default_rng(0).integers(31, size=5000).astype(np.uint16)
SHAPES = [
    GPTConfig(V=31, T=64, C=32, L=2, H=4, H_kv=1),
    GPTConfig(V=40, T=64, C=24, L=3, H=2, H_kv=2, mlp=40),
    GPTConfig.of_depth(4, V=31, T=64),
]


def trainer(config):
    torch.manual_seed(0)
    model = GPT(config)
    return Trainer(
        model,
        muon_and_adamw(model, 1e-2),
        Windows(TOKENS, 2, 16),
        schedule=lambda step: 1.0,
        steps=9,
    )


@pytest.mark.parametrize("config", SHAPES[1:])
def test_flops_of_matrices_are_those_that_pytorch_counts(config):
    batch = Windows(TOKENS, 3, 20)(0)
    with FlopCounterMode(display=False) as counter:
        total_loss(GPT(config), batch).backward()
    counted = counter.get_flop_counts()["Global"][torch.ops.aten.mm]
    assert counted == 6 * cost.matrix_parameters(config) * 60
    attention = cost.flops_per_token(config, 20) - counted // 60
    assert attention == 3 * config.L * 2 * (2 * 20 * config.C)


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize(("B", "T"), [(2, 16), (5, 33)])
def test_activations_are_those_that_autograd_saves(config, B, T):
    batch = Windows(TOKENS, B, T)(0)
    assert cost.saved_bytes(GPT(config), batch) == cost.activation_bytes(config, B, T)


def test_state_has_the_size_of_the_optimizers():
    made = trainer(SHAPES[0])
    made.train_step()
    numbers = sum(p.numel() for p in made.model.parameters())
    hidden = sum(
        p.numel() for g in made.optimizers[0].param_groups for p in g["params"]
    )
    assert cost.state_bytes(made) == {
        "weights": 4 * numbers,
        "gradients": 4 * numbers,
        "moments": 4 * hidden + 8 * (numbers - hidden),
    }


def test_a_profile_finds_products_in_every_phase():
    table = cost.step_profile(trainer(SHAPES[0]), steps=1)
    assert set(table) == set(cost.PHASES)
    for phase in ("forward", "backward", "optimizer"):
        assert table[phase]["matrix products"] > 0
    assert table["forward"]["attention"] > 0 == table["optimizer"]["attention"]


def test_events_are_sorted_by_what_is_around_them():
    def event(name, parent=None):
        return SimpleNamespace(name=name, cpu_parent=parent)

    engine = event("autograd::engine::evaluate_function: MmBackward0")
    assert cost.phase_of(event("aten::mm", engine)) == "backward"
    step = event("Optimizer.step#Muon.step")
    assert cost.phase_of(event("aten::bmm", event("aten::matmul", step))) == "optimizer"
    assert cost.phase_of(event("aten::mm")) == "forward"
    assert cost.kind_of("aten::bmm") == "matrix products"
    assert cost.kind_of("aten::_scaled_dot_product_flash_attention") == "attention"
    assert cost.kind_of("aten::mul") == "the rest"


def test_peak_and_seconds_are_positive():
    assert cost.matmul_peak("fp32", n=64) > 1e6
    calls = []
    assert cost.seconds(lambda: calls.append(1), 4) >= 0
    assert len(calls) == 5  # one to warm up


# --- precision -----------------------------------------------------------------------


def test_fp16_loses_what_is_small_and_what_is_large():
    values = torch.tensor([0.0, 2.0**-30, 2.0**-20, 1.0, 2.0**20])
    assert lost_in_fp16(values, 1.0) == {"zero": 0.25, "coarse": 0.25, "infinite": 0.25}
    assert lost_in_fp16(values, 2.0**-5)["infinite"] == 0
    assert lost_in_fp16(values, 2.0**20)["zero"] == 0


def test_hidden_gradients_are_those_of_the_mean_loss():
    model, batch = GPT(SHAPES[0]), Windows(TOKENS, 3, 16)(0)
    found = hidden_gradients(model, batch)
    assert found.shape == (2 * 3 * 16 * 32,)
    assert all(p.grad is None for p in model.parameters())
    twice = tuple(torch.cat([part, part]) for part in batch)
    halved = hidden_gradients(model, twice)
    torch.testing.assert_close(halved.norm(), found.norm() / 2**0.5)


def test_units_are_asked_for():
    assert missing_units("fp32", "cpu") is None
    assert missing_units("bf16", "cuda") is None
    assert missing_units("fp16", "cpu") == "this CPU has no units for fp16"


# --- the command line ----------------------------------------------------------------


def test_every_flag_is_explained():
    assert list(tl.HELP) == list(Recipe.__dataclass_fields__)
    said = tl.parser().format_help()
    assert "--micro-batches INT" in said and "falls to 2 %" in " ".join(said.split())
