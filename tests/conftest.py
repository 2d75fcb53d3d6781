"""Shared by all tests: one thread, no downloads, CPU seconds by topic."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POSTTRAIN_OFFLINE", "1")

import pytest

from ci import syllabus, times

ROOT = Path(__file__).resolve().parents[1]
SECONDS: dict[str, float] = defaultdict(float)


@pytest.fixture
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    report.cpu_seconds = times.process_seconds() - item.cpu_before
    item.cpu_before += report.cpu_seconds
    return report


def pytest_runtest_setup(item):
    item.cpu_before = times.process_seconds()


def pytest_runtest_logreport(report):
    SECONDS[Path(report.nodeid.split("::")[0]).stem] += getattr(
        report, "cpu_seconds", 0.0
    )


def pytest_sessionfinish(session, exitstatus):
    """A topic's tests are those in tests/<part>/test_<slug>*.py."""
    if hasattr(session.config, "workerinput") or exitstatus:
        return
    for slug in syllabus.load().topics:
        files = [name for name in SECONDS if _belongs(name, slug)]
        if files:
            cpu = sum(SECONDS[name] for name in files)
            times.record("tests", slug, cpu, cpu)


def _belongs(name: str, slug: str) -> bool:
    return name in (f"test_{slug}", f"test_{slug}_experiment")
