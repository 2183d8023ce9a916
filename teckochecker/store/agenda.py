"""What is due, when something is due next, and how the whole stands."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from teckochecker.domain import SANDBOXED, DeliveryId, JobId, Kind, Value
from teckochecker.store import rows, secrets
from teckochecker.store.database import Database
from teckochecker.store.jobs import CheckWork

_DAY: Final = timedelta(days=1)


class DeliveryDue(Value, frozen=True, kw_only=True):
    """A due attempt, or with `follow_up` a due question how the started work is."""

    id: DeliveryId
    origin: str
    follow_up: bool


class Agenda(Value, frozen=True, kw_only=True):
    """What can be started now, and the next instant after now at which something is due."""

    checks: tuple[CheckWork, ...]
    deliveries: tuple[DeliveryDue, ...]
    next_due: datetime | None
    passed_over: bool
    """Some were left out because their origin has its share: look again, past them."""


class Busy(Value, frozen=True, kw_only=True):
    """What is in flight in a lane: ids, how many of each origin, which may have `share`.

    `free` is how many more may be started.
    """

    ids: Collection[int]
    taken: Mapping[str, int]
    share: int
    free: int

    def full_origins(self) -> tuple[str, ...]:
        return tuple(one for one, count in self.taken.items() if one and count >= self.share)


class Totals(Value, frozen=True, kw_only=True):
    """Counts over everything, for stats and metrics; the last ones are of the last day."""

    jobs: Mapping[Kind, Mapping[str, int]]
    deliveries: Mapping[str, int]
    checks: Mapping[str, int]
    triggers: int
    due: Mapping[str, int]
    """Active jobs whose time has come, by the kind of source; those in flight among them."""
    size_bytes: int
    token_last_used_at: datetime | None


class AgendaStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, now: datetime, checks: Busy, scripts: Busy, deliveries: Busy) -> Agenda:
        """Checks over HTTP and those in containers have places of their own."""
        at = rows.ms(now)
        with self._database.read() as db:
            jobs, more_jobs = _jobs(db, at, checks, "<>")
            scripted, _ = _jobs(db, at, scripts, "=")
            found, more_deliveries = _deliveries(db, at, deliveries)
            return Agenda(
                checks=_checks(db, [*jobs, *scripted]),
                deliveries=found,
                next_due=_next_due(db, at),
                passed_over=more_jobs or more_deliveries,
            )

    def spread_overdue(self, now: datetime) -> int:
        """At start: missed checks run once, evenly spread over up to two seconds."""
        at = rows.ms(now)
        with self._database.write() as db:
            db.execute_sql(
                "UPDATE jobs SET next_check_at = "
                "? + (id * 7919 % 1000) * min(2000, interval_s * 100) / 1000 "
                "WHERE status = 'active' AND next_check_at <= ?",
                (at, at),
            )
            changed: int = db.execute_sql("SELECT changes()").fetchone()[0]
            return changed

    def bring_forward(self, by: timedelta, now: datetime) -> None:
        """Whatever is due after `now` is due so much earlier, but not before `now`."""
        at, shift = rows.ms(now), by // timedelta(milliseconds=1)
        with self._database.write() as db:
            for table, column in (
                ("jobs", "next_check_at"),
                ("deliveries", "next_attempt_at"),
                ("deliveries", "follow_up_at"),
                ("secrets", "held_until"),
            ):
                db.execute_sql(
                    f"UPDATE {table} SET {column} = max(?, {column} - ?) WHERE {column} > ?",
                    (at, shift, at),
                )

    def oldest_due(self, running: Collection[JobId]) -> datetime | None:
        """The due time of the first active job that isn't being checked."""
        with self._database.read() as db:
            cursor = db.execute_sql(
                "SELECT id, next_check_at FROM jobs WHERE status = 'active' "
                "AND next_check_at IS NOT NULL ORDER BY next_check_at LIMIT ?",
                (len(running) + 1,),
            )
            return next((rows.instant(due) for id_, due in cursor if id_ not in running), None)

    def troubled_deliveries(self, now: datetime) -> int:
        """Deliveries that failed or can't be confirmed, by an attempt of the last day."""
        with self._database.read() as db:
            row = db.execute_sql(
                "SELECT count(*) FROM deliveries "
                "WHERE state IN ('failed', 'unconfirmed') AND state <> 'delivered' "
                "AND EXISTS (SELECT 1 FROM attempts "
                "WHERE delivery_id = deliveries.id AND started_at >= ?)",
                (rows.ms(now - _DAY),),
            ).fetchone()
            return int(row[0])

    def totals(self, now: datetime) -> Totals:
        since = rows.ms(now - _DAY)
        with self._database.read() as db:
            jobs: dict[Kind, dict[str, int]] = {kind: {} for kind in Kind}
            for kind, status, count in db.execute_sql(
                "SELECT kind, status, count(*) FROM jobs GROUP BY kind, status"
            ):
                jobs[Kind(kind)][status] = count
            checks = dict(
                db.execute_sql(
                    "SELECT status, count(*) FROM logs WHERE created_at >= ? "
                    "AND status IN ('success', 'failed', 'pending', 'error') "
                    "AND execution_time_ms IS NOT NULL GROUP BY status",
                    (since,),
                ).fetchall()
            )
            due = dict(
                db.execute_sql(
                    "SELECT source_kind, count(*) FROM jobs WHERE status = 'active' "
                    "AND next_check_at <= ? GROUP BY source_kind",
                    (rows.ms(now),),
                ).fetchall()
            )
            pages, page_size = (
                db.execute_sql(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "page_size")
            )
            triggers = db.execute_sql(
                "SELECT count(*) FROM deliveries WHERE delivered_at >= ?", (since,)
            ).fetchone()[0]
            return Totals(
                jobs=jobs,
                deliveries=_delivery_counts(db),
                checks=checks,
                triggers=triggers,
                due=due,
                size_bytes=pages * page_size,
                token_last_used_at=rows.from_ms(
                    db.execute_sql("SELECT max(last_used_at) FROM tokens").fetchone()[0]
                ),
            )


def _jobs(db: Any, at: int, busy: Busy, sandboxed: str) -> tuple[list[int], bool]:
    """The ids of the due jobs that may start, and whether others were passed over."""
    if busy.free <= 0:
        return [], False
    full, origins = _excluding("origin", busy)
    cursor = db.execute_sql(
        f"SELECT id, origin FROM jobs WHERE status = 'active' "
        f"AND next_check_at <= ? AND source_kind {sandboxed} ? {full} "
        f"ORDER BY next_check_at LIMIT ?",
        (at, SANDBOXED, *origins, busy.free + len(busy.ids)),
    )
    return _admitted(cursor, busy)


def _checks(db: Any, ids: Sequence[int]) -> tuple[CheckWork, ...]:
    if not ids:
        return ()
    cursor = db.execute_sql(
        f"SELECT {rows.JOB} FROM jobs WHERE id IN ({','.join('?' * len(ids))})",
        tuple(ids),
    )
    sealed = secrets.of_jobs(db, ids)
    jobs = (rows.job(text) for (text,) in cursor)
    return tuple(CheckWork(job=job, secrets=sealed.get(job.id, ())) for job in jobs)


def _deliveries(db: Any, at: int, busy: Busy) -> tuple[tuple[DeliveryDue, ...], bool]:
    """Attempts first: a follow-up only tells news."""
    if busy.free <= 0:
        return (), False
    full, origins = _excluding("actions.origin", busy)
    due: dict[int, tuple[str, bool]] = {}
    for column, condition in (
        ("next_attempt_at", "state = 'pending' AND jobs.status <> 'paused' AND"),
        ("follow_up_at", ""),
    ):
        cursor = db.execute_sql(
            f"SELECT deliveries.id, ifnull(actions.origin, '') FROM deliveries "
            f"JOIN jobs ON jobs.id = deliveries.job_id LEFT JOIN actions "
            f"ON actions.job_id = jobs.id AND actions.kind = deliveries.action "
            f"WHERE {condition} {column} <= ? {full} ORDER BY {column} LIMIT ?",
            (at, *origins, busy.free + len(busy.ids)),
        )
        for id_, origin in cursor:
            due.setdefault(id_, (origin, not condition))
    ids, passed_over = _admitted(((id_, origin) for id_, (origin, _) in due.items()), busy)
    found = (
        DeliveryDue(id=DeliveryId(id_), origin=due[id_][0], follow_up=due[id_][1]) for id_ in ids
    )
    return tuple(found), passed_over


def _admitted(due: Iterable[tuple[int, str]], busy: Busy) -> tuple[list[int], bool]:
    """Of what is due, in order, as much as is free, and of each origin no more than its share."""
    taken = dict(busy.taken)
    admitted: list[int] = []
    passed_over = False
    for id_, origin in due:
        if id_ in busy.ids:
            continue
        if len(admitted) == busy.free:
            break
        if origin and taken.get(origin, 0) >= busy.share:
            passed_over = True
            continue
        taken[origin] = taken.get(origin, 0) + 1
        admitted.append(id_)
    return admitted, passed_over


def _excluding(column: str, busy: Busy) -> tuple[str, tuple[str, ...]]:
    origins = busy.full_origins()
    if not origins:
        return "", ()
    return f"AND ifnull({column}, '') NOT IN ({','.join('?' * len(origins))})", origins


def _next_due(db: Any, at: int) -> datetime | None:
    instants = [
        db.execute_sql(
            "SELECT min(next_check_at) FROM jobs WHERE status = 'active' AND next_check_at > ?",
            (at,),
        ).fetchone()[0],
        db.execute_sql(
            "SELECT min(next_attempt_at) FROM deliveries "
            "WHERE state = 'pending' AND next_attempt_at > ?",
            (at,),
        ).fetchone()[0],
        db.execute_sql(
            "SELECT min(follow_up_at) FROM deliveries WHERE follow_up_at > ?", (at,)
        ).fetchone()[0],
    ]
    return rows.from_ms(min((found for found in instants if found is not None), default=None))


def _delivery_counts(db: Any) -> dict[str, int]:
    cursor = db.execute_sql("SELECT state, count(*) FROM deliveries GROUP BY state")
    return dict(cursor.fetchall())
