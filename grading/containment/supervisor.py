"""The process outside the lock: it starts, watches, interrupts and ends the inside.

    provisioner -- warm process -- supervisor -- [init --] contained process
                                       outside | inside

With namespaces, init is process 1 of the inside: when it ends, the system ends all
the rest. Without, orphans become children of the supervisor, which ends them; if it is
killed itself, of the warm process. When that ends, supervisors end all below them.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from grading.containment import limits, linux, lock

INTERVAL = 0.1
PAUSE = 0.002
ASKED = 1.0  # seconds for process 1 to end the others
HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
LOCKED = b"locked"
REFUSED = 78


def supervise(
    order: lock.Order, main: Callable[..., Any], arguments: tuple, report: Connection
) -> None:
    """Runs `main(*arguments)` locked in; never returns.

    Tells `report` first that the lock holds, or why it does not, and in the end why
    the inside was ended, if it did not end by itself: pairs of a word and a reason.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        uid = lock.new_user()
        lock.prepare(order, uid)
        child, said = _start(order, uid, main, arguments)
    except Exception as error:
        child, said = None, _reason(error)
    if said != LOCKED:
        _end(child)
        report.send(("refused", said.decode(errors="replace")))
        os._exit(REFUSED)
    report.send(("locked", order.rung))
    status, reason = _watch(order, child, report)
    with suppress(BrokenPipeError):
        report.send(("ended", reason))
    os._exit(status)


def _start(order, uid, main, arguments) -> tuple[int, bytes]:
    """Forks the inside; its process id, and what it said about its lock."""
    alive_read, alive_write = os.pipe()  # we hold the one writing end: our lifeline
    said_read, said_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(alive_write)
        _inside(order, uid, main, arguments, alive_read, said_write)
    os.close(said_write)
    said = os.read(said_read, 4096)
    os.close(said_read)
    return child, said or b"it ended before its lock was closed"


def _inside(order, uid, main, arguments, alive: int, said: int) -> None:
    try:
        lock.close(order, uid)
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        if select.select([alive], [], [], 0)[0]:
            os._exit(REFUSED)  # the supervisor ended before we asked to follow it
        os.write(said, LOCKED)
    except BaseException as error:
        os.write(said, _reason(error))
        os._exit(REFUSED)
    if order.rung == "namespaces" and (child := os.fork()) != 0:
        _init(child)
    _closed_but_stdio()
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        main(*arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _init(kernel: int) -> None:
    """Process 1: buries orphans, passes an interrupt on, ends with the kernel."""
    _closed_but_stdio()
    while True:
        number = signal.sigwait(HEARD)
        if number == signal.SIGINT:
            _signal_group(kernel)
        if number == signal.SIGTERM and os.getpid() == 1:
            with suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # all in its namespace, but itself
        for pid, status in _buried():
            if pid == kernel:
                os._exit(_exit_code(status))


def _watch(order: lock.Order, child: int, report: Connection) -> tuple[int, str | None]:
    """Waits for the child within its limits; its exit status and why it was ended."""
    deadline = time.monotonic() + order.limits.wall_seconds
    while True:
        heard = signal.sigtimedwait(HEARD, INTERVAL)
        number = heard.si_signo if heard else None
        for pid, status in _buried():
            if pid == child:
                _end(None)
                return _exit_code(status), None
        if number == signal.SIGINT:
            _interrupt(order, child)
        reason = limits.exceeded(os.getpid(), order.limits, order.run)
        if time.monotonic() > deadline:
            reason = f"more than {order.limits.wall_seconds} seconds"
        deserted = _deserted(report)
        if number == signal.SIGTERM or reason or deserted:
            if order.rung == "namespaces":
                _ask_to_end(child)
            _end(child)
            if deserted:
                shutil.rmtree(order.run, ignore_errors=True)
            return 128 + signal.SIGKILL, reason or "asked to end"


def _deserted(report: Connection) -> bool:
    """Whether nobody reads our reports: whoever started the kernel is gone."""
    poll = select.poll()
    poll.register(report.fileno(), 0)  # an error is told without being asked for
    return bool(poll.poll(0))


def _interrupt(order: lock.Order, child: int) -> None:
    if order.rung == "namespaces":
        os.kill(child, signal.SIGINT)  # init knows the kernel by a number of its own
    else:
        _signal_group(child)


def _signal_group(leader: int) -> None:
    with suppress(ProcessLookupError):  # it has ended, or leads no group yet
        os.killpg(leader, signal.SIGINT)


def _ask_to_end(init: int) -> None:
    """Has process 1 end what it looks after, and waits for it for a moment.

    If it is killed first, all the others go with it, but nobody waits for them, and the
    CPU time that they took is lost.
    """
    _kill(init, signal.SIGTERM)
    signal.sigtimedwait([signal.SIGCHLD], ASKED)


def _end(child: int | None) -> None:
    """Ends every process below us."""
    if child is not None:
        _kill(child, signal.SIGKILL)
    while tree := limits.descendants(os.getpid()):
        _kill_all(tree)
        _buried()
        time.sleep(PAUSE)


def end_orphans(warm: int) -> None:
    """Ends what a killed supervisor has left to the warm process of that id.

    Two looks must find nothing: the first may have met a child before its parent, and
    the parent after its end.
    """
    looks = 0
    while looks < 2:
        orphans = _orphans(warm)
        _kill_all(orphans)
        looks = 0 if orphans else looks + 1
        time.sleep(PAUSE)


def _orphans(warm: int) -> list[limits.Process]:
    """Processes below the warm one with no supervisor above them.

    Its own children are supervisors, and those have no filter of system calls. One
    that has ended counts until it is buried, for its threads may live on.
    """
    found, heads = [], set()
    for process in limits.descendants(warm):
        left = process.parent == warm and limits.filtered(process.pid)
        if left or process.parent in heads:
            found.append(process)
            heads.add(process.pid)
    return found


def _kill_all(tree: list[limits.Process]) -> None:
    """Kills them. Stopped ones cannot fork while others are ended."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in tree:
            _kill(process.pid, number)


def _kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _buried() -> list[tuple[int, int]]:
    """Waits for the children that have ended: their ids and statuses."""
    ended = []
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append(found)
    return ended


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _closed_but_stdio() -> None:
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _reason(error: BaseException) -> bytes:
    return f"{type(error).__name__}: {error}".encode()[:4000]
