"""Whole models: planted outliers, smoothing, memory, the experiment and its presets."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from posttrain_kernels import nf4

from posttrain.foundations.language_model import next_token_loss
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.optimizers import AdamW
from posttrain.foundations.training_run import load_text, make_model
from posttrain.infrastructure import quantization_experiment as X
from posttrain.infrastructure import quantization_finetune as tune
from posttrain.infrastructure.quantization import round_trip
from posttrain.infrastructure.quantization_memory import (
    SHAPES,
    Shape,
    bits_per_weight,
    held_bytes,
    training_bytes,
)
from posttrain.infrastructure.quantization_model import (
    input_absmax,
    plant_outliers,
    readers,
    replace_linears,
    smooth,
    with_weights,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GPT(GPTConfig.of_depth(2, V=17, T=16)).eval()


@pytest.fixture
def tokens():
    return torch.randint(17, (3, 16), generator=torch.Generator().manual_seed(1))


def test_replacing_leaves_the_read_out_and_the_original(model, tokens):
    before = model(tokens)
    changed = with_weights(model, torch.zeros_like)
    assert torch.equal(model(tokens), before)
    assert not torch.equal(changed(tokens), before)
    names = []
    replace_linears(model, lambda name, layer: names.append(name) or layer)
    assert len(names) == 14 and "head" not in names
    assert "blocks.1.mlp.down_proj" in names


def test_planted_outliers_change_no_bit(model, tokens):
    sample = [(tokens, tokens)]
    planted = plant_outliers(model, [5, 40], 256.0)
    assert torch.equal(planted(tokens), model(tokens))
    before, after = input_absmax(model, sample), input_absmax(planted, sample)
    for _, layers in readers(model):
        for name in layers:
            ratio = after[name] / before[name]
            assert (ratio[[5, 40]] == 256).all() and ratio.sum() == 2 * 256 + 62
    assert before["head"].equal(after["head"])


def test_input_absmax_is_that_of_all_batches(model, tokens):
    parts = [(part, part) for part in tokens.split(1)]
    whole = input_absmax(model, [(tokens, tokens)])
    for name, absmax in input_absmax(model, parts).items():
        assert torch.allclose(absmax, whole[name])
    last = input_absmax(model, parts[-1:])
    assert any((last[name] < whole[name] - 1e-3).any() for name in whole)


def test_divergence_is_that_of_torch(model, tokens):
    other = with_weights(model, partial(round_trip, bits=3, share="row"))
    log_p, log_q = (m(tokens).log_softmax(-1) for m in (model, other))
    due = F.kl_div(log_q, log_p, reduction="sum", log_target=True) / tokens.numel()
    found = X.beside(model, other, [(part, part) for part in tokens.split(2)])
    assert found["kl"] == pytest.approx(due.item(), rel=1e-4) and found["kl"] > 1e-3


def test_smoothing_undoes_them(model, tokens):
    """A factor in x and its inverse in the column: alpha = 1/2 finds both again."""
    sample = [(tokens, tokens)]
    planted = plant_outliers(model, [5], 64.0)
    mended = smooth(planted, input_absmax(planted, sample))
    due = smooth(model, input_absmax(model, sample))
    assert torch.allclose(mended(tokens), model(tokens), atol=1e-5)
    for a, b in zip(mended.parameters(), due.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_named_shapes_have_the_published_sizes():
    sizes = {name: shape.parameters / 1e9 for name, shape in SHAPES.items()}
    assert sizes["Llama 2 7B"] == pytest.approx(6.74, abs=0.01)
    assert sizes["Llama 3 8B"] == pytest.approx(8.03, abs=0.01)
    assert sizes["Llama 3 70B"] == pytest.approx(70.55, abs=0.01)
    assert sizes["Llama 3.1 405B"] == pytest.approx(405.85, abs=0.01)


def test_bits_and_bytes_by_hand():
    assert bits_per_weight() == 4 + 8 / 64 + 32 / (64 * 256)
    assert bits_per_weight(nested=False) == 4.5
    w = nf4.quantize(torch.randn(64 * 256, 64))
    stored = w.packed.nbytes + w.absmax.nbytes + w.nested_absmax.nbytes
    assert 8 * stored / w.packed.numel() / 2 == bits_per_weight()
    shape = Shape(C=8, F=16, L=1, H=2, H_kv=1, V=10)
    linears = 8 * 8 * 2 + 4 * 8 * 2 + 3 * 8 * 16
    assert shape.in_linears == linears
    n = linears + 2 * 80 + 3 * 8
    assert sum(training_bytes(shape, "full").values()) == 16 * n
    adapters = 2 * (16 + 16 + 12 + 12 + 3 * 24)
    assert shape.adapters(2) == adapters
    assert sum(training_bytes(shape, "lora", 2).values()) == 2 * n + 16 * adapters
    small = training_bytes(shape, "qlora", 2)["weights"]
    assert small == bits_per_weight() / 8 * linears + 2 * (160 + 24)
    tied = replace(shape, tied=True)
    assert shape.parameters - tied.parameters == 80
    with pytest.raises(ValueError, match="method='dora': use one of"):
        training_bytes(shape, "dora")


def test_shape_counts_what_the_model_has():
    config = GPTConfig(V=50, C=64, L=3, H=4, H_kv=2, qk_norm=False)
    shape = Shape(C=64, F=config.F, L=3, H=4, H_kv=2, V=50, tied=True)
    assert shape.parameters == sum(p.numel() for p in GPT(config).parameters())


def test_held_bytes_after_a_step(model, tokens):
    qlora = tune.arm(model, "qlora", r=4, alpha=8)
    trained = [p for p in qlora.parameters() if p.requires_grad]
    optimizer = AdamW(trained, lr=1e-3)
    next_token_loss(qlora(tokens), tokens).backward()
    optimizer.step()
    held = held_bytes(qlora, [optimizer])
    n = sum(p.numel() for p in trained)
    assert n == 4 * sum(sum(m.shape) for m in X.matrices(model))
    assert held["gradients"] == 4 * n and held["optimizer"] == 8 * n
    full = held_bytes(model)["weights"]
    assert held["weights"] - 4 * n < 0.45 * full  # embedding and tables stay


def test_arms_start_where_their_base_is(model, tokens):
    due = {
        "full": model,
        "lora": model,
        "qlora": with_weights(model, lambda w: nf4.reference(nf4.quantize(w))),
        "lora over int2": with_weights(model, partial(round_trip, bits=2, share=64)),
    }
    assert set(due) == set(tune.ARMS)
    for name, base in due.items():
        got = tune.arm(model, name, r=4, alpha=8)(tokens)
        assert torch.allclose(got, base(tokens), atol=1e-5), name
    with pytest.raises(ValueError, match="arm 'dora': use one of"):
        tune.arm(model, "dora", 4, 8)


def test_the_other_text_keeps_the_vocabulary():
    text = load_text("tinyshakespeare")
    train, val = tune.questions(text.tokenizer)
    assert train.max() < text.tokenizer.vocab_size and len(val) > 1000
    words = text.tokenizer.decode(train[:200].tolist())
    assert " how many " in words.lower() or " she " in words.lower()


def test_experiment():
    result = X.run("ci", 0)
    assert result["formats"]["int2 tensor"]["loss"] > result["base"] + 0.1
    assert abs(result["formats"]["int8 row"]["loss"] - result["base"]) < 0.01
    arms = result["outliers"]
    assert set(map(len, arms.values())) == {len(X.PRESETS["ci"].factors)}
    assert arms["float"][0] == arms["float"][-1] == result["base"]
    assert arms["smoothed, int8 per tensor"][-1] < arms["int8 per tensor"][-1]
    lost = {name: abs(losses[-1] - result["base"]) for name, losses in arms.items()}
    assert lost["split"] < 0.2 * lost["int8 per token"] < lost["int8 per tensor"]
    for name in tune.ARMS:
        curve = result["tuning"][name]["curve"]
        assert len(curve) == len(result["tuning"]["steps"])
        assert curve[-1] < curve[0]
    with pytest.raises(ValueError, match="unknown preset 'big'"):
        X.run("big", 0)


@pytest.mark.parametrize("preset", ["t4", "h200"])
@pytest.mark.parametrize("name", ["full", "lora", "qlora"])
def test_big_presets_step_in_every_arm(name, preset):
    """Shapes and types at full size, without memory; the kernel's by its fake.

    The fourth arm is `lora` once its base is rounded, which needs numbers.
    """
    setup = X.PRESETS[preset]
    base = make_model(setup.base, 65).to("meta")
    tokens = torch.zeros(setup.base.B, setup.base.T, dtype=torch.long, device="meta")
    model = tune.arm(base, name, setup.r, setup.alpha)
    next_token_loss(model(tokens), tokens).backward()
    for parameter in model.parameters():
        assert parameter.requires_grad == (parameter.grad is not None)
