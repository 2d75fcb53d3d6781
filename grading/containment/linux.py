"""System calls that Python does not offer, with errors that name them."""

from __future__ import annotations

import ctypes
import os
import platform

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_CAPABILITIES_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


class CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class Capabilities(ctypes.Structure):
    _fields_ = tuple((n, ctypes.c_uint32) for n in ("effective", "held", "inherited"))


def machine() -> str:
    """The architecture; raises OSError where its system calls are not known here."""
    name = platform.machine()
    if os.uname().sysname != "Linux" or name not in ("x86_64", "aarch64"):
        raise OSError(f"no lock for {os.uname().sysname} on {name}: Linux is needed")
    return name


def checked(what: str, result: int) -> int:
    """The result of a call to libc; raises OSError where it is -1."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, *arguments: int) -> None:
    padded = (*arguments, 0, 0, 0, 0)[:4]
    words = [ctypes.c_ulong(a) for a in padded]
    checked(f"prctl({option})", _libc.prctl(option, *words))


def syscall(what: str, number: int, *arguments) -> int:
    """A raw system call. Whole numbers are passed as words, the rest as they are."""
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return checked(what, _libc.syscall(ctypes.c_long(number), *words))


def unshare(flags: int) -> None:
    checked("unshare", _libc.unshare(flags))


def mount(
    source: str | None, target: str, kind: str | None, flags: int, data=""
) -> None:
    words = [w.encode() if w is not None else None for w in (source, target, kind)]
    done = _libc.mount(*words, ctypes.c_ulong(flags), data.encode())
    checked(f"mount {source or kind} on {target}", done)


def unmount(target: str, flags: int) -> None:
    checked(f"umount {target}", _libc.umount2(target.encode(), flags))


def give_up_privileges(uid: int | None) -> None:
    """Becomes user `uid` (None: stays who it is), for good and with no capability."""
    for capability in range(64):
        if _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            break  # no more of them, or nothing to drop for lack of the right to
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = CapabilityHeader(_CAPABILITIES_3, 0)
    checked("capset", _libc.capset(ctypes.byref(header), (Capabilities * 2)()))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 1)  # changing user cleared it, and /proc/self with it
