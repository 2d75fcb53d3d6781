"""A course in a temporary folder, and submissions for it."""

import json
from pathlib import Path

import nbformat
import pytest

from grading.course import Course, environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")  # a later file must not find the environment changed
def course(tmp_path_factory):
    with environment(seed=7):
        course = Course(ROOT, tmp_path_factory.mktemp("course"))
        course.exercise("attention")
        yield course
        course.close()


@pytest.fixture
def solved(root):
    """The solved notebook of `attention`, as a submission."""
    path = root / "solutions/attention/attention.ipynb"
    return json.loads(path.read_text())


@pytest.fixture
def empty(root):
    """The student version of `attention`, as released."""
    path = root / "exercises/attention/attention.ipynb"
    return nbformat.read(path, as_version=4)
