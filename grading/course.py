"""One nbgrader course in a folder of its own, driven in process.

nbgrader's command line takes 2.5 s to start for each call; its Python interface is
asked here instead. The gradebook lives in the folder and is built anew each time.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from grading import contained
from grading.judge import Judge

SEED_VARIABLE = "POSTTRAIN_GRADING_SEED"


class GradingFailed(RuntimeError):
    """nbgrader did not grade a submission; the text is its own log."""


@dataclass(frozen=True)
class Mark:
    """What one graded cell earned."""

    task: str
    score: float
    max_score: float


class Course:
    """Releases, grades and writes feedback for exercises of the project at `root`.

    `folder` is emptied first; everything nbgrader writes goes there.
    """

    def __init__(self, root: Path, folder: Path):
        from nbgrader.apps import NbGraderAPI  # 1.5 s, only when grading
        from sqlalchemy.exc import SAWarning

        warnings.filterwarnings("ignore", category=SAWarning, module="nbgrader")
        from grading.judged import JudgedExecute

        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.root, self.folder = root, folder
        self.judge = JudgedExecute.judge = Judge()
        JudgedExecute.answers = _answers(root / "syllabus.yml")
        self.api = NbGraderAPI(config=_configuration(root, folder))
        self._released: set[str] = set()
        with _changed(PATH=_own_programs_first()), self.api.gradebook:
            pass  # creates the database, for which nbgrader calls alembic by name

    @property
    def exercises(self) -> list[str]:
        """The slugs that can be graded."""
        return sorted(p.parent.name for p in self.root.glob("solutions/*/*.ipynb"))

    def release(self, slug: str) -> nbformat.NotebookNode:
        """The student version of an exercise, known to the gradebook."""
        if slug not in self._released:
            done = self.api.generate_assignment(slug, force=True, create=True)
            _demand(done, f"releasing {slug}")
            self._released.add(slug)
        path = self.folder / "release" / slug / f"{slug}.ipynb"
        return nbformat.read(path, as_version=4)

    def grade(self, slug: str, student: str, nb: nbformat.NotebookNode) -> list[Mark]:
        """Runs a rebuilt submission through `nbgrader autograde`; its marks."""
        target = self.folder / "submitted" / student / slug / f"{slug}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, target)
        done = self.api.autograde(slug, student, force=True, create=True)
        _demand(done, f"grading {student}/{slug}")
        return self._marks(slug, student)

    def feedback(self, slug: str, student: str) -> Path:
        """Writes the feedback page of a graded submission; where it is."""
        done = self.api.generate_feedback(slug, student, force=True)
        _demand(done, f"feedback for {student}/{slug}")
        return self.folder / "feedback" / student / slug / f"{slug}.html"

    def close(self) -> None:
        """Ends the judge."""
        self.judge.close()

    def _marks(self, slug: str, student: str) -> list[Mark]:
        with self.api.gradebook as gradebook:
            submission = gradebook.find_submission_notebook(slug, slug, student)
            grades = {grade.name: grade for grade in submission.grades}
            order = [cell.name for cell in submission.notebook.grade_cells]
            return [
                Mark(
                    name.removeprefix("test_"),
                    grades[name].score or 0.0,
                    grades[name].max_score,
                )
                for name in sorted(order, key=_position(self.release(slug)))
            ]


@contextmanager
def environment(seed: int | None = None) -> Iterator[int]:
    """How submissions are run: contained kernels, one thread, no downloads, one seed.

    Yields the seed of the hidden cases: `seed`, else the one in the environment, else
    a fresh one. All submissions of a run meet the same cases.
    """
    if seed is None:
        seed = int(os.environ.get(SEED_VARIABLE) or secrets.randbits(31))
    wanted = {
        "JUPYTER_DEFAULT_PROVISIONER_NAME": contained.NAME,
        "OMP_NUM_THREADS": "1",
        "POSTTRAIN_OFFLINE": "1",
        SEED_VARIABLE: str(seed),
    }
    with _changed(**wanted):
        try:
            yield seed
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


def _answers(syllabus: Path) -> dict[str, list[str]]:
    """For each exercise, the modules of the library that are its answers."""
    topics = yaml.safe_load(syllabus.read_text(encoding="utf-8"))["topics"]
    return {topic["slug"]: topic.get("answers", []) for topic in topics}


def _own_programs_first() -> str:
    here = str(Path(sys.executable).parent)
    return os.pathsep.join([here, os.environ.get("PATH", os.defpath)])


def _configuration(root: Path, folder: Path) -> Config:
    loader = PyFileConfigLoader("nbgrader_config.py", path=str(root))
    config = loader.load_config()
    config.CourseDirectory.root = str(root)
    config.CourseDirectory.db_url = f"sqlite:///{folder / 'gradebook.db'}"
    for step in ("release", "submitted", "autograded", "feedback"):
        config.CourseDirectory[f"{step}_directory"] = str(folder / step)
    config.Autograde.autograde_preprocessors = _judged_instead_of_executed()
    config.GenerateFeedback.preprocessors = _inert_first()
    config.HTMLExporter.sanitize_html = True
    config.NbGrader.logfile = ""
    return config


def _judged_instead_of_executed() -> list[type]:
    """nbgrader's own steps of autograding, with ours for the one that runs cells."""
    from nbgrader.converters import Autograde
    from nbgrader.preprocessors import Execute

    from grading.judged import JudgedExecute

    steps = Autograde.class_traits()["autograde_preprocessors"].default()
    return [JudgedExecute if step is Execute else step for step in steps]


def _inert_first() -> list[type]:
    """nbgrader's own steps of feedback, after the one that makes a notebook inert."""
    from nbgrader.converters import GenerateFeedback

    from grading.feedback import Inert

    return [Inert, *GenerateFeedback.class_traits()["preprocessors"].default()]


def _demand(done: dict, what: str) -> None:
    if not done["success"]:
        log = (done.get("log") or done.get("error") or "no reason given").splitlines()
        told = [line.strip() for line in log if not line.startswith("[INFO]")]
        tail = "\n".join(line for line in told if line)
        raise GradingFailed(f"{what} failed: {tail[-1500:]}")


def _position(release: nbformat.NotebookNode):
    order = [c.metadata.get("nbgrader", {}).get("grade_id") for c in release.cells]
    return order.index
