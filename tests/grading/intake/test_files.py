"""Links, pipes, sockets and what else is no plain file."""

import os
import shutil
import socket
import stat

import pytest

from grading import intake
from tests.grading.intake.handed_in import (
    NAME,
    ROOT_ONLY,
    SLUG,
    collect,
    link,
    only,
    put,
    rejected,
)


def hard_link(path):
    os.link(put(path.parent.parent / "secret", "{}"), path)


def unix_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket may have 108 characters
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def device(path):
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero


@pytest.mark.parametrize("name", [NAME, f"{SLUG}.zip"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (link, "is a symbolic link"),
        (hard_link, "is a hard link"),
        (os.mkfifo, "is a fifo"),
        (unix_socket, "is a socket"),
        (os.mkdir, "is a folder"),
        pytest.param(device, "is a device", marks=ROOT_ONLY),
    ],
)
def test_what_is_no_plain_file_is_rejected(folder, name, make, words):
    make(folder / "ann" / name)
    assert words in rejected(folder)
    (folder / "ann" / SLUG).mkdir()
    shutil.move(folder / "ann" / name, folder / "ann" / SLUG / name)
    assert words in rejected(folder)


@pytest.mark.parametrize("make", [os.mkfifo, link, unix_socket])
def test_where_a_folder_is_expected(folder, make):
    make(folder / "ann" / SLUG)
    assert "where a folder is expected" in rejected(folder)
    (folder / "ann" / SLUG).unlink()
    put(folder / "ann" / SLUG, "text")
    assert "is a file where a folder is expected" in rejected(folder)


def test_linked_folders_are_not_followed(folder, text, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    put(outside / SLUG / NAME, text)
    (folder / "ann" / SLUG).symlink_to(outside / SLUG)
    (folder / "bob").symlink_to(outside)
    os.mkfifo(folder / "carl")
    put(folder / "dora.ipynb", text)
    ann, bob, carl, dora = collect(folder, [SLUG])
    assert "'attention' is a symbolic link where a folder" in ann.reason
    assert (bob.student, bob.exercise) == ("bob", intake.WHOLE)
    assert "a symbolic link, where students' folders" in bob.reason
    assert "a fifo, where students' folders" in carl.reason
    assert "a file, where students' folders" in dora.reason
    assert not any(s.notebook for s in (ann, bob, carl, dora))


def test_a_file_that_is_exchanged_between_look_and_open(folder, text, monkeypatch):
    path, secret = put(folder / "ann" / NAME, text), put(folder / "secret", text)
    real = os.open

    def exchange(make):
        def opened(name, *args, **kwargs):
            if name == NAME:
                path.rename(folder / "gone")
                make()
            return real(name, *args, **kwargs)

        monkeypatch.setattr(os, "open", opened)
        (found, *_) = collect(folder, [SLUG])
        assert found.notebook is None
        return found.reason

    assert "cannot be opened" in exchange(lambda: path.symlink_to(secret))
    monkeypatch.undo()
    path.unlink(), put(path, text)
    assert "is a fifo" in exchange(lambda: os.mkfifo(path))
    monkeypatch.undo()
    path.unlink(), put(path, text)
    assert "was replaced" in exchange(lambda: shutil.copy(secret, path))


@pytest.mark.parametrize("name", ["ann", SLUG])
def test_a_folder_that_is_exchanged_for_a_link(folder, text, monkeypatch, name):
    put(folder / "ann" / SLUG / NAME, text)
    path = folder / "ann" if name == "ann" else folder / "ann" / SLUG
    real = os.open

    def opened(which, *args, **kwargs):
        if which == name and not path.is_symlink():
            path.rename(folder / ".gone")
            path.symlink_to(folder / ".gone")
        return real(which, *args, **kwargs)

    monkeypatch.setattr(os, "open", opened)
    assert "cannot be opened" in collect(folder, [SLUG])[-1].reason


@pytest.mark.parametrize("make", [link, os.mkfifo, unix_socket])
def test_what_is_no_plain_file_is_not_even_opened(folder, make, monkeypatch):
    make(folder / "ann" / NAME)
    real, opened = os.open, []

    def recorded(name, *args, **kwargs):
        opened.append(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(os, "open", recorded)
    assert collect(folder, [SLUG])[0].reason
    assert "ann" in opened and NAME not in opened


def test_sizes(folder, text):
    path = put(folder / "ann" / NAME, "")
    assert "is empty" in rejected(folder)
    os.truncate(path, 60_000_000)  # takes no room on the disk
    assert "has 60.0 MB, 10 MB are allowed" in rejected(folder)
    path.unlink()
    path = put(folder / "ann" / f"{SLUG}.zip", "")
    assert "is empty" in rejected(folder)
    os.truncate(path, 60_000_000)
    assert "has 60.0 MB, 50 MB are allowed" in rejected(folder)
    path.unlink()
    put(folder / "ann" / NAME, text + " " * (10_000_000 - len(text)))
    assert only(folder).notebook


def test_a_file_that_grows_after_the_look(folder, text, monkeypatch):
    path = put(folder / "ann" / NAME, text)
    real = intake.unprivileged.call

    def later(*args, **kwargs):
        os.truncate(path, 60_000_000)
        return real(*args, **kwargs)

    monkeypatch.setattr(intake.unprivileged, "call", later)
    assert "10 MB are allowed" in rejected(folder)


def test_a_folder_with_too_many_files(folder, text):
    put(folder / "ann" / SLUG / NAME, text)
    for number in range(intake.MAX_ENTRIES):
        put(folder / "ann" / SLUG / f"{number}.txt", "x")
    assert "more than 1000 files" in rejected(folder)


def test_nothing_in_the_folder_of_an_exercise(folder):
    (folder / "ann" / SLUG).mkdir()
    assert "was not handed in (found: nothing)" in rejected(folder)
    put(folder / "ann" / SLUG / "Attention (1).ipynb", "{}")
    assert "(found: 'Attention (1).ipynb')" in rejected(folder)
    assert "hand in attention/attention.ipynb" in rejected(folder)
