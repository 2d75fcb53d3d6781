"""Submissions that end, stop or confuse what runs them."""

from __future__ import annotations

from tests.grading.hostile.corpus import (
    TASKS,
    answer,
    before,
    case,
)


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
