"""Checks of the exercise `flash_attention`.

References: maximum and sum of all scores so far in float64 (update), weights of both
parts in float64 (merge), an enumeration of the pairs in a tile (block_plan, traffic),
`F.scaled_dot_product_attention` in float64 (tiled_attention), autograd through all keys
with the block's keys as leaves of their own (key_block_backward).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from posttrain.checks.draws import whole
from posttrain.checks.mistakes.flash_attention import MISTAKES
from posttrain.checks.task import Task

INF = math.inf


def normal(rng, *shape, scale=1.0, dtype=torch.float32):
    """Standard normal numbers, times `scale`."""
    numbers = torch.randn(*shape, generator=rng, dtype=torch.float64)
    return (numbers * scale).to(dtype)


# ------------------------------------------------------------------------ update


def update_cases(rng, hidden):
    yield torch.tensor([[1.0, 2.0, 0.0, 4.0]]), [2, 2]  # the maximum rises
    yield torch.tensor([[4.0, 0.0, 2.0, 1.0]]), [2, 2]  # it does not
    yield torch.tensor([[3.0, 3.0, 3.0]]), [1, 1, 1]
    yield torch.tensor([[-5.0, -7.0], [2.0, -1.0]]), [1, 1]
    yield torch.tensor([[-INF, -INF, 1.0], [1.0, -INF, -INF]]), [2, 1]  # masked
    yield torch.tensor([[-INF, -INF, -INF], [0.0, 1.0, 2.0]]), [1, 2]
    yield torch.tensor([[900.0, -900.0, 1000.0], [-1e4, -1e4, -1e4]]), [1, 1, 1]
    for dtype in (torch.float32, torch.float64):
        for _ in range(3 if hidden else 1):
            widths = [whole(rng, 1, 6) for _ in range(4)]
            scores = normal(rng, 3, sum(widths), scale=4.0, dtype=dtype)
            hide = torch.rand(scores.shape, generator=rng) < 0.3
            yield scores.masked_fill(hide, -INF), widths


def drive_update(answer, scores, widths):
    """Feeds the blocks one after the other, to rows that have seen nothing."""
    import torch

    m = torch.full_like(scores[:, 0], -torch.inf)
    l = torch.zeros_like(m)
    seen = []
    for block in scores.split(widths, dim=1):
        given = m, l, block.clone()
        before = [x.clone() for x in given]
        m, l = answer(*given)
        kept = [x.equal(y) for x, y in zip(before, given, strict=True)]
        seen.append({"maximum": m, "sum": l, "inputs as they were": kept})
        m, l = m.clone(), l.clone()
    return seen


def reference_update(scores, widths):
    seen, end = [], 0
    for width in widths:
        end += width
        so_far = scores[:, :end].double()
        m = so_far.amax(dim=1)
        l = torch.tensor(
            [
                math.fsum(math.exp(s - top) for s in row if s > -INF)
                for row, top in zip(so_far.tolist(), m.tolist(), strict=True)
            ],
            dtype=torch.float64,
        )
        due = {"maximum": m.to(scores.dtype), "sum": l.to(scores.dtype)}
        seen.append({**due, "inputs as they were": [True] * 3})
    return seen


# ------------------------------------------------------------------------- merge


def merge_cases(rng, hidden):
    def case(lse_a, lse_b, D=2, dtype=torch.float32):
        lse_a, lse_b = (torch.tensor(x, dtype=dtype) for x in (lse_a, lse_b))
        o_a, o_b = (normal(rng, *lse_a.shape, D, dtype=dtype) for _ in range(2))
        return o_a, lse_a, o_b, lse_b

    yield case([0.0], [0.0])  # equal shares
    yield case([0.0], [math.log(3.0)])  # one quarter, three quarters
    yield case([2.0, -3.0, 0.5], [-1.0, 4.0, 0.5], D=3)
    yield case([30.0, -40.0], [-30.0, -41.0])
    yield case([5000.0, -5000.0], [5001.0, -5002.0], dtype=torch.float64)  # huge
    yield case([-2000.0, 1000.0], [2000.0, -1000.0], dtype=torch.float64)  # and far
    o_a, lse_a, o_b, lse_b = case([1.0, -INF, -INF], [-INF, 2.0, -INF])
    o_a[1:], o_b[0], o_b[2] = 0.0, 0.0, 0.0  # rows without a key
    yield o_a, lse_a, o_b, lse_b
    for _ in range(4 if hidden else 1):
        rows = normal(rng, 2, 2, 5, scale=3.0).tolist()
        yield case(*rows, D=4)


def drive_merge(answer, o_a, lse_a, o_b, lse_b):
    given = [x.clone() for x in (o_a, lse_a, o_b, lse_b)]
    o, lse = answer(o_a, lse_a, o_b, lse_b)
    now = o_a, lse_a, o_b, lse_b
    kept = [x.equal(y) for x, y in zip(given, now, strict=True)]
    return {"o": o, "lse": lse, "inputs as they were": kept}


def reference_merge(o_a, lse_a, o_b, lse_b):
    both = torch.stack([lse_a, lse_b]).double()
    weights = both.softmax(dim=0).nan_to_num(0.0)
    o = (weights[..., None] * torch.stack([o_a, o_b]).double()).sum(dim=0)
    lse = both.logsumexp(dim=0)
    return {
        "o": o.to(o_a.dtype),
        "lse": lse.to(lse_a.dtype),
        "inputs as they were": [True] * 4,
    }


# -------------------------------------------------------------------- block_plan


def plan_cases(rng, hidden):
    yield 4, 4, 2, 2
    yield 6, 6, 2, 3
    yield 6, 6, 3, 2
    yield 5, 5, 2, 2  # a last block that is shorter
    yield 3, 7, 1, 3  # queries at the end of the keys: the last block is seen whole
    yield 4, 9, 2, 4
    yield 1, 5, 4, 2  # one query sees all
    yield 1, 1, 1, 1
    yield 8, 8, 8, 2
    for _ in range(6 if hidden else 2):
        T_q, M, N = whole(rng, 1, 13), whole(rng, 1, 6), whole(rng, 1, 6)
        yield T_q, T_q + whole(rng, 0, 8), M, N


def drive_plan(answer, T_q, T_k, M, N):
    return [list(row) for row in answer(T_q, T_k, M, N)]


def reference_plan(T_q, T_k, M, N):
    def kind(i, j):
        sees = {
            key <= query + T_k - T_q
            for query in range(i, min(i + M, T_q))
            for key in range(j, min(j + N, T_k))
        }
        return {(True,): "full", (False,): "skip"}.get(tuple(sees), "masked")

    return [[kind(i, j) for j in range(0, T_k, N)] for i in range(0, T_q, M)]


# --------------------------------------------------------------- tiled_attention


def tiled_cases(rng, hidden):
    def case(H, H_kv, T_q, T_k, D, M, N, B=1, scale=1.0, dtype=torch.float32, most=0):
        q = normal(rng, B, H, T_q, D, scale=scale, dtype=dtype)
        k, v = (normal(rng, B, H_kv, T_k, D, dtype=dtype) for _ in range(2))
        return q, k, v, M, N, most

    yield case(1, 1, 1, 1, 1, 1, 1)
    yield case(1, 1, 4, 4, 2, 2, 2)
    yield case(1, 1, 3, 3, 4, 8, 8)  # all in one tile
    yield case(1, 1, 5, 5, 3, 2, 3)  # last tiles are shorter
    yield case(1, 1, 2, 7, 4, 2, 3)  # queries at the end of the keys
    yield case(4, 2, 6, 6, 4, 4, 2, B=2)  # shared heads
    yield case(6, 1, 3, 8, 2, 2, 4)
    yield case(1, 1, 6, 6, 2, 3, 2, scale=400.0, dtype=torch.float64)  # huge scores
    rising = torch.arange(5.0, dtype=torch.float64).reshape(1, 1, 5, 1)
    q, v = torch.full_like(rising, 1000.0), normal(rng, 1, 1, 5, 1, dtype=rising.dtype)
    yield q, rising, v, 2, 2, 0  # each hidden score is far above those that are seen
    yield -0.9 * q, rising + 1, v, 2, 2, 0  # all that are seen are far below 0
    # long enough to see whether anything as large as the table is made
    q, k, v, M, N, _ = case(2, 1, 96, 96, 4, 32, 8)
    yield q, k, v, M, N, 2 * q.nbytes
    for _ in range(3 if hidden else 1):
        T_q, M, N = whole(rng, 1, 10), whole(rng, 1, 5), whole(rng, 1, 5)
        yield case(4, 2, T_q, T_q + whole(rng, 0, 6), 4, M, N, dtype=torch.float64)


def drive_tiled(answer, q, k, v, M, N, most):
    """Output and log-sum-exp; where `most` bytes are allowed, the largest tensor."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            result = op(*args, **(kwargs or {}))
            for x in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(x, torch.Tensor):
                    self.bytes = max(self.bytes, x.untyped_storage().nbytes())
            return result

    given, told = [x.clone() for x in (q, k, v)], "not watched"
    if not most:
        o, lse = answer(q, k, v, M, N)
    else:
        with Largest() as largest:
            o, lse = answer(q, k, v, M, N)
        fits = f"at most {most} bytes"
        told = fits if largest.bytes <= most else f"{largest.bytes} bytes"
    kept = [x.equal(y) for x, y in zip(given, (q, k, v), strict=True)]
    return {
        "o": o,
        "lse": lse,
        "largest tensor": told,
        "inputs as they were": kept,
    }


def reference_tiled(q, k, v, M, N, most):
    T_q, T_k = q.shape[2], k.shape[2]
    mask = torch.ones(T_q, T_k, dtype=torch.bool).tril(T_k - T_q)
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    o = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), mask)
    scores = q.double() @ k.double().mT / math.sqrt(q.shape[-1])
    lse = scores.masked_fill(~mask, -INF).logsumexp(dim=-1)
    told = f"at most {most} bytes" if most else "not watched"
    return {
        "o": o.to(q.dtype),
        "lse": lse.to(q.dtype),
        "largest tensor": told,
        "inputs as they were": [True] * 3,
    }


# ------------------------------------------------------------ key_block_backward


def backward_cases(rng, hidden):
    def case(T, n, D, span, allowed=None, dtype=torch.float32):
        q, do = (normal(rng, T, D, dtype=dtype) for _ in range(2))
        k, v = (normal(rng, n, D, dtype=dtype) for _ in range(2))
        if allowed is None:
            allowed = torch.ones(T, n, dtype=torch.bool).tril(n - T)
        return q, k, v, do, allowed, *span

    yield case(1, 2, 2, (0, 2))  # the block is all there is
    yield case(3, 3, 4, (0, 3))
    yield case(4, 6, 2, (0, 3))  # a part: rows of weights do not sum to 1
    yield case(4, 6, 3, (3, 6))
    yield case(4, 4, 2, (2, 4), dtype=torch.float64)
    nothing = torch.ones(3, 4).tril().bool()
    nothing[1] = False  # a query that sees no key at all
    yield case(3, 4, 2, (0, 2), nothing)
    for _ in range(4 if hidden else 1):
        T, start = whole(rng, 1, 7), whole(rng, 0, 4)
        end = start + whole(rng, 1, 5)
        n = max(end + whole(rng, 0, 3), T)
        yield case(T, n, whole(rng, 1, 6), (start, end), dtype=torch.float64)


def drive_backward(answer, q, k, v, do, allowed, start, end):
    """All keys by the table; then the answer for the keys start ... end - 1."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    scores = scores.masked_fill(~allowed, float("-inf"))
    o = scores.softmax(dim=-1).nan_to_num(0.0) @ v
    block = slice(start, end)
    given = q, k[block], v[block], o, scores.logsumexp(dim=-1), do, allowed[:, block]
    own = [x.clone() for x in given]
    dq, dk, dv = answer(*own)
    kept = [x.equal(y) for x, y in zip(given, own, strict=True)]
    return {"dq": dq, "dk": dk, "dv": dv, "inputs as they were": kept}


def reference_backward(q, k, v, do, allowed, start, end):
    dtype = q.dtype
    q, k, v, do = (x.double() for x in (q, k, v, do))
    seen = allowed.any(dim=1)  # rows without a key have no gradient
    q_block = q.clone().requires_grad_()  # this block's scores use a q of their own
    k.requires_grad_(), v.requires_grad_()
    here = torch.zeros_like(allowed)
    here[:, start:end] = True
    scores = torch.where(here, q_block @ k.mT, q @ k.mT) / math.sqrt(q.shape[-1])
    weights = scores[seen].masked_fill(~allowed[seen], -INF).softmax(dim=-1)
    (weights @ v).backward(do[seen])
    results = {"dq": q_block.grad, "dk": k.grad[start:end], "dv": v.grad[start:end]}
    due = {name: x.to(dtype) for name, x in results.items()}
    return {**due, "inputs as they were": [True] * 7}


# ----------------------------------------------------------------------- traffic


def traffic_cases(rng, hidden):
    yield 4, 4, 3, 2, 2
    yield 6, 6, 1, 2, 3
    yield 6, 6, 5, 3, 2
    yield 5, 5, 2, 2, 2  # last blocks are shorter
    yield 3, 8, 2, 2, 3
    yield 1, 7, 4, 4, 2
    yield 8, 8, 4, 8, 8  # one tile
    for _ in range(6 if hidden else 2):
        T_q, D = whole(rng, 1, 40), whole(rng, 1, 9)
        yield T_q, T_q + whole(rng, 0, 9), D, whole(rng, 1, 9), whole(rng, 1, 9)


def drive_traffic(answer, T_q, T_k, D, M, N):
    read, written = answer(T_q, T_k, D, M, N)
    return {"read": read, "written": written}


def reference_traffic(T_q, T_k, D, M, N):
    read = written = 0
    for i in range(0, T_q, M):
        queries = range(i, min(i + M, T_q))
        read += D * len(queries)
        written += (D + 1) * len(queries)
        for j in range(0, T_k, N):
            keys = range(j, min(j + N, T_k))
            if any(key <= query + T_k - T_q for query in queries for key in keys):
                read += 2 * D * len(keys)
    return {"read": read, "written": written}


TASKS = {
    "update": Task(update_cases, drive_update, reference_update, MISTAKES["update"]),
    "merge": Task(merge_cases, drive_merge, reference_merge, MISTAKES["merge"]),
    "block_plan": Task(plan_cases, drive_plan, reference_plan, MISTAKES["block_plan"]),
    "tiled_attention": Task(
        tiled_cases,
        drive_tiled,
        reference_tiled,
        MISTAKES["tiled_attention"],
        forbid=("F.scaled_dot_product_attention",),
    ),
    "key_block_backward": Task(
        backward_cases,
        drive_backward,
        reference_backward,
        MISTAKES["key_block_backward"],
    ),
    "traffic": Task(
        traffic_cases, drive_traffic, reference_traffic, MISTAKES["traffic"]
    ),
}
