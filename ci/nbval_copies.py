"""Do the stored outputs still come out? nbval on copies of the ready chapters.

    python -m ci.nbval_copies

A chapter stores the outputs of cells tagged `nbval-check-output`, as they are with
preset "ci". nbval takes no parameters, so it runs copies under build/nbval that have
the preset written in, one process a chapter. Guides store no output: what they show
follows from measured files.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import papermill

from ci import syllabus, times
from ci.processes import QUIET, Command, Ended, run_all, tail
from ci.progress import Progress
from ci.run_notebook import has_parameters, read

ROOT = Path(__file__).resolve().parent.parent
TAG = "nbval-check-output"
LIMIT_S = 600.0


def run(
    chapters: Sequence[Path],
    preset: str = "ci",
    workers: int | None = None,
    root: Path = ROOT,
) -> int:
    """Check the stored outputs of `chapters` (paths relative to the repository).

    Prints what nbval says of each that fails; returns 0 if none does, else 1. The
    times are recorded under the stage "nbval".
    """
    failures: list[str] = []
    commands = []
    for chapter in chapters:
        try:
            copy = prepare(chapter, preset, root)
            commands.append(_command(copy, chapter, root))
        except (OSError, ValueError) as error:
            failures.append(str(error))
    with Progress(len(commands), " notebooks") as progress:

        def on_end(ended: Ended) -> None:
            progress.end_one(f"{ended.command.name} ({ended.wall_seconds:.0f} s)")
            if ended.exit_code == 0:
                slug = Path(ended.command.name).stem
                seconds = ended.cpu_seconds, ended.wall_seconds
                times.record("nbval", slug, *seconds, root)
            else:
                late = f": killed after {LIMIT_S:.0f} s" if ended.late else ""
                said = tail(ended.command.log, 200)
                failures.append(f"nbval {ended.command.name} failed{late}\n{said}")

        run_all(commands, on_end, workers=workers, limit_s=LIMIT_S, progress=progress)
    for failure in failures:
        print(f"\n{'=' * 79}\n{failure}")
    print(f"nbval: {len(chapters) - len(failures)} of {len(chapters)} chapters pass")
    return 1 if failures else 0


def prepare(chapter: Path, preset: str = "ci", root: Path = ROOT) -> Path:
    """The copy of a chapter, with `preset` written in: build/nbval/<part>/<slug>.ipynb.

    Raises ValueError where it stores no output that nbval could check.
    """
    notebook = read(root / chapter)
    if found := problems(notebook):
        raise ValueError(f"{chapter}: " + "; ".join(found))
    copy = root / "build" / "nbval" / chapter.relative_to(chapter.parts[0])
    copy.parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        root / chapter,
        copy,
        {"preset": preset} if has_parameters(notebook) else {},
        kernel_name="python3",
        language="python",
        prepare_only=True,
        progress_bar=False,
    )
    return copy


def problems(notebook: nbformat.NotebookNode) -> list[str]:
    """Why nbval would check less of `notebook` than its tags say; empty if nothing."""
    tagged = [cell for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
    if not tagged:
        return [f"no cell is tagged {TAG}: store the output of one at least"]
    found = []
    for cell in tagged:
        if cell.cell_type != "code":
            found.append(f"cell {cell.id} is tagged {TAG} but is no code")
        elif not cell.outputs or cell.execution_count is None:
            lack = "output" if not cell.outputs else "execution_count"
            found.append(
                f"cell {cell.id} is tagged {TAG} but stores no {lack}: nbval would "
                "compare nothing; run it and store what it shows"
            )
    return found


def _command(copy: Path, chapter: Path, root: Path) -> Command:
    """pytest with nbval on one copy, without the settings of this repository."""
    argv = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env"]
    argv += ["-q", "--color=no", "-p", "no:cacheprovider", "-p", "no:xdist"]
    argv += ["-p", "ci"]  # before nbval: a second of imports less
    argv += ["--rootdir", str(copy.parent), "--confcutdir", str(copy.parent)]
    argv += ["--override-ini", "addopts=", str(copy)]
    scratch = copy.with_suffix("")
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = QUIET | {"IPYTHONDIR": str(scratch / "ipython"), "PYTHONPATH": path}
    return Command(chapter.as_posix(), argv, scratch / "log.txt", root, env)


def main() -> int:
    topics = syllabus.load().topics.values()
    return run([topic.chapter for topic in topics if topic.ready])


if __name__ == "__main__":
    sys.exit(main())
