"""Who gets in: the token, the Host names, the lock-out, and what every answer carries."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import apsw
import httpx
import pytest

from teckochecker.app import App, assemble
from teckochecker.errors import StoreBusy
from teckochecker.lanes import Lane
from teckochecker.web import create_web
from tests.conftest import TOKEN, Api
from tests.serving import CLOSE, JSON, exchange, raw, served, status_of

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
READ = ("GET", "HEAD", "OPTIONS")
OPEN = {(method, path) for method in READ for path in ("/api/health", "/", "/static/1")} | {
    ("POST", "/api/session")
}


def routes(app: App) -> list[tuple[str, str]]:
    """Every method and path that the application has, with something in each variable."""
    quart = create_web(app)._inner  # type: ignore[attr-defined]
    found = []
    for rule in quart.url_map.iter_rules():
        path = "".join(part if not is_name else "1" for is_name, part in rule._trace).strip("|")
        found += [(method, path) for method in sorted(rule.methods)]
    return found


def client(app: App, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(create_web(app), client=("127.0.0.1", 1)),
        base_url="http://localhost",
        headers=headers,
    )


# The token


async def test_every_route_but_health_and_the_page_needs_a_token(app: App) -> None:
    found = routes(app)
    assert len(found) > 40
    async with client(app) as stranger:
        for method, path in found:
            if (method, path) in OPEN:
                continue
            stranger._transport.client = (f"10.0.0.{len(path) % 250}{method}", 1)  # type: ignore[attr-defined]
            answer = await stranger.request(method, path)
            assert answer.status_code in (401, 429), (method, path)
            assert answer.headers["content-type"] == "application/problem+json"


WRONG = [
    "",
    "Bearer",
    "Bearer ",
    "Bearer tck_wrong",
    f"Bearer {TOKEN}x",
    f"Bearer {TOKEN[:-1]}",
    f"bearer{TOKEN}",
    f"Basic {TOKEN}",
    TOKEN,
    f"Bearer {hashlib.sha256(TOKEN.encode()).hexdigest()}",
]


@pytest.mark.parametrize("authorization", WRONG)
async def test_a_wrong_token_is_a_401_that_says_the_same_each_time(
    app: App, authorization: str
) -> None:
    async with client(app, authorization=authorization) as stranger:
        answer = await stranger.get("/api/jobs/nightly")

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    problem = answer.json()
    assert problem.pop("request_id").startswith("req_")
    assert problem == {
        "type": "about:blank",
        "title": "No access",
        "status": 401,
        "detail": "A token is needed: send `Authorization: Bearer tck_...`; `teckochecker init` "
        "made it, and `teckochecker token new` makes another.",
        "code": None,
    }


@pytest.mark.parametrize("authorization", [f"bearer {TOKEN}", f"BEARER   {TOKEN} "])
async def test_a_right_token_passes_however_its_scheme_is_written(
    app: App, authorization: str
) -> None:
    async with client(app, authorization=authorization) as owner:
        assert (await owner.get("/api/jobs")).status_code == 200


async def test_without_any_token_stored_nobody_gets_in(make_settings: Callable[..., Any]) -> None:
    fresh = assemble(make_settings(DATABASE_URL="sqlite:///fresh.db"))
    async with client(fresh, authorization="Bearer ") as stranger:
        assert (await stranger.get("/api/jobs")).status_code == 401
    fresh.close()


async def test_a_token_is_checked_before_the_path_the_method_and_the_body(app: App) -> None:
    async with client(app) as stranger:
        calls = [
            stranger.get("/nothing/here"),
            stranger.request("BREW", "/api/jobs"),
            stranger.post("/api/jobs", content=b"x" * 2_000_000),
        ]
        assert [(await call).status_code for call in calls] == [401, 401, 401]


async def test_a_stranger_is_refused_before_the_body_comes(app: App) -> None:
    async with served(app) as url:
        head = raw("POST", "/api/jobs", JSON, "Content-Length: 1000000")
        stranger = head.replace(TOKEN.encode(), b"tck_wrong")

        answer = await exchange(url, stranger)

        assert status_of(answer) == 401
        assert b"connection: close" in answer.lower()


async def test_health_is_open_and_tells_nothing_of_jobs(app: App) -> None:
    async with client(app) as stranger:
        answer = await stranger.get("/api/health/")

    assert answer.status_code == 200
    assert set(answer.json()) == {
        "status", "reasons", "version", "uptime_seconds", "scheduler", "sandbox", "database",
    }  # fmt: skip


@pytest.mark.parametrize(
    "path", ["//api/health", "/api//health", "/API/health", "/api/health/x", "/api/health;x"]
)
async def test_no_other_spelling_of_health_is_open(app: App, path: str) -> None:
    async with client(app) as stranger:
        assert (await stranger.get(f"http://localhost{path}")).status_code == 401


async def test_the_last_use_of_the_token_is_shown(app: App, api: Api) -> None:
    before = app.now()

    shown = (await api("GET", "/api/stats"))["token_last_used_at"]

    assert datetime.fromisoformat(shown) >= before - timedelta(seconds=1)


async def test_an_unwritable_database_does_not_shut_the_owner_out(app: App, api: Api) -> None:
    with app.store._database.alone() as db:
        db.execute_sql("PRAGMA busy_timeout = 0")
    other = apsw.Connection(str(app.settings.database))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy):
        await app.lanes.run(Lane.STORE, partial(app.store.care.probe, app.now()))

    await api("GET", "/api/jobs")

    problem = await api(
        "POST", "/api/admin/secrets", {"name": "a", "type": "generic", "value": "b"}, expect=503
    )
    assert problem["code"] == 3001
    assert "locked" in problem["detail"]
    other.execute("ROLLBACK")
    other.close()


# The lock-out


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_after_ten_failures_a_minute_failures_are_answered_429(
    app: App, clock: Clock
) -> None:
    async with client(replace(app, now=clock)) as stranger:
        statuses = [(await stranger.get("/api/jobs")).status_code for _ in range(12)]
        last = await stranger.get("/api/jobs")

    assert statuses == [401] * 10 + [429] * 2
    assert last.headers["retry-after"] == "60"
    assert "wait a minute" in last.json()["detail"]


async def test_a_right_token_passes_during_a_lock_out(app: App, clock: Clock) -> None:
    async with client(replace(app, now=clock)) as both:
        for _ in range(11):
            await both.get("/api/jobs")

        right = await both.get("/api/jobs", headers={"authorization": f"Bearer {TOKEN}"})

        assert right.status_code == 200
        assert (await both.get("/api/jobs")).status_code == 429


async def test_a_lock_out_ends_after_a_minute(app: App, clock: Clock) -> None:
    async with client(replace(app, now=clock)) as stranger:
        for _ in range(11):
            await stranger.get("/api/jobs")
        clock.now += timedelta(seconds=59)
        assert (await stranger.get("/api/jobs")).status_code == 429
        clock.now += timedelta(seconds=61)

        assert (await stranger.get("/api/jobs")).status_code == 401


async def test_slow_failures_lock_nobody_out(app: App, clock: Clock) -> None:
    async with client(replace(app, now=clock)) as stranger:
        for _ in range(30):
            clock.now += timedelta(seconds=7)
            assert (await stranger.get("/api/jobs")).status_code == 401


async def test_an_address_is_locked_out_by_its_own_failures_only(app: App, clock: Clock) -> None:
    web = create_web(replace(app, now=clock))

    async def status(address: str) -> int:
        transport = httpx.ASGITransport(web, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as one:
            return (await one.get("/api/jobs")).status_code

    for _ in range(11):
        await status("10.0.0.1")

    assert await status("10.0.0.1") == 429
    assert await status("10.0.0.2") == 401
    for n in range(1100):  # what is remembered of addresses is bounded
        await status(f"10.1.{n // 250}.{n % 250}")
    assert len(web._access.failures) <= 1000  # type: ignore[attr-defined]


# Host names


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8000",
             "localhost.", "tecko.example", "Tecko.Example:443"]
)  # fmt: skip
async def test_requests_for_our_own_names_are_answered(
    make_settings: Callable[..., Any], host: str
) -> None:
    app = assemble(make_settings(ALLOWED_HOSTS="tecko.example"))
    async with client(app, host=host) as one:
        assert (await one.get("/api/health")).status_code == 200
    app.close()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.2",
             "localhost@evil.example", "127.0.0.1.nip.io", "[::2]", "", " ", "localhost:80:80",
             "0.0.0.0", "localhost/", "x" * 5000, "localhost..", "127.0.0.1..:80",
             "localhost:evil.example", "[::1]:evil.example", "[::1].evil.example"]
)  # fmt: skip
async def test_a_foreign_name_is_refused_even_with_the_token(app: App, host: str) -> None:
    async with client(app, host=host, authorization=f"Bearer {TOKEN}") as rebound:
        for path in ("/api/health", "/api/jobs"):
            answer = await rebound.get(path)
            assert answer.status_code == 400
            assert "ALLOWED_HOSTS" in answer.json()["detail"]
            assert len(answer.json()["detail"]) < 300


@pytest.mark.parametrize("address", ["FD00::1", "192.168.1.5", "Build.Internal"])
async def test_the_address_that_is_listened_on_is_one_of_our_names(
    make_settings: Callable[..., Any], address: str
) -> None:
    app = assemble(make_settings(API_HOST=address))
    host = f"[{address}]" if ":" in address else address
    async with client(app, host=f"{host}:8000") as one:
        assert (await one.get("/api/health")).status_code == 200
    app.close()


# What every answer carries


async def test_every_answer_has_the_security_headers_and_a_request_id(
    app: App, api: Api, secrets: dict[str, int]
) -> None:
    async with client(app) as stranger:
        answers = [
            await stranger.get("/api/jobs"),
            await stranger.get("/api/health"),
            await stranger.get("/api/health", headers={"host": "evil.example"}),
            await api.client.get("/api/jobs"),
            await api.client.get("/docs"),
            await api.client.get("/static/docs.js"),
            await api.client.get("/static/nothing.js"),
            await api.client.get("/openapi.json"),
            await api.client.get("/metrics"),
            await api.client.post("/api/jobs", content=b"x" * 2_000_000),
            await api.client.post("/api/jobs", json={}),
            await api.client.request("PATCH", "/api/jobs"),
            await api.client.options("/api/jobs"),
            await api.client.head("/api/jobs"),
            await api.client.delete("/api/admin/secrets/openai-prod"),
        ]
    assert {answer.status_code for answer in answers} == {200, 204, 400, 401, 404, 405, 413}
    for answer in answers:
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers.get_list(name) == [value], (answer.request.url, name)
        (request_id,) = answer.headers.get_list("x-request-id")
        if answer.status_code >= 400:
            assert answer.json()["request_id"] == request_id
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


async def test_a_client_can_not_choose_its_request_id(api: Api) -> None:
    answer = await api.client.get("/api/jobs/nobody", headers={"x-request-id": "mine"})

    assert answer.json()["request_id"] == answer.headers["x-request-id"] != "mine"


async def test_the_server_does_not_say_what_it_is(app: App) -> None:
    async with served(app) as url:
        for path in ("/api/jobs", "/nothing"):
            answer = (await exchange(url, raw("GET", path, CLOSE))).lower()
            head = answer.partition(b"\r\n\r\n")[0]
            assert b"\r\nserver:" not in head
            assert b"hypercorn" not in answer
            assert b"quart" not in answer
            assert b"\r\nx-content-type-options: nosniff" in head


# HEAD, OPTIONS and the like


async def test_head_is_get_without_its_body(app: App) -> None:
    async with served(app) as url:
        get = await exchange(url, raw("GET", "/api/jobs", CLOSE))
        head = await exchange(url, raw("HEAD", "/api/jobs", CLOSE))
        problem = await exchange(url, raw("HEAD", "/api/jobs/nobody", CLOSE))
        stranger = raw("HEAD", "/api/jobs", CLOSE).replace(TOKEN.encode(), b"x")
        refused = await exchange(url, stranger)

    assert status_of(get) == status_of(head) == 200
    assert b"content-length: 44" in head.lower()
    for answer, status in ((head, 200), (problem, 404), (refused, 401)):
        assert status_of(answer) == status
        assert answer.endswith(b"\r\n\r\n")


async def test_options_tells_the_methods_and_needs_the_token(app: App, api: Api) -> None:
    told = await api.client.options("/api/jobs")

    assert told.status_code == 200
    assert {one.strip() for one in told.headers["allow"].split(",")} == {
        "GET", "HEAD", "OPTIONS", "POST",
    }  # fmt: skip
    async with client(app) as stranger:
        assert (await stranger.options("/api/jobs")).status_code == 401


async def test_no_other_origin_is_let_in(api: Api) -> None:
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}

    answer = await api.client.options("/api/jobs", headers=preflight)

    assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_a_method_can_not_be_overridden_by_a_header(api: Api) -> None:
    override = {"x-http-method-override": "DELETE", "x-method-override": "DELETE"}

    assert (await api.client.post("/api/jobs/nobody", headers=override)).status_code == 405


async def test_a_websocket_is_refused(app: App) -> None:
    async with served(app) as url:
        upgrade = raw(
            "GET", "/api/jobs", "Connection: Upgrade", "Upgrade: websocket",
            "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )  # fmt: skip

        assert status_of(await exchange(url, upgrade)) == 403


async def test_http_2_in_the_clear_is_not_spoken(app: App) -> None:
    """A proxy that passes an upgrade on would no longer see the requests behind it."""
    async with served(app) as url:
        upgrade = raw(
            "GET", "/api/jobs", "Connection: Upgrade, HTTP2-Settings, close", "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAAQAAP__",
        )  # fmt: skip
        preface = b"PRI * HTTP/2.0\r\n\r\n"

        assert (await exchange(url, upgrade)).startswith(b"HTTP/1.1 200 ")
        assert (await exchange(url, preface)).startswith(b"HTTP/1.1 400 ")
