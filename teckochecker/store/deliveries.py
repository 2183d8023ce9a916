"""The outbox: deliveries and their attempts.

`begin` marks an attempt before its first byte leaves; `finish` records what came of it.
A row found `sending` at start is an attempt whose outcome nobody knows: `recover` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from teckochecker import outbox
from teckochecker.domain import (
    MAX_ID,
    Attempt,
    Delivery,
    DeliveryId,
    DeliveryState,
    Job,
    Page,
    Part,
    Status,
    Value,
    replace,
)
from teckochecker.errors import DeliveryNotFound
from teckochecker.outbox import DeliveryChange
from teckochecker.store import models, rows, secrets
from teckochecker.store.database import Database
from teckochecker.store.jobs import id_of as job_id_of
from teckochecker.store.jobs import load as load_job
from teckochecker.store.jobs import refuse_taken

_INSERT_ATTEMPT: Final = (
    "INSERT INTO attempts (delivery_id, started_at, outcome, message, answer) "
    "VALUES (?, ?, 'sending', 'The answer is awaited.', '')"
)
_FINISH_ATTEMPT: Final = (
    "UPDATE attempts SET duration_ms=?, status_code=?, outcome=?, message=?, answer=? "
    "WHERE id = (SELECT max(id) FROM attempts WHERE delivery_id = ?)"
)

DecideDelivery = Callable[[Delivery, Job, Sequence[DeliveryState]], DeliveryChange]
"""From a delivery, its job and the states of the event's other deliveries, to the change."""


class DeliveryWork(Value, frozen=True, kw_only=True):
    """All that an action needs for one attempt or one follow-up."""

    delivery: Delivery
    job: Job
    action: Part | None  # None: it was taken away from the job
    body: bytes
    secrets: tuple[secrets.SealedRole, ...]


class DeliveryView(Value, frozen=True, kw_only=True):
    delivery: Delivery
    attempts: tuple[Attempt, ...]


class Deliveries:
    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, delivery_id: DeliveryId, now: datetime) -> DeliveryWork | None:
        """Mark the attempt begun; None when it isn't due any more (paused, deleted, sent)."""
        with self._database.write() as db:
            work = _work(db, delivery_id)
            if work is None or not _due(work, now):
                return None
            begun = outbox.attempt_begun(work.delivery, now)
            db.execute_sql(rows.UPDATE_DELIVERY, rows.delivery_values(begun))
            db.execute_sql(_INSERT_ATTEMPT, (delivery_id, rows.ms(now)))
            return replace(work, delivery=begun)

    def following(self, delivery_id: DeliveryId) -> DeliveryWork | None:
        """What a follow-up needs; None when the job or its action is gone."""
        with self._database.read() as db:
            return _work(db, delivery_id)

    def finish(
        self, delivery_id: DeliveryId, decide: DecideDelivery, now: datetime
    ) -> DeliveryChange | None:
        """Record an outcome; None when the job was deleted meanwhile."""
        with self._database.write() as db:
            delivery = _load(db, delivery_id)
            return None if delivery is None else _apply(db, delivery, decide, now)

    def redeliver(self, wanted: int, now: datetime) -> DeliveryView:
        with self._database.write() as db:
            delivery = _load(db, wanted) if 0 < wanted <= MAX_ID else None
            if delivery is None:
                raise _missing(wanted)
            job, _ = load_job(db, delivery.job_id)
            refuse_taken(db, job.name, job.id)
            _apply(db, delivery, lambda found, job, _: outbox.redelivered(found, job, now), now)
            return _view(db, delivery.id)

    def page(self, job: int | str, page: Page) -> tuple[list[DeliveryView], int]:
        """A job's deliveries, newest first, and how many there are."""
        with self._database.read() as db:
            mine = models.Delivery.job_id == job_id_of(db, job)
            total = models.Delivery.select().where(mine).count(db)
            found = (
                models.Delivery.select(models.Delivery.id)
                .where(mine)
                .order_by(models.Delivery.id.desc())
                .limit(page.limit)
                .offset(page.offset)
                .tuples()
                .execute(db)
            )
            return [_view(db, row[0]) for row in found], total

    def recover(self, now: datetime) -> int:
        """At start: attempts that a crash cut off are in doubt from now on."""
        with self._database.write() as db:
            cursor = db.execute_sql(
                f"SELECT {rows.DELIVERY_COLUMNS} FROM deliveries WHERE state = 'sending'"
            )
            cut_off = [rows.delivery(row) for row in cursor]
            for delivery in cut_off:
                again = outbox.interrupted(delivery, now)
                db.execute_sql(rows.UPDATE_DELIVERY, rows.delivery_values(again))
                message = "The daemon stopped before an answer was recorded."
                values = (None, None, "unknown", message, "", delivery.id)
                db.execute_sql(_FINISH_ATTEMPT, values)
            return len(cut_off)


def _due(work: DeliveryWork, now: datetime) -> bool:
    due = work.delivery.next_attempt_at
    return (
        work.delivery.state is DeliveryState.PENDING
        and work.job.status is not Status.PAUSED
        and due is not None
        and due <= now
    )


def _load(db: Any, delivery_id: int) -> Delivery | None:
    row = db.execute_sql(
        f"SELECT {rows.DELIVERY_COLUMNS} FROM deliveries WHERE id = ?",
        (delivery_id,),
    ).fetchone()
    return None if row is None else rows.delivery(row)


def _work(db: Any, delivery_id: DeliveryId) -> DeliveryWork | None:
    delivery = _load(db, delivery_id)
    if delivery is None:
        return None
    job, _ = load_job(db, delivery.job_id)
    sql = "SELECT body FROM deliveries WHERE id = ?"
    return DeliveryWork(
        delivery=delivery,
        job=job,
        action=next((part for part in job.actions if part.kind == delivery.action), None),
        body=bytes(db.execute_sql(sql, (delivery_id,)).fetchone()[0] or b""),
        secrets=secrets.of_jobs(db, [job.id]).get(job.id, ()),
    )


def _apply(db: Any, delivery: Delivery, decide: DecideDelivery, now: datetime) -> DeliveryChange:
    job, _ = load_job(db, delivery.job_id)
    cursor = db.execute_sql(
        "SELECT state FROM deliveries WHERE event_id = ? AND id <> ?",
        (delivery.event.id, delivery.id),
    )
    others = [DeliveryState(state) for (state,) in cursor]
    change = decide(delivery, job, others)
    db.execute_sql(rows.UPDATE_DELIVERY, rows.delivery_values(change.delivery))
    if change.job != job:
        db.execute_sql(rows.UPDATE_JOB, (*rows.job_values(change.job), job.id))
    if change.attempt:
        _finish_attempt(db, delivery.id, change.attempt)
    for entry in change.entries:
        db.execute_sql(rows.INSERT_LOG, rows.entry_values(job.id, entry, now))
        for one in entry.opened:
            db.execute_sql(
                "UPDATE secrets SET last_used_at = ? WHERE id = ?", (rows.ms(now), one.id)
            )
    return change


def _finish_attempt(db: Any, delivery_id: DeliveryId, attempt: Attempt) -> None:
    db.execute_sql(
        _FINISH_ATTEMPT,
        (
            attempt.duration_ms,
            attempt.status_code,
            attempt.outcome,
            attempt.message,
            attempt.answer,
            delivery_id,
        ),
    )


def _view(db: Any, delivery_id: int) -> DeliveryView:
    delivery = _load(db, delivery_id)
    if delivery is None:
        raise _missing(delivery_id)
    found = (
        models.Attempt.select()
        .where(models.Attempt.delivery_id == delivery_id)
        .order_by(models.Attempt.id)
        .execute(db)
    )
    return DeliveryView(delivery=delivery, attempts=tuple(_attempt(row) for row in found))


def _attempt(row: Any) -> Attempt:
    return Attempt(
        started_at=rows.instant(row.started_at),
        duration_ms=row.duration_ms,
        status_code=row.status_code,
        outcome=row.outcome,
        message=row.message,
        answer=row.answer,
    )


def _missing(wanted: int) -> DeliveryNotFound:
    return DeliveryNotFound(
        f"Delivery {wanted} doesn't exist: `job deliveries JOB` shows those of a job."
    )
