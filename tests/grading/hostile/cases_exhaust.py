"""Submissions that use up time, memory, processes or disk."""

from __future__ import annotations

from tests.grading.hostile.corpus import (
    TASKS,
    answer,
    before,
    case,
)


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
