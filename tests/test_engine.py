"""The engine end to end: real sockets, real threads, real SQLite, simulated services."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace as replaced
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from teckochecker import scheduler
from teckochecker.app import App, assemble, utc_now
from teckochecker.config import Settings
from teckochecker.domain import Document, Finding, Part, SecretType
from teckochecker.lanes import Lane
from teckochecker.simulators import (
    DROP,
    HANG,
    Afterwards,
    Answer,
    Batch,
    Keboola,
    OpenAI,
    Recorded,
    maintenance,
    openai_error,
    queue_error,
)
from teckochecker.sources import CheckContext
from tests.conftest import TOKEN, Api, eventually
from tests.parts import (
    FakeSource,
    add_secret,
    assembled,
    draft,
    finding,
    plain_settings,
    secret_ref,
)
from tests.serving import served

SOON_S = 1.0  # what the contract promises; on a busy machine everything here takes milliseconds


class Engine:
    """What a test does to a job: its id once added, verbs, and how it stands."""

    def __init__(self, api: Api, fields: dict[str, Any]) -> None:
        self.api = api
        self.fields = fields
        self.path = ""

    async def add(self, **fields: Any) -> Any:
        made = await self.api("POST", "/api/jobs", self.fields | fields, expect=201)
        self.path = f"/api/jobs/{made['id']}"
        return made

    async def verb(self, verb: str) -> Any:
        return await self.api("POST", f"{self.path}/{verb}")

    async def change(self, **fields: Any) -> Any:
        return await self.api("PUT", self.path, fields)

    async def until(self, **wanted: Any) -> Any:
        """The job, once the fields of `wanted` are as given."""
        return await eventually(
            self.api, self.path, lambda job: {name: job[name] for name in wanted} == wanted
        )

    async def log(self) -> list[str]:
        """The messages of the job's log, oldest first."""
        found = await self.api("GET", f"{self.path}/logs")
        return [row["message"] for row in reversed(found["logs"])]

    async def delivery(self) -> Any:
        found = await self.api("GET", f"{self.path}/deliveries")
        (only,) = found["deliveries"]
        return only


@pytest.fixture
def job(api: Api, engine: None, secrets: dict[str, int], job_fields: dict[str, Any]) -> Engine:
    return Engine(api, job_fields)


async def asked(simulator: OpenAI | Keboola, path: str, *, count: int = 1) -> Recorded:
    """The `count`-th request for a path, once it has come."""
    wait = partial(
        simulator.wait_for, lambda request: request.path.endswith(path), count=count, timeout_s=10
    )
    return await trio.to_thread.run_sync(wait, abandon_on_cancel=True)


class Gate:
    """Holds back the answers to some requests until it is opened."""

    def __init__(self, simulator: OpenAI | Keboola, method: str, path: str) -> None:
        self._opened = threading.Event()
        self._matches = (method, path)
        simulator.on_read = self._wait

    def _wait(self, request: Recorded) -> None:
        if request.matches(*self._matches):
            self._opened.wait(10)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def gate(openai: OpenAI) -> Iterator[Gate]:
    """Every status call is answered when the test says so."""
    made = Gate(openai, "GET", "/v1/batches/*")
    yield made
    made.open()


@pytest.fixture
def start_gate(keboola: Keboola) -> Iterator[Gate]:
    made = Gate(keboola, "POST", "/jobs")
    yield made
    made.open()


async def test_a_completed_batch_starts_a_keboola_job(
    job: Engine, openai: OpenAI, keboola: Keboola
) -> None:
    openai.add(
        "batch_a", "validating", "in_progress", Batch("completed", total=10, completed=9, failed=1)
    )
    keboola.plan("*", "processing", "success")

    await job.add()
    done = await job.until(status="completed")

    assert done["last_check_status"] == "SUCCESS"
    assert done["batches"][0]["request_counts"] == {"total": 10, "completed": 9, "failed": 1}
    assert len(keboola.jobs) == 1
    assert done["keboola_job"]["id"] == keboola.jobs[0]["id"]


# At once


async def test_a_new_job_is_polled_within_a_second(job: Engine, openai: OpenAI) -> None:
    openai.add("batch_a", "in_progress")

    before = time.time()
    await job.add(poll_interval_seconds=3600)

    assert (await asked(openai, "batch_a")).at - before < SOON_S


async def test_a_trigger_checks_at_once(job: Engine, openai: OpenAI) -> None:
    openai.add("batch_a", "in_progress")
    await job.add(poll_interval_seconds=3600)
    await job.until(last_check_status="PENDING")

    before = time.time()
    await job.verb("trigger")

    assert (await asked(openai, "batch_a", count=2)).at - before < SOON_S


async def test_a_trigger_doesnt_double_a_running_check(
    job: Engine, openai: OpenAI, gate: Gate
) -> None:
    openai.add("batch_a", "in_progress")
    await job.add(poll_interval_seconds=3600)
    await asked(openai, "batch_a")

    for _ in range(3):
        assert (await job.verb("trigger"))["phase"] == "checking"
    gate.open()
    await job.until(phase="polling", last_check_status="PENDING")
    await trio.testing.wait_all_tasks_blocked(0.05)

    assert len(openai.requests) == 1


# While a check is running, the later word wins


async def test_it_keeps_a_pause_that_lands_during_a_check(
    job: Engine, openai: OpenAI, keboola: Keboola, gate: Gate
) -> None:
    openai.add("batch_a", "completed")
    await job.add()
    await asked(openai, "batch_a")

    await job.verb("pause")
    gate.open()
    await eventually(job.api, job.path, lambda found: found["last_check_at"])

    found = await job.until(status="paused", last_check_status=None)
    assert found["phase"] is None
    assert (await job.log())[-1].endswith("(not acted on, the job is paused)")
    assert keboola.requests == []

    await job.verb("resume")
    await job.until(status="completed")


async def test_a_resume_during_the_check_takes_the_pause_back(
    job: Engine, openai: OpenAI, gate: Gate
) -> None:
    openai.add("batch_a", "completed")
    await job.add()
    await asked(openai, "batch_a")

    await job.verb("pause")
    await job.verb("resume")
    gate.open()

    await job.until(status="completed")
    assert len(openai.requests) == 1


async def test_another_batch_during_the_check_makes_its_finding_stale(
    job: Engine, openai: OpenAI, keboola: Keboola, gate: Gate
) -> None:
    openai.add("batch_a", "failed")
    openai.add("batch_b", "completed")
    await job.add(poll_interval_seconds=3600)
    await asked(openai, "batch_a")

    before = time.time()
    await job.change(batch_id="batch_b")
    gate.open()

    done = await job.until(status="completed")
    assert (await asked(openai, "batch_b")).at - before < SOON_S
    assert [one["batch_id"] for one in done["batches"]] == ["batch_b"]
    assert sum("stale" in message for message in await job.log()) == 1
    assert len(keboola.jobs) == 1


async def test_another_interval_during_the_check_counts_from_its_end(
    job: Engine, openai: OpenAI, gate: Gate
) -> None:
    openai.add("batch_a", "in_progress")
    await job.add(poll_interval_seconds=3600)
    await asked(openai, "batch_a")

    await job.change(poll_interval_seconds=120)
    gate.open()
    found = await job.until(phase="polling", last_check_status="PENDING")

    due, last = (datetime.fromisoformat(found[name]) for name in ("next_check_at", "last_check_at"))
    assert timedelta(seconds=120) <= due - last <= timedelta(seconds=121.1)
    assert "stale" not in " ".join(await job.log())


async def test_a_job_deleted_during_its_check_is_gone_and_the_others_go_on(
    job: Engine, openai: OpenAI, keboola: Keboola, gate: Gate
) -> None:
    openai.add("batch_*", "completed")
    await job.add()
    await asked(openai, "batch_a")

    await job.api("DELETE", job.path, expect=204)
    gate.open()
    await job.add(name="next", batch_id="batch_b")

    await job.until(status="completed")
    assert len(keboola.jobs) == 1


async def test_a_deletion_ends_the_check_that_nobody_wants_any_more(
    app: App, job: Engine, openai: OpenAI, gate: Gate
) -> None:
    openai.add("batch_*", "completed")
    await job.add()
    await asked(openai, "batch_a")

    await job.api("DELETE", job.path, expect=204)

    with trio.fail_after(SOON_S):
        while app.pulse.jobs:
            await trio.sleep(0.01)
    gate.open()


# While a delivery is under way


async def test_a_receipt_completes_a_job_that_was_paused_meanwhile(
    job: Engine, openai: OpenAI, keboola: Keboola, start_gate: Gate
) -> None:
    openai.add("batch_a", "completed")
    await job.add()
    await asked(keboola, "/jobs")

    assert (await job.verb("pause"))["status"] == "paused"
    start_gate.open()

    await job.until(status="completed")
    assert len(keboola.jobs) == 1


async def test_a_job_deleted_during_its_delivery_is_gone_and_the_others_go_on(
    job: Engine, openai: OpenAI, keboola: Keboola, start_gate: Gate
) -> None:
    openai.add("batch_*", "completed")
    await job.add()
    await asked(keboola, "/jobs")

    await job.api("DELETE", job.path, expect=204)
    start_gate.open()
    await job.add(name="next", batch_id="batch_b")

    await job.until(status="completed")


async def test_what_a_delivering_job_checks_cant_be_changed_and_its_action_can(
    job: Engine, openai: OpenAI, keboola: Keboola
) -> None:
    openai.add("batch_a", "completed")
    keboola.instead("POST", "/jobs", queue_error(422, "No such configuration."))
    await job.add()
    await job.until(status="failed")

    await job.api("PUT", job.path, {"batch_id": "batch_b"}, expect=409)
    await job.change(keboola_configuration_id="654321")
    await job.api("POST", f"/api/deliveries/{(await job.delivery())['id']}/redeliver")

    await job.until(status="completed")
    assert [one["config"] for one in keboola.jobs] == ["654321"]
    assert [one["outcome"] for one in (await job.delivery())["attempts"]] == [
        "failed",
        "delivered",
    ]


async def test_a_redelivery_during_a_follow_up_is_sent_at_once(
    job: Engine, openai: OpenAI, keboola: Keboola
) -> None:
    """The row is busy while the started job is asked for; nobody else would wake the loop."""
    gate = Gate(keboola, "GET", "/jobs/*")
    openai.add("batch_a", "completed")
    await job.add()
    await job.until(status="completed")
    await asked(keboola, keboola.jobs[0]["id"])  # type: ignore[arg-type]

    again = await job.api("POST", f"/api/deliveries/{(await job.delivery())['id']}/redeliver")
    assert again["state"] == "pending"
    await trio.testing.wait_all_tasks_blocked(0.05)
    before = time.time()
    gate.open()

    second = await asked(keboola, "/jobs", count=2)
    assert second.method == "POST"
    assert second.at - before < SOON_S
    await job.until(status="completed")


# What a service answers


async def test_a_server_error_is_tried_again_one_request_for_each_attempt(
    job: Engine, openai: OpenAI, keboola: Keboola
) -> None:
    openai.add("batch_a", "completed")
    keboola.instead("POST", "/jobs", queue_error(500, "Sorry."))
    await job.add()
    await job.until(status="completed")

    first, second = keboola.asked("POST", "/jobs")
    attempts = (await job.delivery())["attempts"]
    assert 0.85 < second.at - first.at < 2
    assert [(one["outcome"], one["status_code"]) for one in attempts] == [
        ("failed", 500),
        ("delivered", 201),
    ]
    assert first.body == second.body


async def test_maintenance_is_waited_for_as_long_as_it_says(
    job: Engine, openai: OpenAI, keboola: Keboola
) -> None:
    openai.add("batch_a", "completed")
    keboola.instead("POST", "/jobs", maintenance(2))
    await job.add()
    await job.until(status="completed")

    first, second = keboola.asked("POST", "/jobs")
    assert 2 <= second.at - first.at < 4


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (openai_error(404), "404"),
        (openai_error(401), "check the secret"),
        (openai_error(403), "check the secret"),
    ],
)
async def test_what_no_waiting_heals_pauses_the_job_with_the_reason(
    job: Engine, openai: OpenAI, answer: Any, reason: str
) -> None:
    openai.instead("GET", "/v1/batches/*", answer, forever=True)
    await job.add()

    for _ in range(2):
        await eventually(job.api, job.path, lambda found: found["phase"] != "checking")
        await job.verb("trigger")
    found = await job.until(status="paused")

    assert reason in found["status_reason"]
    assert len(openai.requests) == 3


async def test_a_rate_limit_holds_every_job_of_the_key_and_a_trigger_says_so(
    job: Engine, openai: OpenAI
) -> None:
    openai.add("batch_*", "in_progress")
    openai.instead("GET", "*/batch_a", openai_error(429, retry_after=600))
    await job.add(name="told")
    await job.until(last_check_status="ERROR")
    told = await job.api("GET", job.path)

    await job.add(name="other", batch_id="batch_b")
    answer = await job.verb("trigger")

    assert "asked us to wait until" in (await job.log())[-1]
    for found in (told, answer):
        due = datetime.fromisoformat(found["next_check_at"])
        assert timedelta(seconds=590) < due - utc_now() < timedelta(seconds=603)
    assert len(openai.requests) == 1


# Neighbours


@pytest.fixture
def other_openai() -> Iterator[OpenAI]:
    with OpenAI(api_keys=["sk-test-openai-key-1"]) as simulator:
        yield simulator


@asynccontextmanager
async def crowd(
    settings: Settings, count: int, *, base_url: str, due: datetime
) -> AsyncIterator[App]:
    """A program with `count` jobs of one origin that get due then, and nothing started yet."""
    app = assemble(settings)
    now = utc_now()
    app.store.secrets.replace_token(hashlib.sha256(TOKEN.encode()).digest(), now)
    add_secret(app, "openai-prod", SecretType.OPENAI, now, "sk-test-openai-key-1")
    add_secret(app, "keboola-prod", SecretType.KEBOOLA, now, "4711-test-storage-token")
    for number in range(count):
        fields = {
            "batch_ids": [f"batch_{number}"],
            "openai_base_url": base_url,
            "max_failed_percent": 100,
        }
        app.store.jobs.add(
            draft(
                name=f"job-{number}",
                interval_s=3600,
                source=Part(kind="openai", doc=fields, origin=base_url.removesuffix("/v1")),
                secrets=(secret_ref("openai-prod"), secret_ref("keboola-prod", "keboola_secret")),
            ),
            due,
            now,
        )
    try:
        yield app
    finally:
        app.close()


async def test_200_hanging_checks_of_one_origin_delay_nobody_else(
    make_settings: Callable[..., Settings],
    openai: OpenAI,
    other_openai: OpenAI,
    keboola: Keboola,
    job_fields: dict[str, Any],
) -> None:
    openai.instead("GET", "*", HANG, forever=True)
    other_openai.add("batch_*", "completed")
    settings = make_settings(MAX_CONCURRENT_REQUESTS=100, OPENAI_BASE_URL=openai.base_url)
    due = utc_now() + timedelta(seconds=1)  # all at once, and not spread as overdue ones are
    async with (
        crowd(settings, 200, base_url=openai.base_url, due=due) as app,
        trio.open_nursery() as running,
    ):
        await running.start(scheduler.run, app)
        share = app.lanes.share(Lane.NETWORK)
        await asked(openai, "", count=share)
        job = Engine(Api(app), job_fields)
        for number in range(3):
            before = time.time()
            fields = {"name": f"healthy-{number}", "batch_id": f"batch_{number}"}
            await job.add(**fields, openai_base_url=other_openai.base_url)
            polled = await asked(other_openai, f"batch_{number}")
            started = await asked(keboola, "/jobs", count=number + 1)
            assert polled.at - before < SOON_S
            assert started.at - before < SOON_S
        assert app.lanes.borrowed(Lane.NETWORK) == len(openai.requests) == share < 100
        await job.api.client.aclose()
        openai.close()
        running.cancel_scope.cancel()


async def test_500_jobs_due_at_once_are_all_polled_once(
    make_settings: Callable[..., Settings], openai: OpenAI
) -> None:
    openai.add("batch_*", "in_progress")
    settings = make_settings(OPENAI_BASE_URL=openai.base_url)
    due = utc_now() + timedelta(seconds=1)
    async with (
        crowd(settings, 500, base_url=openai.base_url, due=due) as app,
        trio.open_nursery() as running,
    ):
        await running.start(scheduler.run, app)
        wait = partial(openai.wait_for, lambda request: True, count=500, timeout_s=30)
        await trio.to_thread.run_sync(wait)
        with trio.fail_after(10):
            while app.pulse.jobs:
                await trio.sleep(0.01)
        running.cancel_scope.cancel()

    assert set(Counter(request.path for request in openai.requests).values()) == {1}


async def test_a_look_goes_on_past_the_jobs_of_a_crowded_origin(tmp_path: Path) -> None:
    """More jobs of it are due, and longer, than one look takes."""
    let_go = threading.Event()
    polled: list[str] = []

    def script(doc: Document, context: CheckContext) -> Finding:
        (name,) = doc["batch_ids"]
        polled.append(name)
        if name.startswith("hung"):
            let_go.wait(20)
        return finding()

    settings = plain_settings(tmp_path, MAX_CONCURRENT_REQUESTS=4)
    with assembled(settings, source=FakeSource(script)) as app:
        due = utc_now() + timedelta(seconds=0.5)
        for name in (*(f"hung-{number}" for number in range(20)), "healthy"):
            part = Part(kind="openai", doc={"batch_ids": [name]}, origin=name.split("-")[0])
            app.store.jobs.add(draft(name=name, interval_s=3600, source=part), due, due)
        async with trio.open_nursery() as running:
            await running.start(scheduler.run, app)
            with trio.fail_after(0.5 + SOON_S):
                while "healthy" not in polled or len(polled) <= app.lanes.share(Lane.NETWORK):
                    await trio.sleep(0.01)
            assert len(polled) == app.lanes.share(Lane.NETWORK) + 1
            let_go.set()
            running.cancel_scope.cancel()


async def test_a_job_starts_as_soon_as_a_given_up_thread_ends(tmp_path: Path) -> None:
    """Such a thread holds its token although nobody waits for it any more."""
    let_go = threading.Event()
    polled: list[str] = []

    def script(doc: Document, context: CheckContext) -> Finding:
        (batch_id,) = doc["batch_ids"]
        polled.append(batch_id)
        if batch_id.startswith("hung"):
            let_go.wait(20)
        return finding()

    source = FakeSource(script)
    source.allowed_s = 0.1
    settings = plain_settings(tmp_path, MAX_CONCURRENT_REQUESTS=2)
    with assembled(settings, source=source) as app:
        for number, name in enumerate(("hung-1", "hung-2", "healthy"), start=1):
            part = Part(kind="openai", doc={"batch_ids": [name]}, origin=name)
            due = utc_now() + timedelta(seconds=0.2 * number)
            app.store.jobs.add(draft(name=name, interval_s=3600, source=part), due, due)
        async with trio.open_nursery() as running:
            await running.start(scheduler.run, app)
            with trio.fail_after(5):
                while app.pulse.jobs or len(polled) < 2:
                    await trio.sleep(0.01)
            assert app.lanes.borrowed(Lane.NETWORK) == 2
            await trio.sleep(0.3)  # until past the third one's due time
            assert polled == ["hung-1", "hung-2"]

            let_go.set()
            with trio.fail_after(SOON_S + 1):
                while len(polled) < 3:
                    await trio.sleep(0.01)
            running.cancel_scope.cancel()


# Health


class Blocked:
    """Stands for the agenda, whose looks never come back until `let_go`."""

    def __init__(self, inner: Any) -> None:
        self.let_go = threading.Event()
        self._inner = inner

    def due(self, *args: Any) -> Any:
        self.let_go.wait(20)
        return self._inner.due(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Parts:
    """A store of which one part was replaced."""

    def __init__(self, inner: Any, **parts: Any) -> None:
        self._inner = inner
        self.__dict__.update(parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def test_health_fails_when_the_scheduler_stalls_and_the_server_answers(
    app: App,
) -> None:
    late = timedelta(0)
    blocked = Blocked(app.store.agenda)
    stalled = replaced(
        app,
        store=Parts(app.store, agenda=blocked),  # type: ignore[arg-type]
        now=lambda: utc_now() + late,
    )
    try:
        async with served(stalled):
            api = Api(stalled)
            well = await api("GET", "/api/health")
            late = timedelta(seconds=61)
            with trio.fail_after(5):
                while stalled.pulse.last_probe_at < utc_now() + timedelta(seconds=60):
                    await trio.sleep(0.02)
            ill = await api("GET", "/api/health", expect=503)
            await api.client.aclose()
            blocked.let_go.set()
    finally:
        blocked.let_go.set()

    assert well["status"] == "ok"
    assert ill["status"] == "failing"
    assert ill["database"] == {"writable": True}
    assert "the scheduler makes no progress" in ill["reasons"][0]


async def test_an_unknown_outcome_is_found_and_not_started_twice(
    job: Engine, openai: OpenAI, keboola: Keboola
) -> None:
    openai.add("batch_a", "completed")
    keboola.instead("POST", "/jobs", Afterwards(openai_error(502)))
    await job.add()
    done = await job.until(status="completed")

    delivery = await job.delivery()
    assert [one["outcome"] for one in delivery["attempts"]] == ["unknown", "found"]
    assert len(keboola.asked("POST", "/jobs")) == len(keboola.jobs) == 1
    assert done["keboola_job"]["id"] == keboola.jobs[0]["id"]


async def test_what_cant_be_decided_is_left_to_people(
    job: Engine, openai: OpenAI, keboola: Keboola
) -> None:
    openai.add("batch_a", "completed")
    keboola.instead("POST", "/jobs", DROP)
    keboola.instead("GET", "/search/jobs", Answer(content=[{"id": "1001", "status": "waiting"}]))
    await job.add()
    found = await job.until(status="failed")
    assert "delivery unconfirmed" in found["status_reason"]
    assert len(keboola.asked("POST", "/jobs")) == 1
    health = await eventually(
        job.api, "/api/health", lambda document: document["status"] == "degraded"
    )
    assert "unconfirmed" in health["reasons"][0]

    delivery = await job.delivery()
    await job.api("POST", f"/api/deliveries/{delivery['id']}/redeliver")

    await job.until(status="completed")
    assert [one["outcome"] for one in (await job.delivery())["attempts"]] == [
        "unknown",
        "unconfirmed",
        "delivered",
    ]
    assert len(keboola.jobs) == 1
