"""NF4's table and other code tables; the adapter over frozen codes; bitsandbytes."""

import pytest
import torch
from posttrain_kernels import nf4

from posttrain.infrastructure import quantization_codebook as codebook
from posttrain.infrastructure.quantization import round_trip, signal_to_noise
from posttrain.infrastructure.quantization_lora import LoRA, NF4Linear

bitsandbytes = pytest.importorskip("bitsandbytes")


def normal(n=2**16, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def test_the_table_is_that_of_bitsandbytes_bit_by_bit():
    code = codebook.normal_float()
    theirs = bitsandbytes.functional.get_4bit_type("nf4", device="cpu")
    assert torch.equal(code, theirs)
    assert torch.equal(code, torch.tensor(nf4.CODE))
    assert (code == 0).sum() == 1 and (code < 0).sum() == 7 and (code > 0).sum() == 8
    assert not torch.equal(code, codebook.normal_float(0.98))


def test_a_uniform_table_is_the_integer_quantizer():
    x = normal(6400)
    values, q = codebook.decode(x, codebook.uniform_code(4))
    assert torch.allclose(values, round_trip(x, 4, 64), atol=1e-6)
    assert q.max() == 14 and q.dtype == torch.uint8
    ours, _ = codebook.decode(x[:100].view(4, 25), torch.tensor(nf4.CODE))
    due = nf4.reference(nf4.quantize(x[:100].view(4, 25), nested=False))
    assert torch.equal(ours, due)


def test_entropy_of_known_shares():
    assert codebook.entropy(torch.arange(16, dtype=torch.uint8)) == pytest.approx(4)
    assert codebook.entropy(torch.zeros(9, dtype=torch.uint8)) == 0
    skew = torch.tensor([0, 0, 1, 2], dtype=torch.uint8)
    assert codebook.entropy(skew) == pytest.approx(1.5)


def test_lloyd_max_finds_the_optimum_of_a_known_density():
    """Uniform numbers want equal steps; and no entry of nothing moves."""
    x = torch.rand(2**16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    start = torch.tensor([-0.9, -0.1, 0.0, 0.6])
    found = codebook.lloyd_max(x, start, blocksize=2**16, rounds=200)
    assert torch.allclose(found, torch.tensor([-0.75, -0.25, 0.25, 0.75]), atol=0.01)
    two = torch.tensor([1.0, -1.0]).repeat(32)
    lost = codebook.lloyd_max(two, torch.tensor([-1.0, 0.1, 0.2, 1.0]))
    assert torch.equal(lost, torch.tensor([-1.0, 0.1, 0.2, 1.0]))


def test_lloyd_max_counts_blocks_by_the_square_of_their_absmax():
    """Its fixed point: each entry is the mean of its numbers, weighed so, by a loop."""
    x = normal(64 * 60) * torch.logspace(-1, 1, 60).repeat_interleave(64)
    code = codebook.lloyd_max(x, codebook.uniform_code(3), rounds=400)
    moment, total = [0.0] * 7, [0.0] * 7
    for block in x.split(64):
        top = block.abs().max().item()
        for v in block.tolist():
            k = min(range(7), key=lambda k, v=v, top=top: abs(code[k] - v / top))
            moment[k] += top * v  # top² · (v / top)
            total[k] += top**2
    due = torch.tensor(moment) / torch.tensor(total)
    assert torch.allclose(code, due, atol=1e-3)


def test_nf4_beats_int4_and_is_not_the_best():
    x = normal()
    tables = {"nf4": torch.tensor(nf4.CODE), "int4": codebook.uniform_code(4)}
    tables["lloyd"] = codebook.lloyd_max(x, tables["nf4"])
    fresh = normal(seed=1)  # the fitted table on numbers that it has not seen
    snr, bits = {}, {}
    for name, code in tables.items():
        values, q = codebook.decode(fresh, code)
        snr[name], bits[name] = signal_to_noise(fresh, values), codebook.entropy(q)
    assert snr["int4"] + 1 < snr["nf4"] < snr["lloyd"] - 0.2
    assert bits["int4"] + 0.2 < bits["nf4"] < 3.95


def layers(r=4):
    torch.manual_seed(0)
    weight = torch.randn(24, 64)
    frozen = NF4Linear.from_float(weight)
    return weight, frozen, LoRA(frozen, 24, 64, r, alpha=8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_frozen_layer_is_that_of_bitsandbytes(dtype):
    weight = layers()[0]
    theirs = bitsandbytes.nn.Linear4bit(
        64, 24, bias=False, compute_dtype=dtype, quant_type="nf4"
    )
    theirs.load_state_dict({"weight": weight}, strict=False)
    theirs = theirs.to("cpu")
    state = theirs.weight.quant_state
    ours = NF4Linear(nf4.NF4.from_bitsandbytes(theirs.weight.data, state))
    x = torch.randn(3, 64, dtype=dtype)
    x_theirs = x.clone().requires_grad_()
    x_ours = x.clone().requires_grad_()
    due, got = theirs(x_theirs), ours(x_ours)
    due.sum().backward(), got.sum().backward()
    close = {"rtol": 0, "atol": 1e-4 if dtype == torch.float32 else 0.25}
    assert torch.allclose(got, due, **close)
    assert torch.allclose(x_ours.grad, x_theirs.grad, **close)


def test_the_adapter_starts_as_nothing_and_only_it_learns():
    weight, frozen, layer = layers()
    x = torch.randn(2, 5, 64, requires_grad=True)
    assert torch.equal(layer(x), frozen(x))
    layer.B.data.normal_()
    y = layer(x)
    w_hat = nf4.dequantize(frozen.weights)
    merged = w_hat + 2.0 * layer.B @ layer.A  # alpha / r = 2
    assert torch.allclose(y, x @ merged.mT, atol=1e-4)
    dy = torch.randn_like(y)
    got = torch.autograd.grad(y, [x, layer.A, layer.B], dy)
    due = torch.autograd.grad(
        x @ (w_hat + 2.0 * layer.B @ layer.A).mT, [x, layer.A, layer.B], dy
    )
    for a, b in zip(got, due, strict=True):
        assert torch.allclose(a, b, atol=1e-3, rtol=1e-4)
    assert {n for n, p in layer.named_parameters() if p.requires_grad} == {"A", "B"}
    assert not torch.equal(w_hat, weight)


def test_the_adapter_freezes_what_it_sits_on():
    layer = LoRA(torch.nn.Linear(8, 4, bias=False), 4, 8, r=2)
    assert {n for n, p in layer.named_parameters() if p.requires_grad} == {"A", "B"}


def kept_for_backward(layer, x):
    """Bytes of floats that autograd keeps, the input aside."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t) or t, lambda t: t
    ):
        layer(x)
    return sum(t.nbytes for t in kept if t.data_ptr() != x.data_ptr())


def test_the_decoded_weight_is_not_kept():
    _, frozen, _ = layers()
    x = torch.randn(3, 64, requires_grad=True)
    naive = kept_for_backward(lambda x: x @ nf4.dequantize(frozen.weights).mT, x)
    assert naive == 4 * 24 * 64
    assert kept_for_backward(frozen, x) == 0


def test_the_frozen_layer_travels_in_a_state_dict():
    weight, frozen, _ = layers()
    other = NF4Linear.from_float(torch.zeros_like(weight))
    other.load_state_dict(frozen.state_dict())
    x = torch.randn(2, 64)
    assert torch.equal(other(x), frozen(x))
    plain = NF4Linear.from_float(weight, blocksize=128, nested=False)
    assert plain.weights.blocksize == 128 and plain.weights.nested_absmax is None
    assert torch.equal(plain(x), x @ nf4.dequantize(plain.weights).mT)
