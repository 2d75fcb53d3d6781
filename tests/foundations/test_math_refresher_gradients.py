"""The gradient checker: it accepts what is right, and tells what is wrong."""

import math

import numpy as np
import pytest
import torch

from posttrain.foundations.gradient_checker import (
    STEP,
    check_autograd,
    check_direction,
    check_gradient,
    numerical_gradient,
    numerical_jacobian,
)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((3, 4))


def f(x):
    return float(np.sin(x).sum() + (x**3).sum())


def gradient(x):
    return np.cos(x) + 3 * x**2


def test_numerical_gradient_has_ten_digits(x):
    before = x.copy()
    numeric = numerical_gradient(f, x)
    assert numeric.shape == x.shape
    np.testing.assert_allclose(numeric, gradient(x), atol=1e-9)
    assert (x == before).all()


def test_error_grows_on_both_sides_of_the_step(x):
    def error(step):
        return np.abs(numerical_gradient(f, x, step) - gradient(x)).max()

    assert error(1e-2) > 100 * error(STEP)
    assert error(1e-12) > 100 * error(STEP)
    assert error(1e-2) / error(1e-3) == pytest.approx(100, rel=0.3)  # order h²


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_step_follows_the_size_of_x(scale):
    x = np.array([scale, -scale])
    numeric = numerical_gradient(lambda x: float((x**2).sum()), x)
    np.testing.assert_allclose(numeric, 2 * x, atol=1e-8 * max(1, scale))


def test_a_number_alone_is_an_array_of_no_dimension():
    report = check_gradient(lambda x: float(x**2), np.array(6.0), np.array(3.0))
    assert report.ok and report.index == ()


def test_right_and_wrong(x):
    assert check_gradient(f, gradient(x), x).ok
    wrong = gradient(x)
    wrong[1, 2] *= 1.0001
    report = check_gradient(f, wrong, x, name="W")
    assert not report.ok
    assert report.index == (1, 2)
    assert report.analytic == pytest.approx(1.0001 * report.numeric, rel=1e-6)
    assert "WRONG" in str(report) and "W[1, 2]" in str(report)
    assert "kink" not in str(report)
    wrong[0, 0] = np.nan
    report = check_gradient(f, wrong, x)
    assert not report.ok and report.index == (0, 0)


def test_a_kink_is_named():
    x = np.array([3.0, 0.0, -2.0])
    relu = check_gradient(lambda x: float(np.maximum(x, 0).sum()), (x > 0) * 1.0, x)
    assert not relu.ok
    assert relu.kinks == 1 and relu.index == (1,)
    assert "kink within a step of 1 entries" in str(relu)


def test_what_cannot_be_checked_says_so(x):
    with pytest.raises(TypeError, match=r"float32.*\.astype\(np\.float64\)"):
        check_gradient(f, x, x.astype(np.float32))
    with pytest.raises(TypeError, match="int64"):
        numerical_jacobian(f, np.arange(3))
    with pytest.raises(TypeError, match="input 1 has dtype torch.float32"):
        check_autograd(torch.add, torch.zeros(1).double(), torch.zeros(1))
    with pytest.raises(ValueError, match=r"\(4,\), x has \(3, 4\)"):
        check_gradient(f, np.zeros(4), x)
    with pytest.raises(ValueError, match="f\\(x\\) is nan"):
        numerical_gradient(lambda x: math.nan, x)
    with pytest.raises(ValueError, match="two values for one x"):
        numerical_gradient(lambda x: float(np.random.rand()), x)


def test_jacobian_of_a_matrix_function(x):
    J = numerical_jacobian(lambda x: x @ x.T, x)  # (3, 3, 3, 4)
    theirs = torch.autograd.functional.jacobian(lambda x: x @ x.T, torch.from_numpy(x))
    assert J.shape == (3, 3, 3, 4)
    np.testing.assert_allclose(J, theirs, atol=1e-8)


class WrongSquare(torch.autograd.Function):
    """x²; its backward forgets the 2."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0]


def test_autograd_is_checked_input_by_input():
    a, b, c = (torch.randn(2, 3, dtype=torch.float64) for _ in range(3))
    b.requires_grad_()

    def right(a, b, c):
        return (a.tanh() * b**2).sum()  # c is not used: its gradient is 0

    reports = check_autograd(right, a, b, c)
    assert [r.ok for r in reports] == [True] * 3
    assert b.grad is None and not a.requires_grad
    # as torch's own checker says
    assert torch.autograd.gradcheck(lambda b: right(a, b, c), b)
    reports = check_autograd(lambda a, b: (a * WrongSquare.apply(b)).sum(), a, b)
    assert [r.ok for r in reports] == [True, False]
    assert "input 1" in str(reports[1])


def test_one_direction_of_many(x):
    rng = np.random.default_rng(1)
    claimed, measured = check_direction(f, gradient(x), x, rng)
    assert claimed == pytest.approx(measured, abs=1e-8)
    wrong = gradient(x)
    wrong[2, 3] += 0.1
    claimed, measured = check_direction(f, wrong, x, rng)
    assert abs(claimed - measured) > 1e-4
