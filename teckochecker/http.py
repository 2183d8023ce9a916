"""Outgoing HTTP: the only door to httpx, and so to the network, for sources and actions.

A call resolves its host once, connects only to what `addresses` lets pass, and is bounded in
time and size. Redirects aren't followed, cookies and proxies don't exist, nothing is retried
but a GET that met a dead kept-alive connection. What goes wrong comes out as `HttpError`,
which knows whether the request may have been carried out although no answer came.
"""

from __future__ import annotations

import contextlib
import html
import re
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any

import httpcore
import httpx
import msgspec

from teckochecker import __version__, addresses
from teckochecker.addresses import Allowed, endpoint
from teckochecker.domain import MAX_ANSWER_BYTES, Secret, Value, replace
from teckochecker.errors import Fault, HttpError
from teckochecker.masking import Mask
from teckochecker.network import CheckedNetwork, Connections, Exchange, Resolve, tls_context

MAX_BYTES = 64 * 1024  # of an answer; a status document has 2 KiB
MIN_WAIT_S, MAX_WAIT_S = 1.0, 3600.0
# Less than the 5 s after which Node, uvicorn and Apache close: a POST never meets a dead one.
KEPT_S = 4.0

_NOTHING: Mapping[str, str] = MappingProxyType({})
_OUR_HEADERS = {"user-agent": f"TeckoChecker/{__version__}", "accept-encoding": "identity"}
# h11's complaint about a wrong one isn't caught by httpx, and both at once smuggle requests.
_FRAMING = frozenset({"content-length", "transfer-encoding"})
_REPEATABLE = frozenset({b"GET", b"HEAD"})
_FAILURES = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)
_COMPRESSED = frozenset({"gzip", "x-gzip", "deflate"})

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"(?:[!-~](?:[\t -~]*[!-~])?)?")
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_TITLE = re.compile(r"<title[^<>]*>([^<]{1,200})", re.IGNORECASE)
_JSON_WORDS = {
    list: "list",
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    type(None): "null",
}


class Reply(Value, frozen=True, kw_only=True):
    """An answer: header names in lower case, of the body no more than was asked for."""

    status_code: int
    headers: Mapping[str, str]
    body: bytes
    truncated: bool
    duration_ms: int

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def document(self) -> dict[str, Any]:
        """The JSON object in the body; else HttpError MALFORMED, which says what came instead."""
        if self.truncated:
            raise self._malformed(f"more than {len(self.body)} bytes")
        try:
            value = msgspec.json.decode(self.body)
        except RecursionError as error:
            raise self._malformed("JSON that is nested too deeply") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._malformed(self._looks_like(error)) from error
        if not isinstance(value, dict):
            raise self._malformed(f"a JSON {_JSON_WORDS[type(value)]}")
        return value

    def _looks_like(self, error: Exception) -> str:
        if not self.body.strip():
            return "an empty body"
        if not self.body.lstrip().startswith(b"<"):
            return f"no valid JSON ({error})"
        title = _TITLE.search(self.text)
        words = "" if title is None else " ".join(html.unescape(title[1]).split())
        return f"a page titled {words!r}" if words else "a page of HTML or XML"

    def _malformed(self, what: str) -> HttpError:
        return HttpError(
            f"the answer (status {self.status_code}) holds {what}, where a JSON object should be",
            Fault.MALFORMED,
            status_code=self.status_code,
            answer=self.body[:MAX_ANSWER_BYTES].decode("utf-8", "replace"),
            maybe_done=True,
        )


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """How long a `Retry-After` header asks to wait, 1 s to 1 h; None when it can't be read."""
    if value is None:
        return None
    if _SECONDS.fullmatch(value.strip()):
        wait_s = float(value)
    else:
        try:
            until = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        wait_s = (_aware(until) - now).total_seconds()
    return min(max(wait_s, MIN_WAIT_S), MAX_WAIT_S)


def _aware(instant: datetime) -> datetime:
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)


class Http:
    """Calls other machines, for many threads at once; owns its connections until `close`.

    At most `max_connections` are open: give it the number of threads that may call at once,
    so that none waits for another. An idle one is kept for `kept_s`. Nothing is loaded before
    the first call, and `tls` is asked for its context once.
    """

    def __init__(
        self,
        allowed: Allowed,
        *,
        max_connections: int,
        resolve: Resolve = socket.getaddrinfo,
        tls: Callable[[], ssl.SSLContext] = tls_context,
        kept_s: float = KEPT_S,
    ) -> None:
        self._exchange = Exchange()
        self._network = CheckedNetwork(allowed, resolve, self._exchange)
        self._max_connections = max_connections
        self._tls = tls
        self._kept_s = kept_s
        self._opening = threading.Lock()
        self._connections: Connections | None = None

    def listening_on(self, own: Collection[tuple[str, int]]) -> None:
        """Refuse calls to these (address, port) pairs from now on: they are our own."""
        self._network.own = tuple(own)

    @property
    def own(self) -> tuple[tuple[str, int], ...]:
        """The (address, port) pairs that we listen on."""
        return self._network.own

    def close(self) -> None:
        if self._connections is not None:
            self._connections.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = _NOTHING,
        params: Mapping[str, str | int] | None = None,
        content: bytes | None = None,
        timeout_s: float = 20.0,
        connect_timeout_s: float = 10.0,
        pool_key: str = "",
        max_bytes: int = MAX_BYTES,
        secrets: Iterable[Secret] = (),
    ) -> Reply:
        """Send one request and read its answer, whatever its status, within `timeout_s`.

        Values of `secrets` are masked in the answer here, before anybody cuts a part of it out.
        Only resolving the name may take longer: the C library can't be interrupted. Raises
        AddressRefused, or HttpError with Fault.REFUSED for what can't be sent as it is, or
        with Fault.TRANSIENT; once an answer has begun, the error holds its status. A GET or HEAD
        whose kept-alive connection turns out dead is sent once more, on a new one.
        """
        request = _built(method, url, headers, params, content)
        self._exchange.begin(timeout_s)
        sent = _as_sent(request, connect_timeout_s)
        try:
            reply = self._sent(sent, f"{sent.url.origin} {pool_key}", max_bytes)
        except _FAILURES as error:
            raise _failure(error, self._exchange, _where(request.url)) from error
        return _masked(reply, Mask(secrets))

    def _sent(self, request: httpcore.Request, key: str, max_bytes: int) -> Reply:
        try:
            return self._exchanged(request, key, max_bytes)
        except (httpcore.NetworkError, httpcore.RemoteProtocolError):
            if request.method not in _REPEATABLE or not self._exchange.met_dead_connection():
                raise
        # On a new one, since the other idle connections are probably dead as well.
        return self._exchanged(request, key, max_bytes, fresh=True)

    def _exchanged(
        self, request: httpcore.Request, key: str, max_bytes: int, *, fresh: bool = False
    ) -> Reply:
        with (
            self._opened().connection(request.url.origin, key, fresh=fresh) as connection,
            contextlib.closing(connection.handle_request(request)) as response,
        ):
            self._exchange.status_code = response.status
            headers = dict(httpx.Headers(response.headers).items())
            body = _body(response, headers.get("content-encoding", ""), max_bytes + 1)
        return Reply(
            status_code=response.status,
            headers=headers,
            body=body[:max_bytes],
            truncated=len(body) > max_bytes,
            duration_ms=self._exchange.duration_ms(),
        )

    def _opened(self) -> Connections:
        with self._opening:
            if self._connections is None:
                self._connections = Connections(
                    self._network,
                    self._exchange,
                    self._tls(),
                    most=self._max_connections,
                    kept_s=self._kept_s,
                )
            return self._connections


def _masked(reply: Reply, mask: Mask) -> Reply:
    body = mask.text(reply.body.decode("utf-8", "surrogateescape"))
    return replace(
        reply,
        headers={name: mask.text(value) for name, value in reply.headers.items()},
        body=body.encode("utf-8", "surrogateescape"),
    )


def _built(
    method: str,
    url: str,
    headers: Mapping[str, str],
    params: Mapping[str, str | int] | None,
    content: bytes | None,
) -> httpx.Request:
    sent_headers = httpx.Headers(_OUR_HEADERS)
    sent_headers.update(_checked(headers))
    try:
        target = httpx.URL(url)
        if params:
            target = target.copy_merge_params(params)
        request = httpx.Request(method, target, headers=sent_headers, content=content)
    except (httpx.InvalidURL, UnicodeEncodeError) as error:
        raise HttpError("the URL can't be read: correct it", Fault.REFUSED) from error
    if target.scheme not in addresses.DEFAULT_PORTS or not target.raw_host or target.userinfo:
        raise HttpError("the URL isn't of the form https://host/path", Fault.REFUSED)
    if not 0 < _port(target) < 65536:
        raise HttpError("the URL's port must be 1 to 65535", Fault.REFUSED)
    return request


def _as_sent(request: httpx.Request, connect_timeout_s: float) -> httpcore.Request:
    return httpcore.Request(
        request.method,
        httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        ),
        headers=request.headers.raw,
        content=request.content,
        extensions={"timeout": {"connect": connect_timeout_s}},  # the exchange bounds the rest
    )


def _checked(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Refuse what h11 would refuse: its complaint quotes the value, which may hold a secret."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise HttpError("a header's name has characters that HTTP forbids", Fault.REFUSED)
        if name.lower() in _FRAMING:
            raise HttpError(f"the header {name} is made here: leave it out", Fault.REFUSED)
        if not _HEADER_VALUE.fullmatch(value):
            message = f"the header {name} has a line break, outer blank or other than ASCII in it"
            raise HttpError(message, Fault.REFUSED)
    return headers


def _port(url: httpx.URL) -> int:
    return addresses.DEFAULT_PORTS[url.scheme] if url.port is None else url.port


def _where(url: httpx.URL) -> str:
    return endpoint(url.raw_host.decode("ascii"), _port(url))


def _body(response: httpcore.Response, encoding: str, enough: int) -> bytes:
    """Read and decompress until the end, or until there is `enough`, at least 1.

    Not by httpx, which decompresses each 64 KiB whole, to 64 MiB, and again if that is said to
    be compressed, too. What is broken, or compressed otherwise, is left to whoever reads it:
    the answer as such has come.
    """
    compressed = encoding.strip().lower() in _COMPRESSED
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32) if compressed else None
    body = bytearray()
    for chunk in response.iter_stream():
        try:
            body += unpacker.decompress(chunk, enough - len(body)) if unpacker else chunk
        except zlib.error:
            break
        if len(body) >= enough or (unpacker is not None and unpacker.eof):
            break
    return bytes(body[:enough])


def _failure(error: Exception, exchange: Exchange, where: str) -> HttpError:
    refused = isinstance(error, httpcore.LocalProtocolError)
    return HttpError(
        f"{where} {_words(error, exchange)}",
        Fault.REFUSED if refused else Fault.TRANSIENT,
        status_code=exchange.status_code,
        maybe_done=exchange.sent,
    )


def _words(error: Exception, exchange: Exchange) -> str:
    match error:
        case httpcore.LocalProtocolError():
            return "wasn't called: the request breaks the rules of HTTP"
        case httpcore.PoolTimeout():
            return f"wasn't called: all connections stayed busy for {exchange.timeout_s:g} s"
        case httpcore.ConnectTimeout():
            return "didn't take a connection in time"
        case httpcore.ConnectError():
            return f"can't be reached: {_reason(error)}"
        case httpcore.TimeoutException() if not exchange.received:
            return f"didn't answer within {exchange.timeout_s:g} s"
        case httpcore.TimeoutException():
            return f"didn't end its answer within {exchange.timeout_s:g} s"
        case _ if not exchange.received:
            return "closed the connection without an answer"
        case _:
            return "broke off its answer, or sent one that isn't HTTP"


def _reason(error: BaseException) -> str:
    """What the system or OpenSSL said; `__context__`, since httpcore clears `__cause__`."""
    found: BaseException | None = error
    while found is not None:
        match found:
            case ssl.SSLCertVerificationError():
                return f"its certificate isn't accepted ({found.verify_message})"
            case ssl.SSLError():
                return f"TLS failed ({found.reason})"
            case OSError() if found.strerror:
                return found.strerror
        found = found.__context__
    return "the connection failed"
