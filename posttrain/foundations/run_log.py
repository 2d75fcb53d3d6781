"""What a run writes down: one JSON object a line, and TensorBoard beside it.

    log = RunLog(folder, tensorboard=True)
    log.write(step, {"loss": 2.31, "lr": 0.01})
    read_log(folder)                    # [{"step": 10, "loss": 2.31, ...}, ...]

Each line goes to the disk at once, so a crash loses nothing that was written. A run
that is resumed at step 200 forgets its lines after step 200: they will be written
again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

NAME = "log.jsonl"


class RunLog:
    """Appends to folder/log.jsonl; `after` is the step that a resumed run starts at."""

    def __init__(self, folder: Path, after: int = 0, tensorboard: bool = False):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME
        kept = [line for line in read_log(folder) if line["step"] <= after]
        anew = self.path.with_name(NAME + ".partial")
        anew.write_text("".join(json.dumps(line) + "\n" for line in kept))
        anew.replace(self.path)  # a crash leaves the old log or the new one
        self.writer = _writer(folder, after) if tensorboard else None

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line: the step and named numbers."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        """A sample for TensorBoard."""
        if self.writer:
            self.writer.add_text(name, f"```\n{text}\n```", step)

    def close(self) -> None:
        """Write what TensorBoard still holds."""
        if self.writer:
            self.writer.close()


def read_log(folder: Path) -> list[dict]:
    """The lines of folder/log.jsonl; a last line that was cut off is left out."""
    path = folder / NAME
    if not path.is_file():
        return []
    lines = path.read_text().splitlines()
    whole = []
    for i, line in enumerate(lines):
        try:
            whole.append(json.loads(line))
        except ValueError:
            if i < len(lines) - 1:
                raise ValueError(
                    f"{path}, line {i + 1} is not JSON: {line!r}"
                ) from None
    return whole


def quiet_profiler() -> None:
    """PyTorch's profiler prints notes of its own on stderr unless told not to."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def _writer(folder: Path, after: int):
    """TensorBoard's writer; events after the resumed step are marked as superseded."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "--tensorboard needs the package tensorboard: pip install tensorboard"
        ) from error
    return SummaryWriter(folder / "tensorboard", purge_step=after + 1)
