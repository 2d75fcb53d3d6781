"""Ways to hand something in, right and wrong."""

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from grading import intake

SLUG = "attention"
NAME = f"{SLUG}.ipynb"
PACKED = [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"]
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")


def every(folder: Path, exercises):
    """The submissions below a folder, one after another."""
    for entry in intake.find(folder, exercises):
        yield intake.read(folder, entry, exercises)


def collect(folder: Path, exercises):
    return list(every(folder, exercises))


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def packed(members: dict[str, str | bytes], suffix: str) -> bytes:
    data = io.BytesIO()
    if suffix == ".zip":
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return data.getvalue()
    mode = suffix.removeprefix(".tar").replace(".tgz", ".gz").removeprefix(".")
    with tarfile.open(fileobj=data, mode=f"w:{mode}") as archive:
        for name, content in members.items():
            content = content.encode() if isinstance(content, str) else content
            archive.addfile(info(name, size=len(content)), io.BytesIO(content))
    return data.getvalue()


def info(name: str, **fields) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(member, key, value)
    return member


def tar_of(*members: tarfile.TarInfo) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for member in members:
            archive.addfile(member)
    return data.getvalue()


def only(folder: Path) -> intake.Submission:
    (submission,) = collect(folder, [SLUG])
    assert (submission.notebook is None) == bool(submission.reason)
    return submission


def rejected(folder: Path) -> str:
    submission = only(folder)
    assert submission.notebook is None
    assert submission.reason.isprintable() and len(submission.reason) < 600
    return submission.reason


def link(path):
    path.symlink_to("/etc/passwd")


def notebook(**fields) -> str:
    return json.dumps({"cells": [], "nbformat": 4, "nbformat_minor": 5, **fields})
