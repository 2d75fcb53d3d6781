"""How fast do batches come? Sources of windows, a thread that reads ahead, and memory.

    mapped = Windows(Shards.open(folder), B, T)
    speed(mapped, seconds=1.0)                 # samples and tokens a second
    for batch in prefetch(mapped, steps=100):  # read while the model computes
        ...

Not covered: several processes (`torch.utils.data.DataLoader` with workers), which help
where the work is Python's and the copy between processes costs less than it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from posttrain.foundations.batches import Batch
from posttrain.foundations.tokenization import END, Tokenizer

Batches = Callable[[int], Batch]  # of a step


@dataclass(frozen=True)
class RetokenisedWindows:
    """Windows as `Windows` gives them, but tokenised anew each time: the slow way.

    texts: documents. Each row draws documents until it has T + 1 tokens.
    """

    texts: Sequence[str]
    tokenizer: Tokenizer
    B: int
    T: int
    seed: int = 0

    def __call__(self, step: int) -> Batch:
        """The batch of a step: inputs and targets (B, T)."""
        random = np.random.default_rng((self.seed, step))
        rows = torch.tensor([self._row(random) for _ in range(self.B)])  # (B, T + 1)
        return rows[:, :-1], rows[:, 1:]

    def _row(self, random: np.random.Generator) -> list[int]:
        ids: list[int] = []
        while len(ids) < self.T + 1:
            ids += self.tokenizer.encode(self.texts[random.integers(len(self.texts))])
            ids.append(self.tokenizer.special_id(END))
        start = random.integers(len(ids) - self.T)
        return ids[start : start + self.T + 1]


def prefetch(batches: Batches, steps: int, depth: int = 2) -> Iterator[Batch]:
    """The batches of steps 0 ... steps - 1, made by a thread up to `depth` ahead.

    The order is that of the steps, so nothing but time changes. An error in the thread
    is raised here. A caller that stops early stops the thread as well.
    """
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: object) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.05)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for step in range(steps):
                if stopped.is_set():
                    return
                put(batches(step))
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        for _ in range(steps):
            if isinstance(item := ready.get(), BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def speed(batches: Batches, seconds: float = 1.0) -> dict[str, float]:
    """Samples and tokens a second, on at least `seconds` of wall time, one warm-up."""
    batches(0)
    start, steps = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds or not steps:
        inputs, _ = batches(steps + 1)
        steps += 1
    B, T = inputs.shape
    return {"samples": steps * B / passed, "tokens": steps * B * T / passed}


def busy(batches: Batches, steps: int, pause: float, ahead: bool) -> float:
    """Seconds for `steps` batches with a pause of `pause` seconds after each.

    The pause stands for an accelerator that computes while Python only waits.
    ahead: read by `prefetch`.
    """
    source = prefetch(batches, steps) if ahead else map(batches, range(steps))
    start = time.perf_counter()
    for _ in source:
        time.sleep(pause)
    return time.perf_counter() - start


# ---------------------------------------------------------------------------- memory


def resident() -> dict[str, float]:
    """Megabytes of this process in memory: "own", and "file" (pages of mapped files).

    The system may take pages of files back at any time; they are on disk. Read from
    /proc, so Linux only: elsewhere both are NaN.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {"own": float("nan"), "file": float("nan")}
    fields = dict(line.split(":", 1) for line in lines)
    kilobytes = {name: int(fields[name].split()[0]) for name in ("RssAnon", "RssFile")}
    return {"own": kilobytes["RssAnon"] / 1024, "file": kilobytes["RssFile"] / 1024}


def memory_of(
    path: Path, mapped: bool, windows: int = 200, T: int = 256, seed: int = 0
) -> dict[str, float]:
    """What opening a file of uint16 and reading some windows costs.

    Returns megabytes, "own" and "file", and "open": seconds until the array is there.
    """
    random = np.random.default_rng(seed)
    before, start = resident(), time.perf_counter()
    tokens = np.memmap(path, "<u2", "r") if mapped else np.fromfile(path, "<u2")
    opened = time.perf_counter() - start
    for place in random.integers(len(tokens) - T, size=windows):
        np.array(tokens[place : place + T])
    after = resident()
    return {name: after[name] - before[name] for name in before} | {"open": opened}
