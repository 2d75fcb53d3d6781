"""A head in chunks: values, gradients, what is refused, parity with what people use."""

import pytest
import torch
import torch.nn.functional as F
from posttrain_kernels.linear_cross_entropy import default_chunk_rows
from posttrain_kernels.linear_cross_entropy import linear_cross_entropy as kernel

from posttrain.alignment import grpo
from posttrain.infrastructure import memory_efficient_backprop as head
from posttrain.infrastructure import memory_efficient_backprop_losses as losses
from posttrain.infrastructure.memory_efficient_backprop_vocabulary import (
    tiled_cross_entropy,
)

N, d, V = 23, 6, 31


def draw(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((N, d), (V, d), (V,))
    )
    targets = torch.randint(V, (N,))
    targets[::4] = -100
    return hidden, weight, bias, targets


def gradients(total, *inputs):
    return [total.detach(), *torch.autograd.grad(total, inputs)]


def same(ours, theirs, **tolerance):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def rows_of(name):
    """A loss and its row arguments."""
    torch.manual_seed(1)
    tokens, targets = torch.randint(V, (N,)), draw()[3]
    normal = [torch.randn(N, dtype=torch.float64) for _ in range(3)]
    teacher = torch.randn(N, V, dtype=torch.float64).softmax(-1)
    return {
        "cross-entropy": (losses.cross_entropy, targets),
        "smoothed": (losses.smoothed(0.1), targets),
        "z-loss": (losses.with_z_loss(losses.cross_entropy, 0.1), targets),
        "capped": (losses.soft_capped(losses.cross_entropy, 2.0), targets),
        "temperature": (losses.at_temperature(losses.cross_entropy, 0.7), targets),
        "logprobs": (losses.logprobs, tokens),
        "distillation": (losses.distillation, teacher),
        "grpo": (losses.grpo_terms(grpo.GRPO), tokens, normal[0] - 3, *normal[1:]),
        "entropy": (lambda z: torch.special.entr(z.softmax(-1)).sum(-1),),
    }[name]


NAMES = (
    *("cross-entropy", "smoothed", "z-loss", "capped", "temperature"),
    *("logprobs", "distillation", "grpo", "entropy"),
)


@pytest.mark.parametrize("chunk_rows", [1, 5, 23, 40, None])
@pytest.mark.parametrize("name", NAMES)
def test_both_designs_equal_the_plain_head(name, chunk_rows):
    """With row weights, a bias and an upstream gradient that is not 1."""
    hidden, weight, bias, _ = draw()
    loss, *rows = rows_of(name)
    share = torch.rand(N, dtype=torch.float64)
    plain = (share * head.plain_rows(loss, hidden, weight, *rows, bias=bias)).sum()
    options = {"bias": bias, "chunk_rows": chunk_rows}
    by_sum = head.chunked_sum(loss, hidden, weight, *rows, row_weights=share, **options)
    by_rows = head.chunked_rows(loss, hidden, weight, *rows, **options)
    inputs = hidden, weight, bias
    due = gradients(plain * -1.7, *inputs)
    same(gradients(by_sum * -1.7, *inputs), due)
    same(gradients((share * by_rows).sum() * -1.7, *inputs), due)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_as_good_as_the_plain_head(dtype):
    """At most twice the plain head's own error against float64."""
    hidden, weight, _, targets = draw(dtype)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    share = losses.mean_weights(targets)
    plain = head.plain_rows(losses.cross_entropy, hidden, weight, targets) @ share
    due = head.plain_rows(losses.cross_entropy, *exact, targets) @ share.double()
    due = gradients(due, *exact)
    peer = gradients(plain, hidden, weight)
    rows = head.chunked_rows(
        losses.cross_entropy, hidden, weight, targets, chunk_rows=4
    )
    by_sum = losses.linear_cross_entropy(hidden, weight, targets, chunk_rows=4)
    assert by_sum.dtype == rows.dtype == torch.float32
    for total in (by_sum, rows @ share):
        for ours, theirs, right in zip(
            gradients(total, hidden, weight), peer, due, strict=True
        ):
            assert ours.dtype == theirs.dtype
            allowed = 2 * (theirs.double() - right).norm() + 1e-6
            assert (ours.double() - right).norm() <= allowed


def test_the_loss_sees_float32():
    seen = set()

    def loss(logits):
        seen.add(logits.dtype)
        return logits.sum(-1)

    hidden, weight, _, _ = draw(torch.bfloat16)
    head.chunked_sum(loss, hidden, weight).backward()
    head.chunked_rows(loss, hidden, weight).sum().backward()
    assert seen == {torch.float32}


def test_dw_is_summed_in_float32():
    """320 ones: in bfloat16 the sum would stop at 256."""
    ones = torch.ones(320, 2, dtype=torch.bfloat16)
    for design in (head.chunked_sum, head.chunked_rows):
        weight = ones[:3].clone().requires_grad_()
        design(lambda z: z.sum(-1), ones, weight, chunk_rows=1).sum().backward()
        assert weight.grad.eq(320).all()


@pytest.mark.parametrize("design", [head.chunked_sum, head.chunked_rows])
@pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)])
def test_only_what_is_needed(design, needs):
    hidden, weight, _, targets = draw()
    hidden.requires_grad_(needs[0]), weight.requires_grad_(needs[1])
    total = design(losses.cross_entropy, hidden, weight, targets).sum()
    assert total.requires_grad == any(needs)
    if any(needs):
        total.backward()
    assert (hidden.grad is not None, weight.grad is not None) == needs


@pytest.mark.parametrize("design", [head.chunked_sum, head.chunked_rows])
def test_without_grad_mode_nothing_is_differentiated(design):
    calls = []

    def loss(logits, targets):
        calls.append(torch.is_grad_enabled())
        return losses.cross_entropy(logits, targets)

    hidden, weight, _, targets = draw()
    with torch.no_grad():
        value = design(loss, hidden, weight, targets, chunk_rows=6).sum()
    assert calls[1:] == [False] * 4  # the first call tries one row
    due = head.plain_rows(losses.cross_entropy, hidden, weight, targets).sum()
    torch.testing.assert_close(value, due.detach())


@pytest.mark.parametrize("design", [head.chunked_sum, head.chunked_rows])
def test_backward_twice_is_right_and_second_derivatives_raise(design):
    hidden, weight, _, targets = draw()
    total = design(losses.cross_entropy, hidden, weight, targets).sum() * 3
    total.backward(retain_graph=True)
    first = weight.grad.clone()
    total.backward()
    torch.testing.assert_close(weight.grad, 2 * first)
    total = design(losses.cross_entropy, hidden, weight, targets).sum()
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(total, hidden, create_graph=True)


def test_grpo_equals_the_loss_of_the_alignment_part():
    torch.manual_seed(0)
    B, T = 4, 7
    hidden = torch.randn(B, T, d, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(V, d, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(V, (B, T))
    mask = torch.arange(T) < torch.tensor([7, 3, 0, 1])[:, None]
    new = (hidden @ weight.mT).log_softmax(-1).gather(2, tokens[..., None])[..., 0]
    old, ref = (new.detach() + 0.4 * torch.randn(B, T) for _ in range(2))
    advantages = torch.randn(B, dtype=torch.float64)
    for objective in (
        grpo.GRPO,
        grpo.Objective(beta=0.3, kl_ratio=True, dual_clip=1.5),
        grpo.DAPO,
        grpo.Objective(aggregate="constant", length=9),
    ):
        plain = grpo.policy_loss(new, old, advantages, mask, objective, ref)
        ours = losses.grpo_loss(
            *(hidden, weight, tokens, old, advantages, mask, objective, ref),
            chunk_rows=3,
        )
        due = torch.autograd.grad(plain, (hidden, weight), retain_graph=True)
        tolerance = {"rtol": 1e-6, "atol": 1e-7}  # row weights are float32
        same(gradients(ours, hidden, weight), [plain.detach(), *due], **tolerance)
    with pytest.raises(ValueError, match="beta=0.04 needs ref"):
        losses.grpo_loss(hidden, weight, tokens, old, advantages, mask)


@pytest.mark.parametrize("rows,words", [(1, 1), (6, 7), (64, 64)])
def test_tiles_of_words_equal_the_plain_head(rows, words):
    hidden, weight, _, targets = draw()
    upstream = torch.randn(N, dtype=torch.float64)
    plain = head.plain_rows(losses.cross_entropy, hidden, weight, targets) @ upstream
    tiled = tiled_cross_entropy(hidden, weight, targets, rows, words) @ upstream
    due = gradients(plain, hidden, weight)
    same(gradients(tiled, hidden, weight), due)
    frozen = weight.detach()
    tiled = tiled_cross_entropy(hidden, frozen, targets, rows, words) @ upstream
    same(gradients(tiled, hidden), due[:2])


def test_skipped_tiles_are_counted_and_cost_less_than_the_threshold():
    hidden, weight, _, targets = draw()
    seen = []
    hidden = hidden.detach()
    args = hidden, weight, targets, 8, 2
    (due,) = torch.autograd.grad(tiled_cross_entropy(*args).sum(), weight)
    skipped = tiled_cross_entropy(*args, skip=0.1, seen=seen).sum()
    (dw,) = torch.autograd.grad(skipped, weight)
    assert len(seen) == 3 * 16 and 0 < sum(seen) < 48
    assert 0 < (dw - due).abs().max() < 0.1 * hidden.abs().sum(0).max()
    with pytest.raises(ValueError, match="needs a list `seen`"):
        tiled_cross_entropy(*args, skip=0.1)
    with pytest.raises(ValueError, match="tiles of 0 rows"):
        tiled_cross_entropy(hidden, weight, targets, rows=0)


# ------------------------------------------------------ what people use


def test_pytorch_s_own():
    if not hasattr(F, "linear_cross_entropy"):
        pytest.skip("this PyTorch has no linear_cross_entropy")
    hidden, weight, _, targets = draw(torch.float32)
    options = torch.nn.LinearCrossEntropyOptions(chunking_method="aspect_ratio")
    theirs = F.linear_cross_entropy(hidden, weight, targets, options=options)
    ours = losses.linear_cross_entropy(hidden, weight, targets)
    inputs = hidden, weight
    same(gradients(ours * 2, *inputs), gradients(theirs * 2, *inputs))


def test_our_kernel_on_a_cpu():
    hidden, weight, _, targets = draw(torch.float32)
    theirs = kernel(hidden, weight, targets, chunk_rows=4)
    ours = losses.linear_cross_entropy(hidden, weight, targets, chunk_rows=4)
    same(gradients(ours, hidden, weight), gradients(theirs, hidden, weight))


def test_the_chunk_rule_is_liger_s():
    # the example in a comment of Liger's source
    assert head.liger_chunk_rows(4096 * 4, 4096, 32000) == 2048
    for shape in ((16384, 4096, 131072), (1, 8, 1000), (100, 64, 5000), (7, 9, 9)):
        rows, width, words = shape
        due = min(default_chunk_rows(rows, words, width), rows)
        assert head.liger_chunk_rows(*shape) == due


# ------------------------------------------------------ what is refused


def test_what_it_does_not_take():
    hidden, weight, bias, targets = draw()
    loss = losses.cross_entropy
    with pytest.raises(ValueError, match=r"hidden \(1, 23, 6\).*flatten"):
        head.chunked_sum(loss, hidden[None], weight, targets)
    with pytest.raises(ValueError, match="hidden has no rows"):
        head.chunked_sum(loss, hidden[:0], weight, targets[:0])
    with pytest.raises(ValueError, match="row argument 0 has 5 rows, hidden 23"):
        head.chunked_sum(loss, hidden, weight, targets[:5])
    with pytest.raises(ValueError, match="row argument 1 needs a gradient"):
        share = torch.ones(N, requires_grad=True)
        head.chunked_sum(loss, hidden, weight, targets, row_weights=share)
    with pytest.raises(ValueError, match="chunk_rows=0"):
        head.chunked_rows(loss, hidden, weight, targets, chunk_rows=0)
    with pytest.raises(ValueError, match="return one number a row"):
        head.chunked_sum(F.cross_entropy, hidden, weight, targets)
    scale = torch.ones((), requires_grad=True, dtype=torch.float64)
    with pytest.raises(ValueError, match="the loss reads a tensor that needs"):
        head.chunked_rows(lambda z: (z * scale).sum(-1), hidden, weight)
    assert bias.grad is None
