"""Outgoing HTTP against real sockets: what is refused, what is bounded, what is told."""

from __future__ import annotations

import contextlib
import gzip
import queue
import socket
import socketserver
import ssl
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple

import httpx
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from teckochecker import __version__
from teckochecker.addresses import Allowed
from teckochecker.errors import AddressRefused, Fault, HttpError
from teckochecker.http import MAX_BYTES, Http, Reply, retry_after_s

EVERYTHING = "0.0.0.0/0, ::/0"
LONG_S = 20.0  # for waits that end by themselves

Script = Callable[["Server", socket.socket], None]


class Request(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Server(socketserver.ThreadingTCPServer):
    """Plays `script` on each connection, in a thread of its own; notes how many there were."""

    request_queue_size = 256

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.script = script
        self.connections: list[socket.socket] = []
        self.requests: list[Request] = []
        self.port: int = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        with contextlib.suppress(OSError):
            self.script(self, request)

    def requests_of(self, connection: socket.socket) -> Iterator[Request]:
        with connection.makefile("rb") as reader:
            while line := reader.readline():
                method, target, _ = line.decode().split(" ")
                headers = dict(_headers(reader))
                body = reader.read(int(headers.get("content-length", 0)))
                self.requests.append(Request(method, target, headers, body))
                yield self.requests[-1]

    def stop(self) -> None:
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.shutdown()
        self.server_close()


def _headers(reader: Any) -> Iterator[tuple[str, str]]:
    while line := reader.readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        yield name.lower(), value.strip()


def answer(body: bytes = b"{}", status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture
def playing() -> Iterator[Callable[[Script], Server]]:
    """Starts servers that play a script on the bare connection."""
    with contextlib.ExitStack() as stack:

        def start(script: Script) -> Server:
            server = Server(script)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def serving(
    playing: Callable[[Script], Server],
) -> Callable[[Callable[[Request], bytes]], Server]:
    """Starts servers that answer each request with what `reply` makes of it."""

    def start(reply: Callable[[Request], bytes]) -> Server:
        def script(server: Server, connection: socket.socket) -> None:
            for request in server.requests_of(connection):
                connection.sendall(reply(request))

        return playing(script)

    return start


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> Callable[[], ssl.SSLContext]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return lambda: context


@pytest.fixture
def calling(trusting: Callable[[], ssl.SSLContext]) -> Iterator[Callable[..., Http]]:
    """Makes `Http`s, by default such that everything may be called, and closes them."""
    with contextlib.ExitStack() as stack:

        def make(allowed: str = EVERYTHING, **options: Any) -> Http:
            http = Http(
                Allowed.parse(allowed), **{"max_connections": 50, "tls": trusting, **options}
            )
            stack.callback(http.close)
            return http

        yield make


@pytest.fixture
def http(calling: Callable[..., Http]) -> Http:
    return calling()


class Leading:
    """A resolver: the first question gets the first list of addresses, the last one stays."""

    def __init__(self, *rounds: Sequence[str]) -> None:
        self.rounds = rounds
        self.asked = 0

    def __call__(self, host: str, port: int, *, type: int) -> list[tuple[Any, ...]]:  # noqa: A002
        found = self.rounds[min(self.asked, len(self.rounds) - 1)]
        self.asked += 1
        return [(socket.AF_INET, type, 6, "", (address, port)) for address in found]


# --- which addresses are connected to ---

REACHING_LOOPBACK = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0X7F000001",
    "0x7f.1",
    "0x7f.0.0.0x1",
    "0177.1",
    "017700000001",
    "0",
    "0.0.0.0",
    "0x0",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "localhost",
    "LOCALHOST",
    "127。0。0。1",
    "127．0．0．1",
    "127｡0｡0｡1",
]
FORBIDDEN = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200"),
    *("127.0.0.1", "127.0.0.2", "127.127.127.127", "127.255.255.255", "169.254.0.1"),
    *("169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.0.23", "169.254.42.42"),
    *("168.63.129.16", "172.16.0.1", "172.17.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192"),
    *("192.0.2.1", "192.88.99.1", "192.168.0.1", "192.168.1.1", "192.168.255.255", "198.18.0.1"),
    *("198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250"),
    *("240.0.0.1", "255.255.255.255", "::", "::1", "::2", "::127.0.0.1", "::ffff:0.0.0.0"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:192.168.0.1"),
    *("::ffff:7f00:1", "::ffff:a00:1", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::1"),
    *("64:ff9b:1::1", "100::1", "2001::1", "2001:0:7f00:1::", "2001:2::1", "2001:10::1"),
    *("2001:20::1", "2001:1ff::1", "2001:db8::1", "2002::1", "2002:7f00:1::", "2002:a00:1::1"),
    *("2002:a9fe:a9fe::", "3fff::1", "3fff:fff::1", "4000::1", "5f00::1", "8000::1", "fc00::1"),
    *("fd00::1", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe"),
    *("fd00:42::42", "fe80::1", "fe80::a9fe:a9fe", "fec0::1", "ff01::1", "ff02::1", "ff05::2"),
    *("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "1fff::1", "::ffff:224.0.0.1"),
]


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def test_eighty_addresses_are_tried() -> None:
    assert len(set(FORBIDDEN)) >= 80


@pytest.mark.parametrize("address", FORBIDDEN)
def test_a_forbidden_address_in_the_url_is_not_connected_to(
    address: str, calling: Callable[..., Http]
) -> None:
    with pytest.raises(AddressRefused) as caught:
        calling("").request("GET", f"http://{_in_url(address)}:9/")

    assert caught.value.fault is Fault.REFUSED
    assert not caught.value.maybe_done


@pytest.mark.parametrize("address", [*FORBIDDEN, "fe80::1%eth0", "fe80::a9fe:a9fe%1"])
@pytest.mark.parametrize("others", [[], ["8.8.8.8"]], ids=["alone", "beside a good one"])
def test_a_name_that_leads_to_a_forbidden_address_is_not_connected_to(
    address: str, others: list[str], calling: Callable[..., Http]
) -> None:
    http = calling("", resolve=Leading([*others, address]))

    with pytest.raises(AddressRefused, match=r"rebound\.example:9 "):
        http.request("GET", "http://rebound.example:9/")


@pytest.mark.parametrize("host", REACHING_LOOPBACK)
def test_loopback_is_reached_by_stock_httpx_but_not_by_ours(
    host: str,
    serving: Callable[[Callable[[Request], bytes]], Server],
    calling: Callable[..., Http],
    http: Http,
) -> None:
    server = serving(lambda _: answer(connection="close"))
    url = f"http://{host}:{server.port}/"

    with pytest.raises(AddressRefused):
        calling("").request("GET", url)
    assert server.connections == []

    assert http.request("GET", url).status_code == 200
    with httpx.Client(trust_env=False, verify=False) as stock:
        assert stock.get(url).status_code == 200


def test_a_name_may_lead_to_loopback_where_that_is_listed(
    serving: Callable[[Callable[[Request], bytes]], Server], calling: Callable[..., Http]
) -> None:
    server = serving(lambda _: answer())
    resolve = Leading(["127.0.0.1"])

    reply = calling(f"hook.test:{server.port}", resolve=resolve).request(
        "GET", f"http://hook.test:{server.port}/"
    )

    assert reply.status_code == 200
    with pytest.raises(AddressRefused):
        calling("hook.test:1", resolve=resolve).request("GET", f"http://hook.test:{server.port}/")


def test_what_was_checked_is_what_is_connected_to(
    serving: Callable[[Callable[[Request], bytes]], Server], calling: Callable[..., Http]
) -> None:
    server = serving(lambda _: answer(connection="close"))
    resolve = Leading(["127.0.0.1"], ["10.0.0.1"])
    http = calling("127.0.0.1", resolve=resolve)
    url = f"http://rebound.example:{server.port}/"

    assert http.request("GET", url).status_code == 200
    assert resolve.asked == 1
    with pytest.raises(AddressRefused, match=r"10\.0\.0\.1"):
        http.request("GET", url)


def test_the_address_at_the_other_end_is_checked_as_well(
    serving: Callable[[Callable[[Request], bytes]], Server], calling: Callable[..., Http]
) -> None:
    server = serving(lambda _: answer())

    with pytest.raises(AddressRefused, match=r"127\.0\.0\.1"):
        calling("0.0.0.0").request("GET", f"http://0.0.0.0:{server.port}/")

    assert server.requests == []


def test_our_own_address_is_not_called_even_if_listed(
    serving: Callable[[Callable[[Request], bytes]], Server], http: Http
) -> None:
    server = serving(lambda _: answer(connection="close"))

    assert http.request("GET", server.url).status_code == 200
    http.listening_on([("0.0.0.0", server.port)])

    with pytest.raises(AddressRefused, match="TeckoChecker itself"):
        http.request("GET", server.url)


def test_a_listener_on_all_addresses_is_known_by_each_of_them(
    calling: Callable[..., Http],
) -> None:
    with (
        socket.create_server(("0.0.0.0", 0)) as server,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
    ):
        with contextlib.suppress(OSError):  # sends nothing, only finds the way out
            udp.connect(("192.0.2.1", 9))
        address, port = udp.getsockname()[0], server.getsockname()[1]
        if address in ("0.0.0.0", "127.0.0.1"):
            pytest.skip("this machine has no address but its loopback")
        http = calling(address)
        http.listening_on([("0.0.0.0", port)])

        with pytest.raises(AddressRefused, match="TeckoChecker itself"):
            http.request("GET", f"http://{address}:{port}/", timeout_s=2)


def test_the_next_address_is_tried_when_one_refuses(
    serving: Callable[[Callable[[Request], bytes]], Server], calling: Callable[..., Http]
) -> None:
    server = serving(lambda _: answer())
    http = calling(resolve=Leading(["127.0.0.2", "127.0.0.3", "127.0.0.1"]))

    assert http.request("GET", f"http://hook.test:{server.port}/").status_code == 200


def test_a_redirect_is_an_answer_and_not_followed(
    serving: Callable[[Callable[[Request], bytes]], Server], http: Http
) -> None:
    location = "http://169.254.169.254/latest/meta-data/"
    server = serving(lambda _: answer(status="302 Found", location=location))

    reply = http.request("GET", server.url)

    assert (reply.status_code, reply.headers["location"]) == (302, location)
    assert len(server.requests) == 1


def test_a_redirect_to_nonsense_is_an_answer(
    serving: Callable[[Callable[[Request], bytes]], Server], http: Http
) -> None:
    server = serving(lambda _: answer(status="302 Found", location="http://[:1:x"))

    assert http.request("GET", server.url).status_code == 302


def test_proxies_of_the_environment_are_not_used(
    serving: Callable[[Callable[[Request], bytes]], Server],
    http: Http,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    server = serving(lambda _: answer())

    assert http.request("GET", server.url).status_code == 200


# --- what is sent ---


def test_a_request_carries_what_it_was_given_and_our_name(
    serving: Callable[[Callable[[Request], bytes]], Server], http: Http
) -> None:
    server = serving(lambda _: answer(b'{"id": 1}', X_Request_Id="r1"))

    reply = http.request(
        "POST",
        f"{server.url}/hook?a=1",
        headers={"Authorization": "Bearer x", "X-Empty": ""},
        params={"b": "ä &", "c": 3},
        content=b"body",
    )

    assert reply.document() == {"id": 1}
    assert reply.headers["x-request-id"] == "r1"
    assert not reply.truncated
    sent = server.requests[0]
    assert (sent.method, sent.target, sent.body) == ("POST", "/hook?a=1&b=%C3%A4+%26&c=3", b"body")
    assert sent.headers == {
        "host": f"127.0.0.1:{server.port}",
        "authorization": "Bearer x",
        "x-empty": "",
        "user-agent": f"TeckoChecker/{__version__}",
        "accept-encoding": "identity",
        "content-length": "4",
    }


def test_a_header_of_the_caller_replaces_ours(
    serving: Callable[[Callable[[Request], bytes]], Server], http: Http
) -> None:
    server = serving(lambda _: answer())

    http.request("GET", server.url, headers={"User-Agent": "mine"})

    assert server.requests[0].headers["user-agent"] == "mine"


def test_cookies_are_not_kept(
    serving: Callable[[Callable[[Request], bytes]], Server], http: Http
) -> None:
    server = serving(lambda _: answer(set_cookie="session=1; Path=/"))

    for _ in range(3):
        http.request("GET", server.url)

    assert all("cookie" not in request.headers for request in server.requests)


@pytest.mark.parametrize(
    "value", ["s3cret\n", "s3cret\r\nX-Other: 1", " s3cret", "s3cret ", "s3crét", "s3cret\x00"]
)
def test_a_header_that_can_not_be_sent_is_refused_without_showing_it(
    value: str, http: Http
) -> None:
    with pytest.raises(HttpError, match="Authorization") as caught:
        http.request("POST", "http://127.0.0.1:9/", headers={"Authorization": value})

    assert caught.value.fault is Fault.REFUSED
    assert not caught.value.maybe_done
    assert "s3cr" not in "".join(traceback.format_exception(caught.value, limit=0))


@pytest.mark.parametrize(
    ("method", "url", "headers"),
    [
        ("GET", "http://127.0.0.1:9/", {"X Y": "1"}),
        ("GET", "http://127.0.0.1:9/", {"": "1"}),
        ("GET", "http://127.0.0.1:9/", {"Xä": "1"}),
        ("POST", "http://127.0.0.1:9/", {"Content-Length": "5"}),
        ("POST", "http://127.0.0.1:9/", {"Transfer-Encoding": "chunked"}),
        ("G T", "http://127.0.0.1:9/", {}),
        ("GET", "http://127.0.0.1:99999/", {}),
        ("GET", "http://127.0.0.1:-1/", {}),
        ("GET", "http://127.0.0.1:x/", {}),
        ("GET", "http://127.0.0.1:9/\n", {}),
        ("GET", "http://127.0.0.1:9/\ud800", {}),
        ("GET", "http://0177.0.0.1:9/", {}),
        ("GET", "http://①②⑦.⓪.⓪.①:9/", {}),
        ("GET", "http://[::1:9/", {}),
        ("GET", "http://user:word@127.0.0.1:9/", {}),
        ("GET", f"http://{'a' * 64}.example:9/", {}),
        ("GET", "http://a..example:9/", {}),
        ("GET", "http:///path", {}),
        ("GET", "ftp://127.0.0.1/", {}),
        ("GET", "/path", {}),
        ("GET", "", {}),
    ],
)
def test_what_can_not_be_sent_is_refused(
    method: str,
    url: str,
    headers: dict[str, str],
    serving: Callable[[Callable[[Request], bytes]], Server],
    http: Http,
) -> None:
    server = serving(lambda _: answer())

    with pytest.raises(HttpError) as caught:
        http.request(method, url.replace(":9/", f":{server.port}/"), headers=headers)

    assert caught.value.fault is Fault.REFUSED
    assert not caught.value.maybe_done
    assert server.requests == []


# --- how long and how much ---


def test_an_answer_that_does_not_come_ends_in_time(
    playing: Callable[[Script], Server], http: Http
) -> None:
    server = playing(_wait_for_its_end)

    with pytest.raises(HttpError, match=f"127.0.0.1:{server.port} didn't answer") as caught:
        http.request("GET", f"{server.url}/x?token=s3cret", timeout_s=0.2)

    assert caught.value.fault is Fault.TRANSIENT
    assert caught.value.maybe_done
    assert caught.value.status_code is None
    assert "s3cret" not in str(caught.value)


def _wait_for_its_end(_: Server, connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


def _drip(connection: socket.socket, data: bytes) -> None:
    """One byte each 20 ms, far more often than any time-out of a single read."""
    connection.settimeout(0.02)
    for number in range(len(data)):
        connection.sendall(data[number : number + 1])
        with contextlib.suppress(TimeoutError):
            if not connection.recv(1 << 16):
                return


@pytest.mark.parametrize(
    ("head", "status_code"),
    [(b"HTTP/1.1 200 OK\r\nX: ", None), (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", 200)],
    ids=["header", "body"],
)
def test_an_answer_that_drips_ends_in_time(
    head: bytes, status_code: int | None, playing: Callable[[Script], Server], http: Http
) -> None:
    def script(server: Server, connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(head)
        _drip(connection, b"x" * 9999)

    server = playing(script)
    began_at = time.monotonic()

    with pytest.raises(HttpError, match=r"didn't end its answer within 0\.3 s") as caught:
        http.request("GET", server.url, timeout_s=0.3)

    assert time.monotonic() - began_at < 4
    assert caught.value.maybe_done
    assert caught.value.status_code == status_code


def test_a_kept_connection_is_as_bounded_as_a_new_one(
    playing: Callable[[Script], Server], http: Http
) -> None:
    def script(server: Server, connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(answer())
        connection.recv(1 << 16)
        _drip(connection, answer(b"x" * 9999))

    server = playing(script)
    http.request("GET", server.url, timeout_s=LONG_S)
    began_at = time.monotonic()

    with pytest.raises(HttpError, match=r"within 0\.3 s"):
        http.request("GET", server.url, timeout_s=0.3)

    assert time.monotonic() - began_at < 4
    assert len(server.connections) == 1


def test_endless_early_answers_end_in_time(playing: Callable[[Script], Server], http: Http) -> None:
    def script(server: Server, connection: socket.socket) -> None:
        connection.recv(1 << 16)
        while True:
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)

    server = playing(script)

    with pytest.raises(HttpError, match=r"within 0\.3 s"):
        http.request("GET", server.url, timeout_s=0.3)


def test_a_request_that_nobody_reads_ends_in_time(
    playing: Callable[[Script], Server], http: Http
) -> None:
    gone = threading.Event()

    def script(server: Server, connection: socket.socket) -> None:
        gone.wait(LONG_S)

    server = playing(script)

    with pytest.raises(HttpError, match=r"within 0\.3 s") as caught:
        http.request("POST", server.url, content=bytes(32 << 20), timeout_s=0.3)
    gone.set()

    assert caught.value.maybe_done


def test_a_request_that_is_read_in_drips_ends_in_time(
    playing: Callable[[Script], Server], http: Http
) -> None:
    gone = threading.Event()

    def script(server: Server, connection: socket.socket) -> None:
        while not gone.wait(0.01):
            connection.recv(1 << 17)  # every wait for room is short, but 64 MB take 5 s

    server = playing(script)
    began_at = time.monotonic()

    with pytest.raises(HttpError, match=r"within 0\.3 s"):
        http.request("POST", server.url, content=bytes(64 << 20), timeout_s=0.3)
    gone.set()

    assert time.monotonic() - began_at < 4


@pytest.mark.parametrize(
    ("size", "truncated"), [(0, False), (99, False), (100, False), (101, True)]
)
def test_a_body_is_cut_at_its_bound(
    size: int,
    truncated: bool,
    serving: Callable[[Callable[[Request], bytes]], Server],
    http: Http,
) -> None:
    server = serving(lambda _: answer(b"x" * size))

    reply = http.request("GET", server.url, max_bytes=100)

    assert reply.body == b"x" * min(size, 100)
    assert reply.truncated is truncated


def test_an_endless_body_is_cut(playing: Callable[[Script], Server], http: Http) -> None:
    def script(server: Server, connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    reply = http.request("GET", playing(script).url, timeout_s=LONG_S)

    assert len(reply.body) == MAX_BYTES
    assert reply.truncated


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "gzip, gzip", "br", "deflate"])
def test_a_compressed_bomb_stays_small(
    encoding: str, serving: Callable[[Callable[[Request], bytes]], Server], http: Http
) -> None:
    bomb = gzip.compress(gzip.compress(bytes(16 << 20)) if "," in encoding else bytes(16 << 20))
    server = serving(lambda _: answer(bomb, content_encoding=encoding))
    http.request("HEAD", server.url)  # loads what is loaded once

    tracemalloc.start()
    reply = http.request("GET", server.url)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(reply.body) <= MAX_BYTES
    assert peak_bytes < 2 << 20


def test_a_compressed_answer_is_read_although_nobody_asked_for_it(
    serving: Callable[[Callable[[Request], bytes]], Server], http: Http
) -> None:
    server = serving(lambda _: answer(gzip.compress(b'{"id": 1}'), content_encoding="gzip"))

    assert http.request("GET", server.url).document() == {"id": 1}


def test_an_answer_with_broken_compression_has_still_come(
    serving: Callable[[Callable[[Request], bytes]], Server], http: Http
) -> None:
    server = serving(lambda _: answer(b'{"id": 1}', content_encoding="gzip"))

    reply = http.request("POST", server.url)

    assert (reply.status_code, reply.body) == (200, b"")


# --- connections ---


def test_a_connection_is_used_again(
    serving: Callable[[Callable[[Request], bytes]], Server], http: Http
) -> None:
    server = serving(lambda _: answer())

    for _ in range(5):
        http.request("GET", server.url)

    assert (len(server.requests), len(server.connections)) == (5, 1)


def test_a_connection_is_never_shared_between_keys(
    serving: Callable[[Callable[[Request], bytes]], Server], http: Http
) -> None:
    server = serving(lambda _: answer())

    for number in range(6):
        http.request("GET", server.url, pool_key=str(number % 3))

    assert (len(server.requests), len(server.connections)) == (6, 3)


def test_the_connection_used_last_is_used_first(
    playing: Callable[[Script], Server], http: Http
) -> None:
    together = threading.Barrier(2)
    used: list[socket.socket] = []

    def script(server: Server, connection: socket.socket) -> None:
        for number, _ in enumerate(server.requests_of(connection)):
            used.append(connection)
            if number == 0:
                together.wait(LONG_S)
            connection.sendall(answer())

    server = playing(script)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: http.request("GET", server.url), range(2)))
    for _ in range(5):
        http.request("GET", server.url)

    assert len(set(used[:2])) == 2
    assert len(set(used[2:])) == 1


def test_the_longest_idle_connection_makes_room_for_a_new_one(
    playing: Callable[[Script], Server], calling: Callable[..., Http]
) -> None:
    left: queue.SimpleQueue[int] = queue.SimpleQueue()

    def script(server: Server, connection: socket.socket) -> None:
        place = len(server.connections)
        for _ in server.requests_of(connection):
            connection.sendall(answer())
        left.put(place)

    server = playing(script)
    http = calling(max_connections=2)
    for key in "abc":
        http.request("GET", server.url, pool_key=key)

    assert left.get(timeout=LONG_S) == 1
    http.request("GET", server.url, pool_key="b")
    assert len(server.connections) == 3


def test_a_connection_that_is_idle_for_too_long_is_closed_by_the_next_call(
    playing: Callable[[Script], Server], calling: Callable[..., Http]
) -> None:
    left = threading.Event()

    def script(server: Server, connection: socket.socket) -> None:
        first = len(server.connections) == 1
        for _ in server.requests_of(connection):
            connection.sendall(answer())
        if first:
            left.set()

    server = playing(script)
    http = calling(kept_s=0.05)
    http.request("GET", server.url)
    time.sleep(0.06)
    http.request("GET", server.url, pool_key="another")

    assert left.wait(LONG_S)


def test_close_ends_idle_connections_at_once_and_others_after_their_answer(
    playing: Callable[[Script], Server], http: Http
) -> None:
    left: queue.SimpleQueue[str] = queue.SimpleQueue()
    reached, leave = threading.Event(), threading.Event()

    def script(server: Server, connection: socket.socket) -> None:
        for request in server.requests_of(connection):
            if request.target == "/slow":
                reached.set()
                leave.wait(LONG_S)
            connection.sendall(answer())
        left.put(request.target)

    server = playing(script)
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(http.request, "GET", f"{server.url}/slow")
        assert reached.wait(LONG_S)
        http.request("GET", f"{server.url}/idle")
        http.close()
        assert left.get(timeout=LONG_S) == "/idle"
        leave.set()
        assert slow.result().status_code == 200

    assert left.get(timeout=LONG_S) == "/slow"


def test_a_call_that_failed_leaves_room_for_the_next(
    playing: Callable[[Script], Server], calling: Callable[..., Http]
) -> None:
    http = calling(max_connections=1)
    for _ in range(3):
        with pytest.raises(HttpError, match="can't be reached"):
            http.request("GET", "http://127.0.0.1:9", timeout_s=1)
    server = playing(_dying(answered=0))
    for _ in range(3):
        with pytest.raises(HttpError, match="without an answer"):
            http.request("POST", server.url, timeout_s=1)


def test_a_cut_body_does_not_spoil_the_next_answer(
    serving: Callable[[Callable[[Request], bytes]], Server], http: Http
) -> None:
    server = serving(lambda request: answer(request.target.encode() * 100))

    assert http.request("GET", f"{server.url}/a", max_bytes=2).body == b"/a"
    assert http.request("GET", f"{server.url}/b", max_bytes=2).body == b"/b"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_connection_that_the_server_closed_is_not_used_again(
    method: str, playing: Callable[[Script], Server], http: Http
) -> None:
    closed = threading.Event()

    def script(server: Server, connection: socket.socket) -> None:
        next(server.requests_of(connection))
        connection.sendall(answer())
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()

    server = playing(script)
    http.request("GET", server.url)
    assert closed.wait(LONG_S)

    assert http.request(method, server.url).status_code == 200


def _dying(answered: int) -> Script:
    """Answers so many requests on a connection, and hangs up when the next one comes."""

    def script(server: Server, connection: socket.socket) -> None:
        for number, _ in enumerate(server.requests_of(connection)):
            if number == answered:
                return
            connection.sendall(answer())

    return script


def test_a_get_that_met_a_dying_connection_is_sent_once_more(
    playing: Callable[[Script], Server], http: Http
) -> None:
    server = playing(_dying(answered=1))
    http.request("GET", server.url)

    assert http.request("GET", server.url).status_code == 200
    assert (len(server.requests), len(server.connections)) == (3, 2)


def test_a_get_is_sent_once_more_on_a_new_connection_even_if_others_are_idle(
    playing: Callable[[Script], Server], http: Http
) -> None:
    together = threading.Barrier(2)

    def script(server: Server, connection: socket.socket) -> None:
        old = len(server.connections) <= 2
        for number, _ in enumerate(server.requests_of(connection)):
            if old and number == 1:
                return
            if old:
                together.wait(LONG_S)
            connection.sendall(answer())

    server = playing(script)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: http.request("GET", server.url), range(2)))

    assert http.request("GET", server.url).status_code == 200
    assert (len(server.requests), len(server.connections)) == (4, 3)


def test_a_get_is_sent_no_third_time(playing: Callable[[Script], Server], http: Http) -> None:
    server = playing(_dying(answered=1))
    http.request("GET", server.url)
    server.script = _dying(answered=0)

    with pytest.raises(HttpError, match="without an answer"):
        http.request("GET", server.url)

    assert len(server.requests) == 3


def test_a_post_that_met_a_dying_connection_is_reported(
    playing: Callable[[Script], Server], http: Http
) -> None:
    server = playing(_dying(answered=1))
    http.request("GET", server.url)

    with pytest.raises(HttpError, match="without an answer") as caught:
        http.request("POST", server.url)

    assert caught.value.maybe_done
    assert [request.method for request in server.requests] == ["GET", "POST"]


def test_a_get_on_a_new_connection_is_sent_once(
    playing: Callable[[Script], Server], http: Http
) -> None:
    server = playing(_dying(answered=0))

    with pytest.raises(HttpError, match="without an answer") as caught:
        http.request("GET", server.url)

    assert caught.value.maybe_done
    assert len(server.requests) == 1


def test_many_threads_call_at_once(
    serving: Callable[[Callable[[Request], bytes]], Server], calling: Callable[..., Http]
) -> None:
    together = threading.Barrier(150)
    loaded: list[ssl.SSLContext] = []

    def reply(request: Request) -> bytes:
        together.wait(LONG_S)  # breaks unless all 150 are under way
        return answer(request.target.encode())

    def tls() -> ssl.SSLContext:
        loaded.append(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        return loaded[-1]

    server = serving(reply)
    http = calling(max_connections=150, tls=tls)
    assert loaded == []

    with ThreadPoolExecutor(150) as threads:
        bodies = list(
            threads.map(
                lambda number: (
                    http.request("GET", f"{server.url}/{number}", pool_key=str(number % 3)).text
                ),
                range(300),
            )
        )

    assert bodies == [f"/{number}" for number in range(300)]
    assert len(loaded) == 1


def test_waiting_for_a_connection_ends_in_time(
    serving: Callable[[Callable[[Request], bytes]], Server], calling: Callable[..., Http]
) -> None:
    reached, leave = threading.Event(), threading.Event()

    def reply(_: Request) -> bytes:
        reached.set()
        leave.wait(LONG_S)
        return answer()

    server = serving(reply)
    http = calling(max_connections=1)

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(http.request, "GET", server.url)
        assert reached.wait(LONG_S)
        with pytest.raises(HttpError, match=r"busy for 0\.1 s") as caught:
            http.request("POST", server.url, timeout_s=0.1)
        leave.set()
        assert first.result().status_code == 200

    assert caught.value.fault is Fault.TRANSIENT
    assert not caught.value.maybe_done


# --- what is told when it fails ---


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_closed_port_is_told_and_nothing_was_done(
    method: str, calling: Callable[..., Http]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    resolve = Leading(["127.0.0.1"])

    with pytest.raises(HttpError) as caught:
        calling(resolve=resolve).request(
            method, f"http://hook.test:{port}/x?token=s3cret", content=b"s3cret"
        )

    assert str(caught.value) == f"hook.test:{port} can't be reached: Connection refused"
    assert resolve.asked == 1
    assert caught.value.fault is Fault.TRANSIENT
    assert not caught.value.maybe_done


def test_a_name_without_address_is_told_and_nothing_was_done(calling: Callable[..., Http]) -> None:
    def resolve(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(HttpError) as caught:
        calling(resolve=resolve).request("POST", "https://gone.example/x")

    assert str(caught.value) == "gone.example:443 can't be reached: Name or service not known"
    assert caught.value.fault is Fault.TRANSIENT
    assert not caught.value.maybe_done


def test_resolving_eats_the_time_of_the_call(calling: Callable[..., Http]) -> None:
    def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        time.sleep(0.05)
        return [(socket.AF_INET, 1, 6, "", ("127.0.0.1", port))]

    with pytest.raises(HttpError, match="in time") as caught:
        calling(resolve=resolve).request("POST", "https://slow.example/x", timeout_s=0.02)

    assert not caught.value.maybe_done


@pytest.mark.parametrize(
    ("sent", "words", "status_code"),
    [
        (b"SSH-2.0-OpenSSH_9.9\r\n", "isn't HTTP", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "broke off", 200),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "isn't HTTP", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "isn't HTTP", 200),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, "isn't HTTP", None),
        (b"", "without an answer", None),
    ],
)
def test_a_broken_answer_is_told_and_may_have_been_done(
    sent: bytes,
    words: str,
    status_code: int | None,
    playing: Callable[[Script], Server],
    http: Http,
) -> None:
    def script(server: Server, connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        _wait_for_its_end(server, connection)

    server = playing(script)

    with pytest.raises(HttpError, match=words) as caught:
        http.request("POST", server.url, timeout_s=LONG_S)

    assert caught.value.fault is Fault.TRANSIENT
    assert caught.value.maybe_done
    assert caught.value.status_code == status_code


@pytest.mark.parametrize("size", [0, 32 << 20], ids=["while reading", "while writing"])
def test_a_reset_may_have_been_done(
    size: int, playing: Callable[[Script], Server], http: Http
) -> None:
    def script(server: Server, connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    with pytest.raises(HttpError, match="without an answer") as caught:
        http.request("POST", playing(script).url, content=bytes(size))

    assert caught.value.maybe_done


# --- TLS ---


@pytest.fixture
def securely(
    authority: trustme.CA, playing: Callable[[Script], Server]
) -> Callable[[Script], Server]:
    """Starts servers that play a script behind TLS, with a certificate for hook.test."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("hook.test").configure_cert(context)

    def start(script: Script) -> Server:
        def secure(server: Server, connection: socket.socket) -> None:
            with context.wrap_socket(connection, server_side=True) as wrapped:
                script(server, wrapped)

        return playing(secure)

    return start


def test_a_call_over_tls_is_answered_and_its_connection_kept(
    securely: Callable[[Script], Server],
    calling: Callable[..., Http],
) -> None:
    def script(server: Server, connection: socket.socket) -> None:
        for request in server.requests_of(connection):
            connection.sendall(answer(request.body))

    server = securely(script)
    http = calling("hook.test", resolve=Leading(["127.0.0.1"]))
    body = bytes(range(256)) * 200

    for _ in range(3):
        reply = http.request("POST", f"https://hook.test:{server.port}/", content=body)
        assert reply.body == body

    assert len(server.connections) == 1


def test_a_certificate_for_another_name_is_refused(
    securely: Callable[[Script], Server],
    calling: Callable[..., Http],
) -> None:
    server = securely(_wait_for_its_end)
    http = calling("other.test", resolve=Leading(["127.0.0.1"]))

    with pytest.raises(HttpError, match=r"certificate isn't accepted.*other\.test") as caught:
        http.request("POST", f"https://other.test:{server.port}/")

    assert caught.value.fault is Fault.TRANSIENT
    assert not caught.value.maybe_done


def test_a_certificate_of_an_unknown_authority_is_refused(
    securely: Callable[[Script], Server],
) -> None:
    server = securely(_wait_for_its_end)
    http = Http(Allowed.parse("hook.test"), max_connections=1, resolve=Leading(["127.0.0.1"]))

    with (
        contextlib.closing(http),
        pytest.raises(HttpError, match="certificate isn't accepted") as caught,
    ):
        http.request("POST", f"https://hook.test:{server.port}/")

    assert not caught.value.maybe_done


def test_a_port_without_tls_is_told(
    playing: Callable[[Script], Server], calling: Callable[..., Http]
) -> None:
    def script(server: Server, connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server = playing(script)

    with pytest.raises(HttpError, match="TLS failed") as caught:
        calling().request("POST", f"https://127.0.0.1:{server.port}/")

    assert not caught.value.maybe_done


def test_a_handshake_that_hangs_ends_in_time(
    playing: Callable[[Script], Server], calling: Callable[..., Http]
) -> None:
    server = playing(_wait_for_its_end)

    with pytest.raises(HttpError, match="didn't take a connection in time") as caught:
        calling().request("POST", f"https://127.0.0.1:{server.port}/", connect_timeout_s=0.2)

    assert not caught.value.maybe_done


def test_an_answer_that_drips_over_tls_ends_in_time(
    securely: Callable[[Script], Server],
    calling: Callable[..., Http],
) -> None:
    def script(server: Server, connection: socket.socket) -> None:
        connection.recv(1 << 16)
        _drip(connection, answer(b"x" * 9999))

    server = securely(script)
    http = calling(resolve=Leading(["127.0.0.1"]))
    began_at = time.monotonic()

    with pytest.raises(HttpError, match=r"within 0\.3 s"):
        http.request("GET", f"https://hook.test:{server.port}/", timeout_s=0.3)

    assert time.monotonic() - began_at < 4


# --- reading an answer ---


def _reply(body: bytes, *, truncated: bool = False) -> Reply:
    return Reply(status_code=200, headers={}, body=body, truncated=truncated, duration_ms=1)


def test_a_json_object_is_read() -> None:
    assert _reply(b' {"a": [1, null, "x"]} ').document() == {"a": [1, None, "x"]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "an empty body"),
        (b" \r\n", "an empty body"),
        (b"[]", "a JSON list"),
        (b'"x"', "a JSON string"),
        (b"1", "a JSON number"),
        (b"1.5", "a JSON number"),
        (b"true", "a JSON boolean"),
        (b"null", "a JSON null"),
        (b"NaN", "no valid JSON"),
        (b'{"a": NaN}', "no valid JSON"),
        (b'{"a": 1', "no valid JSON"),
        (b'{"a": 1} x', "no valid JSON"),
        (b'{"a": "\xff"}', "no valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no valid JSON"),
        (b"[" * 60_000, "nested too deeply"),
        (b'{"a":' * 12_000, "nested too deeply"),
        (
            b"<!doctype html><html><TITLE lang='en'>\n Sign&nbsp;in &amp; go </TITLE>",
            "a page titled 'Sign in & go'",
        ),
        (b"<html><body>no title</body>", "a page of HTML or XML"),
        (b"\xff\xfe", "no valid JSON"),
    ],
)
def test_what_is_no_json_object_is_named(body: bytes, words: str) -> None:
    with pytest.raises(HttpError) as caught:
        _reply(body).document()

    assert words in str(caught.value)
    assert caught.value.fault is Fault.MALFORMED
    assert caught.value.status_code == 200
    assert len(caught.value.answer) <= 4096


def test_a_cut_document_is_not_read() -> None:
    with pytest.raises(HttpError, match="more than 2 bytes"):
        _reply(b"{}", truncated=True).document()


@given(st.binary())
def test_any_body_is_a_document_or_malformed(body: bytes) -> None:
    reply = _reply(body)
    try:
        assert isinstance(reply.document(), dict)
    except HttpError as error:
        assert error.fault is Fault.MALFORMED  # noqa: PT017
    assert isinstance(reply.text, str)


# --- Retry-After ---

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1e3", None),
        ("٣", None),
        ("0", 1.0),
        ("0.5", 1.0),
        ("30", 30.0),
        (" 30 ", 30.0),
        ("2.5", 2.5),
        ("7200", 3600.0),
        ("9" * 5000, 3600.0),
        ("Sat, 21 Nov 2026 12:01:30 GMT", 90.0),
        ("Sat, 21 Nov 2026 13:01:30 +0100", 90.0),
        ("Sat, 21 Nov 2026 12:01:30 -0000", 90.0),
        ("Saturday, 21-Nov-26 12:01:30 GMT", 90.0),
        ("Sat Nov 21 12:01:30 2026", 90.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 1.0),
        ("Sat, 21 Nov 2099 11:00:00 GMT", 3600.0),
        ("Sat, 99 Nov 2026 11:00:00 GMT", None),
        ("Sat, 21 Nov 99999999999999999999 11:00:00 GMT", None),
        ("2026-11-21T12:01:30Z", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, expected: float | None) -> None:
    assert retry_after_s(value, NOW) == expected


@given(
    st.one_of(
        st.text(),
        st.lists(
            st.sampled_from(
                ["Sat,", "21", "Nov", "2026", "12:00:00", "GMT", "+9999", "-0000", ":", "0", ","]
            )
        ).map(" ".join),
        st.integers().map(str),
        st.datetimes(timezones=st.just(UTC)).map(
            lambda instant: f"{instant:%a, %d %b %Y %H:%M:%S GMT}"
        ),
    ),
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=14))])),
)
def test_retry_after_is_none_or_between_a_second_and_an_hour(value: str, now: datetime) -> None:
    wait_s = retry_after_s(value, now)

    assert wait_s is None or 1.0 <= wait_s <= 3600.0
