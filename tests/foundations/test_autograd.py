"""The scalar engine against torch.autograd, and the picture of its graph."""

import itertools
import math
import random
import re

import pytest
import torch

from posttrain.foundations import autograd_draw as drawing
from posttrain.foundations import autograd_mlp as mlp
from posttrain.foundations.autograd import (
    Value,
    as_value,
    dot,
    topological_order,
    zero_grad,
)
from posttrain.foundations.autograd_forward import Dual, gradient_forward, jvp
from posttrain.foundations.autograd_layout import layout, row_of_each
from posttrain.foundations.autograd_optim import SGD, Adam
from posttrain.foundations.autograd_random import (
    BINARY,
    UNARY,
    random_program,
    run_program,
)

PROGRAMS = [
    random_program(random.Random(f"graph {seed}"), 1 + seed % 6, 1 + seed % 60)
    for seed in range(300)
]


def torch_gradient(program):
    leaves = [
        torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in program.leaves
    ]
    result = run_program(program, leaves)
    result.backward()
    return result.item(), [leaf.grad.item() for leaf in leaves]


def test_random_graphs_equal_torch_in_both_modes():
    for program in PROGRAMS:
        due, gradient = torch_gradient(program)
        leaves = [Value(x) for x in program.leaves]
        result = run_program(program, leaves)
        result.backward()
        forward = gradient_forward(
            lambda x, p=program: run_program(p, x), program.leaves
        )
        assert result.data == pytest.approx(due, rel=1e-12, abs=1e-12)
        reverse = [leaf.grad for leaf in leaves]
        assert reverse == pytest.approx(gradient, rel=1e-10, abs=1e-10)
        assert forward == pytest.approx(gradient, rel=1e-10, abs=1e-10)


def test_the_random_graphs_hold_what_can_go_wrong():
    steps = [step for program in PROGRAMS for step in program.steps]
    assert {name for name, _, _ in steps} == {*BINARY, *UNARY}
    assert any(len(used) == 2 and used[0] == used[1] for _, used, _ in steps)
    assert any(len(used) == 2 and used[0] != used[1] for _, used, _ in steps)
    exponents = {constant for name, _, constant in steps if name == "**"}
    assert {0, 1, 2, -1, 0.5} <= exponents
    uses = itertools.chain.from_iterable(used for _, used, _ in PROGRAMS[59].steps)
    assert len(list(uses)) > len(set(uses))
    kinks = [
        (value.data > 0)
        for program in PROGRAMS
        for value in topological_order(
            run_program(program, [Value(x) for x in program.leaves])
        )
        if value.op == "relu"
    ]
    assert 0.1 < sum(kinks) / len(kinks) < 0.9


def test_every_inner_gradient_equals_torch():
    x, y = Value(0.7), Value(-1.3)
    tx, ty = (torch.tensor(v.data, dtype=torch.float64) for v in (x, y))
    for leaf in (tx, ty):
        leaf.requires_grad_()
    inner, torch_inner = x * y, tx * ty
    torch_inner.retain_grad()
    (inner.tanh() + inner / x).backward()
    (torch_inner.tanh() + torch_inner / tx).backward()
    for ours, theirs in ((x, tx), (y, ty), (inner, torch_inner)):
        assert ours.grad == pytest.approx(theirs.grad.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("x", "n"), [(0.0, 0), (0.0, 1), (0.0, 2), (0.0, 0.5), (0.0, 1.5), (-2.0, 3)]
)
def test_powers_at_the_edge_equal_torch(x, n):
    ours, theirs = Value(x), torch.tensor(x, dtype=torch.float64, requires_grad=True)
    (ours**n).backward()
    (theirs**n).backward()
    assert ours.grad == theirs.grad.item()


def test_relu_at_the_corner_equals_torch():
    ours, theirs = Value(0.0), torch.zeros((), requires_grad=True)
    ours.relu().backward()
    theirs.relu().backward()
    assert ours.grad == theirs.grad.item() == 0


def test_dot_is_one_node_and_equals_torch():
    rng = random.Random(0)
    a, b = ([Value(rng.gauss(0, 1)) for _ in range(5)] for _ in range(2))
    ta, tb = (torch.tensor([v.data for v in vs]).requires_grad_() for vs in (a, b))
    result = dot(a, b)
    assert len(topological_order(result)) == 11
    result.backward()
    torch.dot(ta, tb).backward()
    assert [v.grad for v in a] == pytest.approx(ta.grad.tolist())
    assert [v.grad for v in b] == pytest.approx(tb.grad.tolist())
    square = dot(a, a)  # every value is a parent twice
    zero_grad(a)
    square.backward()
    assert [v.grad for v in a] == pytest.approx([2 * v.data for v in a])


def test_a_node_that_is_used_twice_gets_both_gradients():
    x = Value(3.0)
    (x * x + x).backward()
    assert x.grad == 7.0


def test_leaves_accumulate_over_calls_and_inner_nodes_do_not():
    x = Value(3.0)
    inner = x * 2.0
    result = inner * inner
    result.backward()
    assert (x.grad, inner.grad) == (24.0, 12.0)
    result.backward()
    assert (x.grad, inner.grad) == (48.0, 12.0)
    zero_grad([x])
    assert x.grad == 0.0
    x.backward()
    assert x.grad == 1.0


def test_the_order_has_each_node_once_and_parents_first():
    for program in PROGRAMS[:60]:
        root = run_program(program, [Value(x) for x in program.leaves])
        order = topological_order(root)
        place = {node: i for i, node in enumerate(order)}
        assert len(place) == len(order)
        assert order[-1] is root
        for node in order:
            assert all(place[parent] < place[node] for parent in node.parents)


def test_depth_is_limited_by_memory_only():
    x = Value(1.0)
    y = x
    for _ in range(50_000):
        y = y + x
    y.backward()
    assert x.grad == 50_001


def test_many_paths_take_no_longer_than_their_edges():
    y = x = Value(1.0)
    for _ in range(200):
        y = y + y  # 2 ** 200 paths from x to y, 400 edges
    y.backward()
    assert x.grad == 2.0**200


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Value(1.0) / 0, ZeroDivisionError, "1 / 0: add a small eps"),
        (lambda: Value(0.0) ** -1, ValueError, "0 ** -1 is not a real number"),
        (lambda: Value(-2.0) ** 0.5, ValueError, "-2 ** 0.5 is not"),
        (lambda: Value(2.0) ** Value(2.0), TypeError, "must be a number, got Value"),
        (lambda: Value(0.0).log(), ValueError, "log(0): a logarithm needs"),
        (lambda: Value(1000.0).exp(), OverflowError, "exp(1000) is too large"),
        (lambda: Value(1.0) + "2", TypeError, "a Value or a number, got str: '2'"),
        (lambda: dot([Value(1.0)], []), ValueError, "dot of 1 and 0 values"),
        (lambda: mlp.cross_entropy([Value(1.0)], 1), IndexError, "target 1 is not"),
    ],
)
def test_errors_name_the_bad_value(make, error, words):
    with pytest.raises(error, match=re.escape(words)):
        make()


def test_forward_mode_gives_one_direction_a_pass():
    value, slope = jvp(lambda x: x[0] * x[0] + 3 * x[1], (2.0, 1.0), (1.0, 10.0))
    assert (value, slope) == (7.0, 34.0)
    with pytest.raises(ValueError):
        jvp(lambda x: x[0], (1.0, 2.0), (1.0,))
    assert (Dual(3.0, 1.0) ** 0).tangent == 0


# ---------------------------------------------------------------- networks


def torch_twin(model):
    layers = []
    for layer in model.layers:
        linear = torch.nn.Linear(len(layer[0].w), len(layer), dtype=torch.float64)
        with torch.no_grad():
            weights = [[w.data for w in neuron.w] for neuron in layer]
            linear.weight.copy_(torch.tensor(weights, dtype=torch.float64))
            biases = [neuron.b.data for neuron in layer]
            linear.bias.copy_(torch.tensor(biases, dtype=torch.float64))
        layers += [linear, torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def test_mlp_loss_and_gradients_equal_torch():
    rng = random.Random(0)
    model = mlp.MLP((2, 5, 4, 3), rng)
    for parameter in model.parameters():
        parameter.data = rng.gauss(0, 1)
    points, labels = [(0.5, -1.0), (2.0, 0.1), (-1.0, 1.5)], [0, 2, 1]
    loss = mlp.mean_loss(model, points, labels)
    loss.backward()
    twin = torch_twin(model)
    logits = twin(torch.tensor(points, dtype=torch.float64))
    torch_loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
    torch_loss.backward()
    assert loss.data == pytest.approx(torch_loss.item(), rel=1e-12)
    due = []
    for linear in (twin[0], twin[2], twin[4]):
        for weights, bias in zip(linear.weight.grad, linear.bias.grad, strict=True):
            due += [*weights.tolist(), bias.item()]
    assert [p.grad for p in model.parameters()] == pytest.approx(due, rel=1e-10)


def test_cross_entropy_of_huge_logits_is_finite():
    logits = [Value(1000.0), Value(0.0)]
    loss = mlp.cross_entropy(logits, 1)
    loss.backward()
    assert loss.data == 1000.0
    assert [z.grad for z in logits] == [1.0, -1.0]


@pytest.mark.parametrize("draw", [mlp.moons, mlp.spiral])
def test_training_separates_the_toy_sets(draw):
    points, labels = draw(40, 0.0, random.Random(0))
    assert len(points) == 40
    assert sum(labels) == 20
    model = mlp.MLP((2, 8, 2), random.Random(0))
    losses = mlp.train(model, points, labels, Adam(0.1), 60)
    assert len(losses) == 61
    assert losses[-1] < 0.25 * losses[0]
    assert mlp.accuracy(model, points, labels) > 0.9


def test_without_zero_grad_sgd_is_momentum_one():
    """The gradients that are kept add up: u = g + 1.0 * (u before)."""
    points, labels = mlp.moons(12, 0.1, random.Random(0))
    curves = []
    for momentum, clear in ((0.0, False), (1.0, True), (0.0, True)):
        model = mlp.MLP((2, 4, 2), random.Random(0))
        curves.append(mlp.train(model, points, labels, SGD(0.1, momentum), 8, clear))
    assert curves[0] == pytest.approx(curves[1], rel=1e-9)
    assert curves[0] != pytest.approx(curves[2], rel=1e-3)


# ---------------------------------------------------------------- the drawing


def test_rows_go_down_and_inputs_stand_just_above_their_use():
    #        0  1  2 = f(0, 1)  3  4 = f(2, 3)  5 = f(4, 0)
    parents = [(), (), (0, 1), (), (2, 3), (4, 0)]
    assert row_of_each(parents) == [0, 0, 1, 1, 2, 3]
    placed = layout(parents, gap=100, point_gap=50)
    [(_, _, chain)] = [edge for edge in placed.edges if edge[:2] == (0, 5)]
    assert [spot.row for spot in chain] == [0, 1, 2, 3]
    for row in placed.rows:
        for left, right in itertools.pairwise(row):
            boxes = left.node is not None and right.node is not None
            assert right.x - left.x >= (100 if boxes else 50) - 1e-6
    assert min(spot.x for row in placed.rows for spot in row) == 0
    with pytest.raises(ValueError, match=r"node 0 has parents \[1\]"):
        layout([(1,), ()], 1, 1)


def test_sorting_rows_uncrosses_edges():
    #  2 uses 1 and 3 uses 0: in the order of numbers the edges would cross
    placed = layout([(), (), (1,), (0,), (2, 3)], gap=100, point_gap=50)
    x = [spot.x for spot in placed.boxes]
    assert (x[0] < x[1]) == (x[3] < x[2])


def test_the_picture_holds_the_graph():
    a, b = Value(3.0, label="a<b"), Value(-2.0, label="b")
    c = a * b
    c.label = "c"
    result = (c * c).tanh() + 0.25
    result.backward()
    text = drawing.svg(result, 'a "graph"')
    assert text.count("<rect") == len(topological_order(result)) == 7
    assert text.count("<path") == 2 * 7  # seven edges, each a line and a head
    for part in ("a&lt;b", "c (×)", "tanh", "constant", "value −6", "grad 1<"):
        assert part in text
    assert 'aria-label="a &quot;graph&quot;"' in text
    assert text.count('fill="currentColor"') == 1
    assert "white" not in text and "black" not in text


def test_the_picture_has_both_edges_of_a_square():
    x = Value(3.0, label="x")
    text = drawing.svg(x * x, "a square")
    starts = re.findall(r'd="M([\d.]+) [\d.]+L', text)
    assert len(set(starts[::2])) == 2


def test_the_picture_refuses_what_nobody_can_read():
    total = as_value(0.0)
    for _ in range(25):
        total = total + 1.0
    with pytest.raises(ValueError, match="51 nodes cannot be read; draw at most 40"):
        drawing.svg(total, "too much")
    with pytest.raises(ValueError, match="alt is empty"):
        drawing.svg(Value(1.0), " ")
    assert drawing.number_text(-math.pi) == "−3.14"
