"""What learners get wrong in the exercise `optimizers`, and the hint that it earns."""

from __future__ import annotations

import math

import torch

from posttrain.checks.task import Mistake

# ---------------------------------------------------------------- sgd_step


def sgd_averages(p, g, u, lr, momentum, nesterov):
    u = momentum * u + (1 - momentum) * g
    return p - lr * (g + momentum * u if nesterov else u), u


def sgd_velocity_holds_lr(p, g, u, lr, momentum, nesterov):
    u = momentum * u + lr * g
    return p - (lr * g + momentum * u if nesterov else u), u


def sgd_uses_old_velocity(p, g, u, lr, momentum, nesterov):
    old, u = u, momentum * u + g
    return p - lr * (g + momentum * old if nesterov else old), u


def sgd_ignores_nesterov(p, g, u, lr, momentum, nesterov):
    u = momentum * u + g
    return p - lr * u, u


def sgd_nesterov_adds_twice(p, g, u, lr, momentum, nesterov):
    u = momentum * u + g
    return p - lr * (g + u if nesterov else u), u


def sgd_climbs(p, g, u, lr, momentum, nesterov):
    u = momentum * u + g
    return p + lr * (g + momentum * u if nesterov else u), u


def sgd_in_place(p, g, u, lr, momentum, nesterov):
    u.mul_(momentum).add_(g)
    return p - lr * (g + momentum * u if nesterov else u), u


# ---------------------------------------------------------------- AdamW


class RightAdamW:
    """A right answer, cut into the places where each mistake goes wrong."""

    def __init__(self, params, lr, betas, eps, weight_decay):
        self.params, self.lr, self.betas = list(params), lr, betas
        self.eps, self.weight_decay = eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]
        self.t = [0] * len(self.params)

    @torch.no_grad()
    def step(self):
        for i, p in enumerate(self.params):
            if p.grad is not None:
                self.one(i, p, self.gradient(p))

    def gradient(self, p):
        return p.grad

    def one(self, i, p, g):
        self.t[i] += 1
        self.means(i, g)
        p.sub_(self.decay(p))
        p.sub_(self.lr * self.direction(i))

    def means(self, i, g):
        b1, b2 = self.betas
        self.m[i] = b1 * self.m[i] + (1 - b1) * g
        self.v[i] = b2 * self.v[i] + (1 - b2) * g * g

    def decay(self, p):
        return self.lr * self.weight_decay * p

    def corrected(self, i):
        b1, b2 = self.betas
        return self.m[i] / (1 - b1 ** self.t[i]), self.v[i] / (1 - b2 ** self.t[i])

    def direction(self, i):
        m, v = self.corrected(i)
        return m / (v.sqrt() + self.eps)

    def zero_grad(self):
        for p in self.params:
            p.grad = None


class AdamWithL2(RightAdamW):
    def gradient(self, p):
        return p.grad + self.weight_decay * p

    def decay(self, p):
        return torch.zeros_like(p)


class AdamWithoutDecay(RightAdamW):
    def decay(self, p):
        return torch.zeros_like(p)


class DecayWithoutLr(RightAdamW):
    def decay(self, p):
        return self.weight_decay * p


class NoBiasCorrection(RightAdamW):
    def corrected(self, i):
        return self.m[i], self.v[i]


class OneCounterForAll(RightAdamW):
    @torch.no_grad()
    def step(self):
        self.t = [t + 1 for t in self.t]
        for i, p in enumerate(self.params):
            if p.grad is not None:
                self.t[i] -= 1  # `one` counts it
                self.one(i, p, p.grad)


class MissingGradientIsZero(RightAdamW):
    @torch.no_grad()
    def step(self):
        for i, p in enumerate(self.params):
            self.one(i, p, torch.zeros_like(p) if p.grad is None else p.grad)


class EpsUnderTheRoot(RightAdamW):
    def direction(self, i):
        m, v = self.corrected(i)
        return m / (v + self.eps).sqrt()


class EpsForgotten(RightAdamW):
    def direction(self, i):
        m, v = self.corrected(i)
        return m / v.sqrt()


class NoSquareRoot(RightAdamW):
    def direction(self, i):
        m, v = self.corrected(i)
        return m / (v + self.eps)


class KeepsTheIterator(RightAdamW):
    def __init__(self, params, lr, betas, eps, weight_decay):
        params = list(params)
        super().__init__(params, lr, betas, eps, weight_decay)
        self.params = iter(params)  # walked through at the first step


class BetasSwapped(RightAdamW):
    def __init__(self, params, lr, betas, eps, weight_decay):
        super().__init__(params, lr, betas[::-1], eps, weight_decay)


class KeepsFirstLr(RightAdamW):
    def __init__(self, params, lr, betas, eps, weight_decay):
        super().__init__(params, lr, betas, eps, weight_decay)
        self.first = lr

    def decay(self, p):
        return self.first * self.weight_decay * p

    def direction(self, i):
        return super().direction(i) * self.first / self.lr


# ---------------------------------------------------------------- decay_names


def names_by_the_word_bias(model):
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decay = [n for n, p in named if not n.endswith("bias")]
    return decay, [n for n, p in named if n.endswith("bias")]


def names_by_the_word_norm(model):
    named = [n for n, p in model.named_parameters() if p.requires_grad]
    rest = [n for n in named if "bias" in n or "norm" in n or "ln" in n]
    return [n for n in named if n not in rest], rest


def names_with_frozen(model):
    named = list(model.named_parameters())
    decay = [n for n, p in named if p.ndim >= 2]
    return decay, [n for n, p in named if p.ndim < 2]


def names_matrices_only(model):
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decay = [n for n, p in named if p.ndim == 2]
    return decay, [n for n, p in named if p.ndim != 2]


def names_of_vectors(model):
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decay = [n for n, p in named if p.ndim != 1]
    return decay, [n for n, p in named if p.ndim == 1]


def names_turned_round(model):
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decay = [n for n, p in named if p.ndim < 2]
    return decay, [n for n, p in named if p.ndim >= 2]


# ---------------------------------------------------------------- warmup_cosine


def half_cosine(progress, floor):
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def cosine_starts_at_zero(step, total, warmup, floor):
    if step < warmup:
        return step / warmup
    return half_cosine(min(1, (step - warmup) / (total - warmup)), floor)


def cosine_ignores_warmup(step, total, warmup, floor):
    if step < warmup:
        return (step + 1) / warmup
    return half_cosine(min(1, step / total), floor)


def cosine_without_warmup(step, total, warmup, floor):
    return half_cosine(min(1, max(0, step - warmup) / (total - warmup)), floor)


def cosine_comes_back(step, total, warmup, floor):
    if step < warmup:
        return (step + 1) / warmup
    return half_cosine((step - warmup) / (total - warmup), floor)


def cosine_to_zero(step, total, warmup, floor):
    if step < warmup:
        return (step + 1) / warmup
    return half_cosine(min(1, (step - warmup) / (total - warmup)), 0.0)


def cosine_cut_at_floor(step, total, warmup, floor):
    if step < warmup:
        return (step + 1) / warmup
    falling = half_cosine(min(1, (step - warmup) / (total - warmup)), 0.0)
    return max(floor, falling)


def cosine_of_a_whole_turn(step, total, warmup, floor):
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1, (step - warmup) / (total - warmup))
    return half_cosine(2 * progress, floor)


# ---------------------------------------------------------------- wsd


def wsd_parts(step, total, warmup, decay):
    """ "warm", "stable" or "decay", and how many steps of the decay are left."""
    if step < warmup:
        return "warm", decay
    left = max(0, total - step)
    return ("stable" if left > decay else "decay"), min(left, decay)


def wsd_starts_at_zero(step, total, warmup, decay, floor):
    part, left = wsd_parts(step, total, warmup, decay)
    return step / warmup if part == "warm" else floor + (1 - floor) * left / decay


def wsd_decays_over_the_rest(step, total, warmup, decay, floor):
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1 - floor) * max(0, total - step) / (total - warmup)


def wsd_cut_at_floor(step, total, warmup, decay, floor):
    part, left = wsd_parts(step, total, warmup, decay)
    return (step + 1) / warmup if part == "warm" else max(floor, left / decay)


def wsd_goes_below(step, total, warmup, decay, floor):
    if step < warmup:
        return (step + 1) / warmup
    left = min(total - step, decay)
    return floor + (1 - floor) * left / decay


def wsd_decays_after_the_end(step, total, warmup, decay, floor):
    if step < warmup:
        return (step + 1) / warmup
    left = min(decay, max(0, total + decay - step))
    return floor + (1 - floor) * left / decay


# ---------------------------------------------------------------- clip_grad_norm


def gradients(params):
    return [p.grad for p in params if p.grad is not None]


def length(grads):
    return math.sqrt(sum(g.double().square().sum().item() for g in grads))


def clip_always(params, max_norm):
    norm = length(gradients(params))
    for g in gradients(params):
        g.mul_(max_norm / (norm + 1e-6))
    return norm


def clip_each_tensor(params, max_norm):
    grads = gradients(params)
    norm = length(grads)
    for g in grads:
        g.mul_(min(1.0, max_norm / (length([g]) + 1e-6)))
    return norm


def clip_by_value(params, max_norm):
    grads = gradients(params)
    norm = length(grads)
    for g in grads:
        g.clamp_(-max_norm, max_norm)
    return norm


def clip_by_square(params, max_norm):
    grads = gradients(params)
    norm = length(grads) ** 2
    for g in grads:
        g.mul_(min(1.0, max_norm / (norm + 1e-6)))
    return norm


def clip_sum_of_lengths(params, max_norm):
    grads = gradients(params)
    norm = sum(length([g]) for g in grads)
    for g in grads:
        g.mul_(min(1.0, max_norm / (norm + 1e-6)))
    return norm


def clip_returns_length_after(params, max_norm):
    grads = gradients(params)
    shrink = min(1.0, max_norm / (length(grads) + 1e-6))
    for g in grads:
        g.mul_(shrink)
    return length(grads)


def clip_on_copies(params, max_norm):
    norm = length(gradients(params))
    shrink = min(1.0, max_norm / (norm + 1e-6))
    for g in gradients(params):
        g = g * shrink
    return norm


# ---------------------------------------------------------------- newton_schulz


def schulz(G, steps, *, norm=(-2, -1), order=(3.4445, -4.7750, 2.0315)):
    """A right answer with its places to go wrong."""
    a, b, c = order
    tall = G.shape[-2] > G.shape[-1]
    X = G.mT if tall else G
    X = X / (X.norm(dim=norm, keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = X @ X.mT
        X = a * X + (b * gram + c * gram @ gram) @ X
    return X.mT if tall else X


def schulz_one_length_for_all(G, steps):
    return schulz(G, steps, norm=None)


def schulz_without_length(G, steps):
    a, b, c = 3.4445, -4.7750, 2.0315
    X = G
    for _ in range(steps):
        gram = X @ X.mT
        X = a * X + (b * gram + c * gram @ gram) @ X
    return X


def schulz_divides_at_the_end(G, steps):
    X = schulz(G, steps)
    return X / (X.norm(dim=(-2, -1), keepdim=True) + 1e-7)


def schulz_returns_transposed(G, steps):
    X = schulz(G, steps)
    return X.mT if G.shape[-2] > G.shape[-1] else X


def schulz_by_svd(G, steps):
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    return U @ Vh


def schulz_merges_the_batch(G, steps):
    return schulz(G.reshape(-1, G.shape[-1]), steps).reshape(G.shape)


def schulz_coefficients_swapped(G, steps):
    return schulz(G, steps, order=(3.4445, 2.0315, -4.7750))


def schulz_cubic_only(G, steps):
    return schulz(G, steps, order=(1.5, -0.5, 0.0))


# ---------------------------------------------------------------- EarlyStopping


class RightStopping:
    """A right answer, cut into the places where each mistake goes wrong."""

    def __init__(self, patience, min_delta):
        self.patience, self.min_delta = patience, min_delta
        self.best, self.best_step, self.bad = float("inf"), None, 0

    def better(self, value):
        return value < self.best - self.min_delta

    def update(self, step, value):
        if self.better(value):
            self.best, self.best_step, self.bad = value, step, 0
        else:
            self.worse(value)
        return self.done()

    def worse(self, value):
        self.bad += 1

    def done(self):
        return self.bad >= self.patience


class StopsOneLate(RightStopping):
    def done(self):
        return self.bad > self.patience


class ForgetsAfterTrue(RightStopping):
    def done(self):
        stop = self.bad >= self.patience
        self.bad = 0 if stop else self.bad
        return stop


class StopsOnce(RightStopping):
    def done(self):
        return self.bad == self.patience


class EqualIsBetter(RightStopping):
    def better(self, value):
        return value <= self.best - self.min_delta


class NeverStartsAnew(RightStopping):
    def update(self, step, value):
        if self.better(value):
            self.best, self.best_step = value, step
        else:
            self.bad += 1
        return self.done()


class ComparesWithTheLast(RightStopping):
    last = float("inf")

    def update(self, step, value):
        if self.better(value):
            self.best, self.best_step = value, step
        fell = value < self.last - self.min_delta
        self.bad = 0 if fell else self.bad + 1
        self.last = value
        return self.done()


class NanIsBetter(RightStopping):
    def better(self, value):
        return not value >= self.best - self.min_delta


class WaitsForLarger(RightStopping):
    def better(self, value):
        best = -float("inf") if self.best_step is None else self.best
        return value > best + self.min_delta


class AddsMinDelta(RightStopping):
    def better(self, value):
        return value < self.best + self.min_delta


MISTAKES = {
    "sgd_step": (
        Mistake(
            sgd_averages,
            "you average the gradients, (1 - momentum) * g. Here the velocity *sums*: "
            "u = momentum * u + g, as in PyTorch. An average steps 1 / (1 - momentum) "
            "times less far at the same lr.",
        ),
        Mistake(
            sgd_velocity_holds_lr,
            "the learning rate is inside the velocity. Keep u free of lr, and multiply "
            "when you step: then a schedule acts on the whole step at once.",
        ),
        Mistake(
            sgd_uses_old_velocity,
            "you step along the velocity of the step before. Update u first, then "
            "step.",
        ),
        Mistake(
            sgd_ignores_nesterov,
            "with nesterov=True the step is lr * (g + momentum * u), with the new u.",
        ),
        Mistake(
            sgd_nesterov_adds_twice,
            "Nesterov's step is g + momentum * u. You forgot the factor of u.",
        ),
        Mistake(sgd_climbs, "you go up the gradient. Subtract the step."),
        Mistake(
            sgd_in_place,
            "you change the u that you were given. Return a new one: the caller may "
            "still need the old.",
        ),
    ),
    "AdamW": (
        Mistake(
            AdamWithL2,
            "this is Adam with L2: the decay goes through the gradient, so it is "
            "divided by sqrt(v). Decoupled decay is taken from the weight itself: "
            "p -= lr * weight_decay * p.",
        ),
        Mistake(AdamWithoutDecay, "the weights never decay."),
        Mistake(
            DecayWithoutLr,
            "the decay must be multiplied by lr too, so that a schedule shrinks both.",
        ),
        Mistake(
            NoBiasCorrection,
            "m and v start at 0 and are too small at first: divide them by "
            "1 - beta ** t, with t = 1 at the first step.",
        ),
        Mistake(
            OneCounterForAll,
            "the step count t belongs to each parameter: one whose grad was None has "
            "seen fewer gradients, and its bias correction must know that.",
        ),
        Mistake(
            MissingGradientIsZero,
            "a parameter whose grad is None takes no part in the step: no decay, no "
            "change of m, v or t.",
        ),
        Mistake(
            EpsUnderTheRoot,
            "eps is added to the root, sqrt(v) + eps, not under it.",
        ),
        Mistake(EpsForgotten, "eps is missing: sqrt(v) + eps."),
        Mistake(
            NoSquareRoot,
            "divide by the *root* of v: m and sqrt(v) have the unit of a gradient, so "
            "their ratio has none.",
        ),
        Mistake(
            KeepsTheIterator,
            "only the first step moves anything: `params` may be an iterator, as "
            "model.parameters() is, and it is used up. Keep `list(params)`.",
        ),
        Mistake(
            BetasSwapped,
            "betas = (beta1, beta2): the first is for m, the second for v.",
        ),
        Mistake(
            KeepsFirstLr,
            "a schedule sets `optimizer.lr` before each step. Read self.lr in `step`; "
            "do not keep a copy.",
        ),
    ),
    "decay_names": (
        Mistake(
            names_by_the_word_bias,
            "gains of norms have one dimension too, and are called `weight`. Go by the "
            "number of dimensions, not by the name.",
        ),
        Mistake(
            names_by_the_word_norm,
            "names lie: a module may be called anything. Go by `p.ndim`.",
        ),
        Mistake(
            names_with_frozen,
            "a parameter with requires_grad=False belongs to no group: an optimizer "
            "would still let it decay if it got a gradient of zeros.",
        ),
        Mistake(
            names_matrices_only,
            "a convolution's weight has three dimensions or more, and decays as well.",
        ),
        Mistake(
            names_of_vectors,
            "a single number has no dimension at all, which is fewer than two.",
        ),
        Mistake(
            names_turned_round,
            "the first list is what decays: two dimensions or more.",
        ),
    ),
    "warmup_cosine": (
        Mistake(
            cosine_starts_at_zero,
            "at step 0 the factor is 0, and the first batch is wasted. Use "
            "(step + 1) / warmup.",
        ),
        Mistake(
            cosine_ignores_warmup,
            "the cosine must start where the warm-up ends: progress is "
            "(step - warmup) / (total - warmup).",
        ),
        Mistake(cosine_without_warmup, "there is no warm-up."),
        Mistake(
            cosine_comes_back,
            "after `total` the cosine rises again. Stay at the floor: limit progress "
            "to 1.",
        ),
        Mistake(
            cosine_to_zero,
            "the cosine ends at 0. It ends at `floor`: floor + (1 - floor) * (...).",
        ),
        Mistake(
            cosine_cut_at_floor,
            "you cut a cosine to 0 off at the floor. Shrink it instead: floor + "
            "(1 - floor) * (1 + cos) / 2.",
        ),
        Mistake(
            cosine_of_a_whole_turn,
            "that is a whole turn, down and up. The angle goes from 0 to pi only.",
        ),
    ),
    "wsd": (
        Mistake(
            wsd_starts_at_zero,
            "at step 0 the factor is 0, and the first batch is wasted. Use "
            "(step + 1) / warmup.",
        ),
        Mistake(
            wsd_decays_over_the_rest,
            "the stable part is missing: only the last `decay` steps decay.",
        ),
        Mistake(
            wsd_cut_at_floor,
            "you cut a line to 0 off at the floor. The line ends at the floor: floor + "
            "(1 - floor) * left / decay.",
        ),
        Mistake(
            wsd_goes_below,
            "after `total` the factor goes below the floor. Stay there.",
        ),
        Mistake(
            wsd_decays_after_the_end,
            "the decay belongs to the `total` steps: it begins at total - decay.",
        ),
    ),
    "clip_grad_norm": (
        Mistake(
            clip_always,
            "gradients that are short enough must stay as they are. You stretch them: "
            "the factor is at most 1.",
        ),
        Mistake(
            clip_each_tensor,
            "you clip each tensor by itself, which turns the direction of the whole. "
            "Take one length over all gradients.",
        ),
        Mistake(
            clip_by_value,
            "this clips by value: large numbers are cut, small ones stay, and the "
            "direction turns. Multiply all gradients by one factor.",
        ),
        Mistake(
            clip_by_square,
            "the root is missing: the length is the root of the sum of squares.",
        ),
        Mistake(
            clip_sum_of_lengths,
            "lengths of parts do not add. Their *squares* do: take the root of the sum "
            "of squares.",
        ),
        Mistake(
            clip_returns_length_after,
            "return the length *before* clipping: that is what you want to log.",
        ),
        Mistake(
            clip_on_copies,
            "the gradients in p.grad have not changed. Change them in place: "
            "`p.grad.mul_(factor)`.",
        ),
    ),
    "newton_schulz": (
        Mistake(
            schulz_one_length_for_all,
            "each matrix of the batch is divided by its own length, the norm over the "
            "last two dimensions.",
        ),
        Mistake(
            schulz_without_length,
            "divide by the matrix's norm first: the polynomial is tame only for "
            "singular values up to 1.",
        ),
        Mistake(
            schulz_divides_at_the_end,
            "divide before the iteration, not after it again: the singular values are "
            "to be about 1.",
        ),
        Mistake(
            schulz_returns_transposed,
            "a tall matrix comes back wide. Transpose back what you transposed.",
        ),
        Mistake(
            schulz_by_svd,
            "exact orthogonalisation is not asked for: apply the polynomial `steps` "
            "times. Its values are only about 1, and it costs no SVD.",
        ),
        Mistake(
            schulz_merges_the_batch,
            "you merge the matrices of the batch into one. Each keeps its own: "
            "`X.mT` and `@` work on the last two dimensions.",
        ),
        Mistake(
            schulz_coefficients_swapped,
            "b belongs to the cube (X X^T X), c to the fifth power.",
        ),
        Mistake(
            schulz_cubic_only,
            "this is the classical cubic iteration. Use a, b, c as given: they are "
            "steeper at 0, so that five steps are enough.",
        ),
    ),
    "EarlyStopping": (
        Mistake(
            StopsOneLate,
            "off by one: stop when the number of evaluations without a better one "
            "*reaches* patience.",
        ),
        Mistake(
            ForgetsAfterTrue,
            "the count starts anew after a True. Only a better value starts it anew.",
        ),
        Mistake(
            StopsOnce,
            "it says True once only. After `patience` evaluations *or more* it stays "
            "True: compare with >=.",
        ),
        Mistake(
            EqualIsBetter,
            "better means below best - min_delta, strictly. A loss that stands still "
            "is no progress.",
        ),
        Mistake(NeverStartsAnew, "a better value must start the count from 0 again."),
        Mistake(
            ComparesWithTheLast,
            "you compare with the value before. A loss that goes up and down would "
            "never stop: compare with the best.",
        ),
        Mistake(
            NanIsBetter,
            "NaN counts as better here: every comparison with NaN is False, and `not` "
            "turns it round. Ask `value < ...`.",
        ),
        Mistake(WaitsForLarger, "it is a loss: smaller is better."),
        Mistake(
            AddsMinDelta,
            "the sign of min_delta: a value must be below best - min_delta to count.",
        ),
    ),
}
