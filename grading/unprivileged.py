"""Runs one function where it can do no harm: a forked child with few rights.

    value = unprivileged.call(parse, descriptor, limits=Limits(), keep=[descriptor])

Intake reads bytes that strangers wrote with parsers written in C (zlib, bz2, lzma,
json). A fault in one of them, or a file that makes one eat memory or time, must cost
the child only. The child has

- the uid and gid of `nobody` when the grader runs as root, else the grader's own;
- no descriptor but those in `keep`: the parent opens a file, which needs its rights,
  and checks it; the child reads it, which needs none;
- limits on memory, CPU and wall-clock time, no new processes, no written file, no
  core dump.

Its answer comes back as JSON through a pipe, and is bounded too. Not covered: the
child is a copy of the parent, so it sees the parent's memory and what `nobody` may
read. Foreign *bytes* may be parsed here, foreign *code* may not run here.
`nobody` may be unable to read Python's library, so import all before the call.
"""

from __future__ import annotations

import json
import os
import pwd
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

MB = 2**20


@dataclass(frozen=True)
class Limits:
    """What one call may use; `memory_mb` is beyond what the parent has mapped."""

    memory_mb: int = 512
    cpu_seconds: int = 5
    wall_seconds: float = 30.0
    result_mb: float = 32.0


@dataclass(frozen=True)
class Failure:
    """Why a call has no result: it raised, crashed or went over a limit."""

    reason: str


def call(
    function: Callable[..., Any],
    *args: Any,
    limits: Limits | None = None,
    keep: Collection[int] = (),
) -> Any:
    """`function(*args)`, computed in a child; a Failure where that did not work.

    The result must be JSON. `keep` names the descriptors that the child may use.
    Raises RuntimeError where the host can start or confine no process, which says
    nothing about what was handed in.
    """
    limits = limits or Limits()
    reader, writer = os.pipe()
    try:
        child = os.fork()
    except OSError as error:
        os.close(reader)
        os.close(writer)
        raise RuntimeError(f"no process could be started: {error}") from error
    if child == 0:
        _be_the_child(function, args, limits, writer, keep)
    os.close(writer)
    try:
        data, trouble = _receive(reader, limits)
    finally:
        os.close(reader)
        status = _end(child)
    return _outcome(data, trouble, status, limits)


def _receive(reader: int, limits: Limits) -> tuple[bytes, str]:
    """What the child wrote until it closed the pipe, and the limit that it broke."""
    deadline = time.monotonic() + limits.wall_seconds
    data = bytearray()
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return b"", f"it took longer than {limits.wall_seconds:g} s"
        block = os.read(reader, 65536)
        if not block:
            return bytes(data), ""
        data += block
        if len(data) > limits.result_mb * MB:
            return b"", f"its result is larger than {limits.result_mb:g} MB"


def _end(child: int) -> int:
    """The child's exit code, negative for a signal.

    The pipe closes when the child's exit code is fixed already, so that killing it
    now changes nothing, unless it closed the pipe and lives on.
    """
    os.kill(child, signal.SIGKILL)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ChildProcessError:  # the parent ignores SIGCHLD, so the kernel reaped it
        return 0


def _outcome(data: bytes, trouble: str, status: int, limits: Limits) -> Any:
    if trouble:
        return Failure(trouble)
    if status == -signal.SIGXCPU:
        return Failure(f"it needed more than {limits.cpu_seconds} s of CPU time")
    if status < 0:
        return Failure(f"it was ended by {signal.Signals(-status).name}")
    if data[:1] == b"!":
        raise RuntimeError(f"the child could not be confined: {data[1:].decode()}")
    if status or data[:1] not in (b"+", b"-"):
        return Failure(f"it stopped without a result (exit code {status})")
    if data[:1] == b"-":
        return Failure(data[1:].decode(errors="replace"))
    try:
        return json.loads(data[1:])
    except (ValueError, RecursionError) as error:
        return Failure(f"its result is not JSON ({error})")


def _be_the_child(function, args, limits: Limits, writer: int, keep) -> None:
    """Never returns: the parent's stack is below, and must not be unwound."""
    try:
        trouble = _confine(limits, {writer, *keep})
        answer = memoryview(trouble or _answer(function, args, limits))
        while answer:
            answer = answer[os.write(writer, answer) :]
        os._exit(0)
    finally:
        os._exit(1)


def _confine(limits: Limits, keep: set[int]) -> bytes:
    """Gives the rights up; what went wrong, if anything did."""
    try:
        _signals_as_for_a_new_process(limits)
        _only_these_descriptors(keep)
        _limit(limits)
        _become_nobody()
    except (OSError, ValueError) as error:
        return f"!{type(error).__name__}: {error}".encode(errors="backslashreplace")
    return b""


def _answer(function, args, limits: Limits) -> bytes:
    try:
        value = function(*args)
        text = json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        return b"+" + text.encode()
    except MemoryError:
        return b"-it needed more than %d MB of memory" % limits.memory_mb
    except Exception as error:
        told = f"-{type(error).__name__}: {error}"[:1000]
        return told.encode(errors="backslashreplace")


def _signals_as_for_a_new_process(limits: Limits) -> None:
    """Also an alarm, which ends the child should the parent be killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(int(limits.wall_seconds) + 2)


def _only_these_descriptors(keep: set[int]) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in {0, 1, 2} - keep:
        os.dup2(nowhere, standard)
    low = 3
    for kept in [*sorted(d for d in keep if d > 2), os.sysconf("SC_OPEN_MAX")]:
        os.closerange(low, kept)
        low = kept + 1


def _limit(limits: Limits) -> None:
    _lower(resource.RLIMIT_AS, _mapped() + limits.memory_mb * MB)
    _lower(resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + 1)
    for nothing in (
        resource.RLIMIT_FSIZE,
        resource.RLIMIT_CORE,
        resource.RLIMIT_NPROC,
    ):
        _lower(nothing, 0)


def _lower(what: int, soft: int, hard: int | None = None) -> None:
    """A limit is only ever lowered: a plain user may not raise it."""
    ceiling = resource.getrlimit(what)[1]
    hard = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(what, (soft, hard))


def _mapped() -> int:
    """Bytes of address space that this process has mapped (Linux)."""
    if not sys.platform.startswith("linux"):
        return 0
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _become_nobody() -> None:
    if os.geteuid() != 0:
        return
    try:
        who = pwd.getpwnam("nobody")
        uid, gid = who.pw_uid, who.pw_gid
    except KeyError:
        uid = gid = 65534
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
