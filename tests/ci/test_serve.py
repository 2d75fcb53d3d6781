"""The local server: this machine only, and errors that name the way out."""

import socket
import threading
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from ci import serve


@pytest.fixture
def book(tmp_path):
    """A folder that looks like a built book."""
    (tmp_path / "index.html").write_text("<h1>the book</h1>")
    return tmp_path


def test_serves_the_book_on_the_loopback_address_only(book):
    with serve.open_server(book, 0) as server:
        host, port = server.server_address
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            assert b"the book" in answer.read()
            assert answer.headers["Cache-Control"] == "no-cache"
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"http://127.0.0.1:{port}/none.html", timeout=5)
        server.shutdown()
    assert host == "127.0.0.1"


def test_port_in_use_is_named_with_the_next_one(book, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert serve.main(["--port", str(port)], book) == 1
    message = capsys.readouterr().err
    assert f"Port {port} is in use" in message
    assert f"make serve PORT={port + 1}" in message


def test_no_book_names_the_command_that_builds_it(tmp_path, capsys):
    assert serve.main(["--port", "0"], tmp_path) == 1
    assert "make book" in capsys.readouterr().err


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_does_not_exist_is_refused(book, port):
    with pytest.raises(serve.ServeError, match=f"Port {port} does not exist"):
        serve.open_server(book, port)


def test_words_for_a_port_are_refused(book):
    with pytest.raises(SystemExit):
        serve.main(["--port", "web"], book)
