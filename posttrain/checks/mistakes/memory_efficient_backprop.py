"""What goes wrong in the exercise `memory_efficient_backprop`, and the hint for each.

Each mistake is a whole answer. Where several differ from a right answer in one place
only, they share it as a base and change that place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from posttrain.checks.task import Mistake

# ------------------------------------------------------------------- ce_gradient


def gradient_right_but(
    onehot=1.0, by_all=False, ignored=0.0, safe=True, mean=True, sign=1.0
):
    """A right `ce_gradient`, but for the places where each mistake goes wrong."""

    def ce_gradient(logits, targets):
        counted = targets != -100
        N = len(targets) if by_all else counted.sum()
        top = logits.amax(dim=1, keepdim=True) if safe else 0.0
        e = torch.exp(logits - top)
        p = e / e.sum(dim=1, keepdim=True)
        place = targets.clamp(min=0)[:, None]
        chosen = logits.gather(1, place)[:, 0]
        nats = (e.sum(dim=1).log() + (top[:, 0] if safe else 0.0)) - chosen
        hit = torch.zeros_like(p).scatter(1, place, onehot)
        kept = torch.where(counted, 1.0, ignored).to(p.dtype)[:, None]
        G = sign * (p - hit) * kept / (N if mean else 1)
        return torch.where(counted, nats, 0.0).sum() / N, G

    return ce_gradient


def gradient_without_onehot(logits, targets):
    return gradient_right_but(onehot=0.0)(logits, targets)


def gradient_by_all_rows(logits, targets):
    return gradient_right_but(by_all=True)(logits, targets)


def gradient_of_ignored_rows(logits, targets):
    return gradient_right_but(ignored=1.0)(logits, targets)


def gradient_overflows(logits, targets):
    return gradient_right_but(safe=False)(logits, targets)


def gradient_of_the_sum(logits, targets):
    return gradient_right_but(mean=False)(logits, targets)


def gradient_turned_round(logits, targets):
    return gradient_right_but(sign=-1.0)(logits, targets)


def gradient_wraps_round(logits, targets):
    counted = targets != -100
    G = logits.softmax(dim=1)
    rows = torch.arange(len(targets))
    nats = torch.where(counted, -G[rows, targets].log(), 0.0)
    G[rows, targets] -= 1
    return nats.sum() / counted.sum(), G * counted[:, None] / counted.sum()


# -------------------------------------------------------------------- chunk_step


def step_right_but(
    upcast=True, weighted=True, detach=True, sums=torch.float32, gradient=None
):
    """A right `chunk_step`, but for the places where each mistake goes wrong."""

    def chunk_step(x, weight, loss, rows, upstream):
        with torch.enable_grad():
            logits = F.linear(x, weight).detach().requires_grad_()
            out = loss(logits.float() if upcast else logits, *rows)
            total = (out * upstream).sum() if weighted else out.sum()
            if gradient is None:
                (G,) = torch.autograd.grad(total, logits, retain_graph=not detach)
            else:
                G = gradient(logits.detach(), rows, upstream)
        out = out.detach() if detach else out
        return out, G @ weight, (G.mT @ x).to(sums)

    return chunk_step


def step_without_upcast(*given):
    return step_right_but(upcast=False)(*given)


def step_without_upstream(*given):
    return step_right_but(weighted=False)(*given)


def step_keeps_the_graph(*given):
    return step_right_but(detach=False)(*given)


def step_dw_in_its_own_dtype(x, weight, loss, rows, upstream):
    return step_right_but(sums=x.dtype)(x, weight, loss, rows, upstream)


def step_hard_coded(*given):
    def gradient(logits, rows, upstream):
        G = logits.float().softmax(dim=-1)
        if rows:
            G = G - F.one_hot(rows[0].long().clamp(min=0), G.shape[1])
        return (G * upstream[:, None]).to(logits.dtype)

    return step_right_but(gradient=gradient)(*given)


def step_without_grad_mode(x, weight, loss, rows, upstream):
    logits = F.linear(x, weight).float().requires_grad_()
    out = loss(logits, *rows)
    (G,) = torch.autograd.grad((out * upstream).sum(), logits)
    return out.detach(), G.to(x.dtype) @ weight, (G.to(x.dtype).mT @ x).float()


def step_into_grad(x, weight, loss, rows, upstream):
    with torch.enable_grad():
        out = loss(F.linear(x, weight).float(), *rows)
        (out * upstream).sum().backward()
    return out.detach(), x.grad, weight.grad.float()


# -------------------------------------------------------------------- peak_bytes


def bytes_right_but(tables=3, sums=4, end=True, clip=True, frozen=True, own=True):
    """A right `peak_bytes`, but for what each mistake counts otherwise."""

    def peak_bytes(N, d, V, n, size, trained):
        n = min(n, N) if clip else n
        W = V * d if trained or not frozen else 0
        held = size * N * d + (sums or size) * W
        chunk = n * V * (size * own + 4 * tables)
        return held + max(chunk, size * W if end and size < 4 else 0)

    return peak_bytes


def bytes_one_table(*given):
    return bytes_right_but(tables=1)(*given)


def bytes_without_logits(*given):
    return bytes_right_but(own=False)(*given)


def bytes_dw_in_its_own_dtype(*given):
    return bytes_right_but(sums=None)(*given)


def bytes_without_the_end(*given):
    return bytes_right_but(end=False)(*given)


def bytes_of_rows_that_do_not_exist(*given):
    return bytes_right_but(clip=False)(*given)


def bytes_of_a_frozen_dw(*given):
    return bytes_right_but(frozen=False)(*given)


def bytes_of_both_moments(N, d, V, n, size, trained):
    W, n = V * d * trained, min(n, N)
    cast = size * W if size < 4 else 0
    return size * N * d + 4 * W + n * V * (size + 12) + cast


def bytes_of_a_frozen_cast(N, d, V, n, size, trained):
    chunk, cast = min(n, N) * V * (size + 12), size * V * d if size < 4 else 0
    return size * N * d + 4 * V * d * trained + max(chunk, cast)


def bytes_of_all_rows(N, d, V, n, size, trained):
    return bytes_right_but()(N, d, V, N, size, trained)


# ------------------------------------------------------- memory_efficient_linear


class Linear:
    """A right answer, cut into the places where each mistake goes wrong."""

    def __call__(self, hidden, weight, loss, rows, row_weights, chunk_rows):
        bent = self

        class Function(torch.autograd.Function):
            @staticmethod
            def forward(ctx, hidden, weight):
                trained = bent.trains(ctx.needs_input_grad[1])
                dx = bent.room(hidden)
                dw = torch.zeros_like(weight, dtype=bent.sums(weight)) * trained
                dw = dw if trained else None
                total = bent.start(weight)
                N = len(hidden)
                for i in bent.starts(N, chunk_rows):
                    x = hidden[i : i + chunk_rows]
                    given = bent.cut(rows, i, chunk_rows)
                    share = row_weights[i : i + chunk_rows]
                    share = bent.reweigh(share, N, chunk_rows)
                    out, G = bent.gradient(x, weight, loss, given, share)
                    total += (out * share).sum()
                    if trained:
                        dw = bent.add(dw, G.mT @ x)
                    dx[i : i + chunk_rows] = G @ weight
                    del out, G
                ctx.save_for_backward(dx, dw if dw is None else dw.to(weight.dtype))
                return total

            @staticmethod
            def backward(ctx, upstream):
                dx, dw = ctx.saved_tensors
                if not ctx.needs_input_grad[1]:
                    dw = None
                return bent.scale(dx, upstream), bent.scale(dw, upstream)

        return Function.apply(hidden, weight)

    def trains(self, needed):
        return needed

    def sums(self, weight):
        return torch.float32

    def room(self, hidden):
        return torch.zeros_like(hidden)

    def start(self, weight):
        return torch.zeros((), device=weight.device)

    def starts(self, N, n):
        return range(0, N, n)

    def cut(self, rows, i, n):
        return [row[i : i + n] for row in rows]

    def reweigh(self, share, N, n):
        return share

    def upcast(self, logits):
        return logits.float()

    def gradient(self, x, weight, loss, rows, share):
        logits = F.linear(x, weight).detach().requires_grad_()
        with torch.enable_grad():
            out = loss(self.upcast(logits), *rows)
        (G,) = torch.autograd.grad(out, logits, share)
        return out.detach(), G

    def add(self, dw, more):
        dw += more
        return dw

    def scale(self, gradient, upstream):
        return None if gradient is None else gradient * upstream.to(gradient.dtype)


class LinearWithoutUpcast(Linear):
    def upcast(self, logits):
        return logits


class LinearWithoutUpstream(Linear):
    def scale(self, gradient, upstream):
        return gradient


class LinearScalesInPlace(Linear):
    def scale(self, gradient, upstream):
        return None if gradient is None else gradient.mul_(upstream)


class LinearDropsTheLastChunk(Linear):
    def starts(self, N, n):
        return range(0, N - n + 1, n)


class LinearMeanOfChunks(Linear):
    def reweigh(self, share, N, n):
        return share / share.sum() / -(-N // n)


class LinearOverwritesDw(Linear):
    def add(self, dw, more):
        return more.float()


class LinearSumsInSixteenBits(Linear):
    def sums(self, weight):
        return weight.dtype


class LinearRowsNotCut(Linear):
    def cut(self, rows, i, n):
        return rows


class LinearFrozenGradient(Linear):
    def trains(self, needed):
        return True


class LinearHardCoded(Linear):
    def gradient(self, x, weight, loss, rows, share):
        logits = F.linear(x, weight).float()
        G = logits.softmax(dim=-1)
        if rows:
            target = rows[0].long().clamp(min=0)
            G = G - F.one_hot(target, G.shape[1])
            if rows[0].ndim == 1:
                G = G * (rows[0] != -100)[:, None]
        return loss(logits, *rows), (G * share[:, None]).to(x.dtype)


class LinearInTheRoomOfHidden(Linear):
    def room(self, hidden):
        return hidden.data


class LinearWeightsForgotten(Linear):
    def gradient(self, x, weight, loss, rows, share):
        return super().gradient(x, weight, loss, rows, torch.ones_like(share))


def linear_without_upcast(*given):
    return LinearWithoutUpcast()(*given)


def linear_without_upstream(*given):
    return LinearWithoutUpstream()(*given)


def linear_scales_in_place(*given):
    return LinearScalesInPlace()(*given)


def linear_drops_the_last_chunk(*given):
    return LinearDropsTheLastChunk()(*given)


def linear_mean_of_chunks(*given):
    return LinearMeanOfChunks()(*given)


def linear_overwrites_dw(*given):
    return LinearOverwritesDw()(*given)


def linear_sums_in_sixteen_bits(*given):
    return LinearSumsInSixteenBits()(*given)


def linear_rows_not_cut(*given):
    return LinearRowsNotCut()(*given)


def linear_frozen_gradient(*given):
    return LinearFrozenGradient()(*given)


def linear_hard_coded(*given):
    return LinearHardCoded()(*given)


def linear_weights_forgotten(*given):
    return LinearWeightsForgotten()(*given)


def linear_in_the_room_of_hidden(*given):
    return LinearInTheRoomOfHidden()(*given)


def linear_all_at_once(hidden, weight, loss, rows, row_weights, chunk_rows):
    logits = F.linear(hidden, weight).float()
    return (row_weights * loss(logits, *rows)).sum()


def linear_loop_without_a_function(hidden, weight, loss, rows, row_weights, chunk_rows):
    total = torch.zeros((), device=hidden.device)
    for i in range(0, len(hidden), chunk_rows):
        here = slice(i, i + chunk_rows)
        logits = F.linear(hidden[here], weight).float()
        total = (
            total + (row_weights[here] * loss(logits, *(r[here] for r in rows))).sum()
        )
    return total


# --------------------------------------------------------------------- grpo_loss


class Grpo:
    """A right `grpo_loss`, cut into the places where each mistake goes wrong."""

    def __call__(
        self, head, hidden, weight, tokens, old, ref, advantages, mask, clip, beta
    ):
        spread = advantages[:, None].expand_as(old)
        shares = self.shares(mask).to(old.dtype)

        def loss(logits, tokens, old, ref, advantages):
            new = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
            ratio = self.ratio(new, old)
            term = self.bounded(ratio, advantages, clip)
            return self.sign() * term + beta * self.kl(new, ref, old)

        rows = [x.flatten() for x in (tokens, old, ref, spread)]
        return head(hidden.flatten(0, 1), weight, loss, rows, shares.flatten())

    def shares(self, mask):
        return mask / (len(mask) * mask.sum(dim=1, keepdim=True).clamp(min=1))

    def ratio(self, new, old):
        return torch.exp(new - old)

    def bounded(self, ratio, advantages, clip):
        clipped = ratio.clamp(1 - clip, 1 + clip)
        return torch.min(ratio * advantages, clipped * advantages)

    def sign(self):
        return -1.0

    def kl(self, new, ref, old):
        return torch.expm1(ref - new) - (ref - new)


class GrpoMeanOfAllTokens(Grpo):
    def shares(self, mask):
        return mask / mask.sum()


class GrpoPaddingCounts(Grpo):
    def shares(self, mask):
        return torch.ones_like(mask) / mask.numel()


class GrpoFromTheStart(Grpo):
    def shares(self, mask):
        lengths = mask.sum(dim=1, keepdim=True)
        return super().shares(torch.arange(mask.shape[1]) < lengths)


class GrpoEmptyAnswersLeftOut(Grpo):
    def shares(self, mask):
        lengths = mask.sum(dim=1, keepdim=True)
        return mask / ((lengths > 0).sum() * lengths.clamp(min=1))


class GrpoMaxForMin(Grpo):
    def bounded(self, ratio, advantages, clip):
        clipped = ratio.clamp(1 - clip, 1 + clip)
        return torch.max(ratio * advantages, clipped * advantages)


class GrpoOnlyClipped(Grpo):
    def bounded(self, ratio, advantages, clip):
        return ratio.clamp(1 - clip, 1 + clip) * advantages


class GrpoNotClipped(Grpo):
    def bounded(self, ratio, advantages, clip):
        return ratio * advantages


class GrpoSign(Grpo):
    def sign(self):
        return 1.0


class GrpoKlTurnedRound(Grpo):
    def kl(self, new, ref, old):
        return torch.expm1(new - ref) - (new - ref)


class GrpoKlToOld(Grpo):
    def kl(self, new, ref, old):
        return torch.expm1(old - new) - (old - new)


class GrpoRatioDetached(Grpo):
    def ratio(self, new, old):
        return torch.exp(new.detach() - old)


def grpo_mean_of_all_tokens(*given):
    return GrpoMeanOfAllTokens()(*given)


def grpo_padding_counts(*given):
    return GrpoPaddingCounts()(*given)


def grpo_from_the_start(*given):
    return GrpoFromTheStart()(*given)


def grpo_empty_answers_left_out(*given):
    return GrpoEmptyAnswersLeftOut()(*given)


def grpo_max_for_min(*given):
    return GrpoMaxForMin()(*given)


def grpo_only_clipped(*given):
    return GrpoOnlyClipped()(*given)


def grpo_not_clipped(*given):
    return GrpoNotClipped()(*given)


def grpo_sign(*given):
    return GrpoSign()(*given)


def grpo_kl_turned_round(*given):
    return GrpoKlTurnedRound()(*given)


def grpo_kl_to_old(*given):
    return GrpoKlToOld()(*given)


def grpo_ratio_detached(*given):
    return GrpoRatioDetached()(*given)


def grpo_one_number(
    head, hidden, weight, tokens, old, ref, advantages, mask, clip, beta
):
    whole = Grpo()

    def averaged(x, weight, loss, rows, row_weights):
        return head(x, weight, lambda *given: loss(*given).mean(), rows, row_weights)

    return whole(
        averaged, hidden, weight, tokens, old, ref, advantages, mask, clip, beta
    )


# ----------------------------------------------------------- tiled_cross_entropy


def tiled_right_but(
    shrink=True, safe=True, last=True, offset=True, ignore=True, first=-torch.inf
):
    """A right `tiled_cross_entropy`, but for where each mistake goes wrong."""

    def tiled_cross_entropy(hidden, weight, targets, words):
        N, V = len(hidden), len(weight)
        m = torch.full((N,), first, dtype=hidden.dtype)
        total, chosen = torch.zeros_like(m), torch.zeros_like(m)
        place = targets.clamp(min=0)
        for j in range(0, V if last else V - words + 1, words):
            s = hidden @ weight[j : j + words].mT
            top = torch.maximum(m, s.amax(dim=1)) if safe else torch.zeros_like(m)
            kept = total * torch.exp(m - top) if shrink and safe else total
            total = kept + torch.exp(s - top[:, None]).sum(dim=1)
            m = top
            column = place - j if offset else place
            here = (place >= j) & (place < j + words)
            column = column.clamp(0, s.shape[1] - 1)[:, None]
            chosen = torch.where(here, s.gather(1, column)[:, 0], chosen)
        losses = m + torch.log(total) - chosen
        return torch.where(targets == -100, 0.0, losses) if ignore else losses

    return tiled_cross_entropy


def tiled_not_rescaled(*given):
    return tiled_right_but(shrink=False)(*given)


def tiled_without_maximum(*given):
    return tiled_right_but(safe=False)(*given)


def tiled_drops_the_last_words(*given):
    return tiled_right_but(last=False)(*given)


def tiled_target_not_shifted(*given):
    return tiled_right_but(offset=False)(*given)


def tiled_ignored_count(*given):
    return tiled_right_but(ignore=False)(*given)


def tiled_first_maximum_zero(*given):
    return tiled_right_but(first=0.0)(*given)


def tiled_changes_the_targets(hidden, weight, targets, words):
    losses = tiled_right_but()(hidden, weight, targets, words)
    targets[targets == -100] = 0
    return losses


def tiled_all_at_once(hidden, weight, targets, words):
    return F.cross_entropy(hidden @ weight.mT, targets, reduction="none")


MISTAKES = {
    "ce_gradient": (
        Mistake(
            gradient_without_onehot,
            "G is the softmax alone. The logit of the target also lowers the loss "
            "directly: subtract 1 at the target.",
        ),
        Mistake(
            gradient_by_all_rows,
            "the mean is taken over all rows. Rows whose target is -100 do not count: "
            "divide by how many others there are.",
        ),
        Mistake(
            gradient_of_ignored_rows,
            "rows whose target is -100 have a gradient. They are no part of the loss: "
            "their rows of G are 0.",
        ),
        Mistake(
            gradient_overflows,
            "e^logit overflows. Subtract each row's maximum before the exponential; "
            "the softmax stays the same, and the log-sum-exp gets it back.",
        ),
        Mistake(
            gradient_of_the_sum,
            "the loss is a mean and G is the gradient of the sum: divide G as well.",
        ),
        Mistake(
            gradient_turned_round,
            "G has the wrong sign. Raising the target's logit lowers the loss, so its "
            "entry is negative: softmax minus one-hot.",
        ),
        Mistake(
            gradient_wraps_round,
            "a target of -100 is used as a column, and in Python a negative index "
            "counts from the end. And the log of a softmax that is 0 is not finite: "
            "use log_softmax.",
        ),
    ),
    "chunk_step": (
        Mistake(
            step_without_upcast,
            "the loss saw logits of 16 bits. Call .float() on them first: a log- "
            "softmax over many words needs float32.",
        ),
        Mistake(
            step_without_upstream,
            "the upstream gradient is not used. You owe the gradient of sum_i "
            "upstream_i out_i, not that of the plain sum.",
        ),
        Mistake(
            step_keeps_the_graph,
            "the outputs still carry their graph, and with it the logits of the "
            "chunk. Detach what you return.",
        ),
        Mistake(
            step_dw_in_its_own_dtype,
            "dw has the dtype of the weight. It will be one of many terms of a sum: "
            "give it in float32.",
        ),
        Mistake(
            step_hard_coded,
            "the gradient is that of cross-entropy, whatever the loss. Let autograd "
            "differentiate `loss` with respect to the logits.",
        ),
        Mistake(
            step_without_grad_mode,
            "inside the forward pass of a Function grad mode is off: no graph was "
            "made. Call the loss under torch.enable_grad().",
        ),
        Mistake(
            step_into_grad,
            "backward() wrote into x.grad and weight.grad, which belong to the "
            "caller. Detach what you differentiate with respect to, or use "
            "torch.autograd.grad.",
        ),
    ),
    "peak_bytes": (
        Mistake(
            bytes_one_table,
            "the loss holds three float32 tables of the chunk at its worst moment, "
            "not one: the log-softmax, the gradient at it, and the gradient at the "
            "logits.",
        ),
        Mistake(
            bytes_without_logits,
            "the logits of the chunk in their own dtype are missing: they are the "
            "leaf that autograd differentiates with respect to, and stay.",
        ),
        Mistake(
            bytes_dw_in_its_own_dtype,
            "dW is summed in float32: 4 bytes a number, whatever the weight has.",
        ),
        Mistake(
            bytes_without_the_end,
            "at the end the float32 sum and its copy in 16 bits are both there. That "
            "can be the worst moment.",
        ),
        Mistake(
            bytes_of_rows_that_do_not_exist,
            "a chunk never has more rows than there are: take min(n, N).",
        ),
        Mistake(
            bytes_of_a_frozen_dw,
            "a weight that is not trained needs no dW at all.",
        ),
        Mistake(
            bytes_of_a_frozen_cast,
            "a frozen weight has no dW, and so no copy of it in 16 bits at the end.",
        ),
        Mistake(
            bytes_of_both_moments,
            "the chunk's tables are gone when dW is cast. The peak is the larger of "
            "the two moments, not their sum.",
        ),
        Mistake(
            bytes_of_all_rows,
            "the tables have the rows of one chunk, not all N.",
        ),
    ),
    "memory_efficient_linear": (
        Mistake(
            linear_without_upcast,
            "the loss saw logits of 16 bits. The upcast to float32 stays; what "
            "changes is that it holds for one chunk at a time.",
        ),
        Mistake(
            linear_without_upstream,
            "backward ignores the gradient that comes in. It is 1 only if the result "
            "is the loss itself: multiply by it.",
        ),
        Mistake(
            linear_scales_in_place,
            "backward changes the tensors that it saved. When it runs again "
            "(retain_graph=True) they are scaled twice: multiply into a new tensor.",
        ),
        Mistake(
            linear_drops_the_last_chunk,
            "the rows after the last full chunk are missing. The last chunk may be "
            "shorter: range(0, N, chunk_rows) and a slice cover all rows.",
        ),
        Mistake(
            linear_mean_of_chunks,
            "you averaged each chunk by itself, and then the chunks. Chunks differ in "
            "how many rows count: use row_weights as they are, and add.",
        ),
        Mistake(
            linear_overwrites_dw,
            "dW is the last chunk's. Every chunk adds to every row of dW.",
        ),
        Mistake(
            linear_sums_in_sixteen_bits,
            "dW is summed in 16 bits: once it is 256, bfloat16 cannot add 1 to it. "
            "Sum over chunks in float32 and cast once.",
        ),
        Mistake(
            linear_rows_not_cut,
            "the loss gets a chunk of logits and all rows of the other arguments. Cut "
            "them with the same slice.",
        ),
        Mistake(
            linear_frozen_gradient,
            "a frozen weight gets no gradient, and yet a tensor as large as dW was "
            "made. Ask ctx.needs_input_grad, or weight.requires_grad, before you make "
            "it.",
        ),
        Mistake(
            linear_hard_coded,
            "the gradient is that of cross-entropy, whatever the loss. Let autograd "
            "differentiate `loss` with respect to the logits of the chunk.",
        ),
        Mistake(
            linear_in_the_room_of_hidden,
            "dX was written over `hidden`. Whoever made it may still need it, for its "
            "own backward pass: give dX a tensor of its own.",
        ),
        Mistake(
            linear_weights_forgotten,
            "the loss is weighted by row_weights, its gradient is not. Differentiate "
            "sum_i row_weights_i out_i.",
        ),
        Mistake(
            linear_all_at_once,
            "all rows went through the head at once: nothing is saved.",
        ),
        Mistake(
            linear_loop_without_a_function,
            "a loop saves what the loss makes on the way, but autograd still keeps a "
            "table of every chunk until backward. Differentiate a chunk before you go "
            "on to the next, or recompute it: both need an autograd.Function.",
        ),
    ),
    "grpo_loss": (
        Mistake(
            grpo_mean_of_all_tokens,
            "the mean is over all tokens. Here each answer's tokens are averaged "
            "first, then the answers: a token weighs 1 / (B · length of its answer).",
        ),
        Mistake(
            grpo_padding_counts,
            "padding counts as tokens. Give places outside of the mask the weight 0, "
            "and divide by each answer's own length.",
        ),
        Mistake(
            grpo_from_the_start,
            "only the *number* of places is taken from the mask. It also says where "
            "they are: an answer need not begin at place 0, nor be in one piece.",
        ),
        Mistake(
            grpo_empty_answers_left_out,
            "an answer without tokens counts as one of zeros: the mean over answers "
            "divides by B.",
        ),
        Mistake(
            grpo_max_for_min,
            "the objective takes the smaller of the plain and the clipped product.",
        ),
        Mistake(
            grpo_only_clipped,
            "the plain product is missing: where the ratio has moved against the "
            "advantage, the clip must not hide the way back. Take the minimum of "
            "both.",
        ),
        Mistake(grpo_not_clipped, "the ratio is not clipped to 1 - clip ... 1 + clip."),
        Mistake(
            grpo_sign,
            "this is minimised: the loss is minus the objective, plus beta times KL.",
        ),
        Mistake(
            grpo_kl_turned_round,
            "the estimate has its log-ratio turned round. With g = ref - new it is "
            "e^g - g - 1.",
        ),
        Mistake(
            grpo_kl_to_old,
            "the KL estimate is taken to the policy that sampled. It is to the "
            "reference.",
        ),
        Mistake(
            grpo_ratio_detached,
            "the ratio is detached, so the policy gets no gradient from it.",
        ),
        Mistake(
            grpo_one_number,
            "the loss gives one number for a chunk. It must give one for each row: "
            "the weights of the rows make the mean.",
        ),
    ),
    "tiled_cross_entropy": (
        Mistake(
            tiled_not_rescaled,
            "when the maximum rises, the sum so far must shrink by e^(old - new).",
        ),
        Mistake(
            tiled_without_maximum,
            "e^logit overflows or underflows: carry each row's maximum along.",
        ),
        Mistake(
            tiled_first_maximum_zero,
            "the running maximum begins at 0. Where all logits are far below 0, every "
            "exponential is 0, and log 0 is not finite: begin at -inf.",
        ),
        Mistake(
            tiled_changes_the_targets,
            "the caller's `targets` were changed: an assignment to targets[...] works "
            "in place. Use clamp or torch.where.",
        ),
        Mistake(
            tiled_drops_the_last_words,
            "the last tile may have fewer words, and they count as well.",
        ),
        Mistake(
            tiled_target_not_shifted,
            "a target is a word of the whole vocabulary. In the tile that begins at "
            "word j its column is target - j.",
        ),
        Mistake(
            tiled_ignored_count,
            "rows whose target is -100 have the loss 0.",
        ),
        Mistake(
            tiled_all_at_once,
            "all logits are there at once. Look at `words` rows of the weight at a "
            "time, and do not join what they give: for each row keep a maximum, a "
            "sum and the target's logit.",
        ),
    ),
}
