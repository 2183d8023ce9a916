"""What every request meets before the application: host, token, size and time of its body.

An ASGI wrapper, since only here chunked bodies are seen as they come. It reads the body
whole, within its limit and time, and hands it on; it adds the security headers to every
answer. Failures of the token are slowed down; a right token always passes.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import trio

from teckochecker.app import App
from teckochecker.errors import AccessDenied, InvalidInput, StoreBusy, StoreFull, TeckoError
from teckochecker.lanes import Lane
from teckochecker.web.problems import TooLarge, TooMany, TooSlow, problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_BYTES: Final = 1024 * 1024
BODY_SECONDS: Final = 10.0
FAILURES: Final = 10  # wrong tokens a minute from one address, until they are answered 429
MINUTE: Final = timedelta(minutes=1)
OPEN_PATHS: Final = frozenset({"/api/health"})
_LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        b"connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class _Gone(Exception):
    """The client went away before its request was whole: nothing of it is done."""


class Guard:
    """`inner` behind the product's access rules."""

    def __init__(self, app: App, inner: Asgi) -> None:
        self._app = app
        self._inner = inner
        self._tokens: list[tuple[int, bytes]] | None = None
        self._used: dict[int, datetime] = {}
        self._failures: dict[str, deque[datetime]] = {}
        settings = app.settings
        self._hosts = _LOCAL_HOSTS | {_bracketed(settings.api_host)} | set(settings.allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(8)}"
        scope["path"] = scope["path"].rstrip("/") or "/"
        headers = dict(scope["headers"])
        answer = _Answer(send, request_id)
        try:
            self._check_host(headers.get(b"host", b"").decode("latin-1"))
            if scope["path"] not in OPEN_PATHS:
                await self._check_token(headers, scope)
            body = await _body(headers, receive)
        except TeckoError as error:
            await _refuse(error, answer, request_id)
            return
        except _Gone:
            return
        kept = [pair for pair in scope["headers"] if pair[0] != b"x-request-id"]
        scope["headers"] = [*kept, (b"x-request-id", request_id.encode())]
        await self._inner(scope, _replayed(body, receive, answer), answer)

    def _check_host(self, host: str) -> None:
        """DNS rebinding reaches loopback with a foreign name, so names are a closed list."""
        name = host.lower()
        if ":" in name.rpartition("]")[2]:
            name = name.rpartition(":")[0]
        if name.rstrip(".") not in self._hosts:
            raise InvalidInput(
                f"The Host {host[:100]!r} isn't one of this server's names: list it in "
                f"ALLOWED_HOSTS."
            )

    async def _check_token(self, headers: dict[bytes, bytes], scope: Scope) -> None:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        digest = hashlib.sha256(token.strip()).digest() if scheme.lower() == b"bearer" else b""
        if self._tokens is None:
            self._tokens = await self._app.lanes.run(Lane.READ, self._app.store.secrets.tokens)
        now = self._app.now()
        for token_id, known in self._tokens:
            if hmac.compare_digest(known, digest):
                await self._note_use(token_id, now)
                return
        address = (scope.get("client") or ("unknown",))[0]
        self._note_failure(address, now)
        raise AccessDenied(
            "A token is needed: send `Authorization: Bearer tck_...`; `teckochecker init` made "
            "it, and `teckochecker token new` makes another."
        )

    def _note_failure(self, address: str, now: datetime) -> None:
        failed = self._failures.setdefault(address, deque(maxlen=FAILURES))
        locked_out = len(failed) == FAILURES and now - failed[0] < MINUTE
        failed.append(now)
        if len(self._failures) > 1000:  # a bound on memory; forgets the oldest address
            del self._failures[next(iter(self._failures))]
        if locked_out:
            raise TooMany("Too many wrong tokens from this address: wait a minute.")

    async def _note_use(self, token_id: int, now: datetime) -> None:
        """At most once a minute: it is shown to people, and worth no refusal."""
        last = self._used.get(token_id)
        if last is not None and now - last < MINUTE:
            return
        self._used[token_id] = now
        write = partial(self._app.store.secrets.token_used, token_id, now)
        with suppress(StoreFull, StoreBusy):
            await self._app.lanes.run(Lane.STORE, write)


def _bracketed(host: str) -> str:
    return f"[{host}]".lower() if ":" in host else host.lower()


async def _body(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    """The whole body, counted as it comes: a length that a client states may be wrong."""
    declared = headers.get(b"content-length", b"0")
    if not declared.isdigit() or int(declared[:20]) > BODY_BYTES:
        raise TooLarge(f"The body is over {BODY_BYTES} bytes: send less.")
    parts, size, more = [], 0, True
    with trio.move_on_after(BODY_SECONDS) as scope:
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > BODY_BYTES:
                raise TooLarge(f"The body is over {BODY_BYTES} bytes: send less.")
    if scope.cancelled_caught:
        raise TooSlow(f"The body didn't arrive within {BODY_SECONDS:.0f} s: send it again.")
    return b"".join(parts)


class _Answer:
    """The way back to the client: adds our headers, and knows when the whole answer has left."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._headers = (*_HEADERS, (b"x-request-id", request_id.encode()))
        self.ended = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *self._headers]
        elif not message.get("more_body", False):
            self.ended = True
        await self._send(message)


def _replayed(body: bytes, receive: Receive, answer: _Answer) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            message = await receive()
            if answer.ended:
                # The end of an answer is a disconnect, too, at which quart-trio would cancel the
                # sender: hypercorn could no longer close the connection, or watch it idle.
                await trio.sleep_forever()
            return message
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(error: TeckoError, send: Send, request_id: str) -> None:
    status, body = problem(error, request_id)
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # what is left of its body isn't read
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 429:
        headers.append((b"retry-after", b"60"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
