"""What goes wrong in the exercise `flash_attention`, and the hint for each.

Each mistake is a whole answer. Where several differ from a right answer in one place
only, they share it as a base and change that place.
"""

from __future__ import annotations

import math

import torch

from posttrain.checks.task import Mistake


def finite(m):
    """m, and 0 where it is -inf."""
    return torch.where(m == -torch.inf, 0.0, m)


# ------------------------------------------------------------------------ update


def update_right_but(shrink=None, shift=finite):
    """A right `update`, but for how old sums shrink or what is subtracted."""

    def update(m, l, scores):
        top = torch.maximum(m, scores.amax(dim=1))
        safe = shift(top)
        factor = torch.exp(m - safe) if shrink is None else shrink(m, safe)
        return top, l * factor + torch.exp(scores - safe[:, None]).sum(dim=1)

    return update


def update_never_rescales(m, l, scores):
    return update_right_but(lambda m, top: 1.0)(m, l, scores)


def update_rescales_the_wrong_way(m, l, scores):
    return update_right_but(lambda m, top: torch.exp(top - m))(m, l, scores)


def update_nan_where_masked(m, l, scores):
    return update_right_but(shift=lambda m: m)(m, l, scores)


def update_without_maximum(m, l, scores):
    top = torch.maximum(m, scores.amax(dim=1))
    raw = l * torch.exp(m) + torch.exp(scores).sum(dim=1)
    return top, raw / torch.exp(top)


def update_maximum_of_the_block(m, l, scores):
    top = scores.amax(dim=1)
    safe = finite(top)
    return top, l * torch.exp(m - safe) + torch.exp(scores - safe[:, None]).sum(dim=1)


def update_rescales_the_block_too(m, l, scores):
    top = torch.maximum(m, scores.amax(dim=1))
    safe = finite(top)
    block = torch.exp(scores - safe[:, None]).sum(dim=1)
    return top, (l + block) * torch.exp(m - safe)


def update_total_in_place(m, l, scores):
    top, total = update_right_but()(m, l, scores)
    return top, l.copy_(total)


def update_scores_in_place(m, l, scores):
    top, total = update_right_but()(m, l, scores)
    scores -= finite(top)[:, None]
    return top, total


# ------------------------------------------------------------------------- merge


def merge_by_weights(weigh):
    """A merge whose weights are weigh(lse_a - top, lse_b - top)."""

    def merge(o_a, lse_a, o_b, lse_b):
        top = finite(torch.maximum(lse_a, lse_b))
        left, right = weigh(lse_a - top, lse_b - top)
        total = torch.exp(lse_a - top) + torch.exp(lse_b - top)
        return o_a * left[..., None] + o_b * right[..., None], top + torch.log(total)

    return merge


def merge_of_equal_shares(o_a, lse_a, o_b, lse_b):
    half = torch.full_like(lse_a, 0.5)
    return merge_by_weights(lambda a, b: (half, half))(o_a, lse_a, o_b, lse_b)


def merge_not_normalised(o_a, lse_a, o_b, lse_b):
    return merge_by_weights(lambda a, b: (a.exp(), b.exp()))(o_a, lse_a, o_b, lse_b)


def merge_by_log_weights(o_a, lse_a, o_b, lse_b):
    def weigh(a, b):
        return lse_a / (lse_a + lse_b), lse_b / (lse_a + lse_b)

    return merge_by_weights(weigh)(o_a, lse_a, o_b, lse_b)


def merge_swapped(o_a, lse_a, o_b, lse_b):
    left, right = torch.sigmoid(lse_b - lse_a), torch.sigmoid(lse_a - lse_b)
    none = (lse_a == -torch.inf) & (lse_b == -torch.inf)
    left, right = left.masked_fill(none, 0.0), right.masked_fill(none, 0.0)
    o = o_a * left[..., None] + o_b * right[..., None]
    return o, torch.logaddexp(lse_a, lse_b)


def merge_overflows(o_a, lse_a, o_b, lse_b):
    left, right = lse_a.exp(), lse_b.exp()
    total = left + right
    o = o_a * left[..., None] + o_b * right[..., None]
    return o / torch.where(total == 0, 1.0, total)[..., None], total.log()


def merge_nan_without_keys(o_a, lse_a, o_b, lse_b):
    lse = torch.logaddexp(lse_a, lse_b)
    left, right = torch.exp(lse_a - lse), torch.exp(lse_b - lse)
    return o_a * left[..., None] + o_b * right[..., None], lse


def merge_adds_lse(o_a, lse_a, o_b, lse_b):
    weights = torch.stack([lse_a, lse_b]).softmax(dim=0).nan_to_num(0.0)
    o = o_a * weights[0][..., None] + o_b * weights[1][..., None]
    return o, lse_a + lse_b


# -------------------------------------------------------------------- block_plan


def plan_right_but(shift=None, skip=0, full=0, last_query=True, clip=True):
    """A right `block_plan`, but for the places where each mistake goes wrong."""

    def block_plan(T_q, T_k, M, N):
        s = T_k - T_q if shift is None else shift
        plan = []
        for i in range(0, T_q, M):
            end = min(i + M, T_q) if last_query else i + 1
            row = []
            for j in range(0, T_k, N):
                last_key = (min(j + N, T_k) if clip else j + N) - 1
                if j > end - 1 + s + skip:
                    row.append("skip")
                elif last_key <= i + s + full:
                    row.append("full")
                else:
                    row.append("masked")
            plan.append(row)
        return plan

    return block_plan


def plan_top_left(T_q, T_k, M, N):
    return plan_right_but(shift=0)(T_q, T_k, M, N)


def plan_skips_by_first_query(T_q, T_k, M, N):
    return plan_right_but(last_query=False)(T_q, T_k, M, N)


def plan_skips_too_little(T_q, T_k, M, N):
    return plan_right_but(skip=1)(T_q, T_k, M, N)


def plan_diagonal_is_hidden(T_q, T_k, M, N):
    return plan_right_but(full=-1)(T_q, T_k, M, N)


def plan_keys_past_the_end(T_q, T_k, M, N):
    return plan_right_but(clip=False)(T_q, T_k, M, N)


def plan_by_block_numbers(T_q, T_k, M, N):
    rows, columns = -(-T_q // M), -(-T_k // N)
    kinds = {-1: "full", 0: "masked", 1: "skip"}
    return [[kinds[(j > i) - (j < i)] for j in range(columns)] for i in range(rows)]


# --------------------------------------------------------------- tiled_attention


class Tiled:
    """A right `tiled_attention`, cut into the places where each mistake goes wrong."""

    def __call__(self, q, k, v, M, N):
        (_, H, T_q, D), (_, H_kv, T_k, _) = q.shape, k.shape
        k, v = self.share(k, H // H_kv), self.share(v, H // H_kv)
        outputs, sums = [], []
        for i in range(0, T_q, M):
            q_i = q[:, :, i : i + M]
            m = torch.full_like(q_i[..., 0], self.first())
            l, acc = torch.zeros_like(m), torch.zeros_like(q_i)
            for j in range(0, T_k, N):
                k_j, v_j = k[:, :, j : j + N], v[:, :, j : j + N]
                ok = self.mask(i, q_i.shape[2], j, k_j.shape[2], T_q, T_k)
                s = q_i @ k_j.mT * self.scale(D)
                m, l, acc = self.step(m, l, acc, s, ok, v_j)
            o_i, lse_i = self.finish(m, l, acc)
            outputs.append(o_i)
            sums.append(lse_i)
        return torch.cat(outputs, dim=2), torch.cat(sums, dim=2)

    def share(self, x, group):
        return x.repeat_interleave(group, dim=1)

    def first(self):
        return -torch.inf

    def hidden_score(self):
        return -torch.inf

    def scale(self, D):
        return D**-0.5

    def mask(self, i, rows, j, columns, T_q, T_k):
        keys = torch.arange(j, j + columns)
        return keys <= torch.arange(i, i + rows)[:, None] + T_k - T_q

    def step(self, m, l, acc, s, ok, v):
        s = s.masked_fill(~ok, self.hidden_score())
        top = torch.maximum(m, s.amax(dim=-1))
        safe = finite(top)
        p, shrink = torch.exp(s - safe[..., None]), torch.exp(m - safe)
        return top, l * shrink + p.sum(dim=-1), self.add(acc, shrink, p, v)

    def add(self, acc, shrink, p, v):
        return acc * shrink[..., None] + p @ v

    def finish(self, m, l, acc):
        return acc / l[..., None], m + torch.log(l)


class TiledAccNotRescaled(Tiled):
    def add(self, acc, shrink, p, v):
        return acc + p @ v


class TiledSoftmaxInEachTile(Tiled):
    def step(self, m, l, acc, s, ok, v):
        m, l, _ = super().step(m, l, acc, s, ok, v)
        p = s.masked_fill(~ok, -torch.inf).softmax(dim=-1).nan_to_num(0.0)
        return m, l, acc + p @ v

    def finish(self, m, l, acc):
        return acc, m + torch.log(l)


class TiledMaskAfterExp(Tiled):
    def step(self, m, l, acc, s, ok, v):
        top = torch.maximum(m, s.amax(dim=-1))
        p = torch.exp(s - top[..., None])  # the sum has already taken them all
        shrink = torch.exp(m - top)
        l = l * shrink + p.sum(dim=-1)
        return top, l, self.add(acc, shrink, p.masked_fill(~ok, 0.0), v)


class TiledMaximumSeesHidden(Tiled):
    def step(self, m, l, acc, s, ok, v):
        top = torch.maximum(m, s.amax(dim=-1))
        p = torch.exp(s - top[..., None]).masked_fill(~ok, 0.0)
        shrink = torch.exp(m - top)
        return top, l * shrink + p.sum(dim=-1), self.add(acc, shrink, p, v)


class TiledMasksWithMinus100(Tiled):
    def hidden_score(self):
        return -100.0


class TiledFirstMaximumZero(Tiled):
    def first(self):
        return 0.0


class TiledNoScale(Tiled):
    def scale(self, D):
        return 1.0


class TiledTopLeft(Tiled):
    def mask(self, i, rows, j, columns, T_q, T_k):
        return super().mask(i, rows, j, columns, T_k, T_k)


class TiledMaskOfTheTile(Tiled):
    def mask(self, i, rows, j, columns, T_q, T_k):
        return super().mask(0, rows, 0, columns, T_q, T_k)


class TiledNoMask(Tiled):
    def mask(self, i, rows, j, columns, T_q, T_k):
        return torch.ones(rows, columns, dtype=torch.bool)


class TiledHeadsDealtOut(Tiled):
    def share(self, x, group):
        return x.repeat(1, group, 1, 1)


class TiledLseWithoutMaximum(Tiled):
    def finish(self, m, l, acc):
        return acc / l[..., None], torch.log(l)


class TiledNotDivided(Tiled):
    def finish(self, m, l, acc):
        return acc, m + torch.log(l)


def tiled_by_the_table(q, k, v, M, N):
    T_q, T_k = q.shape[2], k.shape[2]
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    s = q @ k.mT / math.sqrt(q.shape[-1])
    s = s.masked_fill(~torch.ones(T_q, T_k).tril(T_k - T_q).bool(), -torch.inf)
    return s.softmax(dim=-1) @ v, s.logsumexp(dim=-1)


def tiled_acc_not_rescaled(*given):
    return TiledAccNotRescaled()(*given)


def tiled_softmax_in_each_tile(*given):
    return TiledSoftmaxInEachTile()(*given)


def tiled_mask_after_exp(*given):
    return TiledMaskAfterExp()(*given)


def tiled_maximum_sees_hidden(*given):
    return TiledMaximumSeesHidden()(*given)


def tiled_masks_with_minus_100(*given):
    return TiledMasksWithMinus100()(*given)


def tiled_first_maximum_zero(*given):
    return TiledFirstMaximumZero()(*given)


def tiled_no_scale(*given):
    return TiledNoScale()(*given)


def tiled_top_left(*given):
    return TiledTopLeft()(*given)


def tiled_mask_of_the_tile(*given):
    return TiledMaskOfTheTile()(*given)


def tiled_no_mask(*given):
    return TiledNoMask()(*given)


def tiled_heads_dealt_out(*given):
    return TiledHeadsDealtOut()(*given)


def tiled_lse_without_maximum(*given):
    return TiledLseWithoutMaximum()(*given)


def tiled_not_divided(*given):
    return TiledNotDivided()(*given)


# ------------------------------------------------------------ key_block_backward


def backward_right_but(weights=None, delta=None, scale=None, dv=None):
    """A right `key_block_backward`, but for the places where mistakes go wrong."""

    def key_block_backward(q, k, v, o, lse, do, allowed):
        factor = q.shape[-1] ** -0.5
        s = (q @ k.mT * factor).masked_fill(~allowed, -torch.inf)
        p = torch.exp(s - finite(lse)[:, None]) if weights is None else weights(s, lse)
        d = (do * o).sum(dim=-1) if delta is None else delta(p, do @ v.mT, do, o)
        ds = p * (do @ v.mT - d[:, None]) * (factor if scale is None else scale)
        return ds @ k, ds.mT @ q, p.mT @ do if dv is None else dv(p, do, ds)

    return key_block_backward


def backward_softmax_of_the_block(*given):
    return backward_right_but(weights=lambda s, lse: s.softmax(-1).nan_to_num(0.0))(
        *given
    )


def backward_sum_of_the_block(*given):
    return backward_right_but(delta=lambda p, dp, do, o: (p * dp).sum(-1))(*given)


def backward_without_delta(*given):
    return backward_right_but(delta=lambda p, dp, do, o: torch.zeros(len(do)))(*given)


def backward_no_scale(*given):
    return backward_right_but(scale=1.0)(*given)


def backward_nan_without_keys(*given):
    return backward_right_but(weights=lambda s, lse: torch.exp(s - lse[:, None]))(
        *given
    )


def backward_mask_ignored(q, k, v, o, lse, do, allowed):
    return backward_right_but()(q, k, v, o, lse, do, torch.ones_like(allowed))


def backward_dv_from_ds(*given):
    return backward_right_but(dv=lambda p, do, ds: ds.mT @ do)(*given)


def backward_lse_in_place(q, k, v, o, lse, do, allowed):
    answer = backward_right_but()(q, k, v, o, lse, do, allowed)
    lse[lse == -torch.inf] = 0.0
    return answer


# ----------------------------------------------------------------------- traffic


def traffic_right_but(skip=True, values=2, lse=1, q_each=False, clip=True):
    """A right `traffic`, but for what each mistake counts otherwise."""

    def traffic(T_q, T_k, D, M, N):
        read, written = 0, T_q * (D + lse)
        for i in range(0, T_q, M):
            end = min(i + M, T_q)
            read += 0 if q_each else (end - i) * D
            for j in range(0, T_k, N):
                if skip and j > end - 1 + T_k - T_q:
                    continue
                width = min(N, T_k - j) if clip else N
                read += values * width * D + (end - i) * D * q_each
        return read, written

    return traffic


def traffic_without_mask(T_q, T_k, D, M, N):
    return traffic_right_but(skip=False)(T_q, T_k, D, M, N)


def traffic_keys_only(T_q, T_k, D, M, N):
    return traffic_right_but(values=1)(T_q, T_k, D, M, N)


def traffic_without_lse(T_q, T_k, D, M, N):
    return traffic_right_but(lse=0)(T_q, T_k, D, M, N)


def traffic_queries_each_time(T_q, T_k, D, M, N):
    return traffic_right_but(q_each=True)(T_q, T_k, D, M, N)


def traffic_whole_blocks(T_q, T_k, D, M, N):
    return traffic_right_but(clip=False)(T_q, T_k, D, M, N)


def traffic_keys_once(T_q, T_k, D, M, N):
    return T_q * D + 2 * T_k * D, T_q * (D + 1)


MISTAKES = {
    "update": (
        Mistake(
            update_never_rescales,
            "when the maximum rises, the sum still counts in units of e^(old maximum). "
            "Multiply it by e^(old - new) before you add the block.",
        ),
        Mistake(
            update_rescales_the_wrong_way,
            "the old sum is scaled by e^(new - old). It was divided by e^old and must "
            "be divided by e^new: multiply by e^(old - new), which is at most 1.",
        ),
        Mistake(
            update_nan_where_masked,
            "-inf minus -inf is NaN. A row that has seen no key has m = -inf: subtract "
            "0 there, so that e^(-inf - 0) is the 0 that is due.",
        ),
        Mistake(
            update_without_maximum,
            "e^score overflows, or underflows to 0, before you divide. Subtract the "
            "new maximum inside the exponential.",
        ),
        Mistake(
            update_maximum_of_the_block,
            "the new maximum is that of the block alone. It is the larger of the "
            "block's and the one so far.",
        ),
        Mistake(
            update_rescales_the_block_too,
            "the block's own sum is scaled as well. It was taken with the new maximum "
            "already: only the old sum shrinks.",
        ),
        Mistake(
            update_total_in_place,
            "the caller's `total` was changed: `*=` and `+=` work in place. Return a "
            "new tensor.",
        ),
        Mistake(
            update_scores_in_place,
            "the caller's `scores` were changed: `-=`, exp_ and an assignment to "
            "scores[...] work in place. Make a new tensor.",
        ),
    ),
    "merge": (
        Mistake(
            merge_of_equal_shares,
            "the two parts get equal weights. A part counts by its share of the sum of "
            "exponentials, e^(its lse - lse of both).",
        ),
        Mistake(
            merge_not_normalised,
            "the weights do not sum to 1: divide by e^(lse_a - top) + e^(lse_b - top).",
        ),
        Mistake(
            merge_by_log_weights,
            "an lse is the logarithm of a sum. Weights are in proportion to the sums, "
            "e^lse, not to their logarithms.",
        ),
        Mistake(merge_swapped, "the weights are swapped: a's belongs to o_a."),
        Mistake(
            merge_overflows,
            "e^lse overflows for a large lse. Subtract the larger of the two first.",
        ),
        Mistake(
            merge_nan_without_keys,
            "where both parts saw no key, -inf minus -inf is NaN. The row's output is "
            "0 and its lse is -inf.",
        ),
        Mistake(
            merge_adds_lse,
            "the log-sum-exps are added. Sums add, their logarithms do not: "
            "log(e^a + e^b).",
        ),
    ),
    "block_plan": (
        Mistake(
            plan_top_left,
            "the queries are the *last* T_q positions: query i may see the keys up to "
            "i + T_k - T_q.",
        ),
        Mistake(
            plan_skips_by_first_query,
            "a tile may be skipped only if *no* query sees a key of it. The last query "
            "of the block sees most: ask that one.",
        ),
        Mistake(
            plan_skips_too_little,
            "off by one: a tile whose first key is just behind the last query's "
            "position is hidden from all of them.",
        ),
        Mistake(
            plan_diagonal_is_hidden,
            "off by one: a query sees the key at its own position. If the tile's last "
            "key is at the first query's position, all queries see all of it.",
        ),
        Mistake(
            plan_keys_past_the_end,
            "the last block of keys may be shorter than N. Its last key is T_k - 1, "
            "which decides whether the tile is full.",
        ),
        Mistake(
            plan_by_block_numbers,
            "block numbers can be compared only if M = N and T_q = T_k. Compare "
            "positions: the first and the last row of each block.",
        ),
    ),
    "tiled_attention": (
        Mistake(
            tiled_acc_not_rescaled,
            "the sum shrinks when the maximum rises, the accumulator does not. "
            "Both hold terms e^(s - m) and need the same factor.",
        ),
        Mistake(
            tiled_softmax_in_each_tile,
            "each tile is normalised by itself, and the results are added. A row's "
            "weights sum to 1 over *all* its tiles: divide once, at the end.",
        ),
        Mistake(
            tiled_mask_after_exp,
            "hidden keys are left out of the accumulator but not of the sum: the "
            "weights that are left sum to less than 1. Mask the scores.",
        ),
        Mistake(
            tiled_maximum_sees_hidden,
            "the maximum is taken before the mask. A huge hidden score makes all "
            "visible terms underflow to 0, and 0 / 0 is NaN. Mask first.",
        ),
        Mistake(
            tiled_masks_with_minus_100,
            "-100 is no small score: those that are seen may be in the hundreds, below "
            "0 as well, and then hidden keys win. Mask with -inf.",
        ),
        Mistake(
            tiled_first_maximum_zero,
            "the running maximum begins at 0. Where all scores are far below 0, every "
            "exponential underflows to 0, and 0 / 0 is NaN: begin at -inf.",
        ),
        Mistake(tiled_no_scale, "divide the scores by sqrt(D)."),
        Mistake(
            tiled_top_left,
            "the queries are the *last* T_q of T_k positions: shift the mask by "
            "T_k - T_q.",
        ),
        Mistake(
            tiled_mask_of_the_tile,
            "every tile gets the mask of the first one. Compare positions in the whole "
            "sequence: add the tile's first row and first column.",
        ),
        Mistake(tiled_no_mask, "nothing is masked: attention is causal here."),
        Mistake(
            tiled_heads_dealt_out,
            "query head h belongs to key head h // (H / H_kv): neighbours share. "
            "`repeat` deals them out in turn, `repeat_interleave` does not.",
        ),
        Mistake(
            tiled_lse_without_maximum,
            "the log-sum-exp is m + log(sum): the sum counts in units of e^m.",
        ),
        Mistake(
            tiled_not_divided,
            "divide the accumulator by the sum of weights at the end.",
        ),
        Mistake(
            tiled_by_the_table,
            "the numbers are right, but a tensor as large as the table of all pairs is "
            "made. Keep M x N scores at a time.",
        ),
    ),
    "key_block_backward": (
        Mistake(
            backward_softmax_of_the_block,
            "the weights are normalised over this block alone. `lse` belongs to all "
            "keys: the weights are e^(s - lse).",
        ),
        Mistake(
            backward_sum_of_the_block,
            "the sum of P * dP runs over *all* keys, and you see one block. It equals "
            "the row sum of do * o.",
        ),
        Mistake(
            backward_without_delta,
            "the gradient of softmax subtracts its mean: dS = P * (dP - delta).",
        ),
        Mistake(
            backward_no_scale,
            "scores are q k / sqrt(D): dq and dk carry the same factor.",
        ),
        Mistake(
            backward_nan_without_keys,
            "a query that sees no key has lse = -inf, and -inf minus -inf is NaN. Its "
            "weights and gradients are 0.",
        ),
        Mistake(
            backward_mask_ignored,
            "hidden pairs have weight 0. `lse` does not know which scores were masked: "
            "mask them again.",
        ),
        Mistake(
            backward_dv_from_ds,
            "dv comes from the weights themselves, P^T dO; dS is the gradient of the "
            "scores.",
        ),
        Mistake(
            backward_lse_in_place,
            "the caller's `lse` was changed, and other blocks of keys need it: use "
            "torch.where instead of an assignment.",
        ),
    ),
    "traffic": (
        Mistake(
            traffic_without_mask,
            "tiles that the causal mask hides wholly are not read.",
        ),
        Mistake(traffic_keys_only, "each key comes with its value: D numbers more."),
        Mistake(
            traffic_without_lse,
            "the backward pass needs one log-sum-exp a query: T_q numbers more are "
            "written.",
        ),
        Mistake(
            traffic_queries_each_time,
            "a block of queries stays in fast memory while it walks over the keys: it "
            "is read once, not once a tile.",
        ),
        Mistake(
            traffic_whole_blocks,
            "the last block of keys may be shorter than N: count the keys that exist.",
        ),
        Mistake(
            traffic_keys_once,
            "each block of queries is a program of its own and reads the keys again: "
            "fast memory does not outlive it.",
        ),
    ),
}
