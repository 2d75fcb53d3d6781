"""The online softmax and its merge, against the softmax of all scores at once."""

import math

import pytest
import torch

from posttrain.infrastructure import flash_attention as F

INF = math.inf


def draw(*shape, scale=1.0, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=dtype) * scale


def whole(s, v):
    """Output and log-sum-exp from all scores; 0 and -inf for rows without a key."""
    weights = s.softmax(dim=-1).nan_to_num(0.0)
    return weights @ v, s.logsumexp(dim=-1)


def after(s, v, widths):
    state = F.start(s.new_zeros(*s.shape[:-1], v.shape[-1]))
    for s_j, v_j in zip(s.split(widths, -1), v.split(widths, -2), strict=True):
        state = F.update(state, s_j, v_j)
    return state


def same(found, due):
    for a, b in zip(found, due, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("widths", [[9], [1] * 9, [4, 5], [2, 3, 4]])
@pytest.mark.parametrize("scale", [1.0, 300.0, 1e6])
def test_blocks_of_any_width_give_the_softmax(widths, scale):
    s, v = draw(3, 5, 9, scale=scale), draw(3, 9, 4, seed=1)
    same(F.finish(after(s, v, widths)), whole(s, v))


@pytest.mark.parametrize("hidden", [slice(0, 4), slice(4, 9), slice(0, 9)])
def test_masked_blocks_first_last_or_all(hidden):
    s, v = draw(2, 9), draw(9, 3, seed=1)
    s[0, hidden] = -INF
    same(F.finish(after(s, v, [2, 2, 5])), whole(s, v))


def test_a_row_without_a_key_is_zero_and_minus_infinity():
    o, lse = F.finish(F.start(torch.zeros(2, 3)))
    assert o.tolist() == [[0.0] * 3] * 2
    assert lse.tolist() == [-INF, -INF]


def states():
    s, v = draw(4, 12, scale=5.0), draw(12, 3, seed=1)
    s[1, :4] = -INF  # nothing in the first part
    s[2, 4:] = -INF  # nothing in the others
    s[3] = -INF
    empty = F.start(torch.zeros(4, 3, dtype=torch.float64))
    parts = zip(s.split(4, -1), v.split(4, -2), strict=True)
    return [F.update(empty, *part) for part in parts], empty, whole(s, v)


def test_merge_is_associative_commutative_and_has_a_unit():
    (a, b, c), empty, due = states()
    left = F.merge(F.merge(a, b), c)
    same(F.finish(left), due)
    same(left, F.merge(a, F.merge(b, c)))
    same(F.merge(a, b), F.merge(b, a))
    same(F.merge(a, empty), a)
    same(F.merge(empty, empty), empty)


def test_merge_of_finished_parts():
    parts, _, due = states()
    o, lse = F.finish(parts[0])
    for part in parts[1:]:
        o, lse = F.merge_outputs(o, lse, *F.finish(part))
    same((o, lse), due)


def test_merge_of_finished_parts_survives_huge_scores():
    o, lse = F.merge_outputs(
        *(torch.tensor([[1.0]]), torch.tensor([5000.0])),
        *(torch.tensor([[3.0]]), torch.tensor([5000.0])),
    )
    assert o.tolist() == [[2.0]]
    assert lse.item() == pytest.approx(5000 + math.log(2))


@pytest.mark.parametrize("N", [1, 4, 100])
def test_online_softmax(N):
    x = draw(3, 10, scale=200.0)
    x[1, :5] = -INF
    found = F.online_softmax(x, N)
    same(found, (x.softmax(-1), x.logsumexp(-1)))
    gone, lse = F.online_softmax(torch.full((2, 3), -INF), N)
    assert gone.tolist() == [[0.0] * 3] * 2 and lse.tolist() == [-INF] * 2


def test_online_softmax_refuses_a_block_of_nothing():
    with pytest.raises(ValueError, match="N=0"):
        F.online_softmax(torch.zeros(3), 0)
