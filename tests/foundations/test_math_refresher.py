"""Softmax, losses and their hand-made gradients against PyTorch and closed forms."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from posttrain.foundations import math_refresher as M
from posttrain.foundations.math_refresher_arrays import (
    cosine,
    einsum_by_loops,
    low_rank,
    matmul_by_loops,
)

TYPES = [(np.float32, 1e-6), (np.float64, 1e-14)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def probabilities(rng, *shape):
    return rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])


# -------------------------------------------------------------------- softmax


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("tau", [0.1, 1.0, 2.0])
def test_softmax_equals_torch(rng, dtype, tolerance, tau):
    z = (50 * rng.standard_normal((2, 3, 7))).astype(dtype)
    z[0, 0, 2] = -np.inf
    ours = M.softmax(z, tau)
    theirs = (torch.from_numpy(z) / tau).softmax(-1).numpy()
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=20 * tolerance)
    assert ours[0, 0, 2] == 0


def test_softmax_survives_what_overflows_the_exponential():
    z = np.array([1e4, 1e4 - 1, -1e4], dtype=np.float32)
    expected = [1 / (1 + math.exp(-1)), 1 / (1 + math.e), 0]
    np.testing.assert_allclose(M.softmax(z), expected, rtol=1e-6)
    np.testing.assert_allclose(M.softmax(z.astype(np.float16)).sum(), 1, atol=1e-3)
    with np.errstate(over="ignore"):  # inf - inf if the logits were divided first
        assert M.softmax(np.array([1e308, 0.0]), tau=0.1).tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_softmax_is_exact_where_the_probability_underflows(dtype):
    z = np.array([[0.0, -5000.0], [1e6, 1e6 + 1]], dtype=dtype)
    theirs = torch.from_numpy(z).log_softmax(-1).numpy()
    np.testing.assert_allclose(M.log_softmax(z), theirs, rtol=1e-6)
    assert M.log_softmax(z)[0, 1] == -5000
    assert M.log_softmax(z).dtype == dtype


@pytest.mark.parametrize("bad", [-np.inf, np.nan, np.inf])
def test_softmax_names_the_row_that_has_no_answer(bad):
    z = np.zeros((2, 3))
    z[1] = bad
    with pytest.raises(ValueError, match=rf"row \[1\].* {bad} as"):
        M.softmax(z)
    with pytest.raises(ValueError, match=r"row \[\]"):
        M.log_softmax(z[1])


@pytest.mark.parametrize("tau", [0, -1.0, float("nan")])
def test_temperature_must_be_positive(tau):
    with pytest.raises(ValueError, match="must be > 0"):
        M.softmax(np.zeros(3), tau)


def test_softmax_gradients_equal_autograd(rng):
    z, g = rng.standard_normal((2, 4, 5, 6))
    p = M.softmax(z)
    leaf = torch.from_numpy(z).requires_grad_()
    [theirs] = torch.autograd.grad(leaf.softmax(-1), leaf, torch.from_numpy(g))
    np.testing.assert_allclose(M.softmax_backward(p, g), theirs, atol=1e-15)
    J = M.softmax_jacobian(p)
    assert J.shape == (4, 5, 6, 6)
    theirs = torch.autograd.functional.jacobian(
        lambda z: z.softmax(-1), torch.from_numpy(z[1, 2])
    )
    np.testing.assert_allclose(J[1, 2], theirs, atol=1e-15)
    np.testing.assert_allclose(
        np.einsum("...i,...ij->...j", g, J), M.softmax_backward(p, g), atol=1e-15
    )


# -------------------------------------------------------------- cross-entropy


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("labels", [[0, 2, 1, 4], [-100, 3, -100, 0]])
@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_cross_entropy_equals_torch(rng, dtype, tolerance, labels, size):
    z, y = (size * rng.standard_normal((4, 5))).astype(dtype), np.array(labels)
    leaf = torch.from_numpy(z).requires_grad_()
    loss = F.cross_entropy(leaf, torch.from_numpy(y))
    loss.backward()
    assert M.cross_entropy(z, y) == pytest.approx(loss.item(), rel=10 * tolerance)
    ours = M.cross_entropy_gradient(z, y)
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, leaf.grad, atol=100 * tolerance)
    np.testing.assert_allclose(ours.sum(-1), 0, atol=10 * tolerance)


def test_another_label_can_be_ignored(rng):
    z, y = rng.standard_normal((3, 5)), np.array([1, 0, 2])
    theirs = F.cross_entropy(
        torch.from_numpy(z), torch.from_numpy(y), ignore_index=0
    ).item()
    assert M.cross_entropy(z, y, ignore=0) == pytest.approx(theirs)
    assert not M.cross_entropy_gradient(z, y, ignore=0)[1].any()


@pytest.mark.parametrize(
    ("z", "y", "words"),
    [
        (np.zeros((2, 3)), np.array([0]), r"\(2, 3\).*\(1,\)"),
        (np.zeros((2, 4, 3)), np.zeros((2, 4), int), "Flatten"),
        (np.zeros((2, 3)), np.array([0.0, 1.0]), "float64"),
        (np.zeros((2, 3)), np.array([0, 3]), r"label 3 in row 1 is not in 0 \.\.\. 2"),
        (np.zeros((2, 3)), np.array([-1, 0]), "label -1 in row 0"),
        (np.zeros((2, 3)), np.array([-100, -100]), "all 2 labels are -100"),
    ],
)
def test_cross_entropy_names_what_does_not_fit(z, y, words):
    for function in (M.cross_entropy, M.cross_entropy_gradient):
        with pytest.raises(ValueError, match=words):
            function(z, y)


# ----------------------------------------------------- entropy and divergence


def test_divergence_equals_torch_and_its_own_identity(rng):
    p, q = probabilities(rng, 2, 6, 5)
    theirs = F.kl_div(torch.tensor(q).log(), torch.tensor(p), reduction="none").sum(-1)
    np.testing.assert_allclose(M.kl_divergence(p, q), theirs, atol=1e-14)
    crossed = -(p * np.log(q)).sum(-1)
    np.testing.assert_allclose(
        M.kl_divergence(p, q), crossed - M.entropy(p), atol=1e-14
    )
    assert (M.kl_divergence(p, q) > 0).all()
    assert not np.allclose(M.kl_divergence(p, q), M.kl_divergence(q, p), rtol=0.01)
    np.testing.assert_allclose(M.kl_divergence(p, p), 0, atol=1e-15)


def test_divergence_with_zeros():
    half, sure = np.array([0.5, 0.5]), np.array([1.0, 0.0])
    assert M.kl_divergence(sure, half) == pytest.approx(math.log(2))
    assert M.kl_divergence(half, sure) == np.inf
    assert M.kl_divergence(sure, sure) == 0
    assert M.kl_divergence(np.stack([half, sure]), half).shape == (2,)
    assert M.entropy(sure) == 0
    assert M.entropy(half) == pytest.approx(math.log(2))


def test_divergence_gradients_equal_autograd(rng):
    z_p, z_q = (torch.randn(4, 5, dtype=torch.float64) for _ in range(2))
    z_p.requires_grad_(), z_q.requires_grad_()
    log_p, log_q = z_p.log_softmax(-1), z_q.log_softmax(-1)
    (log_p.exp() * (log_p - log_q)).sum().backward()
    p, q = (M.softmax(z.detach().numpy()) for z in (z_p, z_q))
    np.testing.assert_allclose(M.kl_gradient_at_q(p, q), z_q.grad, atol=1e-14)
    np.testing.assert_allclose(M.kl_gradient_at_p(p, q), z_p.grad, atol=1e-14)


# -------------------------------------------------------------------- linear


@pytest.mark.parametrize("leading", [(), (7,), (2, 3)])
def test_linear_backward_equals_autograd(rng, leading):
    x, W, b = rng.standard_normal((*leading, 4)), rng.standard_normal((4, 5)), 0.5
    g = rng.standard_normal((*leading, 5))
    leaves = [torch.from_numpy(a).requires_grad_() for a in (x, W, np.full(5, b))]
    y = leaves[0] @ leaves[1] + leaves[2]
    theirs = torch.autograd.grad(y, leaves, torch.from_numpy(g))
    for ours, due, leaf in zip(M.linear_backward(x, W, g), theirs, leaves, strict=True):
        assert ours.shape == leaf.shape
        np.testing.assert_allclose(ours, due, atol=1e-13)


@pytest.mark.parametrize("shapes", [((2, 4), (4, 3), (2, 4)), ((2, 3), (4, 3), (2, 3))])
def test_linear_backward_names_shapes(shapes):
    with pytest.raises(ValueError, match="do not fit"):
        M.linear_backward(*map(np.zeros, shapes))


# --------------------------------------------------------------------- arrays


def test_loops_equal_numpy(rng):
    A, B = rng.integers(-9, 9, (3, 5)), rng.integers(-9, 9, (5, 7))
    assert (matmul_by_loops(A, B) == A @ B).all()
    with pytest.raises(ValueError, match="inner sizes 5 and 3"):
        matmul_by_loops(A, A)


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [
        ("btc,cd->btd", [(2, 3, 4), (4, 5)]),
        ("bhtd,bhsd->bhts", [(2, 2, 3, 4), (2, 2, 5, 4)]),
        ("ii->", [(4, 4)]),
        ("ij->ji", [(3, 4)]),
        ("i,j->ij", [(3,), (4,)]),
        ("i,i,i->i", [(3,), (3,), (3,)]),
        ("ab, bc, cd -> ad", [(2, 3), (3, 4), (4, 2)]),
    ],
)
def test_einsum_by_loops_equals_numpy(rng, spec, shapes):
    arrays = [rng.standard_normal(shape) for shape in shapes]
    ours, theirs = einsum_by_loops(spec, *arrays), np.einsum(spec, *arrays)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-14)


@pytest.mark.parametrize(
    ("spec", "shapes", "words"),
    [
        ("ij,jk->ik", [(2, 3), (4, 2)], "'j' is 3 and also 4"),
        ("ij->ik", [(2, 3)], "'k' stands after the arrow only"),
        ("ijk->i", [(2, 3)], "names 3 axes"),
    ],
)
def test_einsum_by_loops_names_the_letter(spec, shapes, words):
    with pytest.raises(ValueError, match=words):
        einsum_by_loops(spec, *map(np.zeros, shapes))


def test_cosine(rng):
    a, b = rng.standard_normal((2, 6, 3))
    theirs = F.cosine_similarity(torch.from_numpy(a), torch.from_numpy(b), dim=-1)
    np.testing.assert_allclose(cosine(a, b), theirs, atol=1e-15)
    assert cosine(a, 3 * a) == pytest.approx(1)
    assert cosine(np.array([1.0, 0]), np.array([0, -2.0])) == 0
    with pytest.raises(ValueError, match="length 0"):
        cosine(np.zeros(3), np.ones(3))


def test_low_rank_is_the_nearest_of_its_rank(rng):
    A = rng.standard_normal((6, 4))
    s = np.linalg.svd(A, compute_uv=False)
    for r in (1, 2, 4):
        B, C = low_rank(A, r)
        assert (B.shape, C.shape) == ((6, r), (r, 4))
        error = np.linalg.norm(A - B @ C)
        assert error == pytest.approx(np.sqrt((s[r:] ** 2).sum()), abs=1e-12)
        if r == 2:  # no other of rank 2 comes nearer: here, a step to either side
            for step in 0.01 * rng.standard_normal((20, 6, r)):
                assert np.linalg.norm(A - (B + step) @ C) > error
    for r in (0, 5):
        with pytest.raises(ValueError, match=f"rank r={r}"):
            low_rank(A, r)
