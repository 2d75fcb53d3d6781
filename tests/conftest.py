"""Shared by all tests: one thread, no downloads, CPU seconds by topic."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POSTTRAIN_OFFLINE", "1")

import pytest

try:
    from ci import syllabus, times
except ModuleNotFoundError:  # a GPU machine with no more than the library needs
    syllabus = times = None

ROOT = Path(__file__).resolve().parents[1]
SECONDS: dict[str, float] = defaultdict(float)


@pytest.fixture
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if times is None:
        return report
    report.cpu_seconds = times.process_seconds() - item.cpu_before
    item.cpu_before += report.cpu_seconds
    return report


@pytest.hookimpl(tryfirst=True)  # before a mark skips the test
def pytest_runtest_setup(item):
    item.cpu_before = times.process_seconds() if times else 0.0


def pytest_runtest_logreport(report):
    SECONDS[Path(report.nodeid.split("::")[0]).stem] += getattr(
        report, "cpu_seconds", 0.0
    )


def pytest_sessionfinish(session, exitstatus):
    """A topic's tests are those in tests/<part>/test_<slug>*.py."""
    if times is None or hasattr(session.config, "workerinput") or exitstatus:
        return
    slugs, seconds = list(syllabus.load().topics), defaultdict(float)
    for name, cpu in SECONDS.items():
        seconds[_topic(name, slugs)] += cpu
    for slug in seconds.keys() & set(slugs):
        times.record("tests", slug, seconds[slug], seconds[slug])


def _topic(name: str, slugs: list[str]) -> str:
    """The topic of a test file: the longest slug that its name begins with, or ""."""
    stem = f"{name.removeprefix('test_')}_"
    return max((s for s in slugs if stem.startswith(f"{s}_")), key=len, default="")
