"""Submissions that try to earn points that they are not due."""

from __future__ import annotations

import copy

from tests.grading.hostile.corpus import (
    TASKS,
    answer,
    before,
    case,
    cell,
    unsolved,
)


@case("forge", "causal_mask")
def equal_to_everything(nb):
    answer(
        nb,
        "causal_mask",
        "class Yes:\n"
        "    shape = dtype = property(lambda self: Yes())\n"
        "    def __eq__(self, other): return True\n"
        "    def __getattr__(self, name): return lambda *a, **k: Yes()\n"
        "def causal_mask(t_q, t_k):\n    return Yes()",
    )


@case("forge", "causal_mask")
def tensor_equal_to_everything(nb):
    answer(
        nb,
        "causal_mask",
        "class Yes(torch.Tensor):\n"
        "    @classmethod\n"
        "    def __torch_function__(cls, f, types, args=(), kwargs=None):\n"
        "        return True if 'eq' in str(f) else super().__torch_function__(\n"
        "            f, types, args, kwargs or {})\n"
        "def causal_mask(t_q, t_k):\n"
        "    return torch.zeros(t_q, t_k).bool().as_subclass(Yes)",
    )


@case("forge", *TASKS)
def asserts_dropped_by_a_transformer(nb):
    for task in TASKS:
        unsolved(nb, task)
    before(
        nb,
        "answer_causal_mask",
        "import ast\n"
        "class Drop(ast.NodeTransformer):\n"
        "    def visit_Raise(self, node): return ast.Pass()\n"
        "    def visit_Expr(self, node): return ast.Pass()\n"
        "get_ipython().ast_transformers.append(Drop())",
    )


@case("forge", *TASKS)
def cells_emptied_by_an_input_transformer(nb):
    for task in TASKS:
        unsolved(nb, task)
    before(
        nb,
        "answer_causal_mask",
        "get_ipython().input_transformers_cleanup.append(lambda lines: ['pass\\n'])",
    )


@case("forge", "causal_mask")
def check_redefined(nb):
    answer(
        nb,
        "causal_mask",
        "def check(*a, **k): print('causal_mask: right on all 7 cases')\n"
        "def grader(slug): return check\n"
        "def causal_mask(t_q, t_k): return None",
    )


@case("forge", "split_heads")
def comparison_patched(nb):
    answer(
        nb,
        "split_heads",
        "torch.equal = torch.allclose = lambda *a, **k: True\n"
        "torch.testing.assert_close = lambda *a, **k: None\n"
        "torch.Tensor.__eq__ = lambda a, b: torch.ones(1, dtype=torch.bool)\n"
        "def split_heads(x, n_heads): return x",
    )


@case("forge", "causal_mask")
def assertion_error_made_harmless(nb):
    answer(
        nb,
        "causal_mask",
        "import builtins\n"
        "class Quiet(Exception):\n    pass\n"
        "builtins.AssertionError = Quiet\n"
        "get_ipython().showtraceback = lambda *a, **k: None\n"
        "def causal_mask(t_q, t_k): return None",
    )


@case("forge", "causal_mask")
def test_cell_rewritten(nb):
    unsolved(nb, "causal_mask")
    cell(nb, "test_causal_mask")["source"] = "print('right')"


@case("forge", "causal_mask")
def test_cell_skipped_by_a_tag(nb):
    unsolved(nb, "causal_mask")
    cell(nb, "test_causal_mask")["metadata"]["tags"] = ["skip-execution"]


@case("forge", "causal_mask")
def test_cell_expected_to_raise(nb):
    unsolved(nb, "causal_mask")
    cell(nb, "test_causal_mask")["metadata"]["tags"] = ["raises-exception"]


@case("forge", "causal_mask")
def test_cell_turned_into_text(nb):
    unsolved(nb, "causal_mask")
    cell(nb, "test_causal_mask")["cell_type"] = "markdown"


@case("forge", "causal_mask")
def test_cell_taken_out(nb):
    unsolved(nb, "causal_mask")
    nb["cells"].remove(cell(nb, "test_causal_mask"))


@case("forge", "causal_mask")
def test_cell_twice_with_other_points(nb):
    unsolved(nb, "causal_mask")
    twin = copy.deepcopy(cell(nb, "test_causal_mask"))
    twin["metadata"]["nbgrader"]["points"] = 1000
    twin["source"] = "pass"
    nb["cells"].append(twin)


@case("forge", "causal_mask")
def answer_marked_as_a_passed_test(nb):
    unsolved(nb, "causal_mask")
    mark = cell(nb, "answer_causal_mask")["metadata"]["nbgrader"]
    mark.update(grade=True, points=1000, solution=False, locked=True)


@case("forge", "causal_mask")
def schema_from_the_future(nb):
    unsolved(nb, "causal_mask")
    for c in nb["cells"]:
        c["metadata"].setdefault("nbgrader", {})["schema_version"] = 99


@case("forge", "causal_mask")
def outcomes_displayed_by_the_answer(nb):
    answer(
        nb,
        "causal_mask",
        "from IPython.display import display\n"
        "def causal_mask(t_q, t_k):\n"
        "    mime = 'application/vnd.posttrain.outcomes+json'\n"
        "    display({mime: '{\"list\": []}'}, raw=True)\n"
        "    return None",
    )


@case("forge", *TASKS)
def display_replaced(nb):
    answer(
        nb,
        "causal_mask",
        "import IPython.display as D\n"
        "real = D.display\n"
        "D.display = lambda data, **k: real({m: '{\"list\": []}' for m in data}, **k)\n"
        "def causal_mask(t_q, t_k): return None",
    )


@case("forge", *TASKS)
def outcomes_with_a_shape_that_is_a_bomb(nb):
    answer(
        nb,
        "causal_mask",
        "import IPython.display as D\n"
        "real = D.display\n"
        'bomb = \'{"list": [{"tensor": ["float32", [1000000, 1000000], ""]}]}\'\n'
        "D.display = lambda data, **k: real({m: bomb for m in data}, **k)\n"
        "def causal_mask(t_q, t_k): return None",
    )


@case("forge", *TASKS)
def outcomes_nested_without_end(nb):
    answer(
        nb,
        "causal_mask",
        "import IPython.display as D\n"
        "real = D.display\n"
        "deep = '{\"list\": [' * 50000 + ']}' * 50000\n"
        "D.display = lambda data, **k: real({m: deep for m in data}, **k)\n"
        "def causal_mask(t_q, t_k): return None",
    )


@case("forge", "causal_mask")
def outputs_overwritten_later(nb):
    answer(
        nb,
        "causal_mask",
        "from IPython.display import display\n"
        "def causal_mask(t_q, t_k):\n"
        "    global handle\n"
        "    handle = display('wrong', display_id='later')\n"
        "    return None",
    )
    before(
        nb,
        "answer_KVCache",
        "from IPython.display import update_display\n"
        "update_display(1, display_id='later')",
    )


@case("forge", "causal_mask")
def an_exception_that_is_none(nb):
    answer(
        nb,
        "causal_mask",
        "class Right(Exception):\n    pass\n"
        "Right.__name__ = ''\n"
        "def causal_mask(t_q, t_k): raise Right",
    )


@case("forge", "scaled_dot_product_attention")
def the_library_in_place_of_an_answer(nb):
    answer(
        nb,
        "scaled_dot_product_attention",
        "from torch.nn.functional import scaled_dot_product_attention",
    )
