"""Answers that the grader of `optimizers` must tell apart. Never given to students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import math

import torch

# ---------------------------------------------------------------- sgd_step


def sgd_on_copies(p, g, u, lr, momentum, nesterov):
    p, u = p.clone(), u.clone()
    u.mul_(momentum).add_(g)
    p.sub_(u.mul(momentum).add(g) if nesterov else u, alpha=lr)
    return p, u


def sgd_in_float64(p, g, u, lr, momentum, nesterov):
    dtype, p, g, u = p.dtype, p.double(), g.double(), u.double()
    u = g + u * momentum
    step = [u, g + u * momentum][nesterov]
    return (p - step * lr).to(dtype), u.to(dtype)


def sgd_without_gradient_in_nesterov(p, g, u, lr, momentum, nesterov):
    u = momentum * u + g
    return p - lr * (momentum * u if nesterov else u), u


# ---------------------------------------------------------------- AdamW


class AdamWWithStateInADict:
    """State made at the first gradient, lerp, and one division less."""

    def __init__(self, params, lr, betas, eps, weight_decay):
        self.params, self.lr, self.betas = list(params), lr, betas
        self.eps, self.weight_decay, self.state = eps, weight_decay, {}

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for p in self.params:
            if p.grad is None:
                continue
            new = (0, torch.zeros_like(p), torch.zeros_like(p))
            t, m, v = self.state.get(p, new)
            t += 1
            m.lerp_(p.grad, 1 - b1)
            v.mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
            self.state[p] = t, m, v
            size = self.lr / (1 - b1**t)
            root = (v / (1 - b2**t)).sqrt().add_(self.eps)
            p.mul_(1 - self.lr * self.weight_decay).addcdiv_(m, root, value=-size)

    def zero_grad(self):
        for p in self.params:
            if p.grad is not None:
                p.grad.zero_()


class AdamWByData:
    """Without no_grad: through `.data`, and a new tensor each time."""

    def __init__(self, params, lr, betas, eps, weight_decay):
        self.slots = [[p, 0.0, 0.0, 0] for p in params]
        self.lr, self.betas, self.eps, self.decay = lr, betas, eps, weight_decay

    def step(self):
        for slot in self.slots:
            p, m, v, t = slot
            if p.grad is not None:
                g, t = p.grad.data, t + 1
                m = self.betas[0] * m + (1 - self.betas[0]) * g
                v = self.betas[1] * v + (1 - self.betas[1]) * g * g
                slot[1:] = m, v, t
                fix1, fix2 = (1 - b**t for b in self.betas)
                way = m / fix1 / ((v / fix2) ** 0.5 + self.eps)
                p.data = p.data - self.lr * (way + self.decay * p.data)

    def zero_grad(self):
        for p, *_ in self.slots:
            p.grad = None


class AdamWLibraryCall:
    """PyTorch's own: right, and not allowed."""

    def __init__(self, params, lr, betas, eps, weight_decay):
        self.lr = lr
        self.inner = torch.optim.AdamW(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay
        )

    def step(self):
        for group in self.inner.param_groups:
            group["lr"] = self.lr
        self.inner.step()

    def zero_grad(self):
        self.inner.zero_grad()


class AdamWThatEatsGradients(AdamWWithStateInADict):
    """Right weights, but the gradients are gone after a step."""

    def step(self):
        AdamWWithStateInADict.step(self)
        self.zero_grad()


# ---------------------------------------------------------------- decay_names


def names_by_comprehension(model):
    trained = {n: len(p.shape) for n, p in model.named_parameters() if p.requires_grad}
    decay = [n for n in trained if trained[n] > 1]
    return decay, [n for n in trained if n not in decay]


def names_by_module(model):
    found = ([], [])
    for path, module in model.named_modules():
        for leaf, p in module.named_parameters(recurse=False):
            if p.requires_grad:
                found[p.dim() < 2].append(f"{path}.{leaf}" if path else leaf)
    return found


def names_of_linear_layers(model):
    linear = torch.nn.Linear
    inner = {n for n, m in model.named_modules() if isinstance(m, linear)}
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    decay = [n for n in trained if n[:-7] in inner and n.endswith("weight")]
    return decay, [n for n in trained if n not in decay]


# ---------------------------------------------------------------- schedules


def cosine_by_tensor(step, total, warmup, floor):
    if warmup and step < warmup:
        return torch.tensor(step + 1.0, dtype=torch.float64) / warmup
    done = min(step, total) - warmup
    angle = torch.tensor(math.pi * done / (total - warmup), dtype=torch.float64)
    return (1 + floor) / 2 + (1 - floor) / 2 * angle.cos()


def cosine_by_half_angle(step, total, warmup, floor):
    rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
    share = max(0.0, min(1.0, (step - warmup) / (total - warmup)))
    return rising * (1 - (1 - floor) * math.sin(math.pi * share / 2) ** 2)


def cosine_as_a_line(step, total, warmup, floor):
    if step < warmup:
        return (step + 1) / warmup
    return 1 - (1 - floor) * min(1.0, (step - warmup) / (total - warmup))


def wsd_three_branches(step, total, warmup, decay, floor):
    if step < warmup:
        return (1 + step) / warmup
    if step <= total - decay:
        return 1
    if step >= total:
        return floor
    return 1 - (1 - floor) * (step - total + decay) / decay


def wsd_as_a_minimum(step, total, warmup, decay, floor):
    rising = (step + 1) / warmup if warmup else 1.0
    falling = floor + (1 - floor) * max(0, total - step) / decay
    return min(1.0, rising, falling) if step >= warmup else rising


def wsd_cosine_tail(step, total, warmup, decay, floor):
    if step < warmup:
        return (step + 1) / warmup
    left = min(1.0, max(0, total - step) / decay)
    return floor + (1 - floor) * (1 - math.cos(math.pi * left)) / 2


# ---------------------------------------------------------------- clip_grad_norm


def clip_one_vector(params, max_norm):
    grads = [p.grad for p in params if p.grad is not None]
    norm = torch.cat([g.flatten() for g in grads]).norm()
    factor = min(1.0, max_norm / (norm.item() + 1e-6))
    for g in grads:
        g.copy_(g * factor)
    return norm


def clip_norm_of_norms(params, max_norm):
    params = [p for p in params if p.grad is not None]
    norm = math.hypot(*(p.grad.norm().item() for p in params))
    if norm > max_norm:
        for p in params:
            p.grad = p.grad * (max_norm / norm)
    return norm


def clip_library_call(params, max_norm):
    return torch.nn.utils.clip_grad_norm_(params, max_norm)


def clip_what_is_above_1(params, max_norm):
    grads = [p.grad for p in params if p.grad is not None]
    norm = torch.stack([g.double().norm() for g in grads]).norm().item()
    for g in grads if norm > 1 else ():
        g.mul_(max_norm / norm)
    return norm


def clip_largest_number(params, max_norm):
    grads = [p.grad for p in params if p.grad is not None]
    norm = max(g.abs().max() for g in grads)
    for g in grads:
        g.mul_((max_norm / (norm + 1e-6)).clamp(max=1))
    return norm


# ---------------------------------------------------------------- newton_schulz


def schulz_on_the_short_side(G, steps):
    tall = G.shape[-2] > G.shape[-1]
    X = (G.mT if tall else G).clone()
    X /= X.square().sum((-2, -1), keepdim=True).sqrt().clamp(min=1e-7)
    for _ in range(steps):
        A = X @ X.mT
        X = 3.4445 * X - 4.7750 * A @ X + 2.0315 * (A @ (A @ X))
    return X.mT if tall else X


def schulz_one_by_one(G, steps):
    if G.ndim > 2:
        return torch.stack([schulz_one_by_one(each, steps) for each in G])
    X = G / (torch.linalg.matrix_norm(G) + 1e-7)
    for _ in range(steps):
        right = X.T @ X
        X = X @ (
            3.4445 * torch.eye(len(right)) - 4.775 * right + 2.0315 * right @ right
        )
    return X


def schulz_by_the_largest_singular_value(G, steps):
    X = G / (torch.linalg.matrix_norm(G, 2)[..., None, None] + 1e-7)
    for _ in range(steps):
        A = X @ X.mT
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
    return X


# ---------------------------------------------------------------- EarlyStopping


class StoppingFromTheList:
    """Keeps all values and looks back."""

    def __init__(self, patience, min_delta):
        self.patience, self.min_delta, self.seen = patience, min_delta, []
        self.best, self.best_step = math.inf, None

    def update(self, step, value):
        good = self.best - value > self.min_delta
        self.seen.append(good)
        if good:
            self.best, self.best_step = value, step
        return len(self.seen) >= self.patience and not any(self.seen[-self.patience :])


class StoppingByRemainingPatience:
    def __init__(self, patience, min_delta):
        self.full = self.left = patience
        self.min_delta, self.best, self.best_step = min_delta, float("inf"), None

    def update(self, step, value):
        self.left -= 1
        if value + self.min_delta < self.best:
            self.best, self.best_step, self.left = value, step, self.full
        return self.left <= 0


class StoppingKeepsTheLastStep(StoppingByRemainingPatience):
    def update(self, step, value):
        stop = StoppingByRemainingPatience.update(self, step, value)
        if self.best_step is not None:
            self.best_step = step
        return stop


RIGHT = {
    "sgd_step": [sgd_on_copies, sgd_in_float64],
    "AdamW": [AdamWWithStateInADict, AdamWByData],
    "decay_names": [names_by_comprehension, names_by_module],
    "warmup_cosine": [cosine_by_tensor, cosine_by_half_angle],
    "wsd": [wsd_three_branches, wsd_as_a_minimum],
    "clip_grad_norm": [clip_one_vector, clip_norm_of_norms],
    "newton_schulz": [schulz_on_the_short_side, schulz_one_by_one],
    "EarlyStopping": [StoppingFromTheList, StoppingByRemainingPatience],
}

WRONG = {
    "sgd_step": [sgd_without_gradient_in_nesterov],
    "AdamW": [AdamWLibraryCall, AdamWThatEatsGradients],
    "decay_names": [names_of_linear_layers],
    "warmup_cosine": [cosine_as_a_line],
    "wsd": [wsd_cosine_tail],
    "clip_grad_norm": [
        clip_library_call,
        clip_largest_number,
        clip_what_is_above_1,
    ],
    "newton_schulz": [schulz_by_the_largest_singular_value],
    "EarlyStopping": [StoppingKeepsTheLastStep],
}

_MIN = "the smaller of two numbers does not depend on their order"

EQUIVALENT = {
    "warmup_cosine: `progress = min(1.0, (step - warmup) / (total - warmup))` -> "
    "`progress = min((step - warmup) / (total - warmup), 1.0)`": _MIN,
    "wsd: `left = min(1.0, max(0, total - step) / decay)` -> "
    "`left = min(max(0, total - step) / decay, 1.0)`": _MIN,
    "wsd: `left = min(1.0, max(0, total - step) / decay)` -> "
    "`left = min(1.0, max(total - step, 0) / decay)`": (
        "the larger of two numbers does not depend on their order"
    ),
    "clip_grad_norm: `if norm > max_norm:` -> `if norm >= max_norm:`": (
        "at equality the factor is 1"
    ),
    "newton_schulz: `X = G / (G.norm(dim=(-2, -1), keepdim=True) + 1e-07)` -> "
    "`X = G / (G.norm(dim=(-2, -1), keepdim=True) - 1e-07)`": (
        "zeros stay zeros, and a length that is 2e-7 shorter is within the tolerance"
    ),
}
