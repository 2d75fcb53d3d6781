"""Limits on what one notebook uses, all its processes together.

Two kinds. The system's own limits hold at once, but for each process alone; and the
supervisor measures the whole tree ten times a second, and ends what is over.
"""

from __future__ import annotations

import os
import resource
import stat
from dataclasses import dataclass
from pathlib import Path

from grading.containment.policy import Limits

TICKS = os.sysconf("SC_CLK_TCK")
OPEN_FILES = 512
FILES = 10_000


@dataclass(frozen=True)
class Process:
    """One line of /proc: its parent, its threads, its and its dead children's time."""

    pid: int
    state: str
    parent: int
    threads: int
    cpu_seconds: float

    @property
    def folder(self) -> str:
        """Where /proc tells of its memory and files: with a thread that has not ended.

        A first thread that has shows nothing of what the others hold.
        """
        if self.state == "Z" and self.threads > 1:
            for thread in _listed(f"/proc/{self.pid}/task"):
                folder = f"/proc/{self.pid}/task/{thread}"
                if _status(folder):
                    return folder
        return f"/proc/{self.pid}"


def restrict(limits: Limits, own_users: bool) -> None:
    """Sets the system's limits for the caller and what it starts.

    Memory is counted from what the warm process holds already. `own_users` says that
    nobody else's processes count as this user's.
    """
    held = _status("/proc/self")
    address_space = held["VmSize"] + 2 * limits.memory + (4 << 30)
    others = 0 if own_users else sum(p.threads for p in _processes_of(os.getuid()))
    for name, value in {
        "DATA": held["VmData"] + limits.memory,
        "AS": address_space,  # shared memory is no data; threads reserve much of this
        "NPROC": others + limits.processes,
        "FSIZE": limits.file_size,
        "CPU": limits.cpu_seconds,
        "NOFILE": OPEN_FILES,
        "CORE": 0,
        "MSGQUEUE": 0,
    }.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        _, most = resource.getrlimit(kind)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, value))


def exceeded(root: int, limits: Limits, folder: Path) -> str | None:
    """What the tree of processes under `root` and the files in `folder` exceed."""
    tree = descendants(root)
    tasks = sum(p.threads for p in tree)
    if tasks > limits.processes:
        return f"more than {limits.processes} processes and threads"
    if sum(p.cpu_seconds for p in tree) > limits.cpu_seconds:
        return f"more than {limits.cpu_seconds} seconds of processor time"
    shown = [p.folder for p in tree]
    # The quick sum counts shared pages once for each process, so it is too high.
    if _quick(shown) > limits.memory and _exact(shown) > limits.memory:
        return f"more than {limits.memory >> 20} MiB of memory"
    if _disk(folder, shown) > limits.disk:
        return f"more than {limits.disk >> 20} MiB in files, or {FILES} files"
    return None


def descendants(root: int) -> list[Process]:
    """The processes started by `root`, directly or not, not itself; parents first."""
    children: dict[int, list[Process]] = {}
    for process in _processes():
        children.setdefault(process.parent, []).append(process)
    found, parents = [], [root]
    while parents:
        born = children.get(parents.pop(), [])
        found += born
        parents += [p.pid for p in born]
    return found


def filtered(pid: int) -> bool:
    """Whether a process has a filter of system calls, which nobody can take off."""
    return "Seccomp:\t2" in _read(f"/proc/{pid}/status").splitlines()


def _processes() -> list[Process]:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [p for pid in pids if (p := _process(pid)) is not None]


def _processes_of(uid: int) -> list[Process]:
    def mine(process: Process) -> bool:
        try:
            return os.stat(f"/proc/{process.pid}").st_uid == uid
        except OSError:
            return False

    return [p for p in _processes() if mine(p)]


def _process(pid: int) -> Process | None:
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    time = sum(int(field) for field in fields[11:15]) / TICKS
    return Process(pid, fields[0], int(fields[1]), int(fields[17]), time)


def _status(shown: str) -> dict[str, int]:
    """The sizes in a process's status, in bytes; empty when it has ended."""
    lines = _read(f"{shown}/status").splitlines()
    pairs = [line.split() for line in lines if line.endswith(" kB")]
    return {name.rstrip(":"): int(size) << 10 for name, size, _ in pairs}


def _quick(shown: list[str]) -> int:
    sizes = [_status(folder) for folder in shown]
    return sum(s.get("RssAnon", 0) + s.get("RssShmem", 0) for s in sizes)


def _exact(shown: list[str]) -> int:
    """Memory with each shared page divided among those that share it."""
    return sum(_proportional(folder) for folder in shown)


def _proportional(shown: str) -> int:
    wanted = ("Pss_Anon:", "Pss_Shmem:")
    lines = [line.split() for line in _read(f"{shown}/smaps_rollup").splitlines()]
    sizes = [int(words[1]) << 10 for words in lines if words[0] in wanted]
    return sum(sizes) if sizes else _quick([shown])


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _read(path: str) -> str:
    """A file of /proc, empty when its process has ended. Read often, so read fast."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(handle, 1 << 14).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(handle)


def _disk(folder: Path, shown: list[str]) -> int:
    """Bytes of the files below `folder`, and of the deleted ones still held open."""
    files = size = 0
    for path, folders, names in os.walk(folder):
        files += len(names) + len(folders)
        if files > FILES:
            return 1 << 62
        size += sum(_blocks(os.path.join(path, name)) for name in names)
    return size + sum(_deleted(process, folder) for process in shown)


def _blocks(path: str) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0


def _deleted(shown: str, folder: Path) -> int:
    """Files that are open but have no name: no walk finds them."""
    try:
        device = os.stat(folder).st_dev
    except OSError:
        return 0
    size = 0
    for handle in _listed(f"{shown}/fd"):
        try:
            found = os.stat(f"{shown}/fd/{handle}")
        except OSError:
            continue
        if found.st_nlink == 0 and found.st_dev == device:
            size += found.st_blocks * 512 if stat.S_ISREG(found.st_mode) else 0
    return size
