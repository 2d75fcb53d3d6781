"""NF4: the bits of bitsandbytes, machine code, registration, refusals."""

import dataclasses

import pytest
import torch
import triton
from posttrain_kernels import lab
from posttrain_kernels.nf4 import (
    BYTES,
    CODE,
    NF4,
    cost,
    dequantize,
    dynamic_map,
    quantize,
    reference,
)

bitsandbytes = pytest.importorskip("bitsandbytes")
functional = bitsandbytes.functional


def theirs(w, blocksize=64, nested=True):
    """The two results of bitsandbytes; always on the CPU, where no GPU is needed."""
    return functional.quantize_4bit(
        w.cpu(), blocksize=blocksize, quant_type="nf4", compress_statistics=nested
    )


def moved(weights: NF4, device) -> NF4:
    tensors = {
        name: value.to(device)
        for name, value in vars(weights).items()
        if isinstance(value, torch.Tensor)
    }
    return dataclasses.replace(weights, **tensors)


def test_the_code_tables_are_those_of_bitsandbytes():
    assert torch.equal(torch.tensor(CODE), functional.get_4bit_type("nf4", "cpu"))
    assert torch.equal(dynamic_map(), functional.create_dynamic_map())


@pytest.mark.parametrize("blocksize", [64, 128])
def test_quantising_gives_the_bits_of_bitsandbytes(dtype, blocksize):
    w = torch.randn(500, 640).to(dtype)
    w[0] = 0
    w[1, ::2] = 1e-3
    packed, state = theirs(w, blocksize, nested=False)
    ours = quantize(w, blocksize, nested=False)
    assert torch.equal(ours.packed, packed.flatten())
    assert torch.equal(ours.absmax, state.absmax)


def test_double_quantising_gives_the_bits_of_bitsandbytes():
    """20000 blocks: every code of absmax occurs, and many are close to a boundary."""
    w = torch.randn(2000, 640)
    packed, state = theirs(w)
    ours = quantize(w)
    assert torch.equal(ours.packed, packed.flatten())
    assert torch.equal(ours.nested_absmax, state.state2.absmax)
    assert torch.equal(ours.offset, state.offset)
    absmax = quantize(w, nested=False).absmax - ours.offset
    # the implementation for any device, which searches as the one for CUDA does
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd)
    operator = torch.ops.bitsandbytes.quantize_blockwise.default
    q, _ = operator.redispatch(key, absmax, ours.nested_code, 256)
    assert torch.equal(ours.absmax, q)
    # the one for CPUs rounds to one of 65536 steps before it looks for the nearest
    scaled = absmax / ours.nested_absmax.repeat_interleave(256)[: len(absmax)]
    steps = ((scaled + 1) * 32767.5).round() / 32767.5 - 1
    middles = (ours.nested_code[1:] + ours.nested_code[:-1]) / 2
    assert torch.equal(torch.bucketize(steps, middles).to(torch.uint8), state.absmax)


@pytest.mark.parametrize(
    ("shape", "blocksize", "nested"),
    [
        ((64, 1088), 64, True),  # more blocks than 256, the last group is cut off
        ((3, 130), 64, True),  # the last block is cut off
        ((24, 256), 128, False),
        ((1, 3072), 1024, True),
    ],
)
def test_dequantising_gives_the_bits_of_bitsandbytes(
    device, dtype, shape, blocksize, nested
):
    packed, state = theirs(torch.randn(shape).to(dtype), blocksize, nested)
    weights = moved(NF4.from_bitsandbytes(packed, state), device)
    due = functional.dequantize_4bit(packed, state)
    assert due.dtype == dtype
    assert torch.equal(dequantize(weights).cpu(), due)
    assert torch.equal(reference(weights).cpu(), due)


def test_packed_weights_may_be_stored_under_another_dtype():
    """As FSDP asks for, which shards tensors of one dtype."""
    w = torch.randn(4, 64)
    packed, state = functional.quantize_4bit(
        w, quant_type="nf4", quant_storage=torch.bfloat16
    )
    assert packed.dtype == torch.bfloat16
    got = dequantize(NF4.from_bitsandbytes(packed, state))
    assert torch.equal(got, dequantize(quantize(w, nested=False)))


def test_an_odd_number_of_weights_and_another_dtype(device):
    w = torch.randn(7, 19)
    weights = moved(quantize(w), device)
    got = dequantize(weights, torch.bfloat16)
    assert torch.equal(got, reference(weights, torch.bfloat16))
    assert got.shape == (7, 19)
    assert (got.cpu() - w).abs().max() < 0.2 * w.abs().max()
    empty = NF4(
        weights.packed[:0], weights.absmax[:0].float(), weights.code, (0, 4), w.dtype
    )
    assert dequantize(empty).shape == (0, 4)


@pytest.mark.parametrize("arch", [75, 80, 90])
def test_is_one_kernel_without_spills_or_detours(arch):
    """4 bytes a thread in, 16 bytes a thread out, nothing through shared memory.

    triton 3.6 passes the output through 4 KB of it.
    """
    detour = 4 * BYTES if triton.__version__.startswith("3.6.") else 0
    dtype = torch.float16 if arch == 75 else torch.bfloat16
    with lab.compiled(arch) as log:
        dequantize(quantize(torch.randn(64, 1024)), dtype)
    (launch,) = log
    assert (launch.spills, launch.shared) == (0, detour)
    assert launch.stores == {128: 1}
    assert launch.loads[8] == 1  # of absmax; four packed bytes come as one word
    assert launch.registers <= 40
    assert "FFMA" not in launch.instructions  # it would round once where two are due


def test_compiles_into_one_graph():
    weights = quantize(torch.randn(32, 64))
    graph = torch.compile(dequantize, fullgraph=True, backend="aot_eager", dynamic=True)
    assert torch.equal(
        graph(weights, torch.float16), dequantize(weights, torch.float16)
    )


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_the_operator_is_registered_well(strict, nested):
    weights = quantize(torch.randn(5, 30), nested=nested)
    inputs = (weights.packed, weights.absmax, weights.code, weights.nested_absmax)
    more = (weights.nested_code, weights.offset, [5, 30], 64, 256, torch.float16)
    with lab.strict() if strict else torch.no_grad():
        operator = torch.ops.posttrain_kernels.nf4_dequantize.default
        torch.library.opcheck(operator, (*inputs, *more))


def test_what_it_does_not_take():
    w = quantize(torch.randn(4, 64))
    change = dataclasses.replace
    with pytest.raises(ValueError, match="belong together, give all or none"):
        dequantize(change(w, offset=None))
    with pytest.raises(TypeError, match=r"dtype=torch.float64; use float32"):
        dequantize(w, torch.float64)
    with pytest.raises(TypeError, match=r"absmax torch.float32, due are torch.uint8"):
        dequantize(change(w, absmax=w.absmax.float()))
    with pytest.raises(ValueError, match=r"packed has shape \(64,\).* need 128 contig"):
        dequantize(change(w, packed=w.packed[::2]))
    with pytest.raises(ValueError, match="several devices"):
        dequantize(change(w, code=w.code.to("meta")))
    with pytest.raises(TypeError, match="weights are torch.int64"):
        quantize(torch.ones(4, dtype=torch.int64))
    _, state = functional.quantize_4bit(torch.randn(64), quant_type="fp4")
    with pytest.raises(ValueError, match="quantise with quant_type='nf4'"):
        NF4.from_bitsandbytes(w.packed, state)


def test_cost_is_two_and_a_half_bytes_a_weight():
    n = 4096 * 14336
    assert cost(n, torch.float16).bytes / n == pytest.approx(2.516, abs=5e-4)
