"""Processes that do jobs side by side, and outlive one another.

    with Pool(start, 2) as pool:
        for job, result in pool.run(jobs): ...

`start()` is called once in each process and returns the function that does a job. Jobs
and results are plain data, so what runs here by fork could run on another machine. A
process that is killed costs its job one more try; a job that two processes did not
survive is given up and comes back as `Lost`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from grading import contained
from grading.containment import linux
from grading.containment.lock import NotContained

TRIES = 2
POLL = 1.0  # seconds


class PoolBroken(RuntimeError):
    """No process gets ready to work; the text says why."""


@dataclass(frozen=True)
class Lost:
    """In place of a result: why there is none."""

    reason: str


@dataclass
class _Member:
    """One process, the job that it is on, the how manieth try, and since when."""

    process: multiprocessing.Process
    pipe: Connection
    job: Any = None
    tries: int = 0
    since: float = 0.0


@dataclass
class _Queue:
    """The jobs that are left, those to be tried again first."""

    jobs: Iterator[Any]
    again: deque = field(default_factory=deque)

    def next(self) -> tuple[Any, int]:
        """A job, None if there is none, and the how manieth try this is."""
        return self.again.popleft() if self.again else (next(self.jobs, None), 1)


class Pool:
    """`size` processes; one that takes more than `patience` seconds is ended."""

    def __init__(
        self,
        start: Callable[[], Callable[[Any], Any]],
        size: int,
        patience: float = 1200.0,
    ):
        self._start, self._size, self._patience = start, size, patience
        self._members: list[_Member] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def run(self, jobs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Each job with its result, as they get done. Jobs are taken when needed.

        Raises NotContained where a process says that it cannot lock submissions in,
        and PoolBroken where `start` fails.
        """
        queue = _Queue(iter(jobs))
        self._fill(queue)
        while busy := [m for m in self._members if m.job is not None]:
            ready = wait([m.pipe for m in busy], timeout=POLL)
            for member in busy:
                if member.pipe in ready or not self._lives(member):
                    yield from self._result(member, queue)

    def close(self) -> None:
        """Ends the processes, whatever they are doing."""
        for member in self._members:
            self._end(member)
        self._members = []

    def _fill(self, queue: _Queue) -> None:
        """A process for every job, up to the size; each gets one."""
        for member in self._members:
            if member.job is None:
                self._send(member, *queue.next())
        while len(self._members) < self._size:
            job, tries = queue.next()
            if job is None:
                return
            self._members.append(self._new())
            self._send(self._members[-1], job, tries)

    def _result(self, member: _Member, queue: _Queue) -> Iterator[tuple[Any, Any]]:
        job = member.job
        try:
            kind, value = member.pipe.recv()
        except (EOFError, OSError):
            self._end(member)
            self._members.remove(member)
            reason = f"the process that graded it ended {TRIES} times"
            kind, value = "gone", Lost(reason)
        if kind == "refused":
            raise NotContained(value)
        if kind == "broken":
            raise PoolBroken(f"a worker could not start: {value}")
        member.job = None
        again = kind == "gone" and member.tries < TRIES
        if again:
            queue.again.append((job, member.tries + 1))
        self._fill(queue)
        if not again:
            yield job, value

    def _send(self, member: _Member, job: Any, tries: int) -> None:
        member.job, member.tries, member.since = job, tries, time.monotonic()
        if job is not None:
            with suppress(OSError):  # it may have ended, which is seen afterwards
                member.pipe.send(job)

    def _lives(self, member: _Member) -> bool:
        if time.monotonic() - member.since > self._patience:
            member.process.kill()
            member.process.join()
        return member.process.is_alive() or member.pipe.poll()

    def _new(self) -> _Member:
        contained.ensure_warm()
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        arguments = (self._start, theirs, os.getpid())
        process = context.Process(target=_work, args=arguments)
        process.start()
        theirs.close()
        return _Member(process, ours)

    @staticmethod
    def _end(member: _Member) -> None:
        member.pipe.close()
        member.process.kill()
        member.process.join()


def _work(start: Callable, pipe: Connection, parent: int) -> None:
    """In the process: does jobs until it is ended, at the latest with its parent."""
    os.setsid()  # an interrupt from the keyboard is the parent's to handle
    if sys.platform == "linux":
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    contained.adopt()
    try:
        work = start()
    except Exception as error:
        pipe.send(("broken", f"{type(error).__name__}: {error}"))
        return
    while True:
        job = pipe.recv()
        try:
            answer = ("done", work(job))
        except NotContained as error:
            answer = ("refused", str(error))
        except Exception as error:
            answer = ("done", Lost(f"not graded: {type(error).__name__}: {error}"))
        pipe.send(answer)
