"""Who takes part: found, missing, broken; and called as its library wants it."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from posttrain_kernels import nf4
from posttrain_kernels.bench import check
from posttrain_kernels.bench.contestants import (
    EAGER,
    Contestant,
    Entry,
    assemble,
    installed,
    simple,
)
from posttrain_kernels.bench.families import FAMILIES


@pytest.fixture
def library(monkeypatch):
    """A function that puts a module into sys.modules, with its parents."""

    def put(name, **attributes):
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            path = ".".join(parts[:end])
            module = ModuleType(path)
            module.__spec__ = ModuleSpec(path, None)
            monkeypatch.setitem(sys.modules, path, module)
        vars(module).update(attributes)

    return put


def judge(family, name):
    """Build the contestant and hold it against the reference, as before timing."""
    family = FAMILIES[family]
    torch.manual_seed(0)
    inputs = family.make(*family.sizes["tiny"], dtype=torch.float32, device="cpu")
    before = [x.clone() for x in inputs.arguments if isinstance(x, torch.Tensor)]
    (entry,) = [entry for entry in family.entries if entry.name == name]
    exact = family.expected(inputs)
    results = family.outcome(entry.build(), inputs)
    check.check(results, exact, family.results, [0.0] * len(exact))
    for now, then in zip(inputs.arguments, before, strict=False):
        assert torch.equal(now, then)


class OverTheLogits(torch.autograd.Function):
    """A cross-entropy as Liger's: the gradient lies over the logits after forward."""

    @staticmethod
    def forward(ctx, logits, target):
        with torch.enable_grad():
            x = logits.detach().clone().requires_grad_()
            loss = F.cross_entropy(x, target)
        logits.data.copy_(torch.autograd.grad(loss, x)[0])
        ctx.save_for_backward(logits.detach())
        return loss.detach()

    @staticmethod
    def backward(ctx, dloss):
        return ctx.saved_tensors[0] * dloss, None


def test_liger_is_called_as_it_wants_to_be(library):
    def rms_norm(X, W, eps, offset=0.0, casting_mode="llama", in_place=True):
        assert (offset, casting_mode, in_place) == (0.0, "gemma", False)
        return F.rms_norm(X, W.shape, W, eps)

    def fused(input, weight, target, bias=None, accum_dtype=None):
        assert accum_dtype == torch.float32
        return F.cross_entropy(input @ weight.T, target)

    library(
        "liger_kernel.transformers.functional",
        liger_softmax=lambda x: torch.softmax(x, dim=-1),
        liger_rms_norm=rms_norm,
        liger_cross_entropy=OverTheLogits.apply,
        liger_fused_linear_cross_entropy=fused,
    )
    for family in ("softmax", "rms_norm", "cross_entropy", "linear_cross_entropy"):
        judge(family, "Liger")


def test_unsloth_is_called_as_it_wants_to_be(library):
    def fast_rms_layernorm(layernorm, X, gemma=False):
        W, eps = layernorm.weight, layernorm.variance_epsilon
        return F.rms_norm(X, W.shape, W, eps)

    def fast_cross_entropy_loss(logits, labels):
        assert labels.shape == logits.shape[:2] == (1, 17)
        return F.cross_entropy(logits[0], labels[0])

    def fused(trainer, hidden, weight, bias, labels, *, shift_labels=True):
        assert trainer is bias is None
        assert not shift_labels
        return F.cross_entropy(hidden[0] @ weight.T, labels[0])

    def fast_dequantize(W, quant_state):
        assert W.shape[1] == 1  # otherwise Unsloth may take it for transposed
        return nf4.reference(nf4.NF4.from_bitsandbytes(W, quant_state))

    library(
        "unsloth.kernels.utils",
        fast_dequantize=fast_dequantize,
        _fast_dequantize_ctypes=fast_dequantize,
    )
    sys.modules["unsloth.kernels"].fast_rms_layernorm = fast_rms_layernorm
    sys.modules["unsloth.kernels"].fast_cross_entropy_loss = fast_cross_entropy_loss
    library("unsloth_zoo.fused_losses", unsloth_fused_ce_loss=fused)
    for family in ("rms_norm", "cross_entropy", "linear_cross_entropy", "nf4"):
        judge(family, "Unsloth")
    judge("nf4", "Unsloth ctypes")


def test_bitsandbytes_gets_the_same_bits():
    """Its own two results and ours, taken to its form, are one."""
    functional = pytest.importorskip("bitsandbytes").functional
    from posttrain_kernels.bench.families.nf4 import as_bitsandbytes

    packed, state = functional.quantize_4bit(
        torch.randn(4, 640), quant_type="nf4", compress_statistics=True
    )
    ours, like = as_bitsandbytes(nf4.NF4.from_bitsandbytes(packed, state))
    assert torch.equal(ours, packed)
    assert vars(like.state2).keys() == vars(state.state2).keys()
    for mine, theirs in ((like, state), (like.state2, state.state2)):
        for name, value in vars(theirs).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(getattr(mine, name), value)
    assert (like.shape, like.dtype, like.blocksize, like.quant_type, like.nested) == (
        *(state.shape, state.dtype, state.blocksize, state.quant_type, state.nested),
    )
    assert like.state2.blocksize == state.state2.blocksize


def entry(name="Liger", on_cpu=True, build=None):
    build = build or (lambda: Contestant(name, torch.sin))
    return Entry(name, build, "liger_kernel", on_cpu)


def test_who_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    present, missing = assemble([simple(EAGER, torch.sin), entry()])
    assert [one.name for one in present] == [EAGER]
    assert [(one.name, one.reason) for one in missing] == [
        ("Liger", "liger-kernel is not installed")
    ]


def test_whose_import_fails_is_told_with_the_first_line(library):
    def build():
        raise NotImplementedError("No GPU found!\nA long story follows")

    library("liger_kernel")
    _, (missing,) = assemble([entry(build=build)])
    assert missing.reason == "import failed: NotImplementedError: No GPU found!"


def test_a_function_that_an_old_version_lacks_is_told(library):
    library("liger_kernel.transformers.functional")
    (liger,) = [e for e in FAMILIES["softmax"].entries if e.name == "Liger"]
    _, (missing,) = assemble([liger])
    assert "cannot import name 'liger_softmax'" in missing.reason


def test_who_needs_a_gpu_is_not_imported_for_a_cpu(library):
    library("liger_kernel")
    _, (missing,) = assemble([entry(on_cpu=False, build=lambda: 1 / 0)], cpu=True)
    assert missing.reason == "needs a GPU"


def test_versions(library):
    assert installed("bitsandbytes") == pytest.importorskip("bitsandbytes").__version__
    library("liger_kernel")  # there, but not as a distribution
    assert installed("liger_kernel") == "unknown"


def test_every_library_is_known():
    from posttrain_kernels.bench.contestants import LIBRARIES

    for family in FAMILIES.values():
        assert [one.name for one in family.entries[:2]] == ["ours", EAGER]
        assert {one.library for one in family.entries} <= {None, *LIBRARIES}


def test_unsloth_is_imported_after_the_families_that_do_not_know_it():
    """It changes settings of the compiler when imported."""
    known = [
        any((one.library or "").startswith("unsloth") for one in family.entries)
        for family in FAMILIES.values()
    ]
    assert known == sorted(known)


def test_sdpa_stays_that_of_pytorch(monkeypatch):
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    judge("flash_attention", "SDPA")
