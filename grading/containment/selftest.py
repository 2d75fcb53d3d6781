"""Tries to break out of a contained kernel, before the first submission does.

A bait is laid out for each attempt: a file, servers on three kinds of socket, a
process to kill, a folder to write to. Each must be reachable from here, so that an
attempt that fails inside has failed because of the lock. One hole, and nothing is
graded.
"""

from __future__ import annotations

import inspect
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grading.containment.lock import NotContained
from grading.containment.policy import Policy

SMALL = {"memory": 512 << 20, "processes": 64}  # so that reaching them is quick


class HoleFound(NotContained):
    """An attempt to break out succeeded; the text names it."""


@dataclass(frozen=True)
class Report:
    """The rung that holds, how each attempt failed, and the seconds that it took."""

    rung: str
    attempts: dict[str, str]
    seconds: float


# Each attempt is shipped as source and runs inside, so it imports what it uses. It
# returns, anything, only when it has broken out.


def read_a_file_of_ours(bait):
    return open(bait["file"]).read()


def write_beside_it(bait):
    return open(bait["folder"] + "/written", "w").write("x")


def connect_by_tcp(bait):
    import socket

    return str(socket.create_connection(("127.0.0.1", bait["port"]), timeout=1))


def connect_to_an_abstract_socket(bait):
    import socket

    with socket.socket(socket.AF_UNIX) as client:
        return str(client.connect("\0" + bait["abstract"]))


def connect_to_a_socket_in_a_folder(bait):
    import socket

    with socket.socket(socket.AF_UNIX) as client:
        return str(client.connect(bait["socket"]))


def kill_a_process_of_ours(bait):
    import os

    return os.kill(bait["victim"], 9)


def see_other_processes(bait):
    import os

    own = {1, os.getppid(), os.getpid()}
    seen = {int(name) for name in os.listdir("/proc") if name.isdigit()} - own
    if not seen:
        raise LookupError("no others are seen")
    return seen


def read_the_grader(bait):
    path = f"/proc/{bait['grader']}/cmdline"
    return open(path, "rb").read()


def trace_the_grader(bait):
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, bait["grader"], None, None) == -1:  # PTRACE_ATTACH
        raise OSError(os.strerror(ctypes.get_errno()))


def take_too_much_memory(bait):
    return len(bytearray(bait["memory"]))


def start_too_many_processes(bait):
    import threading

    done, started = threading.Event(), []
    try:
        for _ in range(bait["processes"]):
            started.append(threading.Thread(target=done.wait))
            started[-1].start()
    finally:
        done.set()
    return len(started)


ATTEMPTS: tuple[Callable[[dict], Any], ...] = (
    read_a_file_of_ours,
    write_beside_it,
    connect_by_tcp,
    connect_to_an_abstract_socket,
    connect_to_a_socket_in_a_folder,
    kill_a_process_of_ours,
    see_other_processes,
    read_the_grader,
    trace_the_grader,
    take_too_much_memory,
    start_too_many_processes,
)

RUN_INSIDE = """
import json
for attempt in ATTEMPTS:
    try:
        print(json.dumps([attempt.__name__, True, repr(attempt(BAIT))[:200]]))
    except BaseException as error:
        print(json.dumps([attempt.__name__, False, repr(error)[:200]]))
"""


def run(policy: Policy | None = None) -> Report:
    """Raises HoleFound with the names of the attempts that broke out.

    Raises NotContained where no kernel can be locked in at all.
    """
    policy = policy or Policy()
    small = replace(policy, limits=replace(policy.limits, **SMALL))
    started = time.monotonic()
    with bait() as laid, kernel(small) as (client, provisioner):
        if provisioner.held is None:
            raise NotContained("kernels run unlocked: there is nothing to test")
        lines = execute(client, program(ATTEMPTS, laid)).splitlines()
        rung = provisioner.held
    results = [json.loads(line) for line in lines]
    holes = [f"{name}: {text}" for name, broken, text in results if broken]
    missing = {a.__name__ for a in ATTEMPTS} - {name for name, _, _ in results}
    holes += [f"{name}: gave no answer" for name in sorted(missing)]
    if holes:
        raise HoleFound(f"the lock ({rung}) does not hold; {'; '.join(holes)}")
    attempts = {name: text for name, _, text in results}
    return Report(rung, attempts, time.monotonic() - started)


def main() -> None:
    """python -m grading.containment.selftest"""
    from grading import contained

    try:
        report = run()
    finally:
        contained.stop()
    for name, failure in report.attempts.items():
        print(f"{name.replace('_', ' ')}: {failure}")
    print(f"the lock ({report.rung}) holds; {report.seconds:.1f} s")


def program(attempts: tuple, laid: dict) -> str:
    """The source of a cell that makes the attempts and prints a line for each."""
    sources = "\n\n".join(inspect.getsource(attempt) for attempt in attempts)
    names = ", ".join(attempt.__name__ for attempt in attempts)
    return f"{sources}\nATTEMPTS = [{names}]\nBAIT = {laid!r}\n{RUN_INSIDE}"


@contextmanager
def bait() -> Iterator[dict[str, Any]]:
    """Things outside that a lock must keep out of reach, open to everybody here."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o777)
        (folder / "secret").write_text(secrets.token_hex())
        abstract = f"posttrain-{secrets.token_hex(8)}"
        servers = {
            "port": (socket.AF_INET, ("127.0.0.1", 0)),
            "abstract": (socket.AF_UNIX, "\0" + abstract),
            "socket": (socket.AF_UNIX, str(folder / "socket")),
        }
        names = {}
        for name, (family, address) in servers.items():
            server = stack.enter_context(socket.socket(family))
            server.bind(address)
            server.listen()
            names[name] = server.getsockname()
        (folder / "socket").chmod(0o777)
        victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1)
        stack.callback(victim.communicate)
        stack.callback(victim.kill)
        yield {
            "folder": str(folder),
            "file": str(folder / "secret"),
            "port": names["port"][1],
            "abstract": abstract,
            "socket": names["socket"],
            "victim": victim.pid,
            "grader": os.getpid(),
            **SMALL,
        }


@contextmanager
def kernel(policy: Policy) -> Iterator[tuple[Any, Any]]:
    """A contained kernel as Jupyter starts it: its client and its provisioner."""
    from jupyter_client.manager import KernelManager

    from grading.contained import ContainedProvisioner

    manager = KernelManager(kernel_name="python3")
    manager.provisioner = provisioner = ContainedProvisioner(
        parent=manager,
        kernel_id=manager.kernel_id,
        kernel_spec=manager.kernel_spec,
        policy=policy,
    )
    client = None
    try:
        manager.start_kernel()
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=30)
        yield client, provisioner
    finally:
        if client is not None:
            client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def execute(client: Any, code: str, timeout: float = 30) -> str:
    """What a cell prints to both streams, and the last line of its traceback."""
    said: list[str] = []

    def heard(message: dict) -> None:
        content = message["content"]
        if message["msg_type"] == "stream":
            said.append(content["text"])
        elif message["msg_type"] == "error":
            said.append(f"{content['ename']}: {content['evalue']}\n")

    client.execute_interactive(code, output_hook=heard, timeout=timeout)
    return "".join(said)


if __name__ == "__main__":
    main()
