"""The process behind `writes`: producers over the product's store and lanes.

Reads `{"database", "seconds", "pace"}` on standard input, prints how long each write took, with
the waiting in line (`waits_ms`) and without (`writes_ms`).
"""

from __future__ import annotations

import json
import random
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import trio

from teckochecker import lifecycle
from teckochecker.domain import Finding, JobId, Page, Verdict
from teckochecker.errors import StoreError
from teckochecker.lanes import Lane, Lanes
from teckochecker.store import JobFilter, Store, job_view

WARM_UP_S = 0.5
FINDING = Finding(verdict=Verdict.PENDING, message="Batch is in_progress.", data={"batches": []})


class Producers:
    def __init__(self, store: Store, lanes: Lanes, pause_s: float, begin: float) -> None:
        self._store = store
        self._lanes = lanes
        self._pause_s = pause_s
        self._begin = begin
        self.waits_ms: list[float] = []
        self.writes_ms: list[float] = []
        self.refused = 0

    async def produce(self, job_id: JobId) -> None:
        """Until cancelled; at a random time of each pause, so that they don't march in step."""
        while True:
            await trio.sleep(random.uniform(0, 2 * self._pause_s))
            begun = time.perf_counter()
            try:
                await self._lanes.run(Lane.STORE, partial(self._record, job_id))
            except StoreError:
                self.refused += 1
            if begun >= self._begin:
                self.waits_ms.append(1000 * (time.perf_counter() - begun))

    async def read(self) -> None:
        while True:
            page = partial(self._store.jobs.page, JobFilter(), Page(limit=50, offset=0))
            await self._lanes.run(Lane.READ, page)
            await trio.sleep(0.05)

    def _record(self, job_id: JobId) -> None:
        now = datetime.now(UTC)
        decide = partial(
            lifecycle.checked,
            finding=FINDING,
            revision=1,
            event_id="",
            duration_ms=1,
            opened=(),
            now=now,
            jitter=random.random(),
        )
        begun = time.perf_counter()
        self._store.jobs.step(job_id, lambda job, held: decide(job, held_until=held), now)
        if begun >= self._begin:
            self.writes_ms.append(1000 * (time.perf_counter() - begun))


async def produce(store: Store, seconds: float, pace: float | None) -> Producers:
    jobs, _ = store.jobs.page(JobFilter(), Page(limit=50, offset=0))
    pause_s = len(jobs) / pace if pace else 0.0
    begin = time.perf_counter() + WARM_UP_S
    producers = Producers(store, Lanes(network=1), pause_s, begin)
    with trio.move_on_after(WARM_UP_S + seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producers.read)
            for text in jobs:
                nursery.start_soon(producers.produce, job_view(text).job.id)
    return producers


def main() -> None:
    given = json.load(sys.stdin)
    path = Path(given["database"])
    store = Store(path, backups=path.parent / "backups")
    done = trio.run(produce, store, given["seconds"], given["pace"])
    store.close()
    figures = {
        "waits_ms": done.waits_ms,
        "writes_ms": done.writes_ms,
        "refused": [done.refused],
    }
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
