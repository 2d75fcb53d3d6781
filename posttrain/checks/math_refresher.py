"""Checks of the exercise `math_refresher`.

References: PyTorch in float64 (softmax), autograd (softmax_backward, cross_entropy,
linear_backward), a sum over the classes that count in plain Python (kl_divergence),
derivatives in closed form (numerical_gradient), loops over single tokens (attend,
pooled_loss).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from posttrain.checks.mistakes.math_refresher import MISTAKES
from posttrain.checks.task import TOLERANCE, Task

NO_AUTOGRAD = ("torch.autograd.grad", "Tensor.backward", "torch.func.vjp")


def sizes(rng, low, high, count):
    """`count` random whole numbers, low <= n < high."""
    return [int(n) for n in torch.randint(low, high, (count,), generator=rng)]


# -------------------------------------------------------------------- softmax


def softmax_cases(rng, hidden):
    def draw(*shape, scale=1.0, dtype=torch.float32):
        return (scale * torch.randn(*shape, generator=rng)).to(dtype)

    yield torch.tensor([0.0, math.log(2), math.log(3)]), 1.0
    yield torch.tensor([5.0]), 2.0  # one class
    yield torch.tensor([[1.0, 2.0], [2.0, 1.0], [0.0, 0.0]]), 0.5
    yield torch.tensor([1000.0, 1000.0, 999.0]), 1.0  # exp overflows
    yield torch.tensor([-1000.0, -1001.0]), 1.0  # exp underflows everywhere
    yield torch.tensor([[500.0, 499.0], [-500.0, -499.0]]), 1.0  # rows far apart
    yield torch.tensor([0.0, -torch.inf, 1.0]), 1.0  # a masked class
    yield torch.tensor([-1000.0, -torch.inf]), 1.0  # below any logit that is not
    yield torch.tensor([1000.0, 999.0]), 0.5
    yield draw(3, 3), 1.0  # rows and columns alike in size
    yield draw(2, 3, 5), 0.1
    yield draw(4, 6, dtype=torch.float64), 2.0
    yield draw(2, 7, scale=30.0, dtype=torch.float16), 1.0
    for _ in range(4 if hidden else 1):
        n, v = sizes(rng, 1, 12, 2)
        tau = 0.1 + 3 * torch.rand((), generator=rng).item()
        yield draw(n, v, scale=10.0), tau


def drive_softmax(answer, z, tau):
    p = answer(z) if tau == 1.0 else answer(z, tau)
    return {"p": p, "z": z}


def reference_softmax(z, tau):
    return {"p": (z.double() / tau).softmax(-1).to(z.dtype), "z": z}


# ----------------------------------------------------------- softmax_backward


def softmax_backward_cases(rng, hidden):
    def case(*shape, scale=1.0, dtype=torch.float64):
        z = (scale * torch.randn(*shape, generator=rng)).to(dtype)
        return z.softmax(-1), torch.randn(*shape, generator=rng).to(dtype)

    yield torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])
    yield torch.tensor([1.0, 0.0]), torch.tensor([3.0, 5.0])  # saturated
    yield torch.tensor([0.25, 0.75]), torch.tensor([2.0, 2.0])  # a constant g
    yield case(1, 3)
    yield case(4, 4)
    yield case(2, 3, 5, dtype=torch.float32)
    for _ in range(4 if hidden else 1):
        yield case(*sizes(rng, 1, 7, 3), scale=3.0)


def drive_softmax_backward(answer, p, g):
    return {"gradient": answer(p, g), "p": p, "g": g}


def reference_softmax_backward(p, g):
    # softmax(log p) is p; a probability of 0 is a logit that never moves it
    z = p.double().clamp(min=1e-300).log().requires_grad_()
    [gradient] = torch.autograd.grad(z.softmax(-1), z, g.double())
    return {"gradient": gradient.to(p.dtype), "p": p, "g": g}


# -------------------------------------------------------------- cross_entropy


def cross_entropy_cases(rng, hidden):
    def case(n, v, ignored=0, scale=1.0, dtype=torch.float64):
        z = (scale * torch.randn(n, v, generator=rng)).to(dtype)
        y = torch.randint(0, v, (n,), generator=rng)
        y[torch.randperm(n, generator=rng)[:ignored]] = -100
        return z, y

    yield torch.zeros(1, 4).double(), torch.tensor([2])  # a guess: log 4
    yield torch.tensor([[2.0, 0.0]]).double(), torch.tensor([0])
    yield torch.tensor([[2.0, 0.0], [1.0, 5.0]]).double(), torch.tensor([-100, 0])
    yield torch.tensor([[0.0, -2000.0]]).double(), torch.tensor([1])  # p is 0
    yield torch.tensor([[3000.0, 0.0]]).double(), torch.tensor([0])
    yield torch.tensor([[3000.0, 0.0], [0.0, 1.0]]).double(), torch.tensor([0, 1])
    yield case(3, 3)
    yield case(6, 5, ignored=2)
    yield case(4, 120, ignored=1)  # -100 would be an index
    yield case(5, 4, ignored=1, dtype=torch.float32)
    for _ in range(4 if hidden else 1):
        n, v = sizes(rng, 2, 9, 2)
        yield case(n, v, ignored=n // 3, scale=3.0)


def drive_cross_entropy(answer, z, y):
    """NumPy arrays in; a number and an array out."""
    import numpy as np
    import torch

    loss, gradient = answer(z.numpy(), y.numpy())
    return {
        "loss": torch.tensor(float(loss), dtype=z.dtype),
        "gradient": torch.from_numpy(np.ascontiguousarray(gradient)),
        "z": z,
        "y": y,
    }


def reference_cross_entropy(z, y):
    leaf = z.clone().requires_grad_()
    loss = F.cross_entropy(leaf, y)
    loss.backward()
    return {"loss": loss.detach(), "gradient": leaf.grad, "z": z, "y": y}


# ------------------------------------------------------------ linear_backward


def linear_backward_cases(rng, hidden):
    def case(leading, c, d, dtype=torch.float64):
        shapes = ((*leading, c), (c, d), (*leading, d))
        return tuple(torch.randn(s, generator=rng).to(dtype) for s in shapes)

    yield case((1,), 1, 2)
    yield case((2,), 3, 3)  # square: a wrong transpose runs
    yield case((3,), 3, 3)
    yield case((), 2, 3)  # one vector alone
    yield case((2, 3), 4, 5)
    yield case((2, 1, 3), 2, 2, dtype=torch.float32)
    for _ in range(4 if hidden else 1):
        b, t, c, d = sizes(rng, 1, 6, 4)
        yield case((b, t), c, d)


def drive_linear_backward(answer, x, W, g):
    of_x, of_W, of_b = answer(x, W, g)
    return {"of x": of_x, "of W": of_W, "of b": of_b, "inputs": [x, W, g]}


def reference_linear_backward(x, W, g):
    leaves = [a.clone().requires_grad_() for a in (x, W, W.new_zeros(W.shape[1]))]
    y = leaves[0] @ leaves[1] + leaves[2]
    of_x, of_W, of_b = torch.autograd.grad(y, leaves, g)
    return {"of x": of_x, "of W": of_W, "of b": of_b, "inputs": [x, W, g]}


# -------------------------------------------------------------- kl_divergence


def kl_cases(rng, hidden):
    def draw(*shape, dtype=torch.float64):
        return (2 * torch.randn(*shape, generator=rng)).to(dtype).softmax(-1)

    def row(*values):
        return torch.tensor(values, dtype=torch.float64)

    yield row(0.5, 0.5), row(0.25, 0.75)
    yield row(0.25, 0.75), row(0.25, 0.75)  # equal: 0
    yield row(1.0, 0.0), row(0.5, 0.5)  # 0 log 0 is 0
    yield row(0.5, 0.5), row(1.0, 0.0)  # impossible and yet true: inf
    yield row(0.5, 0.0, 0.5), row(0.25, 0.0, 0.75)  # impossible in both
    yield torch.stack([row(0.0, 1.0), row(0.3, 0.7)]), draw(2, 2)
    yield draw(3, 3), draw(3, 3)
    yield draw(2, 3, 5, dtype=torch.float32), draw(2, 3, 5, dtype=torch.float32)
    for _ in range(4 if hidden else 1):
        n, v = sizes(rng, 2, 8, 2)
        p, q = draw(n, v), draw(n, v)
        p[0, 0] = 0.0
        yield p / p.sum(-1, keepdim=True), q


def drive_kl(answer, p, q):
    return {"kl": answer(p, q), "p": p, "q": q}


def reference_kl(p, q):
    def one(a, b):
        if a == 0:
            return 0.0
        return math.inf if b == 0 else a * math.log(a / b)

    pairs = zip(*(a.reshape(-1, a.shape[-1]).tolist() for a in (p, q)), strict=True)
    sums = [sum(map(one, *rows)) for rows in pairs]
    kl = torch.tensor(sums, dtype=p.dtype).reshape(p.shape[:-1])
    return {"kl": kl, "p": p, "q": q}


# --------------------------------------------------------- numerical_gradient

# As a share of max(1, largest gradient). A central difference with a step between
# 1e-7 and 1e-4 is at least ten times better than this on the functions below; no
# forward difference reaches it, because |f| is large and the functions bend.
DIFFERENCE_TOLERANCE = {**TOLERANCE, "float64": 2e-8}


def numerical_gradient_cases(rng, hidden):
    def draw(*shape):
        return torch.randn(*shape, generator=rng).double()

    yield "square", torch.tensor([3.0]).double()
    yield "square", torch.tensor(2.0).double()  # no dimension at all
    yield "cubes", torch.tensor([0.0, 1.0]).double()  # at zero, too
    yield "product", torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double()
    yield "sines", draw(3)
    yield "cubes", draw(2, 3)
    for name in ("square", "product", "sines", "cubes") * (2 if hidden else 1):
        yield name, 2 * draw(*sizes(rng, 1, 4, 2))


def drive_numerical_gradient(answer, name, x):
    """The answer gets a function that it can only call."""
    import torch

    functions = {
        "square": lambda x: 40 + 4 * (x * x).sum(),
        "product": lambda x: 30 + x.prod() + 3 * (x * x).sum(),
        "sines": lambda x: 20 + (x.sin() + 3 * x * x).sum(),
        "cubes": lambda x: 20 + (x**3 / 3 + 3 * x * x).sum(),
    }

    def f(a):
        if not isinstance(a, torch.Tensor) or a.shape != x.shape:
            shape = tuple(getattr(a, "shape", ()))
            raise ValueError(f"f takes a tensor shaped {tuple(x.shape)}, got {shape}")
        return functions[name](a.detach()).item()

    return {"gradient": answer(f, x), "x": x}


def reference_numerical_gradient(name, x):
    others = [
        x.flatten()[torch.arange(x.numel()) != i].prod() for i in range(x.numel())
    ]
    gradients = {
        "square": 8 * x,
        "product": torch.stack(others).reshape(x.shape) + 6 * x,
        "sines": x.cos() + 6 * x,
        "cubes": x**2 + 6 * x,
    }
    return {"gradient": gradients[name], "x": x}


# ------------------------------------------------------- attend, pooled_loss


def tokens(rng, b, t, c, lone=False):
    """Tokens (B, T, C) and a mask (B, T), True = real; each row has a real one."""
    x = torch.randn(b, t, c, generator=rng).double()
    mask = torch.rand(b, t, generator=rng) < 0.6
    mask[torch.arange(b), torch.arange(b) % t] = True
    return x, torch.ones_like(mask) if lone else mask


def attend_cases(rng, hidden):
    def case(b, t, c, d, lone=False):
        x, mask = tokens(rng, b, t, c, lone)
        return x, mask, *(torch.randn(c, d, generator=rng).double() for _ in range(3))

    yield case(1, 2, 2, 2)
    yield case(2, 3, 4, 5)
    yield case(3, 3, 2, 4)  # B = T: a mask that is laid out wrongly still broadcasts
    yield case(3, 3, 3, 3)  # all alike: nothing raises
    yield case(2, 4, 3, 2, lone=True)  # no padding
    for _ in range(4 if hidden else 1):
        yield case(*sizes(rng, 1, 6, 4))


def drive_attend(answer, x, mask, W_q, W_k, W_v):
    return {"y": answer(x, mask, W_q, W_k, W_v), "x": x, "mask": mask}


def reference_attend(x, mask, W_q, W_k, W_v):
    y = torch.zeros(*x.shape[:2], W_v.shape[1], dtype=x.dtype)
    for b, row in enumerate(x):
        real = row[mask[b]]  # a padded key might as well not be there
        for t, token in enumerate(row):
            scores = (real @ W_k) @ (token @ W_q) / math.sqrt(W_q.shape[1])
            y[b, t] = scores.softmax(0) @ (real @ W_v)
    return {"y": y, "x": x, "mask": mask}


def pooled_loss_cases(rng, hidden):
    def case(b, t, d, lone=False):
        y, mask = tokens(rng, b, t, d, lone)
        w_out = torch.randn(d, 1, generator=rng).double()
        return y, mask, w_out, torch.randn(b, generator=rng).double()

    yield case(1, 2, 2)
    yield case(2, 3, 4)
    yield case(3, 2, 3)  # B = D: a count that is laid out wrongly still broadcasts
    yield case(4, 3, 1)
    yield case(3, 4, 2, lone=True)
    for _ in range(4 if hidden else 1):
        yield case(*sizes(rng, 2, 6, 3))


def drive_pooled_loss(answer, y, mask, w_out, target):
    """The loss may come as a number or as a tensor of no dimension."""
    import torch

    loss = torch.as_tensor(answer(y, mask, w_out, target), dtype=torch.float64)
    return {"loss": loss, "y": y, "mask": mask, "target": target}


def reference_pooled_loss(y, mask, w_out, target):
    errors = []
    for row, real, due in zip(y, mask, target, strict=True):
        prediction = (row[real].mean(0) @ w_out).item()
        errors.append((prediction - due.item()) ** 2)
    loss = torch.tensor(sum(errors) / len(errors), dtype=torch.float64)
    return {"loss": loss, "y": y, "mask": mask, "target": target}


TASKS = {
    "softmax": Task(
        softmax_cases,
        drive_softmax,
        reference_softmax,
        MISTAKES["softmax"],
        forbid=("torch.softmax", "torch.log_softmax", "nn.Softmax", "torch.logsumexp"),
    ),
    "softmax_backward": Task(
        softmax_backward_cases,
        drive_softmax_backward,
        reference_softmax_backward,
        MISTAKES["softmax_backward"],
        forbid=NO_AUTOGRAD,
    ),
    "cross_entropy": Task(
        cross_entropy_cases,
        drive_cross_entropy,
        reference_cross_entropy,
        MISTAKES["cross_entropy"],
        forbid=("F.cross_entropy", "F.nll_loss", "torch.log_softmax", *NO_AUTOGRAD),
    ),
    "linear_backward": Task(
        linear_backward_cases,
        drive_linear_backward,
        reference_linear_backward,
        MISTAKES["linear_backward"],
        forbid=NO_AUTOGRAD,
    ),
    "kl_divergence": Task(
        kl_cases,
        drive_kl,
        reference_kl,
        MISTAKES["kl_divergence"],
        forbid=("F.kl_div", "distributions.kl_divergence"),
    ),
    "numerical_gradient": Task(
        numerical_gradient_cases,
        drive_numerical_gradient,
        reference_numerical_gradient,
        MISTAKES["numerical_gradient"],
        tolerance=DIFFERENCE_TOLERANCE,
    ),
    "attend": Task(
        attend_cases,
        drive_attend,
        reference_attend,
        MISTAKES["attend"],
    ),
    "pooled_loss": Task(
        pooled_loss_cases,
        drive_pooled_loss,
        reference_pooled_loss,
        MISTAKES["pooled_loss"],
    ),
}
