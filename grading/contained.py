"""Jupyter kernels forked from a warm process and locked in before they run anything.

    JUPYTER_DEFAULT_PROVISIONER_NAME=posttrain-contained

Such a kernel has no network, reads an allow-list, writes to a folder of its own that
goes with it, and is ended with all that it started when it uses too much. It speaks
over Unix sockets. Inside, `posttrain.checks` is a stub: answers are judged outside.
See `grading.containment` for the locks.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from traitlets import Dict, Instance, List, Unicode

from grading import forked
from grading.containment import linux, supervisor
from grading.containment.kernel import run_kernel
from grading.containment.lock import UNSAFE, NotContained, Order, order
from grading.containment.policy import RUNGS, Limits, Policy

NAME = "posttrain-contained"
PRELOAD = [
    *forked.PRELOAD,
    "matplotlib.font_manager",  # reads its list of fonts, which takes a second to make
    "posttrain",
    "posttrain_kernels.lab",  # with triton, which takes a quarter of a second
    "torch._dynamo",  # which fake tensors and checkpoints ask for: half a second
    "triton.compiler.code_generator",
    "numpy.random",
    "grading.contained",
    "grading.containment.warm",
]
# All that the warm process may know of the environment, for whoever is forked from it
# can read what it was started with.
WARM = (
    "COLUMNS",  # readline sets this and LINES behind Python's back
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",  # which Python sets by itself
    "LD_LIBRARY_PATH",
    "LINES",
    "MPLCONFIGDIR",
    "OMP_NUM_THREADS",
    "PATH",
    "PYTHONPATH",
    "TMPDIR",
)
LONGEST_SOCKET = 107
PATIENCE = 30.0


class ContainedProvisioner(forked.ForkedProvisioner):
    """Starts a kernel by fork, locks it in, and ends it with all that it started.

    `ended` says why a kernel was ended from outside; None if it was not.
    """

    hidden_modules = List(
        Unicode(), help="Modules of ours that the answers are to stand for."
    ).tag(config=True)
    limits = Dict(help="Fields of grading.containment.policy.Limits.").tag(config=True)
    rung = Unicode("auto", help="auto, namespaces or landlock.").tag(config=True)
    policy = Instance(Policy)
    run: Path | None = None
    held: str | None = None
    report: Connection | None = None

    def _policy_default(self) -> Policy:
        return Policy(
            hidden_modules=tuple(self.hidden_modules),
            limits=replace(Limits(), **self.limits),
            rung=self.rung,
        )

    @property
    def ended(self) -> str | None:
        while self.report is not None and self.report.poll():
            try:
                _, self._ended = self.report.recv()
            except EOFError:
                break
        return self._ended

    _ended: str | None = None

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Puts the kernel's sockets into a folder that only it and we can enter."""
        if self.run is None:
            self.run = Path(tempfile.mkdtemp(prefix="posttrain-")).resolve()
        for stale in self.run.iterdir():
            folder = stale.is_dir() and not stale.is_symlink()
            shutil.rmtree(stale) if folder else stale.unlink()
        manager = self.parent
        manager.transport, manager.ip = "ipc", str(self.run / "kernel")
        manager.connection_file = str(self.run / "connection.json")
        manager._connection_file_written = False
        if len(f"{manager.ip}-10") > LONGEST_SOCKET:
            raise NotContained(f"{self.run} is too long a name; set TMPDIR")
        return await super().pre_launch(**kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> dict:
        """Returns when the kernel is locked in; raises NotContained if it is not."""
        environment = dict(kwargs.get("env") or os.environ)
        loop = asyncio.get_running_loop()
        rung = await loop.run_in_executor(None, rung_of, self.policy)
        if rung is None:
            self.held = None
            return await super().launch_kernel(cmd, **{**kwargs, "cwd": str(self.run)})
        wanted = order(self.policy, rung, self.run, environment)
        arguments = cmd[cmd.index("-f") :]
        self._ended = None
        process, self.report = await loop.run_in_executor(
            None, start, wanted, run_kernel, (arguments, wanted.hidden_modules)
        )
        self.held = rung
        self.process, self.pid, self.pgid = _Handle(process), process.pid, None
        return self.connection_info

    async def cleanup(self, restart: bool = False) -> None:
        await super().cleanup(restart)
        if self.run is not None and not restart:
            shutil.rmtree(self.run, ignore_errors=True)
            self.run = None


class _Handle(forked._Handle):
    """The supervisor of a kernel. Asked to end, it ends all below it first."""

    def poll(self) -> int | None:
        code = super().poll()
        if code == -signal.SIGKILL:  # not our way: it could look after nothing
            supervisor.end_orphans(forkserver._forkserver._forkserver_pid)
        return code

    def send_signal(self, number: int) -> None:
        if number in (signal.SIGINT, 0):
            super().send_signal(number)
        elif self.poll() is None:
            super().send_signal(signal.SIGTERM)
            self.process.join(PATIENCE)
            super().send_signal(signal.SIGKILL)


_lock = threading.Lock()


def start(order: Order, main, arguments: tuple) -> tuple[Any, Connection]:
    """Runs `main(*arguments)` locked in, by a fork of the warm process.

    Returns the supervisor's process, and the connection over which it tells why it
    ended the inside. Raises NotContained with the reason if the lock does not close.
    """
    with _lock:
        ensure_warm()
        context = multiprocessing.get_context("forkserver")
        report, told = context.Pipe(duplex=False)
        process = context.Process(
            target=_become_supervisor, args=(order, main, arguments, told)
        )
        with forked._no_main_module():
            process.start()
        told.close()
    try:
        word, text = report.recv() if report.poll(PATIENCE) else ("", "no answer")
    except EOFError:
        word, text = "", "the supervisor ended before the lock was closed"
    if word != "locked":
        process.kill()
        process.join()
        raise NotContained(f"on rung {order.rung}: {text}")
    return process, report


_found: dict[tuple, str] = {}


def rung_of(policy: Policy) -> str | None:
    """The rung that holds here for a policy; tries it with an idle process.

    None, for no lock at all, only where the environment variable
    POSTTRAIN_GRADING_UNSAFE is 1 and no rung holds. Otherwise raises NotContained.
    """
    key = (policy.rung, os.geteuid())
    if key in _found:
        return _found[key]
    reasons = []
    for rung in RUNGS if policy.rung == "auto" else (policy.rung,):
        try:
            linux.machine()
            _try(policy, rung)
        except (NotContained, OSError) as error:
            reasons.append(str(error))
        else:
            _found[key] = rung
            return rung
    if os.environ.get(UNSAFE) == "1":
        return None
    raise NotContained(
        "cannot lock submissions in on this host, so none is run. Tried "
        + "; ".join(dict.fromkeys(reasons))
        + f". Grade on Linux 6.2 or later; or set {UNSAFE}=1 to run submissions as "
        "yourself, with access to all that you have"
    )


def _try(policy: Policy, rung: str) -> None:
    with tempfile.TemporaryDirectory(prefix="posttrain-") as run:
        process, report = start(order(policy, rung, Path(run), {}), _idle, ())
        process.join()
        report.close()


def _idle() -> None:
    pass


@contextmanager
def _clean_environment() -> Iterator[None]:
    """The warm process starts in here: with no secrets in its environment."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update({name: before[name] for name in WARM if name in before})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _become_supervisor(order: Order, main, arguments: tuple, told: Connection) -> None:
    """In the fork: forgets whose fork it is, then supervises."""
    os.setsid()  # an interrupt from the keyboard is not for the kernel
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    kept = told.fileno()
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
    _forget_parent()
    if reason := _secrets():
        told.send(("refused", reason))
        os._exit(supervisor.REFUSED)
    supervisor.supervise(order, main, arguments, told)


def _forget_parent() -> None:
    """Unknows the descriptors and the key that multiprocessing gave its child."""
    multiprocessing.current_process().authkey = os.urandom(32)
    forkserver._forkserver = forkserver.ForkServer()
    forkserver.ensure_running = forkserver._forkserver.ensure_running
    forkserver.connect_to_new_process = forkserver._forkserver.connect_to_new_process
    forkserver.get_inherited_fds = forkserver._forkserver.get_inherited_fds
    resource_tracker._resource_tracker._fd = None
    resource_tracker._resource_tracker._pid = None


def _secrets() -> str | None:
    """What the warm process holds that no submission may see, if anything."""
    started_with = Path("/proc/self/environ").read_bytes().split(b"\0")
    names = {entry.partition(b"=")[0].decode() for entry in started_with if entry}
    if unknown := sorted(names - set(WARM)):
        return f"the warm process was started by others, with {', '.join(unknown)} set"
    loaded = sorted(name for name in sys.modules if name.startswith("posttrain."))
    if loaded:
        return f"the warm process has imported {', '.join(loaded)}"
    return None


def ensure_warm() -> None:
    """Starts the warm process, if none runs; it gets ready by itself."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with _clean_environment():
        forkserver.ensure_running()


def adopt() -> None:
    """In a fork of a process that has a warm one: uses that, for there is no other.

    Python would wait for it as for a child, which it is not.
    """
    server = forkserver._forkserver
    server.ensure_running = forkserver.ensure_running = lambda: None


def stop() -> None:
    """Ends the warm process, if one runs, and waits for it."""
    with _lock:
        forked.stop()
