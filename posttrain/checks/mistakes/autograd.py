"""What goes wrong in the exercise `autograd`, and the hint for each.

Each mistake is a whole answer. Where several differ from a right answer in one place
only, they share it as a base and change that place.
"""

from __future__ import annotations

import math

import torch

from posttrain.checks.task import Mistake

# ---------------------------------------------------------------- Value


class RightValue:
    """A right answer, cut into the places where each mistake goes wrong."""

    def __init__(self, data, parents=(), partials=()):
        self.data, self.grad = data, 0.0
        self.parents, self.partials = parents, partials

    def lift(self, other):
        return other if isinstance(other, RightValue) else type(self)(other)

    def __add__(self, other):
        other = self.lift(other)
        return type(self)(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        other = self.lift(other)
        parents = (self, other)
        return type(self)(
            self.data * other.data, parents, self.of_product(self.data, other.data)
        )

    def of_product(self, a, b):
        return b, a

    def __pow__(self, n):
        return type(self)(self.data**n, (self,), (self.of_power(self.data, n),))

    def of_power(self, x, n):
        return 0.0 if n == 0 else n * x ** (n - 1)

    def tanh(self):
        y = math.tanh(self.data)
        return type(self)(y, (self,), (self.of_tanh(self.data, y),))

    def of_tanh(self, x, y):
        return 1 - y**2

    def __radd__(self, other):
        return self + other

    def __rmul__(self, other):
        return self * other


class ValueProductNotSwapped(RightValue):
    def of_product(self, a, b):
        return a, b


class ValueTanhOfInput(RightValue):
    def of_tanh(self, x, y):
        return 1 - x**2


class ValueWrapsWholeNumbersOnly(RightValue):
    def lift(self, other):
        return type(self)(other) if isinstance(other, int) else other


class ValuePowerKeepsExponent(RightValue):
    def of_power(self, x, n):
        return n * x**n


class ValuePowerWithoutFactor(RightValue):
    def of_power(self, x, n):
        return 0.0 if n == 0 else x ** (n - 1)


class ValuePowerDividesByZero(RightValue):
    def of_power(self, x, n):
        return n * x ** (n - 1)


class ValueOnlyFromTheLeft(RightValue):
    __radd__ = None
    __rmul__ = None


class ValueTanhOverflows(RightValue):
    def tanh(self):
        grown = math.exp(2 * self.data)
        y = (grown - 1) / (grown + 1)
        return type(self)(y, (self,), (1 - y**2,))


# ---------------------------------------------------------------- topological_order


def order_breadth_first(root):
    seen, queue = {root}, [root]
    for node in queue:
        for parent in node.parents:
            if parent not in seen:
                seen.add(parent)
                queue.append(parent)
    return queue[::-1]


def order_before_parents(root):
    order, seen, stack = [], set(), [root]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            order.append(node)
            stack.extend(node.parents)
    return order[::-1]


def order_by_recursion(root):
    order, seen = [], set()

    def visit(node):
        if node not in seen:
            seen.add(node)
            for parent in node.parents:
                visit(parent)
            order.append(node)

    visit(root)
    return order


def walk(root, remember):
    """A right walk, which forgets what it has seen unless `remember`."""
    order, seen, stack = [], set(), [(root, False)]
    while stack:
        node, parents_done = stack.pop()
        if parents_done:
            order.append(node)
        elif node not in seen:
            if remember:
                seen.add(node)
            stack.append((node, True))
            stack.extend((parent, False) for parent in node.parents)
    return order


def order_without_memory(root):
    return walk(root, remember=False)


def order_forgets_until_the_end(root):
    return list(dict.fromkeys(walk(root, remember=False)))


def order_children_first(root):
    return walk(root, remember=True)[::-1]


def order_without_the_root(root):
    return walk(root, remember=True)[:-1]


# ---------------------------------------------------------------- backward


def sweep(order, clear=True, seed=1.0, add=True, local=True, back=True):
    """A right sweep, with a switch for each way to get it wrong."""
    for node in order:
        if clear == "all" or (clear and node.parents):
            node.grad = 0.0
    order[-1].grad += seed
    for node in reversed(order) if back else order:
        for parent, partial in zip(node.parents, node.partials, strict=True):
            step = (partial if local else 1.0) * node.grad
            parent.grad = parent.grad + step if add else step


def backward_overwrites(order):
    sweep(order, add=False)


def backward_counts_twice(order):
    sweep(order, clear=False)


def backward_clears_leaves(order):
    sweep(order, clear="all")


def backward_from_the_inputs(order):
    sweep(order, back=False)


def backward_without_seed(order):
    sweep(order, seed=0.0)


def backward_without_partials(order):
    sweep(order, local=False)


# ---------------------------------------------------------------- mlp


def run_mlp(x, layers, bias=True, hidden=True, last=False):
    """A right network, with a switch for each way to get it wrong."""
    for i, (W, b) in enumerate(layers):
        sums = []
        for row, shift in zip(W, b, strict=True):
            z = sum(w * number for w, number in zip(row, x, strict=True))
            sums.append(z + shift if bias else z)
        bent = last if i == len(layers) - 1 else hidden
        x = [z.tanh() for z in sums] if bent else sums
    return x


def mlp_bends_the_last(x, layers):
    return run_mlp(x, layers, last=True)


def mlp_without_bias(x, layers):
    return run_mlp(x, layers, bias=False)


def mlp_takes_the_last_away(x, layers):
    last = layers.pop()
    return run_mlp(x, [*layers, last])


def mlp_all_linear(x, layers):
    return run_mlp(x, layers, hidden=False)


def mlp_of_plain_numbers(x, layers):
    outputs = run_mlp(x, layers)
    return [torch.tensor(y.item(), dtype=y.dtype) for y in outputs]


# ---------------------------------------------------------------- cross_entropy


def entropy(logits, targets, shift=True, dim=1):
    """A right loss and probabilities minus one-hot, without the division by N."""
    if shift:
        logits = logits - logits.amax(dim=dim, keepdim=True)
    grown = logits.exp()
    probs = grown / grown.sum(dim=dim, keepdim=True)
    rows = torch.arange(len(targets))
    logs = logits - grown.sum(dim=dim, keepdim=True).log()
    loss = -logs[rows, targets].mean()
    one_hot = torch.zeros_like(probs)
    one_hot[rows, targets] = 1
    return loss, probs, one_hot, len(targets)


def entropy_gradient_not_averaged(logits, targets):
    loss, probs, one_hot, _ = entropy(logits, targets)
    return loss, probs - one_hot


def entropy_sign_turned(logits, targets):
    loss, probs, one_hot, n = entropy(logits, targets)
    return loss, (one_hot - probs) / n


def entropy_without_one_hot(logits, targets):
    loss, probs, _, n = entropy(logits, targets)
    return loss, probs / n


def entropy_overflows(logits, targets):
    loss, probs, one_hot, n = entropy(logits, targets, shift=False)
    return loss, (probs - one_hot) / n


def entropy_one_shift_for_all(logits, targets):
    loss, probs, one_hot, n = entropy(logits - logits.max(), targets, shift=False)
    return loss, (probs - one_hot) / n


def entropy_over_the_batch(logits, targets):
    loss, probs, one_hot, n = entropy(logits, targets, dim=0)
    return loss, (probs - one_hot) / n


# ---------------------------------------------------------------- adam_step


def adam(p, g, m, v, t, lr, beta1, beta2, eps, fix=0, inside=False, power=2, sign=1):
    """A right step, with a switch for each way to get it wrong; fix None: no bias."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**power
    m_hat, v_hat = m, v
    if fix is not None:
        m_hat, v_hat = m / (1 - beta1 ** (t + fix)), v / (1 - beta2 ** (t + fix))
    root = (v_hat + eps).sqrt() if inside else v_hat.sqrt() + eps
    return p - sign * lr * m_hat / root, m, v


def adam_without_correction(p, g, m, v, t, lr, beta1, beta2, eps):
    return adam(p, g, m, v, t, lr, beta1, beta2, eps, fix=None)


def adam_one_step_late(p, g, m, v, t, lr, beta1, beta2, eps):
    return adam(p, g, m, v, t, lr, beta1, beta2, eps, fix=1)


def adam_eps_inside(p, g, m, v, t, lr, beta1, beta2, eps):
    return adam(p, g, m, v, t, lr, beta1, beta2, eps, inside=True)


def adam_v_not_squared(p, g, m, v, t, lr, beta1, beta2, eps):
    return adam(p, g, m, v, t, lr, beta1, beta2, eps, power=1)


def adam_uphill(p, g, m, v, t, lr, beta1, beta2, eps):
    return adam(p, g, m, v, t, lr, beta1, beta2, eps, sign=-1)


def adam_betas_swapped(p, g, m, v, t, lr, beta1, beta2, eps):
    return adam(p, g, m, v, t, lr, beta2, beta1, eps)


def adam_keeps_corrected(p, g, m, v, t, lr, beta1, beta2, eps):
    p, m, v = adam(p, g, m, v, t, lr, beta1, beta2, eps)
    return p, m / (1 - beta1**t), v / (1 - beta2**t)


# ---------------------------------------------------------------- batch norm


def norm(x, gamma, beta, mean, var, training, momentum, eps, **switch):
    """A right layer, with a switch for each way to get it wrong."""
    new_mean, new_var = mean, var
    if training or switch.get("always_batch"):
        n = len(x)
        mu, spread = x.mean(0), x.var(0, unbiased=switch.get("unbiased_now", False))
    else:
        mu, spread = mean, var
    if training:
        share = 1 - momentum if switch.get("turned") else momentum
        kept = x.var(0, unbiased=False)
        if not switch.get("biased_kept"):
            kept = kept * n / (n - 1)
        new_mean = (1 - share) * mean + share * mu
        new_var = (1 - share) * var + share * kept
    if switch.get("eps_outside"):
        return gamma * (x - mu) / (spread.sqrt() + eps) + beta, new_mean, new_var
    return gamma * (x - mu) / (spread + eps).sqrt() + beta, new_mean, new_var


def norm_unbiased_now(x, gamma, beta, mean, var, training, momentum, eps):
    return norm(x, gamma, beta, mean, var, training, momentum, eps, unbiased_now=True)


def norm_biased_kept(x, gamma, beta, mean, var, training, momentum, eps):
    return norm(x, gamma, beta, mean, var, training, momentum, eps, biased_kept=True)


def norm_momentum_turned(x, gamma, beta, mean, var, training, momentum, eps):
    return norm(x, gamma, beta, mean, var, training, momentum, eps, turned=True)


def norm_eps_outside(x, gamma, beta, mean, var, training, momentum, eps):
    return norm(x, gamma, beta, mean, var, training, momentum, eps, eps_outside=True)


def norm_always_by_batch(x, gamma, beta, mean, var, training, momentum, eps):
    return norm(x, gamma, beta, mean, var, training, momentum, eps, always_batch=True)


def norm_in_place(x, gamma, beta, mean, var, training, momentum, eps):
    y, new_mean, new_var = norm(x, gamma, beta, mean, var, training, momentum, eps)
    mean.copy_(new_mean)
    var.copy_(new_var)
    return y, mean, var


def norm_pull(dy, x, gamma, eps, by_mean=True, by_var=True, unbiased=False):
    """A right backward pass, from which a path can be left out."""
    inv_std = (x.var(0, unbiased=unbiased) + eps).rsqrt()
    x_hat = (x - x.mean(0)) * inv_std
    g = dy * gamma
    dx = g
    if by_mean:
        dx = dx - g.mean(0)
    if by_var:
        dx = dx - x_hat * (g * x_hat).mean(0)
    return dx * inv_std, (dy * x_hat).sum(0), dy.sum(0)


def norm_pull_constants(dy, x, gamma, eps):
    return norm_pull(dy, x, gamma, eps, by_mean=False, by_var=False)


def norm_pull_without_variance(dy, x, gamma, eps):
    return norm_pull(dy, x, gamma, eps, by_var=False)


def norm_pull_without_mean(dy, x, gamma, eps):
    return norm_pull(dy, x, gamma, eps, by_mean=False)


def norm_pull_unbiased(dy, x, gamma, eps):
    return norm_pull(dy, x, gamma, eps, unbiased=True)


def norm_pull_gamma_by_x(dy, x, gamma, eps):
    dx, _, dbeta = norm_pull(dy, x, gamma, eps)
    return dx, (dy * x).sum(0), dbeta


def norm_pull_averaged(dy, x, gamma, eps):
    dx, dgamma, dbeta = norm_pull(dy, x, gamma, eps)
    return dx, dgamma / len(x), dbeta / len(x)


MISTAKES = {
    "Value": (
        Mistake(
            ValueProductNotSwapped,
            "the partials of a * b are the wrong way round: d(ab)/da is b.",
        ),
        Mistake(
            ValueTanhOfInput,
            "1 - x² uses the input. The derivative of tanh is 1 - y², with y = tanh x.",
        ),
        Mistake(ValuePowerWithoutFactor, "the factor n is missing: d(xⁿ)/dx = n xⁿ⁻¹."),
        Mistake(
            ValuePowerDividesByZero,
            "x ** 0 is 1 everywhere, so its derivative is 0, also at x = 0; but "
            "0.0 ** -1 raises an error. Treat n = 0 on its own.",
        ),
        Mistake(
            ValueOnlyFromTheLeft,
            "2 + a asks the number first, which does not know your class. Python then "
            "tries a.__radd__(2), and a.__rmul__(2) for 2 * a: define both.",
        ),
        Mistake(
            ValueWrapsWholeNumbersOnly,
            "a plain number may also be a float, such as 2.5. Wrap whatever is no "
            "Value yet.",
        ),
        Mistake(
            ValueTanhOverflows,
            "exp(2x) overflows for x above 355, where tanh is simply 1. Use math.tanh.",
        ),
    ),
    "topological_order": (
        Mistake(
            order_breadth_first,
            "breadth-first order is not enough: a node that is near the root by one "
            "way and far by another comes too late. Append a node only when all its "
            "parents are done.",
        ),
        Mistake(
            order_before_parents,
            "a node is appended when you meet it. Append it when you *leave* it, "
            "after its parents: put it back on the stack with a mark.",
        ),
        Mistake(
            order_by_recursion,
            "right on small graphs, but a chain of some thousand nodes is deeper than "
            "Python's call stack. Keep a stack of your own, in a list.",
        ),
        Mistake(
            order_without_memory,
            "a node that is used twice comes twice. Remember in a set what you have "
            "seen; without it the walk also takes one trip for each *path*.",
        ),
        Mistake(
            order_forgets_until_the_end,
            "the order is right, but the walk takes one trip for each *path*, and the "
            "paths can double with every node. Skip a node that you have seen when "
            "you meet it, not at the end.",
        ),
        Mistake(
            order_children_first, "the order is turned round: parents first, root last."
        ),
        Mistake(order_without_the_root, "the root itself is missing at the end."),
    ),
    "backward": (
        Mistake(
            backward_overwrites,
            "a node that is used twice keeps only the last of its gradients. Its "
            "gradient is the *sum* over its uses: +=.",
        ),
        Mistake(
            backward_counts_twice,
            "the second call starts with the inner gradients of the first. Set those "
            "of nodes with parents to 0 before the sweep; only leaves accumulate.",
        ),
        Mistake(
            backward_clears_leaves,
            "you clear the leaves too. They accumulate over calls, until somebody "
            "calls zero_grad: gradients of several batches add up that way.",
        ),
        Mistake(
            backward_from_the_inputs,
            "you sweep from the inputs. Start at the root: a node may hand its gradient"
            " on only when all its children have given theirs.",
        ),
        Mistake(
            backward_without_seed,
            "everything is 0, because nothing starts: d(root)/d(root) is 1.",
        ),
        Mistake(
            backward_without_partials,
            "the local derivative is missing: parent.grad += partial * node.grad.",
        ),
    ),
    "mlp": (
        Mistake(
            mlp_bends_the_last,
            "the last layer is linear: a logit may be larger than 1.",
        ),
        Mistake(mlp_without_bias, "the bias is missing."),
        Mistake(
            mlp_all_linear,
            "no tanh between the layers: two linear layers are one linear layer.",
        ),
        Mistake(
            mlp_takes_the_last_away,
            "`layers.pop()` takes the layer out of the list that was given: the next "
            "call has a layer less. Read `layers[-1]` instead.",
        ),
        Mistake(
            mlp_of_plain_numbers,
            "the numbers are right, but the graph is lost: a number that you take out "
            "with .item() or float() has no parents any more.",
        ),
    ),
    "cross_entropy": (
        Mistake(
            entropy_gradient_not_averaged,
            "the loss is a mean over N rows, so its gradient has a factor 1 / N.",
        ),
        Mistake(
            entropy_without_one_hot,
            "the 1 at the target is missing: probabilities minus one-hot.",
        ),
        Mistake(
            entropy_overflows,
            "exp(1000) is inf, and inf / inf is NaN. Subtract the largest logit of "
            "each row first; the probabilities do not change.",
        ),
        Mistake(
            entropy_one_shift_for_all,
            "you subtract the largest of *all* logits: in a row far below it every "
            "exponential is 0. Each row needs its own maximum.",
        ),
        Mistake(
            entropy_over_the_batch,
            "the softmax runs over the batch. Each *row* is one distribution: dim=1.",
        ),
    ),
    "adam_step": (
        Mistake(
            adam_without_correction,
            "m and v start at 0 and are too small at first: divide them by "
            "1 - beta ** t.",
        ),
        Mistake(
            adam_one_step_late,
            "t counts from 1: the first correction is 1 - beta ** 1.",
        ),
        Mistake(
            adam_eps_inside,
            "eps belongs outside of the root: sqrt(v̂) + eps. Inside, its root counts.",
        ),
        Mistake(adam_v_not_squared, "v is the running mean of g *squared*."),
        Mistake(adam_uphill, "you walk uphill: subtract the step."),
        Mistake(
            adam_betas_swapped,
            "beta1 belongs to m (the mean), beta2 to v (the square).",
        ),
        Mistake(
            adam_keeps_corrected,
            "return m and v as they are; the correction is for this step only, or it "
            "is applied again in the next.",
        ),
    ),
    "batch_norm": (
        Mistake(
            norm_unbiased_now,
            "the batch is normalised with the variance divided by N, not by N - 1.",
        ),
        Mistake(
            norm_biased_kept,
            "the running variance estimates that of all data: multiply the variance "
            "of the batch by N / (N - 1) before you mix it in.",
        ),
        Mistake(
            norm_momentum_turned,
            "here momentum is the share of the *new* batch: "
            "(1 - momentum) * old + momentum * new.",
        ),
        Mistake(norm_eps_outside, "eps is added to the variance, inside of the root."),
        Mistake(
            norm_always_by_batch,
            "in evaluation mode use the running statistics: the answer for one row "
            "must not depend on the rows beside it.",
        ),
        Mistake(
            norm_in_place,
            "you write into the statistics that were given. Return new tensors.",
        ),
    ),
    "batch_norm_backward": (
        Mistake(
            norm_pull_constants,
            "you treat mean and variance as constants. In training mode every row "
            "moves both, and with them the whole batch: two more paths.",
        ),
        Mistake(
            norm_pull_without_variance,
            "the path through the variance is missing: - x̂ * mean(g x̂).",
        ),
        Mistake(
            norm_pull_without_mean, "the path through the mean is missing: - mean(g)."
        ),
        Mistake(
            norm_pull_unbiased,
            "the forward pass divides the variance by N, not by N - 1: unbiased=False.",
        ),
        Mistake(
            norm_pull_gamma_by_x, "gamma multiplies x̂, not x: dgamma = sum of dy * x̂."
        ),
        Mistake(
            norm_pull_averaged,
            "gamma and beta are used by every row, so their gradients are sums over"
            " rows, not means.",
        ),
    ),
}
