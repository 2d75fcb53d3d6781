"""`posttrain.data`: the order of places, every bad input, and no stray network."""

import hashlib
import http.server
import socket
import threading
import time
from dataclasses import replace

import pytest

from posttrain import cache, data
from posttrain.data_fallback import python_topics

NAME = "tinyshakespeare"
TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n" * 9
BYTES = TEXT.encode()


class Hub:
    """A public hub on this machine: answers with `body` and counts the requests."""

    def __init__(self):
        self.body, self.seconds, self.claimed, self.requests = BYTES, 0.0, None, 0
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                hub.requests += 1
                time.sleep(hub.seconds)
                self.send_response(200)
                length = len(hub.body) if hub.claimed is None else hub.claimed
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(hub.body)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # a client that stopped waiting is what some tests want, not a traceback
        self.server.handle_error = lambda *args: None
        self.url = f"http://127.0.0.1:{self.server.server_port}/input.txt"
        threading.Thread(
            target=self.server.serve_forever, args=(0.01,), daemon=True
        ).start()


@pytest.fixture
def hub():
    """A running Hub."""
    hub = Hub()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch, hub):
    """An empty folder and cache, a hub on this machine, and TEXT as the real file."""
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("POSTTRAIN_DATA", str(tmp_path / "folder"))
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("POSTTRAIN_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    source = replace(
        data.SOURCES[NAME],
        url=hub.url,
        sha256=hashlib.sha256(BYTES).hexdigest(),
        bytes=len(BYTES),
    )
    monkeypatch.setitem(data.SOURCES, NAME, source)
    data._ask_hub.cache_clear()
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    """Make every new socket and name lookup an error, and count the attempts."""
    attempts = []

    def refuse(*args, **kwargs):
        attempts.append(args)
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


def put(folder, content=BYTES):
    """Lay a file where `load` looks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tinyshakespeare.txt").write_bytes(content)


def test_the_pin_is_that_of_the_published_file(monkeypatch):
    monkeypatch.undo()
    source = data.SOURCES[NAME]
    assert source.bytes == 1_115_394
    assert source.sha256.startswith("86c4e6aa9db7c042") and len(source.sha256) == 64
    assert source.url.endswith("/char-rnn/master/data/tinyshakespeare/input.txt")


def test_folder_comes_first_and_touches_no_network(places, no_network, capsys):
    put(places / "folder")
    put(places / "cache" / "data", b"not looked at")
    corpus = data.load(NAME)
    assert corpus == data.Corpus(
        NAME, TEXT, "folder", hashlib.sha256(BYTES).hexdigest()
    )
    assert not no_network and capsys.readouterr().out == ""


def test_cache_comes_second_and_touches_no_network(places, no_network, capsys):
    put(places / "cache" / "data")
    corpus = data.load(NAME)
    assert (corpus.source, corpus.text) == ("cache", TEXT)
    assert not no_network and capsys.readouterr().out == ""


def test_a_file_in_a_folder_of_its_own_is_kept_in_the_cache(places, monkeypatch):
    source = replace(data.SOURCES[NAME], file="of/its/own.txt")
    monkeypatch.setitem(data.SOURCES, NAME, source)
    assert data.load(NAME).source == "hub"
    assert (places / "cache" / "data" / "of" / "its" / "own.txt").read_bytes() == BYTES
    assert data.load(NAME).source == "cache"


def test_hub_comes_third_and_fills_the_cache(places, hub, capsys):
    assert data.load(NAME).source == "hub"
    assert [p.name for p in (places / "cache" / "data").iterdir()] == [
        "tinyshakespeare.txt"
    ]
    assert data.load(NAME).source == "cache"
    assert hub.requests == 1 and capsys.readouterr().out == ""


@pytest.mark.parametrize("value", ["1", "true"])
def test_offline_touches_no_network(places, monkeypatch, no_network, capsys, value):
    monkeypatch.setenv("POSTTRAIN_OFFLINE", value)
    corpus = data.load(NAME)
    assert corpus.source == "fallback" and not no_network
    out = capsys.readouterr().out
    assert "using Python's documentation topics instead" in out
    assert "POSTTRAIN_OFFLINE is set and there is no local copy" in out
    assert "as tinyshakespeare.txt in a folder" in out
    assert "set POSTTRAIN_DATA to that folder, or unset POSTTRAIN_OFFLINE." in out
    assert not (places / "cache" / "data").exists()


@pytest.mark.parametrize("value", ["", "0"])
def test_offline_can_be_switched_off_in_words(monkeypatch, value):
    monkeypatch.setenv("POSTTRAIN_OFFLINE", value)
    assert data.load(NAME).source == "hub"


def test_fallback_is_real_text_with_its_own_checksum(monkeypatch):
    monkeypatch.setenv("POSTTRAIN_OFFLINE", "1")
    corpus = data.load(NAME)
    assert corpus.text == python_topics() and len(corpus.text) > 300_000
    assert corpus.text.startswith('The "assert" statement')
    assert corpus.sha256 == hashlib.sha256(corpus.text.encode()).hexdigest()


def test_no_network_gives_the_fallback_and_the_reason(no_network, capsys):
    assert data.load(NAME).source == "fallback"
    out = capsys.readouterr().out
    assert "could not be read" in out and "the network was touched" in out
    assert "unset POSTTRAIN_OFFLINE" not in out


@pytest.mark.parametrize(
    "body, message",
    [
        (BYTES.replace(b"Citizen", b"Denizen"), "its sha256 is"),
        (BYTES[:100], "it has 100 bytes, expected 549"),
        (BYTES + b"more", "it has 550 bytes, expected 549"),
    ],
)
def test_damaged_download_is_told_and_not_cached(places, hub, capsys, body, message):
    hub.body = body
    assert data.load(NAME).source == "fallback"
    out = capsys.readouterr().out
    assert f"the download is damaged: {message}" in out
    assert not (places / "cache" / "data").exists()


def test_download_cut_off_in_the_middle(places, hub, capsys):
    hub.body, hub.claimed = BYTES[:100], len(BYTES)
    assert data.load(NAME).source == "fallback"
    assert "is damaged" in (out := capsys.readouterr().out) or "IncompleteRead" in out
    assert not (places / "cache" / "data").exists()


def test_hub_is_asked_once_a_process(hub, capsys):
    hub.body = b"garbage"
    assert [data.load(NAME).source for _ in range(3)] == ["fallback"] * 3
    assert hub.requests == 1
    assert capsys.readouterr().out.count("is damaged: it has 7 bytes") == 3


def test_silent_hub_costs_the_limit_and_no_more(hub, monkeypatch, capsys):
    monkeypatch.setattr(data, "HUB_SECONDS", 0.2)
    hub.seconds = 4.0
    start = time.perf_counter()
    assert data.load(NAME).source == "fallback"
    assert time.perf_counter() - start < 3.5
    out = capsys.readouterr().out
    assert "did not answer within 0.2 s" in out or "timed out" in out


def test_slow_name_lookup_counts_too(monkeypatch, capsys):
    monkeypatch.setattr(data, "HUB_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: time.sleep(4.0))
    start = time.perf_counter()
    assert data.load(NAME).source == "fallback"
    assert time.perf_counter() - start < 3.5
    assert "did not answer within 0.2 s" in capsys.readouterr().out


def test_damaged_cache_is_set_aside_and_fetched_again(places, hub, capsys):
    put(places / "cache" / "data", BYTES[:-1])
    assert data.load(NAME).source == "hub"
    out = capsys.readouterr().out
    assert "the cached file is damaged (it has 548 bytes, expected 549)" in out
    assert str(places / "cache" / "data" / "tinyshakespeare.txt.damaged") in out
    assert (places / "cache" / "data" / "tinyshakespeare.txt").read_bytes() == BYTES
    aside = places / "cache" / "data" / "tinyshakespeare.txt.damaged"
    assert aside.read_bytes() == BYTES[:-1]


def test_damaged_cache_that_cannot_be_moved(places, capsys):
    put(places / "cache" / "data", b"bad")
    aside = places / "cache" / "data" / "tinyshakespeare.txt.damaged"
    (aside / "occupied").mkdir(parents=True)
    assert data.load(NAME).source == "hub"
    assert "damaged (it has 3 bytes, expected 549); not moved" in (
        capsys.readouterr().out
    )
    assert data.load(NAME).source == "cache"


def test_cache_that_cannot_be_written_loses_nothing(places, capsys):
    (places / "cache").write_text("a file where the folder should be")
    assert data.load(NAME).source == "hub"
    assert "downloaded, but not kept in" in capsys.readouterr().out


def test_failed_write_leaves_no_half_file(places, monkeypatch, capsys):
    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError("No space left on device")

    monkeypatch.setattr(data.Path, "write_bytes", full)
    assert data.load(NAME).text == TEXT
    assert "No space left on device" in capsys.readouterr().out
    assert list((places / "cache" / "data").iterdir()) == []


@pytest.mark.parametrize("content", [BYTES[:-1], BYTES.swapcase(), b""])
def test_wrong_file_in_the_folder_is_an_error(places, no_network, content):
    put(places / "folder", content)
    with pytest.raises(ValueError) as error:
        data.load(NAME)
    message = str(error.value)
    assert str(places / "folder" / "tinyshakespeare.txt") in message
    assert f"expected sha256 {hashlib.sha256(BYTES).hexdigest()}" in message
    assert f"found {hashlib.sha256(content).hexdigest()}" in message
    assert "Replace it by http" in message and "or remove it" in message


def test_folder_that_does_not_exist_is_an_error(places, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_DATA", str(places / "no-such"))
    with pytest.raises(ValueError, match=r"no-such is not a folder.*absolute path"):
        data.load(NAME)


def test_unset_folder_and_default_cache(places, monkeypatch, no_network):
    monkeypatch.delenv("POSTTRAIN_DATA")
    monkeypatch.delenv("POSTTRAIN_CACHE")
    monkeypatch.setenv("HOME", str(places))
    assert cache.folder("data") == places / ".cache" / "posttrain" / "data"
    cache.folder("data").mkdir(parents=True)
    put(cache.folder("data"))
    assert data.load(NAME).source == "cache"


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ValueError,
        match=r"'tinyshakespear'.*known.*: gpt2_merges, gsm8k_.*, tinyshakespeare$",
    ):
        data.load("tinyshakespear")
