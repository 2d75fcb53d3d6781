"""Many commands, a few at a time: CPU seconds counted, a time limit, nothing left over.

Used for whatever runs notebooks or experiments, each in a process of its own.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ci.progress import Progress

POLL_SECONDS = 0.05

# What each process of ours runs under: one thread, no network for data.
QUIET = {"OMP_NUM_THREADS": "1", "POSTTRAIN_OFFLINE": "1"}


@dataclass(frozen=True)
class Command:
    """One process to run. Its output goes to the file `log`."""

    name: str
    argv: Sequence[str]
    log: Path
    cwd: Path
    env: dict[str, str] = field(default_factory=lambda: dict(QUIET))


@dataclass(frozen=True)
class Ended:
    """How a command ended: `cpu_seconds` with its children; `late`: over the limit."""

    command: Command
    exit_code: int
    cpu_seconds: float
    wall_seconds: float
    late: bool = False


@dataclass
class _Running:
    command: Command
    process: subprocess.Popen
    start: float

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start


def run_all(
    commands: Sequence[Command],
    on_end: Callable[[Ended], None],
    *,
    workers: int | None = None,
    limit_s: float | None = None,
    progress: Progress | None = None,
) -> None:
    """Run `commands`, `workers` at a time (default: one a core), in the order given.

    `on_end` is called in this process as each ends; one that is over `limit_s` seconds
    of wall time is killed with all its children. An interrupt (Ctrl-C, SIGTERM), or
    an error in `on_end`, kills what runs and is passed on.
    """
    waiting, running = deque(commands), []
    workers = workers or cores()
    with _sigterm_is_an_exit():
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    running.append(_start(waiting.popleft()))
                for one in list(running):
                    if ended := _ended(one, limit_s):
                        running.remove(one)
                        on_end(ended)
                if progress:
                    progress.show({one.command.name: one.seconds for one in running})
                if running:
                    time.sleep(POLL_SECONDS)
        finally:
            for one in running:
                _kill(one)


def cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def tail(log: Path, lines: int = 30) -> str:
    """The last lines of a log, for a message."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return "\n".join(text.rstrip().splitlines()[-lines:]) or "(it printed nothing)"


def _start(command: Command) -> _Running:
    """Start it in a session of its own, so that Ctrl-C reaches us alone."""
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open("wb") as log:
        process = subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=command.cwd,
            env=os.environ | command.env,
            start_new_session=True,
        )
    return _Running(command, process, time.monotonic())


def _ended(one: _Running, limit_s: float | None) -> Ended | None:
    """How it ended, or None while it runs within the limit."""
    pid, status, usage = os.wait4(one.process.pid, os.WNOHANG)
    if pid:
        # wait4 has taken the process: tell Popen, or it would wait for it again.
        one.process.returncode = os.waitstatus_to_exitcode(status)
        cpu = usage.ru_utime + usage.ru_stime
        return Ended(one.command, one.process.returncode, cpu, one.seconds)
    if limit_s is not None and one.seconds > limit_s:
        wall = one.seconds
        cpu = _kill(one)
        return Ended(one.command, -signal.SIGKILL, cpu, wall, late=True)
    return None


def _kill(one: _Running) -> float:
    """Kill it and all below it; the CPU seconds that they had used.

    A Jupyter kernel runs in a session of its own, so killing the process group would
    leave it behind: the tree is walked instead.
    """
    try:
        top = psutil.Process(one.process.pid)
        tree = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:  # it has been waited for
        return 0.0
    used = 0.0
    for process in tree:
        with contextlib.suppress(psutil.Error):
            used += sum(process.cpu_times()[:4])
    for process in tree:
        with contextlib.suppress(psutil.Error):
            process.kill()
    one.process.wait()
    return used


@contextlib.contextmanager
def _sigterm_is_an_exit() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that a cancelled build leaves no process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
