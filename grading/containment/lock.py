"""The locks in the order in which they close, and which rung holds on this host."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grading.containment import landlock, limits, linux, namespaces, syscalls
from grading.containment.policy import Limits, Policy, environment
from grading.containment.view import View, view

UNSAFE = "POSTTRAIN_GRADING_UNSAFE"
LEAST_LANDLOCK = 3  # the first that sees files being truncated
NOBODY = 65534
# Above every user that a system gives out, so that each kernel is a user of its own.
FIRST_UID = 0x70000000


class NotContained(RuntimeError):
    """Nothing was run, for it could not be locked in."""


@dataclass(frozen=True)
class Order:
    """One process to lock in: where it stands, what it sees, what it may use.

    `run` is its folder outside, with the sockets; `private` is what it may write to.
    """

    rung: str
    seen: View
    limits: Limits
    run: Path
    private: Path
    environment: dict[str, str]
    hidden_modules: tuple[str, ...]


def order(policy: Policy, rung: str, run: Path, outside: Mapping[str, str]) -> Order:
    """What a policy means on one rung, for a process with the folder `run`."""
    private = Path("/private") if rung == "namespaces" else run / "private"
    return Order(
        rung=rung,
        seen=view(policy.readable, policy.hidden),
        limits=policy.limits,
        run=run,
        private=private,
        environment=environment(private, outside),
        hidden_modules=policy.hidden_modules,
    )


def new_user() -> int | None:
    """Who contained code runs as: a user of its own if we are root, else ourselves."""
    if os.geteuid() != 0:
        return None
    wanted = FIRST_UID + os.getpid()
    ranges = Path("/proc/self/uid_map").read_text().splitlines()
    known = [(int(r.split()[0]), int(r.split()[2])) for r in ranges]
    return wanted if any(a <= wanted < a + n for a, n in known) else NOBODY


def prepare(order: Order, uid: int | None) -> None:
    """In the supervisor, before it forks: the folder, and the process namespace."""
    order.run.chmod(0o700)
    if order.rung == "namespaces":
        namespaces.leave_processes()
    else:
        _refuse_unreachable(order, uid)
        order.private.mkdir()
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    if uid is not None:
        for path in (order.run, *order.run.iterdir()):
            os.chown(path, uid, uid)


def close(order: Order, uid: int | None) -> None:
    """Locks the caller in. Nothing that it does later opens a lock again."""
    inside = order.rung == "namespaces"
    own_signals = None
    if inside:
        namespaces.enter(order.seen, order.private, order.run, order.limits.disk)
    elif landlock.abi() < LEAST_LANDLOCK:
        raise NotContained(f"Landlock has version {landlock.abi()}; 3 is needed")
    elif landlock.abi() < 6 and uid is None:
        own_signals = os.getpid()
    linux.give_up_privileges(uid)
    os.environ.clear()
    os.environ.update(order.environment)
    for folder in (Path(os.environ["HOME"]), order.private / "work"):
        folder.mkdir()
    os.chdir(order.private / "work")
    limits.restrict(order.limits, own_users=inside or uid not in (None, NOBODY))
    if landlock.abi():
        shared = [Path("/dev/shm")] if inside else []
        proc = [Path("/proc")] if inside else landlock.own_proc()
        landlock.restrict(order.seen, [order.private, *shared], order.run, proc)
    syscalls.restrict(inside, own_signals)


def _refuse_unreachable(order: Order, uid: int | None) -> None:
    """Without namespaces a folder closed to the new user stays closed to it."""
    for path in (Path(sys.base_prefix), Path(sys.prefix)) if uid is not None else ():
        for folder in (path, *path.parents):
            if not folder.stat().st_mode & 0o001:
                raise NotContained(
                    f"the interpreter {path} lies in {folder}, which other users than "
                    f"root cannot enter; install it elsewhere, or do not grade as root"
                )
