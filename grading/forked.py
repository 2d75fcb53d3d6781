"""Jupyter kernels forked from a process that has imported torch already.

A kernel for a submission spends nine tenths of its start on `import torch`. This
provisioner pays that once: Python's own fork server preloads the imports, and each
kernel is a fork of it. It isolates nothing: `grading.contained` does, and builds on it.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from jupyter_client.provisioning import LocalProvisioner

PRELOAD = [
    "torch",
    "torch.fx.experimental.symbolic_shapes",  # many modules, asked for late by torch
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "grading.forked",
]


class ForkedProvisioner(LocalProvisioner):
    """Starts a kernel by fork, and looks after it as after any local process."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> dict:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        arguments = cmd[cmd.index("-f") :]
        cwd = str(kwargs.get("cwd") or os.getcwd())
        environment = dict(kwargs.get("env") or os.environ)
        process = context.Process(
            target=_become_kernel, args=(arguments, cwd, environment)
        )
        with _no_main_module():
            process.start()
        self.process, self.pid, self.pgid = _Handle(process), process.pid, None
        return self.connection_info


def stop() -> None:
    """Ends the fork server, if one runs, and waits for it."""
    server = multiprocessing.forkserver._forkserver
    if server._forkserver_pid is not None:  # to ask it, it would put torch away first
        with suppress(ProcessLookupError):
            os.kill(server._forkserver_pid, signal.SIGKILL)
    server._stop()  # there is no public way


class _Handle:
    """A `multiprocessing.Process` with the methods of `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, process):
        self.process = process

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self.process.join(timeout)
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Keeps multiprocessing from importing the caller's script in the new kernel."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _become_kernel(arguments: list[str], cwd: str, environment: dict) -> None:
    from ipykernel.kernelapp import IPKernelApp

    sys.modules["debugpy"] = None  # half of a kernel's start, and nobody debugs here
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # what a kernel prints goes to the notebook instead
        os.dup2(nowhere, descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    IPKernelApp.launch_instance(argv=arguments)
