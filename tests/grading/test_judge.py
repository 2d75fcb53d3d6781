"""The judge as a process, and the parsing of test cells."""

import subprocess
import sys
from pathlib import Path

import pytest

from grading.judge import Judge, JudgeFailed
from grading.runner import BadTest, Check, parse
from posttrain.checks import attempt, judge, plain
from posttrain.checks.mistakes import attention as mistakes

ASKED = ("attention", "causal_mask", 0, False)


@pytest.fixture(scope="module")
def process():
    judge = Judge(seconds=60)
    yield judge
    judge.close()


def outcomes_of(answer, seed=0, hidden=False):
    task = judge.load_tasks("attention")["causal_mask"]
    cases = judge.make_cases("attention", "causal_mask", task, seed, hidden)
    return attempt.to_text([attempt.attempt(task.drive, answer, c) for c in cases])


def right(t_q, t_k):
    return judge.load_tasks("attention")["causal_mask"].reference(t_q, t_k)


def test_a_right_answer_is_right(process):
    verdict = process.verdict(*ASKED, outcomes_of(right), "")
    assert verdict.right
    assert verdict.message == "causal_mask: right on all 7 cases"


def test_a_wrong_answer_gets_its_hint(process):
    verdict = process.verdict(*ASKED, outcomes_of(mistakes.mask_flipped), "")
    assert not verdict.right
    assert "True for the future" in verdict.message


def test_answers_to_other_cases_do_not_count(process):
    asked = ("attention", "causal_mask", 5, True)
    assert process.verdict(*asked, outcomes_of(right, 5, True), "").right
    assert not process.verdict(*asked, outcomes_of(right, 6, True), "").right


def test_forbidden_names_are_found_in_the_text(process):
    asked = ("attention", "scaled_dot_product_attention", 0, False)
    source = "import torch.nn.functional as G\ny = G.scaled_dot_product_attention"
    verdict = process.verdict(*asked, "[]", source)
    assert verdict.message.endswith("without F.scaled_dot_product_attention.")


GARBLED = [
    "",
    "{",
    "null",
    "[]",
    '{"list": []}',
    '{"list": [1]}',
    '{"list": [{"list": [null, 3, 4]}]}',
    '{"list": [{"tensor": ["float32", [10000000, 10000000], ""]}]}',
    '{"list": [{"tensor": ["object", [1], "AA=="]}]}',
    '{"list": [{"tensor": ["float32", [-1], ""]}]}',
    '{"dict": [[[1], 2]]}',
    '{"pickle": "x"}',
    '{"list": [' * 100_000,
    "1" * 5000,
    "\x00",
]


@pytest.mark.parametrize("text", GARBLED, ids=lambda t: t[:24] or "nothing")
def test_garbled_outcomes_are_wrong_and_harm_nothing(process, text):
    assert not process.verdict(*ASKED, text, "").right
    assert process.verdict(*ASKED, outcomes_of(right), "").right


def test_the_program_runs_without_our_package(process, tmp_path):
    """In a bare Python with torch, as in a kernel where the checks are not there."""
    code = process.program(*ASKED)
    script = (
        "import sys\n"
        "sys.modules['posttrain'] = None\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "import IPython.display as D, torch\n"
        "D.display = lambda data, raw: print(*data.values())\n"
        "def causal_mask(t_q, t_k):\n"
        "    return torch.ones(t_q, t_k, dtype=torch.bool).tril(t_k - t_q)\n"
    )
    (tmp_path / "kernel.py").write_text(script + code)
    done = subprocess.run(
        [sys.executable, "-P", "kernel.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert process.verdict(*ASKED, done.stdout.strip(), "").right


def test_the_program_holds_no_reference_and_no_hint(process):
    code = process.program(*ASKED)
    assert "reference_mask" not in code
    assert "Align the triangle" not in code


def test_an_unknown_task_is_told(process):
    with pytest.raises(JudgeFailed, match="no task 'mask'; its tasks are: causal_mask"):
        process.program("attention", "mask", 0, False)


def test_a_judge_that_was_killed_is_started_again(process):
    process.program(*ASKED)
    process._process.kill()
    process._process.wait()
    assert process.verdict(*ASKED, outcomes_of(right), "").right


def test_a_judge_that_does_not_answer_is_ended():
    slow = Judge(seconds=0.01)
    with pytest.raises(JudgeFailed, match=r"no verdict within 0\.01 s"):
        slow.program(*ASKED)
    assert slow._process is None


def test_what_is_too_large_is_not_sent(process):
    with pytest.raises(JudgeFailed, match="over 64 MiB"):
        process.verdict(*ASKED, "x" * (65 << 20), "")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_the_judge_has_no_rights(process):
    process.program(*ASKED)
    folder = Path(f"/proc/{process._process.pid}")
    status = (folder / "status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert fields["NoNewPrivs"] == "1"
    assert int(fields["CapEff"], 16) == 0
    assert "0" not in fields["Uid"].split()
    environment = (folder / "environ").read_text()
    assert "POSTTRAIN" not in environment


def test_test_cells_are_parsed():
    source = (
        'check("f", f)\n### BEGIN HIDDEN TESTS\n'
        'check("f", f, hidden=True)\n### END HIDDEN TESTS'
    )
    assert parse(source) == [Check("f", False), Check("f", True)]


@pytest.mark.parametrize(
    "source",
    [
        "",
        "pass",
        'check("f", g)',
        'check("f", f, seed=1)',
        'print("f", f)',
        'x = check("f", f)',
        'check("f", f); import os',
        'check("f", __import__("os").system("true"))',
    ],
)
def test_test_cells_hold_nothing_but_checks(source):
    with pytest.raises(BadTest):
        parse(source)


def test_a_shape_must_fit_its_bytes():
    with pytest.raises(ValueError, match="0 bytes are no float32 tensor"):
        plain.decode('{"tensor": ["float32", [4], ""]}')
