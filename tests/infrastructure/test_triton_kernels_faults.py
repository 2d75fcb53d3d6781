"""The faulty kernels of the page in Triton's own interpreter: what the page tells."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = ROOT / "book/infrastructure/triton_kernels.ipynb"
# For each: what it is given, and whether the result is right. Out of range comes last.
GIVEN = """
x = torch.arange(100.0) + 1
y, total = torch.zeros(128), torch.zeros(1)
view = x.view(10, 10)[:, :7]
no_mask[(1,)](x, y, 100, BLOCK=128)
print(torch.equal(y[:100], 2 * x))
no_other[(1,)](x, y, 100, BLOCK=128)
print(y[0].item() == 100)
race[(4,)](x, total, 100, BLOCK=32)
print(total.item() == x.sum().item())
row_sums[(10,)](view, y, 7, 7, BLOCK=8)
print(torch.equal(y[:10], view.sum(1)), flush=True)
rows = torch.empty_strided((3, 8), (2**30, 1), dtype=torch.int8)
row_sums[(3,)](rows, y, 2**30, 8, BLOCK=8)
print("it lived")
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    cells = nbformat.read(CHAPTER, as_version=4).cells
    kernels = [
        cell.source.partition("\n\n\n")[0]
        for cell in cells
        if cell.id.startswith("fault-") and cell.source.startswith("@triton.jit")
    ]
    assert len(kernels) == 4  # the fifth fault is the fourth kernel at another stride
    program = tmp_path_factory.mktemp("stock") / "program.py"
    imports = "import torch, triton, triton.language as tl"
    program.write_text("\n\n\n".join([imports, *kernels, GIVEN]))
    return subprocess.run(
        [sys.executable, str(program)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_three_faults_give_the_right_result_and_one_a_wrong_one(ran):
    assert ran.stdout.split() == ["True", "True", "True", "False"], ran.stderr


def test_the_fifth_ends_the_process(ran):
    assert ran.returncode == -signal.SIGSEGV
