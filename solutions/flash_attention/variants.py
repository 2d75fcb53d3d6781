"""Answers that the grader of `flash_attention` must tell apart. Not for students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import math

import torch

# ------------------------------------------------------------------------ update


def update_by_logsumexp(m, l, scores):
    """Keeps nothing but the log-sum-exp, in float64, and turns it back."""
    top = torch.maximum(m, scores.amax(dim=1))
    both = torch.stack([m.double() + l.double().log(), scores.double().logsumexp(1)])
    lse = both.logsumexp(dim=0)
    total = (lse - top.double()).exp()
    return top, torch.where(top == -torch.inf, 0.0, total).to(l.dtype)


def update_row_by_row(m, l, scores):
    tops, sums = m.clone(), l.clone()
    for r, row in enumerate(scores.tolist()):
        for s in row:
            if s > tops[r].item():
                tops[r], sums[r] = s, sums[r] * math.exp(tops[r].item() - s) + 1
            elif s > -torch.inf:
                sums[r] += math.exp(s - tops[r].item())
    return tops, sums


def update_where_it_rises(m, l, scores):
    top = torch.maximum(m, scores.amax(dim=1))
    shrink = torch.where(top > m, torch.exp(m - top), torch.ones_like(m))
    p = torch.where(scores == -torch.inf, 0.0, torch.exp(scores - top[:, None]))
    return top, l * shrink + p.sum(dim=1)


def update_keeps_log_of_sum(m, l, scores):
    top = torch.maximum(m, scores.amax(dim=1))
    safe = torch.where(top == -torch.inf, 0.0, top)
    total = l * torch.exp(m - safe) + torch.exp(scores - safe[:, None]).sum(dim=1)
    return top, total.log()


def update_mean_for_sum(m, l, scores):
    top = torch.maximum(m, scores.amax(dim=1))
    safe = torch.where(top == -torch.inf, 0.0, top)
    total = l * torch.exp(m - safe) + torch.exp(scores - safe[:, None]).mean(dim=1)
    return top, total


def update_masked_with_a_large_number(m, l, scores):
    top = torch.maximum(m, scores.amax(dim=1)).clamp(min=-1e4)
    return top, l * torch.exp(m - top) + torch.exp(scores - top[:, None]).sum(dim=1)


# ------------------------------------------------------------------------- merge


def merge_by_sigmoid(o_a, lse_a, o_b, lse_b):
    none = (lse_a == -torch.inf) & (lse_b == -torch.inf)
    gap = torch.where(none, 0.0, lse_a - lse_b)
    share = torch.sigmoid(gap)[..., None]
    o = share * o_a + (1 - share) * o_b
    return o.masked_fill(none[..., None], 0.0), torch.logaddexp(lse_a, lse_b)


def merge_by_softmax(o_a, lse_a, o_b, lse_b):
    both = torch.stack([lse_a, lse_b]).double()
    weights = both.softmax(dim=0).nan_to_num(0.0)[..., None]
    o = (weights * torch.stack([o_a, o_b])).sum(dim=0)
    return o.to(o_a.dtype), both.logsumexp(dim=0).to(lse_a.dtype)


def merge_takes_the_larger(o_a, lse_a, o_b, lse_b):
    o = torch.where((lse_a > lse_b)[..., None], o_a, o_b)
    return o, torch.maximum(lse_a, lse_b)


def merge_maximum_for_lse(o_a, lse_a, o_b, lse_b):
    return merge_by_softmax(o_a, lse_a, o_b, lse_b)[0], torch.maximum(lse_a, lse_b)


# -------------------------------------------------------------------- block_plan


def plan_from_the_mask(T_q, T_k, M, N):
    mask = torch.ones(T_q, T_k).tril(T_k - T_q)
    plan = []
    for rows in mask.split(M, dim=0):
        shares = [tile.mean().item() for tile in rows.split(N, dim=1)]
        plan.append([{0.0: "skip", 1.0: "full"}.get(x, "masked") for x in shares])
    return plan


def plan_by_counts(T_q, T_k, M, N):
    plan = []
    for i in range(0, T_q, M):
        least = i + 1 + T_k - T_q  # keys that the first query sees
        most = min(i + M, T_q) + T_k - T_q
        row = []
        for j in range(0, T_k, N):
            end = min(j + N, T_k)
            row.append("full" if end <= least else "masked" if j < most else "skip")
        plan.append(tuple(row))
    return tuple(plan)


def plan_never_full(T_q, T_k, M, N):
    plan = plan_from_the_mask(T_q, T_k, M, N)
    return [["masked" if x == "full" else x for x in row] for row in plan]


def plan_transposed(T_q, T_k, M, N):
    return [list(row) for row in zip(*plan_from_the_mask(T_q, T_k, M, N), strict=True)]


# --------------------------------------------------------------- tiled_attention


def tiled_by_lists(q, k, v, M, N):
    """Head by head, statistics as log-sum-exp, tiles that are hidden are skipped."""
    (B, H, T_q, D), (_, H_kv, T_k, _) = q.shape, k.shape
    o, lse = torch.zeros_like(q), torch.full_like(q[..., 0], -torch.inf)
    for b in range(B):
        for h in range(H):
            keys, values = k[b, h * H_kv // H], v[b, h * H_kv // H]
            for i in range(0, T_q, M):
                rows = slice(i, min(i + M, T_q))
                for j in range(0, T_k, N):
                    s = q[b, h, rows] @ keys[j : j + N].T / D**0.5
                    where = torch.arange(rows.start, rows.stop)[:, None] + T_k - T_q
                    s[torch.arange(j, j + s.shape[1]) > where] = -torch.inf
                    part = torch.logsumexp(s, dim=1)
                    total = torch.logaddexp(lse[b, h, rows], part)
                    keep = torch.exp(lse[b, h, rows] - total)[:, None]
                    p = torch.exp(s - total[:, None])
                    o[b, h, rows] = o[b, h, rows] * keep + p @ values[j : j + N]
                    lse[b, h, rows] = total
    return o, lse


def tiled_from_the_last_key(q, k, v, M, N):
    """The keys backwards, so that whole tiles may be hidden first; grouped heads."""
    (_, H, T_q, D), (_, H_kv, T_k, _) = q.shape, k.shape
    q = q.unflatten(1, (H_kv, H // H_kv))
    outputs, sums = [], []
    for i in range(0, T_q, M):
        q_i = q[..., i : i + M, :] * D**-0.5
        m = torch.full(q_i.shape[:-1], -torch.inf, dtype=q.dtype)
        l, acc = torch.zeros_like(m), torch.zeros_like(q_i)
        at = torch.arange(i, i + q_i.shape[-2])[:, None] + T_k - T_q
        for j in reversed(range(0, T_k, N)):
            k_j, v_j = k[:, :, None, j : j + N], v[:, :, None, j : j + N]
            s = (q_i @ k_j.mT).where(
                torch.arange(j, j + k_j.shape[-2]) <= at, -torch.inf
            )
            top = torch.maximum(m, s.amax(dim=-1))
            safe = torch.where(top == -torch.inf, 0.0, top)
            p, shrink = torch.exp(s - safe[..., None]), torch.exp(m - safe)
            l, acc = l * shrink + p.sum(-1), acc * shrink[..., None] + p @ v_j
            m = top
        outputs.append(acc / l[..., None])
        sums.append(m + l.log())
    return torch.cat(outputs, -2).flatten(1, 2), torch.cat(sums, -1).flatten(1, 2)


def tiled_in_float64(q, k, v, M, N):
    o, lse = tiled_from_the_last_key(*(x.double() for x in (q, k, v)), M, N)
    return o.to(q.dtype), lse.to(q.dtype)


def tiled_without_lse(q, k, v, M, N):
    o, lse = tiled_by_lists(q, k, v, M, N)
    return o, torch.zeros_like(lse)


def tiled_lse_in_base_two(q, k, v, M, N):
    o, lse = tiled_by_lists(q, k, v, M, N)
    return o, lse / math.log(2)


def tiled_strips(q, k, v, M, N):
    """One block of queries against all keys: exact, but not by tiles of keys."""
    T_q, T_k = q.shape[2], k.shape[2]
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    outputs, sums = [], []
    for i in range(0, T_q, M):
        s = q[:, :, i : i + M] @ k.mT / math.sqrt(q.shape[-1])
        at = torch.arange(i, i + s.shape[2])[:, None] + T_k - T_q
        s = s.masked_fill(torch.arange(T_k) > at, -torch.inf)
        outputs.append(s.softmax(-1) @ v)
        sums.append(s.logsumexp(-1))
    return torch.cat(outputs, 2), torch.cat(sums, 2)


def tiled_drops_the_last_keys(q, k, v, M, N):
    whole = max(k.shape[2] // N * N, q.shape[2])
    return tiled_by_lists(q, k[:, :, :whole], v[:, :, :whole], M, N)


# ------------------------------------------------------------ key_block_backward


def backward_query_by_query(q, k, v, o, lse, do, allowed):
    scale = q.shape[-1] ** -0.5
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for i in range(len(q)):
        if lse[i] == -torch.inf:
            continue
        p = torch.exp(k @ q[i] * scale - lse[i]) * allowed[i]
        ds = p * ((v - o[i]) @ do[i])
        dq[i] = scale * ds @ k
        dk += scale * torch.outer(ds, q[i])
        dv += torch.outer(p, do[i])
    return dq, dk, dv


def backward_by_einsum(q, k, v, o, lse, do, allowed):
    s = torch.einsum("td,nd->tn", q, k) / q.shape[-1] ** 0.5
    p = torch.where(allowed, torch.exp(s - lse[:, None]), 0.0)
    ds = p * (torch.einsum("td,nd->tn", do, v) - (o * do).sum(1)[:, None])
    ds = ds / q.shape[-1] ** 0.5
    dv = torch.einsum("tn,td->nd", p, do)
    return torch.einsum("tn,nd->td", ds, k), torch.einsum("tn,td->nd", ds, q), dv


def backward_sign(*given):
    dq, dk, dv = backward_by_einsum(*given)
    return -dq, -dk, dv


def backward_dq_and_dk_swapped_scale(*given):
    q = given[0]
    dq, dk, dv = backward_by_einsum(*given)
    return dq * q.shape[-1] ** 0.5, dk, dv


def backward_do_in_place(q, k, v, o, lse, do, allowed):
    answer = backward_by_einsum(q, k, v, o, lse, do, allowed)
    do *= q.shape[-1] ** -0.5
    return answer


def backward_delta_of_v(q, k, v, o, lse, do, allowed):
    return backward_by_einsum(q, k, v, do, lse, do, allowed)


# ----------------------------------------------------------------------- traffic


def traffic_tile_by_tile(T_q, T_k, D, M, N):
    read = written = 0
    for i in range(0, T_q, M):
        rows = min(M, T_q - i)
        read += rows * D
        written += rows * D + rows
        for j in range(0, T_k, N):
            if j <= i + rows - 1 + T_k - T_q:
                read += 2 * min(N, T_k - j) * D
    return read, written


def traffic_in_bytes(T_q, T_k, D, M, N):
    read, written = traffic_tile_by_tile(T_q, T_k, D, M, N)
    return 4 * read, 4 * written


def traffic_keys_seen_only(T_q, T_k, D, M, N):
    read = T_q * D
    for i in range(0, T_q, M):
        read += 2 * D * (min(i + M, T_q) + T_k - T_q)
    return read, T_q * (D + 1)


def traffic_maximum_too(T_q, T_k, D, M, N):
    read, written = traffic_tile_by_tile(T_q, T_k, D, M, N)
    return read, written + T_q


RIGHT = {
    "update": [update_by_logsumexp, update_row_by_row, update_where_it_rises],
    "merge": [merge_by_sigmoid, merge_by_softmax],
    "block_plan": [plan_from_the_mask, plan_by_counts],
    "tiled_attention": [tiled_by_lists, tiled_from_the_last_key, tiled_in_float64],
    "key_block_backward": [backward_query_by_query, backward_by_einsum],
    "traffic": [traffic_tile_by_tile],
}
WRONG = {
    "update": [
        update_keeps_log_of_sum,
        update_mean_for_sum,
        update_masked_with_a_large_number,
    ],
    "merge": [merge_takes_the_larger, merge_maximum_for_lse],
    "block_plan": [plan_never_full, plan_transposed],
    "tiled_attention": [
        tiled_without_lse,
        tiled_lse_in_base_two,
        tiled_strips,
        tiled_drops_the_last_keys,
    ],
    "key_block_backward": [
        backward_sign,
        backward_dq_and_dk_swapped_scale,
        backward_delta_of_v,
        backward_do_in_place,
    ],
    "traffic": [traffic_in_bytes, traffic_keys_seen_only, traffic_maximum_too],
}
_EMPTY = "e^(-inf - x) is 0 for every finite x"
_ORDER = "a minimum or maximum does not depend on the order"
_SHAPE = "only the shape is used, and all channels have the same"
_SKIP = "a tile that is hidden adds 0: skipping it saves work only"
EQUIVALENT = {
    "update: `top = torch.maximum(m, scores.amax(dim=1))` -> `top = "
    "torch.maximum(scores.amax(dim=1), m)`": _ORDER,
    "update: `shift = torch.where(top == -torch.inf, 0.0, top)` -> `shift = "
    "torch.where(top == -torch.inf, 1.0, top)`": _EMPTY,
    "update: `shift = torch.where(top == -torch.inf, 0.0, top)` -> `shift = "
    "torch.where(top == -torch.inf, -1.0, top)`": _EMPTY,
    "merge: `top = torch.maximum(lse_a, lse_b)` -> `top = torch.maximum(lse_b, "
    "lse_a)`": _ORDER,
    "merge: `shift = torch.where(top == -torch.inf, 0.0, top)` -> `shift = "
    "torch.where(top == -torch.inf, 1.0, top)`": _EMPTY,
    "merge: `shift = torch.where(top == -torch.inf, 0.0, top)` -> `shift = "
    "torch.where(top == -torch.inf, -1.0, top)`": _EMPTY,
    "merge: `o = acc / torch.where(total == 0, 1.0, total)[..., None]` -> `o = "
    "acc / torch.where(total == 0, 2.0, total)[..., None]`": (
        "the row is 0, whatever it is divided by"
    ),
    "block_plan: `last_query, row = (min(i + M, T_q) - 1, [])` -> `last_query, "
    "row = (min(T_q, i + M) - 1, [])`": _ORDER,
    "block_plan: `last_query, row = (min(i + M, T_q) - 1, [])` -> `last_query, "
    "row = (i + M - 1, [])`": (
        "behind T_q - 1 nothing more is seen, since keys end at T_k - 1"
    ),
    "block_plan: `last_key = min(j + N, T_k) - 1` -> `last_key = min(T_k, j + "
    "N) - 1`": _ORDER,
    "tiled_attention: `for j in range(0, min(T_k, i + M + T_k - T_q), N):` -> "
    "`for j in range(0, min(i + M + T_k - T_q, T_k), N):`": _ORDER,
    "tiled_attention: `for j in range(0, min(T_k, i + M + T_k - T_q), N):` -> "
    "`for j in range(0, T_k, N):`": _SKIP,
    "tiled_attention: `top = torch.maximum(m, s.amax(dim=-1))` -> `top = "
    "torch.maximum(s.amax(dim=-1), m)`": _ORDER,
    "tiled_attention: `for j in range(0, min(T_k, i + M + T_k - T_q), N):` -> "
    "`for j in range(0, min(T_k, i + M + T_k + T_q), N):`": _SKIP,
    "tiled_attention: `total, acc = (torch.zeros_like(m), torch.zeros_like(q_i))` "
    "-> `total, acc = (torch.zeros_like(m), q_i)`": (
        "the first block shrinks it by exp(-inf) = 0, whatever it holds"
    ),
    "tiled_attention: `m = torch.full_like(q_i[..., 0], -torch.inf)` -> `m = "
    "torch.full_like(q_i[..., -1], -torch.inf)`": _SHAPE,
    "key_block_backward: `shift = torch.where(lse == -torch.inf, 0.0, lse)` -> "
    "`shift = torch.where(lse == -torch.inf, 1.0, lse)`": _EMPTY,
    "key_block_backward: `shift = torch.where(lse == -torch.inf, 0.0, lse)` -> "
    "`shift = torch.where(lse == -torch.inf, -1.0, lse)`": _EMPTY,
    "key_block_backward: `delta = (do * o).sum(dim=-1, keepdim=True)` -> "
    "`delta = (do * o).sum(dim=1, keepdim=True)`": (
        "there are two dimensions: the last is number 1"
    ),
    "key_block_backward: `scale = 1 / math.sqrt(q.shape[-1])` -> `scale = 1 / "
    "math.sqrt(q.shape[1])`": ("there are two dimensions: the last is number 1"),
    "traffic: `read += 2 * D * min(blocks * N, T_k)` -> `read += 2 * D * "
    "min(T_k, blocks * N)`": _ORDER,
}
