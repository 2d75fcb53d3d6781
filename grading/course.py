"""The exercises of the project, released by nbgrader, and its gradebook.

nbgrader's command line takes 2.5 s to start for each call; its Python interface is
asked here instead.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import yaml
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from grading import contained, exercise, gradebook, runner
from grading.judge import Judge
from grading.runner import SEED_VARIABLE, GradingFailed


class Course:
    """Releases and runs exercises of the project at `root`.

    nbgrader's gradebook lives in `folder`; one that is there is gone on with.
    """

    def __init__(self, root: Path, folder: Path):
        from nbgrader.apps import NbGraderAPI  # 1.5 s, only when grading
        from sqlalchemy.exc import SAWarning

        warnings.filterwarnings("ignore", category=SAWarning, module="nbgrader")
        folder.mkdir(parents=True, exist_ok=True)
        self.root, self.folder = root, folder
        self.judge = Judge()
        self.api = NbGraderAPI(config=_configuration(root, folder))
        self._absent = _answers(root / "syllabus.yml")
        self._released: dict[str, exercise.Exercise] = {}
        gradebook.create(self.api.coursedir.db_url)

    @property
    def exercises(self) -> list[str]:
        """The slugs that can be graded."""
        return exercises_of(self.root)

    def exercise(self, slug: str) -> exercise.Exercise:
        """An exercise, released and known to the gradebook.

        Raises GradingFailed where nbgrader does not release it.
        """
        if slug not in self._released:
            done = self.api.generate_assignment(slug, force=True, create=True)
            _demand(done, f"releasing {slug}")
            folder = Path(self.api.coursedir.release_directory)
            path = folder / slug / f"{slug}.ipynb"
            release = nbformat.read(path, as_version=4)
            absent = self._absent.get(slug, [])
            tests = self._tests(slug)
            self._released[slug] = exercise.make(slug, release, tests, absent)
        return self._released[slug]

    def run(self, slug: str, notebook: nbformat.NotebookNode) -> runner.Run:
        """Runs a rebuilt submission in this process and marks it; keeps nothing."""
        return runner.run(self.exercise(slug), notebook, self.judge)

    def close(self) -> None:
        """Ends the judge."""
        self.judge.close()

    def _tests(self, slug: str) -> dict[str, str]:
        """The test cells with their hidden tests, which the gradebook keeps."""
        with self.api.gradebook as gradebook:
            notebook = gradebook.find_notebook(slug, slug)
            answers = {cell.name for cell in notebook.solution_cells}
            graded = {cell.name for cell in notebook.grade_cells} - answers
            cells = {cell.name: cell.source for cell in notebook.source_cells}
            return {name: cells[name] for name in sorted(graded)}


def exercises_of(root: Path) -> list[str]:
    """The slugs of the exercises of the project at `root`."""
    return sorted(p.parent.name for p in root.glob("solutions/*/*.ipynb"))


@contextmanager
def environment(seed: int) -> Iterator[None]:
    """How submissions are run: contained kernels, one thread, no downloads.

    `seed` is that of the hidden cases: all submissions of a class meet the same ones.
    """
    wanted = {
        "JUPYTER_DEFAULT_PROVISIONER_NAME": contained.NAME,
        "NBGRADER_EXECUTION": "autograde",
        "OMP_NUM_THREADS": "1",
        "POSTTRAIN_OFFLINE": "1",
        SEED_VARIABLE: str(seed),
    }
    with _changed(**wanted):
        try:
            yield
        finally:
            contained.stop()


@contextmanager
def _changed(**wanted: str) -> Iterator[None]:
    """Environment variables that hold for a while."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _demand(done: dict, what: str) -> None:
    """Raises GradingFailed with nbgrader's own log where it did not succeed."""
    if not done["success"]:
        log = (done.get("log") or done.get("error") or "no reason given").splitlines()
        told = [line.strip() for line in log if not line.startswith("[INFO]")]
        tail = "\n".join(line for line in told if line)
        raise GradingFailed(f"{what} failed: {tail[-1500:]}")


def _answers(syllabus: Path) -> dict[str, list[str]]:
    """For each exercise, the modules of the library that are its answers."""
    topics = yaml.safe_load(syllabus.read_text(encoding="utf-8"))["topics"]
    return {topic["slug"]: topic.get("answers", []) for topic in topics}


def _configuration(root: Path, folder: Path) -> Config:
    loader = PyFileConfigLoader("nbgrader_config.py", path=str(root))
    config = loader.load_config()
    config.CourseDirectory.root = str(root)
    config.CourseDirectory.db_url = f"sqlite:///{folder / 'gradebook.db'}"
    config.CourseDirectory.release_directory = str(folder / ".grading" / "release")
    config.NbGrader.logfile = ""
    return config
