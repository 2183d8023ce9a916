"""Sessions of the page: how one begins and ends, and which requests its cookie carries."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from teckochecker.app import App, assemble
from teckochecker.web import create_web
from teckochecker.web.access import FAILURES, SESSION
from tests.conftest import TOKEN
from tests.parts import NOW

SAME_ORIGIN = {"sec-fetch-site": "same-origin"}
PAUSE = "/api/jobs/nobody/pause"  # a changing request; 404 tells that it was let in


@asynccontextmanager
async def browser(app: App, url: str = "http://localhost:8000") -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_web(app), client=("10.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url=url) as made:
        yield made


async def signed_in(one: httpx.AsyncClient) -> httpx.Response:
    answer = await one.post("/api/session", json={"token": TOKEN})
    assert answer.status_code == 200, answer.text
    return answer


def value_of(answer: httpx.Response) -> str:
    found = re.match(r"\w+=(\w+);", answer.headers["set-cookie"])
    assert found
    return found[1]


async def test_a_session_reads_and_changes(app: App) -> None:
    async with browser(app) as one:
        assert (await one.get("/api/jobs")).status_code == 401
        await signed_in(one)

        assert (await one.get("/api/jobs")).status_code == 200
        assert (await one.post(PAUSE, headers=SAME_ORIGIN)).status_code == 404


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(app: App) -> None:
    async with browser(app) as one:
        cookie = (await signed_in(one)).headers["set-cookie"]

    attributes = [part.strip() for part in cookie.split(";")[1:]]
    assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=2592000"} <= set(attributes)
    assert "Secure" not in attributes
    assert TOKEN not in cookie
    assert hashlib.sha256(TOKEN.encode()).hexdigest() not in cookie


@pytest.mark.parametrize(
    ("url", "origin"),
    [("https://localhost", ""), ("http://localhost", "https://localhost")],
)
async def test_under_tls_the_cookie_travels_under_tls_only(app: App, url: str, origin: str) -> None:
    async with browser(app, url) as one:
        answer = await one.post("/api/session", json={"token": TOKEN}, headers={"origin": origin})

    assert "; Secure" in answer.headers["set-cookie"]


async def test_two_daemons_of_one_machine_have_cookies_of_their_own(app: App) -> None:
    names = set()
    for port in (8000, 8001):
        async with browser(app, f"http://localhost:{port}") as one:
            names.add((await signed_in(one)).headers["set-cookie"].partition("=")[0])

    assert names == {"teckochecker_8000", "teckochecker_8001"}


FOREIGN: list[dict[str, str]] = [
    {},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none"},
    {"origin": "https://evil.example"},
    {"origin": "http://localhost:8001"},
    {"origin": "https://localhost:8000"},
    {"origin": "null"},
    {"sec-fetch-site": "cross-site", "origin": "http://localhost:8000"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_a_change_by_cookie_from_elsewhere_is_refused(
    app: App, headers: dict[str, str]
) -> None:
    async with browser(app) as one:
        await signed_in(one)
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            answer = await one.request(method, PAUSE, headers=headers)
            assert answer.status_code == 401
            assert "another site" in answer.json()["detail"]

        assert (await one.get("/api/jobs", headers=headers)).status_code == 200


async def test_a_browser_that_tells_no_site_tells_its_origin(app: App) -> None:
    async with browser(app) as one:
        await signed_in(one)
        answer = await one.post(PAUSE, headers={"origin": "http://localhost:8000"})

    assert answer.status_code == 404


async def test_the_token_in_a_header_needs_no_origin(app: App) -> None:
    async with browser(app) as one:
        headers = {"authorization": f"Bearer {TOKEN}", "sec-fetch-site": "cross-site"}
        assert (await one.post(PAUSE, headers=headers)).status_code == 404


async def test_a_wrong_token_beside_a_right_cookie_is_refused(app: App) -> None:
    async with browser(app) as one:
        await signed_in(one)
        answer = await one.get("/api/jobs", headers={"authorization": "Bearer tck_wrong"})

    assert answer.status_code == 401


async def test_signing_out_ends_the_session_also_for_who_kept_the_cookie(app: App) -> None:
    async with browser(app) as one:
        kept = value_of(await signed_in(one))
        answer = await one.delete("/api/session", headers=SAME_ORIGIN)
        assert answer.status_code == 204
        assert "Max-Age=0" in answer.headers["set-cookie"]
        assert (await one.get("/api/jobs")).status_code == 401

        one.cookies.set("teckochecker_8000", kept)
        answer = await one.get("/api/jobs")

    assert answer.status_code == 401
    assert answer.json()["detail"] == "The session has ended: sign in again."


@pytest.mark.parametrize("other", ['x@y={"a":1}', "a[b]=c", "=", '"', "teckochecker_8000=00"])
async def test_cookies_of_other_servers_of_the_host_shut_nobody_out(app: App, other: str) -> None:
    async with browser(app) as one:
        cookie = f"teckochecker_8000={value_of(await signed_in(one))}"
        one.cookies.clear()
        for sent in (f"{other}; {cookie}", f"{cookie}; {other}"):
            assert (await one.get("/api/jobs", headers={"cookie": sent})).status_code == 200

        await one.delete("/api/session", headers=SAME_ORIGIN | {"cookie": sent})
        assert (await one.get("/api/jobs", headers={"cookie": sent})).status_code == 401


async def test_a_session_ends_after_thirty_days(app: App) -> None:
    now = NOW
    moving = replace(app, now=lambda: now)
    async with browser(moving) as one:
        answer = await signed_in(one)
        one.cookies.clear()  # and the browser doesn't forget it by itself
        headers = {"cookie": f"teckochecker_8000={value_of(answer)}"}
        assert datetime.fromisoformat(answer.json()["expires_at"]) == now + SESSION

        now = NOW + SESSION - timedelta(seconds=1)
        assert (await one.get("/api/jobs", headers=headers)).status_code == 200
        now = NOW + SESSION
        assert (await one.get("/api/jobs", headers=headers)).status_code == 401


async def test_a_session_outlives_a_restart_and_ends_with_its_token(
    app: App, make_settings: Callable[..., Any]
) -> None:
    async with browser(app) as one:
        cookie = {"cookie": f"teckochecker_8000={value_of(await signed_in(one))}"}
    again = assemble(app.settings)
    async with browser(again) as one:
        assert (await one.get("/api/jobs", headers=cookie)).status_code == 200
    again.store.secrets.replace_token(hashlib.sha256(b"tck_new").digest(), again.now())

    async with browser(again) as one:
        assert (await one.get("/api/jobs", headers=cookie)).status_code == 401
    again.close()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value[:-1],
        lambda value: value[:-1] + ("0" if value[-1] != "0" else "1"),
        lambda value: "ff" + value[2:],
        lambda value: value[:40] + "f" + value[41:],  # a later end
        lambda value: "",
        lambda value: "00",
        lambda value: "f" * 2000,
        lambda value: "é",
        lambda value: '"',
    ],
)
async def test_a_cookie_that_was_not_made_here_is_refused(
    app: App, spoil: Callable[[str], str]
) -> None:
    async with browser(app) as one:
        value = value_of(await signed_in(one))
        one.cookies.clear()
        header = f"teckochecker_8000={spoil(value)}".encode("latin-1")

        answer = await one.get("/api/jobs", headers=[(b"cookie", header)])

    assert answer.status_code == 401


async def test_wrong_tokens_are_slowed_down_and_a_right_one_passes(app: App) -> None:
    async with browser(replace(app, now=lambda: NOW)) as one:
        wrong = {"token": "tck_wrong"}
        statuses = [
            (await one.post("/api/session", json=wrong)).status_code for _ in range(FAILURES + 1)
        ]
        last = await one.post("/api/session", json=wrong)

        assert statuses == [401] * FAILURES + [429]
        assert last.headers["retry-after"] == "60"
        assert "wait a minute" in last.json()["detail"]
        await signed_in(one)


@pytest.mark.parametrize(
    "body", [{}, {"token": ""}, {"token": 1}, {"token": TOKEN, "name": "x"}, {"token": "x" * 201}]
)
async def test_what_is_no_token_is_told_by_field(app: App, body: dict[str, Any]) -> None:
    async with browser(app) as one:
        answer = await one.post("/api/session", json=body)

    assert answer.status_code == 400
    assert answer.json()["errors"]


async def test_a_foreign_form_can_not_sign_in(app: App) -> None:
    async with browser(app) as one:
        answer = await one.post("/api/session", content=f'{{"token": "{TOKEN}"}}')

    assert answer.status_code == 415
    assert "set-cookie" not in answer.headers


async def test_the_page_is_open_and_holds_nothing_of_anybody(app: App) -> None:
    async with browser(app) as one:
        page = await one.get("/")
        files = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
        answers = [await one.get(file) for file in files]

    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert files
    assert {answer.status_code for answer in answers} == {200}
