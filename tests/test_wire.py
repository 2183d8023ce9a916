"""What comes in over the wire: strict JSON, bounded bodies, and what becomes of all others."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from teckochecker.app import App
from teckochecker.errors import InvalidInput
from teckochecker.web import create_web
from teckochecker.web.wire import MAX_DEPTH, MAX_NUMBER, decode, wanted
from tests.conftest import TOKEN, Api
from tests.serving import CLOSE, JSON, exchange, raw, served, status_of

MIB = 1024 * 1024

# Decoding

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\t\n\r\x85"))
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_NUMBER, MAX_NUMBER)
    | st.floats(-1e300, 1e300, allow_nan=False)
    | texts
)
plain = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=10
)


@settings(max_examples=30)
@given(st.dictionaries(texts, plain, max_size=3), st.booleans())
def test_it_reads_every_plain_object_as_it_was_written(
    document: dict[str, Any], escaped: bool
) -> None:
    assert decode(json.dumps(document, ensure_ascii=escaped).encode()) == document


@given(st.binary() | st.text().map(lambda text: text.encode(errors="surrogatepass")))
@example(b'{"a": 1e400}')
@example(b'{"a": "\\ud800"}')
@example(b"\xff\xfe{\x00}\x00")
def test_it_reads_or_refuses_whatever_it_is_given(body: bytes) -> None:
    try:
        said, found = "", decode(body)
    except InvalidInput as refusal:
        said, found = str(refusal), {}

    assert isinstance(found, dict)
    assert len(said) < 300


BAD_BODIES = {
    "nothing": (b"", "valid JSON"),
    "a blank": (b" ", "valid JSON"),
    "a word": (b"hello", "valid JSON"),
    "half an object": (b'{"a": 1', "valid JSON"),
    "two objects": (b"{} {}", "valid JSON"),
    "single quotes": (b"{'a': 1}", "valid JSON"),
    "a comment": (b'{"a": 1 // one\n}', "valid JSON"),
    "a trailing comma": (b'{"a": 1,}', "valid JSON"),
    "a list": (b"[]", "JSON object"),
    "a text": (b'"a"', "JSON object"),
    "a number": (b"1", "JSON object"),
    "null": (b"null", "JSON object"),
    "NaN": (b'{"a": NaN}', "NaN"),
    "Infinity": (b'{"a": Infinity}', "Infinity"),
    "minus Infinity": (b'{"a": [-Infinity]}', "Infinity"),
    "1e999": (b'{"a": 1e999}', "too large"),
    "minus 1e999": (b'{"a": {"b": -1e999}}', "too large"),
    "2^53 + 1": (b'{"a": 9007199254740993}', "2^53"),
    "minus 2^53 - 1": (b'{"a": -9007199254740993}', "2^53"),
    "2^63": (b'{"a": 9223372036854775808}', "2^53"),
    "2^64": (b'{"a": 18446744073709551616}', "2^53"),
    "100,000 digits": (b'{"a": ' + b"1" * 100_000 + b"}", "2^53"),
    "a leading zero": (b'{"a": 01}', "valid JSON"),
    "a key twice": (b'{"a": 1, "a": 1}', "'a' stands in it twice"),
    "a key twice below": (b'{"a": [{"b": 1, "c": 2, "b": 3}]}', "'b' stands in it twice"),
    "a key twice, escaped": (b'{"a": 1, "\\u0061": 2}', "'a' stands in it twice"),
    "an escaped NUL": (b'{"a": "\\u0000"}', "control characters"),
    "a raw NUL": (b'{"a": "\x00"}', "valid JSON"),
    "a raw line break": (b'{"a": "x\ny"}', "valid JSON"),
    "an escape": (b'{"a": "\\u001b[31m"}', "control characters"),
    "a delete": (b'{"a": "\x7f"}', "control characters"),
    "a control character in a key": (b'{"a\\u0007": 1}', "control characters"),
    "half a surrogate pair": (b'{"a": "\\ud800"}', "surrogate"),
    "its other half": (b'{"a": ["\\udc00"]}', "surrogate"),
    "half a pair in a key": (b'{"\\udfff": 1}', "surrogate"),
    "half a pair as bytes": (b'{"a": "\xed\xa0\x80"}', "UTF-8"),
    "latin-1": ('{"a": "é"}'.encode("latin-1"), "UTF-8"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "UTF-8"),
    "UTF-32 without a mark": ('{"a": 1}'.encode("utf-32-le"), "valid JSON"),
    "a byte order mark": (b'\xef\xbb\xbf{"a": 1}', "BOM"),
    "a cut character": (b'{"a": "\xc5', "UTF-8"),
    "100,000 lists": (b'{"a": ' + b"[" * 100_000, "32 levels"),
    "100,000 objects": (b'{"a":' * 100_000, "32 levels"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_BODIES)
def test_it_refuses_what_not_every_reader_of_json_takes_alike(what: str) -> None:
    body, said = BAD_BODIES[what]

    with pytest.raises(InvalidInput, match=r"^The body ") as refusal:
        decode(body)

    assert said.replace("\\", "") in str(refusal.value)
    assert len(str(refusal.value)) < 300


def nested(levels: int) -> bytes:
    """An object in which a number lies `levels` containers deep."""
    return b'{"a": ' * levels + b"1" + b"}" * levels


def test_it_reads_up_to_32_levels() -> None:
    assert decode(nested(MAX_DEPTH))
    with pytest.raises(InvalidInput, match="32 levels"):
        decode(nested(MAX_DEPTH + 1))


def test_the_largest_numbers_are_exact() -> None:
    assert decode(b'{"a": [9007199254740992, -9007199254740992]}') == {"a": [2**53, -(2**53)]}


def test_a_surrogate_pair_is_one_character() -> None:
    assert decode(b'{"a": "\\ud83d\\ude00"}') == {"a": "😀"}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("7", 7),
        ("007", 7),
        ("9223372036854775808", 2**63),
        ("99999999999999999999", "99999999999999999999"),
        ("٣", "٣"),
        ("-1", "-1"),
        ("1.0", "1.0"),
        ("0x10", "0x10"),
        ("nightly", "nightly"),
        ("\ud800", ""),
    ],
)
def test_a_path_names_an_id_by_digits_and_else_a_name(text: str, meant: int | str) -> None:
    assert wanted(text) == meant


# Bodies over HTTP


OTHER_MEDIA = (
    None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
    "application/jsonp", "text/json",
)  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/jobs"),
        ("PUT", "/api/jobs/nightly"),
        ("POST", "/api/admin/secrets"),
        ("PUT", "/api/admin/secrets/openai-prod"),
        ("POST", "/api/admin/secrets/openai-prod/test"),
    ],
)
async def test_it_refuses_other_media_types(
    api: Api, secrets: dict[str, int], method: str, path: str
) -> None:
    for media in OTHER_MEDIA:
        headers = {} if media is None else {"content-type": media}
        answer = await api.client.request(method, path, content=b"{}", headers=headers)
        assert answer.status_code == 415, media
        assert answer.json()["code"] == 1100
        assert "application/json" in answer.json()["detail"]


async def test_it_reads_json_by_any_of_its_names(api: Api) -> None:
    for media in ("application/json", "Application/JSON; charset=utf-8", "application/vnd.x+json"):
        answer = await api.client.post("/api/jobs", content=b"{}", headers={"content-type": media})
        assert answer.status_code == 400
        assert "is required" in answer.json()["detail"]


async def test_a_flood_of_unknown_names_is_answered_briefly(api: Api) -> None:
    body = {f"field{n}": 1 for n in range(50_000)}
    query = "&".join(f"a{n}=1" for n in range(1000))

    for answer in (
        await api.client.post("/api/jobs", json=body),
        await api.client.get(f"/api/jobs?{query}"),
    ):
        assert answer.status_code == 400
        assert len(answer.content) < 20_000


async def test_a_bad_body_is_a_400_wherever_one_is_read(api: Api, secrets: dict[str, int]) -> None:
    headers = {"content-type": "application/json"}
    calls = [
        ("POST", "/api/jobs"),
        ("POST", "/api/admin/secrets"),
        ("PUT", "/api/admin/secrets/openai-prod"),
        ("POST", "/api/admin/secrets/openai-prod/test"),
    ]
    for body in (b"[1]", b'{"a": 1', b'{"a": NaN}', b'{"\\ud800": 1}', b"\xff"):
        for method, path in calls:
            answer = await api.client.request(method, path, content=body, headers=headers)
            assert answer.status_code == 400, (path, body)
            assert answer.json()["code"] == 1100


async def test_a_body_where_none_is_read_makes_no_difference(api: Api) -> None:
    answer = await api.client.request("GET", "/api/jobs", content=b"\xff\x00 not JSON")

    assert answer.status_code == 200


async def test_a_body_may_have_one_mebibyte_and_not_a_byte_more(api: Api) -> None:
    headers = {"content-type": "application/json"}
    for size, status in ((MIB, 400), (MIB + 1, 413)):
        body = b'{"name": "' + b"n" * (size - 12) + b'"}'
        answer = await api.client.post("/api/jobs", content=body, headers=headers)
        assert (len(body), answer.status_code) == (size, status)
        assert len(answer.content) < 2000
    assert "1048576 bytes" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/session"), ("GET", "/"), ("GET", "/static/page.js")]
)
async def test_a_stranger_may_not_send_much(app: App, method: str, path: str) -> None:
    """200 of them with 1 MB each took 200 MB."""
    size = {"content-type": "application/json", "content-length": "8193"}
    async with served(app) as url:
        request = raw(method, path, *(f"{name}: {text}" for name, text in size.items()))
        answer = await exchange(url, request)

    assert status_of(answer) == 413


# A client that is slow, or goes away: the ASGI application itself

Message = MutableMapping[str, Any]


async def asgi(
    app: App,
    receive: Callable[[], Awaitable[Message]],
    method: str = "GET",
    path: str = "/api/health",
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> list[Message]:
    """What the application sends for one request."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await create_web(app)(scope, receive, send)
    return sent


async def test_a_body_that_never_comes_is_refused_after_ten_seconds(
    app: App, autojump_clock: trio.testing.MockClock
) -> None:
    async def never() -> Message:
        await trio.sleep_forever()
        raise AssertionError

    start, _ = await asgi(app, never)

    assert start["status"] == 408
    assert trio.current_time() == pytest.approx(10)


async def test_a_body_that_trickles_has_ten_seconds_in_all(
    app: App, autojump_clock: trio.testing.MockClock
) -> None:
    async def a_byte_a_second() -> Message:
        await trio.sleep(1)
        return {"type": "http.request", "body": b" ", "more_body": True}

    start, _ = await asgi(app, a_byte_a_second)

    assert start["status"] == 408
    assert trio.current_time() == pytest.approx(10)


async def test_nothing_is_done_for_a_client_that_went_away_before_its_request_was_whole(
    app: App, api: Api, secrets: dict[str, int]
) -> None:
    pieces: list[Message] = [
        {"type": "http.request", "body": b'{"name": "x", ', "more_body": True},
        {"type": "http.request", "body": b'"type": "generic", "value": "v"}', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return pieces.pop(0)

    headers = (
        (b"authorization", f"Bearer {TOKEN}".encode()),
        (b"content-type", b"application/json"),
    )
    sent = await asgi(app, receive, "POST", "/api/admin/secrets", headers)

    assert sent == []
    assert (await api("GET", "/api/admin/secrets"))["total"] == len(secrets)


async def test_a_size_that_is_no_number_is_refused(app: App) -> None:
    async def nothing() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    for declared in (b"-1", b"1e3", b"", b"0x10", b"9" * 100):
        start, _ = await asgi(app, nothing, headers=((b"content-length", declared),))
        assert start["status"] == 413, declared


# The real server on a real socket


async def test_a_body_in_chunks_is_counted_as_it_comes(app: App) -> None:
    async with served(app) as url:
        head = raw("POST", "/api/jobs", JSON, "Transfer-Encoding: chunked")
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        answer = await exchange(url, head, *[chunk] * 17)

        assert status_of(answer) == 413
        assert b"application/problem+json" in answer
        assert (await exchange(url, raw("GET", "/api/jobs", CLOSE))).startswith(b"HTTP/1.1 200")


async def test_a_body_whose_end_is_told_in_two_ways_ends_the_connection(app: App) -> None:
    """Else what a proxy took for its content would be answered as a request of its own."""
    async with served(app) as url:
        both = raw("POST", "/api/jobs", JSON, "Content-Length: 4", "Transfer-Encoding: chunked")
        answer = await exchange(url, both + b"0\r\n\r\n" + raw("GET", "/api/health"))

    assert status_of(answer) == 400
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(app: App) -> None:
    async with served(app) as url:
        head = raw("POST", "/api/jobs", JSON, f"Content-Length: {MIB + 1}")

        answer = await exchange(url, head)

        assert status_of(answer) == 413
        assert b"connection: close" in answer.lower()


async def test_a_body_in_chunks_is_read_whole(app: App) -> None:
    async with served(app) as url:
        head = raw("POST", "/api/jobs", JSON, "Transfer-Encoding: chunked", CLOSE)

        answer = await exchange(url, head, b"1\r\n{\r\n", b"1\r\n}\r\n", b"0\r\n\r\n")

        assert status_of(answer) == 400
        assert b"is required" in answer


NO_HTTP = (
    b"hello\r\n\r\n",
    b"GET /api/health HTTP/1.1\r\n\r\n",
    b"GET /api/health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /api/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
    b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 200_000 + b"\r\n\r\n",
    b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
    b"Content-Length: 2\r\n\r\n{}",
)


async def test_what_is_no_http_gets_a_4xx_and_the_connection_is_closed(app: App) -> None:
    async with served(app) as url:
        for request in NO_HTTP:
            assert 400 <= status_of(await exchange(url, request)) < 500, request[:80]
        assert status_of(await exchange(url, raw("GET", "/api/jobs", CLOSE))) == 200


TARGETS = (
    ("GET", "/api/jobs/%ff%fe", 404),
    ("GET", "/api/jobs/%c3%28", 404),
    ("GET", "/api/jobs/%ed%a0%80", 404),
    ("GET", "/api/jobs/%00", 404),
    ("GET", "/api/jobs/a%2fb", 404),
    ("GET", "/api/jobs/%2e%2e%2fhealth", 404),
    ("GET", "/api/jobs/..", 404),
    ("GET", "/api/jobs/%", 404),
    ("GET", "/api/jobs/" + "9" * 10_000, 404),
    ("GET", "/static/" + "x" * 400 + ".js", 404),
    ("GET", "/static/..%2f__init__.py", 404),
    ("GET", "/static/%00.js", 404),
    ("GET", "/api/jobs?q=%ff", 200),
    ("GET", "/api/jobs?q=%ed%a0%80", 200),
    ("GET", "/api/jobs?limit=%00", 400),
    ("GET", "/api/jobs?%00=1", 400),
    ("GET", "/api/jobs?" + "&".join(f"a{n}=1" for n in range(1500)), 400),
    ("GET", "/api/jobs?q=a;limit=2", 200),
    ("GET", "http://localhost/api/health", 200),
    ("OPTIONS", "*", 404),
    ("CONNECT", "localhost:80", 404),
    ("BREW", "/api/jobs", 405),
)


async def test_no_spelling_of_a_target_is_a_fault_of_ours(app: App) -> None:
    async with served(app) as url:
        for method, target, status in TARGETS:
            answer = await exchange(url, raw(method, target, CLOSE))
            assert status_of(answer) == status, target[:80]


async def test_a_connection_serves_one_request_after_the_other(app: App) -> None:
    async with served(app) as url:
        requests = [raw("GET", "/api/jobs"), raw("GET", "/api/stats"), raw("GET", "/x", CLOSE)]

        answers = (await exchange(url, *requests)).split(b"HTTP/1.1 ")[1:]

        assert [int(answer[:3]) for answer in answers] == [200, 200, 404]


@pytest.mark.parametrize(
    "sent", [b"", b"GET /api/jobs HTTP/1.1\r\nHost: local", raw("GET", "/api/jobs")]
)
async def test_an_idle_connection_is_closed(
    app: App, mock_clock: trio.testing.MockClock, sent: bytes
) -> None:
    closed = trio.Event()

    async def read(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            pass
        closed.set()

    async with served(app) as url, trio.open_nursery() as nursery:
        port = int(url.rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            nursery.start_soon(read, stream)
            await stream.send_all(sent)
            for _ in range(500):
                mock_clock.jump(1)
                await trio.to_thread.run_sync(time.sleep, 0.01)
                if closed.is_set():
                    return
    raise AssertionError("the server keeps the connection for ever")
