"""Softmax in pieces: the state that makes attention one pass over the keys.

    m' = max(m, max_j s_j)
    l' = l · e^(m - m') + Σ_j e^(s_j - m')
    A' = A · e^(m - m') + Σ_j e^(s_j - m') v_j      at the end: O = A / l, L = m + log l

Softmax seems to need a whole row of scores: its maximum, to be safe, and its sum. Both
can be carried along. What was summed under an old maximum is scaled down when a higher
one comes. Two states over different keys merge into the state over both, in any order
and any grouping; a block of keys that is added is a merge with that block's own state.

A row that has seen no key yet has m = -inf, l = 0, A = 0. It stays so through blocks
that are wholly masked, and ends as O = 0, L = -inf, never as NaN.

Source: Milakov and Gimelshein 2018, algorithm 3; Rabe and Staats 2021; Dao et al. 2022.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class State(NamedTuple):
    """What is known of R rows after some of their keys."""

    m: Tensor  # (..., R) the highest score so far, -inf before the first key
    l: Tensor  # (..., R) the sum of e^(s - m)
    acc: Tensor  # (..., R, D) the sum of e^(s - m) v


def start(rows: Tensor) -> State:
    """The state before the first key: rows (..., R, D) give shape, dtype and device."""
    l = torch.zeros_like(rows[..., 0])  # (..., R)
    return State(torch.full_like(l, -torch.inf), l, torch.zeros_like(rows))


def shift_of(m: Tensor) -> Tensor:
    """What to subtract from scores: m, or 0 in rows that have seen no key.

    There -inf minus -inf would be NaN; with 0, e^(-inf - 0) is the 0 that is due.
    """
    return torch.where(m == -torch.inf, 0.0, m)


def update(state: State, s: Tensor, v: Tensor) -> State:
    """The state after a block of N more keys.

    s: (..., R, N) scores, -inf where masked   v: (..., N, D) values, of s's dtype.
    """
    m = torch.maximum(state.m, s.amax(dim=-1))  # (..., R)
    shift = shift_of(m)
    p = torch.exp(s - shift[..., None])  # (..., R, N)
    shrink = torch.exp(state.m - shift)  # what came before had the old maximum
    l = state.l * shrink + p.sum(dim=-1)
    acc = state.acc * shrink[..., None] + p @ v  # (..., R, D)
    return State(m, l, acc)


def merge(a: State, b: State) -> State:
    """The state over the keys of both. Associative, commutative, with unit `start`."""
    m = torch.maximum(a.m, b.m)
    shift = shift_of(m)
    left, right = torch.exp(a.m - shift), torch.exp(b.m - shift)  # one of them is 1
    acc = a.acc * left[..., None] + b.acc * right[..., None]
    return State(m, a.l * left + b.l * right, acc)


def finish(state: State) -> tuple[Tensor, Tensor]:
    """Output O (..., R, D) and log-sum-exp L (..., R) of the rows."""
    lse = shift_of(state.m) + torch.log(state.l)  # log 0 = -inf where no key was seen
    total = torch.where(state.l == 0, 1.0, state.l)
    return state.acc / total[..., None], lse


def merge_outputs(
    o_a: Tensor, lse_a: Tensor, o_b: Tensor, lse_b: Tensor
) -> tuple[Tensor, Tensor]:
    """The same merge for finished parts: o (..., R, D), lse (..., R), as kernels give.

        L = log(e^La + e^Lb)        O = e^(La - L) Oa + e^(Lb - L) Ob

    The weights are divided by their sum and not taken from L: a float32 L of 5000 is
    rounded by up to 2e-4, and so would be their sum.
    Source: Rabe and Staats 2021, section 3; the second kernel of flash-decoding.
    """
    top = torch.maximum(lse_a, lse_b)
    shift = shift_of(top)
    left, right = torch.exp(lse_a - shift), torch.exp(lse_b - shift)
    acc = o_a * left[..., None] + o_b * right[..., None]
    return finish(State(top, left + right, acc))


def online_softmax(x: Tensor, N: int) -> tuple[Tensor, Tensor]:
    """Softmax of x (..., n), whose statistics are taken in blocks of N.

    Two passes over x: one for the statistics, one to write. The usual safe softmax
    takes three. Returns the weights (..., n) and the log-sum-exp (...).
    Source: Milakov and Gimelshein 2018, algorithm 3.
    """
    if N < 1:
        raise ValueError(f"a block of N={N} numbers: use at least 1")
    m = x.new_full(x.shape[:-1], -torch.inf)
    l = torch.zeros_like(m)
    for block in x.split(N, dim=-1):  # (..., <= N)
        higher = torch.maximum(m, block.amax(dim=-1))
        shift = shift_of(higher)
        l = l * torch.exp(m - shift) + torch.exp(block - shift[..., None]).sum(dim=-1)
        m = higher
    total = torch.where(l == 0, 1.0, l)
    weights = torch.exp(x - shift_of(m)[..., None]) / total[..., None]
    return weights, shift_of(m) + torch.log(l)
