"""Archives: packed notebooks, bombs, lies and climbers."""

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import time
import zipfile

import pytest

from grading import archives
from tests.grading.intake.handed_in import (
    NAME,
    PACKED,
    SLUG,
    info,
    only,
    packed,
    put,
    rejected,
    tar_of,
)


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
