"""Notebooks run side by side; a failure is explained and stops no other."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ci import execute as ex
from ci import times
from ci.progress import Progress, describe

GOOD = [
    ("parameters", 'preset = "cpu"'),
    (
        "work",
        "import os, sys, time\n"
        "start = time.process_time()\n"
        "while time.process_time() - start < 1.5: pass\n"
        "threads = os.environ['OMP_NUM_THREADS'], os.environ['POSTTRAIN_OFFLINE']\n"
        "print([preset, sys.executable, os.listdir(), *threads])",
    ),
    ("pieces", "print('a', end='', flush=True)\ntime.sleep(0.5)\nprint('\\nb')"),
]
BAD = [("fine", "x = 1"), ("boom", "def f():\n    return x / 0\nf()"), ("no", "1")]
DEAD = [("die", "import os\nos._exit(3)")]
NAP = str(4000 + os.getpid())  # seconds; no other run of these tests has the same
SLOW = [
    ("fine", "print('so far')"),
    ("stuck", f"import subprocess, time\nsubprocess.Popen(['sleep', '{NAP}'])\n"
     "time.sleep(600)"),
]  # fmt: skip


def write(root: Path, name: str, cells: list[tuple[str, str]]) -> ex.Job:
    """A notebook at book/part/<name>.ipynb, and the job that runs it."""
    path = Path("book/part") / f"{name}.ipynb"
    content = [
        {
            "cell_type": "code",
            "id": cell_id,
            "metadata": {"tags": [cell_id] if cell_id == "parameters" else []},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for cell_id, source in cells
    ]
    kernel = {"kernelspec": {"name": "nowhere", "display_name": "nowhere"}}
    notebook = {"cells": content, "metadata": kernel, "nbformat": 4}
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(json.dumps(notebook | {"nbformat_minor": 5}))
    return ex.Job(path, name)


def make_root(root: Path) -> Path:
    (root / "posttrain").mkdir()
    (root / "posttrain/__init__.py").write_text("")
    return root


def printed(notebook: Path, cell_id: str) -> str:
    cells = json.loads(notebook.read_text())["cells"]
    cell = next(cell for cell in cells if cell["id"] == cell_id)
    return "".join(cell["outputs"][0]["text"])


def sleepers() -> list[int]:
    """The processes that the cell `stuck` starts."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["cmdline"] == ["sleep", NAP]
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """One build with all kinds of notebooks: (root, {name: outcome}, printed text)."""
    root = make_root(tmp_path_factory.mktemp("book"))
    jobs = [
        write(root, name, cells)
        for name, cells in [("good", GOOD), ("bad", BAD), ("dead", DEAD)]
    ]
    (root / "book/part/junk.ipynb").write_text('{"cells": [')
    jobs.append(ex.Job(Path("book/part/junk.ipynb"), "junk"))
    with pytest.MonkeyPatch.context() as patch:
        # what a shell that grades may have set: kernels that are not our children
        patch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "posttrain-contained")
        outcomes = ex.execute(jobs, workers=2, root=root)
    return root, {outcome.job.slug: outcome for outcome in outcomes}


def test_a_good_notebook_is_moved_into_place(built):
    root, outcomes = built
    assert (outcomes["good"].status, outcomes["good"].reason) == ("run", "first run")
    made = root / "build/site/book/part/good.ipynb"
    said = str(["ci", sys.executable, [], "1", "1"])
    assert printed(made, "work") == said + "\n"
    assert not (root / "build/run/book/part/good").exists()


def test_an_executed_notebook_tells_nothing_of_the_machine(built):
    text = (built[0] / "build/site/book/part/good.ipynb").read_text()
    cells = json.loads(text)["cells"]
    assert [cell["id"] for cell in cells] == [
        "parameters",
        "injected-parameters",
        "work",
        "pieces",
    ]
    assert str(built[0]) not in text
    assert "duration" not in text and "start_time" not in text


def test_what_was_printed_in_pieces_is_one_output(built):
    root, _ = built
    made = json.loads((root / "build/site/book/part/good.ipynb").read_text())
    (said,) = made["cells"][-1]["outputs"]
    assert "".join(said["text"]) == "a\nb\n"


def test_the_seconds_of_the_kernel_are_counted(built):
    root, outcomes = built
    assert outcomes["good"].cpu_seconds > 1.5
    assert outcomes["good"].wall_seconds > 1.5
    kept = json.loads((root / "build/times/chapter/good.json").read_text())
    assert kept["cpu_seconds"] == pytest.approx(outcomes["good"].cpu_seconds, abs=0.01)


def test_a_failure_names_cell_source_and_traceback(built):
    root, outcomes = built
    error = outcomes["bad"].error
    assert outcomes["bad"].status == "failed"
    assert "failed in cell 2 of 3, id 'boom'" in error
    assert "    return x / 0" in error
    assert "ZeroDivisionError: division by zero" in error
    assert "\x1b" not in error
    partial = root / "build/run/book/part/bad/bad.ipynb"
    assert str(partial) in error and partial.exists()


def test_a_dead_kernel_is_a_failure_of_its_cell(built):
    error = built[1]["dead"].error
    assert "failed in cell 1 of 1, id 'die'" in error
    assert "the kernel died" in error


def test_what_is_no_notebook_fails_by_itself(built):
    assert built[1]["junk"].status == "failed"
    assert "junk.ipynb is not JSON" in built[1]["junk"].error


def test_no_failure_leaves_a_result_a_key_or_a_time(built):
    for folder in ("site/book/part", "keys/book/part", "times/chapter"):
        names = {path.stem for path in (built[0] / "build" / folder).iterdir()}
        assert names == {"good"}


def test_the_report_shows_failures_and_a_table(built, capsys):
    assert ex.report(list(built[1].values())) == 1
    text = capsys.readouterr().out
    assert "FAILED book/part/bad.ipynb" in text
    assert "1 run, 0 unchanged, 3 failed" in text
    row = next(line for line in text.splitlines() if "part/good.ipynb" in line)
    assert row.split()[3:] == ["run", "first", "run"]
    assert ex.report([built[1]["good"]]) == 0


def test_unchanged_is_not_run_again_changed_and_failed_are(built, monkeypatch):
    root, outcomes = built
    ran = []

    def run_all(commands, on_end, **_):
        ran.extend(command.name for command in commands)
        for command in commands:
            on_end(ex.Ended(command, 1, 0.0, 0.0))

    monkeypatch.setattr(ex, "run_all", run_all)
    good, bad = outcomes["good"].job, outcomes["bad"].job
    again = ex.execute([good, bad], root=root)
    assert [(o.status, o.reason) for o in again] == [
        ("cached", ""),
        ("failed", "first run"),
    ]
    assert ran == ["book/part/bad.ipynb"]

    write(root, "good", [*GOOD, ("more", "2")])
    (changed,) = ex.execute([good], root=root)
    assert changed.reason == "changed: notebook"
    assert "in no cell" in changed.error  # the stand-in for a run wrote nothing
    write(root, "good", GOOD)  # as it was, but its last run failed
    (failed,) = ex.execute([good], root=root)
    assert (failed.status, failed.reason) == ("failed", "first run")


def test_an_output_that_was_removed_is_made_again(tmp_path, monkeypatch):
    root = make_root(tmp_path)
    job = write(root, "good", GOOD)
    ex._write_key(ex._key_path(job, root), ex.keys.key(root / job.path, "good", "ci"))
    monkeypatch.setattr(ex.keys, "key", lambda *_: {})
    outcome, _ = ex._look(job, root)
    assert (outcome.status, outcome.reason) == ("waiting", "its output is not there")


def test_the_slowest_is_started_first(tmp_path, monkeypatch):
    root = make_root(tmp_path)
    jobs = [write(root, name, GOOD) for name in ("quick", "slow", "unknown")]
    times.record("chapter", "quick", 1.0, 1.0, root)
    times.record("chapter", "slow", 30.0, 30.0, root)
    started = []

    def run_all(commands, on_end, **_):
        for command in commands:
            started.append(Path(command.name).stem)
            on_end(ex.Ended(command, 1, 0.0, 0.0))

    monkeypatch.setattr(ex, "run_all", run_all)
    outcomes = ex.execute(jobs, root=root)
    assert started == ["unknown", "slow", "quick"]
    assert [outcome.job for outcome in outcomes] == jobs


def test_a_notebook_over_the_limit_is_killed_with_all_its_children(tmp_path):
    root = make_root(tmp_path)
    (outcome,) = ex.execute([write(root, "slow", SLOW)], limit_s=15, root=root)
    assert outcome.status == "failed"
    assert "killed after 15 s, the time limit in cell 2 of 2, id 'stuck'" in (
        outcome.error
    )
    assert "time.sleep(600)" in outcome.error
    assert outcome.cpu_seconds > 0.3
    assert sleepers() == []
    assert printed(root / "build/run/book/part/slow/slow.ipynb", "fine") == "so far\n"


INTERRUPTED = """
from pathlib import Path
from ci.execute import Job, execute
jobs = [Job(Path("book/part") / f"{n}.ipynb", n) for n in ("quick", "slow")]
execute(jobs, workers=2, root=Path("."))
"""


def test_an_interrupt_ends_all_and_keeps_what_is_done(tmp_path):
    root = make_root(tmp_path)
    write(root, "quick", BAD[:1])
    write(root, "slow", SLOW)
    build = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(ex.ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        # a script's background jobs ignore it, and so would this one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    done = root / "build/keys/book/part/quick.json"
    deadline = time.monotonic() + 60
    while not (done.exists() and sleepers()) and time.monotonic() < deadline:
        time.sleep(0.1)
    children = psutil.Process(build.pid).children(recursive=True)
    build.send_signal(signal.SIGINT)
    said = build.communicate(timeout=20)[1]
    assert "interrupted; the 1 that were done stay" in said
    assert "KeyboardInterrupt" in said
    assert children and not psutil.wait_procs(children, timeout=5)[1]
    assert sleepers() == []
    assert done.exists() and (root / "build/site/book/part/quick.ipynb").exists()
    assert not (root / "build/site/book/part/slow.ipynb").exists()


CANCELLED = f"""
import sys
from pathlib import Path
from ci.processes import Command, run_all
sleep = Command("sleep", ["sleep", "{NAP}"], Path("log.txt"), Path("."))
run_all([sleep], print)
"""


def test_a_build_that_is_cancelled_leaves_no_process(tmp_path):
    build = subprocess.Popen(
        [sys.executable, "-c", CANCELLED],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ex.ROOT)},
    )
    deadline = time.monotonic() + 30
    while not sleepers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sleepers()
    build.terminate()
    assert build.wait(timeout=20) == 128 + signal.SIGTERM
    assert sleepers() == []


def test_progress_in_a_log_is_plain_lines(monkeypatch):
    stream = io.StringIO()
    with Progress(12, " notebooks", stream) as progress:
        progress.end_one("ok a (3 s)")
        progress.show({"b": 2.0})  # too soon after the last line
        monkeypatch.setattr(progress, "last", -1e9)
        progress.show({"b": 31.2, "c": 40.0})
    assert stream.getvalue() == (
        "[ 1/12] ok a (3 s)\n1/12 done; running: c 40 s, b 31 s\n"
    )


def test_progress_on_a_terminal_names_what_runs(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with Progress(2, " notebooks", stream) as progress:
        progress.end_one("ok a (3 s)")
        monkeypatch.setattr(progress, "last", -1e9)
        progress.show({"b": 31.2})
    assert "[1/2] ok a (3 s)\n" in stream.getvalue()
    assert "b 31 s" in stream.getvalue() and "1/2" in stream.getvalue()


def test_the_slowest_are_named_first_and_the_rest_counted():
    assert describe({}) == ""
    running = {name: float(i) for i, name in enumerate("abcdef")}
    assert describe(running) == "f 5 s, e 4 s, d 3 s, c 2 s, 2 more"
