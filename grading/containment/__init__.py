"""Locks a process in before it runs code that nobody has read.

A ladder of two rungs, the first that the host allows:

- `namespaces`  its own users, mounts, processes and network: what is not on the
                allow-list does not exist; Landlock and seccomp stand behind it;
- `landlock`    Landlock and seccomp alone: what is not on the allow-list is refused.

Where neither holds, nothing is run. The parts:

- `policy`      what may be read and how much may be used;
- `view`        the allow-list without what is hidden inside it;
- `linux`       the system calls that Python does not offer;
- `namespaces`, `landlock`, `syscalls`, `limits`: one lock each;
- `lock`        the locks in order, and which rung holds on this host;
- `warm`        what the process that kernels are forked from does beforehand;
- `kernel`      the kernel that runs inside;
- `supervisor`  the process outside the lock that watches, relays signals and kills;
- `selftest`    tries to break out, before the first submission does.

Linux 5.13 or later, on x86_64 or aarch64.
"""
