"""A checkpoint is whole or not there; each fault has a message and harms no other."""

import json
import multiprocessing
import resource
import signal

import pytest
import torch

from posttrain.foundations import checkpoint as cp
from posttrain.foundations.checkpoint import CheckpointError

CONFIG = {"recipe": {"depth": 4, "lr": 0.01, "betas": [0.9, 0.95]}, "text": "abc"}


def state(step, size=1000):
    return {"step": step, "weights": torch.arange(size) + step, "name": "x"}


def test_what_is_saved_is_loaded(tmp_path):
    cp.save(tmp_path / "new" / "run", 5, state(5), CONFIG)
    loaded = cp.load(tmp_path / "new" / "run", CONFIG)
    assert loaded["step"] == 5 and loaded["name"] == "x"
    assert torch.equal(loaded["weights"], state(5)["weights"])


def test_the_two_newest_are_kept_and_others_are_left_alone(tmp_path):
    (tmp_path / "log.jsonl").write_text("mine")
    (tmp_path / "step_notes.json").write_text("mine")
    for step in (1, 20, 300):
        cp.save(tmp_path, step, state(step), CONFIG)
    assert cp.steps(tmp_path) == [20, 300]
    assert cp.load(tmp_path)["step"] == 300
    assert cp.load(tmp_path, CONFIG, step=20)["step"] == 20
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "log.jsonl",
        "step_00000020.json",
        "step_00000020.pt",
        "step_00000300.json",
        "step_00000300.pt",
        "step_notes.json",
    ]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [
        flip,
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_text("{}"),
    ],
    ids=["one bit", "cut off", "empty", "gone", "json", "no checksum"],
)
def test_damage_is_seen_and_the_other_checkpoint_named(tmp_path, harm):
    cp.save(tmp_path, 1, state(1), CONFIG)
    harm(cp.save(tmp_path, 2, state(2), CONFIG))
    with pytest.raises(CheckpointError, match=r"step_00000002.pt is damaged.*step 1"):
        cp.load(tmp_path, CONFIG)
    assert cp.load(tmp_path, CONFIG, step=1)["step"] == 1


def test_the_only_one_damaged(tmp_path):
    flip(cp.save(tmp_path, 2, state(2), CONFIG))
    with pytest.raises(CheckpointError, match="start anew"):
        cp.load(tmp_path)


def test_a_config_that_differs_is_named_field_by_field(tmp_path):
    cp.save(tmp_path, 1, state(1), CONFIG)
    cp.load(tmp_path, CONFIG | {"recipe": CONFIG["recipe"] | {"betas": (0.9, 0.95)}})
    other = {"recipe": {"depth": 6, "lr": 0.01, "seed": 1}, "text": "abc"}
    with pytest.raises(CheckpointError) as caught:
        cp.load(tmp_path, other)
    said = str(caught.value)
    assert "recipe.depth: 4 in the checkpoint, now 6" in said
    assert "recipe.seed: nothing in the checkpoint, now 1" in said
    assert "recipe.betas: [0.9, 0.95] in the checkpoint, now nothing" in said
    assert "lr" not in said and "text" not in said


def test_nothing_to_load(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint$"):
        cp.load(tmp_path)
    cp.save(tmp_path, 7, state(7), CONFIG)
    with pytest.raises(CheckpointError, match="no checkpoint of step 9; there are 7"):
        cp.load(tmp_path, step=9)


class Payload:
    def __reduce__(self):
        return print, ("this ran",)


def test_no_code_of_the_file_runs(tmp_path, capsys):
    path = cp.save(tmp_path, 1, state(1), CONFIG)
    torch.save({"step": 1, "evil": Payload()}, path)
    about = json.loads(path.with_suffix(".json").read_text())
    about["sha256"] = cp._sha256(path)
    path.with_suffix(".json").write_text(json.dumps(about))
    with pytest.raises(Exception, match="[Ww]eights"):
        cp.load(tmp_path)
    assert "this ran" not in capsys.readouterr().out


def save_on_a_small_disk(folder, said):
    """In a process of its own: the system refuses bytes beyond 1 MB of a file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
    try:
        cp.save(folder, 2, {"w": torch.zeros(10**6)}, {})
    except CheckpointError as error:
        said.send(str(error))


def test_a_full_disk_leaves_the_last_one_whole(tmp_path):
    cp.save(tmp_path, 1, state(1), {})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    fork = multiprocessing.get_context("fork")
    heard, said = fork.Pipe(duplex=False)
    child = fork.Process(target=save_on_a_small_disk, args=(tmp_path, said))
    child.start()
    said.close()  # if the child says nothing, to receive is an EOFError
    message = heard.recv()
    child.join()
    assert "the checkpoint of step 2 could not be written" in message
    assert "The one of step 1 is whole" in message
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after == before and cp.load(tmp_path)["step"] == 1


def test_a_crash_while_writing_leaves_the_last_one(tmp_path, monkeypatch):
    cp.save(tmp_path, 1, state(1), CONFIG)

    def die(*_):
        raise KeyboardInterrupt

    for moment in ("os.fsync", "pathlib.Path.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(moment, die)
            with pytest.raises(KeyboardInterrupt):
                cp.save(tmp_path, 2, state(2), CONFIG)
        assert cp.load(tmp_path)["step"] == 1
        assert not list(tmp_path.glob("*.partial"))
    # between the state and the file that makes it count
    cp._write(tmp_path / "step_00000002.pt", lambda file: file.write(b"half"))
    assert cp.load(tmp_path)["step"] == 1
    cp.save(tmp_path, 2, state(2), CONFIG)
    assert cp.load(tmp_path)["step"] == 2
