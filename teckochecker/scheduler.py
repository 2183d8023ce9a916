"""The loop of the engine: finds what is due and starts it, one task for each step in flight.

A due job is started as soon as its lane has a free token and its origin hasn't taken its
share, so a check that hangs delays nobody else. After a start or a change of the wall clock
nothing waits for ever and nothing comes in a burst.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeVar

import structlog
import trio

from teckochecker import lifecycle
from teckochecker.app import App
from teckochecker.domain import DeliveryId, JobId
from teckochecker.errors import StoreBusy, StoreFull
from teckochecker.lanes import Lane
from teckochecker.steps import (
    STORE_PAUSE_S,
    check_step,
    delivery_step,
    lane_of,
    recorded,
    store_failed,
)
from teckochecker.store import Busy

log = structlog.stdlib.get_logger(__name__)
K = TypeVar("K", JobId, DeliveryId)

CLOCK_STEP: Final = timedelta(seconds=2)  # a wall clock that moves by more was set
REMOVAL_S: Final = 4.0  # at a stop, for the containers of checks that were cancelled
GIVEN_UP_S: Final = 0.5  # between two looks while threads live that were given up


async def run(app: App, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Run until `app.stop`; then give the work in flight `drain_s` to end."""
    await app.lanes.run(Lane.STORE, partial(_recover, app, app.now()))
    async with trio.open_nursery() as steps:
        task_status.started()
        zero = _zero(app)
        while not app.stop.is_set():
            zero = await _follow_clock(app, zero)
            nap_s = await _pass(app, steps)
            await app.wake.nap(app.now(), nap_s)
        in_flight = app.pulse.checks_in_flight + len(app.pulse.deliveries)
        log.info("scheduler.draining", in_flight=in_flight)
        steps.cancel_scope.deadline = trio.current_time() + app.settings.drain_s
    await _containers_removed(app)


async def _containers_removed(app: App) -> None:
    """The threads of cancelled checks remove their containers: wait for that, not for ever."""
    with trio.move_on_after(REMOVAL_S):
        while app.lanes.borrowed(Lane.SANDBOX):
            await trio.sleep(0.05)


def _recover(app: App, now: datetime) -> None:
    last_seen = app.store.care.probed_at()
    if last_seen is not None and last_seen - now > CLOCK_STEP:
        _set_back(app, last_seen - now, now)
    in_doubt = app.store.deliveries.recover(now)
    overdue = app.store.agenda.spread_overdue(now)
    log.info("scheduler.started", overdue_jobs=overdue, deliveries_in_doubt=in_doubt)


async def _follow_clock(app: App, zero: datetime) -> datetime:
    """When the wall clock was set since the last look, the due times move along."""
    now_zero = _zero(app)
    if zero - now_zero > CLOCK_STEP:
        await recorded(app, partial(_set_back, app, zero - now_zero, app.now()))
    elif now_zero - zero > CLOCK_STEP:  # set forward, or this machine slept
        await recorded(app, partial(app.store.agenda.spread_overdue, app.now()))
    return now_zero


def _zero(app: App) -> datetime:
    """The wall clock's time when trio's own clock, which nobody can set, was at zero."""
    return app.now() - timedelta(seconds=trio.current_time())


def _set_back(app: App, by: timedelta, now: datetime) -> None:
    """Without this, everybody would wait for the time that the clock was set back by."""
    log.warning("clock.set_back", seconds=by.total_seconds())
    app.store.agenda.bring_forward(by, now)


async def _pass(app: App, steps: trio.Nursery) -> float:
    """Start what is due; how long to sleep until the next look, in seconds."""
    begun, now = time.perf_counter(), app.now()
    checks = _busy(app, Lane.NETWORK, app.pulse.jobs)
    scripts = _busy(app, Lane.SANDBOX, app.pulse.scripts)
    deliveries = _busy(app, Lane.DELIVERY, app.pulse.deliveries)
    look = partial(app.store.agenda.due, now, checks, scripts, deliveries)
    try:
        agenda = await app.lanes.run(Lane.READ, look)
    except (StoreFull, StoreBusy) as error:
        store_failed(app, error)
        return STORE_PAUSE_S
    app.pulse.last_pass_at = now
    if app.pulse.store_trouble:  # nothing new while results can't be written
        return STORE_PAUSE_S
    for work in agenda.checks:
        lane_of(app, work.job)[1][work.job.id] = work.job.source.origin
        steps.start_soon(check_step, app, work)
    for due in agenda.deliveries:
        app.pulse.deliveries[due.id] = due.origin
        steps.start_soon(delivery_step, app, due)
    app.metrics.scheduler_pass.observe(time.perf_counter() - begun)
    if agenda.passed_over:
        return 0.0
    nap_s = lifecycle.nap_s(agenda.next_due, app.now())
    return min(nap_s, GIVEN_UP_S) if _has_given_up(app) else nap_s


def _has_given_up(app: App) -> bool:
    """Whether threads live that no step waits for: their end makes room and wakes nobody."""
    lanes = (
        (Lane.NETWORK, app.pulse.jobs),
        (Lane.SANDBOX, app.pulse.scripts),
        (Lane.DELIVERY, app.pulse.deliveries),
    )
    return any(app.lanes.borrowed(lane) > len(running) for lane, running in lanes)


def _busy(app: App, lane: Lane, running: Mapping[K, str]) -> Busy:
    """What one lane is doing; threads that were given up count as long as they live."""
    living = Counter(app.lanes.borrowed_by_origin(lane))
    return Busy(
        ids=frozenset(running),
        taken=Counter(running.values()) | living,  # of each origin the larger
        share=app.lanes.share(lane),
        free=app.lanes.size(lane) - max(len(running), app.lanes.borrowed(lane)),
    )
