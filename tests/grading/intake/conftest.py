"""Each test of intake must end soon; a student's folder to hand in to."""

import json
import signal

import pytest


@pytest.fixture(autouse=True)
def in_time():
    """Each test must end within 20 s; one that hangs is woken up."""

    def late(*_):
        raise TimeoutError("not done within 20 s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ann").mkdir()
    return tmp_path


@pytest.fixture
def text(solved):
    return json.dumps(solved)
