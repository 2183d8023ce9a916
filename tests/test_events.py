"""The stream of events and the heartbeats: what watchers of many jobs are told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import trio

from teckochecker.app import App
from teckochecker.daemon import stop
from teckochecker.store.history import NEWS_ROWS
from teckochecker.web.events import MAX_STREAMS, Feed, Stream
from tests.conftest import Api
from tests.serving import CLOSE, exchange, raw, served, status_of
from tests.states import ERROR, INTO, check, finding

Frame = tuple[str, Any]


class Listener:
    """One open stream; `next(name)` waits for the next event of that name."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._text = ""
        self.ids: list[int] = []

    async def next(self, name: str, seconds: float = 5) -> Any:
        with trio.fail_after(seconds):
            while True:
                found, data = await self._frame()
                if found == name:
                    return data

    async def end(self, seconds: float = 5) -> None:
        with trio.fail_after(seconds), suppress(trio.BrokenResourceError):
            while await self._stream.receive_some():
                pass

    async def _frame(self) -> Frame:
        while True:
            block, found, rest = self._text.partition("\n\n")
            if found:
                self._text = rest
                fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line[1:])
                if "id" in fields:
                    self.ids.append(int(fields["id"]))
                if "event" in fields:
                    return fields["event"], json.loads(fields["data"])
                continue
            received = await self._stream.receive_some()
            assert received, "the stream ended"
            self._text += _unchunked(received)


def _unchunked(received: bytes) -> str:
    """Without the lengths of the chunks and the head, as far as these tests need it."""
    lines = received.decode().split("\r\n")
    return "".join(line for line in lines if not _is_framing(line))


def _is_framing(line: str) -> bool:
    return len(line) < 8 and all(one in "0123456789abcdef" for one in line)


@asynccontextmanager
async def listening(url: str, *headers: str) -> AsyncIterator[Listener]:
    host, _, port = url.removeprefix("http://").partition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        await stream.send_all(raw("GET", "/api/events", *headers))
        head = b""
        with trio.fail_after(5):
            while b"\r\n\r\n" not in head:
                head += await stream.receive_some()
        before, _, rest = head.partition(b"\r\n\r\n")
        assert b"content-type: text/event-stream" in before.lower(), head
        listener = Listener(stream)
        listener._text = _unchunked(rest)
        yield listener


@pytest.fixture
async def job(api: Api, secrets: dict[str, int], job_fields: dict[str, Any]) -> dict[str, Any]:
    fields = job_fields | {"poll_interval_seconds": 600}
    made: dict[str, Any] = await api("POST", "/api/jobs", fields, expect=201)
    return made


async def test_a_listener_is_told_at_once_how_all_stands(app: App, job: dict[str, Any]) -> None:
    async with served(app) as url, listening(url) as listener:
        counts = await listener.next("counts")
        pulse = await listener.next("pulse")

    assert counts["jobs"]["polling"] == {"active": 1}
    assert pulse["health"]["status"] == "ok"
    assert set(pulse) == {"health", "checking", "lag_seconds"}


async def test_a_check_is_told_with_the_whole_job_and_its_heartbeat(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    async with served(app) as url, listening(url) as listener:
        await listener.next("pulse")
        with trio.fail_after(5):
            while job["id"] in app.pulse.jobs or not app.store.jobs.view(job["id"]).job.check_count:
                await trio.sleep(0.02)
        told = await listener.next("jobs")
        while not told["beats"]:
            told = await listener.next("jobs")

        assert told["jobs"][0]["name"] == "nightly"
        (listed,) = (await api("GET", "/api/jobs"))["jobs"]
        assert told["jobs"][0] == listed | {"phase": told["jobs"][0]["phase"]}
        (beat,) = told["beats"][str(job["id"])]
        assert (beat["verdict"], beat["duration_ms"] >= 0) == ("error", True)
        assert told["job_count"] == 1


async def test_a_deletion_shows_in_the_counts(app: App, api: Api, job: dict[str, Any]) -> None:
    async with served(app) as url, listening(url) as listener:
        await listener.next("counts")
        await api("DELETE", "/api/jobs/nightly", expect=204)

        counts = await listener.next("counts")
        while counts["jobs"]["polling"]:
            counts = await listener.next("counts")


async def test_who_comes_back_is_told_what_was_missed(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    async with served(app) as url:
        async with listening(url) as listener:
            await listener.next("pulse")
            seen = listener.ids[-1]
        await api("POST", "/api/jobs/nightly/pause")
        async with listening(url, f"Last-Event-ID: {seen}") as again:
            told = await again.next("jobs")
            assert told["jobs"][0]["status"] == "paused"
            assert again.ids[-1] > seen


@pytest.mark.parametrize("seen", [10**12, 0])
async def test_who_missed_too_much_is_told_to_ask_for_everything(
    app: App, api: Api, job: dict[str, Any], seen: int
) -> None:
    if seen == 0:
        for _ in range(NEWS_ROWS):
            check(app, job["id"], ERROR)
    async with served(app) as url, listening(url, f"Last-Event-ID: {seen}") as again:
        assert await again.next("reload") == {}


async def test_a_silent_stream_carries_a_comment(app: App) -> None:
    async with Stream(Feed(app), None, comment_every_s=0.05) as stream:
        assert b"event: pulse" in await anext(stream)

        assert await anext(stream) == b": still here\n\n"


async def test_a_stop_ends_all_streams_at_once(app: App) -> None:
    async with served(app) as url, listening(url) as one, listening(url) as other:
        await one.next("pulse")
        await other.next("pulse")
        stop(app)
        await one.end(1)
        await other.end(1)


async def test_a_listener_that_goes_away_leaves_the_others_served(
    app: App, api: Api, job: dict[str, Any]
) -> None:
    async with served(app) as url, listening(url) as stays:
        await stays.next("pulse")
        for _ in range(5):
            async with listening(url) as goes:
                await goes.next("pulse")
        await api("POST", "/api/jobs/nightly/pause")

        told = await stays.next("jobs")
        while told["jobs"][0]["status"] != "paused":
            told = await stays.next("jobs")


class CountedFeed(Feed):
    looks = 0

    async def _look(self, **options: bool) -> None:
        self.looks += 1
        await super()._look(**options)


async def test_one_look_serves_all_who_listen_and_none_is_made_for_nobody(app: App) -> None:
    feed = CountedFeed(app, look_every_s=0.05)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(_listen, Stream(feed, None))
        await trio.sleep(0.5)
        together = feed.looks
        nursery.cancel_scope.cancel()
    await trio.sleep(0.2)

    assert 10 < together <= 10 + 11  # one as each joins, then one for all
    assert feed.looks == together
    assert feed.listeners == 0


async def _listen(stream: Stream) -> None:
    async with stream as frames:
        async for _ in frames:
            pass


async def test_a_slow_reader_is_told_to_ask_for_everything(app: App) -> None:
    feed = Feed(app)
    async with Stream(feed, None) as stream:
        await anext(stream)
        for number in range(100):
            feed._add(b"%d" % number)

        assert await anext(stream) == b"event: reload\ndata: {}\n\n"
        feed._add(b"next")
        assert await anext(stream) == b"next"


async def test_there_is_a_bound_on_listeners(app: App) -> None:
    async with served(app) as url, AsyncExitStack() as stack:
        for _ in range(MAX_STREAMS):
            await stack.enter_async_context(listening(url))

        answer = await exchange(url, raw("GET", "/api/events", CLOSE))

    assert status_of(answer) == 429
    assert b"close some pages" in answer


async def test_the_bound_holds_for_those_who_come_at_the_same_time(app: App) -> None:
    feed = Feed(app)
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(Stream(feed, None)) for _ in range(MAX_STREAMS)]
        late = await stack.enter_async_context(Stream(feed, None))

        assert await anext(streams[-1])
        with pytest.raises(StopAsyncIteration):
            await anext(late)
    assert feed.listeners == 0


async def test_head_tells_the_type_of_the_stream_and_ends(api: Api) -> None:
    with trio.fail_after(5):
        answer = await api.client.head("/api/events")

    assert answer.headers["content-type"].startswith("text/event-stream")


# Heartbeats


async def test_heartbeats_are_the_last_checks_of_each_job_oldest_first(
    app: App, api: Api, job: dict[str, Any], job_fields: dict[str, Any]
) -> None:
    other = await api("POST", "/api/jobs", job_fields | {"name": "other"}, expect=201)
    for _ in range(3):
        check(app, job["id"], ERROR)
    check(app, job["id"], finding(app, job["id"], "in_progress"))
    INTO["completed"](app, other["id"])

    answer = await api("GET", f"/api/heartbeats?ids={job['id']},{other['id']},999&limit=2")

    found = answer["heartbeats"]
    assert [beat["verdict"] for beat in found[str(job["id"])]] == ["error", "pending"]
    assert [beat["verdict"] for beat in found[str(other["id"])]] == ["success"]
    assert found[str(other["id"])][0]["message"].startswith("Batch completed")
    assert "999" not in found


@pytest.mark.parametrize(
    "query", ["", "ids=", "ids=x", "ids=1,,2", "ids=-1", "ids=1&limit=0", "ids=1&limit=61",
              "ids=" + ",".join("1" * 300), "ids=٣", "ids=1&more=2"]
)  # fmt: skip
async def test_a_wrong_question_for_heartbeats_is_told(api: Api, query: str) -> None:
    refused = await api("GET", f"/api/heartbeats?{query}", expect=400)

    assert refused["errors"]


# The system


async def test_the_system_tells_no_secret(app: App, api: Api) -> None:
    text = json.dumps(await api("GET", "/api/system"))

    assert app.settings.secret_key.reveal() not in text
    shown = {one["name"]: one["value"] for one in json.loads(text)["settings"]}
    assert shown["SECRET_KEY"] == "***"
    assert shown["MIN_POLL_INTERVAL"] == 1
    assert shown["ALLOWED_PRIVATE_HOSTS"] == "127.0.0.1/32"
    assert json.loads(text)["disk"]["database_bytes"] > 0


def test_every_setting_is_shown(app: App) -> None:
    from teckochecker.web.about import _shown

    hidden = [one["name"] for one in _shown(app.settings) if one["value"] is None]
    assert set(hidden) <= {
        "SECRET_KEY_OLD", "LOG_FILE", "DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH",
        "GIT_CA_BUNDLE",
    }  # fmt: skip
