"""SGD, Adam and AdamW, as optimizers that PyTorch's own code can use.

Each is a `torch.optim.Optimizer`: parameter groups, `zero_grad`, `state_dict` and
learning-rate schedulers work as ever. State has PyTorch's names, so a checkpoint of
`torch.optim.AdamW` can be resumed with this `AdamW`, and the other way round.

Not covered: sparse gradients, complex numbers, AMSGrad, fused kernels. One tensor at a
time costs a few microseconds each; `torch.optim.AdamW(fused=True)` saves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def require(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise ValueError, with the name and the fix, unless low <= value < high."""
    if not low <= value < high:
        raise ValueError(f"{name}={value} must be at least {low:g} and below {high:g}")


def loss_of(closure: Callable | None) -> Tensor | None:
    """The loss of a closure that computes it anew, or None where there is none."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def with_gradient(group: dict) -> Iterator[Tensor]:
    """The parameters of a group that got a gradient; the others stay as they are."""
    return (p for p in group["params"] if p.grad is not None)


class SGD(torch.optim.Optimizer):
    """u = momentum * u + g, then p - lr * u. Nesterov: p - lr * (g + momentum * u).

    `weight_decay` is L2 regularisation: it is added to the gradient, as in PyTorch.
    Sources: Polyak 1964 (momentum), Sutskever et al. 2013 (Nesterov's form).
    """

    def __init__(
        self,
        params,
        lr: float = 1e-1,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ):
        require("lr", lr, 0)
        require("momentum", momentum, 0, 1)
        require("weight_decay", weight_decay, 0)
        if nesterov and not momentum:
            raise ValueError("nesterov=True does nothing without momentum; set it")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Tensor | None:
        """One step; returns the loss of `closure`, where one is given."""
        loss = loss_of(closure)
        for group in self.param_groups:
            for p in with_gradient(group):
                g = p.grad.add(p, alpha=group["weight_decay"])
                p.sub_(self._direction(p, g, group), alpha=group["lr"])
        return loss

    def _direction(self, p: Tensor, g: Tensor, group: dict) -> Tensor:
        """Where to go from p: the gradient itself, or the velocity u."""
        if not group["momentum"]:
            return g
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        u = state["momentum_buffer"].mul_(group["momentum"]).add_(g)
        return g.add(u, alpha=group["momentum"]) if group["nesterov"] else u


def adam_direction(state: dict, g: Tensor, betas: tuple, eps: float) -> Tensor:
    """m̂ / (√v̂ + eps), about -1 ... 1 for each number, and updates m, v, t in `state`.

    Source: Kingma and Ba 2015, algorithm 1, lines 7 to 12.
    """
    if not state:
        state["step"] = 0
        state["exp_avg"] = torch.zeros_like(g)  # m
        state["exp_avg_sq"] = torch.zeros_like(g)  # v
    state["step"] = t = int(state["step"]) + 1
    m, v = state["exp_avg"], state["exp_avg_sq"]
    m.lerp_(g, 1 - betas[0])  # m = β₁ m + (1 - β₁) g
    v.lerp_(g.square(), 1 - betas[1])  # v = β₂ v + (1 - β₂) g²
    m_hat = m / (1 - betas[0] ** t)
    v_hat = v / (1 - betas[1] ** t)
    return m_hat / (v_hat.sqrt() + eps)


class Adam(torch.optim.Optimizer):
    """p - lr * m̂ / (√v̂ + eps). `weight_decay` is L2: it goes into the gradient.

    Here to be compared with `AdamW`, which differs in one line. Source: Kingma and Ba
    2015.
    """

    def __init__(
        self,
        params,
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, adam_defaults(lr, betas, eps, weight_decay))

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Tensor | None:
        """One step; returns the loss of `closure`, where one is given."""
        loss = loss_of(closure)
        for group in self.param_groups:
            for p in with_gradient(group):
                g = p.grad.add(p, alpha=group["weight_decay"])
                way = adam_direction(self.state[p], g, group["betas"], group["eps"])
                p.sub_(way, alpha=group["lr"])
        return loss


class AdamW(torch.optim.Optimizer):
    """p (1 - lr * weight_decay) - lr * m̂ / (√v̂ + eps): decay beside the gradient.

    Source: Loshchilov and Hutter 2019, algorithm 2, line 12, in PyTorch's form, where
    the learning rate multiplies the decay as well. The defaults are those of language
    models (betas of GPT-3, for example); PyTorch's are 1e-3, (0.9, 0.999) and 0.01.
    """

    def __init__(
        self,
        params,
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ):
        super().__init__(params, adam_defaults(lr, betas, eps, weight_decay))

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Tensor | None:
        """One step; returns the loss of `closure`, where one is given."""
        loss = loss_of(closure)
        for group in self.param_groups:
            for p in with_gradient(group):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                way = adam_direction(
                    self.state[p], p.grad, group["betas"], group["eps"]
                )
                p.sub_(way, alpha=group["lr"])
        return loss


def adam_defaults(lr: float, betas: tuple, eps: float, weight_decay: float) -> dict:
    """The four settings, checked. Raises ValueError."""
    require("lr", lr, 0)
    require("betas[0]", betas[0], 0, 1)
    require("betas[1]", betas[1], 0, 1)
    require("eps", eps, 0)
    require("weight_decay", weight_decay, 0)
    return {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
