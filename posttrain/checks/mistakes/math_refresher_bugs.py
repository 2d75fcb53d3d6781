"""The mistakes of the exercise `math_refresher` that are no formulas, with hints.

A numerical gradient, and the five shape bugs. Each mistake is a whole answer.
"""

from __future__ import annotations

import torch

from posttrain.checks.task import Mistake

# --------------------------------------------------------- numerical_gradient


def differences(f, x, h, forward=False, divisor=2.0, restore=True):
    """A right answer for h = 6e-6; the keywords put one thing wrong."""
    gradient, moved = torch.zeros_like(x), x.clone()
    for i in range(x.numel()):
        keep = moved.view(-1)[i].item()
        moved.view(-1)[i] = keep + h
        above = f(moved)
        moved.view(-1)[i] = keep if forward else keep - h
        below = f(moved)
        if restore:
            moved.view(-1)[i] = keep
        gradient.view(-1)[i] = (above - below) / (divisor * h)
    return gradient


def difference_forward(f, x):
    return differences(f, x, 1e-5, forward=True, divisor=1.0)


def difference_large_step(f, x):
    return differences(f, x, 1e-2)


def difference_tiny_step(f, x):
    return differences(f, x, 1e-12)


def difference_over_h(f, x):
    return differences(f, x, 6e-6, divisor=1.0)


def difference_not_restored(f, x):
    return differences(f, x, 6e-6, restore=False)


def difference_all_at_once(f, x):
    h = 6e-6
    return torch.full_like(x, (f(x + h) - f(x - h)) / (2 * h))


def difference_relative_step(f, x):
    gradient = torch.zeros_like(x)
    for i in range(x.numel()):
        step = torch.zeros_like(x)
        step.view(-1)[i] = 1e-5 * x.view(-1)[i]
        slope = (f(x + step) - f(x - step)) / (2 * step.view(-1)[i])
        gradient.view(-1)[i] = slope
    return gradient


def difference_writes_into_x(f, x):
    gradient = torch.zeros_like(x)
    for i in range(x.numel()):
        x.view(-1)[i] += 6e-6
        above = f(x)
        x.view(-1)[i] -= 12e-6
        gradient.view(-1)[i] = (above - f(x)) / 12e-6
    return gradient


# ------------------------------------------------------- attend, pooled_loss


def attend_with(x, mask, weights, keys=None, lay=None, dim=-1):
    """A right answer; the keywords put one of the bugs back."""
    q, k, v = (x @ W for W in weights)
    scores = q @ (k.mT if keys is None else keys(k)) / q.shape[-1] ** 0.5
    seen = mask[:, None, :] if lay is None else lay(mask)
    return scores.masked_fill(~seen, -torch.inf).softmax(dim) @ v


def attend_turns_every_dimension(x, mask, W_q, W_k, W_v):
    weights = (W_q, W_k, W_v)
    return attend_with(x, mask, weights, keys=lambda k: k.permute(2, 1, 0))


def attend_turns_by_reshape(x, mask, W_q, W_k, W_v):
    weights = (W_q, W_k, W_v)
    turned = (len(x), W_k.shape[1], x.shape[1])
    return attend_with(x, mask, weights, keys=lambda k: k.reshape(turned))


def attend_mask_as_it_is(x, mask, W_q, W_k, W_v):
    return attend_with(x, mask, (W_q, W_k, W_v), lay=lambda mask: mask)


def attend_mask_of_queries(x, mask, W_q, W_k, W_v):
    return attend_with(x, mask, (W_q, W_k, W_v), lay=lambda mask: mask[:, :, None])


def attend_softmax_over_queries(x, mask, W_q, W_k, W_v):
    return attend_with(x, mask, (W_q, W_k, W_v), dim=1)


def pool(y, mask):
    return (y * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def pooled_count_as_it_is(y, mask, w_out, target):
    pooled = (y * mask[..., None]).sum(1) / mask.sum(1)
    return (((pooled @ w_out).squeeze(-1) - target) ** 2).mean()


def pooled_table_of_errors(y, mask, w_out, target):
    return ((pool(y, mask) @ w_out - target) ** 2).mean()


def pooled_over_padding(y, mask, w_out, target):
    pooled = (y * mask[..., None]).mean(1)
    return (((pooled @ w_out).squeeze(-1) - target) ** 2).mean()


def pooled_without_mask(y, mask, w_out, target):
    return (((y.mean(1) @ w_out).squeeze(-1) - target) ** 2).mean()


def pooled_over_the_whole_batch(y, mask, w_out, target):
    pooled = (y * mask[..., None]).sum(1) / mask.sum()
    return (((pooled @ w_out).squeeze(-1) - target) ** 2).mean()


MISTAKES = {
    "numerical_gradient": (
        Mistake(
            difference_relative_step,
            "a step that is a share of x is 0 where x is 0, and 0 / 0 is NaN. Take the "
            "same step everywhere, or one that grows with max(1, |x|).",
        ),
        Mistake(
            difference_forward,
            "a forward difference has an error of order h. The central one, "
            "(f(x + h) - f(x - h)) / 2h, has h squared.",
        ),
        Mistake(
            difference_large_step,
            "the step is too large: the error grows with h squared. Near 6e-6 it is "
            "least in float64.",
        ),
        Mistake(
            difference_tiny_step,
            "the step is too small: f(x + h) and f(x - h) agree in nearly all digits, "
            "and their difference is rounding noise. Near 6e-6 the error is least.",
        ),
        Mistake(
            difference_over_h,
            "x - h and x + h are 2h apart: divide by 2h.",
        ),
        Mistake(
            difference_not_restored,
            "an entry is not put back before the next one is moved, so you measure at "
            "another point.",
        ),
        Mistake(
            difference_all_at_once,
            "you move all entries together: that is the slope along (1, 1, ...). A "
            "partial derivative moves one entry and holds the others.",
        ),
        Mistake(
            difference_writes_into_x,
            "x itself is changed, and stays so. Move a clone.",
        ),
    ),
    "attend": (
        Mistake(
            attend_turns_every_dimension,
            "bug 1: `.T` reverses *all* dimensions, the batch too. Swap the last two: "
            "`k.mT` or `k.transpose(-2, -1)`.",
        ),
        Mistake(
            attend_turns_by_reshape,
            "bug 1: reshape reads memory in order, it does not transpose. The shape "
            "is right and the numbers are mixed up: use `k.mT`.",
        ),
        Mistake(
            attend_mask_as_it_is,
            "bug 2: (B, T) meets (B, T, T) from the right, so its B stands where the "
            "queries are. Make it (B, 1, T): `mask[:, None, :]`.",
        ),
        Mistake(
            attend_mask_of_queries,
            "bug 2: the mask now removes padded *queries*, whose rows become 0 / 0. "
            "It is the padded *keys* that nobody may look at: `mask[:, None, :]`.",
        ),
        Mistake(
            attend_softmax_over_queries,
            "bug 3: dim=1 are the queries. Each query shares out one unit among the "
            "keys, the last dimension.",
        ),
    ),
    "pooled_loss": (
        Mistake(
            pooled_count_as_it_is,
            "bug 4: (B, D) / (B,) aligns the B counts with the D channels. Keep the "
            "dimension: `mask.sum(1, keepdim=True)`.",
        ),
        Mistake(
            pooled_table_of_errors,
            "bug 5: (B, 1) - (B,) is a (B, B) table of every prediction against every "
            "target, and its mean is a number like any other. Drop the 1: "
            "`.squeeze(-1)`.",
        ),
        Mistake(
            pooled_over_padding,
            "the sum is over real tokens, but you divide by T, padding included.",
        ),
        Mistake(pooled_without_mask, "padded tokens are averaged, too: use the mask."),
        Mistake(
            pooled_over_the_whole_batch,
            "you divide by the real tokens of the whole batch. Each row has its own "
            "count.",
        ),
    ),
}
