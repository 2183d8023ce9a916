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
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any

import certifi
import httpcore
import httpx
import msgspec

from teckochecker import __version__, addresses
from teckochecker.addresses import Allowed, endpoint
from teckochecker.domain import MAX_ANSWER_BYTES, Value
from teckochecker.errors import AddressRefused, Fault, HttpError

MAX_BYTES = 64 * 1024  # of an answer; a status document has 2 KiB
MIN_WAIT_S, MAX_WAIT_S = 1.0, 3600.0

# httpcore's pool is quadratic: one at 150 threads makes 85 requests a second, eight make 530.
_POOLS = 8
# Less than the 5 s after which Node, uvicorn and Apache close: a POST never meets a dead one.
_KEEPALIVE_S = 4.0
_NOTHING: Mapping[str, str] = MappingProxyType({})
_OUR_HEADERS = {"user-agent": f"TeckoChecker/{__version__}", "accept-encoding": "identity"}
# h11's complaint about a wrong one isn't caught by httpx, and both at once smuggle requests.
_FRAMING = frozenset({"content-length", "transfer-encoding"})
_REPEATABLE = frozenset({"GET", "HEAD"})
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

Resolve = Callable[..., Sequence[tuple[Any, Any, Any, Any, Any]]]
"""As `socket.getaddrinfo`; called with host, port and `type`, and asked for addresses only."""


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


class _SharedContext(ssl.SSLContext):
    """A TLS context that many threads may connect with at once."""

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Do nothing: httpcore sets the list before each handshake.

        OpenSSL may be copying it for another thread's handshake just then, without a lock:
        10 of 380,000 greetings went out corrupt, tried. It is set once, in `_tls`.
        """


def _tls() -> ssl.SSLContext:
    context = _SharedContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name
    context.load_verify_locations(certifi.where())
    ssl.SSLContext.set_alpn_protocols(context, ["http/1.1"])
    return context


class Http:
    """Calls other machines, for many threads at once; owns its connections until `close`.

    Each of the eight pools opens at most `max_connections`: give it the number of threads
    that may call at once, so that none waits for another. Nothing is loaded before the first
    call, and `tls` is asked for its context once.
    """

    def __init__(
        self,
        allowed: Allowed,
        *,
        max_connections: int,
        resolve: Resolve = socket.getaddrinfo,
        tls: Callable[[], ssl.SSLContext] = _tls,
    ) -> None:
        self._exchange = _Exchange()
        self._network = _CheckedNetwork(allowed, resolve, self._exchange)
        self._limits = httpx.Limits(
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=_KEEPALIVE_S,
        )
        self._tls = tls
        self._opening = threading.Lock()
        self._context: ssl.SSLContext
        self._pools: tuple[httpx.HTTPTransport, ...] = ()

    def listening_on(self, own: Collection[tuple[str, int]]) -> None:
        """Refuse calls to these (address, port) pairs from now on: they are our own."""
        self._network.own = tuple(own)

    def close(self) -> None:
        for pool in self._pools:
            pool.close()

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
    ) -> Reply:
        """Send one request and read its answer, whatever its status, within `timeout_s`.

        Only resolving the name may take longer: the C library can't be interrupted. Raises
        AddressRefused, or HttpError with Fault.REFUSED for what can't be sent as it is, or
        with Fault.TRANSIENT; once an answer has begun, the error holds its status. A GET or HEAD
        whose kept-alive connection turns out dead is sent once more, on a new one.
        """
        request = _built(method, url, headers, params, content)
        self._exchange.begin(timeout_s)
        limits = httpx.Timeout(timeout_s, connect=connect_timeout_s)
        request.extensions["timeout"] = limits.as_dict()
        try:
            return self._sent(request, pool_key, max_bytes)
        except httpx.TransportError as error:
            raise self._exchange.failure(error, _where(request.url)) from error

    def _sent(self, request: httpx.Request, pool_key: str, max_bytes: int) -> Reply:
        key = f"{request.url.scheme} {_where(request.url)} {pool_key}"
        try:
            return self._exchanged(self._pool(zlib.crc32(key.encode())), request, max_bytes)
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            if request.method not in _REPEATABLE or not self._exchange.met_dead_connection():
                raise
        # A pool of its own, since the other idle connections are probably dead as well.
        with self._opened() as fresh:
            return self._exchanged(fresh, request, max_bytes)

    def _exchanged(
        self, pool: httpx.HTTPTransport, request: httpx.Request, max_bytes: int
    ) -> Reply:
        with contextlib.closing(pool.handle_request(request)) as response:
            self._exchange.status_code = response.status_code
            body = _body(response, max_bytes + 1)
        return Reply(
            status_code=response.status_code,
            headers=dict(response.headers.items()),
            body=body[:max_bytes],
            truncated=len(body) > max_bytes,
            duration_ms=self._exchange.duration_ms(),
        )

    def _pool(self, number: int) -> httpx.HTTPTransport:
        with self._opening:
            if not self._pools:
                self._context = self._tls()
                self._pools = tuple(self._opened() for _ in range(_POOLS))
        return self._pools[number % _POOLS]

    def _opened(self) -> httpx.HTTPTransport:
        """A pool; not an `httpx.Client`, which keeps cookies, prepares redirects and logs URLs."""
        opened = httpx.HTTPTransport(verify=self._context, trust_env=False, limits=self._limits)
        if not hasattr(opened._pool, "_network_backend"):
            message = "this httpx can't be kept from private addresses: install httpx 0.28"
            raise HttpError(message, Fault.INTERNAL)
        opened._pool._network_backend = self._network
        return opened


class _Exchange(threading.local):
    """What the request of the present thread may still take, and what became of it so far."""

    def begin(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.began_at = time.monotonic()
        self.connected = False  # on a connection of its own, not on a kept one
        self.sent = False  # a byte may have left
        self.received = False  # a byte has come
        self.status_code: int | None = None

    def left_s(self, at_most_s: float | None, late: type[httpcore.TimeoutException]) -> float:
        left_s = self.began_at + self.timeout_s - time.monotonic()
        if left_s <= 0:
            raise late
        return left_s if at_most_s is None else min(left_s, at_most_s)

    def duration_ms(self) -> int:
        return round((time.monotonic() - self.began_at) * 1000)

    def met_dead_connection(self) -> bool:
        return self.sent and not self.connected and not self.received

    def failure(self, error: httpx.TransportError, where: str) -> HttpError:
        refused = isinstance(error, httpx.LocalProtocolError)
        return HttpError(
            f"{where} {self._words(error)}",
            Fault.REFUSED if refused else Fault.TRANSIENT,
            status_code=self.status_code,
            maybe_done=self.sent,
        )

    def _words(self, error: httpx.TransportError) -> str:
        match error:
            case httpx.LocalProtocolError():
                return "wasn't called: the request breaks the rules of HTTP"
            case httpx.PoolTimeout():
                return f"wasn't called: all connections stayed busy for {self.timeout_s:g} s"
            case httpx.ConnectTimeout():
                return "didn't take a connection in time"
            case httpx.ConnectError():
                return f"can't be reached: {_reason(error)}"
            case httpx.TimeoutException() if not self.received:
                return f"didn't answer within {self.timeout_s:g} s"
            case httpx.TimeoutException():
                return f"didn't end its answer within {self.timeout_s:g} s"
            case _ if not self.received:
                return "closed the connection without an answer"
            case _:
                return "broke off its answer, or sent one that isn't HTTP"


class _CheckedNetwork(httpcore.NetworkBackend):
    """Connects to the very addresses that were checked: a name is resolved here and only once.

    Sockets in the file system stay refused, as the base class has it.
    """

    def __init__(self, allowed: Allowed, resolve: Resolve, exchange: _Exchange) -> None:
        self.own: tuple[tuple[str, int], ...] = ()
        self._allowed = allowed
        self._resolve = resolve
        self._exchange = exchange
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        found = self._resolved(host, port)
        self._check(host, port, found)
        stream = self._first_to_answer(found, port, timeout)
        try:
            self._check(host, port, [stream.get_extra_info("server_addr")[0]])
        except AddressRefused:
            stream.close()
            raise
        except OSError as error:  # it is gone again
            stream.close()
            raise httpcore.ConnectError(error) from error
        self._exchange.connected = True
        return _TimedStream(stream, self._exchange)

    def _resolved(self, host: str, port: int) -> list[str]:
        try:
            entries = self._resolve(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(error) from error
        except UnicodeError as error:  # of Python's codec for host names
            raise HttpError(f"{host!r} isn't a host name", Fault.REFUSED) from error
        return [entry[4][0] for entry in entries]

    def _check(self, host: str, port: int, found: Sequence[str]) -> None:
        complaint = addresses.refusal(host, port, found, self._allowed, self.own)
        if complaint is not None:
            raise AddressRefused(complaint)

    def _first_to_answer(
        self, found: Sequence[str], port: int, timeout: float | None
    ) -> httpcore.NetworkStream:
        share_s = self._exchange.left_s(timeout, httpcore.ConnectTimeout) / len(found)
        *others, last = found
        for address in others:
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return self._network.connect_tcp(address, port, share_s)
        return self._network.connect_tcp(last, port, share_s)


class _TimedStream(httpcore.NetworkStream):
    """A connection whose every wait ends with the exchange that it serves at the time."""

    def __init__(self, stream: httpcore.NetworkStream, exchange: _Exchange) -> None:
        self._stream = stream
        self._exchange = exchange

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._stream.read(max_bytes, self._exchange.left_s(timeout, httpcore.ReadTimeout))
        self._exchange.received |= bool(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send by itself: httpcore's own starts its time-out anew after every part sent."""
        connection: socket.socket = self._stream.get_extra_info("socket")
        unsent = memoryview(buffer)
        try:
            while unsent:
                connection.settimeout(self._exchange.left_s(timeout, httpcore.WriteTimeout))
                self._exchange.sent = True
                unsent = unsent[connection.send(unsent) :]
        except TimeoutError as error:
            raise httpcore.WriteTimeout(error) from error
        except OSError as error:
            raise httpcore.WriteError(error) from error

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        try:
            left_s = self._exchange.left_s(timeout, httpcore.ConnectTimeout)
        except httpcore.ConnectTimeout:
            self.close()  # httpcore forgets a stream whose handshake fails
            raise
        secure = self._stream.start_tls(ssl_context, server_hostname, left_s)
        return _TimedStream(secure, self._exchange)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


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


def _body(response: httpx.Response, enough: int) -> bytes:
    """Read and decompress until the end, or until there is `enough`, at least 1.

    Not by httpx, which decompresses each 64 KiB whole, to 64 MiB, and again if that is said to
    be compressed, too. What is broken, or compressed otherwise, is left to whoever reads it:
    the answer as such has come.
    """
    encoding = response.headers.get("content-encoding", "").strip().lower()
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32) if encoding in _COMPRESSED else None
    body = bytearray()
    for chunk in response.iter_raw():
        try:
            body += unpacker.decompress(chunk, enough - len(body)) if unpacker else chunk
        except zlib.error:
            break
        if len(body) >= enough or (unpacker is not None and unpacker.eof):
            break
    return bytes(body[:enough])


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
