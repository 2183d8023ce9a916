"""The scheduler over days of a mock clock, with fakes at its ports and a real database.

Everything runs in the event loop (`InlineLanes`), so time stands still while something works.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace as replaced
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from teckochecker import lifecycle, scheduler, upkeep
from teckochecker.actions import DeliveryContext
from teckochecker.app import App
from teckochecker.domain import (
    DeliveryState,
    Document,
    Doubt,
    Event,
    Finding,
    Job,
    JobId,
    NotFoundYet,
    Page,
    Receipt,
    SecretType,
    Sent,
    Status,
    Undecided,
    Verdict,
    replace,
)
from teckochecker.errors import Fault, StoreBusy, StoreFull
from teckochecker.lanes import Lane
from teckochecker.pulse import health
from teckochecker.sources import CheckContext
from teckochecker.steps import recorded, store_failed
from tests.parts import (
    NOW,
    SOURCE,
    Clock,
    FakeAction,
    FakeSource,
    InlineLanes,
    add_secret,
    assembled,
    draft,
    failing,
    finding,
    only_delivery,
    plain_settings,
    secret_ref,
    sent,
)

MINUTE, HOUR, DAY = 60, 3600, 86_400
KEY, OTHER_KEY = "openai-prod", "openai-other"
ALL = Page(limit=1000, offset=0)


class Stage:
    """A program whose world is `source` and `action`; what they do is a function."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.clock = Clock()
        self.random = random.Random(4711)
        self.source = FakeSource(lambda doc, context: finding())
        self.action = FakeAction(lambda event, context: sent())
        self.calls: list[tuple[str, float]] = []
        self.app: App

    def now(self) -> datetime:
        return self.clock()

    def add(
        self, name: str = "nightly", *, interval_s: int = 60, due_s: float = 0.01, key: str = KEY
    ) -> JobId:
        """A job of one batch, named like the job, that is first due at `due_s`."""
        made = self.app.store.jobs.add(
            draft(
                name=name,
                interval_s=interval_s,
                source=replace(SOURCE, doc={"batch_ids": [name]}),
                secrets=(secret_ref(key), secret_ref("keboola", "keboola_secret")),
            ),
            NOW + timedelta(seconds=due_s),
            self.now(),
        )
        return made.job.id

    def job(self, job_id: JobId) -> Job:
        return self.app.store.jobs.view(job_id).job

    def change(self, job_id: JobId, decide: Callable[..., lifecycle.Change]) -> Job:
        """A verb as the API calls it: change, then poke."""
        now = self.now()
        view = self.app.store.jobs.change(job_id, lambda job, held: decide(job, held, now), now)
        self.app.wake.poke()
        return view.job

    def words(self, job_id: JobId) -> list[str]:
        """The statuses of a job's log, oldest first."""
        rows, _ = self.app.store.jobs.logs(job_id, ALL)
        return [row.status for row in reversed(rows)]

    def checks(self, script: Callable[[str, CheckContext], Finding]) -> None:
        """What a check of a batch finds; each is noted with its time."""

        def noted(doc: Document, context: CheckContext) -> Finding:
            (batch_id,) = doc["batch_ids"]
            self.calls.append((batch_id, self.seconds(context.now)))
            return script(batch_id, context)

        self.source.script = noted

    def polls(self, batch_id: str = "nightly") -> list[float]:
        return [at for name, at in self.calls if name == batch_id]

    def seconds(self, at: datetime) -> float:
        """Of the true time, whatever the wall clock was made to say."""
        return (at - NOW - self.clock.moved).total_seconds()

    @asynccontextmanager
    async def running(self, *also: Callable[..., Any]) -> AsyncIterator[None]:
        """The scheduler, until it is killed at the end of the block."""
        async with trio.open_nursery() as nursery:
            for task in (scheduler.run, *also):
                await nursery.start(task, self.app)
            yield
            nursery.cancel_scope.cancel()

    async def play(self, seconds: float) -> None:
        async with self.running():
            await trio.sleep(seconds)


@pytest.fixture
async def played(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    stage.checks(lambda batch_id, context: finding())
    with opened(stage):
        for name in (KEY, OTHER_KEY):
            add_secret(stage.app, name, SecretType.OPENAI, NOW)
        add_secret(stage.app, "keboola", SecretType.KEBOOLA, NOW)
        yield stage


@contextmanager
def opened(stage: Stage) -> Iterator[None]:
    """The program assembled over the stage's folder, as after a start."""
    with assembled(
        plain_settings(stage.home),
        source=stage.source,
        action=stage.action,
        now=stage.clock,
        jitter=stage.random.random,
        lanes=InlineLanes(network=100),
    ) as app:
        stage.app = app
        yield


def gaps(times: list[float]) -> list[float]:
    return [later - at for at, later in pairwise(times)]


def every(*findings: Finding) -> Callable[[str, CheckContext], Finding]:
    """These findings one after the other; the last one repeats."""
    left = list(findings)
    return lambda batch_id, context: left.pop(0) if len(left) > 1 else left[0]


def success() -> Finding:
    return finding(Verdict.SUCCESS, data={"batches": []})


def error(fault: Fault = Fault.TRANSIENT, **changes: Any) -> Finding:
    return finding(Verdict.ERROR, fault=fault, **changes)


# Polling


async def test_a_week_of_polling_keeps_every_interval(
    autojump_clock: MockClock, played: Stage
) -> None:
    hourly = played.add("hourly", interval_s=HOUR)
    played.add("rarely", interval_s=6 * HOUR)

    await played.play(7 * DAY + 10)

    assert len(played.polls("hourly")) == 7 * 24
    assert len(played.polls("rarely")) == 7 * 4
    for name, interval_s in (("hourly", HOUR), ("rarely", 6 * HOUR)):
        assert all(interval_s <= gap <= interval_s + 1.01 for gap in gaps(played.polls(name)))
    jitters = {round(gap - HOUR, 2) for gap in gaps(played.polls("hourly"))}
    assert len(jitters) > 5
    assert played.job(hourly).check_count == 7 * 24


@pytest.mark.parametrize(("interval_s", "jitter_s"), [(1, 0.01), (30, 0.3), (600, 1.0)])
async def test_jitter_is_a_hundredth_of_the_interval_and_at_most_a_second(
    autojump_clock: MockClock, played: Stage, interval_s: int, jitter_s: float
) -> None:
    played.add(interval_s=interval_s)

    await played.play(40 * interval_s + 40 * jitter_s)

    waits = [gap - interval_s for gap in gaps(played.polls())]
    assert len(waits) >= 39
    assert all(-0.001 <= wait <= jitter_s + 0.002 for wait in waits)
    assert max(waits) > jitter_s / 2


async def test_the_lag_of_a_check_is_none_while_nothing_is_in_the_way(
    autojump_clock: MockClock, played: Stage
) -> None:
    for number in range(20):
        played.add(f"job-{number}", interval_s=30, due_s=number * 0.7)

    await played.play(10 * MINUTE)

    assert len(played.app.pulse.lags_s) > 300
    assert max(played.app.pulse.lags_s) < 0.01


async def test_passing_errors_back_off_and_a_good_answer_ends_that(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.checks(every(*[error()] * 8, finding()))
    played.add(interval_s=60)

    await played.play(4 * HOUR)

    found = gaps(played.polls())
    assert found[:9] == pytest.approx([60, 120, 240, 480, 960, 1920, 3600, 3600, 60], abs=0.7)


async def test_an_empty_account_is_asked_once_an_hour(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.checks(every(error(Fault.QUOTA)))
    played.add(interval_s=60)

    await played.play(4 * HOUR + 10)

    assert gaps(played.polls()) == pytest.approx([HOUR] * 4, abs=1)


async def test_three_strikes_pause_the_job_and_a_resume_checks_it_at_once(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.checks(every(*[error(Fault.NOT_FOUND, message="no such batch")] * 3, finding()))
    job_id = played.add(interval_s=60)

    async with played.running():
        await trio.sleep(HOUR)
        stopped = played.job(job_id)
        played.change(job_id, lifecycle.resumed)
        await trio.sleep(0.5)

    assert stopped.status is Status.PAUSED
    assert "no such batch" in (stopped.status_reason or "")
    assert gaps(played.polls())[:2] == pytest.approx([60, 60], abs=1)
    assert played.polls()[3] == pytest.approx(HOUR, abs=0.1)


# Retry-After


def told_once(wait_s: float, key: str = KEY) -> Callable[[str, CheckContext], Finding]:
    """The first check with `key` is told to wait."""
    told: list[str] = []

    def script(batch_id: str, context: CheckContext) -> Finding:
        mine = context.secrets["openai_secret"].reveal() == f"value-of-{key}"
        if mine and not told:
            told.append(batch_id)
            return error(Fault.RATE_LIMITED, retry_after_s=wait_s)
        return finding()

    return script


async def test_a_retry_after_holds_every_job_of_the_same_secret(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.checks(told_once(300))
    for number in range(12):
        played.add(f"held-{number}", interval_s=30, due_s=number + 0.01)
    played.add("free", interval_s=30, key=OTHER_KEY)

    await played.play(400)

    held = [at for name, at in played.calls if name.startswith("held")]
    assert held[0] == pytest.approx(0, abs=0.02)
    assert [at for at in held[1:] if at < 300] == []
    back = [min(at for at in played.polls(f"held-{number}") if at > 1) for number in range(12)]
    assert all(300 <= at <= 302.5 for at in back)
    assert len({round(at, 2) for at in back}) > 6  # they don't come back in one burst
    assert gaps(played.polls("free")) == pytest.approx([30] * 13, abs=0.31)


@pytest.mark.parametrize("verb", ["create", "trigger", "resume", "edit"])
async def test_nobody_gets_past_a_retry_after_by_hand(
    autojump_clock: MockClock, played: Stage, verb: str
) -> None:
    played.checks(told_once(300))
    played.add("told", interval_s=30)
    job_id = played.add("other", interval_s=30, due_s=20)

    async with played.running():
        await trio.sleep(10)
        if verb == "create":
            played.add("new", interval_s=30, due_s=10)
            played.app.wake.poke()
        elif verb == "trigger":
            played.change(job_id, lifecycle.triggered)
        elif verb == "resume":
            played.change(job_id, lambda job, held, now: lifecycle.paused(job, now))
            played.change(job_id, lifecycle.resumed)
        else:
            edit(played, job_id, source=replace(SOURCE, doc={"batch_ids": ["batch_new"]}))
        await trio.sleep(400)

    assert [at for _, at in played.calls if 0.1 < at < 300] == []
    assert len([at for _, at in played.calls if 300 <= at < 303]) == (3 if verb == "create" else 2)


async def test_an_edit_to_a_free_secret_ends_the_waiting(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.checks(told_once(300))
    job_id = played.add(interval_s=30)

    async with played.running():
        await trio.sleep(10)
        edit(played, job_id, {"openai_secret"}, secrets=(secret_ref(OTHER_KEY),))
        await trio.sleep(5)

    assert played.polls()[1] == pytest.approx(10, abs=0.1)


async def test_a_new_value_of_the_secret_ends_the_holding(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.checks(told_once(300))
    job_id = played.add(interval_s=30)

    async with played.running():
        await trio.sleep(10)
        played.app.store.secrets.set_value(KEY, lambda sealed: sealed.sealed, played.now())
        played.change(job_id, lifecycle.triggered)
        await trio.sleep(5)

    assert played.polls()[1] == pytest.approx(10, abs=0.1)


def edit(stage: Stage, job_id: JobId, given: set[str] | None = None, **changes: Any) -> None:
    now = stage.now()
    stage.app.store.jobs.edit(
        job_id,
        lambda view: draft(
            **{
                "name": view.job.name,
                "interval_s": view.job.interval_s,
                "source": view.job.source,
                "secrets": (secret_ref(KEY), secret_ref("keboola", "keboola_secret")),
            }
            | changes
        ),
        lambda job, new: lifecycle.edited(
            job, new, frozenset(given or {"batch_id"}), frozenset(), now
        ),
        now,
    )
    stage.app.wake.poke()


# Being told, and finding out by itself


async def test_a_new_job_and_a_triggered_one_are_checked_at_once(
    autojump_clock: MockClock, played: Stage
) -> None:
    async with played.running():
        await trio.sleep(100)
        job_id = played.add("new", interval_s=HOUR, due_s=100)
        played.app.wake.poke()
        await trio.sleep(400)
        played.change(job_id, lifecycle.triggered)
        await trio.sleep(100)

    assert played.polls("new") == pytest.approx([100, 500], abs=0.01)


async def test_a_lost_poke_heals_within_thirty_seconds(
    autojump_clock: MockClock, played: Stage
) -> None:
    async with played.running():
        await trio.sleep(100)
        played.add("new", interval_s=HOUR, due_s=100)
        await trio.sleep(100)

    assert 100 <= played.polls("new")[0] <= 130


async def test_a_paused_job_is_left_alone_and_a_resumed_one_is_checked_at_once(
    autojump_clock: MockClock,
    played: Stage,
) -> None:
    job_id = played.add(interval_s=30)

    async with played.running():
        await trio.sleep(100)
        played.change(job_id, lambda job, held, now: lifecycle.paused(job, now))
        await trio.sleep(1000)
        played.change(job_id, lifecycle.resumed)
        await trio.sleep(100)

    assert [at for at in played.polls() if 100 < at < 1100] == []
    assert played.polls()[4] == pytest.approx(1100, abs=0.1)


async def test_a_deleted_job_is_never_checked_again(
    autojump_clock: MockClock, played: Stage
) -> None:
    job_id = played.add(interval_s=30)

    async with played.running():
        await trio.sleep(100)
        played.app.store.jobs.delete(job_id)
        await trio.sleep(1000)

    assert max(played.polls()) < 100


# Restarts


async def test_a_restart_continues_where_it_was(autojump_clock: MockClock, played: Stage) -> None:
    job_id = played.add(interval_s=600)
    await played.play(700)
    played.app.close()

    with opened(played):
        await played.play(1000)

    assert gaps(played.polls()) == pytest.approx([600, 600], abs=2.1)
    assert played.job(job_id).check_count == 3


async def test_missed_checks_run_once_and_spread(autojump_clock: MockClock, played: Stage) -> None:
    for number in range(60):
        played.add(f"job-{number}", interval_s=60, due_s=number)
    await played.play(50)
    played.calls.clear()
    await trio.sleep(HOUR)

    await played.play(30)

    begun = HOUR + 50
    assert sorted(name for name, _ in played.calls) == sorted(f"job-{n}" for n in range(60))
    late = [at - begun for _, at in played.calls]
    assert 0 <= min(late) < 0.2
    assert 1.8 < max(late) <= 2.0
    assert max(gaps(sorted(late))) < 0.5


async def test_short_intervals_spread_over_a_tenth_of_themselves(
    autojump_clock: MockClock, played: Stage
) -> None:
    for number in range(30):
        played.add(f"job-{number}", interval_s=5)
    await trio.sleep(HOUR)

    await played.play(3)

    late = [at - HOUR for _, at in played.calls]
    assert len(late) == 30
    assert 0.3 < max(late) <= 0.5


@pytest.mark.parametrize("stop_s", [0.5, 3.5, 40.0])
async def test_a_delivery_goes_on_after_a_restart(
    autojump_clock: MockClock, played: Stage, stop_s: float
) -> None:
    played.checks(every(success()))
    tries: list[float] = []
    played.action.script = failing_until(tries, 5)
    job_id = played.add()
    await played.play(stop_s)
    played.app.close()

    with opened(played):
        await played.play(300)

        assert played.job(job_id).status is Status.COMPLETED
        assert len(tries) == 5
        assert only_delivery(played.app.store, job_id).event.id == played.job(job_id).event_id


def failing_until(tries: list[float], count: int) -> Callable[[Event, DeliveryContext], Sent]:
    """The delivery number `count` succeeds; each is noted with its time."""

    def script(event: Event, context: DeliveryContext) -> Sent:
        tries.append((context.now - NOW).total_seconds())
        if len(tries) < count:
            raise failing(status_code=500, answer="oops")
        return sent()

    return script


async def test_an_attempt_that_a_kill_cut_off_is_looked_for_at_once(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.checks(every(success()))
    played.action.script = raising(failing(Fault.TRANSIENT))
    job_id = played.add()
    await played.play(0.5)
    delivery = only_delivery(played.app.store, job_id)
    await trio.sleep(10)
    assert played.app.store.deliveries.begin(delivery.id, played.now()) is not None
    doubts: list[Doubt] = []

    def script(event: Event, context: DeliveryContext) -> Sent:
        doubts.append(context.doubt)
        return sent(found=True)

    played.action.script = script
    await played.play(0.5)

    assert doubts == [Doubt.LOOK]
    assert played.job(job_id).status is Status.COMPLETED
    views, _ = played.app.store.deliveries.page(job_id, ALL)
    assert [one.outcome for one in views[0].attempts] == ["failed", "unknown", "found"]


# A wall clock that is moved


@pytest.mark.parametrize("moved_s", [-DAY, -HOUR, -10 * MINUTE])
async def test_polling_goes_on_after_the_wall_clock_was_set_back(
    autojump_clock: MockClock, played: Stage, moved_s: float
) -> None:
    played.add(interval_s=60)

    async with played.running():
        await trio.sleep(600)
        played.clock.moved = timedelta(seconds=moved_s)
        await trio.sleep(600)

    assert max(gaps(played.polls())) <= 60 + 30 + 1
    assert len(played.polls()) >= 19


@pytest.mark.parametrize("moved_s", [10 * MINUTE, HOUR, DAY])
async def test_polling_goes_on_after_the_wall_clock_was_set_forward(
    autojump_clock: MockClock, played: Stage, moved_s: float
) -> None:
    played.add(interval_s=60)

    async with played.running():
        await trio.sleep(610)
        played.clock.moved = timedelta(seconds=moved_s)
        await trio.sleep(600)

    assert len(played.polls()) in (20, 21, 22)
    assert max(gaps(played.polls())) <= 60 + 30 + 1


async def test_what_a_clock_set_forward_makes_overdue_comes_spread(
    autojump_clock: MockClock, played: Stage
) -> None:
    for number in range(40):
        played.add(f"job-{number}", interval_s=600, due_s=number)

    async with played.running():
        await trio.sleep(60)
        played.calls.clear()
        played.clock.moved = timedelta(hours=1)
        await trio.sleep(40)

    begun = min(at for _, at in played.calls)
    late = [at - begun for _, at in played.calls]
    assert len(late) == 40
    assert 1.5 < max(late) <= 2.0
    assert max(gaps(sorted(late))) < 0.5


async def test_a_clock_that_goes_forth_and_back_leaves_no_job_behind(
    autojump_clock: MockClock, played: Stage
) -> None:
    for number in range(5):
        played.add(f"job-{number}", interval_s=60)

    async with played.running():
        for moved_s in (DAY, 0, -DAY, 0, HOUR, -HOUR):
            await trio.sleep(300)
            played.clock.moved = timedelta(seconds=moved_s)
        await trio.sleep(300)

    for number in range(5):
        assert max(gaps(played.polls(f"job-{number}"))) <= 60 + 30 + 1


async def test_a_waiting_delivery_goes_on_after_the_wall_clock_was_set_back(
    autojump_clock: MockClock,
    played: Stage,
) -> None:
    played.checks(every(success()))
    tries: list[float] = []
    played.action.script = failing_until(tries, 6)
    job_id = played.add()

    async with played.running():
        await trio.sleep(100)  # five tries; the next one is 300 s after the last
        played.clock.moved = timedelta(days=-1)
        await trio.sleep(400)

    assert len(tries) == 6
    assert played.job(job_id).status is Status.COMPLETED


async def test_a_started_job_is_followed_on_after_the_wall_clock_was_set_back(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.checks(every(success()))
    played.action.script = lambda event, context: sent("1001", follow_up=True)
    played.add()

    async with played.running():
        await trio.sleep(100)
        known = len(played.action.asked)
        played.clock.moved = timedelta(days=-1)
        await trio.sleep(200)

    assert len(played.action.asked) >= known + 3


async def test_a_hold_doesnt_outlive_a_wall_clock_that_was_set_back(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.checks(told_once(300))
    played.add(interval_s=60)

    async with played.running():
        await trio.sleep(100)
        played.clock.moved = timedelta(days=-1)
        await trio.sleep(60)
        played.add("new", due_s=-DAY)
        played.app.wake.poke()
        await trio.sleep(240)

    assert 300 <= played.polls()[1] <= 335
    assert 300 <= played.polls("new")[0] <= 335


async def test_a_clock_that_was_set_back_while_nothing_ran_leaves_no_job_behind(
    autojump_clock: MockClock,
    played: Stage,
) -> None:
    played.add(interval_s=60)
    async with played.running():
        played.app.store.care.probe(played.now())
        await trio.sleep(90)
        played.app.store.care.probe(played.now())  # as upkeep does every second
    played.clock.moved = timedelta(days=-30)

    await played.play(100)

    assert played.polls() == pytest.approx([0, 60, 120, 180], abs=3)


# Deliveries


async def test_a_delivery_is_tried_at_once_and_then_after_1_2_and_4_seconds(
    autojump_clock: MockClock,
    played: Stage,
) -> None:
    played.checks(every(success()))
    tries: list[float] = []
    played.action.script = failing_until(tries, 4)
    job_id = played.add()

    await played.play(30)

    assert tries[0] == pytest.approx(0, abs=0.01)
    for waited, wait in zip(gaps(tries), [1, 2, 4], strict=True):
        assert 0.9 * wait - 0.01 <= waited <= 1.1 * wait + 0.01
    assert played.words(job_id) == [
        "created",
        "success",
        *["delivery_pending"] * 3,
        "triggered",
        "completed",
    ]


async def test_the_long_tail_ends_in_failed_days_later_and_health_says_so(
    autojump_clock: MockClock,
    played: Stage,
) -> None:
    played.checks(every(success()))
    tries: list[float] = []
    played.action.script = failing_until(tries, 100)
    job_id = played.add()
    tail = [1, 2, 4, 60, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]

    async with played.running():
        await trio.sleep(sum(tail) * 1.1 + 60)

    for waited, wait in zip(gaps(tries), tail, strict=True):
        assert 0.9 * wait - 0.01 <= waited <= 1.1 * wait + 0.01
    job = played.job(job_id)
    assert job.status is Status.FAILED
    assert job.status_reason == "delivery failed: It failed."
    assert only_delivery(played.app.store, job_id).state is DeliveryState.FAILED
    assert played.app.store.agenda.troubled_deliveries(played.now()) == 1
    later = played.now() + timedelta(days=2)
    assert played.app.store.agenda.troubled_deliveries(later) == 0


async def test_a_redelivery_of_a_used_up_delivery_completes_the_job(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.checks(every(success()))
    played.action.script = raising(failing(Fault.REFUSED))
    job_id = played.add()

    async with played.running():
        await trio.sleep(10)
        assert played.job(job_id).status is Status.FAILED
        played.action.script = lambda event, context: sent()
        before = only_delivery(played.app.store, job_id)
        played.app.store.deliveries.redeliver(before.id, played.now())
        played.app.wake.poke()
        await trio.sleep(0.1)

    after = only_delivery(played.app.store, job_id)
    assert after.state is DeliveryState.DELIVERED
    assert after.event == before.event
    assert played.job(job_id).status is Status.COMPLETED


def raising(error: Exception) -> Callable[[Event, DeliveryContext], Sent]:
    def script(event: Event, context: DeliveryContext) -> Sent:
        raise error

    return script


async def test_a_paused_delivery_waits_and_a_resumed_one_goes_on(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.checks(every(success()))
    tries: list[float] = []
    played.action.script = failing_until(tries, 3)
    job_id = played.add()

    async with played.running():
        await trio.sleep(0.5)
        played.change(job_id, lambda job, held, now: lifecycle.paused(job, now))
        await trio.sleep(HOUR)
        assert len(tries) == 1
        played.change(job_id, lifecycle.resumed)
        await trio.sleep(60)

    assert tries[1] == pytest.approx(HOUR + 0.5, abs=0.1)
    assert played.job(job_id).status is Status.COMPLETED


async def test_a_pause_that_lands_between_the_look_and_the_sending_wins(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.checks(every(success()))
    played.action.script = raising(failing())
    job_id = played.add()
    await played.play(0.5)
    played.change(job_id, lambda job, held, now: lifecycle.paused(job, now))
    await trio.sleep(10)
    delivery = only_delivery(played.app.store, job_id)

    assert played.app.store.deliveries.begin(delivery.id, played.now()) is None
    assert only_delivery(played.app.store, job_id) == delivery


async def test_a_trigger_tries_a_waiting_delivery_now(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.checks(every(success()))
    tries: list[float] = []
    played.action.script = failing_until(tries, 6)
    job_id = played.add()

    async with played.running():
        await trio.sleep(100)
        assert len(tries) == 5
        played.change(job_id, lifecycle.triggered)
        await trio.sleep(0.1)

    assert tries[5] == pytest.approx(100, abs=0.01)
    assert played.job(job_id).status is Status.COMPLETED


def looking(
    seen: list[tuple[Doubt, float]],
) -> Callable[[Event, DeliveryContext], Sent | NotFoundYet | Undecided]:
    """The first attempt is lost on its way; each look finds nothing."""

    def script(event: Event, context: DeliveryContext) -> Sent | NotFoundYet | Undecided:
        seen.append((context.doubt, (context.now - NOW).total_seconds()))
        if len(seen) == 1:
            raise failing(maybe_done=True)
        if context.doubt is Doubt.LOOK:
            return NotFoundYet(message="Nothing yet.")
        return sent()

    return script


async def test_an_unknown_outcome_is_looked_for_twice_before_it_is_sent_again(
    autojump_clock: MockClock,
    played: Stage,
) -> None:
    played.checks(every(success()))
    seen: list[tuple[Doubt, float]] = []
    played.action.script = looking(seen)
    played.add()

    await played.play(60)

    assert [doubt for doubt, _ in seen] == [Doubt.NONE, Doubt.LOOK, Doubt.LOOK_AGAIN]
    assert gaps([at for _, at in seen]) == pytest.approx([1, 10], abs=0.11)


@pytest.mark.parametrize("verb", ["trigger", "redeliver"])
async def test_no_hand_shortens_the_pause_between_two_looks(
    autojump_clock: MockClock, played: Stage, verb: str
) -> None:
    played.checks(every(success()))
    seen: list[tuple[Doubt, float]] = []
    played.action.script = looking(seen)
    job_id = played.add()

    async with played.running():
        await trio.sleep(5)  # the first look was a second ago or more
        if verb == "trigger":
            played.change(job_id, lifecycle.triggered)
        else:
            only = only_delivery(played.app.store, job_id)
            played.app.store.deliveries.redeliver(only.id, played.now())
            played.app.wake.poke()
        await trio.sleep(60)

    assert [doubt for doubt, _ in seen] == [Doubt.NONE, Doubt.LOOK, Doubt.LOOK, Doubt.LOOK_AGAIN]
    assert gaps([at for _, at in seen])[-1] == pytest.approx(10, abs=0.1)


# The follow-up


async def test_a_started_job_is_followed_until_it_is_finished(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.checks(every(success()))
    played.action.script = lambda event, context: sent("1001", follow_up=True)
    states = iter(["waiting", "processing", "processing", "success"])

    def news(receipt: Receipt) -> Receipt:
        state = next(states)
        return Receipt(id=receipt.id, status=state, finished=state == "success")

    played.action.news = news
    job_id = played.add()

    await played.play(10 * MINUTE)

    asked = [played.seconds(at) for at in played.action.asked]
    assert asked == pytest.approx([5, 15, 35, 95], abs=0.1)
    delivery = only_delivery(played.app.store, job_id)
    assert delivery.receipt == Receipt(id="1001", status="success")
    assert delivery.follow_up_at is None
    assert played.job(job_id).status is Status.COMPLETED


async def test_a_follow_up_survives_a_restart_and_ends_after_48_hours(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.checks(every(success()))
    played.action.script = lambda event, context: sent("1001", follow_up=True)
    job_id = played.add()
    await played.play(HOUR)
    assert len(played.action.asked) == 62
    played.app.close()
    await trio.sleep(46 * HOUR)

    with opened(played):
        await played.play(2 * HOUR)

        assert only_delivery(played.app.store, job_id).follow_up_at is None
    asked = [played.seconds(at) for at in played.action.asked]
    assert asked[62] == pytest.approx(47 * HOUR, abs=0.1)  # one for all that were missed
    assert 48 * HOUR - 60 <= asked[-1] <= 48 * HOUR
    assert gaps(asked)[-50:] == pytest.approx([60] * 50, abs=0.1)


async def test_a_follow_up_never_keeps_an_attempt_waiting(
    autojump_clock: MockClock, played: Stage
) -> None:
    """Its own redelivery comes while the started job is being asked for."""
    played.checks(every(success()))
    played.action.script = lambda event, context: sent("1001", follow_up=True)
    job_id = played.add()

    def redelivered_meanwhile(receipt: Receipt) -> Receipt:
        if len(played.action.asked) == 1:
            only = only_delivery(played.app.store, job_id)
            played.app.store.deliveries.redeliver(only.id, played.now())
            played.app.wake.poke()
        return Receipt(id=receipt.id, status="processing", finished=False)

    played.action.news = redelivered_meanwhile
    await played.play(8)

    sendings = [played.seconds(at) for at in played.action.calls]
    assert sendings == pytest.approx([0, 5], abs=0.1)
    assert played.job(job_id).status is Status.COMPLETED


# Faults of our own, and of the disk


async def test_a_bug_in_a_source_is_an_error_of_that_job_alone(
    autojump_clock: MockClock, played: Stage
) -> None:
    def script(batch_id: str, context: CheckContext) -> Finding:
        if batch_id == "poisoned":
            raise ZeroDivisionError("a bug")
        return finding()

    played.checks(script)
    poisoned = played.add("poisoned", interval_s=60)
    played.add("healthy", interval_s=60)

    await played.play(200)

    rows, _ = played.app.store.jobs.logs(poisoned, ALL)
    newest = rows[0]
    assert newest.status == "error"
    assert "ZeroDivisionError: a bug" in newest.message
    assert 'raise ZeroDivisionError("a bug")' in (newest.detail or "")
    assert gaps(played.polls("poisoned")) == pytest.approx([60, 120], abs=0.7)
    assert gaps(played.polls("healthy")) == pytest.approx([60] * 3, abs=0.7)


async def test_a_bug_around_a_check_is_an_error_of_that_job_alone(
    autojump_clock: MockClock, played: Stage
) -> None:
    """What a source says of its time-out comes from stored data, which may be odd."""
    normal = played.source.timeout_s

    def timeout_s(doc: Document, previous: Document | None) -> float:
        if doc["batch_ids"] == ["poisoned"]:
            raise KeyError("batches")
        return normal(doc, previous)

    played.source.timeout_s = timeout_s  # type: ignore[method-assign]
    poisoned = played.add("poisoned", interval_s=60)
    played.add("healthy", interval_s=60)

    await played.play(200)

    rows, _ = played.app.store.jobs.logs(poisoned, ALL)
    assert rows[0].status == "error"
    assert "KeyError" in rows[0].message
    assert len(rows) == 4  # created, and an error at 0, 60 and 180 s
    assert gaps(played.polls("healthy")) == pytest.approx([60] * 3, abs=0.7)


async def test_a_finding_that_cant_be_stored_is_an_error_of_that_job_alone(
    autojump_clock: MockClock,
    played: Stage,
) -> None:
    def script(batch_id: str, context: CheckContext) -> Finding:
        return finding(message="half a pair: \ud83d") if batch_id == "poisoned" else finding()

    played.checks(script)
    poisoned = played.add("poisoned", interval_s=60)
    played.add("healthy", interval_s=60)

    await played.play(200)

    assert played.words(poisoned) == ["created", "error", "error", "error"]
    assert gaps(played.polls("healthy")) == pytest.approx([60] * 3, abs=0.7)


async def test_a_bug_in_an_action_is_looked_for_and_never_ends_the_schedule(
    autojump_clock: MockClock,
    played: Stage,
) -> None:
    played.checks(every(success()))
    doubts: list[Doubt] = []

    def script(event: Event, context: DeliveryContext) -> Sent | NotFoundYet:
        doubts.append(context.doubt)
        if len(doubts) == 1:
            raise ZeroDivisionError("a bug")
        return sent(found=True)

    played.action.script = script
    job_id = played.add()

    await played.play(10)

    assert doubts == [Doubt.NONE, Doubt.LOOK]
    assert played.job(job_id).status is Status.COMPLETED
    views, _ = played.app.store.deliveries.page(job_id, ALL)
    assert "ZeroDivisionError" in views[0].attempts[0].message
    assert "Traceback" in views[0].attempts[0].answer


async def test_a_kind_that_this_program_doesnt_know_harms_no_other_job(
    autojump_clock: MockClock, played: Stage
) -> None:
    stranger = played.add("stranger", interval_s=60)
    edit(played, stranger, source=replace(SOURCE, kind="from_the_future"))
    played.add("healthy", interval_s=60)

    await played.play(130)

    assert played.words(stranger)[-1] == "error"
    assert len(played.polls("healthy")) == 3


class Stumbling:
    """Stands for `inner`; a call of a name in `faults` raises its next fault while any is left."""

    def __init__(self, inner: object, **faults: list[Exception]) -> None:
        self._inner = inner
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        found, faults = getattr(self._inner, name), self._faults.get(name, [])

        def stumble(*args: Any, **kwargs: Any) -> Any:
            if faults:
                raise faults.pop(0)
            return found(*args, **kwargs)

        return stumble if callable(found) else found


def full() -> Exception:
    return StoreFull("The disk is full.")


def stumbling(app: App, part: str, **faults: list[Exception]) -> App:
    inner = getattr(app.store, part)
    store = Stumbling(app.store)
    setattr(store, part, Stumbling(inner, **faults))
    return replaced(app, store=store)  # type: ignore[arg-type]


@pytest.mark.parametrize("fault", [full(), StoreBusy("It is locked.")])
async def test_what_a_check_found_waits_for_the_disk(
    autojump_clock: MockClock, played: Stage, fault: Exception
) -> None:
    played.checks(every(finding(), success()))
    job_id = played.add(interval_s=60)
    played.app = stumbling(played.app, "jobs", step=[fault] * 5)

    await played.play(90)

    assert played.polls() == pytest.approx([0, 60], abs=1)
    assert played.job(job_id).status is Status.COMPLETED
    assert len(played.action.calls) == 1


async def test_what_could_be_read_says_nothing_about_a_full_disk(played: Stage) -> None:
    store_failed(played.app, StoreFull("The disk is full."))

    await recorded(played.app, lambda: None, Lane.READ)

    assert played.app.pulse.store_trouble == "The disk is full."


@pytest.mark.parametrize("call", ["begin", "finish"])
async def test_what_a_delivery_did_waits_for_the_disk(
    autojump_clock: MockClock, played: Stage, call: str
) -> None:
    played.checks(every(success()))
    job_id = played.add()
    played.app = stumbling(played.app, "deliveries", **{call: [full()] * 5})

    await played.play(60)

    assert len(played.action.calls) == 1
    assert played.job(job_id).status is Status.COMPLETED
    assert only_delivery(played.app.store, job_id).attempt_count == 1


async def test_nothing_new_is_started_while_results_cant_be_written(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.add("first", interval_s=600)
    played.add("second", interval_s=600, due_s=5)
    played.app = stumbling(played.app, "jobs", step=[full()] * 10)

    async with played.running():
        await trio.sleep(10)
        trouble = played.app.pulse.store_trouble
        assert played.polls("second") == []
        await trio.sleep(30)

    assert trouble == "The disk is full."
    assert len(played.polls("first")) == 1
    assert len(played.polls("second")) == 1
    assert played.app.pulse.store_trouble is None


async def test_a_look_that_the_disk_refuses_is_repeated(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.add(interval_s=600)
    played.app = stumbling(played.app, "agenda", due=[full()] * 3)

    async with played.running(upkeep.run):
        await trio.sleep(20)

    assert len(played.polls()) == 1


async def test_a_follow_up_that_the_disk_refuses_is_repeated(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.checks(every(success()))
    played.action.script = lambda event, context: sent("1001", follow_up=True)
    played.add()
    played.app = stumbling(played.app, "deliveries", following=[full()] * 2)

    await played.play(200)

    assert len(played.action.asked) >= 3


# What health is made of


async def test_health_sees_that_no_pass_comes_any_more(
    autojump_clock: MockClock, played: Stage
) -> None:
    played.add(interval_s=600)
    await played.play(20)
    running = health(played.app.pulse, played.now())
    await trio.sleep(61)
    stalled = health(played.app.pulse, played.now())

    assert running.word == "ok"
    assert stalled.word == "failing"
    assert "the scheduler makes no progress" in stalled.reasons[0]


async def test_a_full_disk_isnt_called_a_stalled_scheduler(
    autojump_clock: MockClock, played: Stage
) -> None:
    """A restart, which is what a stalled one needs, wouldn't help."""
    played.add(interval_s=600)
    played.app = stumbling(played.app, "care", probe=[full()] * 100)

    async with played.running(upkeep.run):
        await trio.sleep(90)
        found = health(played.app.pulse, played.now())
        await trio.sleep(30)

    assert found.word == "failing"
    assert found.reasons == ("The disk is full.",)
    assert health(played.app.pulse, played.now()).word == "ok"
