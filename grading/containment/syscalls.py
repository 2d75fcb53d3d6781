"""seccomp: system calls that contained code may not make.

A filter is a short program of the classic Berkeley packet filter, run by the system
at each call on a struct of the call's number, the architecture and six arguments
(https://docs.kernel.org/userspace-api/seccomp_filter.html). Ours checks the
architecture, for numbers mean other calls elsewhere, then goes down a list of calls.
"""

from __future__ import annotations

import ctypes
import errno
import socket

from grading.containment import linux

# Calls by what they would do, with their numbers on (x86_64, aarch64). From 424 on
# the numbers are the same everywhere.
NUMBERS = {
    # read or steer another process
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # change the world that it lives in
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "clone3": (435, 435),
    # reach into the system
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "reboot": (169, 142),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    # calls that no filter would see
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # memory that belongs to no process, so that no limit counts it
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    # what happens in folders that it may not read
    "fanotify_init": (300, 262),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
}
# Only where there are no namespaces: what Landlock lets through to paths and processes
# of the same user.
NUMBERS_OUTSIDE = {
    "connect": (42, 203),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "truncate": (76, 45),
}
# The same, but these return as if they had worked: copying a file sets the mode and
# the time of the copy, and libzmq sets the priority of its threads.
NUMBERS_PRETENDED = {
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
CLONE = (56, 220)
SOCKET, SOCKETPAIR = (41, 198), (53, 199)
PRLIMIT = (302, 261)
KILLS = ((62, 129), (200, 130), (234, 131), (129, 138), (297, 240))
KILL_BY_HANDLE = 424
NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW... flag
TYPE_MASK = 0xF  # of a socket; the rest are flags

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32 = 0x40000000  # a second set of numbers on x86_64
LOAD, AND, RETURN = 0x20, 0x54, 0x06
IF_EQUAL, IF_AT_LEAST, IF_ANY_BIT = 0x15, 0x35, 0x45
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in the struct
SECCOMP_MODE_FILTER = 2


class Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("then", ctypes.c_uint8),
        ("otherwise", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class Program(ctypes.Structure):
    _fields_ = (
        ("length", ctypes.c_uint16),
        ("instructions", ctypes.POINTER(Instruction)),
    )


def restrict(namespaces: bool, own_signals: int | None = None) -> None:
    """Filters the calls of this thread, and of whatever it starts, for good.

    Needs no_new_privs. `namespaces` says that it is in its own ones. `own_signals`,
    a process id, refuses signals to any other one: for a host whose Landlock knows no
    scopes.
    """
    lines = program(linux.machine(), namespaces, own_signals)
    array = (Instruction * len(lines))(*lines)
    filter = Program(len(lines), array)
    address = ctypes.addressof(filter)
    linux.prctl(linux.PR_SET_SECCOMP, SECCOMP_MODE_FILTER, address)


def program(machine: str, namespaces: bool, own_signals: int | None) -> list[tuple]:
    """The filter as (code, jump if so, jump if not, k), jumps counted in lines."""
    column = list(AUDIT_ARCH).index(machine)
    lines = [
        (LOAD, 0, 0, ARCHITECTURE),
        (IF_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        _refuse(errno.ENOSYS),
        (LOAD, 0, 0, NUMBER),
    ]
    if machine == "x86_64":
        lines += [(IF_AT_LEAST, 0, 1, X32), _refuse(errno.ENOSYS)]
    refused = dict.fromkeys(NUMBERS.values(), errno.EPERM)
    # libc falls back from clone3, whose flags no filter sees, to clone
    refused[NUMBERS["clone3"]] = errno.ENOSYS
    if not namespaces:
        refused |= dict.fromkeys(NUMBERS_OUTSIDE.values(), errno.EPERM)
        refused |= dict.fromkeys(NUMBERS_PRETENDED.values(), 0)
    for numbers, reason in refused.items():
        if (number := numbers[column]) is not None:
            lines += [(IF_EQUAL, 0, 1, number), _refuse(reason)]
    lines += _when(CLONE[column], _argument(0), (IF_ANY_BIT, 0, 1, NEW_NAMESPACES))
    lines += _when(PRLIMIT[column], _argument(0), (IF_EQUAL, 1, 0, 0))
    for call in (SOCKET, SOCKETPAIR):
        lines += _when(call[column], _argument(0), (IF_EQUAL, 1, 0, socket.AF_UNIX))
        if not namespaces:  # datagrams need no connect to reach a stranger
            kind = [*_argument(1), (AND, 0, 0, TYPE_MASK)]
            lines += _when(call[column], kind, (IF_EQUAL, 0, 1, socket.SOCK_DGRAM))
            lines += _when(call[column], kind, (IF_EQUAL, 0, 1, socket.SOCK_RAW))
    if own_signals is not None:
        lines += [(IF_EQUAL, 0, 1, KILL_BY_HANDLE), _refuse(errno.EPERM)]
        for call in KILLS:
            lines += _when(call[column], _argument(0), (IF_EQUAL, 1, 0, own_signals))
    return [*lines, (RETURN, 0, 0, ALLOW)]


def _refuse(reason: int) -> tuple:
    return (RETURN, 0, 0, REFUSE | reason)


def _argument(index: int) -> list[tuple]:
    """Loads the lower half of an argument: all that an int of C has."""
    return [(LOAD, 0, 0, ARGUMENTS + 8 * index)]


def _when(number: int, load: list[tuple], test: tuple) -> list[tuple]:
    """At this call, refuse where the test of an argument falls through to there."""
    body = [*load, test, _refuse(errno.EPERM), (LOAD, 0, 0, NUMBER)]
    return [(IF_EQUAL, 0, len(body), number), *body]
