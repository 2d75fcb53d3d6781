"""The wire form of plain data."""

import math

import pytest
import torch
from torch import nn

from posttrain.checks import compare, plain

TOLERANCE = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 1e-2}
VALUES = [
    None,
    True,
    -3,
    2.5,
    math.inf,
    "text",
    b"\x00\xff",
    [1, [2, (3,)]],
    (),
    {"a": 1, 2: [3.0]},
    {},
]
TENSORS = [
    torch.arange(6).reshape(2, 3).T,  # not contiguous
    torch.tensor(3.5),
    torch.zeros(0, 4),
    torch.tensor([True, False]),
    torch.randn(3, dtype=torch.bfloat16),
    torch.randn(2, dtype=torch.float16),
    torch.randn(2, dtype=torch.complex64).conj(),
    torch.tensor([math.nan, math.inf]),
    torch.randn(1, 2)[:, 0],  # one item with a stride of 2: contiguous, says PyTorch
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_survive(value):
    again = plain.decode(plain.encode(value))
    assert again == value
    assert type(again) is type(value)


def test_nan_survives():
    assert math.isnan(plain.copy(math.nan))


@pytest.mark.parametrize("tensor", TENSORS, ids=lambda t: f"{t.dtype}{list(t.shape)}")
def test_tensors_survive_and_share_nothing(tensor):
    again = plain.copy(tensor)
    assert again.dtype == tensor.dtype
    assert again.shape == tensor.shape
    torch.testing.assert_close(again, tensor, rtol=0, atol=0, equal_nan=True)
    if again.numel():
        assert again.data_ptr() != tensor.data_ptr()


def test_a_lone_element_with_a_stride_survives():
    taken = torch.arange(4.0).view(2, 2)[:1, 0]
    assert taken.stride() == (2,)
    assert plain.copy(taken).tolist() == [0.0]


def test_a_parameter_becomes_a_plain_tensor():
    again = plain.copy(nn.Parameter(torch.ones(2)))
    assert type(again) is torch.Tensor
    assert not again.requires_grad


def test_what_is_not_plain_is_named_with_its_place():
    with pytest.raises(TypeError, match=r"the value\['a'\]\[1\] is a builtins.object"):
        plain.encode({"a": [1, object()]})
    with pytest.raises(TypeError, match="numpy.ndarray"):
        plain.encode(torch.ones(1).numpy())
    with pytest.raises(TypeError, match="sparse"):
        plain.encode(torch.eye(2).to_sparse())


def test_a_list_that_holds_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(TypeError, match="nested deeper than 20 levels"):
        plain.encode(loop)


def test_a_string_subclass_does_not_pass():
    class Always(str):
        def __eq__(self, other):
            return True

        __hash__ = str.__hash__

    with pytest.raises(TypeError, match="Always"):
        plain.encode(Always("x"))


SAME = [
    (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.00001])),
    (torch.tensor([math.nan]), torch.tensor([math.nan])),
    (torch.tensor([math.inf]), torch.tensor([math.inf])),
    (torch.zeros(0), torch.zeros(0)),
    ([1, 2], (1, 2)),
    (1, 1.0),
    ({"a": [1.0]}, {"a": [1.0 + 1e-12]}),
]
DIFFERENT = [
    (torch.tensor([1.0]), torch.tensor([1.1]), "index [0]: came 1.0, due 1.1"),
    (torch.tensor([1.0]), torch.tensor([1.0]).double(), "dtype torch.float32, due"),
    (torch.zeros(2, 1), torch.zeros(2), "shape (2, 1), due (2,)"),
    (torch.tensor([math.nan]), torch.tensor([1.0]), "came nan, due 1.0"),
    (torch.tensor([math.inf]), torch.tensor([-math.inf]), "came inf, due -inf"),
    (torch.tensor([True]), torch.tensor([False]), "came True, due False"),
    (None, torch.zeros(2), "None, due a tensor of shape (2,)"),
    ([1], [1, 2], "1 values, due 2"),
    ({"a": 1}, {"b": 1}, "keys ['a'], due ['b']"),
    ({"a": {"b": [0, 1]}}, {"a": {"b": [0, 2]}}, "a.b[1]: 1, due 2"),
    (True, 1, "True, due 1"),
    (1.5, 1.0, "1.5, due 1.0"),
    ("a", "b", "'a', due 'b'"),
]


@pytest.mark.parametrize(("came", "due"), SAME)
def test_as_good(came, due):
    assert compare.difference(came, due, TOLERANCE) is None


@pytest.mark.parametrize(("came", "due", "words"), DIFFERENT)
def test_differences_are_told(came, due, words):
    assert words in compare.difference(came, due, TOLERANCE)


def test_the_tolerance_scales_with_the_values_due_and_no_further():
    due = torch.tensor([1000.0, 1.0])
    near, far = torch.tensor([1000.0, 1.009]), torch.tensor([1000.0, 1.011])
    assert compare.difference(near, due, TOLERANCE) is None
    assert compare.difference(far, due, TOLERANCE) is not None


def test_one_infinite_value_does_not_loosen_the_others():
    due = torch.tensor([math.inf, 1.0])
    assert compare.difference(torch.tensor([math.inf, 1.1]), due, TOLERANCE)
