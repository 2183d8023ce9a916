"""How the running program is: what is in flight, how late it is, and what health that makes.

`Pulse` is written by the scheduler and by upkeep, and read by whoever tells; nothing is
asked of the database when health is asked, so it answers even when all else is stuck.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

import trio

from teckochecker import __version__
from teckochecker.domain import DeliveryId, JobId

STALLED: Final = timedelta(seconds=60)  # without a pass of the scheduler: failing
UNWRITABLE: Final = timedelta(seconds=30)  # without a successful probing write: failing
OVERDUE: Final = timedelta(seconds=60)  # a due job unstarted: degraded
LAGS_KEPT: Final = 1000

HealthWord = Literal["ok", "degraded", "failing"]


@dataclass(slots=True)
class Pulse:
    """Written by one task each, so no field is ever torn."""

    started_at: datetime
    last_pass_at: datetime
    last_probe_at: datetime
    jobs: dict[JobId, str] = field(default_factory=dict)
    """Checks in flight over HTTP, with their origins."""
    scripts: dict[JobId, str] = field(default_factory=dict)
    """Checks in flight in containers."""
    deliveries: dict[DeliveryId, str] = field(default_factory=dict)
    scopes: dict[JobId, trio.CancelScope] = field(default_factory=dict)
    """Those of the checks in flight: who deletes a job ends its check."""
    lags_s: deque[float] = field(default_factory=lambda: deque(maxlen=LAGS_KEPT))
    oldest_due_at: datetime | None = None
    troubled_deliveries: int = 0
    store_trouble: str | None = None
    sandbox_trouble: tuple[str, ...] = ()
    """What custom checks lack, while there are any."""
    script_bytes: int = 0

    @classmethod
    def begun(cls, now: datetime) -> Pulse:
        return cls(started_at=now, last_pass_at=now, last_probe_at=now)

    def checking(self, job_id: JobId) -> bool:
        return job_id in self.jobs or job_id in self.scripts

    def end_check(self, job_id: JobId) -> None:
        """Nobody wants the finding any more: its container is removed, its request given up."""
        scope = self.scopes.get(job_id)
        if scope is not None:
            scope.cancel()

    @property
    def checks_in_flight(self) -> int:
        return len(self.jobs) + len(self.scripts)

    def oldest_due_s(self, now: datetime) -> float:
        """How long the oldest job that isn't being checked has been due; 0 when none is."""
        if self.oldest_due_at is None:
            return 0.0
        return max(0.0, (now - self.oldest_due_at).total_seconds())


@dataclass(frozen=True, slots=True)
class Health:
    word: HealthWord
    reasons: tuple[str, ...]
    document: dict[str, object]


def health(pulse: Pulse, now: datetime, *, containers: int = 0) -> Health:
    """The health document of the API; pure, so that a test needs no waiting.

    `containers` live now; whoever wants the word and its reasons only needn't count them.
    """
    oldest_s = pulse.oldest_due_s(now)
    writable = now - pulse.last_probe_at < UNWRITABLE
    failing = []
    if now - pulse.last_pass_at >= STALLED:
        failing.append("the scheduler makes no progress: restart the daemon")
    if not writable:
        failing.append(pulse.store_trouble or "the database can't be written: check the disk")
    degraded = []
    if oldest_s >= OVERDUE.total_seconds():
        degraded.append(
            f"a job has been due for {oldest_s:.0f} s: raise MAX_CONCURRENT_REQUESTS, "
            f"or MAX_CONCURRENT_CHECKS if it is a custom check"
        )
    if pulse.troubled_deliveries:
        degraded.append(
            f"{pulse.troubled_deliveries} deliveries of the last day failed or are unconfirmed: "
            f"mend their cause and redeliver them"
        )
    degraded += pulse.sandbox_trouble
    if pulse.store_trouble and writable:
        degraded.append(pulse.store_trouble)
    word: HealthWord = "failing" if failing else "degraded" if degraded else "ok"
    reasons = (*failing, *degraded)
    document: dict[str, object] = {
        "status": word,
        "reasons": list(reasons),
        "version": __version__,
        "uptime_seconds": round((now - pulse.started_at).total_seconds(), 1),
        "scheduler": {
            "last_pass_seconds": round((now - pulse.last_pass_at).total_seconds(), 1),
            "oldest_due_seconds": round(oldest_s, 1),
            "checks_in_flight": pulse.checks_in_flight,
            "deliveries_in_flight": len(pulse.deliveries),
        },
        "sandbox": {
            "ready": not pulse.sandbox_trouble,
            "containers": containers,
            "missing": list(pulse.sandbox_trouble),
        },
        "database": {"writable": writable},
    }
    return Health(word, reasons, document)


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p95 and p99 of `values`; None without any."""
    ordered = sorted(values)
    return {
        f"p{share}": round(ordered[min(len(ordered) - 1, len(ordered) * share // 100)], 4)
        if ordered
        else None
        for share in (50, 95, 99)
    }


class Wake:
    """Wakes the scheduler: a channel of size 1, so that pokes neither block nor pile up."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[None](1)
        self._until: datetime | None = None
        self._nap: trio.CancelScope | None = None
        self._soon_s = math.inf

    def poke(self) -> None:
        try:
            self._send.send_nowait(None)
        except trio.WouldBlock:
            return  # one poke is waiting already, and serves this one too

    def by(self, due: datetime | None) -> None:
        """Poke if the scheduler would otherwise sleep past `due`."""
        if due is not None and (self._until is None or due < self._until):
            self.poke()

    def within(self, seconds: float) -> None:
        """Wake within `seconds`; calls that come together share one look."""
        if self._nap is None:
            self._soon_s = min(self._soon_s, seconds)
        else:
            self._nap.deadline = min(self._nap.deadline, trio.current_time() + seconds)

    async def nap(self, now: datetime, seconds: float) -> None:
        """Until poked, or for `seconds`."""
        seconds = min(seconds, self._soon_s)
        self._soon_s = math.inf
        self._until = now + timedelta(seconds=seconds)
        with trio.move_on_after(seconds) as self._nap:
            await self._receive.receive()
        self._until = self._nap = None
