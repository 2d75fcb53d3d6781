"""The quantizers and the int8 layer: bounds, edges, exact sums, bitsandbytes."""

import math

import pytest
import torch
from torch import nn

from posttrain.infrastructure.quantization import (
    absmax_quantize,
    affine_quantize,
    blocks_of,
    dequantize,
    round_trip,
    signal_to_noise,
)
from posttrain.infrastructure.quantization_linear import (
    Int8Linear,
    int_matmul,
    outlier_columns,
    smoothing,
)

functional = pytest.importorskip("bitsandbytes").functional


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("dim", [None, 0, 1])
@pytest.mark.parametrize("quantize", [absmax_quantize, affine_quantize])
def test_error_is_at_most_half_a_step(quantize, bits, dim):
    """And every code is used within its range, the largest one at absmax."""
    torch.manual_seed(bits)
    x = torch.randn(7, 33) * torch.logspace(-3, 3, 7)[:, None] + 0.5
    q = quantize(x, bits, dim)
    assert ((dequantize(q) - x).abs() <= q.scale * 0.5001).all()
    shape = {None: (1, 1), 0: (1, 33), 1: (7, 1)}[dim]
    assert q.scale.shape == shape and q.codes.shape == x.shape
    n = 2 ** (bits - 1) - 1 if quantize is absmax_quantize else 2**bits - 1
    assert q.codes.max().item() <= n
    if quantize is absmax_quantize:
        most = q.codes.abs().amax(dim=(0, 1) if dim is None else dim)
        assert (most == n).all()
        assert q.zero is None and q.codes.dtype == torch.int8
    else:
        assert q.zero.dtype == torch.int32 and q.codes.dtype == torch.uint8


def test_symmetric_codes_by_hand():
    """Scale 1: ties go to even, -128 is never used, the sign turns with x."""
    x = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0])
    assert absmax_quantize(x).codes.tolist() == [127, 0, 2, 2, 0, -2, -127]
    assert absmax_quantize(-x).codes.tolist() == [-127, 0, -2, -2, 0, 2, 127]
    assert absmax_quantize(torch.tensor([-3.0, 1.0]), 2).codes.tolist() == [-1, 0]


def test_affine_codes_by_hand():
    q = affine_quantize(torch.tensor([[-10.0, 0.0, 245.0], [3.0, 3.0, 3.0]]), dim=1)
    assert q.codes.tolist() == [[0, 10, 255], [255, 255, 255]]
    assert q.zero.flatten().tolist() == [10, 0]
    assert torch.allclose(dequantize(q)[1], torch.tensor(3.0))
    below = affine_quantize(torch.tensor([-4.0, -2.0]))
    assert below.zero.item() == 255 and below.codes.tolist() == [0, 128]


@pytest.mark.parametrize("quantize", [absmax_quantize, affine_quantize])
def test_zero_stays_zero(quantize):
    x = torch.tensor([[0.0, 0.0, 0.0], [0.0, 5.1, -3.7], [0.0, 9.0, 7.0]])
    q = quantize(x, dim=1)
    back = dequantize(q)
    assert (back[:, 0] == 0).all() and (back[0] == 0).all()
    assert q.scale[0] == 1 and q.codes[0].tolist() == [0, 0, 0]
    tiny = quantize(torch.full((3,), 1e-45))  # a 127th of it is 0 in fp32
    assert tiny.scale == 1 and tiny.codes.tolist() == [0, 0, 0]


def test_what_quantizers_refuse():
    with pytest.raises(ValueError, match="bits=9: codes are kept in one byte"):
        absmax_quantize(torch.ones(2), 9)
    with pytest.raises(TypeError, match="x is torch.int64: quantize floats"):
        affine_quantize(torch.ones(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="2 of 3 numbers are inf or NaN"):
        absmax_quantize(torch.tensor([1.0, math.inf, math.nan]))
    with pytest.raises(ValueError, match="share='column': use 'tensor', 'row'"):
        round_trip(torch.ones(2), 4, "column")


def test_what_shares_a_scale():
    """Finer sharing never has a larger step; blocks go on across rows."""
    torch.manual_seed(0)
    x = torch.randn(6, 80)
    x[0] *= 50
    tensor, row, block = (round_trip(x, 4, s) for s in ("tensor", "row", 16))
    assert torch.equal(row, torch.stack([round_trip(r, 4, "tensor") for r in x]))
    cut = [round_trip(b, 4, "tensor") for b in x.flatten().split(16)]
    assert torch.equal(block, torch.cat(cut).view(6, 80))
    found = [signal_to_noise(x[1:], y[1:]) for y in (tensor, row, block)]
    assert found[0] < found[1] < found[2]
    assert blocks_of(torch.arange(5.0), 4).tolist() == [[0, 1, 2, 3], [4, 0, 0, 0]]
    assert round_trip(x.half(), 4, 16).dtype == torch.float16


def test_six_decibel_a_bit():
    """Uniform numbers: noise of step² / 12 and 6.02 dB for each bit."""
    x = torch.rand(200_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = {bits: signal_to_noise(x, round_trip(x, bits, "tensor")) for bits in (4, 8)}
    for bits, snr in found.items():
        assert snr == pytest.approx(20 * math.log10(2**bits - 2), abs=0.15)
    assert signal_to_noise(x, x) == math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_int8_rows_are_those_of_bitsandbytes(dtype):
    """But at ties: they multiply by 127 / absmax, we divide by absmax / 127."""
    torch.manual_seed(0)
    x = (torch.randn(400, 96) * torch.logspace(-2, 1, 400)[:, None]).to(dtype)
    codes, absmax, _ = functional.int8_vectorwise_quant(x)
    ours = absmax_quantize(x, dim=1)
    assert torch.allclose(absmax, ours.scale.flatten() * 127, rtol=1e-6)
    steps = x.float() / ours.scale
    tie = ((steps - steps.floor()) - 0.5).abs() < 1e-4
    assert (codes == ours.codes)[~tie].all() and tie.float().mean() < 0.01


def test_int_matmul_is_exact_where_int8_would_wrap():
    p = torch.full((3, 5000), 127, dtype=torch.int8)
    q = torch.full((2, 5000), -127, dtype=torch.int8)
    assert int_matmul(p, q).tolist() == [[-127 * 127 * 5000] * 2] * 3
    assert int_matmul(p, q).dtype == torch.int32
    torch.manual_seed(0)
    p, q = (torch.randint(-127, 128, s, dtype=torch.int8) for s in ((9, 70), (5, 70)))
    assert torch.equal(int_matmul(p, q), p.int() @ q.int().mT)


@pytest.mark.parametrize("per_token", [True, False])
def test_int8_linear_is_the_product_of_the_decoded_factors(per_token):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 48), torch.randn(7, 48)
    layer = Int8Linear(weight, per_token)
    share = 1 if per_token else None
    x_hat = dequantize(absmax_quantize(x.flatten(0, 1), dim=share)).view_as(x)
    w_hat = dequantize(absmax_quantize(weight, dim=1))
    due = x_hat.double() @ w_hat.double().mT
    assert torch.allclose(layer(x).double(), due, rtol=0, atol=2e-6 * due.abs().max())
    assert layer(x.half()).dtype == torch.float16
    assert (layer(x) - x @ weight.mT).abs().max() < 0.3


@pytest.mark.parametrize("from_codes", [True, False])
def test_split_columns_stay_out_of_the_scales(from_codes):
    """With outliers split off, the others are as fine as if those were not there."""
    torch.manual_seed(0)
    x, weight = torch.randn(6, 32), torch.randn(4, 32)
    x[:, [3, 20]] *= 100
    weight[:, 3] *= 50
    columns = outlier_columns(x)
    assert columns.nonzero().flatten().tolist() == [3, 20]
    layer = Int8Linear(weight, columns=columns, columns_from_codes=from_codes)
    rest = x.masked_fill(columns, 0.0)
    w_rest = weight if from_codes else weight.masked_fill(columns, 0.0)
    w_hat = dequantize(absmax_quantize(w_rest, dim=1))
    kept = (w_hat if from_codes else weight)[:, columns]
    due = dequantize(absmax_quantize(rest, dim=1)) @ w_hat.masked_fill(columns, 0).mT
    due = due + x[:, columns] @ kept.mT
    assert torch.allclose(layer(x), due, atol=1e-3, rtol=1e-5)
    plain = Int8Linear(weight)(x)
    exact = x @ weight.mT
    share = 0.9 if from_codes else 0.1  # codes hold no more than they hold
    assert (layer(x) - exact).norm() < share * (plain - exact).norm()


def test_outlier_columns_have_either_sign_and_begin_at_the_threshold():
    x = torch.tensor([[[6.0, 0.0, 5.9, 1.0]], [[0.0, -7.0, -5.9, 2.0]]])
    assert outlier_columns(x).tolist() == [True, True, False, False]
    assert outlier_columns(x, 5.9).tolist() == [True, True, True, False]


def test_the_split_agrees_with_bitsandbytes():
    """Theirs is fp16 around the integers, hence the tolerance."""
    import bitsandbytes as bnb

    torch.manual_seed(0)
    x, weight = torch.randn(10, 64), torch.randn(8, 64).half().float()
    x[:, 5] *= 40
    theirs = bnb.nn.Linear8bitLt(64, 8, False, has_fp16_weights=False, threshold=6.0)
    theirs.load_state_dict({"weight": weight}, strict=False)
    theirs = theirs.to("cpu")
    columns = outlier_columns(x)
    assert columns.nonzero().flatten().tolist() == [5]
    ours = Int8Linear(weight, columns=columns, columns_from_codes=True)
    assert (theirs.weight.data == ours.codes).all()
    got, due = ours(x.half()).float(), theirs(x.half()).float()
    assert (got - due).abs().max() < 4e-3 * due.abs().max()


def test_smoothing_moves_the_range_and_keeps_the_product():
    torch.manual_seed(0)
    x, weights = torch.randn(50, 12), [torch.randn(5, 12), torch.randn(3, 12)]
    x[:, 2] *= 100
    factor = smoothing(x.abs().amax(dim=0), weights)
    for weight in weights:
        assert torch.allclose(
            (x / factor) @ (weight * factor).mT, x @ weight.mT, atol=1e-4
        )
    a = (x / factor).abs().amax(dim=0)
    b = (torch.cat(weights) * factor).abs().amax(dim=0)
    assert torch.allclose(a, b)  # alpha = 1/2: both sides get the same range
    none = smoothing(x.abs().amax(dim=0), weights, alpha=1.0)
    assert torch.allclose((x / none).abs().amax(dim=0), torch.ones(12))
    assert smoothing(torch.zeros(12), weights).isfinite().all()


def test_an_int8_layer_keeps_one_byte_a_weight():
    layer = Int8Linear(nn.Linear(64, 32, bias=False).weight)
    assert not list(layer.parameters())
    state = layer.state_dict()
    assert state["codes"].dtype == torch.int8 and state["kept"].shape == (32, 0)
    assert sum(t.nbytes for t in state.values()) == 64 * 32 + 4 * 32
