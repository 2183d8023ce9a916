"""Connections to checked addresses, bounded in time and number: what `http` sends over.

A name is resolved once, every address it has is checked, and the connection goes to the very
address that was checked. Each wait on a connection ends with the exchange it serves. Between
two exchanges a connection is kept for a while, for its own key alone.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import certifi
import httpcore

from teckochecker import addresses
from teckochecker.addresses import Allowed
from teckochecker.errors import AddressRefused, Fault, HttpError

Resolve = Callable[..., Sequence[tuple[Any, Any, Any, Any, Any]]]
"""As `socket.getaddrinfo`; called with host, port and `type`, and asked for addresses only."""


class SharedContext(ssl.SSLContext):
    """A TLS context that many threads may connect with at once."""

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Do nothing: httpcore sets the list before each handshake.

        OpenSSL may be copying it for another thread's handshake just then, without a lock:
        10 of 380,000 greetings went out corrupt, tried. It is set once, in `tls_context`.
        """


def tls_context() -> ssl.SSLContext:
    context = SharedContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name
    context.load_default_certs()  # the machine's own authorities, a company's among them
    context.load_verify_locations(certifi.where())
    ssl.SSLContext.set_alpn_protocols(context, ["http/1.1"])
    return context


class Exchange(threading.local):
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


class _Kept(NamedTuple):
    """An idle connection."""

    until: float  # as time.monotonic() tells it
    key: str
    connection: httpcore.HTTPConnection


class Connections:
    """Connections for many threads at once, each used by one of them; kept between uses.

    At most `most` are open, the idle ones among them. Not httpcore's pool, which walks over
    all connections at each request: at 75 threads that took half of a request's CPU.
    """

    def __init__(
        self,
        network: CheckedNetwork,
        exchange: Exchange,
        tls: ssl.SSLContext,
        *,
        most: int,
        kept_s: float,
    ) -> None:
        self._network = network
        self._exchange = exchange
        self._tls = tls
        self._most = most
        self._changed = threading.Condition()
        self._used = 0
        self._idle: list[_Kept] = []  # the longest idle first
        self._kept_s = kept_s

    @contextlib.contextmanager
    def connection(
        self, origin: httpcore.Origin, key: str, *, fresh: bool = False
    ) -> Iterator[httpcore.HTTPConnection]:
        """One for the present thread, kept under `key` afterwards if it can be used again.

        `fresh` takes none that was kept. Raises httpcore.PoolTimeout when `most` stay in use.
        """
        self._enter()
        connection = None
        try:
            connection = (None if fresh else self._living(key)) or self._new(origin)
            yield connection
        finally:
            self._leave(connection, key)

    def close(self) -> None:
        """Close what is idle now, and what is in use at the end of its use."""
        self._kept_s = 0.0
        with self._changed:
            idle, self._idle = self._idle, []
        _close(idle)

    def _enter(self) -> None:
        wait_s = self._exchange.left_s(None, httpcore.PoolTimeout)
        with self._changed:
            if not self._changed.wait_for(lambda: self._used < self._most, wait_s):
                raise httpcore.PoolTimeout
            self._used += 1

    def _leave(self, connection: httpcore.HTTPConnection | None, key: str) -> None:
        with self._changed:
            self._used -= 1
            if connection is not None and connection.is_available():
                self._idle.append(_Kept(time.monotonic() + self._kept_s, key, connection))
            surplus = self._surplus()
            self._changed.notify()
        _close(surplus)

    def _living(self, key: str) -> httpcore.HTTPConnection | None:
        """The last used one, so that those that are needed less often grow old; None without."""
        while (kept := self._taken(key)) is not None:
            if not kept.has_expired():  # nor closed by the other side
                return kept
            kept.close()
        return None

    def _taken(self, key: str) -> httpcore.HTTPConnection | None:
        with self._changed:
            for place in range(len(self._idle) - 1, -1, -1):
                if self._idle[place].key == key:
                    return self._idle.pop(place).connection
        return None

    def _new(self, origin: httpcore.Origin) -> httpcore.HTTPConnection:
        with self._changed:
            surplus = self._surplus()
        _close(surplus)
        return httpcore.HTTPConnection(origin, ssl_context=self._tls, network_backend=self._network)

    def _surplus(self) -> list[_Kept]:
        """Those whose time is over, and the oldest where there are too many: to be closed."""
        now, surplus = time.monotonic(), []
        while self._idle and (
            self._idle[0].until <= now or self._used + len(self._idle) > self._most
        ):
            surplus.append(self._idle.pop(0))
        return surplus


def _close(unwanted: Iterable[_Kept]) -> None:
    for one in unwanted:
        one.connection.close()


class CheckedNetwork(httpcore.NetworkBackend):
    """Connects to the very addresses that were checked: a name is resolved here and only once.

    Sockets in the file system stay refused, as the base class has it.
    """

    def __init__(self, allowed: Allowed, resolve: Resolve, exchange: Exchange) -> None:
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
            self._check_peer(host, port, stream)
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

    def _check(
        self, host: str, port: int, found: Sequence[str], own: Sequence[tuple[str, int]] = ()
    ) -> None:
        complaint = addresses.refusal(host, port, found, self._allowed, (*self.own, *own))
        if complaint is not None:
            raise AddressRefused(complaint)

    def _check_peer(self, host: str, port: int, stream: httpcore.NetworkStream) -> None:
        """A listener on all addresses is on this machine's others too: there both ends are one."""
        peer, here = (stream.get_extra_info(end)[0] for end in ("server_addr", "client_addr"))
        everywhere = [ours for bound, ours in self.own if bound in ("0.0.0.0", "::")]  # noqa: S104
        self._check(host, port, [peer], [(here, ours) for ours in everywhere])

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

    def __init__(self, stream: httpcore.NetworkStream, exchange: Exchange) -> None:
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
