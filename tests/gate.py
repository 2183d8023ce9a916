"""Scripts in containers come to a gate and wait there until a test lets them through."""

from __future__ import annotations

import socket
import threading
from typing import Self

GATED = '''
import json, os, socket, struct

def gateway():
    """The address under which an open container reaches the machine that it runs on."""
    with open("/proc/net/route") as routes:
        for line in routes.read().splitlines()[1:]:
            fields = line.split()
            if fields[1] == "00000000":
                return socket.inet_ntoa(struct.pack("<L", int(fields[2], 16)))

def word():
    """What the gate says to let this script through."""
    with socket.create_connection((gateway(), int(os.environ["GATE"]))) as gate:
        return gate.recv(100).decode()

'''
"""The beginning of a script that may call `word()`; its job's env_vars name the gate's port."""


class Gate:
    """`passed` counts who ever came."""

    def __init__(self) -> None:
        self._server = socket.create_server(("0.0.0.0", 0))
        self.port = int(self._server.getsockname()[1])
        self._lock = threading.Lock()
        self._word: str | None = None
        self._waiting: list[socket.socket] = []
        self.came = 0
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()
        self.open("")

    @property
    def env_vars(self) -> dict[str, str]:
        return {"GATE": str(self.port)}

    def open(self, word: str) -> None:
        """Who waits, and who comes from now on, gets the word and goes on."""
        with self._lock:
            self._word = word
            for sock in self._waiting:
                self._let_through(sock, word)
            self._waiting.clear()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:  # shut down
                return
            with self._lock:
                self.came += 1
                if self._word is None:
                    self._waiting.append(sock)
                else:
                    self._let_through(sock, self._word)

    def _let_through(self, sock: socket.socket, word: str) -> None:
        with sock:
            try:
                sock.sendall(word.encode())
            except OSError:
                return  # its container was killed
