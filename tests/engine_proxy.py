"""A socket that leads to the Docker engine until a test cuts it, or holds or hides from it."""

from __future__ import annotations

import re
import socket
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.required import absent

_NOT_FOUND = b'{"message": "No such image: hidden by a test"}'
_ANSWER = (
    b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_NOT_FOUND), _NOT_FOUND)
)


class EngineProxy:
    """Skips where the engine that `environment` names isn't on a socket of this machine.

    An image whose name is in `hidden` isn't there for who comes this way. Requests with `holds`
    in them wait for `go`; `held` counts them.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        target = environment.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        if not target.startswith("unix://"):
            absent("docker", "the engine isn't on a socket of this machine")
        self._target = target.removeprefix("unix://")
        self._path = Path(f"/tmp/{uuid.uuid4().hex}.sock")
        self.address = f"unix://{self._path}"
        self.hidden: set[bytes] = set()
        self.holds = b""
        self.held = 0
        self.go = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.go.set()
        self.cut()
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()

    def mend(self) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(self._path))
        server.listen(64)
        self._sockets.append(server)
        self._begin(self._serve, server)

    def cut(self) -> None:
        """Nobody gets through, and whoever is connected is cut off."""
        self._path.unlink(missing_ok=True)
        for sock in list(self._sockets):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # its other end was faster

    def _begin(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _serve(self, server: socket.socket) -> None:
        while True:
            try:
                near, _ = server.accept()
            except OSError:  # cut
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._target)
            self._sockets += (near, far)
            self._begin(self._carry, near, far, True)
            self._begin(self._carry, far, near, False)

    def _carry(self, source: socket.socket, sink: socket.socket, asks: bool) -> None:
        try:
            while data := source.recv(65536):
                if asks and self.holds and self.holds in data:
                    self.held += 1
                    self.go.wait()
                if asks and self.hidden and self._hides(data := _whole(source, data)):
                    source.sendall(_ANSWER)
                else:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def _hides(self, request: bytes) -> bool:
        return any(name in request for name in self.hidden)


def _whole(source: socket.socket, begun: bytes) -> bytes:
    """A request of which the first bytes have come, with all of its body."""
    head, _, body = begun.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    missing = int(found[1]) - len(body) if found else 0
    while missing > 0 and (data := source.recv(missing)):
        begun += data
        missing -= len(data)
    return begun
