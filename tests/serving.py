"""The real server on a real socket, beside a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from teckochecker.app import App
from teckochecker.daemon import listen, serve_app
from teckochecker.lock import DataLock
from tests.conftest import TOKEN

JSON = "Content-Type: application/json"
CLOSE = "Connection: close"


@asynccontextmanager
async def served(app: App) -> AsyncIterator[str]:
    """The address of a whole daemon over `app`, on a port of its own."""
    found: list[str] = []
    ready = trio.Event()

    def announce(url: str) -> None:
        found.append(url)
        ready.set()

    lock = DataLock(app.settings.home)
    try:
        with listen("127.0.0.1", 0) as listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_app, app, listener, lock, announce)
                await ready.wait()
                yield found[0]
                nursery.cancel_scope.cancel()
    finally:
        lock.release()


def raw(method: str, path: str, *headers: str, host: str = "localhost") -> bytes:
    """A request without body, with the token."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {TOKEN}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1")


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def exchange(url: str, *pieces: bytes, seconds: float = 30) -> bytes:
    """Send raw bytes, and read until the server closes the connection."""
    host, _, port = url.removeprefix("http://").partition(":")
    answer = b""
    with trio.fail_after(seconds):
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            for piece in pieces:
                await stream.send_all(piece)
            while received := await stream.receive_some():
                answer += received
    return answer
