"""Checks of the exercise `autograd`.

References: torch.autograd in float64 (Value, backward, mlp, losses, BatchNorm's
gradients), `F.batch_norm` with its running statistics, Adam's means as explicit sums
(tests hold them against `torch.optim.Adam`, whose import takes seconds). An order of
nodes is judged by what it is for: values that are computed along it.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F

from posttrain.checks.mistakes.autograd import MISTAKES
from posttrain.checks.task import Task

# ---------------------------------------------------------------- Value


def value_cases(rng, hidden):
    yield from [("a + b", 2.0, 3.0), ("a * b", 2.0, -3.0), ("tanh a", 0.5, 0.0)]
    yield from [("a ** 2", 3.0, 0.0), ("a ** -1", 2.0, 0.0), ("a ** 0.5", 4.0, 0.0)]
    yield from [("a ** 2", 0.0, 0.0), ("a ** 1", 0.0, 0.0), ("a ** 0", 0.0, 0.0)]
    yield from [("a + a", 1.5, 0.0), ("a * a", 1.5, 0.0)]
    yield from [("a + 2", 3.0, 0.0), ("2 + a", 3.0, 0.0)]
    yield from [("a * 2", 3.0, 0.0), ("2 * a", 3.0, 0.0)]
    yield from [("a + 2.5", 3.0, 0.0), ("2.5 * a", 3.0, 0.0)]
    yield from [("a ** 3", -2.0, 0.0), ("a ** 2", -3.0, 0.0)]
    yield from [("a * b", 0.0, 5.0), ("tanh a", 400.0, 0.0), ("tanh a", -800.0, 0.0)]
    names = ("a + b", "a * b", "a ** 3", "tanh a", "a ** -2")
    for name in names if hidden else names[:2]:
        a, b = (2 * torch.rand(2, generator=rng, dtype=torch.float64) + 0.5).tolist()
        yield name, a, -b


def drive_value(answer, expression, a, b):
    """Builds the expression: its value, its parents by name, its partials."""
    left, right = answer(a), answer(b)
    expressions = {
        "a + b": lambda: left + right,
        "a * b": lambda: left * right,
        "tanh a": lambda: left.tanh(),
        "a + a": lambda: left + left,
        "a * a": lambda: left * left,
        "a + 2": lambda: left + 2,
        "2 + a": lambda: 2 + left,
        "a * 2": lambda: left * 2,
        "2 * a": lambda: 2 * left,
        "a + 2.5": lambda: left + 2.5,
        "2.5 * a": lambda: 2.5 * left,
    }
    if "**" in expression:
        n = float(expression.split()[-1])
        result = left ** (int(n) if n == int(n) else n)
    else:
        result = expressions[expression]()
    edges = []
    for parent, partial in zip(result.parents, result.partials, strict=True):
        names = {id(left): "a", id(right): "b"}
        edges.append([names.get(id(parent), "number"), parent.data, partial])
    return {
        "data": result.data,
        "edges, sorted": sorted(edges),
        "grad of a new value": result.grad,
        "a and b afterwards": [left.data, left.grad, right.data, right.grad],
    }


def reference_value(expression, a, b):
    def leaf(x):
        return torch.tensor(x, dtype=torch.float64, requires_grad=True)

    first, second = leaf(a), leaf(b)
    operation, left, right = _parse(expression)
    chosen = {"a": first, "b": second, "2": leaf(2.0), "2.5": leaf(2.5)}
    if operation == "**":
        result, parents = first ** float(right), [("a", first)]
    elif operation == "tanh":
        result, parents = first.tanh(), [("a", first)]
    else:
        # a copy of each operand, so that a * a has two edges
        x, y = (leaf(chosen[name].item()) for name in (left, right))
        result = x + y if operation == "+" else x * y
        names = [name if name in "ab" else "number" for name in (left, right)]
        parents = list(zip(names, (x, y), strict=True))
    result.backward()
    edges = [[name, p.item(), p.grad.item()] for name, p in parents]
    return {
        "data": result.item(),
        "edges, sorted": sorted(edges),
        "grad of a new value": 0.0,
        "a and b afterwards": [a, 0.0, b, 0.0],
    }


def _parse(expression):
    parts = expression.split()
    return ("tanh", "a", "") if parts[0] == "tanh" else (parts[1], parts[0], parts[2])


# ---------------------------------------------------------------- graphs

# A graph as plain data: parents[i] lists the numbers of node i's parents, all below i;
# partials[i] the local derivatives beside them. The last node is the result.


def graphs(rng, hidden):
    yield [[]], [[]]  # a lone number
    yield [[], [0, 0]], [[], [3.0, 3.0]]  # x * x
    yield [[], [], [0, 1], [2, 0]], [[], [], [2.0, 3.0], [1.0, 1.0]]
    # a diamond: 1 and 2 use 0, 3 uses both; 4 uses 3 and, past them all, 0
    yield (
        [[], [0], [0], [1, 2], [0, 3]],
        [[], [2.0], [-1.0], [0.5, 3.0], [7.0, 1.5]],
    )
    yield [[], [0], [1], [0, 2]], [[], [2.0], [3.0], [5.0, 0.5]]  # a short way round
    yield [[], [0], [1], [2, 0]], [[], [2.0], [3.0], [0.5, 5.0]]
    yield [[], [], [0], [2]], [[], [], [1.5], [2.0]]  # node 1 is not used
    steps = 10  # 2 ** 10 paths
    yield (
        [[], *([i, i] for i in range(steps))],
        [[], *([0.7, 0.6] for _ in range(steps))],
    )
    for _ in range(6 if hidden else 2):
        yield _random_graph(rng, int(torch.randint(5, 15, (), generator=rng)))


def _random_graph(rng, size):
    parents, partials = [[], []], [[], []]
    for node in range(2, size):
        count = int(torch.randint(1, 4, (), generator=rng))
        parents.append(torch.randint(node, (count,), generator=rng).tolist())
        partials.append(torch.randn(count, generator=rng, dtype=torch.float64).tolist())
    return parents, partials


def sum_over_paths(parents, partials):
    """d(result)/d(node) for each node; 0 for those that the result does not use."""
    grads = [0.0] * len(parents)
    grads[-1] = 1.0
    for node in range(len(parents) - 1, -1, -1):  # numbers rise from parent to child
        for parent, partial in zip(parents[node], partials[node], strict=True):
            grads[parent] += partial * grads[node]
    return grads


def used_nodes(parents):
    used, stack = {len(parents) - 1}, [len(parents) - 1]
    while stack:
        for parent in parents[stack.pop()]:
            if parent not in used:
                used.add(parent)
                stack.append(parent)
    return sorted(used)


# -------------------------------------------------------- topological_order


def order_cases(rng, hidden):
    for parents, partials in graphs(rng, hidden):
        yield parents, partials, 0
    yield [[], [0]], [[], [2.0]], 3500  # deeper than the stack of a Jupyter kernel


def drive_order(answer, parents, partials, tail):
    """Asks for an order, and computes values along it: a node needs its parents'.

    tail: so many more nodes follow the last one, each a copy of the one before.
    """

    class Node:
        visits = 0

        def __init__(self, number, parents):
            self.number, self.above = number, parents

        @property
        def parents(self):
            Node.visits += 1
            return self.above

    size = len(parents)
    edges = [*parents, *([size - 1 + i] for i in range(tail))]
    nodes = []
    for number, used in enumerate(edges):
        nodes.append(Node(number, tuple(nodes[i] for i in used)))
    order = [node.number for node in answer(nodes[-1])]
    values = [0.0] * len(edges)
    for node in order:
        slopes = partials[node] if node < size else [1.0]
        pairs = zip(edges[node], slopes, strict=True)
        values[node] = node + 1 + sum(slope * values[i] for i, slope in pairs)
    return {
        "nodes, sorted": sorted(node for node in order if node < size),
        "of the tail": sum(node >= size for node in order),
        "values along the order": values[:size],
        "last": order[-1] if order else None,
        "parents asked for too often": Node.visits > 4 * len(nodes) ** 2,
    }


def reference_order(parents, partials, tail):
    used, values = used_nodes(parents), []
    for node, (own, slopes) in enumerate(zip(parents, partials, strict=True)):
        pairs = zip(own, slopes, strict=True)
        value = node + 1 + sum(slope * values[i] for i, slope in pairs)
        values.append(float(value) if node in used else 0.0)
    return {
        "nodes, sorted": used,
        "of the tail": tail,
        "values along the order": values,
        "last": len(parents) - 1 + tail,
        "parents asked for too often": False,
    }


# ---------------------------------------------------------------- backward


def backward_cases(rng, hidden):
    for i, (parents, partials) in enumerate(graphs(rng, hidden)):
        order = used_nodes(parents)
        before = torch.randn(len(parents), generator=rng, dtype=torch.float64)
        zeros = [0.0] * len(parents)
        yield parents, partials, order, before.tolist() if i % 2 else zeros


def drive_backward(answer, parents, partials, order, before):
    """Calls backward twice on the same graph; the gradients after each call."""

    class Node:
        def __init__(self, grad, parents, partials):
            self.grad, self.parents, self.partials = grad, parents, partials

    nodes = []
    for number, used in enumerate(parents):
        above = tuple(nodes[i] for i in used)
        nodes.append(Node(before[number], above, tuple(partials[number])))
    chosen = [nodes[i] for i in order]
    answer(chosen)
    once = [node.grad for node in nodes]
    answer(chosen)
    return {
        "grads after one call": once,
        "grads after two calls": [node.grad for node in nodes],
        "order afterwards": [nodes.index(node) for node in chosen],
    }


def reference_backward(parents, partials, order, before):
    grads = sum_over_paths(parents, partials)

    def after(calls):
        return [
            before[i]
            if i not in order
            else (grads[i] if parents[i] else before[i] + calls * grads[i])
            for i in range(len(parents))
        ]

    return {
        "grads after one call": after(1),
        "grads after two calls": after(2),
        "order afterwards": list(order),
    }


# ---------------------------------------------------------------- mlp


def mlp_cases(rng, hidden):
    def case(*sizes):
        layers = []
        for n_in, n_out in itertools.pairwise(sizes):
            W = torch.randn(n_out, n_in, generator=rng, dtype=torch.float64)
            layers.append((W, torch.randn(n_out, generator=rng, dtype=torch.float64)))
        return torch.randn(sizes[0], generator=rng, dtype=torch.float64), layers

    yield case(1, 1)  # one linear neuron
    yield case(2, 1)
    yield case(1, 1, 1)
    yield case(2, 3, 2)
    yield case(3, 2, 4, 1)
    if hidden:
        yield from (case(4, 5, 3), case(2, 2, 2, 2))


def drive_mlp(answer, x, layers):
    """Runs it on scalars with a gradient; the outputs, and d(their sum of squares)."""

    def counts(x, layers):
        shapes = [([len(row) for row in W], len(b)) for W, b in layers]
        return [[id(number) for number in x], shapes]

    x.requires_grad_()
    leaves = [t.requires_grad_() for layer in layers for t in layer]
    scalars = [
        ([list(row.unbind()) for row in W.unbind()], list(b.unbind()))
        for W, b in layers
    ]
    numbers = list(x.unbind())
    alive, given = [*numbers], counts(numbers, scalars)
    outputs = answer(numbers, scalars)
    kept = counts(alive, scalars) == counts(numbers, scalars) == given
    sum(y * y for y in outputs).backward()
    return {
        "outputs": [y.item() for y in outputs],
        "grad x": x.grad,
        "grads of W and b": [leaf.grad for leaf in leaves],
        "inputs unchanged": kept,
    }


def reference_mlp(x, layers):
    h = x.requires_grad_()
    leaves = [t.requires_grad_() for layer in layers for t in layer]
    for i, (W, b) in enumerate(layers):
        h = F.linear(h, W, b)
        h = h.tanh() if i < len(layers) - 1 else h
    h.square().sum().backward()
    return {
        "outputs": h.tolist(),
        "grad x": x.grad,
        "grads of W and b": [leaf.grad for leaf in leaves],
        "inputs unchanged": True,
    }


# ---------------------------------------------------------------- cross_entropy


def entropy_cases(rng, hidden):
    def case(n, k, size=1.0, dtype=torch.float64):
        logits = (size * torch.randn(n, k, generator=rng)).to(dtype)
        return logits, torch.randint(k, (n,), generator=rng)

    yield torch.zeros(1, 2, dtype=torch.float64), torch.tensor([1])
    for huge in ([1000.0, 0.0, 1000.0], [-1000.0, -1002.0, -1002.0]):
        # in float32 a logit of 1000 is itself only known to 0.00006
        yield torch.tensor([huge], dtype=torch.float64), torch.tensor([1])
    apart = torch.tensor([[1000.0, 1001.0], [-1000.0, -1001.0]], dtype=torch.float64)
    yield apart, torch.tensor([0, 1])
    yield case(1, 3)
    yield case(4, 3)
    yield case(2, 5, 10.0, torch.float32)
    for _ in range(3 if hidden else 1):
        n, k = torch.randint(2, 9, (2,), generator=rng).tolist()
        yield case(n, k, 3.0)


def drive_entropy(answer, logits, targets):
    loss, grad = answer(logits, targets)
    return {"loss": loss, "grad": grad, "logits": logits, "targets": targets}


def reference_entropy(logits, targets):
    leaf = logits.clone().requires_grad_()
    loss = F.cross_entropy(leaf, targets)
    loss.backward()
    return {"loss": loss, "grad": leaf.grad, "logits": logits, "targets": targets}


# ---------------------------------------------------------------- adam_step


def adam_cases(rng, hidden):
    def case(n, steps, lr=0.1, betas=(0.9, 0.999), eps=1e-8, size=1.0):
        p = torch.randn(n, generator=rng, dtype=torch.float64)
        grads = size * torch.randn(steps, n, generator=rng, dtype=torch.float64)
        return p, grads, lr, *betas, eps

    yield case(1, 1)
    yield case(1, 2)
    yield case(2, 5, lr=0.01, betas=(0.8, 0.95))
    yield case(2, 3, eps=0.1)
    yield case(2, 2, eps=1e-3, size=1e-3)
    for _ in range(3 if hidden else 1):
        yield case(4, 8, 0.03, (0.5, 0.9), 0.01)


def drive_adam(answer, p, grads, lr, beta1, beta2, eps):
    """Runs one step a gradient; the parameters after each, and m and v at the end."""
    import torch

    m, v, history = torch.zeros_like(p), torch.zeros_like(p), []
    for t, g in enumerate(grads, start=1):
        given = [x.clone() for x in (p, g, m, v)]
        new = answer(p, g, m, v, t, lr, beta1, beta2, eps)
        kept = all(a.equal(b) for a, b in zip(given, (p, g, m, v), strict=True))
        p, m, v = new
        history.append(p)
    return {"p": history, "m": m, "v": v, "inputs unchanged": kept}


def reference_adam(p, grads, lr, beta1, beta2, eps):
    """Both running means as the explicit sums that the recursions stand for."""

    def mean(values, beta, t):
        weights = [(1 - beta) * beta ** (t - 1 - i) for i in range(t)]
        return torch.tensor(weights, dtype=p.dtype) @ values[:t]

    history = []
    for t in range(1, len(grads) + 1):
        m, v = mean(grads, beta1, t), mean(grads.square(), beta2, t)
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        p = p - lr * m_hat / (v_hat.sqrt() + eps)
        history.append(p)
    return {"p": history, "m": m, "v": v, "inputs unchanged": True}


# ---------------------------------------------------------------- batch norm


def norm_cases(rng, hidden):
    def case(n, c, training, eps=1e-5, momentum=0.1, dtype=torch.float64):
        def draw(*shape):
            return torch.randn(*shape, generator=rng).to(dtype)

        x, gamma, beta = 2 * draw(n, c) + 3, draw(c), draw(c)
        mean, var = draw(c), draw(c).square() + 0.5
        return x, gamma, beta, mean, var, training, momentum, eps

    yield case(2, 1, True)
    yield case(1, 2, False)  # one row is enough for evaluation
    yield case(3, 2, True, eps=0.5)
    yield case(3, 2, False, eps=0.5)
    yield case(4, 3, True, momentum=0.7)
    yield case(5, 2, True, dtype=torch.float32)
    for _ in range(2 if hidden else 1):
        yield case(6, 4, True, 0.01, 0.3)
        yield case(6, 4, False, 0.01, 0.3)


def drive_norm(answer, x, gamma, beta, mean, var, training, momentum, eps):
    y, new_mean, new_var = answer(x, gamma, beta, mean, var, training, momentum, eps)
    given = [x, gamma, beta, mean, var]
    return {"y": y, "mean": new_mean, "var": new_var, "inputs": given}


def reference_norm(x, gamma, beta, mean, var, training, momentum, eps):
    new_mean, new_var = mean.clone(), var.clone()
    y = F.batch_norm(x, new_mean, new_var, gamma, beta, training, momentum, eps)
    given = [x, gamma, beta, mean, var]
    return {"y": y, "mean": new_mean, "var": new_var, "inputs": given}


def norm_backward_cases(rng, hidden):
    for x, gamma, _, _, _, _, _, eps in norm_cases(rng, hidden):
        if len(x) > 1:
            dy = torch.randn(x.shape, generator=rng).to(x.dtype)
            yield dy, x, gamma, eps
    x = torch.randn(3, 2, generator=rng, dtype=torch.float64)
    yield torch.ones_like(x), x, torch.ones(2, dtype=torch.float64), 1e-5


def drive_norm_backward(answer, dy, x, gamma, eps):
    dx, dgamma, dbeta = answer(dy, x, gamma, eps)
    return {"dx": dx, "dgamma": dgamma, "dbeta": dbeta, "inputs": [dy, x, gamma]}


def reference_norm_backward(dy, x, gamma, eps):
    leaves = [t.clone().requires_grad_() for t in (x, gamma, torch.zeros_like(gamma))]
    rows, scale, shift = leaves
    spread = rows.var(dim=0, correction=0) + eps
    y = scale * (rows - rows.mean(dim=0)) / spread.sqrt() + shift
    grads = torch.autograd.grad((y * dy).sum(), leaves)
    names = ("dx", "dgamma", "dbeta")
    return {**dict(zip(names, grads, strict=True)), "inputs": [dy, x, gamma]}


BACKWARD = ("torch.autograd", "torch.func", "Tensor.backward", "Tensor.requires_grad_")

TASKS = {
    "Value": Task(value_cases, drive_value, reference_value, MISTAKES["Value"]),
    "topological_order": Task(
        order_cases, drive_order, reference_order, MISTAKES["topological_order"]
    ),
    "backward": Task(
        backward_cases, drive_backward, reference_backward, MISTAKES["backward"]
    ),
    "mlp": Task(mlp_cases, drive_mlp, reference_mlp, MISTAKES["mlp"]),
    "cross_entropy": Task(
        entropy_cases,
        drive_entropy,
        reference_entropy,
        MISTAKES["cross_entropy"],
        forbid=("F.cross_entropy", "nn.CrossEntropyLoss", "F.nll_loss", *BACKWARD),
    ),
    "adam_step": Task(
        adam_cases,
        drive_adam,
        reference_adam,
        MISTAKES["adam_step"],
        forbid=("optim.Adam", "optim.AdamW"),
    ),
    "batch_norm": Task(
        norm_cases,
        drive_norm,
        reference_norm,
        MISTAKES["batch_norm"],
        forbid=("F.batch_norm", "nn.BatchNorm1d", "torch.native_batch_norm"),
    ),
    "batch_norm_backward": Task(
        norm_backward_cases,
        drive_norm_backward,
        reference_norm_backward,
        MISTAKES["batch_norm_backward"],
        forbid=("F.batch_norm", "nn.BatchNorm1d", *BACKWARD),
    ),
}
