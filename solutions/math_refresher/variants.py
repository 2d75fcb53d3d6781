"""Answers that the grader of `math_refresher` must tell apart. Never given to students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F

# -------------------------------------------------------------------- softmax


def softmax_through_logsumexp(z, tau=1.0):
    scaled = z.double() / tau
    top = scaled.max(dim=-1, keepdim=True).values
    total = (scaled - top).exp().sum(dim=-1, keepdim=True).log() + top
    return (scaled - total).exp().to(z.dtype)


def softmax_row_by_row(z, tau=1.0):
    rows = []
    for row in z.reshape(-1, z.shape[-1]):
        top = max(row.tolist())
        e = [math.exp((value - top) / tau) for value in row.tolist()]
        rows.append([value / sum(e) for value in e])
    return torch.tensor(rows, dtype=torch.float64).reshape(z.shape).to(z.dtype)


def softmax_library_call(z, tau=1.0):
    return torch.softmax(z / tau, dim=-1)


def softmax_writes_into_logits(z, tau=1.0):
    z -= z.amax(dim=-1, keepdim=True)
    e = (z / tau).exp()
    return e / e.sum(dim=-1, keepdim=True)


def softmax_always_float32(z, tau=1.0):
    z = z.float()
    e = ((z - z.amax(dim=-1, keepdim=True)) / tau).exp()
    return e / e.sum(dim=-1, keepdim=True)


# ----------------------------------------------------------- softmax_backward


def backward_with_jacobian(p, g):
    J = torch.diag_embed(p) - p[..., :, None] * p[..., None, :]
    return (J @ g[..., None]).squeeze(-1)


def backward_by_einsum(p, g):
    return p * g - p * torch.einsum("...i,...i->...", p, g)[..., None]


def backward_full_outer_product(p, g):
    J = p[..., :, None] * p[..., None, :]
    return (J @ g[..., None]).squeeze(-1)


# -------------------------------------------------------------- cross_entropy


def loss_with_one_hot(z, y):
    counts = (y != -100).astype(z.dtype)
    one_hot = (y[:, None] == np.arange(z.shape[1])).astype(z.dtype)
    top = z.max(axis=1)
    log_total = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
    log_p = (z * one_hot).sum(axis=1) - log_total * counts
    p = np.exp(z - log_total[:, None])
    gradient = (p - one_hot) * counts[:, None] / counts.sum()
    return -log_p.sum() / counts.sum(), gradient.astype(z.dtype)


def loss_row_by_row(z, y):
    losses, gradient = [], np.zeros(z.shape[::-1], dtype=z.dtype).T  # Fortran order
    for row, label in enumerate(y):
        if label == -100:
            continue
        e = np.exp(z[row] - z[row].max())
        losses.append(np.log(e.sum()) + z[row].max() - z[row, label])
        gradient[row] = e / e.sum()
        gradient[row, label] -= 1
    return np.mean(losses), gradient / len(losses)


def loss_hides_underflow(z, y):
    rows = np.flatnonzero(y != -100)
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    gradient = np.zeros_like(z)
    gradient[rows] = p[rows]
    gradient[rows, y[rows]] -= 1
    return -np.log(p[rows, y[rows]] + 1e-12).mean(), gradient / len(rows)


# ------------------------------------------------------------ linear_backward


def linear_by_einsum(x, W, g):
    of_W = torch.einsum("...c,...d->cd", x, g)
    of_b = torch.einsum("...d->d", g)
    return torch.einsum("...d,cd->...c", g, W), of_W, of_b


def linear_row_by_row(x, W, g):
    of_W, of_b = torch.zeros_like(W), torch.zeros_like(W[0])
    rows = zip(x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1]), strict=True)
    for row, upstream in rows:
        of_W += torch.outer(row, upstream)
        of_b += upstream
    return (W @ g[..., None]).squeeze(-1), of_W, of_b


def linear_forgets_a_row(x, W, g):
    rows, upstream = x.reshape(-1, x.shape[-1])[:-1], g.reshape(-1, g.shape[-1])[:-1]
    return g @ W.T, rows.T @ upstream, upstream.sum(dim=0)


# -------------------------------------------------------------- kl_divergence


def kl_by_xlogy(p, q):
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(dim=-1)


def kl_by_mask(p, q):
    terms = torch.zeros_like(p)
    real = p > 0
    terms[real] = p[real] * (p[real].log() - q[real].log())
    return terms.sum(dim=-1)


def kl_library_call(p, q):
    return F.kl_div(q.log(), p, reduction="none").sum(dim=-1)


def kl_halves(p, q):
    middle = (p + q) / 2
    return torch.where(p > 0, p * (p / middle).log(), 0.0).sum(dim=-1)


# --------------------------------------------------------- numerical_gradient


def difference_index_by_index(f, x):
    gradient = torch.empty_like(x)
    for index in itertools.product(*map(range, x.shape)):
        above, below = x.clone(), x.clone()
        h = 1e-5 * max(1.0, abs(x[index].item()))
        above[index] += h
        below[index] -= h
        gradient[index] = (f(above) - f(below)) / (2 * h)
    return gradient


def difference_of_fourth_order(f, x):
    basis = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    h, slopes = 1e-3, []
    for step in h * basis:
        near, far = f(x + step) - f(x - step), f(x + 2 * step) - f(x - 2 * step)
        slopes.append((8 * near - far) / (12 * h))
    return torch.tensor(slopes, dtype=x.dtype).reshape(x.shape)


def difference_backward(f, x):
    gradient = torch.zeros_like(x)
    for i in range(x.numel()):
        step = torch.zeros_like(x)
        step.view(-1)[i] = 1e-8
        gradient.view(-1)[i] = (f(x) - f(x - step)) / 1e-8
    return gradient


# ------------------------------------------------------- attend, pooled_loss


def attend_by_einsum(x, mask, W_q, W_k, W_v):
    q, k, v = (torch.einsum("btc,cd->btd", x, W) for W in (W_q, W_k, W_v))
    scores = torch.einsum("btd,bsd->bts", q, k) / math.sqrt(q.shape[-1])
    scores = torch.where(mask.unsqueeze(1), scores, -torch.inf)
    return torch.einsum("bts,bsd->btd", scores.softmax(2), v)


def attend_by_library(x, mask, W_q, W_k, W_v):
    q, k, v = x @ W_q, x @ W_k, x @ W_v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])


def attend_scaled_by_size_of_input(x, mask, W_q, W_k, W_v):
    q, k, v = x @ W_q, x @ W_k, x @ W_v
    scores = q @ k.mT / x.shape[-1] ** 0.5
    scores = scores.masked_fill(~mask[:, None], -torch.inf)
    return scores.softmax(-1) @ v


def attend_ignores_mask(x, mask, W_q, W_k, W_v):
    q, k, v = x @ W_q, x @ W_k, x @ W_v
    return F.scaled_dot_product_attention(q, k, v)


def pooled_loss_one_by_one(y, mask, w_out, target):
    total = 0.0
    for row, real, due in zip(y, mask, target, strict=True):
        total += (row[real].mean(dim=0) @ w_out[:, 0] - due) ** 2
    return float(total / len(target))


def pooled_loss_with_columns(y, mask, w_out, target):
    weights = mask.to(y.dtype)
    weights /= weights.sum(dim=1)[:, None]  # (B, T), each row sums to 1
    prediction = torch.einsum("bt,btd,do->bo", weights, y, w_out)
    return F.mse_loss(prediction, target[:, None])


def pooled_loss_turns_the_mask(y, mask, w_out, target):
    y = y.masked_fill(mask.logical_not_()[..., None], 0.0)
    pooled = y.sum(1) / (~mask).sum(1, keepdim=True)
    return ((pooled @ w_out)[:, 0] - target).square().mean()


def pooled_loss_of_the_mean(y, mask, w_out, target):
    pooled = (y * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    return ((pooled @ w_out).mean() - target.mean()) ** 2


RIGHT = {
    "softmax": [softmax_through_logsumexp, softmax_row_by_row],
    "softmax_backward": [backward_with_jacobian, backward_by_einsum],
    "cross_entropy": [loss_with_one_hot, loss_row_by_row],
    "linear_backward": [linear_by_einsum, linear_row_by_row],
    "kl_divergence": [kl_by_xlogy, kl_by_mask],
    "numerical_gradient": [difference_index_by_index, difference_of_fourth_order],
    "attend": [attend_by_einsum, attend_by_library],
    "pooled_loss": [pooled_loss_one_by_one, pooled_loss_with_columns],
}

WRONG = {
    "softmax": [
        softmax_library_call,
        softmax_writes_into_logits,
        softmax_always_float32,
    ],
    "softmax_backward": [backward_full_outer_product],
    "cross_entropy": [loss_hides_underflow],
    "linear_backward": [linear_forgets_a_row],
    "kl_divergence": [kl_library_call, kl_halves],
    "numerical_gradient": [difference_backward],
    "attend": [attend_scaled_by_size_of_input, attend_ignores_mask],
    "pooled_loss": [pooled_loss_turns_the_mask, pooled_loss_of_the_mean],
}

_LAST = "with two dimensions the last one is number 1"

EQUIVALENT = {
    "cross_entropy: `shifted = z - z.max(axis=-1, keepdims=True)` -> "
    "`shifted = z - z.max(axis=1, keepdims=True)`": _LAST,
    "cross_entropy: `log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, "
    "keepdims=True))` -> `log_p = shifted - np.log(np.exp(shifted).sum(axis=1, "
    "keepdims=True))`": _LAST,
    "pooled_loss: `prediction = (pooled @ w_out).squeeze(-1)` -> "
    "`prediction = (pooled @ w_out).squeeze(1)`": _LAST,
}
