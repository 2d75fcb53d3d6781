"""Course layout for stock nbgrader, run from the repository's root."""

from pathlib import Path

c = get_config()  # noqa: F821  (nbgrader provides it)
c.CourseDirectory.course_id = "posttrain"
c.CourseDirectory.root = str(Path(__file__).resolve().parent)
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
# The files beside a solution (known wrong and right answers) never reach students.
c.CourseDirectory.ignore = [
    ".ipynb_checkpoints",
    "*.pyc",
    "__pycache__",
    ".pytest_cache",
    "variants.py",
]
