"""The shape validator and the two shape rules, against PyTorch and word for word."""

import numpy as np
import pytest
import torch

from posttrain.foundations.shape_rules import (
    broadcast_shape,
    explain_broadcast,
    matmul_shape,
)
from posttrain.foundations.shape_validator import ShapeError, check_shapes, shaped


def z(*shape):
    return torch.zeros(shape)


def test_sizes_come_back_by_name():
    sizes = check_shapes(x=(z(2, 5, 4), "B T C"), W=(np.zeros((4, 3)), "C D"))
    assert sizes == {"B": 2, "T": 5, "C": 4, "D": 3}


@pytest.mark.parametrize(
    ("shape", "pattern"),
    [
        ((2, 3), "... C"),
        ((3,), "... C"),
        ((9, 9, 2, 3), "... T C"),
        ((), "..."),
        ((), ""),
        ((2, 3, 4), "_ 3 _"),
        ((4, 4), "N N"),
    ],
)
def test_what_fits(shape, pattern):
    check_shapes(x=(z(*shape), pattern))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (
            {"x": (z(2, 5, 4), "B T C"), "W": (z(6, 4), "C D")},
            "W has shape (6, 4), expected (C, D): dimension 0 is 6, but C is 4 in"
            " dimension 2 of x (2, 5, 4). W.swapaxes(0, 1) would fit",
        ),
        (
            {"m": (z(2, 5), "B 1 T")},
            "it has 2 dimensions, 3 are needed. m[:, None] would fit",
        ),
        (
            {"y": (z(8), "N"), "p": (z(8, 1), "N")},
            "it has 2 dimensions, 1 are needed. p.squeeze(1) would fit",
        ),
        ({"x": (z(2, 5), "B 3")}, "dimension 1 is 5, not 3"),
        ({"s": (z(5, 6), "T T")}, "T is 5 and, in dimension 1, 6"),
        ({"x": (z(4), "... T C")}, "1 dimensions, at least 2 are needed. x[None]"),
        ({"x": (z(2, 3), "B T C D")}, "2 dimensions, 4 are needed"),
        ({"a": (z(2, 3), "... C"), "b": (z(7, 4), "... C")}, "4, but C is 3 in"),
    ],
)
def test_messages_name_place_and_fix(arrays, words):
    with pytest.raises(ShapeError) as raised:
        check_shapes(**arrays)
    assert words in str(raised.value)


def test_no_fix_is_offered_where_none_fits():
    with pytest.raises(ShapeError) as raised:
        check_shapes({"C": 4}, W=(z(6, 5), "C D"))
    assert str(raised.value).endswith("C is given as 4")


@pytest.mark.parametrize("pattern", ["B ... C", "B,T", "B -1"])
def test_a_pattern_that_means_nothing(pattern):
    with pytest.raises(ValueError, match="is not a name"):
        check_shapes(x=(z(2, 3), pattern))


@shaped("B T D", x="B T C", W="C D", mask="B T")
def project(x, W, mask=None, turn=False):
    """Doc."""
    y = x @ W
    return y.transpose(1, 2) if turn else y


def test_decorator_checks_arguments_and_result():
    x, W = z(2, 5, 4), z(4, 3)
    assert project(x, W).shape == (2, 5, 3)
    assert project.__doc__ == "Doc."
    project(x, W=W, mask=z(2, 5))
    with pytest.raises(ShapeError, match="mask has shape"):
        project(x, W, mask=z(5, 2))
    with pytest.raises(ShapeError) as raised:
        project(x, W, turn=True)
    assert "the result of project has shape (2, 3, 5)" in str(raised.value)
    assert "result.swapaxes(1, 2) would fit" in str(raised.value)
    with pytest.raises(ValueError, match="no parameter 'y'"):
        shaped(y="B")(lambda x: x)


def random_shapes(rng, related):
    """Two shapes of rank 0 to 4 over the sizes 1 to 3, so that many fit."""
    ranks = rng.integers(1 if related else 0, 5, size=2)
    return [tuple(int(n) for n in rng.integers(1, 4, size=rank)) for rank in ranks]


def outcome(function, *arguments):
    try:
        return tuple(function(*arguments))
    except (RuntimeError, ShapeError):
        return "error"


def test_rules_equal_torch_on_many_shapes():
    rng = np.random.default_rng(0)
    results = set()
    for _ in range(400):
        a, b = random_shapes(rng, related=False)
        ours = outcome(broadcast_shape, a, b)
        assert ours == outcome(torch.broadcast_shapes, a, b), (a, b)
        product = outcome(lambda a, b: (z(*a) @ z(*b)).shape, a, b)
        assert outcome(matmul_shape, a, b) == product, (a, b)
        results |= {ours == "error", (product == "error",)}
    assert len(results) == 4  # both rules were seen to pass and to refuse


def test_broadcasting_more_than_two():
    assert broadcast_shape((2, 1), (3,), (4, 1, 1)) == (4, 2, 3)
    assert broadcast_shape() == ()


def test_rules_say_which_dimension():
    with pytest.raises(ShapeError, match="from the right, is 4 in one and 5"):
        broadcast_shape((2, 5, 4), (2, 5))
    with pytest.raises(ShapeError, match="left, 3, must equal the last but one"):
        matmul_shape((2, 3), (2, 3))
    with pytest.raises(ShapeError, match="use `[*]`"):
        matmul_shape((), (2,))


def test_explanation_is_aligned():
    assert explain_broadcast((2, 5, 4), (4,)).splitlines() == [
        "  2  5  4",
        "        4   repeated along -3 (x2), -2 (x5)",
        "= 2  5  4",
    ]
    assert explain_broadcast((8, 1), (8,)).splitlines() == [
        "  8  1   repeated along -1 (x8)",
        "     8   repeated along -2 (x8)",
        "= 8  8",
    ]
