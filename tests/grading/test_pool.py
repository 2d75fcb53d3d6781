"""Jobs get done, each once, whatever becomes of the processes that do them."""

import os
import signal
import time

import pytest

from grading import contained, pool
from grading.containment.lock import NotContained
from grading.pool import Lost, Pool, PoolBroken


@pytest.fixture(autouse=True)
def no_warm_process(monkeypatch):
    """None is needed for jobs that start no kernel."""
    monkeypatch.setattr(contained, "ensure_warm", lambda: None)
    monkeypatch.setattr(pool, "POLL", 0.05)


def do(job):
    """`job` is (what to do, an argument, anything that tells it from others)."""
    what, argument = job[:2]
    if what == "sleep":
        time.sleep(argument)
    if what == "meet":
        folder, number = argument
        open(os.path.join(folder, str(os.getpid())), "w").close()
        while len(os.listdir(folder)) < number:
            time.sleep(0.01)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "die once" and not os.path.exists(argument):
        open(argument, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "refuse":
        raise NotContained("no lock")
    if what == "fail":
        raise ValueError("bad job")
    return os.getpid() if what == "who" else argument


def results(jobs, size=2, **options):
    with Pool(lambda: do, size, **options) as members:
        return dict(members.run(jobs))


def test_every_job_gets_its_result():
    jobs = [("echo", n) for n in range(20)]
    assert results(jobs, 3) == {job: job[1] for job in jobs}


def test_jobs_run_side_by_side(tmp_path):
    """Four jobs, each of which waits for the three others."""
    jobs = [("meet", (str(tmp_path), 4), n) for n in range(4)]
    found = results(jobs, 4, patience=30.0)
    assert not any(isinstance(result, Lost) for result in found.values())


def test_jobs_are_taken_only_when_somebody_is_free():
    taken = []

    def jobs():
        for number in range(10):
            taken.append(number)
            yield ("echo", number)

    with Pool(lambda: do, 2) as members:
        next(members.run(jobs()))
        assert len(taken) <= 4


def test_a_process_that_dies_costs_its_job_one_more_try(tmp_path):
    jobs = [("echo", 1), ("die once", str(tmp_path / "seen")), ("echo", 2)]
    assert results(jobs) == {job: job[1] for job in jobs}


def test_a_job_that_nobody_survives_is_given_up_and_the_others_go_on():
    jobs = [("die", 0), *(("echo", n) for n in range(5))]
    found = results(jobs, 1)
    assert found.pop(("die", 0)) == Lost("the process that graded it ended 2 times")
    assert found == {("echo", n): n for n in range(5)}


def test_a_job_without_end_is_given_up():
    found = results([("sleep", 60), ("echo", 1)], 2, patience=2.0)
    assert isinstance(found["sleep", 60], Lost)
    assert found["echo", 1] == 1


def test_an_error_in_a_job_is_its_result_and_ends_nobody():
    found = results([("fail", 0), ("who", 1), ("who", 2)], 1)
    assert found["fail", 0] == Lost("not graded: ValueError: bad job")
    assert found["who", 1] == found["who", 2]


def test_where_no_lock_holds_nothing_goes_on():
    with pytest.raises(NotContained, match="no lock"):
        results([("refuse", 0), ("echo", 1)])


def test_workers_that_cannot_start_are_told():
    def broken():
        raise OSError("no space left")

    with Pool(broken, 2) as members, pytest.raises(PoolBroken, match="no space left"):
        list(members.run([("echo", 1)]))


def test_closing_ends_everybody():
    members = Pool(lambda: do, 2)
    jobs = members.run([("echo", 1), ("sleep", 60)])
    next(jobs)
    processes = [m.process for m in members._members]
    members.close()
    assert not any(process.is_alive() for process in processes)


def test_nobody_outlives_the_parent(tmp_path):
    parent = os.fork()
    if parent == 0:
        members = Pool(lambda: do, 1)
        job = members.run([("who", 0), ("sleep", 60)])
        (tmp_path / "pid").write_text(str(next(job)[1]))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not _running(pid):
            return
        time.sleep(0.05)
    raise AssertionError("the worker lives on")


def _running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
