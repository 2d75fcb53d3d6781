"""What is handed in comes through whole, or is a record with the reason."""

import bz2
import copy
import gzip
import io
import json
import lzma
import os
import shutil
import signal
import socket
import stat
import struct
import tarfile
import tempfile
import time
import traceback
import zipfile
from pathlib import Path

import pytest

from grading import archives, intake, notebooks

SLUG = "attention"
NAME = f"{SLUG}.ipynb"
PACKED = [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"]
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")
pytestmark = pytest.mark.usefixtures("in_time")


@pytest.fixture
def in_time():
    """Each test must end within 20 s; one that hangs is woken up."""

    def late(*_):
        raise TimeoutError("not done within 20 s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ann").mkdir()
    return tmp_path


@pytest.fixture
def text(solved):
    return json.dumps(solved)


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


# Honest ones


@pytest.mark.parametrize("place", [NAME, f"{SLUG}/{NAME}"])
def test_a_plain_notebook_comes_through(folder, solved, text, place):
    put(folder / "ann" / place, text)
    assert only(folder) == intake.Submission("ann", SLUG, solved, "", "")


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("place", [SLUG, f"{SLUG}/my work"])
@pytest.mark.parametrize("inside", ["", "./", "week 1/", "Übung/"])
def test_a_packed_notebook_comes_through(folder, solved, text, suffix, place, inside):
    members = {
        f"{inside}readme.txt": "hello",
        f"__MACOSX/._{NAME}": "resource",
        f".ipynb_checkpoints/{NAME}": "{}",
        f"{inside}.ipynb_checkpoints/{NAME}": "{}",
        f"{inside}{NAME}": text,
    }
    put(folder / "ann" / f"{place}{suffix}", packed(members, suffix))
    submission = only(folder)
    assert (submission.notebook, submission.reason) == (solved, "")
    assert f"{inside}{NAME}" in submission.note


def test_names_as_windows_and_old_zips_write_them(folder, solved, text):
    data = packed({"week_" + NAME: text}, ".zip").replace(b"week_", b"w\x82ek\\")
    put(folder / "ann" / "attention.ZIP", data)
    assert only(folder).notebook == solved
    assert f"wéek\\{NAME}" in only(folder).note.replace("\\\\", "\\")


def test_outputs_are_left_out_and_a_byte_order_mark_is_fine(folder, solved):
    ran = copy.deepcopy(solved)
    for cell in ran["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [{"output_type": "stream", "text": ["Zoë"] * 300_000}]
            break
    put(folder / "ann" / NAME, b"\xef\xbb\xbf" + json.dumps(ran).encode())
    assert only(folder).notebook == solved


def test_any_text_survives(folder, solved):
    solved["cells"][0]["source"] = ["Zoë \U0001f600\n", "\0 \x1b[0m"]
    put(folder / "ann" / NAME, json.dumps(solved, ensure_ascii=False))
    assert only(folder).notebook == solved


def test_the_plain_notebook_goes_before_archives(folder, solved, text):
    other = json.dumps({**solved, "cells": []})
    put(folder / "ann" / SLUG / "a.zip", packed({NAME: other}, ".zip"))
    put(folder / "ann" / f"{SLUG}.tar", packed({NAME: other}, ".tar"))
    assert only(folder).notebook["cells"] == []
    assert "'attention/a.zip' was taken; not read: 'attention.tar'" in only(folder).note
    put(folder / "ann" / SLUG / "attention.tgz", packed({NAME: text}, ".tgz"))
    assert only(folder).notebook == solved
    put(folder / "ann" / NAME, other)
    assert only(folder).notebook["cells"] == []
    put(folder / "ann" / SLUG / NAME, text)
    submission = only(folder)
    assert submission.notebook == solved
    assert submission.note == (
        "'attention/attention.ipynb' was taken; not read: 'attention.ipynb', "
        "'attention/attention.tgz', 'attention/a.zip' and 1 more"
    )


def test_the_top_of_an_archive_goes_before_its_folders(folder, solved, text):
    members = {f"old/{NAME}": "{}", NAME: text}
    put(folder / "ann" / f"{SLUG}.zip", packed(members, ".zip"))
    assert only(folder).notebook == solved


def test_order_other_files_and_empty_folders(folder, text):
    for student in ("bob", "Zoë", "ann", "x@y.org", "_1"):
        put(folder / student / NAME, text)
        put(folder / student / "second.ipynb", text)
        put(folder / student / "helper.py", "x")
        put(folder / student / ".DS_Store", "x")
        (folder / student / "__pycache__").mkdir()
    (folder / "empty").mkdir()
    put(folder / "grades.csv", "x")
    put(folder / ".DS_Store", "x")
    found = collect(folder, ["second", SLUG])
    assert all(s.notebook for s in found)
    names = ["Zoë", "_1", "ann", "bob", "x@y.org"]
    expected = [(name, slug) for name in sorted(names) for slug in (SLUG, "second")]
    assert [(s.student, s.exercise) for s in found] == expected


def test_a_folder_that_is_not_there(tmp_path):
    assert collect(tmp_path / "submitted", [SLUG]) == []


# Files that are none


def link(path):
    path.symlink_to("/etc/passwd")


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


# Content


def notebook(**fields) -> str:
    return json.dumps({"cells": [], "nbformat": 4, "nbformat_minor": 5, **fields})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("  \n", "is empty"),
        ("{not json", "is not JSON"),
        (notebook()[:-5], "is not JSON"),
        ("[]", "no list of cells"),
        ("3", "no list of cells"),
        ("null", "no list of cells"),
        (notebook(cells={}), "no list of cells"),
        (notebook(nbformat=3), "has nbformat '3', expected 4"),
        (notebook(nbformat=4.0), "has nbformat '4.0'"),
        (notebook(nbformat=True), "has nbformat 'True'"),
        (notebook(nbformat=None), "has nbformat 'None'"),
        (notebook(nbformat="x" * 10**6), "has nbformat 'xxx"),
        (b"\xff\xfe" + notebook().encode("utf-16-le"), "is not UTF-8"),
        (b"\x00" * 1000, "is not JSON"),
        ("[" * 100_000, "deep inside each other"),
        ("[" * 100_000 + "]" * 100_000, "deep inside each other"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "deep inside each other"),
        (notebook(metadata=json.loads("[" * 60 + "]" * 60)), "deep inside"),
        (notebook(metadata=float("nan")), "it holds NaN"),
        (notebook(metadata=float("-inf")), "it holds -Infinity"),
        (notebook(metadata="@").replace('"@"', "1e999"), "number too large"),
        (
            notebook(metadata="@").replace('"@"', "9" * 9_000_000),
            "9000000 digits, 1000 are",
        ),
        (notebook(metadata=["\ud800"]), "half of a character"),
        (notebook(metadata={"\udfff": 1}), "half of a character"),
        (notebook()[:-1] + ',"cells":[]}', "has 'cells' twice"),
        (notebook(cells=[{}] * 2_001), "has 2001 cells, 2000 are allowed"),
        (notebook(cells=[{"source": "x" * 200_001}]), "200001 characters in cell 1"),
        (notebook(cells=[3, {"source": ["x" * 150_000] * 2}]), "300000 characters"),
        (notebook(metadata=[[]] * 2_000_000), "more than 200000 values"),
    ],
)
def test_content_that_is_no_notebook_is_rejected(folder, content, words):
    put(folder / "ann" / NAME, content)
    assert words in rejected(folder)
    put(folder / "ann" / NAME, notebook())  # and the next one is read
    assert only(folder).notebook == json.loads(notebook())


def test_strange_cells_are_left_to_rebuild(folder):
    cells = [None, 3, [], {"source": 5}, {"source": [1]}, {"outputs": 7, "source": []}]
    put(folder / "ann" / NAME, notebook(cells=cells))
    assert only(folder).notebook["cells"] == [
        *cells[:-1],
        {"outputs": [], "source": []},
    ]


def test_a_parser_that_crashes_or_hangs_costs_one(folder, text, monkeypatch):
    for student in ("ann", "bob", "carl"):
        put(folder / student / NAME, text)
    put(folder / "bob" / NAME, b"crash")
    put(folder / "carl" / NAME, b"eat memory")
    real = notebooks.parse

    def fragile(data):
        if data == b"crash":
            os.abort()
        return bytes(2**30) if data == b"eat memory" else real(data)

    monkeypatch.setattr(notebooks, "parse", fragile)
    ann, bob, carl = collect(folder, [SLUG])
    assert ann.notebook
    assert "ended by SIGABRT" in bob.reason
    assert "more than 512 MB of memory" in carl.reason


# Archives


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "found: nothing"),
        ({"a/b/" + NAME: "{}", "x.py": ""}, f"found: 'a/b/{NAME}', 'x.py'"),
        ({f"{SLUG}.zip": "PK"}, "archives inside an archive are not opened"),
        ({f"../{NAME}": "{}"}, "leads out of the archive"),
        ({NAME: "{}", "a/../../../etc/cron.d/x": "{}"}, "leads out of the archive"),
        ({f"/tmp/{NAME}": "{}"}, "leads out of the archive"),
        ({f"C:\\{NAME}": "{}"}, "leads out of the archive"),
        ({f"..\\{NAME}": "{}"}, "leads out of the archive"),
        ({f"a/{NAME}": "{}", f"b/{NAME}": "{}"}, "more than once"),
        ({NAME: ""}, "is empty"),
        ({NAME: "[" * 100_000}, "deep inside"),
        ({NAME + "/": ""}, "a folder or a special file"),
    ],
)
def test_archives_without_the_one_notebook(folder, suffix, members, words):
    if NAME + "/" in members and suffix != ".zip":
        data = tar_of(info(NAME, type=tarfile.DIRTYPE))
    else:
        data = packed(members, suffix)
    put(folder / "ann" / f"{SLUG}{suffix}", data)
    assert words in rejected(folder)
    assert sorted(p.name for p in folder.rglob("*")) == ["ann", f"{SLUG}{suffix}"]


@pytest.mark.parametrize(
    "kind", [b"1", b"2", b"3", b"4", b"6", b"7", b"5"], ids="hscbfxd"
)
def test_links_and_special_files_in_a_tar(folder, text, kind):
    fields = {"type": kind, "linkname": "/etc/passwd"}
    put(folder / "ann" / f"{SLUG}.tar", tar_of(info(NAME, **fields)))
    assert "as a link, a folder or a special file" in rejected(folder)
    data = io.BytesIO()  # elsewhere they are stepped over
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(info("venv", **fields))
        archive.addfile(info(NAME, size=len(text)), io.BytesIO(text.encode()))
    put(folder / "ann" / f"{SLUG}.tar", data.getvalue())
    assert only(folder).notebook


def test_a_link_in_a_zip(folder):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        member = zipfile.ZipInfo(NAME)
        member.create_system = 3
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    put(folder / "ann" / f"{SLUG}.zip", data.getvalue())
    assert "as a link" in rejected(folder)


def test_an_encrypted_zip(folder, text):
    data = bytearray(packed({NAME: text}, ".zip"))
    data[6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    put(folder / "ann" / f"{SLUG}.zip", bytes(data))
    assert "is encrypted" in rejected(folder)


def zeros_in_zip(size: int, method: int) -> bytes:
    data = io.BytesIO()
    with (
        zipfile.ZipFile(data, "w", method, compresslevel=1) as archive,
        archive.open(NAME, "w") as member,
    ):
        for _ in range(size // 2**20):
            member.write(bytes(2**20))
    return data.getvalue()


def test_a_zip_bomb_of_1_gb(folder):
    put(folder / "ann" / f"{SLUG}.zip", zeros_in_zip(2**30, zipfile.ZIP_DEFLATED))
    assert "unpacks to more than 200 times" in rejected(folder)


@pytest.mark.parametrize("method", [8, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("claim", [1000, 2**26])
def test_a_zip_that_lies_about_its_size(folder, method, claim):
    data = bytearray(zeros_in_zip(2**26, method))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", claim)
    if claim > 1000:  # and about its packed size, so that the ratio looks honest
        data[at + 20 : at + 24] = struct.pack("<I", claim // 2)
    put(folder / "ann" / f"{SLUG}.zip", bytes(data))
    words = rejected(folder)
    assert "cannot be unpacked" in words or "of more than 10 MB" in words


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
@pytest.mark.parametrize("name", [NAME, "before.bin"])
def test_a_tar_bomb_of_1_gb(folder, text, suffix, pack, name):
    size = 2**30
    head, tail = info(name, size=size).tobuf(), info(NAME, size=len(text)).tobuf()
    data = pack(head) + pack(bytes(2**24)) * (size // 2**24)
    data += pack(tail + text.encode() + bytes(20_000))
    put(folder / "ann" / f"{SLUG}.tar{suffix}", data)
    words = rejected(folder)
    assert "unpacks to more than" in words or "of more than 10 MB" in words


def test_what_packs_too_well_before_the_notebook(folder, text):
    size = 2**20 * 100
    data = info("before.bin", size=size).tobuf() + bytes(size)
    data += info(NAME, size=len(text)).tobuf() + text.encode()
    put(folder / "ann" / f"{SLUG}.tgz", gzip.compress(data, 1))
    assert "unpacks to more than 200 times" in rejected(folder)


def test_a_folder_as_windows_packs_it(folder):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        member = zipfile.ZipInfo(NAME + "/")
        member.create_system, member.external_attr = 0, 0x10
        archive.writestr(member, "")
    put(folder / "ann" / f"{SLUG}.zip", data.getvalue())
    assert "a folder or a special file" in rejected(folder)


def test_a_notebook_above_the_limit_in_an_honest_archive(folder):
    noise = os.urandom(5_500_000).hex()  # 11 MB, does not pack well
    for suffix in (".zip", ".tar", ".tar.gz"):
        path = put(folder / "ann" / f"{SLUG}{suffix}", packed({NAME: noise}, suffix))
        assert "of more than 10 MB" in rejected(folder)
        path.unlink()


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_an_archive_of_too_many_files(folder, text, suffix):
    members = {f"{i}": "" for i in range(archives.MAX_MEMBERS)} | {NAME: text}
    put(folder / "ann" / f"{SLUG}{suffix}", packed(members, suffix))
    assert "holds more than 5000 files" in rejected(folder)


def test_a_zip_of_half_a_million_files(folder):
    one = packed({"x": ""}, ".zip")
    at, end = one.index(b"PK\x01\x02"), one.index(b"PK\x05\x06")
    directory = one[at:end] * 500_000
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(directory), at, 0)
    put(folder / "ann" / f"{SLUG}.zip", one[:at] + directory + tail)
    start = time.monotonic()
    assert "holds more than 5000" in rejected(folder)
    assert time.monotonic() - start < 2  # zipfile alone would need 5 s


@pytest.mark.parametrize("suffix", PACKED)
def test_archives_cut_short_or_garbled(folder, text, suffix):
    data = packed({"first.bin": os.urandom(5000), NAME: text}, suffix)
    path = folder / "ann" / f"{SLUG}{suffix}"
    for broken in (
        data[: len(data) // 2],
        b"garbage" * 100,
        b"PK\x03\x04" + os.urandom(2000),
        data[:100] + bytes(200) + data[300:5000],
        data[:20],
    ):
        put(path, broken)
        words = rejected(folder)
        assert "cannot be unpacked" in words or "holds no" in words


def test_a_pax_header_that_claims_a_gigabyte(folder):
    head = info("pax", type=tarfile.XHDTYPE, size=2**30).tobuf(tarfile.USTAR_FORMAT)
    put(folder / "ann" / f"{SLUG}.tar", head + b"1" * 1000)
    assert "cannot be unpacked" in rejected(folder)


def test_terminal_codes_in_a_member_are_escaped(folder):
    put(folder / "ann" / f"{SLUG}.zip", packed({"\x1b[2J\u202e" + NAME: ""}, ".zip"))
    assert "\\x1b[2J\\u202e" in rejected(folder)


# Names


@pytest.mark.parametrize(
    "name",
    [
        *("a b", "-rf", ".hidden", "...", "a\nb", "=1+1", "x" * 65, "a~b", "a;b"),
        *("$(id)", "a<b>", "ann.", b"\xff\xfe", b"a\x1b[2Jb", "\u202eann"),
        *("Zoe\u0308", "\uff41nn"),
    ],
)
def test_a_bad_name_of_a_student(folder, text, name):
    raw = os.fsdecode(name)
    put(folder / raw / NAME, text)
    submission = only(folder)
    assert submission.notebook is None
    assert submission.exercise == SLUG
    assert "student's folder is called" in submission.reason
    assert submission.reason.isprintable()
    assert len(submission.student) < 60 and "~" in submission.student
    assert submission.student.replace("~", "").replace("@", "").isprintable()
    assert submission.student != raw and "/" not in submission.student
    submission.student.encode()


def test_labels_tell_bad_names_apart(folder, text):
    for name in ("a b", "a;b", "a_b"):
        put(folder / name / NAME, text)
    assert len({s.student for s in collect(folder, [SLUG])}) == 3


def test_students_that_differ_in_capital_letters(folder, text):
    for name in ("bob", "Bob", "carl"):
        put(folder / name / NAME, text)
    big, small, carl = collect(folder, [SLUG])
    assert "same name as 'Bob'" in big.reason
    assert "same name as 'bob'" in small.reason
    assert carl.notebook


@pytest.mark.parametrize("name", ["attentoin", "Attention", "..a", "a b", "x" * 200])
def test_an_unknown_exercise(folder, text, name):
    put(folder / "ann" / name / NAME, text)
    found = collect(folder, [SLUG, "dpo"])
    if name.startswith("."):
        assert found == []
        return
    (submission,) = found
    assert "there is no exercise" in submission.reason
    assert "there are: attention, dpo" in submission.reason
    assert (submission.exercise == name) == (" " not in name and len(name) < 65)


@pytest.mark.parametrize("suffix", [".ipynb", ".zip", ".tar.gz"])
def test_an_unknown_exercise_as_a_file(folder, text, suffix):
    put(folder / "ann" / f"attentoin{suffix}", text)
    assert "there is no exercise 'attentoin'" in rejected(folder)


# The batch


HOSTILE = {
    "fifo": os.mkfifo,
    "link": link,
    "deep": lambda path: put(path, "[" * 100_000),
    "bomb": lambda path: put(path, "[" + "{}," * 3_300_000 + "{}]"),
    "folder": os.mkdir,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_one_bad_among_five_good(folder, solved, text, kind):
    good = ["bob", "carl", "dora", "eve", "fay"]
    for name in good:
        put(folder / name / SLUG / NAME, text)
    (folder / "ann" / SLUG).mkdir()
    HOSTILE[kind](folder / "ann" / SLUG / NAME)
    found = {s.student: s for s in collect(folder, [SLUG])}
    assert found.pop("ann").notebook is None
    assert {name: s.notebook for name, s in found.items()} == dict.fromkeys(
        good, solved
    )


def test_nothing_is_changed(folder, text):
    put(folder / "ann" / NAME, text)
    put(folder / "bob" / f"{SLUG}.zip", packed({NAME: text}, ".zip"))
    (folder / "carl").mkdir()
    link(folder / "carl" / NAME)

    def state():
        paths = sorted(folder.rglob("*"))
        return [(p, p.lstat().st_mtime_ns, p.lstat().st_mode) for p in paths]

    before = state()
    collect(folder, [SLUG])
    assert state() == before


def test_one_student_in_memory_at_a_time(folder, text):
    put(folder / "ann" / NAME, text)
    put(folder / "bob" / NAME, text)
    walk = every(folder, [SLUG])
    assert next(walk).student == "ann"
    shutil.rmtree(folder / "bob")
    assert next(walk).reason  # it was not read ahead


def test_a_submission_takes_some_milliseconds(folder, text):
    for number in range(20):
        put(folder / f"s{number}" / NAME, text)
    start = time.process_time()
    times = os.times()
    assert all(s.notebook for s in collect(folder, [SLUG]))
    later = os.times()
    children = later.children_user + later.children_system
    children -= times.children_user + times.children_system
    cpu = time.process_time() - start + children
    assert cpu / 20 < 0.1  # 15 ms on a quiet machine


def as_nobody(function) -> None:
    """Runs `function` in a child that is a plain user; its error is raised here."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            function()
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        error = file.read()
    os.waitpid(child, 0)
    assert not error, error


@pytest.fixture
def shared():
    """A folder that a plain user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="intake-"))
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_a_plain_user_grades_too(shared, solved, text):
    put(shared / "ann" / NAME, text)
    put(shared / "bob" / f"{SLUG}.tar.gz", packed({NAME: text}, ".tar.gz"))
    put(shared / "carl" / NAME, "[" * 100_000)

    def grade():
        ann, bob, carl = collect(shared, [SLUG])
        assert ann.notebook == bob.notebook == solved
        assert "deep inside" in carl.reason

    as_nobody(grade)


def test_what_may_not_be_read_is_rejected(shared, text):
    put(shared / "ann" / NAME, text).chmod(0)
    put(shared / "bob" / SLUG / NAME, text)
    (shared / "bob" / SLUG).chmod(0)
    put(shared / "carl" / NAME, text)
    (shared / "carl").chmod(0)
    put(shared / "dora" / NAME, text)

    def grade():
        *bad, dora = collect(shared, [SLUG])
        assert dora.notebook
        assert len(bad) == 3
        for submission in bad:
            assert submission.notebook is None
            assert "cannot be opened (Permission denied)" in submission.reason

    as_nobody(grade)
