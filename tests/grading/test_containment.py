"""Attempts to break out of contained kernels, on every rung that this host has.

A setting is a user and a rung. For each, this file runs itself as a program, which
makes all attempts in real kernels and writes down what came of them; each attempt is
a test of its own. A new attempt is a function that returns only if it broke out.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from grading.containment import landlock, linux, selftest, syscalls
from grading.containment.policy import Limits, Policy, environment, module_path
from grading.containment.view import view

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [f"{u}-{r}" for u in ("own", "plain") for r in ("namespaces", "landlock")]
PLAIN_UID = 64321
HIDDEN = "posttrain.foundations.attention"
SECRET = "the seed of the hidden cases"
DAEMON_SLEEPS = 900_000 + os.getpid()  # seconds, by which it is found again
LIMITS = Limits(memory=512 << 20, processes=64, file_size=8 << 20, disk=32 << 20)

# --- attempts that leave the kernel alive -------------------------------------------


def read_the_solution(bait):
    return open(bait["root"] + "/solutions/attention/attention.ipynb").read()


def read_the_checks(bait):
    return open(bait["package"] + "/checks/attention.py").read()


def read_a_hidden_module(bait):
    return open(bait["package"] + "/foundations/attention.py").read()


def read_compiled_code(bait):
    import glob

    found = glob.glob(bait["package"] + "/foundations/__pycache__/attention*.pyc")
    return open(found[0], "rb").read() if found else open("/no/compiled/code")


def import_a_hidden_module(bait):
    import importlib

    return importlib.import_module("posttrain.foundations.attention")


def import_the_checks(bait):
    import importlib

    return importlib.import_module("posttrain.checks.attention")


def find_the_seed(bait):
    import glob
    import os

    said = str(dict(os.environ)).encode()
    for path in glob.glob("/proc/[0-9s]*/environ"):
        try:
            with open(path, "rb") as file:
                said += file.read()
        except OSError:
            continue
    assert bait["seed"].encode() in said


def read_environment_of_process_1(bait):
    from pathlib import Path

    text = Path("/proc/1/environ").read_bytes()
    assert bait["seed"].encode() in text or b"SSH" in text


def read_modules_of_the_warm_process(bait):
    import sys

    suspects = ("posttrain.foundations", "posttrain_results", "nbgrader")
    loaded = [n for n in sys.modules if n.startswith(suspects) and sys.modules[n]]
    return loaded or loaded[0]


def connect_to_another_kernel(bait):
    import socket

    with socket.socket(socket.AF_UNIX) as client:
        return str(client.connect(bait["other_kernel"]))


def read_the_key_of_another_kernel(bait):
    return open(bait["other_connection"]).read()


def connect_to_the_warm_process(bait):
    import socket

    with socket.socket(socket.AF_UNIX) as client:
        return str(client.connect(bait["warm_socket"]))


def hold_descriptors_from_outside(bait):
    import os

    mine = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            mine.add(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    known = ("/dev/null", "/dev/urandom", "/proc", bait["run"])
    named = {m for m in mine if m.startswith("/") and not m.startswith(known)}
    outside = mine & set(bait["descriptors"])
    if not outside | named:
        raise LookupError("only its own")
    return outside | named


def send_by_udp(bait):
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        return client.sendto(b"x", ("127.0.0.1", bait["port"]))


def connect_by_ipv6(bait):
    import socket

    with socket.socket(socket.AF_INET6) as client:
        return str(client.connect(("::1", bait["port"])))


def ask_dns(bait):
    import socket

    return socket.getaddrinfo("example.com", 80)


def open_a_netlink_socket(bait):
    import socket

    return str(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4))


def send_to_an_abstract_datagram_socket(bait):
    import socket

    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        return one.sendto(b"x", "\0" + bait["datagram"])


def mount_a_folder(bait):
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None):
        raise OSError(os.strerror(ctypes.get_errno()))


def unshare_users(bait):
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000):
        raise OSError(os.strerror(ctypes.get_errno()))


def clone_into_new_users(bait):
    import ctypes
    import os
    import platform

    libc = ctypes.CDLL(None, use_errno=True)
    number = 56 if platform.machine() == "x86_64" else 220
    pid = libc.syscall(number, 0x10000000 | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    if pid < 0:
        raise OSError(os.strerror(ctypes.get_errno()))


def change_root(bait):
    import os

    return str(os.chroot("/tmp"))


def become_root(bait):
    import os

    return str(os.setuid(0))


def hold_a_capability(bait):
    from pathlib import Path

    lines = Path("/proc/self/status").read_text().splitlines()
    held = [x for x in lines if x.startswith("Cap") and int(x.split()[1], 16)]
    assert [x for x in held if not x.startswith("CapBnd")]


def write_memory_of_process_1(bait):
    return str(open("/proc/1/mem", "wb"))


def limit_the_grader(bait):
    import resource

    return resource.prlimit(bait["grader"], resource.RLIMIT_CPU, (1, 1))


def share_memory_that_nobody_counts(bait):
    import os

    return os.memfd_create("x")


def write_to_site_packages(bait):
    import torch

    return open(torch.__file__, "a").write("\n")


def write_to_the_package(bait):
    return open(bait["package"] + "/new.py", "w").write("\n")


def write_to_system_settings(bait):
    return open("/proc/sys/kernel/hostname", "w").write("x")


def fill_the_run_folder(bait):
    return open(bait["run"] + "/file", "w").write("x")


def link_the_run_folder_elsewhere(bait):
    import os

    return str(os.symlink(bait["file"], bait["run"] + "/link"))


def follow_a_link(bait):
    import os

    os.symlink(bait["file"], "link")
    return open("link").read()


def hold_a_file_by_a_hard_link(bait):
    import os

    return str(os.link(bait["file"], "hard"))


def leave_by_proc_root(bait):
    return open("/proc/self/root" + bait["file"]).read()


def leave_by_proc_1_root(bait):
    return open("/proc/1/root" + bait["file"]).read()


def leave_by_dots(bait):
    return open("../" * 20 + bait["file"][1:]).read()


def remove_a_file(bait):
    import os

    return str(os.unlink(bait["file"]))


def read_by_another_program(bait):
    import os
    import subprocess

    env = {**os.environ, "LD_PRELOAD": ""}
    return subprocess.check_output(["cat", bait["file"]], env=env, stderr=-3)


def read_after_a_fresh_start_with_a_preload(bait):
    import subprocess
    import sys

    code = f"import sys; sys.stdout.write(open({bait['file']!r}).read())"
    env = {"LD_PRELOAD": "/usr/lib/x86_64-linux-gnu/libdl.so.2"}
    return subprocess.check_output([sys.executable, "-c", code], env=env, stderr=-3)


def read_from_another_thread(bait):
    from concurrent.futures import Future
    from pathlib import Path

    found = Future()

    def read():
        try:
            found.set_result(Path(bait["file"]).read_text())
        except OSError as error:
            found.set_exception(error)

    get_ipython().kernel.control_thread.io_loop.add_callback(read)  # noqa: F821
    return found.result(timeout=5)


# These go on as if nothing had happened; the effect is looked for outside.


def change_the_mode_of_a_file(bait):
    import os

    os.chmod(bait["file"], 0)
    raise OSError("whether it worked is seen outside")


def slow_the_grader_down(bait):
    import os

    os.setpriority(os.PRIO_PROCESS, bait["grader"], 19)
    raise OSError("whether it worked is seen outside")


def kill_everybody(bait):
    import os

    os.kill(-1, 9)
    raise OSError("whether it worked is seen outside")


MORE = tuple(
    function
    for name, function in list(globals().items())
    if getattr(function, "__module__", None) == __name__
)

# --- what honest code must still be able to do --------------------------------------

HONEST = {
    "autograd": """
import torch
x = torch.ones(3, requires_grad=True)
(x.exp() @ torch.ones(3)).backward()
print(x.grad.sum().item() > 8)""",
    "lazy import": "import jsonschema, sqlite3, torch.nn.functional; print(True)",
    "a module of the book": "import posttrain.data; print(True)",
    "matplotlib": """
import io, matplotlib
matplotlib.use("agg")
from matplotlib import pyplot
pyplot.plot([1, 2]); pyplot.savefig(io.BytesIO())
print(True)""",
    "a program": """
import subprocess
print(subprocess.check_output(["echo", "hello"]) == b"hello\\n")""",
    "a joined process": """
import multiprocessing, os
ours, theirs = multiprocessing.get_context("fork").Pipe()
p = multiprocessing.get_context("fork").Process(target=theirs.send, args=(7,))
p.start(); print(ours.recv() == 7); p.join()""",
    "files": """
import shutil, tempfile
with tempfile.NamedTemporaryFile() as f:
    shutil.copy(f.name, "copy")
open("copy", "a").write("x"); print(open("copy").read() == "x")""",
    "stderr": "import sys; print('a warning', file=sys.stderr); print(True)",
    "the stub": """
from posttrain.checks import grader
check = grader("attention")
print(check("scores") is None)""",
    "randomness": "import numpy; print(numpy.random.rand() != %r)",
}
POOL = """
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(abs, [-1, -2]) == [1, 2])"""

# --- attempts that may cost the kernel its life -------------------------------------

HARSH = {
    "memory in one process": "x = bytearray(2 << 30); print('broken')",
    "memory in many processes": """
import os, time
for i in range(20):
    if os.fork() == 0:
        x = bytearray(os.urandom(1 << 20)) * 100
        time.sleep(60); os._exit(0)
time.sleep(20); print('broken')""",
    "memory shared and forgotten": """
import mmap, time
held = [mmap.mmap(-1, 64 << 20) for _ in range(40)]
for m in held:
    for i in range(0, len(m), 4096): m[i] = 1
time.sleep(5); print('broken')""",
    "a fork bomb": """
import os, time
end = time.time() + 20
while time.time() < end:
    try: os.fork()
    except OSError: pass
print('broken')""",
    "a large file": "open('f', 'wb').write(bytes(16 << 20)); print('broken')",
    "many files": """
import time
for i in range(40):
    open(f'f{i}', 'wb').write(bytes(2 << 20))
time.sleep(5); print('broken')""",
    "files without a name": """
import os, tempfile, time
held = []
for i in range(30):
    held.append(tempfile.TemporaryFile()); held[-1].write(bytes(2 << 20))
    held[-1].flush()
time.sleep(5); print('broken')""",
    "an endless loop": "while True: pass",
    "a daemon": f"""
import os, subprocess, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "{DAEMON_SLEEPS}"])
    os._exit(0)
time.sleep(0.3); print('started')""",
}
# Its threads live on without the first, whom /proc shows as ended, and nothing else.
HEADLESS = f"""
import ctypes, os, platform, threading, time
def sleep_on():
    time.sleep(0.2)
    ctypes.CDLL(None).prctl(15, b"{DAEMON_SLEEPS}", 0, 0, 0)  # its name
    time.sleep(600)
if os.fork() == 0:
    threading.Thread(target=sleep_on).start()
    ctypes.CDLL(None).syscall(60 if platform.machine() == "x86_64" else 93, 0)
print('started')"""


# --- the program that makes the attempts --------------------------------------------


def run_setting(rung: str, harsh: list[str]) -> dict:
    """What is tried on one rung as this user; of the harsh attempts, those named."""
    import multiprocessing.forkserver

    from grading import contained

    os.environ["POSTTRAIN_GRADING_SEED"] = SECRET
    policy = Policy(rung=rung, limits=LIMITS, hidden_modules=(HIDDEN,))
    try:
        found = {"selftest": selftest.run(policy).attempts}
        with selftest.bait() as laid, selftest.kernel(policy) as (_, other):
            warm = multiprocessing.forkserver._forkserver
            laid |= {
                "root": str(ROOT),
                "package": str(ROOT / "posttrain"),
                "seed": SECRET,
                "other_kernel": f"{other.run}/kernel-1",
                "other_connection": f"{other.run}/connection.json",
                "warm_socket": warm._forkserver_address,
                "descriptors": _descriptors(os.getpid(), warm._forkserver_pid),
                "datagram": "posttrain-datagram",
            }
            found |= _gentle(policy, laid)
            found["outside"] = _seen_outside(laid)
        found["harsh"] = {name: _harsh(policy, HARSH[name]) for name in harsh}
        found["interrupt"] = _interrupt(policy)
        found["killed"] = _left_after_kill(policy)
        found["deserted"] = _left_after_desertion(policy)
        found["left"] = _left()
        return found
    finally:
        contained.stop()


def _gentle(policy: Policy, laid: dict) -> dict:
    with selftest.kernel(policy) as (client, provisioner):
        laid["run"] = str(provisioner.run)
        draw = selftest.execute(client, "import numpy; print(numpy.random.rand())")
        said = selftest.execute(client, selftest.program(MORE, laid))
        lines = [json.loads(line) for line in said.splitlines() if line[:1] == "["]
        tried = {name: [broken, text] for name, broken, text in lines}
    with selftest.kernel(policy) as (client, provisioner):
        cells = HONEST | ({"a pool": POOL} if provisioner.held == "namespaces" else {})
        cells["randomness"] %= float(draw)
        honest = {name: selftest.execute(client, cells[name]) for name in cells}
    return {"rung": provisioner.held, "tried": tried, "honest": honest}


def _harsh(policy: Policy, code: str) -> dict:
    seconds = 1 if "while" in code else 10
    limits = replace(policy.limits, wall_seconds=seconds)
    with selftest.kernel(replace(policy, limits=limits)) as (client, provisioner):
        said = []
        client.execute(code)
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and provisioner.process.poll() is None:
            try:
                content = client.get_iopub_msg(timeout=0.1)["content"]
            except Exception:
                continue
            said.append(content.get("text") or content.get("ename") or "")
            if content.get("execution_state") == "idle" and any(said):
                break
        seconds = round(time.monotonic() - deadline + 15, 2)
        return {"said": "".join(said), "ended": provisioner.ended, "took": seconds}


def _interrupt(policy: Policy) -> str:
    code = f"import subprocess; subprocess.run(['sleep', '{DAEMON_SLEEPS}'])"
    with selftest.kernel(policy) as (client, provisioner):
        client.execute(code)
        assert _left(wanted=1)
        provisioner.process.send_signal(signal.SIGINT)
        names = []
        while "idle" not in names:
            content = client.get_iopub_msg(timeout=10)["content"]
            names.append(content.get("ename") or content.get("execution_state"))
        return f"{[n for n in names if n == 'KeyboardInterrupt']} {_left()}"


def _left_after_kill(policy: Policy) -> list[int]:
    """Kills a kernel's supervisor, as a machine short of memory would."""
    with selftest.kernel(policy) as (client, provisioner):
        selftest.execute(client, HARSH["a daemon"])
        selftest.execute(client, HEADLESS)
        assert len(_left(wanted=2)) == 2
        os.kill(provisioner.process.process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and provisioner.process.poll() is None:
            time.sleep(0.05)
        return _left()


def _left_after_desertion(policy: Policy) -> list[int]:
    """Drops what ties a kernel to its grader, as the end of the grader would."""
    with selftest.kernel(policy) as (client, provisioner):
        selftest.execute(client, HARSH["a daemon"])
        assert _left(wanted=1)
        provisioner.report.close()
        provisioner.report = None
        return _left()


def _left(wanted: int = 0) -> list[int]:
    """Processes of ours that sleep on; waits until they are as many as `wanted`."""
    deadline = time.monotonic() + 15
    while len(found := _sleeping()) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _sleeping() -> list[int]:
    found = set()
    for thread in Path("/proc").glob("[0-9]*/task/[0-9]*"):
        with suppress(OSError):
            started_with = (thread / "cmdline").read_bytes().split(b"\0")
            if f"{DAEMON_SLEEPS}".encode() in (
                *started_with,
                (thread / "comm").read_bytes().strip(),
            ):
                found.add(int(thread.parts[2]))
    return sorted(found)


def _descriptors(*pids: int) -> list[str]:
    folders = [Path(f"/proc/{pid}/fd") for pid in pids]
    handles = [p for folder in folders for p in folder.iterdir() if p.is_symlink()]
    links = {os.readlink(handle) for handle in handles} - {"/dev/null", "/dev/urandom"}
    return sorted(name for name in links if name.startswith(("pipe:", "socket:", "/")))


def _seen_outside(laid: dict) -> dict:
    state = Path(f"/proc/{laid['victim']}/stat").read_text().rpartition(")")[2].split()
    return {
        "mode": Path(laid["file"]).stat().st_mode & 0o777,
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "victim": state[0],
        "files": sorted(os.listdir(laid["folder"])),
    }


# --- the tests ----------------------------------------------------------------------


def _command() -> tuple[list[str], dict]:
    """An interpreter that every user may run, and what it needs to find our code."""
    for path in (Path(sys.executable), Path(sys.base_prefix)):
        if any(not p.stat().st_mode & 1 for p in path.resolve().parents):
            break
    else:
        return [sys.executable], {}
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if (system := shutil.which(version, path="/usr/bin:/usr/local/bin")) is None:
        pytest.skip(f"no {version} that users other than root may run")
    packages = Path(pytest.__file__).parents[1]
    return [system], {"PYTHONPATH": f"{packages}{os.pathsep}{ROOT}"}


@pytest.fixture(scope="module")
def runs():
    """All settings, two at a time: kernels of two graders must not see each other."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {setting: pool.submit(_run, setting) for setting in SETTINGS}


@pytest.fixture(scope="module", params=SETTINGS)
def found(request, runs):
    return runs[request.param].result()


def _run(setting: str) -> dict:
    user, rung = setting.split("-")
    root = os.geteuid() == 0
    if user == "plain" and not root:
        pytest.skip(f"this is a plain user: the same as own-{rung}")
    if rung == "landlock" and landlock.abi() < 3:
        pytest.skip(f"Landlock has version {landlock.abi()} here; 3 is needed")
    own = not root or setting == "own-namespaces"
    argv, env = ([sys.executable], {}) if own else _command()
    env |= {"PATH": os.environ["PATH"], "HOME": "/tmp", "OMP_NUM_THREADS": "1"}
    become = {"user": PLAIN_UID, "group": PLAIN_UID, "extra_groups": []}
    twice = root and setting in ("plain-namespaces", "own-landlock")
    done = subprocess.run(
        [*argv, __file__, rung, *(["a daemon"] if twice else HARSH)],
        env=env | {"MPLCONFIGDIR": f"/tmp/posttrain-fonts-{user}"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=180,
        **(become if user == "plain" else {}),
    )
    if "NotContained" in done.stderr and rung == "namespaces":
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("attempt", [a.__name__ for a in MORE])
def test_attempt_fails(found, attempt):
    broken, text = found["tried"][attempt]
    assert not broken, text


@pytest.mark.parametrize("attempt", [a.__name__ for a in selftest.ATTEMPTS])
def test_selftest_makes_attempt(found, attempt):
    assert found["selftest"][attempt]


@pytest.mark.parametrize("cell", [*HONEST, "a pool"])
def test_honest_code_works(found, cell):
    if cell == "a pool" and found["rung"] == "landlock":
        pytest.skip("without namespaces /dev/shm is everybody's, so it is closed")
    assert "True\n" in found["honest"][cell]


@pytest.mark.parametrize(
    "name, reason",
    [
        ("memory in one process", "MemoryError"),
        ("memory in many processes", "MiB of memory"),
        ("memory shared and forgotten", "MiB of memory"),
        ("a fork bomb", "seconds"),
        ("a large file", "OSError"),
        ("many files", "OSError|in files"),
        ("files without a name", "OSError|in files"),
        ("an endless loop", "more than 1 seconds"),
    ],
)
def test_too_much_is_ended(found, name, reason):
    if name not in found["harsh"]:
        pytest.skip("tried on this rung as another user")
    result = found["harsh"][name]
    assert "broken" not in result["said"]
    text = f"{result['said']} {result['ended']}"
    assert any(part in text for part in reason.split("|")), text


def test_nothing_is_left(found):
    assert found["harsh"]["a daemon"]["said"] == "started\n"
    assert found["left"] == []


def test_nothing_is_left_when_the_supervisor_is_killed(found):
    assert found["killed"] == []


def test_nothing_is_left_when_the_grader_is_killed(found):
    assert found["deserted"] == []


def test_nothing_has_changed_outside(found):
    seen = found["outside"]
    assert seen["mode"] != 0
    assert seen["priority"] == os.getpriority(os.PRIO_PROCESS, 0)  # `nice make test`
    assert seen["victim"] in "SRD"
    assert seen["files"] == ["secret", "socket"]


def test_interrupt_reaches_what_the_kernel_waits_for(found):
    assert found["interrupt"] == "['KeyboardInterrupt'] []"


def test_some_rung_holds_here():
    """Fails where no rung does: a host that cannot lock must not grade."""
    done = subprocess.run(
        [sys.executable, "-m", "grading.containment.selftest"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "holds" in done.stdout


def test_refuses_where_nothing_holds(monkeypatch):
    from grading import contained

    def fails(policy, rung):
        raise OSError(f"no {rung} here")

    monkeypatch.setattr(contained, "_try", fails)
    monkeypatch.setattr(contained, "_found", {})
    monkeypatch.delenv(contained.UNSAFE, raising=False)
    with pytest.raises(contained.NotContained, match="no namespaces.*no landlock"):
        contained.rung_of(Policy())
    monkeypatch.setenv(contained.UNSAFE, "1")
    assert contained.rung_of(Policy()) is None


def test_other_systems_are_refused(monkeypatch):
    monkeypatch.setattr(linux.platform, "machine", lambda: "sparc")
    with pytest.raises(OSError, match="sparc: Linux is needed"):
        linux.machine()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter_jumps_stay_inside(machine):
    lines = syscalls.program(machine, namespaces=False, own_signals=1)
    for at, (code, then, otherwise, _) in enumerate(lines):
        if code in (syscalls.IF_EQUAL, syscalls.IF_AT_LEAST, syscalls.IF_ANY_BIT):
            assert at + 1 + max(then, otherwise) < len(lines)


def test_view_opens_around_what_is_hidden(tmp_path):
    for name in ("a/kept.py", "a/hidden.py", "a/__pycache__/hidden.pyc", "b/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b/link.py").symlink_to(tmp_path / "a/hidden.py")
    seen = view([tmp_path], [tmp_path / "a/hidden.py"])
    assert seen.listable == (tmp_path, tmp_path / "a")
    assert seen.readable == (tmp_path / "a/kept.py", tmp_path / "b")


def test_a_module_of_the_kernels_can_be_hidden():
    path = module_path("posttrain_kernels.nf4")
    assert (
        path.name == "nf4.py"
        and path in Policy(hidden_modules=("posttrain_kernels.nf4",)).hidden
    )


def test_policy_names_what_it_does_not_know():
    with pytest.raises(ValueError, match="posttrain.nothing"):
        module_path("posttrain.nothing")
    with pytest.raises(ValueError, match="limit memory is 0"):
        Limits(memory=0)
    with pytest.raises(ValueError, match="rung 'chains'"):
        Policy(rung="chains")


def test_environment_passes_nothing_else_on():
    inside = environment(Path("/tmp"), {"TOKEN": "x", "TZ": "UTC"})
    assert "TOKEN" not in inside and inside["TZ"] == "UTC"


if __name__ == "__main__":
    print(json.dumps(run_setting(sys.argv[1], sys.argv[2:])))
