"""What every request meets before the application: host, token, size and time of its body.

An ASGI wrapper, since only here chunked bodies are seen as they come. It reads the body
whole, within its limit and time, and hands it on; it adds the security headers to every
answer. Who may come in is decided in `access`. Uploads are few at a time, since each is large.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, NamedTuple

import trio

from teckochecker.app import App
from teckochecker.errors import InvalidInput, TeckoError
from teckochecker.web.access import Access, caller_of
from teckochecker.web.problems import TooBusy, TooLarge, TooSlow, problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


class _Bound(NamedTuple):
    """How large a body may be, and how long it may take to arrive."""

    size_bytes: int
    seconds: float


BODY_BYTES: Final = 1024 * 1024
BODY_SECONDS: Final = 10.0
_ORDINARY: Final = _Bound(BODY_BYTES, BODY_SECONDS)
_STRANGER: Final = _Bound(8 * 1024, BODY_SECONDS)  # a token in JSON; it is held before it is judged
_UPLOAD: Final = _Bound(11 * 1024 * 1024, 120.0)  # an archive of 10 MB and what forms add
UPLOAD_PLACES: Final = 4  # uploads at a time; each is in memory until it is on the shelf
UPLOAD_WAIT_S: Final = 20.0  # for a place; with the reading of an archive less than clients wait
_UPLOAD_PATHS: Final = re.compile(r"/api/custom-checks(?:/[^/]+/script/upload)?")
OPEN_PATHS: Final = frozenset({"/", "/api/health"})  # and the page's files, and signing in
_HOST: Final = re.compile(r"(\[[^\]]+\]|[^:\[\]]+?)\.?(?::[0-9]{0,5})?")  # one dot: more is no name
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

    def __init__(self, app: App, access: Access, inner: Asgi) -> None:
        self._access = access
        self._inner = inner
        self._uploads = trio.CapacityLimiter(UPLOAD_PLACES)
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
        async with AsyncExitStack() as held:
            try:
                self._check_host(headers.get(b"host", b"").decode("latin-1"))
                bound = _STRANGER
                if not _is_open(scope["method"], scope["path"]):
                    await self._access.check(caller_of(scope))
                    bound = _bound(scope, headers)
                _check_length(headers, bound)
                if bound is _UPLOAD:
                    await held.enter_async_context(_place(self._uploads))
                body = await _body(receive, bound)
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
        named = _HOST.fullmatch(host.lower())
        if named is None or named[1] not in self._hosts:
            raise InvalidInput(
                f"The Host {host[:100]!r} isn't one of this server's names: list it in "
                f"ALLOWED_HOSTS."
            )


def _is_open(method: str, path: str) -> bool:
    """Whether a stranger may ask for it: it holds no data, or makes a stranger known."""
    signs_in = method == "POST" and path == "/api/session"
    return signs_in or path in OPEN_PATHS or path.startswith("/static/")


def _bracketed(host: str) -> str:
    return f"[{host}]".lower() if ":" in host else host.lower()


def _bound(scope: Scope, headers: Mapping[bytes, bytes]) -> _Bound:
    """Archives come in forms only: 10 MB of JSON would take the event loop four seconds."""
    form = headers.get(b"content-type", b"").lower().startswith(b"multipart/form-data")
    uploads = scope["method"] == "POST" and _UPLOAD_PATHS.fullmatch(scope["path"])
    return _UPLOAD if form and uploads else _ORDINARY


@asynccontextmanager
async def _place(places: trio.CapacityLimiter) -> AsyncIterator[None]:
    """One of the places for uploads, or TooBusy."""
    with trio.move_on_after(UPLOAD_WAIT_S) as scope:
        await places.acquire()
    if scope.cancelled_caught:
        raise TooBusy("Other uploads take all places: send it again in a moment.")
    try:
        yield
    finally:
        places.release()


def _check_length(headers: Mapping[bytes, bytes], bound: _Bound) -> None:
    declared = headers.get(b"content-length", b"0")
    if b"transfer-encoding" in headers and b"content-length" in headers:
        raise InvalidInput(  # RFC 9112, 6.1: a proxy may have taken the other one
            "The body's length is told twice: send Content-Length or Transfer-Encoding."
        )
    if not declared.isdigit() or int(declared[:20]) > bound.size_bytes:
        raise TooLarge(f"The body is over {bound.size_bytes} bytes: send less.")


async def _body(receive: Receive, bound: _Bound) -> bytes:
    """The whole body, counted as it comes: a length that a client states may be wrong."""
    parts, size, more = [], 0, True
    with trio.move_on_after(bound.seconds) as scope:
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > bound.size_bytes:
                raise TooLarge(f"The body is over {bound.size_bytes} bytes: send less.")
    if scope.cancelled_caught:
        raise TooSlow(f"The body didn't arrive within {bound.seconds:.0f} s: send it again.")
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
    if isinstance(error, TooBusy):
        headers.append((b"retry-after", b"5"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
