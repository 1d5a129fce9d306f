"""A publisher of weights on this machine: an HTTP server that can be slow, cut off, or silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Publisher:
    """Serves files from memory, and records each request.

    Attributes:
        url: The base address.
        files: Path -> content.
        requests: Path and `Range` of each request.
        ranges: Answer a `Range` with a part of the file.
        cut_at: Close the connection after this many bytes of an answer.
        pause_s: Wait so long before every byte.
        silent: Never answer.
    """

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.ranges, self.silent = True, False
        self.cut_at: int | None = None
        self.pause_s = 0.0
        self.over = threading.Event()


@contextmanager
def publisher() -> Iterator[Publisher]:
    """Serve on a port of the loopback interface until the block ends."""
    state = Publisher()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.requests.append((self.path, asked))
            if state.silent:
                state.over.wait()
                return
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and state.ranges else 0
            if start and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            body = content[start:][: state.cut_at]
            if not state.pause_s:
                self.wfile.write(body)
            for byte in body if state.pause_s else b"":
                self.wfile.write(bytes([byte]))
                time.sleep(state.pause_s)

        def handle(self) -> None:
            with suppress(ConnectionError):  # the client gave up
                super().handle()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        state.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
