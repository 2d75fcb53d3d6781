"""Expressions against Python's own grammar, read with fractions."""

import ast
import operator
import random
from fractions import Fraction

import pytest

from posttrain.synthetic_data.exact_arithmetic import (
    MAX_CHARACTERS,
    NotArithmetic,
    numbers,
    read_step,
    value,
)

BY_AST = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def by_python(text):
    """The value by Python's parser: each literal becomes a fraction."""

    def walk(node):
        if isinstance(node, ast.Constant):
            return Fraction(ast.get_source_segment(text, node))
        if isinstance(node, ast.UnaryOp):
            return BY_AST[type(node.op)](walk(node.operand))
        return BY_AST[type(node.op)](walk(node.left), walk(node.right))

    return walk(ast.parse(text, mode="eval").body)


def expression(rng, depth=3):
    """A random expression with brackets, signs and decimals."""
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(("7", "12", "0.25", ".5", "3.", "100"))
    left, right = expression(rng, depth - 1), expression(rng, depth - 1)
    shape = rng.choice(("{}{}{}", "({}{}{})", "-{}{}{}", "{} {} ({})", "+{}{}{}"))
    return shape.format(left, rng.choice("+-*/"), right)


def test_the_same_as_pythons_grammar():
    rng = random.Random(0)
    tried = 0
    while tried < 400:
        text = expression(rng)
        try:
            due = by_python(text)
        except ZeroDivisionError:
            continue
        assert value(text) == due, text
        tried += 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "ends where a number"),
        ("2+", "ends where a number"),
        ("(2", "bracket is not closed"),
        ("2)", "cannot stand there"),
        ("2 3", "cannot stand there"),
        ("*2", "stands where a number is due"),
        ("2//3", "stands where a number is due"),
        ("2**3", "stands where a number is due"),
        ("2/(1-1)", "divides by zero"),
        ("x+1", "'x' is no arithmetic"),
        ("1_000", "'_' is no arithmetic"),
        ("٣", "is no arithmetic"),
        ("1+" * MAX_CHARACTERS + "1", "characters are too many"),
        ("(" * 150, "ends where a number"),
    ],
)
def test_everything_else_is_refused(text, says):
    with pytest.raises(NotArithmetic, match=says.replace("(", r"\(")):
        value(text)


def test_floats_are_less_exact():
    assert value("0.1+0.2") == value("0.3")
    assert value("0.1+0.2", float) != value("0.3", float)
    assert value("(2+3)*4", float) == 20.0


def test_steps():
    assert read_step("0.1+0.2=0.3").true
    assert not read_step("1/3=0.33").true
    assert read_step("12+3=15").numbers == [12, 3]
    assert read_step("3/4 = 6/8").said == Fraction(3, 4)
    assert numbers("-(2*.5)") == [2, Fraction(1, 2)]
    for text in ("12+3", "1=1=1", "=3", "3="):
        with pytest.raises(NotArithmetic):
            read_step(text)
