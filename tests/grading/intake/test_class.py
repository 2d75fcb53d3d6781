"""A whole class: one bad submission harms no other."""

import os
import shutil
import tempfile
import time
import traceback
from pathlib import Path

import pytest

from tests.grading.intake.handed_in import NAME, SLUG, collect, every, link, packed, put

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
    assert cpu / 20 < 0.3  # 15 ms on a quiet machine, eight times that on a busy one


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
