"""The process behind `api`: clients that ask as fast as they get answers, each on its connection.

Reads `{"port", "token", "seconds", "readers", "writers"}` on standard input; `readers` and
`writers` are lists, one entry for each client: a path to GET again and again, and a secret's
name to make, change, pause, resume and delete jobs with. Prints `[status, ms, group]` of each
answer. On plain sockets, since http.client takes as much time as the server.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

WARM_UP_S = 0.5
Answered = tuple[int, float, str]


class Connection:
    """One kept-alive connection; opened anew when the server has closed it."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        self._socket: socket.socket | None = None
        self._unread = b""

    def ask(self, method: str, path: str, document: object = None) -> tuple[int, bytes]:
        body = b"" if document is None else json.dumps(document).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._head}"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=30)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(f"{head}\r\n".encode() + body)
        return self._answer()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._unread = None, b""

    def _answer(self) -> tuple[int, bytes]:
        while b"\r\n\r\n" not in self._unread:
            self._receive()
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        status = int(lines[0].split()[1])
        lengths = [line.split(b":")[1] for line in lines if line.startswith(b"content-length:")]
        size_bytes = int(lengths[0]) if lengths else 0
        while len(self._unread) < size_bytes:
            self._receive()
        body, self._unread = self._unread[:size_bytes], self._unread[size_bytes:]
        if b"connection: close" in lines:
            self.close()
        return status, body

    def _receive(self) -> None:
        assert self._socket is not None
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._unread += data


class Client(threading.Thread):
    """Asks until `end`; `answered` holds what came after `begin`, status 0 for a broken line."""

    def __init__(self, given: dict[str, Any], begin: float, *, path: str = "", name: str = ""):
        super().__init__(daemon=True)
        self._connection = Connection(given["port"], given["token"])
        self._calls = _reading(path) if path else self._writing(name)
        self._group = "read" if path else "write"
        self._begin = begin
        self._end = begin + given["seconds"]
        self._job = 0
        self.answered: list[Answered] = []

    def run(self) -> None:
        for call in self._calls:
            begun = time.perf_counter()
            if begun >= self._end:
                break
            try:
                status, body = self._connection.ask(*call)
            except OSError:
                self._connection.close()
                status, body = 0, b""
            if status == 201:
                self._job = json.loads(body)["id"]
            if begun >= self._begin:
                self.answered.append((status, 1000 * (time.perf_counter() - begun), self._group))
        self._connection.close()

    def _writing(self, name: str) -> Iterator[tuple[str, str, object]]:
        number = 0
        while True:
            number += 1
            yield "POST", "/api/jobs", _job(f"{name}-{number}")
            yield "PUT", f"/api/jobs/{self._job}", {"poll_interval_seconds": 1800}
            yield "POST", f"/api/jobs/{self._job}/pause", None
            yield "POST", f"/api/jobs/{self._job}/resume", None
            yield "DELETE", f"/api/jobs/{self._job}", None


def _reading(path: str) -> Iterator[tuple[str, str, object]]:
    while True:
        yield "GET", path, None


def _job(name: str) -> dict[str, object]:
    return {
        "name": name,
        "batch_id": f"batch_bench_{name}",
        "openai_secret": "openai",
        "keboola_secret": "keboola",
        "keboola_stack_url": "http://127.0.0.1:9",
        "keboola_configuration_id": "1",
        "poll_interval_seconds": 3600,
    }


def main() -> None:
    given = json.load(sys.stdin)
    begin = time.perf_counter() + WARM_UP_S
    clients = [
        *(Client(given, begin, path=path) for path in given["readers"]),
        *(Client(given, begin, name=name) for name in given["writers"]),
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    json.dump([one for client in clients for one in client.answered], sys.stdout)


if __name__ == "__main__":
    main()
