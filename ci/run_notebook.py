"""Run one notebook, in this process and one kernel, and keep what it showed.

    python -m ci.run_notebook book/foundations/attention.ipynb out.ipynb --preset ci

`out.ipynb` is written as the cells run, so after a failure it holds all up to the cell
that failed. The kernel is this interpreter, whatever kernels are installed; it starts
in an empty folder, so that a notebook can lean on the installed package alone.
"""

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

import ipykernel.kernelspec
import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.log import logger
from traitlets import default

from ci.processes import QUIET

AUTOSAVE_SECONDS = 5
# Kernels as processes of our own, whatever the caller's environment asks for: only then
# do their CPU seconds count as ours.
OWN_PROCESS = {"JUPYTER_DEFAULT_PROVISIONER_NAME": "local-provisioner"}
RUN_METADATA = ("papermill", "execution")
INJECTED = "injected-parameters"


class ThisInterpreter(KernelSpecManager):
    """Knows one kernel under any name: the Python that runs this program."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(
            resource_dir=ipykernel.kernelspec.RESOURCES,
            **ipykernel.kernelspec.get_kernel_dict(),
        )


class KernelManager(AsyncKernelManager):
    """Starts kernels of `ThisInterpreter`."""

    @default("kernel_spec_manager")
    def _this_interpreter(self) -> KernelSpecManager:
        return ThisInterpreter(parent=self)


def run(source: Path, target: Path, preset: str) -> None:
    """Execute the notebook `source` into `target`.

    `preset` replaces the value in the cell tagged `parameters`, where there is one.
    Raises PapermillExecutionError when a cell raises, DeadKernelError when its kernel
    ends, ValueError when `source` cannot be read as a notebook.
    """
    source, target = source.resolve(), target.resolve()
    parameters = {"preset": preset} if has_parameters(read(source)) else {}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        empty, ipython = Path(scratch, "empty"), Path(scratch, "ipython")
        empty.mkdir()
        # A profile of its own: no start-up files of the user's, no shared history.
        os.environ |= QUIET | OWN_PROCESS | {"IPYTHONDIR": str(ipython)}
        papermill.execute_notebook(
            source,
            target,
            parameters,
            kernel_name="python3",
            language="python",
            kernel_manager_class=KernelManager,
            cwd=empty,
            progress_bar=False,
            autosave_cell_every=AUTOSAVE_SECONDS,
            record_timing=False,
            coalesce_streams=True,  # what was printed comes in pieces, cut anywhere
        )
    nbformat.write(without_run_metadata(nbformat.read(target, as_version=4)), target)


def read(path: Path) -> nbformat.NotebookNode:
    """The notebook at `path`. Raises ValueError when it is not one."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises many kinds for many faults
        raise ValueError(f"{path} is not a notebook: {error}") from error


def has_parameters(notebook: nbformat.NotebookNode) -> bool:
    """True if a cell is tagged `parameters`."""
    return any("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells)


def without_run_metadata(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop paths, times and the random id of papermill's own cell, so that equal runs
    give equal files."""
    for holder in (notebook, *notebook.cells):
        for name in RUN_METADATA:
            holder.metadata.pop(name, None)
    for cell in notebook.cells:
        if INJECTED in cell.metadata.get("tags", []):
            cell["id"] = INJECTED
    return notebook


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--preset", default="ci")
    arguments = parser.parse_args()
    logger.setLevel(logging.ERROR)
    try:
        run(arguments.source, arguments.target, arguments.preset)
    except (PapermillExecutionError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except DeadKernelError:
        what = "the kernel died: it was killed (out of memory?) or ended itself"
        print(what, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
