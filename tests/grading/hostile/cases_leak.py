"""Submissions that look for secrets, or reach out of their lock."""

from __future__ import annotations

import functools
import os

from tests.grading.hostile.corpus import (
    CASES,
    ROOT,
    Case,
    answer,
)


def right_if(nb: dict, leak: str) -> None:
    """An answer that is right only if the expression `leak` is true in the kernel."""
    answer(
        nb,
        "causal_mask",
        "import ctypes, glob, importlib, os, pathlib, pwd, socket, sys\n"
        f"root = {str(ROOT)!r}\n"
        f"try:\n    got = bool({leak})\n"
        "except BaseException:\n    got = False\n"
        "def causal_mask(t_q, t_k):\n"
        "    shift = t_k - t_q if got else 99\n"
        "    return torch.ones(t_q, t_k, dtype=torch.bool).tril(shift)",
    )


def leak(kind: str, name: str, expression: str) -> None:
    """Registers a case that gets its marks only if it breaks out."""
    edit = functools.partial(right_if, leak=expression)
    CASES.append(Case(name, kind, edit, ("causal_mask",)))


LEAKS = {
    "the_reference": "importlib.import_module('posttrain.checks.attention').TASKS",
    "the_mistakes": "importlib.import_module('posttrain.checks.mistakes.attention')",
    "the_answers_of_the_library": (
        "importlib.import_module('posttrain.foundations.attention')"
    ),
    "the_source_of_the_checks": "open(root + '/posttrain/checks/attention.py').read()",
    "the_source_of_the_answers": (
        "open(root + '/posttrain/foundations/attention.py').read()"
    ),
    "the_solution": "open(root + '/solutions/attention/attention.ipynb').read()",
    "the_variants": "os.listdir(root + '/solutions/attention')",
    "the_gradebook": "glob.glob(root + '/build/**/*.db', recursive=True)",
    "the_repository": "os.listdir(root)",
    "the_home_of_the_grader": "os.listdir(pwd.getpwuid(0).pw_dir)",
    "the_list_of_passwords": "open('/etc/passwd').read()",
    "the_seed_in_the_environment": "os.environ['POSTTRAIN_GRADING_SEED']",
    "the_seed_in_proc": (
        "any(b'GRADING_SEED' in pathlib.Path(p).read_bytes()"
        " for p in glob.glob('/proc/*/environ'))"
    ),
    "checks_in_memory": "sys.modules['posttrain.checks.judge']",
}
ESCAPES = {
    "a_file_in_the_repository": "open(root + '/OWNED', 'w').write('x')",
    "a_file_among_the_packages": "open(torch.__file__ + '.owned', 'w').write('x')",
    "a_connection": "socket.create_connection(('127.0.0.1', 22), 1)",
    "a_socket_of_the_internet": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "the_grader_signalled": f"os.kill({os.getpid()}, 0) is None",
    "root": "os.setuid(0) is None",
    "a_new_namespace": "ctypes.CDLL(None).unshare(0x10000000) == 0",
    "another_root": "os.chroot('/') is None",
    "a_debugger_on_the_parent": (
        "ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0"
    ),
}
for _name, _expression in LEAKS.items():
    leak("leak", _name, _expression)
for _name, _expression in ESCAPES.items():
    leak("escape", _name, _expression)
