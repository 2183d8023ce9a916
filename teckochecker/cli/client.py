"""Requests to the API, wherever it is.

They go to TECKOCHECKER_URL; else to the daemon that holds this installation's data; else to
the same web application inside this process, over the database that it then holds itself for
the time of the request. The standard library's client serves the first two: `httpx` takes
longer to import than a daemon to answer.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from teckochecker.cli import environment, installation
from teckochecker.cli.exits import Refusal, TimedOut
from teckochecker.errors import AlreadyRunning, ConfigError, NotFound, NotReachable
from teckochecker.lock import holder

if TYPE_CHECKING:
    from teckochecker.web.guard import Asgi

ANSWER_S: Final = 90.0  # an archive is read, and a webhook waited for, for up to 60 s


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked; `target` is path and query, encoded, `media` the type of the body."""

    method: str
    target: str
    body: bytes | None = None
    media: str = "application/json"
    is_open: bool = False  # needs no token

    def headers(self) -> dict[str, str]:
        found = {"accept": "application/json"}
        if not self.is_open:
            found["authorization"] = f"Bearer {environment.token()}"
        return found if self.body is None else found | {"content-type": self.media}


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; `local` when no daemon was asked."""

    status: int
    body: bytes
    local: bool = False

    def document(self) -> dict[str, Any]:
        try:
            found = json.loads(self.body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise NotReachable(
                f"The answer ({self.status}) isn't TeckoChecker's: check where TECKOCHECKER_URL "
                f"leads."
            )
        return found


def call(
    method: str,
    path: str,
    *,
    query: Mapping[str, object] | None = None,
    body: Mapping[str, object] | None = None,
    form: Mapping[str, str | bytes] | None = None,
    patience_s: float = ANSWER_S,
) -> Reply:
    """Ask the API; whatever isn't a success is raised as a Refusal.

    Values of `query` that are None are left out. A `form` is sent instead of a `body`: its
    bytes as files, which are archives. TimedOut after `patience_s` without an answer.
    """
    given = {name: value for name, value in (query or {}).items() if value is not None}
    text = urlencode(given, errors="surrogateescape")
    target = f"{path}?{text}" if text else path
    if form is not None:
        request = _form(method, target, form)
    else:
        request = Request(method, target, None if body is None else json.dumps(body).encode())
    url = environment.url()
    reply = _local(request, patience_s) if url is None else _over_http(url, request, patience_s)
    if reply.status >= 300:
        raise _refusal(reply)
    if reply.status != 204:
        reply.document()
    return reply


def health(url: str) -> Reply:
    """How the daemon at `url` says it is; a failing one is an answer like others."""
    return _over_http(url, Request("GET", "/api/health", is_open=True))


def segment(text: str) -> str:
    """An id or a name as part of a path."""
    if text.strip() in ("", ".", ".."):
        raise NotFound(f"{text!r} is neither an id nor a name.")
    return quote(text, safe="", errors="surrogateescape")


def daemon_runs() -> bool:
    """Whether anybody is at work on the jobs, as far as can be told from here."""
    return environment.url() is not None or holder(environment.home()) is not None


def _form(method: str, target: str, parts: Mapping[str, str | bytes]) -> Request:
    """A form (RFC 7578); 128 random bits are in no archive."""
    boundary = secrets.token_hex(16)
    pieces = []
    for name, part in parts.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
        if isinstance(part, bytes):
            head += '; filename="script.tgz"\r\nContent-Type: application/gzip'
        data = part if isinstance(part, bytes) else part.encode()
        pieces.append(f"{head}\r\n\r\n".encode() + data + b"\r\n")
    body = b"".join([*pieces, f"--{boundary}--\r\n".encode()])
    return Request(method, target, body, f"multipart/form-data; boundary={boundary}")


def _local(request: Request, patience_s: float) -> Reply:
    home = environment.home()
    until = time.monotonic() + installation.SETTLE_S
    while True:
        found = installation.settled(home)
        if found is not None and found.url is None:
            raise installation.silent(home, found)
        if found is not None and found.url is not None:
            return _over_http(found.url, request, patience_s)
        try:
            return _in_process(request)
        except AlreadyRunning:  # a daemon has come up since the look
            if time.monotonic() > until:
                raise


def _in_process(request: Request) -> Reply:
    settings = environment.settings()
    with installation.opened(settings) as app:
        import trio

        from teckochecker.web import create_web

        headers = request.headers()
        try:
            return trio.run(_served, create_web(app), request, headers)
        except* KeyboardInterrupt:  # trio wraps it on its way through nurseries
            pass
    raise KeyboardInterrupt


async def _served(web: Asgi, request: Request, headers: Mapping[str, str]) -> Reply:
    import httpx

    transport = httpx.ASGITransport(app=web)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.request(
            request.method, request.target, content=request.body, headers=headers
        )
    return Reply(answer.status_code, answer.content, local=True)


def _over_http(url: str, request: Request, patience_s: float = ANSWER_S) -> Reply:
    """One request on a connection of its own."""
    base = _parsed(url)
    kind = HTTPSConnection if base.scheme == "https" else HTTPConnection
    connection = kind(base.hostname or "", base.port, timeout=patience_s)
    try:
        target = base.path.rstrip("/") + request.target
        connection.request(request.method, target, request.body, request.headers())
        answer = connection.getresponse()
        return Reply(answer.status, answer.read())
    except TimeoutError as error:
        raise TimedOut(f"{url} gave no answer within {patience_s:.0f} s: try again.") from error
    except (OSError, HTTPException) as error:
        raise NotReachable(
            f"{url} can't be reached ({error}): check that it runs, and TECKOCHECKER_URL where "
            f"it is set."
        ) from error
    finally:
        connection.close()


def _parsed(url: str) -> SplitResult:
    try:
        found = urlsplit(url)
        host = (found.hostname or "").encode("idna")
        good = found.scheme in ("http", "https") and host and found.port != 0
        good = good and found.username is None  # it would be shown in messages, and isn't sent
    except ValueError:
        good = False
    if not good:
        raise ConfigError("TECKOCHECKER_URL isn't an address: write it as http://host:8000.")
    return found


def _refusal(reply: Reply) -> Refusal:
    """The problem document (RFC 9457) of an answer, or what can be said without one."""
    try:
        problem = reply.document()
    except NotReachable:
        problem = {}
    detail = str(problem.get("detail") or f"The API answered {reply.status} without a reason.")
    errors = tuple(
        (str(one.get("field")), str(one.get("message"))) for one in problem.get("errors") or ()
    )
    return Refusal(reply.status, int(problem.get("code") or 0), detail, errors)
