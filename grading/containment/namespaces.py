"""A private world: its own root, processes, network, and users.

The root is an empty tmpfs into which the allow-list is bound read-only. What is not
there cannot be named. Nothing is written outside but to the run folder, where the
sockets of the kernel are.

Root builds the world with its own rights and then becomes somebody else; a plain
user gets the right to build from a user namespace, where the host grants one.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from grading.containment import linux
from grading.containment.view import View

CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND = 1, 2, 4, 4096
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 1, 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_SETATTR = 442  # the same number on every architecture
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

DEVICES = ("null", "zero", "full", "random", "urandom")
FILES_PER_TMPFS = 10_000


class Attributes(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")
    )


def leave_processes() -> None:
    """Children of the caller will be in a process namespace of their own."""
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(CLONE_NEWPID if uid == 0 else CLONE_NEWUSER | CLONE_NEWPID)
    if uid != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def enter(view: View, private: Path, run: Path, disk: int) -> None:
    """Moves the caller, the first process of its namespace, into a private world.

    `private` gets a tmpfs of `disk` bytes; `run` is the folder shared with outside.
    """
    linux.unshare(
        CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
    )
    linux.mount(None, "/", None, MS_REC | MS_PRIVATE)
    root = run / "root"
    root.mkdir()
    linux.mount("tmpfs", str(root), "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    _tmpfs(_inside(root, private), disk)
    _tmpfs(_inside(root, Path("/dev/shm")), disk)
    for folder in view.listable:
        _inside(root, folder).mkdir(parents=True, exist_ok=True)
    for path in view.readable:
        _bind_readonly(path, _inside(root, path))
    for device in DEVICES:
        _bind(Path("/dev", device), _inside(root, Path("/dev", device)))
    os.symlink("/proc/self/fd", root / "dev/fd")
    _bind(run, _inside(root, run))
    _mount_proc(root)
    _change_root(root)


def _inside(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _tmpfs(target: Path, size: int) -> None:
    target.mkdir(parents=True, exist_ok=True)
    options = f"mode=1777,size={size},nr_inodes={FILES_PER_TMPFS}"
    linux.mount("tmpfs", str(target), "tmpfs", MS_NOSUID | MS_NODEV, options)


def _bind(source: Path, target: Path) -> None:
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    linux.mount(str(source), str(target), None, MS_BIND | MS_REC)


def _bind_readonly(source: Path, target: Path) -> None:
    if source.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(os.readlink(source))
        return
    _bind(source, target)
    _set(target, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, AT_RECURSIVE)


def _set(target: Path, attributes: int, flags: int = 0) -> None:
    wanted = Attributes(set=attributes)
    linux.syscall(
        f"mount_setattr {target}",
        MOUNT_SETATTR,
        AT_FDCWD,
        ctypes.c_char_p(str(target).encode()),
        flags,
        ctypes.byref(wanted),
        ctypes.sizeof(wanted),
    )


def _mount_proc(root: Path) -> None:
    (root / "proc").mkdir()
    linux.mount("proc", str(root / "proc"), "proc", MS_NOSUID | MS_NODEV | MS_RDONLY)


def _change_root(root: Path) -> None:
    os.chdir(root)
    here = ctypes.c_char_p(b".")
    linux.syscall("pivot_root", PIVOT_ROOT[linux.machine()], here, here)
    linux.unmount(".", MNT_DETACH)  # the old root lies on top of the new one
    os.chdir("/")
    _set(Path("/"), MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID)
