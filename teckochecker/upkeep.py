"""Keeps the house while the scheduler works: health every second, old logs in small slices,
and what scripts leave behind: containers of killed runs, images and archives nobody needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from typing import Final

import structlog
import trio

from teckochecker.app import App
from teckochecker.domain import OPEN, SANDBOXED, Job, Status
from teckochecker.errors import FolderError, StoreBusy, StoreFull
from teckochecker.lanes import Lane
from teckochecker.notify import SILENT, Notifier
from teckochecker.pulse import STALLED, health
from teckochecker.sandbox import DockerError, Missing, Needs
from teckochecker.scripts import shelf
from teckochecker.sources import Script
from teckochecker.sources.script_fields import memory_wanted_mb

log = structlog.stdlib.get_logger(__name__)

HEALTH_EVERY_S: Final = 1.0
CARE_EVERY_S: Final = 600.0
SANDBOX_EVERY_S: Final = 10.0
SWEEP_EVERY_S: Final = 60.0
PRUNE_EVERY_S: Final = 1800.0
UNREFERRED: Final = timedelta(hours=1)  # a script that was stored just now is about to be used
SLICE_PAUSE_S: Final = 0.05  # between two slices, for other writers


async def run(
    app: App,
    notifier: Notifier = SILENT,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Until cancelled."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, app, notifier)
        nursery.start_soon(_care, app)
        nursery.start_soon(_sandbox, app)
        task_status.started()


async def _watch(app: App, notifier: Notifier) -> None:
    """What health tells is read from memory, so it is brought up to date here.

    A writer that is stuck keeps this loop from its next round, and so from the service manager.
    One that refuses, as on a full disk, is no reason for a restart, which would mend nothing.
    """
    told_at = -math.inf
    while True:
        try:
            await _look(app)
        except (StoreFull, StoreBusy) as error:
            app.pulse.store_trouble = str(error)
        if trio.current_time() - told_at >= notifier.every_s:
            told_at = trio.current_time()
            _tell(app, notifier)
        await trio.sleep(min(HEALTH_EVERY_S, notifier.every_s))


def _tell(app: App, notifier: Notifier) -> None:
    now = app.now()
    found = health(app.pulse, now)
    status = "; ".join((found.word, *found.reasons))
    if now - app.pulse.last_pass_at < STALLED:
        notifier.alive(status)
    else:
        notifier.stuck(status)


async def _look(app: App) -> None:
    now, pulse, agenda = app.now(), app.pulse, app.store.agenda
    await app.lanes.run(Lane.STORE, partial(app.store.care.probe, now))
    pulse.last_probe_at = app.now()
    pulse.store_trouble = None
    running = frozenset({*pulse.jobs, *pulse.scripts})
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


async def _sandbox(app: App) -> None:
    """Looks at the engine while there are scripts: it is no business of other installations."""
    swept_at = pruned_at = -math.inf
    while True:
        if await app.lanes.run(Lane.CARE, app.settings.scripts.is_dir):
            now = trio.current_time()
            try:
                await look_at_sandbox(app)
                if now - swept_at >= SWEEP_EVERY_S:
                    await _tidied(app, "upkeep.containers_removed", app.sandbox.remove_orphans)
                    swept_at = now
                if now - pruned_at >= PRUNE_EVERY_S:
                    await _warn_of_memory(app)
                    await prune(app)
                    pruned_at = now
            except (StoreFull, StoreBusy, FolderError) as error:
                log.warning("upkeep.postponed", reason=str(error))
            except DockerError as error:  # health says so where a job needs the engine
                log.debug("upkeep.postponed", reason=str(error))
        await trio.sleep(SANDBOX_EVERY_S)


async def _warn_of_memory(app: App) -> None:
    """Say so when the checks that may run together could need more than the host has.

    `doctor` judges the same jobs by the same sum.
    """
    places = app.settings.max_concurrent_checks
    active = (job.source.doc for job in await _scripted(app) if job.status is Status.ACTIVE)
    wanted_mb = memory_wanted_mb(active, places)
    host_mb = (await app.lanes.run(Lane.CARE, app.sandbox.host)).memory_bytes // 2**20
    if wanted_mb > host_mb:
        log.warning(
            "sandbox.overcommitted",
            max_concurrent_checks=places,
            wanted_mb=wanted_mb,
            host_mb=host_mb,
            remedy="lower MAX_CONCURRENT_CHECKS or the jobs' memory_mb",
        )


async def look_at_sandbox(app: App) -> None:
    """What open custom checks lack, for health; nothing where there are none."""
    jobs = [job for job in await _scripted(app) if job.status in OPEN]
    runtimes = sorted({job.source.doc["script_runtime"] for job in jobs})
    missing: list[Missing] = []
    if runtimes:
        missing = await app.lanes.run(Lane.CARE, partial(app.sandbox.missing, runtimes))
    app.pulse.sandbox_trouble = tuple(one.message for one in missing)
    size = partial(shelf.size_bytes, app.settings.scripts)
    app.pulse.script_bytes = await app.lanes.run(Lane.CARE, size)


async def prune(app: App) -> None:
    """Removes prepared images and stored scripts that no job refers to."""
    jobs, source = await _scripted(app), app.sources[SANDBOXED]
    before = app.now() - UNREFERRED
    keep = {job.source_state["sha256"] for job in jobs if job.source_state}
    forget = partial(shelf.forget, app.settings.scripts, keep, before=before)
    await _tidied(app, "upkeep.scripts_removed", forget)
    assert isinstance(source, Script)
    open_jobs = [job for job in jobs if job.status in OPEN and job.source_state]

    def prune_images() -> int:
        if app.sandbox.missing():
            return 0  # without the runner images nobody can tell which ones are needed
        return app.sandbox.prune({app.sandbox.image(one) for one in _needs(source, open_jobs)})

    await _tidied(app, "upkeep.images_removed", prune_images)


def _needs(source: Script, jobs: Iterable[Job]) -> Iterator[Needs]:
    for job in jobs:
        try:
            yield source.needs(job.source.doc, job.source_state or {})
        except FolderError:  # its script is gone, which its own checks tell
            continue


async def _tidied(app: App, event: str, call: Callable[[], int]) -> None:
    removed = await app.lanes.run(Lane.CARE, call)
    if removed:
        log.info(event, count=removed)


async def _scripted(app: App) -> list[Job]:
    return await app.lanes.run(Lane.READ, app.store.jobs.scripted)


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
