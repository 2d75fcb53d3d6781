"""What attention moves: counted by a walk over the tiles, and by formula.

A GPU has two memories. The slow one (HBM) holds everything; the fast one (shared
memory and registers, SRAM here) holds a few tiles and loses them when a program ends.
The model counts numbers that go from one to the other. One head, T_q queries, T_k keys,
head size D, tiles of M queries and N keys:

    naive    reads Q, K; writes S; reads S, writes P; reads P, V; writes O
    tiled    each block of queries reads Q once and all K and V, writes O and L

so Θ(T D + T²) against Θ(T D + T² D / M), and M is as large as the fast memory allows,
about S / D for S numbers: Θ(T² D² / S).

Source: Dao et al. 2022, section 3.2 and theorem 2 (its loops: `key_outer_traffic`);
Dao 2023, section 3.1, for the order of the loops here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.infrastructure.flash_attention import finish, start, update
from posttrain.infrastructure.flash_attention_tiled import block_plan, spans, visible


@dataclass
class Traffic:
    """Numbers moved between slow and fast memory, and the most that was in the fast."""

    read: int = 0
    written: int = 0
    on_chip: int = 0

    @property
    def total(self) -> int:
        """Numbers moved, both ways. Multiply by the bytes of a number."""
        return self.read + self.written

    def load(self, x: Tensor) -> Tensor:
        """Take x from the slow memory: a copy, counted."""
        self.read += x.numel()
        return x.clone()

    def store(self, place: Tensor, x: Tensor) -> None:
        """Put x into a place of the slow memory, counted."""
        self.written += x.numel()
        place.copy_(x)

    def holds(self, *tensors: Tensor) -> None:
        """Note that these are in the fast memory together."""
        self.on_chip = max(self.on_chip, sum(x.numel() for x in tensors))


def naive_walk(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Traffic]:
    """Attention by three kernels that hand the table on through slow memory.

    q: (T_q, D)   k, v: (T_k, D). No mask. Returns o (T_q, D) and what was moved.
    """
    hbm = Traffic()
    table = q.new_empty(len(q), len(k))
    o = torch.empty_like(q)
    hbm.store(table, hbm.load(q) @ hbm.load(k).mT / math.sqrt(q.shape[-1]))
    hbm.store(table, hbm.load(table).softmax(dim=-1))
    hbm.store(o, hbm.load(table) @ hbm.load(v))
    return o, hbm


def tiled_walk(
    q: Tensor, k: Tensor, v: Tensor, M: int, N: int, causal: bool = False
) -> tuple[Tensor, Traffic]:
    """FlashAttention-2's forward pass, every transfer counted.

    q: (T_q, D)   k, v: (T_k, D), float32. Returns o (T_q, D) and what was moved.
    """
    hbm = Traffic()
    o, lse = torch.empty_like(q), q.new_empty(len(q))
    shift = len(k) - len(q)
    plan = block_plan(len(q), len(k), M, N, causal)
    for kinds, rows in zip(plan, spans(len(q), M), strict=True):
        q_i = hbm.load(q[slice(*rows)])
        state = start(q_i)
        for kind, cols in zip(kinds, spans(len(k), N), strict=True):
            if kind == "skip":
                continue
            k_j, v_j = hbm.load(k[slice(*cols)]), hbm.load(v[slice(*cols)])
            s = q_i @ k_j.mT / math.sqrt(q.shape[-1])
            if kind == "masked":
                s = s.masked_fill(~visible(rows, cols, shift), -torch.inf)
            state = update(state, s, v_j)
            hbm.holds(q_i, k_j, v_j, s, *state)
        o_i, lse_i = finish(state)
        hbm.store(o[slice(*rows)], o_i)
        hbm.store(lse[slice(*rows)], lse_i)
    return o, hbm


def naive_traffic(T_q: int, T_k: int, D: int) -> Traffic:
    """What `naive_walk` moves."""
    table = T_q * T_k
    read = T_q * D + 2 * T_k * D + 2 * table
    return Traffic(read, T_q * D + 2 * table)


def tiled_traffic(
    T_q: int, T_k: int, D: int, M: int, N: int, causal: bool = False
) -> Traffic:
    """What `tiled_walk` moves."""
    keys = ceil_div(T_q, M) * T_k  # rows of K that are read, each with one of V
    if causal:
        widths = [cols[1] - cols[0] for cols in spans(T_k, N)]
        keys = sum(
            width
            for kinds in block_plan(T_q, T_k, M, N)
            for kind, width in zip(kinds, widths, strict=True)
            if kind != "skip"
        )
    rows, cols = min(M, T_q), min(N, T_k)
    return Traffic(
        read=T_q * D + 2 * keys * D,
        written=T_q * D + T_q,
        on_chip=on_chip(rows, cols, D),
    )


def key_outer_traffic(T_q: int, T_k: int, D: int, N: int) -> Traffic:
    """FlashAttention-1: keys in the outer loop, so O, m and l come and go each time."""
    blocks = ceil_div(T_k, N)
    return Traffic(
        read=2 * T_k * D + blocks * T_q * (2 * D + 2),
        written=blocks * T_q * (D + 2),
    )


def on_chip(M: int, N: int, D: int) -> int:
    """Numbers of one program: q, k, v, s, acc, m and l."""
    return M * D + 2 * N * D + M * N + M * D + 2 * M


def largest_M(S: int, D: int, N: int) -> int:
    """The most queries whose tiles fit into S numbers. Raises ValueError if none."""
    M = (S - 2 * N * D) // (2 * D + N + 2)
    if M < 1:
        raise ValueError(
            f"S={S} numbers do not hold one query and N={N} keys of size D={D}; they"
            f" need {on_chip(1, N, D)}"
        )
    return M


@dataclass(frozen=True)
class Chip:
    """Two numbers of a data sheet: the most it can do, never what a program reached."""

    flops: float  # a second, dense, bf16 inputs and fp32 sums
    bandwidth: float  # bytes a second between HBM and the chip


# NVIDIA's data sheets: A100 40 GB SXM (2020), H100 SXM (2023).
CHIPS = {"A100": Chip(312e12, 1.555e12), "H100": Chip(989e12, 3.35e12)}


def least_seconds(chip: Chip, flops: float, bytes: float) -> float:
    """The roofline: no program is faster than its arithmetic or than its traffic."""
    return max(flops / chip.flops, bytes / chip.bandwidth)


def products(T_q: int, T_k: int, D: int, tiled: bool) -> dict[str, int]:
    """FLOPs of the matrix products of one head, no mask: forward and backward.

    One product costs 2 T_q T_k D. Forward S and O; backward dV, dP, dQ, dK, and S once
    more where P was not kept.
    """
    one = 2 * T_q * T_k * D
    return {"forward": 2 * one, "backward": (5 if tiled else 4) * one}


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
