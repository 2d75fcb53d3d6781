"""Honest code that looks odd, and must keep its marks."""

from __future__ import annotations

from tests.grading.hostile.corpus import (
    answer,
    before,
    case,
)


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
