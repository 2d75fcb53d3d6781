"""Landlock: a process gives up what it may do with files, TCP and its neighbours.

https://docs.kernel.org/userspace-api/landlock.html. Rules only add rights below a
path, and what no rule allows is refused. It sees no `stat`, `chmod`, `connect` to a
socket in the file system ...; `syscalls` refuses those that do harm.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from grading.containment import linux
from grading.containment.view import View

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION_FLAG, PATH_BENEATH = 1, 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 1 << 1, 1 << 2, 1 << 3
REMOVE_FILE, MAKE_CHAR, MAKE_SOCK, MAKE_BLOCK = 1 << 5, 1 << 6, 1 << 9, 1 << 11
TRUNCATE, IOCTL_DEVICE = 1 << 14, 1 << 15
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE
READ = EXECUTE | READ_FILE | READ_DIR
RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many bits are known
TCP_RIGHTS, SCOPES = 3, 3  # bind and connect; abstract sockets and signals

PROC_FILES = ("cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "uptime")
SELF_FILES = (
    "cmdline",
    "fd",
    "io",
    "limits",
    "maps",
    "stat",
    "statm",
    "status",
    "task",
)


class Ruleset(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("files", "tcp", "scoped"))


class PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """The version that the running system offers; 0 where it offers none."""
    try:
        return linux.syscall("landlock", CREATE_RULESET, None, 0, VERSION_FLAG)
    except OSError:
        return 0


def restrict(
    view: View, private: Iterable[Path], run: Path, readable: Iterable[Path]
) -> None:
    """Restricts the calling thread, and whatever it starts, for good.

    `private` folders are open for all but devices, `run` for reading and for making
    sockets, `readable` paths for reading, beside those of the view.
    """
    version = abi()
    known = (1 << RIGHTS_BY_ABI[min(version, 5)]) - 1
    wanted = Ruleset(
        known, TCP_RIGHTS if version >= 4 else 0, SCOPES if version >= 6 else 0
    )
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = linux.syscall("landlock", CREATE_RULESET, ctypes.byref(wanted), size, 0)
    for folder in view.listable:
        _allow(rules, folder, READ_DIR)
    for path in [*view.readable, *readable]:
        _allow(rules, path, READ)
    for folder in private:
        _allow(rules, folder, known & ~(MAKE_CHAR | MAKE_BLOCK | IOCTL_DEVICE))
    _allow(rules, run, READ_FILE | READ_DIR | MAKE_SOCK | REMOVE_FILE)
    for device in ("null", "zero", "full", "random", "urandom"):
        _allow(rules, Path("/dev", device), READ_FILE | WRITE_FILE)
    linux.syscall("landlock", RESTRICT_SELF, rules, 0)
    os.close(rules)


def own_proc() -> list[Path]:
    """What a process may see of /proc where it is everybody's: itself, and totals.

    Not `net`, which lists the sockets of the host, and no other process.
    """
    own = [Path("/proc", str(os.getpid()), name) for name in SELF_FILES]
    devices = [Path("/sys/devices/system/cpu")]
    everything = [*own, *[Path("/proc", name) for name in PROC_FILES], *devices]
    return [path for path in everything if path.exists()]


def _allow(rules: int, path: Path, rights: int) -> None:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not path.is_dir():
            rights &= FILE_RIGHTS
        rule = PathBeneath(rights, handle)
        linux.syscall(
            f"landlock {path}", ADD_RULE, rules, PATH_BENEATH, ctypes.byref(rule), 0
        )
    finally:
        os.close(handle)
