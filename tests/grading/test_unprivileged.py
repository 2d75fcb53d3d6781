"""A call that goes wrong costs its own child only."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import zlib

import psutil
import pytest

from grading import unprivileged
from grading.unprivileged import Failure, Limits, call

SMALL = Limits(memory_mb=64, cpu_seconds=1, wall_seconds=1.0, result_mb=0.1)


def reason(function, *args):
    answer = call(function, *args, limits=SMALL)
    assert isinstance(answer, Failure)
    return answer.reason


def forever():
    while True:
        time.sleep(0.1)


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def close_and_sleep():
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # a test runner has many open
    forever()


def test_a_result_comes_back():
    value = {"text": "Zoë \n\0", "numbers": [1, 2.5, None, True], "deep": {"a": []}}
    assert call(lambda v: v, value) == value


def test_a_large_result_comes_back_whole():
    assert call(lambda: "x" * 5_000_000) == "x" * 5_000_000


def test_an_exception_is_a_reason():
    assert reason(json.loads, "{") == (
        "JSONDecodeError: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)"
    )


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: bytes(200 * 2**20), "more than 64 MB of memory"),
        (lambda: zlib.decompress(zlib.compress(bytes(2**28), 1)), "64 MB of memory"),
        (lambda: sum(1 for _ in iter(int, 1)), "more than 1 s of CPU time"),
        (forever, "longer than 1 s"),
        (lambda: "x" * 200_000, "larger than 0.1 MB"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "ended by SIGSEGV"),
        (lambda: os._exit(3), "without a result (exit code 3)"),
        (lambda: sys.exit(0), "without a result"),
        (close_and_sleep, "ended by SIGKILL"),
        (lambda: float("nan"), "not JSON compliant"),
        (lambda: "\ud800", "surrogates not allowed"),
        (lambda: object(), "not JSON serializable"),
    ],
)
def test_what_goes_wrong_is_a_reason(function, words):
    limits = SMALL
    if "CPU" in words:
        limits = Limits(cpu_seconds=1)
    if function is close_and_sleep:  # a busy machine may start it late
        limits = Limits(wall_seconds=30)
    start = time.monotonic()
    answer = call(function, limits=limits)
    assert isinstance(answer, Failure)
    assert words in answer.reason
    assert time.monotonic() - start < 10


def test_nothing_can_be_written_started_or_dumped(tmp_path):
    file = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    try:
        answer = call(os.write, file, b"x", keep=[file])
        assert "File too large" in answer.reason
        assert os.fstat(file).st_size == 0
    finally:
        os.close(file)
    assert call(resource.getrlimit, resource.RLIMIT_CORE) == [0, 0]
    assert call(resource.getrlimit, resource.RLIMIT_NPROC) == [0, 0]
    assert "BlockingIOError" in reason(os.fork)


def test_only_the_descriptors_that_are_kept_are_open(tmp_path):
    path = tmp_path / "kept"
    path.write_bytes(b"hello")
    kept, other = os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY)
    try:
        assert call(lambda: os.read(kept, 5).decode(), keep=[kept]) == "hello"
        assert "Bad file descriptor" in reason(os.read, other, 5)
        assert "Bad file descriptor" in reason(os.read, kept, 5)
    finally:
        os.close(kept)
        os.close(other)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to drop")
def test_root_becomes_nobody(tmp_path):
    secret = tmp_path / "gradebook.db"
    secret.write_text("marks")
    secret.chmod(0o600)
    assert call(os.getresuid) == [65534] * 3
    assert call(os.getresgid) == [65534] * 3
    before = os.getgroups()
    os.setgroups([4])
    try:
        assert call(os.getgroups) == []
    finally:
        os.setgroups(before)
    assert "Permission denied" in reason(os.open, str(secret), os.O_RDONLY)
    assert "PermissionError" in reason(os.setuid, 0)


def test_the_parent_is_as_it_was():
    def state():
        limit = resource.getrlimit(resource.RLIMIT_AS)
        children = psutil.Process().children()
        return os.getresuid(), limit, os.listdir("/proc/self/fd"), children

    before = state()
    for function in (forever, close_and_sleep, dict):
        call(function, limits=SMALL)
    assert state() == before


@pytest.mark.parametrize("step", ["_limit", "_become_nobody"])
def test_a_child_that_cannot_be_confined_does_not_run(monkeypatch, tmp_path, step):
    def refused(*_):
        raise PermissionError("not on this host")

    monkeypatch.setattr(unprivileged, step, refused)
    with pytest.raises(RuntimeError, match="not be confined: .* not on this host"):
        call((tmp_path / "ran").touch)
    assert not (tmp_path / "ran").exists()


def test_a_host_without_processes_is_no_fault_of_the_submission(monkeypatch):
    def refused():
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(os, "fork", refused)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(RuntimeError, match="no process could be started"):
        call(dict)
    assert os.listdir("/proc/self/fd") == before


def test_handlers_of_the_parent_do_not_run_in_the_child():
    def handler(*_):
        os._exit(42)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        assert "SIGTERM" in reason(lambda: os.kill(os.getpid(), signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_child_does_not_outlive_a_killed_parent():
    program = (
        "import os, time\n"
        "from grading.unprivileged import Limits, call\n"
        "reader, writer = os.pipe()\n"
        "def child():\n"
        "    os.write(writer, b'%d' % os.getpid())\n"
        "    time.sleep(60)\n"
        "if (grader := os.fork()) == 0:\n"
        "    call(child, limits=Limits(wall_seconds=0.5), keep=[writer])\n"
        "print(os.read(reader, 20).decode(), flush=True)\n"
        "os.kill(grader, 9)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    child = int(ran.stdout)
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(child)
