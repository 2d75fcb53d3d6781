"""Hostile and broken submissions, and what each must come to.

A case edits a solved notebook; `lost` names the tasks that may earn nothing, all others
must earn every point. Cases are of the classes that were seen to work against a plain
autograder: forging points, breaking the run, and, as a control, honest code that looks
odd.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

TASKS = (
    "causal_mask",
    "scaled_dot_product_attention",
    "split_heads",
    "merge_heads",
    "MultiHeadAttention",
    "KVCache",
)


@dataclass(frozen=True)
class Case:
    """One submission: how a solved notebook is changed, and the tasks it loses.

    A bomb may be refused to the cell that asks, or end the kernel before that: then
    the tasks that come later, `perhaps`, are lost too.
    """

    name: str
    kind: str
    edit: Callable[[dict], None]
    lost: tuple[str, ...]
    perhaps: tuple[str, ...] = ()


CASES: list[Case] = []


def case(kind: str, *lost: str, perhaps: tuple[str, ...] = ()):
    """Registers a function that edits a solved notebook in place."""

    def register(edit):
        CASES.append(Case(edit.__name__, kind, edit, lost, perhaps))
        return edit

    return register


def apply(case: Case, solved: dict) -> dict:
    """The submission of a case."""
    nb = copy.deepcopy(solved)
    case.edit(nb)
    return nb


def cell(nb: dict, grade_id: str) -> dict:
    marks = ((c, c["metadata"].get("nbgrader", {})) for c in nb["cells"])
    return next(c for c, mark in marks if mark.get("grade_id") == grade_id)


def answer(nb: dict, task: str, source: str) -> None:
    cell(nb, f"answer_{task}")["source"] = source


def before(nb: dict, grade_id: str, source: str) -> None:
    """An extra code cell in front of another."""
    at = nb["cells"].index(cell(nb, grade_id))
    extra = {"cell_type": "code", "metadata": {}, "source": source, "outputs": []}
    nb["cells"].insert(at, {**extra, "execution_count": None})


def unsolved(nb: dict, task: str) -> None:
    answer(nb, task, f"def {task}(*arguments, **options):\n    return None")


# ------------------------------------------------------------------------- forge


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


# ------------------------------------------------------------------------- crash


@case("crash", *TASKS[1:])
def kernel_ends_itself_in_an_answer(nb):
    before(nb, "answer_scaled_dot_product_attention", "import os; os._exit(0)")


@case("crash", *TASKS[3:])
def kernel_ends_itself_while_it_is_tried(nb):
    answer(nb, "merge_heads", "import os\ndef merge_heads(heads):\n    os._exit(1)")


@case("crash", *TASKS[1:])
def kernel_killed_by_a_fault_of_memory(nb):
    before(
        nb,
        "answer_scaled_dot_product_attention",
        "import ctypes; ctypes.string_at(0)",
    )


@case("crash", "split_heads")
def exit_is_called(nb):
    answer(nb, "split_heads", "import sys\ndef split_heads(x, n):\n    sys.exit(0)")


@case("crash", "split_heads")
def interrupt_is_raised(nb):
    answer(nb, "split_heads", "def split_heads(x, n):\n    raise KeyboardInterrupt")


@case("crash", "split_heads")
def recursion_without_end(nb):
    answer(nb, "split_heads", "def split_heads(x, n):\n    return split_heads(x, n)")


@case("crash", "split_heads")
def syntax_error(nb):
    answer(nb, "split_heads", "def split_heads(x, n:")


@case("crash", "split_heads")
def null_bytes(nb):
    answer(nb, "split_heads", "def split_heads(x, n):\n    return '\0'\0")


@case("crash", "split_heads")
def lone_surrogates(nb):
    answer(nb, "split_heads", "def split_heads(x, n):\n    return '\ud800'")


@case("crash", "split_heads")
def a_list_that_holds_itself(nb):
    answer(
        nb,
        "split_heads",
        "def split_heads(x, n):\n    a = []\n    a.append(a)\n    return a",
    )


@case("crash", "split_heads")
def a_tensor_without_storage(nb):
    answer(
        nb,
        "split_heads",
        "def split_heads(x, n):\n    return torch.empty(10**9, 10**6, device='meta')",
    )


@case("crash", "split_heads")
def a_name_that_is_no_function(nb):
    answer(nb, "split_heads", "split_heads = 3")


@case("crash", "split_heads")
def a_name_that_is_not_there(nb):
    answer(nb, "split_heads", "pass")


# ---------------------------------------------------------------- leak and escape


def right_if(nb: dict, leak: str) -> None:
    """An answer that is right only if the expression `leak` is true in the kernel."""
    answer(
        nb,
        "causal_mask",
        "import ctypes, glob, importlib, os, pathlib, pwd, socket, sys\n"
        f"root = {str(ROOT)!r}\n"
        f"try:\n    got = bool({leak})\n"
        "except BaseException:\n    got = False\n"
        "def causal_mask(t_q, t_k):\n"
        "    shift = t_k - t_q if got else 99\n"
        "    return torch.ones(t_q, t_k, dtype=torch.bool).tril(shift)",
    )


def leak(kind: str, name: str, expression: str) -> None:
    """Registers a case that gets its marks only if it breaks out."""
    edit = functools.partial(right_if, leak=expression)
    CASES.append(Case(name, kind, edit, ("causal_mask",)))


LEAKS = {
    "the_reference": "importlib.import_module('posttrain.checks.attention').TASKS",
    "the_mistakes": "importlib.import_module('posttrain.checks.mistakes.attention')",
    "the_answers_of_the_library": (
        "importlib.import_module('posttrain.foundations.attention')"
    ),
    "the_source_of_the_checks": "open(root + '/posttrain/checks/attention.py').read()",
    "the_source_of_the_answers": (
        "open(root + '/posttrain/foundations/attention.py').read()"
    ),
    "the_solution": "open(root + '/solutions/attention/attention.ipynb').read()",
    "the_variants": "os.listdir(root + '/solutions/attention')",
    "the_gradebook": "glob.glob(root + '/build/**/*.db', recursive=True)",
    "the_repository": "os.listdir(root)",
    "the_home_of_the_grader": "os.listdir(pwd.getpwuid(0).pw_dir)",
    "the_list_of_passwords": "open('/etc/passwd').read()",
    "the_seed_in_the_environment": "os.environ['POSTTRAIN_GRADING_SEED']",
    "the_seed_in_proc": (
        "any(b'GRADING_SEED' in pathlib.Path(p).read_bytes()"
        " for p in glob.glob('/proc/*/environ'))"
    ),
    "checks_in_memory": "sys.modules['posttrain.checks.judge']",
}
ESCAPES = {
    "a_file_in_the_repository": "open(root + '/OWNED', 'w').write('x')",
    "a_file_among_the_packages": "open(torch.__file__ + '.owned', 'w').write('x')",
    "a_connection": "socket.create_connection(('127.0.0.1', 22), 1)",
    "a_socket_of_the_internet": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "the_grader_signalled": f"os.kill({os.getpid()}, 0) is None",
    "root": "os.setuid(0) is None",
    "a_new_namespace": "ctypes.CDLL(None).unshare(0x10000000) == 0",
    "another_root": "os.chroot('/') is None",
    "a_debugger_on_the_parent": (
        "ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0"
    ),
}
for _name, _expression in LEAKS.items():
    leak("leak", _name, _expression)
for _name, _expression in ESCAPES.items():
    leak("escape", _name, _expression)


# ----------------------------------------------------------------------- exhaust


@case("exhaust", perhaps=TASKS[1:])
def memory_without_end(nb):
    before(
        nb,
        "answer_scaled_dot_product_attention",
        "held = []\nwhile True: held.append(torch.ones(10**8))",
    )


@case("exhaust", perhaps=TASKS[1:])
def processes_without_end(nb):
    before(
        nb,
        "answer_scaled_dot_product_attention",
        "import os, time\nwhile True:\n    if os.fork() == 0:\n        time.sleep(60)",
    )


@case("exhaust", perhaps=TASKS[1:])
def files_without_end(nb):
    before(
        nb,
        "answer_scaled_dot_product_attention",
        "number = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    open(f'file{number}', 'wb').write(bytes(20_000_000))",
    )


@case("exhaust")
def a_loop_without_end_in_a_cell(nb):
    before(nb, "answer_causal_mask", "while True: pass")


@case("exhaust", "split_heads")
def a_loop_without_end_while_it_is_tried(nb):
    answer(nb, "split_heads", "def split_heads(x, n):\n    while True: pass")


@case("exhaust", *TASKS[2:])  # what comes after it waits for a kernel that is busy
def an_interrupt_that_is_ignored(nb):
    answer(
        nb,
        "split_heads",
        "import time\n"
        "def split_heads(x, n):\n"
        "    end = time.time() + 9\n"
        "    while time.time() < end:\n"
        "        try:\n            time.sleep(1)\n"
        "        except KeyboardInterrupt:\n            pass",
    )


@case("exhaust", *TASKS[2:])
def output_without_end(nb):
    before(
        nb,
        "answer_split_heads",
        "while True: print('x' * 100_000)",
    )


@case("exhaust", "split_heads")
def an_outcome_of_a_hundred_megabytes(nb):
    answer(nb, "split_heads", "def split_heads(x, n):\n    return torch.ones(10**7)")


# ------------------------------------------------------------------------ honest


@case("honest")
def warns_on_stderr(nb):
    before(
        nb,
        "answer_causal_mask",
        "import sys, warnings\n"
        "warnings.warn('careful')\n"
        "print('to stderr', file=sys.stderr)",
    )


@case("honest")
def prints_much(nb):
    before(nb, "answer_causal_mask", "for i in range(20000): print(i)")


@case("honest")
def prints_while_it_is_tried(nb):
    answer(
        nb,
        "causal_mask",
        "def causal_mask(t_q, t_k):\n"
        "    print('debugging', t_q, t_k)\n"
        "    return torch.ones(t_q, t_k, dtype=torch.bool).tril(t_k - t_q)",
    )


@case("honest")
def helpers_in_extra_cells(nb):
    before(nb, "answer_causal_mask", "def lower(a, b):\n    return b - a")
    answer(
        nb,
        "causal_mask",
        "def causal_mask(t_q, t_k):\n"
        "    ones = torch.ones(t_q, t_k, dtype=torch.bool)\n"
        "    return ones.tril(lower(t_q, t_k))",
    )


@case("honest")
def starts_a_process_and_waits(nb):
    before(
        nb,
        "answer_causal_mask",
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'print(1)'], check=True)",
    )


@case("honest")
def leaves_its_own_checks_in(nb):
    before(nb, "answer_KVCache", "check('causal_mask', causal_mask)")


@case("honest")
def uses_magics(nb):
    before(nb, "answer_causal_mask", "%time sum(range(10))\n!true")


@case("honest")
def seeds_and_default_types_changed(nb):
    before(
        nb, "answer_causal_mask", "torch.manual_seed(3); import random; random.seed(1)"
    )


@case("honest")
def outputs_and_counts_left_from_home(nb):
    for number, c in enumerate(nb["cells"]):
        if c["cell_type"] == "code":
            c["execution_count"] = 1000 - number
            stream = {"output_type": "stream", "name": "stderr", "text": ["old"]}
            c["outputs"] = [stream]
