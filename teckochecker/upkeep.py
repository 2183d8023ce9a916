"""Keeps the house while the scheduler works: health every second, old logs in small slices."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Final

import structlog
import trio

from teckochecker.app import App
from teckochecker.errors import StoreBusy, StoreFull
from teckochecker.lanes import Lane

log = structlog.stdlib.get_logger(__name__)

HEALTH_EVERY_S: Final = 1.0
CARE_EVERY_S: Final = 600.0
SLICE_PAUSE_S: Final = 0.05  # between two slices, for other writers


async def run(app: App, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Until cancelled."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, app)
        nursery.start_soon(_care, app)
        task_status.started()


async def _watch(app: App) -> None:
    """What health tells is read from memory, so it is brought up to date here."""
    while True:
        try:
            await _look(app)
        except (StoreFull, StoreBusy) as error:
            app.pulse.store_trouble = str(error)
        await trio.sleep(HEALTH_EVERY_S)


async def _look(app: App) -> None:
    now, pulse, agenda = app.now(), app.pulse, app.store.agenda
    await app.lanes.run(Lane.STORE, partial(app.store.care.probe, now))
    pulse.last_probe_at = app.now()
    pulse.store_trouble = None
    running = frozenset(pulse.jobs)
    pulse.oldest_due_at = await app.lanes.run(Lane.READ, partial(agenda.oldest_due, running))
    pulse.troubled_deliveries = await app.lanes.run(
        Lane.READ, partial(agenda.troubled_deliveries, now)
    )


async def _care(app: App) -> None:
    while True:
        try:
            await delete_old_logs(app)
            while await app.lanes.run(Lane.STORE, app.store.care.shrink):
                await trio.sleep(SLICE_PAUSE_S)
        except (StoreFull, StoreBusy) as error:
            log.warning("upkeep.postponed", reason=str(error))
        await trio.sleep(CARE_EVERY_S)


async def delete_old_logs(app: App) -> None:
    """By age and by number per job, a slice at a time."""
    keep = timedelta(days=app.settings.log_retention_days)
    care = app.store.care
    slices = (
        partial(care.delete_old_logs, keep, app.now()),
        partial(care.delete_excess_logs, app.settings.log_max_per_job),
    )
    deleted = 0
    for one in slices:
        while gone := await app.lanes.run(Lane.STORE, one):
            deleted += gone
            await trio.sleep(SLICE_PAUSE_S)
    if deleted:
        log.info("upkeep.logs_deleted", entries=deleted)
