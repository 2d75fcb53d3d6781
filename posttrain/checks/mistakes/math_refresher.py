"""What goes wrong in the exercise `math_refresher`, and the hint for each.

Here are the formulas; the rest is in `math_refresher_bugs`. Each mistake is a whole
answer.
"""

from __future__ import annotations

import numpy as np
import torch

from posttrain.checks.mistakes import math_refresher_bugs as bugs
from posttrain.checks.task import Mistake

# -------------------------------------------------------------------- softmax


def softmax_overflows(z, tau=1.0):
    e = (z / tau).exp()
    return e / e.sum(-1, keepdim=True)


def softmax_one_maximum_for_all(z, tau=1.0):
    e = ((z - z.max()) / tau).exp()
    return e / e.sum(-1, keepdim=True)


def softmax_shifts_before_temperature(z, tau=1.0):
    e = (z / tau - z.amax(dim=-1, keepdim=True)).exp()
    return e / e.sum(dim=-1, keepdim=True)


def softmax_finite_mask(z, tau=1.0):
    z = z.nan_to_num(neginf=-100.0)
    e = ((z - z.amax(dim=-1, keepdim=True)) / tau).exp()
    return e / e.sum(dim=-1, keepdim=True)


def softmax_over_rows(z, tau=1.0):
    e = ((z - z.amax(0)) / tau).exp()
    return e / e.sum(0)


def softmax_sum_of_all(z, tau=1.0):
    e = ((z - z.amax(-1, keepdim=True)) / tau).exp()
    return e / e.sum()


def softmax_loses_a_dimension(z, tau=1.0):
    e = ((z - z.amax(-1, keepdim=True)) / tau).exp()
    return e / e.sum(-1)


def softmax_times_temperature(z, tau=1.0):
    e = ((z - z.amax(-1, keepdim=True)) * tau).exp()
    return e / e.sum(-1, keepdim=True)


def softmax_ignores_temperature(z, tau=1.0):
    e = (z - z.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


# ----------------------------------------------------------- softmax_backward


def backward_diagonal_only(p, g):
    return p * (1 - p) * g


def backward_without_p(p, g):
    return g - (p * g).sum(-1, keepdim=True)


def backward_mean(p, g):
    return p * (g - (p * g).mean(-1, keepdim=True))


def backward_plain_sum(p, g):
    return p * (g - g.sum(-1, keepdim=True))


def backward_sum_of_all(p, g):
    return p * (g - (p * g).sum())


def backward_loses_a_dimension(p, g):
    return p * (g - (p * g).sum(-1))


def backward_wrong_sign(p, g):
    return p * ((p * g).sum(-1, keepdim=True) - g)


# -------------------------------------------------------------- cross_entropy


def stable_log_softmax(z, top=None):
    s = z - (z.max(-1, keepdims=True) if top is None else top)
    return s - np.log(np.exp(s).sum(-1, keepdims=True))


def loss_and_gradient(z, y, rows, count=None, sign=1):
    """A right answer, for the rows and with the divisor that it is given."""
    log_p = stable_log_softmax(z)
    count = len(rows) if count is None else count
    gradient = np.zeros_like(z)
    gradient[rows] = np.exp(log_p[rows])
    gradient[rows, y[rows]] -= 1
    return -log_p[rows, y[rows]].sum() / count, sign * gradient / count


def kept(y):
    return np.flatnonzero(y != -100)


def loss_from_overflowing_softmax(z, y):
    rows = kept(y)
    with np.errstate(all="ignore"):
        e = np.exp(z)
        p = e / e.sum(-1, keepdims=True)
        loss = -np.log(p[rows, y[rows]]).mean()
    gradient = np.zeros_like(z)
    gradient[rows] = p[rows]
    gradient[rows, y[rows]] -= 1
    return loss, gradient / len(rows)


def loss_one_maximum_for_all(z, y):
    rows = kept(y)
    with np.errstate(divide="ignore"):
        log_p = stable_log_softmax(z, z.max())
    gradient = np.zeros_like(z)
    gradient[rows] = np.exp(log_p[rows])
    gradient[rows, y[rows]] -= 1
    return -log_p[rows, y[rows]].mean(), gradient / len(rows)


def loss_log_of_softmax(z, y):
    rows = kept(y)
    p = np.exp(stable_log_softmax(z))
    with np.errstate(divide="ignore"):
        loss = -np.log(p[rows, y[rows]]).mean()
    return loss, loss_and_gradient(z, y, rows)[1]


def loss_mean_over_all_rows(z, y):
    return loss_and_gradient(z, y, kept(y), count=len(y))


def loss_is_a_sum(z, y):
    return loss_and_gradient(z, y, kept(y), count=1)


def loss_counts_ignored_labels(z, y):
    return loss_and_gradient(z, y, np.arange(len(y)))


def gradient_of_the_sum(z, y):
    rows = kept(y)
    loss, gradient = loss_and_gradient(z, y, rows)
    return loss, gradient * len(rows)


def gradient_wrong_sign(z, y):
    return loss_and_gradient(z, y, kept(y), sign=-1)


def gradient_of_ignored_rows(z, y):
    rows = kept(y)
    loss, gradient = loss_and_gradient(z, y, rows)
    ignored = y == -100
    gradient[ignored] = np.exp(stable_log_softmax(z))[ignored] / len(rows)
    return loss, gradient


# ------------------------------------------------------------ linear_backward


def flat(a):
    return a.reshape(-1, a.shape[-1])


def linear_no_transpose(x, W, g):
    return g @ W, flat(x).T @ flat(g), flat(g).sum(0)


def linear_weight_transposed(x, W, g):
    return g @ W.T, flat(g).T @ flat(x), flat(g).sum(0)


def linear_mean_over_rows(x, W, g):
    return g @ W.T, flat(x).T @ flat(g) / len(flat(x)), flat(g).mean(0)


def linear_bias_not_summed(x, W, g):
    return g @ W.T, flat(x).T @ flat(g), g


def linear_bias_keeps_time(x, W, g):
    bias = g.sum(0) if g.ndim > 1 else g
    return g @ W.T, flat(x).T @ flat(g), bias


def linear_weight_for_each_batch(x, W, g):
    return g @ W.T, x.mT @ g if x.ndim > 2 else flat(x).T @ flat(g), flat(g).sum(0)


# -------------------------------------------------------------- kl_divergence


def kl_turned_round(p, q):
    return kl_with_zeros(q, p)


def kl_with_zeros(p, q):
    term = torch.where(p > 0, p * (p / q).log(), 0.0)
    return term.sum(-1)


def kl_zero_times_minus_inf(p, q):
    return (p * (p / q).log()).sum(-1)


def kl_with_epsilon(p, q):
    return (p * ((p + 1e-6) / (q + 1e-6)).log()).sum(-1)


def kl_sum_of_all(p, q):
    return kl_with_zeros(p, q).sum()


def kl_in_bits(p, q):
    return kl_with_zeros(p, q) / torch.log(torch.tensor(2.0, dtype=p.dtype))


def kl_is_cross_entropy(p, q):
    return -torch.where(p > 0, p * q.log(), 0.0).sum(-1)


def kl_skips_the_impossible(p, q):
    both = (p > 0) & (q > 0)
    return torch.where(both, p * (p / q).log(), 0.0).sum(-1)


OVERFLOW = (
    "exp of a large logit overflows to inf, and inf / inf is NaN. Subtract the largest "
    "logit of each row first: that changes nothing in the result."
)

MISTAKES = {
    "softmax": (
        Mistake(softmax_overflows, OVERFLOW),
        Mistake(
            softmax_one_maximum_for_all,
            "you subtract one maximum for the whole tensor. A row far below it "
            "underflows to 0 / 0: each row needs its own, "
            "`z.amax(-1, keepdim=True)`.",
        ),
        Mistake(
            softmax_shifts_before_temperature,
            "subtract the maximum of what goes into exp, which is z / tau: with a "
            "small tau, z / tau - max(z) is still large.",
        ),
        Mistake(
            softmax_finite_mask,
            "a finite number in place of -inf may be larger than the logits of the "
            "row. Leave -inf: its exp is 0.",
        ),
        Mistake(
            softmax_over_rows,
            "the softmax runs over the first dimension. The classes are in the last.",
        ),
        Mistake(
            softmax_sum_of_all,
            "the whole tensor sums to 1. Each row must: sum over the last dimension.",
        ),
        Mistake(
            softmax_loses_a_dimension,
            "`sum(-1)` drops the last dimension, so the division aligns rows with "
            "classes. Keep it: `sum(-1, keepdim=True)`.",
        ),
        Mistake(
            softmax_times_temperature,
            "logits are *divided* by the temperature: a small one makes the "
            "differences larger and the distribution sharper.",
        ),
        Mistake(softmax_ignores_temperature, "the temperature is not used."),
    ),
    "softmax_backward": (
        Mistake(
            backward_diagonal_only,
            "that is the diagonal of the Jacobian alone. Every probability depends on "
            "every logit, by way of the sum: the entries off the diagonal are "
            "-p_i p_j.",
        ),
        Mistake(
            backward_without_p,
            "the factor p in front is missing: p * (g - sum(p * g)).",
        ),
        Mistake(backward_mean, "a sum over the classes is due, not a mean."),
        Mistake(
            backward_plain_sum,
            "the sum is weighted: sum over j of p_j g_j, the mean of g under p.",
        ),
        Mistake(
            backward_sum_of_all,
            "you sum over the whole tensor. Rows do not know each other: sum over the "
            "last dimension.",
        ),
        Mistake(
            backward_loses_a_dimension,
            "`sum(-1)` drops the last dimension, and the difference then aligns rows "
            "with classes. Keep it: `sum(-1, keepdim=True)`.",
        ),
        Mistake(
            backward_wrong_sign,
            "the sign is turned round: raising a logit raises its own probability.",
        ),
    ),
    "cross_entropy": (
        Mistake(loss_from_overflowing_softmax, OVERFLOW),
        Mistake(
            loss_one_maximum_for_all,
            "you subtract one maximum for the whole array. A row far below it "
            "underflows to log 0: each row needs its own, "
            "`z.max(axis=-1, keepdims=True)`.",
        ),
        Mistake(
            loss_log_of_softmax,
            "the probability underflows to 0 before you take its logarithm. Compute "
            "log p directly: (z - m) - log(sum(exp(z - m))), with m the row's "
            "maximum.",
        ),
        Mistake(
            loss_mean_over_all_rows,
            "you divide by all rows. Rows with the label -100 do not count, in the "
            "divisor neither.",
        ),
        Mistake(loss_is_a_sum, "that is the sum over the rows; the mean is due."),
        Mistake(
            loss_counts_ignored_labels,
            "the label -100 means: leave this row out. As an index it counts from the "
            "end, or raises.",
        ),
        Mistake(
            gradient_of_the_sum,
            "the loss is right. Its gradient is that of a *mean*: divide by the "
            "number of rows that count.",
        ),
        Mistake(
            gradient_wrong_sign,
            "the loss is right, the gradient has the wrong sign: it is p - onehot(y). "
            "Going down the gradient must raise the right logit.",
        ),
        Mistake(
            gradient_of_ignored_rows,
            "rows with the label -100 do not enter the loss, so their gradient is 0.",
        ),
    ),
    "linear_backward": (
        Mistake(
            linear_no_transpose,
            "the gradient at x is g @ W.T: y = x W takes C to D, so the way back "
            "takes D to C. With C = D a missing transpose raises no error.",
        ),
        Mistake(
            linear_weight_transposed,
            "the gradient at W has the shape of W, (C, D): x.T @ g, not g.T @ x.",
        ),
        Mistake(
            linear_mean_over_rows,
            "W and b are used by every row, so their gradients are *summed* over the "
            "rows. A mean, if there is one, is in g already.",
        ),
        Mistake(
            linear_bias_not_summed,
            "b has shape (D,), and so has its gradient. b was broadcast over all "
            "rows; the gradient of a broadcast is a sum.",
        ),
        Mistake(
            linear_bias_keeps_time,
            "you sum g over the first dimension only. b was broadcast over *all* "
            "leading dimensions.",
        ),
        Mistake(
            linear_weight_for_each_batch,
            "there is one W for the whole batch, but you return a gradient for each "
            "element of it. Flatten the leading dimensions, or sum over them.",
        ),
    ),
    "kl_divergence": (
        Mistake(
            kl_turned_round,
            "that is KL(q || p). In KL(p || q) the expectation is under p.",
        ),
        Mistake(
            kl_zero_times_minus_inf,
            "0 * log 0 gives NaN in floating point. A class with p = 0 adds 0: mask "
            "it with torch.where.",
        ),
        Mistake(
            kl_with_epsilon,
            "a small number added inside the logarithm changes the result, and hides "
            "that the divergence is infinite where q = 0 < p.",
        ),
        Mistake(
            kl_sum_of_all,
            "one number for each distribution is due: sum over the last dimension.",
        ),
        Mistake(kl_in_bits, "in nats, please: the natural logarithm."),
        Mistake(
            kl_is_cross_entropy,
            "that is the cross-entropy H(p, q). Subtract the entropy of p.",
        ),
        Mistake(
            kl_skips_the_impossible,
            "where q = 0 but p > 0, q held to be impossible what does happen: the "
            "divergence is inf, not less.",
        ),
    ),
    **bugs.MISTAKES,
}
