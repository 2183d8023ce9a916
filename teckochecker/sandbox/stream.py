"""The attached stream of a container: what goes in, what comes out, and when to stop.

The engine sends frames of 8 bytes of header (stream 1 or 2, three zeros, length as 32 bits)
and as many bytes as that says. (https://docs.docker.com/reference/api/engine/, attach)
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final, Protocol

from teckochecker.verdicts import EDGE_CHARS, Stream

HEAD_BYTES: Final = 64 * 1024
TAIL_BYTES: Final = 960 * 1024
PIECE_BYTES: Final = 256 * 1024
TICK_S: Final = 0.25  # how long a cancelled run may go unnoticed
STDOUT: Final = 1
STDERR: Final = 2
_HEADER_BYTES: Final = 8


class End(Enum):
    """Why a stream is no longer read."""

    CLOSED = "closed"
    DEADLINE = "deadline"
    FULL = "full"


class Sink(Protocol):
    def take(self, data: bytes) -> None: ...


class Capture:
    """Keeps the beginning and the end of what it takes."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._cut_bytes = 0

    def take(self, data: bytes) -> None:
        room = HEAD_BYTES + EDGE_CHARS - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        excess = len(self._tail) - TAIL_BYTES - EDGE_CHARS
        if excess > 0:
            del self._tail[:excess]
            self._cut_bytes += excess

    def pick(self, mark: bytes) -> bytes | None:
        """The rest of the last line that begins with `mark`, taken out; None without one."""
        if not self._cut_bytes:
            self._head, self._tail = bytearray(), self._head + self._tail
        start = self._tail.rfind(b"\n" + mark)
        if start < 0:
            return None
        stop = self._tail.find(b"\n", start + 1)
        stop = len(self._tail) if stop < 0 else stop
        line = bytes(self._tail[start + 1 + len(mark) : stop])
        del self._tail[start : stop + 1]
        return line

    def stream(self) -> Stream:
        if not self._cut_bytes:
            return Stream(head=_text(self._head + self._tail))
        return Stream(head=_text(self._head), tail=_text(self._tail), cut_bytes=self._cut_bytes)


class Frames:
    """Cuts the engine's bytes into frames, however they arrive, and hands them to sinks."""

    def __init__(self, stdout: Sink, stderr: Sink) -> None:
        self._sinks = {STDOUT: stdout, STDERR: stderr}
        self._header = bytearray()
        self._left = 0
        self._sink = stdout
        self.total_bytes = 0

    def feed(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if self._left:
                part, view = view[: self._left], view[self._left :]
                self._left -= len(part)
                self.total_bytes += len(part)
                self._sink.take(bytes(part))
                continue
            missing = _HEADER_BYTES - len(self._header)
            self._header += view[:missing]
            view = view[missing:]
            if len(self._header) == _HEADER_BYTES:
                self._sink = self._sinks.get(self._header[0], self._sinks[STDOUT])
                self._left = int.from_bytes(self._header[4:], "big")
                self._header.clear()


def exchange(
    sock: socket.socket,
    pieces: Iterator[bytes],
    frames: Frames,
    *,
    deadline: float,
    max_bytes: int,
    checkpoint: Callable[[], None],
) -> End:
    """Sends all pieces while reading, until the other side closes, `deadline` or `max_bytes`.

    `deadline` is an instant of `time.monotonic()`. Raises what `checkpoint` raises, and
    OSError when the connection breaks.
    """
    sock.setblocking(False)
    outgoing: memoryview | None = memoryview(next(pieces, b""))
    poller = select.poll()
    while True:
        checkpoint()
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return End.DEADLINE
        wanted = select.POLLIN if outgoing is None else select.POLLIN | select.POLLOUT
        poller.register(sock, wanted)
        for _, event in poller.poll(min(left_s, TICK_S) * 1000):
            if event & select.POLLOUT and outgoing is not None:
                outgoing = _send(sock, outgoing, pieces)
            if event & ~select.POLLOUT and not _receive(sock, frames):
                return End.CLOSED
            if frames.total_bytes > max_bytes:
                return End.FULL


def cut(sock: socket.socket) -> None:
    """Ends the connection at once, so that the engine stops waiting for a reader."""
    _shut(sock, socket.SHUT_RDWR)


def _shut(sock: socket.socket, how: int) -> None:
    try:
        sock.shutdown(how)
    except OSError:  # the other side was faster
        return


def _send(sock: socket.socket, outgoing: memoryview, pieces: Iterator[bytes]) -> memoryview | None:
    """What is left to send; None when all is, or when nobody takes it any more."""
    try:
        outgoing = outgoing[sock.send(outgoing) :]
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return outgoing
    except (BrokenPipeError, ConnectionResetError):  # the container has ended; its output counts
        return None
    if outgoing:
        return outgoing
    piece = next(pieces, b"")
    if piece:
        return memoryview(piece)
    if not isinstance(sock, ssl.SSLSocket):  # which can't close one direction
        _shut(sock, socket.SHUT_WR)
    return None


def _receive(sock: socket.socket, frames: Frames) -> bool:
    """Reads what is there, also what a TLS layer has kept; False at the end."""
    try:
        data = sock.recv(PIECE_BYTES)
        while data and isinstance(sock, ssl.SSLSocket) and sock.pending():
            frames.feed(data)
            data = sock.recv(PIECE_BYTES)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return True
    frames.feed(data)
    return bool(data)


def _text(data: bytearray) -> str:
    return data.decode(errors="replace")
