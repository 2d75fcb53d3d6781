"""What counts against a notebook's limits, wherever it is held."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from grading.containment import limits, linux
from grading.containment.policy import Limits

HOLD = """
import ctypes, os, sys, tempfile, threading, time
folder, exit = sys.argv[1], int(sys.argv[2])
if os.fork() == 0:
    held = bytearray(os.urandom(1 << 20)) * 60
    file = tempfile.TemporaryFile(dir=folder)
    file.write(bytes(6 << 20)); file.flush()
    threading.Thread(target=time.sleep, args=(60,)).start()
    print("held", flush=True)
    if exit:
        ctypes.CDLL(None).syscall(exit, 0)  # of the first thread alone
print(flush=True)
os.wait()
"""
ALLOWED = replace(Limits(), memory=1 << 30, disk=1 << 30)
EXIT = {"x86_64": 60, "aarch64": 93}


@pytest.fixture(params=["all threads", "without the first"])
def root(request, tmp_path):
    """A process below which 60 MiB of memory and 6 MiB of a nameless file are held."""
    number = EXIT[linux.machine()] if request.param == "without the first" else 0
    argv = [sys.executable, "-c", HOLD, str(tmp_path), str(number)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert {process.stdout.readline() for _ in range(2)} == {"held\n", "\n"}
        (child,) = limits.descendants(process.pid)
        while number and limits.descendants(process.pid)[0].state != "Z":
            pass
        yield process.pid
        os.kill(child.pid, 9)


def test_nothing_is_exceeded(root, tmp_path):
    assert limits.exceeded(root, ALLOWED, tmp_path) is None


def test_memory_is_counted(root, tmp_path):
    text = limits.exceeded(root, replace(ALLOWED, memory=40 << 20), tmp_path)
    assert text == "more than 40 MiB of memory"


def test_a_file_without_a_name_is_counted(root, tmp_path):
    text = limits.exceeded(root, replace(ALLOWED, disk=4 << 20), tmp_path)
    assert "more than 4 MiB in files" in text


def test_threads_are_counted(root, tmp_path):
    text = limits.exceeded(root, replace(ALLOWED, processes=1), tmp_path)
    assert text == "more than 1 processes and threads"
