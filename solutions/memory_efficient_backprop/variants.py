"""Answers that the grader of `memory_efficient_backprop` must tell apart.

Not for students. RIGHT: written another way, and yet right. WRONG: more wrong ones,
beside the known mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution
that behave the same, with the reason.
"""

import math

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

# ------------------------------------------------------------------- ce_gradient


def gradient_row_by_row(logits, targets):
    counted = [i for i, y in enumerate(targets.tolist()) if y != -100]
    G, loss = torch.zeros_like(logits), torch.zeros((), dtype=logits.dtype)
    for i in counted:
        row = logits[i] - logits[i].max()
        p = row.exp() / row.exp().sum()
        loss = loss + (row.exp().sum().log() - row[targets[i]]) / len(counted)
        p[targets[i]] -= 1
        G[i] = p / len(counted)
    return loss, G


def gradient_of_kept_rows(logits, targets):
    keep = targets != -100
    z, y = logits[keep], targets[keep]
    G = torch.zeros_like(logits)
    G[keep] = (z.softmax(-1) - F.one_hot(y, z.shape[1]).to(z.dtype)) / len(y)
    return F.cross_entropy(z, y), G


def gradient_and_a_float(logits, targets):
    loss, G = gradient_of_kept_rows(logits, targets)
    return loss.item(), G


def gradient_of_shifted_targets(logits, targets):
    return gradient_of_kept_rows(logits, targets.roll(1))


def gradient_counts_a_row_too_many(logits, targets):
    loss, G = gradient_of_kept_rows(logits, targets)
    count = (targets != -100).sum()
    return loss, G * count / (count + 1)


# -------------------------------------------------------------------- chunk_step


def step_by_leaves(x, weight, loss, rows, upstream):
    """Autograd through the linear layer as well."""
    with torch.enable_grad():
        a, w = x.detach().requires_grad_(), weight.detach().requires_grad_()
        out = loss((a @ w.mT).float(), *rows)
        (out * upstream).sum().backward()
    return out.detach(), a.grad, w.grad.float()


def step_in_float32(x, weight, loss, rows, upstream):
    """The products in float32, cast at the end."""
    a, w = x.detach().float(), weight.detach().float()
    logits = F.linear(x, weight).float().detach()
    with torch.enable_grad():
        leaf = logits.requires_grad_()
        out = loss(leaf, *rows)
        (G,) = torch.autograd.grad(out, leaf, upstream.to(out.dtype))
    return out.detach(), (G @ w).to(x.dtype), G.mT @ a


def step_of_the_mean(x, weight, loss, rows, upstream):
    out, dx, dw = step_by_leaves(x, weight, loss, rows, upstream)
    return out, dx / len(x), dw / len(x)


def step_returns_the_sum(x, weight, loss, rows, upstream):
    out, dx, dw = step_by_leaves(x, weight, loss, rows, upstream)
    return (out * upstream).sum(), dx, dw


def step_changes_upstream(x, weight, loss, rows, upstream):
    answer = step_by_leaves(x, weight, loss, rows, upstream)
    upstream /= len(x)
    return answer


# -------------------------------------------------------------------- peak_bytes


def bytes_by_lists(N, d, V, n, size, trained):
    rows = N if n > N else n
    always = [N * d * size, V * d * 4 if trained else 0]
    chunk = [rows * V * size, rows * V * 4, rows * V * 4, rows * V * 4]
    end = [V * d * 2 if trained and size == 2 else 0]
    return max(sum(always + chunk), sum(always + end))


def bytes_of_the_chunk_only(N, d, V, n, size, trained):
    return size * N * d + min(n, N) * V * (size + 12)


def bytes_of_the_inputs_too(N, d, V, n, size, trained):
    return bytes_by_lists(N, d, V, n, size, trained) + size * (N * d + V * d)


# ------------------------------------------------------- memory_efficient_linear


class Recomputed(torch.autograd.Function):
    """Forward without a graph; backward makes each chunk again."""

    @staticmethod
    def forward(ctx, hidden, weight, loss, row_weights, n, *rows):
        ctx.save_for_backward(hidden, weight, row_weights, *rows)
        ctx.loss, ctx.n = loss, n
        total = 0.0
        for i in range(0, len(hidden), n):
            out = loss(
                (hidden[i : i + n] @ weight.mT).float(), *(r[i : i + n] for r in rows)
            )
            total = total + (out * row_weights[i : i + n]).sum()
        return total

    @staticmethod
    def backward(ctx, upstream):
        hidden, weight, row_weights, *rows = ctx.saved_tensors
        n, dx = ctx.n, torch.empty_like(hidden)
        dw = (
            torch.zeros_like(weight, dtype=torch.float32)
            if ctx.needs_input_grad[1]
            else None
        )
        for i in range(0, len(hidden), n):
            x = hidden[i : i + n]
            with torch.enable_grad():
                z = (x @ weight.mT).detach().requires_grad_()
                out = ctx.loss(z.float(), *(r[i : i + n] for r in rows))
            (G,) = torch.autograd.grad(out, z, row_weights[i : i + n] * upstream)
            dx[i : i + n] = G @ weight
            if dw is not None:
                dw += G.mT @ x
        dw = None if dw is None else dw.to(weight.dtype)
        return dx, dw, None, None, None, *[None] * len(rows)


def linear_recomputed(hidden, weight, loss, rows, row_weights, chunk_rows):
    return Recomputed.apply(hidden, weight, loss, row_weights, chunk_rows, *rows)


def linear_of_smaller_chunks(hidden, weight, loss, rows, row_weights, chunk_rows):
    n = math.ceil(chunk_rows / 2)
    return Recomputed.apply(hidden, weight, loss, row_weights, n, *rows)


class ByLeaves(torch.autograd.Function):
    """Hidden states and weight are leaves of each chunk's graph."""

    @staticmethod
    def forward(ctx, hidden, weight, loss, row_weights, n, rows):
        trained = ctx.needs_input_grad[1]
        parts, total = [], 0.0
        dw = torch.zeros(weight.shape, device=weight.device) if trained else None
        pieces = zip(
            hidden.split(n),
            row_weights.split(n),
            *(r.split(n) for r in rows),
            strict=True,
        )
        for x, share, *given in pieces:
            x, w = x.detach().requires_grad_(), weight.detach()
            if trained:
                w.requires_grad_()
            with torch.enable_grad():
                part = share @ loss(F.linear(x, w).float(), *given)
            part.backward()
            total += part.detach()
            parts.append(x.grad)
            if trained:
                dw += w.grad
            del x, w, part
        ctx.save_for_backward(torch.cat(parts), dw)
        ctx.dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx, upstream):
        dx, dw = ctx.saved_tensors
        dw = None if dw is None else (dw * upstream).to(ctx.dtype)
        return (dx * upstream).to(dx.dtype), dw, None, None, None, None


def linear_by_leaves(hidden, weight, loss, rows, row_weights, chunk_rows):
    return ByLeaves.apply(hidden, weight, loss, row_weights, chunk_rows, rows)


def linear_by_checkpoints(hidden, weight, loss, rows, row_weights, chunk_rows):
    """Autograd sums dW in the weight's own dtype."""

    def part(x, share, *given):
        return share @ loss(F.linear(x, weight).float(), *given)

    n, total = chunk_rows, 0.0
    for i in range(0, len(hidden), n):
        given = (row[i : i + n] for row in (hidden, row_weights, *rows))
        total = total + checkpoint(part, *given, use_reentrant=False)
    return total


def linear_without_row_weights(hidden, weight, loss, rows, row_weights, chunk_rows):
    ones = torch.ones_like(row_weights)
    return Recomputed.apply(hidden, weight, loss, ones, chunk_rows, *rows)


def linear_detached_weight(hidden, weight, loss, rows, row_weights, chunk_rows):
    args = hidden, weight.detach(), loss, row_weights, chunk_rows
    return Recomputed.apply(*args, *rows)


def linear_half_the_rows(hidden, weight, loss, rows, row_weights, chunk_rows):
    keep = (torch.arange(len(hidden), device=hidden.device) % 2 == 0).float()
    args = hidden, weight, loss, row_weights * keep, chunk_rows
    return Recomputed.apply(*args, *rows)


# --------------------------------------------------------------------- grpo_loss


def grpo_every_place(
    head, hidden, weight, tokens, old, ref, advantages, mask, clip, beta
):
    """All places go through the head; those outside of the mask weigh nothing."""

    def loss(logits, tokens, old, ref, advantages):
        new = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        ratio = (new - old).exp()
        low, high = ratio.clamp(min=1 - clip), ratio.clamp(max=1 + clip)
        kept = torch.where(advantages > 0, high, low) * advantages
        return beta * (torch.expm1(ref - new) - ref + new) - kept

    B, T = mask.shape
    lengths = mask.sum(1).clamp(min=1)
    share = (mask.to(old.dtype) / lengths[:, None] / B).reshape(-1)
    rows = [tokens, old, ref, advantages[:, None].repeat(1, T)]
    rows = [row.reshape(-1) for row in rows]
    return head(hidden.reshape(B * T, -1), weight, loss, rows, share)


def grpo_weighted_advantages(
    head, hidden, weight, tokens, old, ref, advantages, mask, clip, beta
):
    """The weight of a row as one more argument of the loss."""

    def loss(logits, tokens, old, ref, share):
        new = -F.cross_entropy(logits, tokens, reduction="none")
        ratio = torch.exp(new - old)
        clipped = torch.minimum(torch.maximum(ratio, low), high)
        kept = torch.minimum(ratio * share[:, 0], clipped * share[:, 0])
        return share[:, 1] * beta * (torch.exp(ref - new) + new - ref - 1) - kept

    low, high = (torch.tensor(x, dtype=old.dtype) for x in (1 - clip, 1 + clip))
    weights = mask.to(old.dtype) / mask.sum(1, keepdim=True).clamp(min=1) / len(mask)
    share = torch.stack([weights * advantages[:, None], weights], dim=-1)[mask]
    rows = tokens[mask], old[mask], ref[mask], share
    ones = torch.ones_like(old[mask])
    return head(hidden[mask], weight, loss, rows, ones)


def grpo_sum_of_answers(
    head, hidden, weight, tokens, old, ref, advantages, mask, clip, beta
):
    args = head, hidden, weight, tokens, old, ref, advantages, mask, clip, beta
    return grpo_every_place(*args) * len(mask)


def grpo_without_kl(
    head, hidden, weight, tokens, old, ref, advantages, mask, clip, beta
):
    args = head, hidden, weight, tokens, old, ref, advantages, mask, clip
    return grpo_every_place(*args, 0.0)


def grpo_zero_is_padding(
    head, hidden, weight, tokens, old, ref, advantages, mask, clip, beta
):
    """Every place with a log-probability counts, whatever the mask says."""
    args = tokens, old, ref, advantages, old != 0, clip, beta
    return grpo_every_place(head, hidden, weight, *args)


def grpo_masks_in_place(
    head, hidden, weight, tokens, old, ref, advantages, mask, clip, beta
):
    old.masked_fill_(~mask, 0.0), ref.masked_fill_(~mask, 0.0)
    args = tokens, old, ref, advantages, mask, clip, beta
    return grpo_every_place(head, hidden, weight, *args)


# ----------------------------------------------------------- tiled_cross_entropy


def tiled_by_logaddexp(hidden, weight, targets, words):
    lse = torch.full_like(hidden[:, 0], -torch.inf)
    for tile in weight.split(words):
        lse = torch.logaddexp(lse, (hidden @ tile.mT).logsumexp(dim=1))
    chosen = (hidden * weight[targets.clamp(min=0)]).sum(dim=1)
    return (lse - chosen) * (targets != -100)


def tiled_in_two_passes(hidden, weight, targets, words):
    starts = range(0, len(weight), words)
    tops = [(hidden @ weight[j : j + words].mT).amax(1) for j in starts]
    top = torch.stack(tops).amax(0)
    total = sum(
        (hidden @ weight[j : j + words].mT - top[:, None]).exp().sum(1) for j in starts
    )
    picked = weight.index_select(0, targets.clamp(min=0))
    chosen = torch.einsum("nd,nd->n", hidden, picked)
    losses = top + total.log() - chosen
    return losses.masked_fill(targets == -100, 0.0)


def tiled_lse_only(hidden, weight, targets, words):
    lse = torch.full_like(hidden[:, 0], -torch.inf)
    for tile in weight.split(words):
        lse = torch.logaddexp(lse, (hidden @ tile.mT).logsumexp(dim=1))
    return lse.masked_fill(targets == -100, 0.0)


def tiled_mean(hidden, weight, targets, words):
    losses = tiled_by_logaddexp(hidden, weight, targets, words)
    return losses.sum() / (targets != -100).sum()


RIGHT = {
    "ce_gradient": [
        gradient_row_by_row,
        gradient_of_kept_rows,
        gradient_and_a_float,
    ],
    "chunk_step": [step_by_leaves, step_in_float32],
    "peak_bytes": [bytes_by_lists],
    "memory_efficient_linear": [
        linear_recomputed,
        linear_of_smaller_chunks,
        linear_by_leaves,
    ],
    "grpo_loss": [grpo_every_place, grpo_weighted_advantages],
    "tiled_cross_entropy": [tiled_by_logaddexp, tiled_in_two_passes],
}

WRONG = {
    "ce_gradient": [gradient_of_shifted_targets, gradient_counts_a_row_too_many],
    "chunk_step": [step_of_the_mean, step_returns_the_sum, step_changes_upstream],
    "peak_bytes": [bytes_of_the_chunk_only, bytes_of_the_inputs_too],
    "memory_efficient_linear": [
        linear_by_checkpoints,
        linear_without_row_weights,
        linear_detached_weight,
        linear_half_the_rows,
    ],
    "grpo_loss": [
        grpo_sum_of_answers,
        grpo_without_kl,
        grpo_zero_is_padding,
        grpo_masks_in_place,
    ],
    "tiled_cross_entropy": [tiled_lse_only, tiled_mean],
}

_TWO = "the larger or smaller of two numbers does not depend on their order"
EQUIVALENT = {
    "peak_bytes: `return held + max(chunk, cast)`"
    " -> `return held + max(cast, chunk)`": _TWO,
    "peak_bytes: `chunk = min(n, N) * V * (size + 3 * 4)`"
    " -> `chunk = min(N, n) * V * (size + 3 * 4)`": _TWO,
    "grpo_loss: `kept = torch.min(ratio * advantages, clipped * advantages)`"
    " -> `kept = torch.min(clipped * advantages, ratio * advantages)`": _TWO,
    "tiled_cross_entropy: `top = torch.maximum(m, logits.amax(dim=1))`"
    " -> `top = torch.maximum(logits.amax(dim=1), m)`": _TWO,
    "memory_efficient_linear: `total = torch.zeros((), device=hidden.device)`"
    " -> `total = torch.zeros(())`": "the grader has no GPU; on a CPU it is the same",
    "memory_efficient_linear: `ctx.save_for_backward(dx, None if dw is None else"
    " dw.to(weight.dtype))`"
    " -> `ctx.save_for_backward(dx, None if dw is None else dw)`": (
        "autograd casts a gradient to the dtype of its input; the float32 sum takes"
        " more memory until then, and stays within the limit"
    ),
    "tiled_cross_entropy: `total, chosen = (torch.zeros_like(m), torch.zeros_like(m))`"
    " -> `total, chosen = (torch.zeros_like(m), m)`": (
        "every target lies in some tile, so the first value of `chosen` is replaced"
        " wherever it counts"
    ),
}
