"""What is known of one submission once it has been dealt with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

GRADED, REJECTED, FAILED = "graded", "rejected", "failed"


@dataclass(frozen=True)
class Mark:
    """What the graded cell of that id earned; `score` None where a person has to say.

    Where points were lost, `mistake`, `hint` and `raised` say why, as far as the judge
    knows (see `posttrain.checks.judge.Wrong`).
    """

    cell: str
    score: float | None
    max_score: float
    mistake: str = ""
    hint: str = ""
    raised: str = ""

    @property
    def task(self) -> str:
        return self.cell.removeprefix("test_")


@dataclass(frozen=True)
class Record:
    """What became of one submission.

    status: GRADED; REJECTED for one that cannot be graded, which earns 0; FAILED where
        grading itself broke down, which says nothing about the submission.
    key: digest of all that the marks follow from. The same key, the same marks.
    unanswered: grade ids of the answers that are as they were released.
    """

    student: str
    exercise: str
    status: str
    key: str = ""
    note: str = ""
    marks: tuple[Mark, ...] = ()
    unanswered: tuple[str, ...] = ()
    max_score: float = 0.0
    seconds: float = 0.0

    @property
    def name(self) -> tuple[str, str]:
        return self.student, self.exercise

    @property
    def score(self) -> float:
        return sum(mark.score or 0.0 for mark in self.marks)

    @property
    def tasks(self) -> str:
        """Each task and its marks, as in "causal_mask 2/2; KVCache 0/5"."""
        return "; ".join(
            f"{m.task} {'?' if m.score is None else f'{m.score:g}'}/{m.max_score:g}"
            for m in self.marks
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Record:
        """Raises TypeError or KeyError where `fields` are not those of a record."""
        marks = tuple(Mark(**mark) for mark in fields["marks"])
        unanswered = tuple(fields["unanswered"])
        return cls(**{**fields, "marks": marks, "unanswered": unanswered})
