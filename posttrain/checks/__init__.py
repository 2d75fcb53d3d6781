"""Checks of the graded exercises: `check = grader("attention")` in a notebook.

One module per exercise holds its tasks (`posttrain/checks/<slug>.py`); this package
holds what they share:

- `task`     what a graded task is: cases, drive, reference, tolerance, mistakes;
- `plain`    the plain data that may cross between an answer and its judge;
- `compare`  where two pieces of plain data differ;
- `attempt`  tries an answer on a case, beside the answer;
- `judge`    runs an answer on the cases and says what is wrong, so that it teaches.
"""

from posttrain.checks.judge import grader
from posttrain.checks.task import Mistake, Task

__all__ = ["Mistake", "Task", "grader"]
