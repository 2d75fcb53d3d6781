"""What runs now, and how long: one live line on a terminal, plain lines in a log."""

import sys
import time
from typing import TextIO

from tqdm import tqdm

NAMED = 4  # how many of the running ones are named
LIVE_SECONDS = 0.5  # between two updates on a terminal
PLAIN_SECONDS = 30  # between two lines in a log, while nothing ends


class Progress:
    """Counts what is done and names what runs, the slowest first.

    Use it as a context manager; `say` prints a line without breaking the bar.
    """

    def __init__(self, total: int, unit: str, stream: TextIO | None = None) -> None:
        self.total, self.unit, self.done = total, unit, 0
        self.stream = stream or sys.stderr
        self.bar = None
        if self.stream.isatty():
            self.bar = tqdm(
                total=total,
                unit=unit,
                file=self.stream,
                dynamic_ncols=True,
                leave=False,
            )
        self.last = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def end_one(self, line: str) -> None:
        """One more is done; `line` says which and how."""
        self.done += 1
        self.say(f"[{self.done:>{len(str(self.total))}}/{self.total}] {line}")
        if self.bar is not None:
            self.bar.update()

    def show(self, running: dict[str, float]) -> None:
        """Show the names and elapsed seconds of what runs, if it is time to."""
        now = time.monotonic()
        if now - self.last < (PLAIN_SECONDS if self.bar is None else LIVE_SECONDS):
            return
        self.last = now
        text = describe(running)
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        elif running:
            self.say(f"{self.done}/{self.total} done; running: {text}")

    def say(self, line: str) -> None:
        """Print a line of its own."""
        if self.bar is not None:
            self.bar.write(line, file=self.stream)
        else:
            print(line, file=self.stream, flush=True)
        self.last = time.monotonic()


def describe(running: dict[str, float]) -> str:
    """ "attention 41 s, kv-cache 3 s": the slowest first, the rest counted."""
    slowest = sorted(running.items(), key=lambda item: -item[1])
    named = [f"{name} {seconds:.0f} s" for name, seconds in slowest[:NAMED]]
    if len(slowest) > NAMED:
        named.append(f"{len(slowest) - NAMED} more")
    return ", ".join(named)
