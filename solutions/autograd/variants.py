"""Answers that the grader of `autograd` must tell apart. Never given to students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import math

import torch
import torch.nn.functional as F

# ---------------------------------------------------------------- Value


class ValueByOneHelper:
    """Lists instead of tuples, all operations through one method."""

    def __init__(self, data, parents=(), partials=()):
        self.data, self.grad = float(data), 0.0
        self.parents, self.partials = list(parents), list(partials)

    def make(self, data, *edges):
        return ValueByOneHelper(data, [p for p, _ in edges], [d for _, d in edges])

    def wrap(self, other):
        return ValueByOneHelper(other) if isinstance(other, (int, float)) else other

    def __add__(self, other):
        other = self.wrap(other)
        return self.make(other.data + self.data, (other, 1), (self, 1))

    def __mul__(self, other):
        other = self.wrap(other)
        return self.make(other.data * self.data, (other, self.data), (self, other.data))

    def __pow__(self, n):
        slope = math.pow(self.data, n - 1) * n if n else 0
        return self.make(math.pow(self.data, n), (self, slope))

    def tanh(self):
        y = math.tanh(self.data)
        return self.make(y, (self, (1 - y) * (1 + y)))

    __radd__, __rmul__ = __add__, __mul__


class ValueTanhOfPositive:
    """tanh by exp of a negative number, which cannot overflow."""

    def __init__(self, data, parents=(), partials=()):
        self.data, self.parents, self.partials, self.grad = data, parents, partials, 0

    def __add__(self, other):
        if not isinstance(other, ValueTanhOfPositive):
            other = ValueTanhOfPositive(other)
        return ValueTanhOfPositive(self.data + other.data, (self, other), (1, 1))

    def __mul__(self, other):
        if not isinstance(other, ValueTanhOfPositive):
            other = ValueTanhOfPositive(other)
        a, b = self.data, other.data
        return ValueTanhOfPositive(a * b, (self, other), (b, a))

    def __pow__(self, n):
        x = self.data
        slope = 0 if n == 0 else n * x ** (n - 1)
        return ValueTanhOfPositive(x**n, (self,), (slope,))

    def tanh(self):
        small = math.exp(-2 * abs(self.data))
        y = math.copysign((1 - small) / (1 + small), self.data)
        return ValueTanhOfPositive(y, (self,), (4 * small / (1 + small) ** 2,))

    def __radd__(self, other):
        return ValueTanhOfPositive(other) + self

    def __rmul__(self, other):
        return ValueTanhOfPositive(other) * self


class ValueThatMergesParents(ValueByOneHelper):
    """Wrong: a * a has one edge, as with a *set* of parents."""

    def make(self, data, *edges):
        merged = dict(edges)
        return ValueThatMergesParents(data, list(merged), list(merged.values()))

    def wrap(self, other):
        number = isinstance(other, (int, float))
        return ValueThatMergesParents(other) if number else other

    def __radd__(self, other):
        return self + other

    def __rmul__(self, other):
        return self * other


class ValuePowerByLogarithm(ValueTanhOfPositive):
    """Wrong: a negative number has no logarithm."""

    def __pow__(self, n):
        result = super().__pow__(n)
        if self.data != 0:
            slope = n * math.exp((n - 1) * math.log(self.data))
            result.partials = (slope,)
        return result


class ValuePowerWithoutSign(ValueTanhOfPositive):
    def __pow__(self, n):
        result = super().__pow__(n)
        if n != 0:
            result.partials = (n * abs(self.data) ** (n - 1),)
        return result


# ---------------------------------------------------------------- topological_order


def order_by_counting_children(root):
    """Kahn's way: a node is free when all its children are placed."""
    uses, stack, seen = {}, [root], {root}
    while stack:
        for parent in stack.pop().parents:
            uses[parent] = uses.get(parent, 0) + 1
            if parent not in seen:
                seen.add(parent)
                stack.append(parent)
    free, order = [root], []
    while free:
        node = free.pop()
        order.append(node)
        for parent in node.parents:
            uses[parent] -= 1
            if uses[parent] == 0:
                free.append(parent)
    return order[::-1]


def order_by_iterators(root):
    order, seen, stack = [], {root}, [(root, iter(root.parents))]
    while stack:
        node, rest = stack[-1]
        for parent in rest:
            if parent not in seen:
                seen.add(parent)
                stack.append((parent, iter(parent.parents)))
                break
        else:
            order.append(node)
            stack.pop()
    return tuple(order)


def order_marks_when_pushed(root):
    """Wrong: marks a node when it is put on the stack, not when it is taken."""
    order, seen, stack = [], {root}, [(root, False)]
    while stack:
        node, parents_done = stack.pop()
        if parents_done:
            order.append(node)
            continue
        stack.append((node, True))
        for parent in node.parents:
            if parent not in seen:
                seen.add(parent)
                stack.append((parent, False))
    return order


# ---------------------------------------------------------------- backward


def backward_with_a_table(order):
    """Gathers in a table, writes at the end."""
    grads = {id(node): 0.0 for node in order}
    grads[id(order[-1])] = 1.0
    for node in order[::-1]:
        for i, parent in enumerate(node.parents):
            grads[id(parent)] += node.partials[i] * grads[id(node)]
    for node in order:
        node.grad = grads[id(node)] + (0.0 if node.parents else node.grad)


def backward_by_pulling(order):
    """Each node asks its children, which it finds in the order."""
    kept = [0.0 if node.parents else node.grad for node in order]
    fresh = {}
    for i in reversed(range(len(order))):
        total = 1.0 if i == len(order) - 1 else 0.0
        for child in order[i + 1 :]:
            for parent, partial in zip(child.parents, child.partials, strict=True):
                if parent is order[i]:
                    total += partial * fresh[id(child)]
        fresh[id(order[i])] = total
    for node, before in zip(order, kept, strict=True):
        node.grad = before + fresh[id(node)]


def backward_turns_the_list(order):
    """Wrong: leaves the caller's list turned round."""
    for node in order:
        if node.parents:
            node.grad = 0.0
    order[-1].grad += 1.0
    order.reverse()
    for node in order:
        for parent, partial in zip(node.parents, node.partials, strict=True):
            parent.grad += partial * node.grad


# ---------------------------------------------------------------- mlp


def mlp_with_loops(x, layers):
    for number, (W, b) in enumerate(layers, start=1):
        outputs = []
        for row, bias in zip(W, b, strict=True):
            total = bias
            for i in range(len(x)):
                total = x[i] * row[i] + total
            outputs.append(total if number == len(layers) else total.tanh())
        x = outputs
    return x


def mlp_in_torch(x, layers):
    h = torch.stack(x)
    for W, b in layers[:-1]:
        h = (torch.stack([torch.stack(row) for row in W]) @ h + torch.stack(b)).tanh()
    W, b = layers[-1]
    return list(torch.stack([torch.stack(row) for row in W]) @ h + torch.stack(b))


def mlp_one_layer_only(x, layers):
    W, b = layers[-1]
    return [
        sum(w * number for w, number in zip(row, x, strict=False)) + bias
        for row, bias in zip(W, b, strict=True)
    ]


# ---------------------------------------------------------------- cross_entropy


def entropy_by_softmax(logits, targets):
    grad = logits.softmax(dim=1) - F.one_hot(targets, logits.shape[1]).to(logits.dtype)
    logs = logits.log_softmax(dim=1)
    return -logs.gather(1, targets[:, None]).mean(), grad / targets.numel()


def entropy_row_by_row(logits, targets):
    losses, grads = [], []
    for row, target in zip(logits, targets.tolist(), strict=True):
        shifted = row - row.max()
        probs = shifted.exp() / shifted.exp().sum()
        losses.append(shifted.exp().sum().log() - shifted[target])
        grads.append(probs - torch.eye(len(row), dtype=row.dtype)[target])
    return torch.stack(losses).mean(), torch.stack(grads) / len(losses)


def entropy_log_of_probability(logits, targets):
    """Wrong: the logarithm of a probability that has become 0."""
    probs = logits.softmax(dim=1)
    rows = torch.arange(len(targets))
    grad = probs.clone()
    grad[rows, targets] -= 1
    return -probs[rows, targets].log().mean(), grad / len(targets)


def entropy_by_autograd(logits, targets):
    leaf = logits.clone().requires_grad_()
    loss = -leaf.log_softmax(dim=1).gather(1, targets[:, None]).mean()
    loss.backward()
    return loss.detach(), leaf.grad


def entropy_writes_into_logits(logits, targets):
    logits -= logits.logsumexp(dim=1, keepdim=True)
    rows = torch.arange(len(targets))
    grad = logits.exp()
    grad[rows, targets] -= 1
    return -logits[rows, targets].mean(), grad / len(targets)


# ---------------------------------------------------------------- adam_step


def adam_with_lerp(p, g, m, v, t, lr, beta1, beta2, eps):
    m, v = m.lerp(g, 1 - beta1), v.lerp(g.square(), 1 - beta2)
    step = lr / (1 - beta1**t)
    return p - step * m / ((v / (1 - beta2**t)).sqrt() + eps), m, v


def adam_in_place_on_copies(p, g, m, v, t, lr, beta1, beta2, eps):
    p, m, v = p.clone(), m.clone(), v.clone()
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    root = v.sqrt() / math.sqrt(1 - beta2**t)
    p.addcdiv_(m, root.add_(eps), value=-lr / (1 - beta1**t))
    return p, m, v


def adam_in_place(p, g, m, v, t, lr, beta1, beta2, eps):
    """Wrong: writes into what it was given."""
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return p - lr * m_hat / (v_hat.sqrt() + eps), m, v


# ---------------------------------------------------------------- batch norm


def norm_by_moments(x, gamma, beta, mean, var, training, momentum, eps):
    if not training:
        y = (x - mean) * torch.rsqrt(var + eps) * gamma + beta
        return y, mean.clone(), var.clone()
    n = x.shape[0]
    mu = x.sum(0) / n
    squares = (x - mu).pow(2).sum(0)
    y = (x - mu) * torch.rsqrt(squares / n + eps) * gamma + beta
    new_var = torch.lerp(var, squares / (n - 1), momentum)
    return y, torch.lerp(mean, mu, momentum), new_var


def norm_channel_by_channel(x, gamma, beta, mean, var, training, momentum, eps):
    columns, means, variances = [], [], []
    for c in range(x.shape[1]):
        column, mu, s = x[:, c], mean[c], var[c]
        if training:
            mu, s = column.mean(), column.var(correction=0)
            means.append(mean[c] + momentum * (mu - mean[c]))
            variances.append(var[c] + momentum * (column.var() - var[c]))
        else:
            means.append(mu)
            variances.append(s)
        columns.append((column - mu) / (s + eps) ** 0.5 * gamma[c] + beta[c])
    return torch.stack(columns, 1), torch.stack(means), torch.stack(variances)


def norm_of_rows(x, gamma, beta, mean, var, training, momentum, eps):
    """Wrong: layer normalisation."""
    mu, s = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    return gamma * (x - mu) / (s + eps).sqrt() + beta, mean, var


def pull_node_by_node(dy, x, gamma, eps):
    n = len(x)
    mu = x.mean(0)
    centred = x - mu
    var = centred.square().mean(0)
    inv = (var + eps) ** -0.5
    x_hat = centred * inv
    d_hat = dy * gamma
    d_inv = (d_hat * centred).sum(0)
    d_var = d_inv * -0.5 * (var + eps) ** -1.5
    d_centred = d_hat * inv + d_var * 2 * centred / n
    dx = d_centred - d_centred.sum(0) / n
    return dx, (dy * x_hat).sum(0), dy.sum(0)


def pull_by_the_jacobian(dy, x, gamma, eps):
    """The whole (N, N) Jacobian of each channel, then a product."""
    n = len(x)
    inv = (x.var(0, correction=0) + eps).rsqrt()
    x_hat = (x - x.mean(0)) * inv
    eye = torch.eye(n, dtype=x.dtype)
    columns = []
    for c in range(x.shape[1]):
        h = x_hat[:, c]
        J = (eye - 1 / n - torch.outer(h, h) / n) * inv[c] * gamma[c]
        columns.append(J.T @ dy[:, c])
    ones = torch.ones(n, dtype=x.dtype)
    return torch.stack(columns, 1), torch.einsum("nc,nc->c", dy, x_hat), ones @ dy


def pull_without_eps(dy, x, gamma, eps):
    """Wrong: forgets eps."""
    inv = x.var(0, unbiased=False).rsqrt()
    x_hat = (x - x.mean(0)) * inv
    g = dy * gamma
    dx = g - g.mean(0) - x_hat * (g * x_hat).mean(0)
    return dx * inv, (dy * x_hat).sum(0), dy.sum(0)


RIGHT = {
    "Value": [ValueByOneHelper, ValueTanhOfPositive],
    "topological_order": [order_by_counting_children, order_by_iterators],
    "backward": [backward_with_a_table, backward_by_pulling],
    "mlp": [mlp_with_loops, mlp_in_torch],
    "cross_entropy": [entropy_by_softmax, entropy_row_by_row],
    "adam_step": [adam_with_lerp, adam_in_place_on_copies],
    "batch_norm": [norm_by_moments, norm_channel_by_channel],
    "batch_norm_backward": [pull_node_by_node, pull_by_the_jacobian],
}

WRONG = {
    "Value": [
        ValueThatMergesParents,
        ValuePowerByLogarithm,
        ValuePowerWithoutSign,
    ],
    "topological_order": [order_marks_when_pushed],
    "backward": [backward_turns_the_list],
    "mlp": [mlp_one_layer_only],
    "cross_entropy": [
        entropy_log_of_probability,
        entropy_by_autograd,
        entropy_writes_into_logits,
    ],
    "adam_step": [adam_in_place],
    "batch_norm": [norm_of_rows],
    "batch_norm_backward": [pull_without_eps],
}

_EQUAL_LENGTHS = (
    "the two lists are equally long, so there is nothing to be strict about"
)

_PAIRS = (
    "backward: `for parent, partial in zip(node.parents, node.partials, strict=True):`"
)
_MLP = (
    "mlp: `x = [sum((w * number for w, number in zip(row, x, strict=True))) + bias for "
    "row, bias in zip(W, b, strict=True)]` -> `x = [sum((w * number for w, number in "
)

EQUIVALENT = {
    f"{_PAIRS} -> `for parent, partial in zip(node.parents, node.partials):`": (
        _EQUAL_LENGTHS
    ),
    f"{_PAIRS} -> `for parent, partial in zip(node.parents, node.partials, "
    "strict=False):`": _EQUAL_LENGTHS,
    f"{_MLP}zip(row, x, strict=True))) + bias for row, bias in zip(W, b)]`": (
        _EQUAL_LENGTHS
    ),
    f"{_MLP}zip(row, x, strict=True))) + bias for row, bias in zip(W, b, "
    "strict=False)]`": _EQUAL_LENGTHS,
    f"{_MLP}zip(row, x))) + bias for row, bias in zip(W, b, strict=True)]`": (
        _EQUAL_LENGTHS
    ),
    f"{_MLP}zip(row, x, strict=False))) + bias for row, bias in zip(W, b, "
    "strict=True)]`": _EQUAL_LENGTHS,
    f"{_MLP}zip(x, row, strict=True))) + bias for row, bias in zip(W, b, "
    "strict=True)]`": "a product of two numbers does not depend on their order",
}
