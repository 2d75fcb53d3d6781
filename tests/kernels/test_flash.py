"""Flash attention: values, gradients, machine code, registration, refusals."""

import pytest
import torch
import torch.nn.functional as F
from posttrain_kernels import lab
from posttrain_kernels.flash_attention import cost, flash_attention, reference

NAMES = ("o", "dq", "dk", "dv")
CASES = [  # B, H, H_kv, T_q, T_k, D, causal
    (1, 4, 2, 37, 37, 32, True),  # grouped heads, the last blocks cut off
    (2, 2, 1, 5, 50, 16, True),  # more keys than queries
    (1, 2, 2, 33, 48, 64, False),
    (1, 2, 1, 20, 3, 16, False),  # fewer
]


def inputs(B, H, H_kv, T_q, T_k, D, device="cpu", dtype=torch.float32):
    """q, k, v and dO."""
    sizes = [(B, H, T_q, D), (B, H_kv, T_k, D), (B, H_kv, T_k, D), (B, H, T_q, D)]
    return [torch.randn(size, device=device, dtype=dtype) for size in sizes]


def fused(causal):
    """PyTorch's own, with its mask written out: it aligns is_causal at the top."""

    def attention(q, k, v):
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
        mask = mask.tril(k.shape[2] - q.shape[2]) if causal else None
        return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)

    return attention


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(compare, device, dtype, case):
    *sizes, causal = case
    *qkv, do = inputs(*sizes, device, dtype)
    compare(
        NAMES, lambda q, k, v: flash_attention(q, k, v, causal), fused(causal), qkv, do
    )


@pytest.mark.parametrize("causal", [True, False])
def test_the_reference_is_attention(causal):
    *qkv, _ = inputs(1, 4, 2, 5, 7, 16, dtype=torch.float64)
    torch.testing.assert_close(reference(*qkv, causal), fused(causal)(*qkv))


def test_edges(device):
    """One key, scores that overflow without the maximum, ties, no queries."""
    q, k, v, _ = inputs(1, 1, 1, 1, 1, 16, device)
    torch.testing.assert_close(flash_attention(q, k, v), v)
    q, k, v, _ = inputs(1, 1, 1, 20, 40, 16, device)
    o = flash_attention(1e4 * q, k, v, causal=False)
    torch.testing.assert_close(o, reference(1e4 * q, k, v, causal=False))
    even = flash_attention(0 * q, k, v, causal=False)
    torch.testing.assert_close(even, v.mean(2, keepdim=True).expand_as(even))
    assert flash_attention(q[:, :, :0], k, v).shape == (1, 1, 0, 16)


def test_heads_seen_through_a_transpose_or_a_slice(device, gradients):
    """The layouts of projections: (B, T, H, D), and q, k, v side by side."""
    qkv = torch.randn(2, 19, 3, 2, 16, device=device)  # (B, T, 3, H, D)
    do = torch.randn(2, 2, 19, 16, device=device)

    def through(attention):
        return lambda x: attention(*x.transpose(1, 3).unbind(2))

    ours, due = (gradients(through(f), [qkv], do) for f in (flash_attention, reference))
    for a, b in zip(ours, due, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_gradient_without_strides_of_its_own(device, gradients):
    """As o.sum().backward() gives it: one number, expanded."""
    *qkv, do = inputs(1, 2, 1, 7, 7, 16, device)
    do = torch.ones((), device=device).expand(do.shape)
    ours, due = (gradients(f, qkv, do) for f in (flash_attention, fused(True)))
    for a, b in zip(ours, due, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_the_same_every_time(device, gradients):
    *qkv, do = inputs(1, 2, 1, 20, 20, 16, device)
    first, second = (gradients(flash_attention, qkv, do) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def compiled(arch, dtype, D):
    *qkv, _ = inputs(1, 4, 2, 512, 512, D, dtype=dtype)
    with lab.compiled(arch) as log:
        flash_attention(*(x.requires_grad_() for x in qkv)).sum().backward()
    return log


@pytest.mark.parametrize(
    ("arch", "instruction", "D"),
    [
        *((75, "FFMA", 64), (75, "FFMA", 128), (80, "HMMA", 64), (80, "HMMA", 128)),
        *((90, "HGMMA", 64), (90, "HGMMA", 128)),
    ],
)
def test_compiles_without_spills_for_its_matrix_units(arch, instruction, D):
    """On sm_75 Triton has no tensor-core path: plain fused multiply-adds."""
    log = compiled(arch, torch.float16 if arch == 75 else torch.bfloat16, D)
    assert len(log) == 3
    for launch in log:
        assert launch.spills == 0, launch
        assert launch.fits, launch
        assert instruction in launch.instructions, launch
        assert launch.loads[128] >= 2, launch
        assert launch.stores[128] >= 1, launch


@pytest.mark.parametrize("D", [16, 128])
def test_fp32_compiles_without_spills(D):
    """Products in full precision, without tensor cores."""
    for launch in compiled(90, torch.float32, D):
        assert launch.spills == 0, launch
        assert launch.fits, launch
        assert not launch.tensor_cores, launch


def test_compiles_into_one_graph(gradients):
    *qkv, do = inputs(1, 4, 2, 9, 9, 16)
    graph = torch.compile(
        flash_attention, fullgraph=True, backend="aot_eager", dynamic=True
    )
    ours, due = (gradients(f, qkv, do) for f in (graph, flash_attention))
    for a, b in zip(ours, due, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("strict", [False, True])
def test_operators_are_registered_well(strict):
    q, k, v, do = inputs(1, 2, 1, 3, 5, 16)
    operators = torch.ops.posttrain_kernels
    with lab.strict() if strict else torch.no_grad():
        o, lse = operators.flash_attention_forward(q, k, v, True)
        torch.library.opcheck(
            operators.flash_attention_forward.default, (q, k, v, True)
        )
        torch.library.opcheck(
            operators.flash_attention_backward.default, (q, k, v, o, lse, do, True)
        )


def test_what_it_does_not_take():
    q, k, v, _ = inputs(1, 4, 2, 6, 6, 16)
    with pytest.raises(TypeError, match="q, k, v are torch.float32, torch.float16"):
        flash_attention(q, k.half(), v)
    with pytest.raises(ValueError, match=r"must be \(B, H, T_q, D\), \(B, H_kv"):
        flash_attention(q[0], k, v)
    with pytest.raises(ValueError, match=r"head size D=12; .* pad the heads"):
        flash_attention(*(x[..., :12] for x in (q, k, v)))
    with pytest.raises(ValueError, match="H=3 query heads cannot share H_kv=2"):
        flash_attention(q[:, :3], k, v)
    with pytest.raises(ValueError, match="T_q=6 queries and T_k=5 keys"):
        flash_attention(q, k[:, :, :5], v[:, :, :5])
    with pytest.raises(ValueError, match=r"k has strides .*call k.contiguous\(\)"):
        turned = torch.randn(1, 2, 16, 6).transpose(2, 3)
        flash_attention(q, turned, v)
    with pytest.raises(ValueError, match="several devices"):
        flash_attention(q, k, v.to("meta"))


def test_cost_counts_pairs_under_the_mask():
    full = cost(1, 2, 1, 4, 4, 16, torch.bfloat16, causal=False)
    assert full.flops == 2 * 2 * 16 * (2 * 16)
    assert full.bytes == 2 * (2 * 2 * 4 * 16 + 2 * 4 * 16) + 4 * 2 * 4
    masked = cost(1, 2, 1, 4, 4, 16, torch.bfloat16)
    pairs = int(torch.ones(4, 4).tril().sum())
    assert masked.flops == 2 * 2 * 16 * 2 * pairs
    longer = cost(1, 1, 1, 2, 5, 16, torch.bfloat16, backward=True)
    assert longer.flops == 5 * 2 * 16 * int(torch.ones(2, 5).tril(3).sum())
