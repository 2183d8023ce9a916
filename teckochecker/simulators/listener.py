"""The socket side of a simulator: `http.server` without its logging, its delays and its leaks.

`Listener.close` ends every connection, idle, answering or hanging, and waits for the threads, so
that a test leaves neither sockets nor threads behind.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs

from teckochecker.simulators.exchange import Recorded

CLOSE_WITHIN_S = 5.0  # only a hook that blocks can take so long


class Listener(ThreadingHTTPServer):
    """Listens on loopback and calls `serve(request, connection)` in the connection's thread."""

    daemon_threads = True
    request_queue_size = 1024  # a benchmark connects a thousand times within milliseconds

    def __init__(self, port: int, serve: Callable[[Recorded, Connection], None]) -> None:
        self.serve = serve
        self.closing = threading.Event()
        self._faults: list[Exception] = []
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__(("127.0.0.1", port), Connection)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> list[Exception]:
        """Returns what went wrong in the threads; broken connections are no fault."""
        self.closing.set()
        socket.create_connection(("127.0.0.1", self.server_port)).close()  # wakes `_accept`
        self._thread.join()
        self.server_close()
        with self._changed:
            for connection in self._open:
                with contextlib.suppress(OSError):  # the other side was faster
                    connection.shutdown(socket.SHUT_RDWR)
            if not self._changed.wait_for(lambda: not self._open, CLOSE_WITHIN_S):
                raise RuntimeError("A hook of this simulator hasn't returned; let it end first.")
        return self._faults

    def _accept(self) -> None:
        """`serve_forever` without its polling, which would make every `close` wait."""
        while not self.closing.is_set():
            self.handle_request()

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own asks the resolver for a name nobody needs
        self.server_name, self.server_port = "127.0.0.1", self.socket.getsockname()[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, ConnectionError):
            with self._changed:
                self._faults.append(error)


class Connection(BaseHTTPRequestHandler):
    """One client's connection, in a thread of its own."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def send(self, data: bytes, *, delay_s: float, drip_s: float) -> None:
        """Raises ConnectionError when either side closes first."""
        self._pause(delay_s)
        if not drip_s:
            self.wfile.write(data)
            return
        for byte in data:
            self.wfile.write(bytes([byte]))
            self._pause(drip_s)

    def drop(self) -> None:
        self.close_connection = True

    def hang(self) -> None:
        self.close_connection = True
        while self.rfile.read(1):
            pass

    def serve(self) -> None:
        request = self._recorded()
        try:
            self.server.serve(request, self)
        except TimeoutError as error:  # http.server takes it for a slow client and swallows it
            raise RuntimeError("a hook timed out") from error

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve  # noqa: N815  http.server's names

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a simulator has no say on standard error."""

    def _recorded(self) -> Recorded:
        at = time.time()
        path, _, query = self.path.partition("?")
        size_bytes = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(size_bytes)
        if len(content) < size_bytes:
            raise ConnectionAbortedError("the client left in the middle of its request")
        return Recorded(
            method=self.command,
            path=path,
            query=parse_qs(query, keep_blank_values=True),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=_decoded(content),
            at=at,
            raw=content,
        )

    def _pause(self, seconds: float) -> None:
        if self.server.closing.wait(seconds):
            raise ConnectionAbortedError("the simulator closes")


def _decoded(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None
