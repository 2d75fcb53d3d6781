"""Serve the rendered book on this machine only.

python -m ci.serve --port 8000
"""

import argparse
import errno
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HTML = Path(__file__).resolve().parent.parent / "build/html"
HOST = "127.0.0.1"


class ServeError(Exception):
    """Why the book cannot be served, with the way to mend it."""


class Handler(SimpleHTTPRequestHandler):
    """Files as they are now: a page rebuilt a second ago is the page you see."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing for each request: the terminal shows the address to open."""


def open_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of `folder` on this machine's loopback address, not yet running.

    Raises:
        ServeError: if there is no book in `folder`, or the port cannot be had.
    """
    if not (folder / "index.html").is_file():
        raise ServeError(f"No book in {folder}: build it first with `make book`.")
    if not 0 <= port <= 65535:
        raise ServeError(f"Port {port} does not exist: choose one from 1024 to 65535.")
    handler = partial(Handler, directory=str(folder))
    try:
        return ThreadingHTTPServer((HOST, port), handler)
    except PermissionError:
        raise ServeError(
            f"Port {port} needs special rights: `make serve PORT=8000`."
        ) from None
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        free = port + 1 if port < 65535 else 8000
        raise ServeError(
            f"Port {port} is in use by another program. Stop it, or take another "
            f"port: `make serve PORT={free}`."
        ) from None


def main(arguments: list[str] | None = None, folder: Path = HTML) -> int:
    """Serve until interrupted; return the exit status."""
    parser = argparse.ArgumentParser(description="Serve the rendered book.")
    parser.add_argument("--port", type=int, default=8000)
    port = parser.parse_args(arguments).port
    try:
        server = open_server(folder, port)
    except ServeError as error:
        print(error, file=sys.stderr)
        return 1
    with server:
        address = f"http://{HOST}:{server.server_address[1]}/"
        print(f"The book is at {address} (Ctrl+C stops it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
