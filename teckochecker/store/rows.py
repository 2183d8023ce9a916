"""Between rows and domain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from teckochecker.domain import (
    Delivery,
    DeliveryId,
    DeliveryState,
    Document,
    Doubt,
    Entry,
    Event,
    Execution,
    Job,
    JobId,
    Receipt,
    SealedSecret,
    SecretId,
    SecretType,
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_event = msgspec.json.Decoder(Event)
_receipt = msgspec.json.Decoder(Receipt)
encode = msgspec.json.encode


def to_ms(instant: datetime | None) -> int | None:
    return None if instant is None else (instant - _EPOCH) // _MS


def ms(instant: datetime) -> int:
    return (instant - _EPOCH) // _MS


def from_ms(value: int | None) -> datetime | None:
    return None if value is None else _EPOCH + value * _MS


def instant(value: int) -> datetime:
    return _EPOCH + value * _MS


def to_json(document: object) -> str | None:
    return None if document is None else encode(document).decode()


def from_json(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)


def _object(fields: Mapping[str, str]) -> str:
    """SQL that makes a JSON object of fields that are SQL for JSON.

    SQLite's json_object() would parse every document anew, which takes twice as long.
    """
    places = ",".join(f'"{name}":%s' for name in fields)
    return f"format('{{{places}}}', {', '.join(fields.values())})"


def _text(column: str) -> str:
    return f"json_quote({column})"


def _document(column: str) -> str:
    return f"ifnull({column}, 'null')"


def _instant(column: str) -> str:
    return f"json_quote(strftime('%Y-%m-%dT%H:%M:%fZ', {column} / 1000.0, 'unixepoch'))"


_SOURCE: Final = _object(
    {
        "kind": _text("jobs.source_kind"),
        "doc": _document("jobs.source_doc"),
        "origin": _text("jobs.origin"),
    }
)
_ACTION: Final = _object(
    {"kind": _text("kind"), "doc": _document("doc"), "origin": _text("origin")}
)
JOB: Final = _object(
    {
        "id": "jobs.id",
        "kind": _text("jobs.kind"),
        "name": _text("jobs.name"),
        "status": _text("jobs.status"),
        "status_reason": _text("jobs.status_reason"),
        "revision": "jobs.revision",
        "interval_s": "jobs.interval_s",
        "trigger_on": _text("jobs.trigger_on"),
        "source": _SOURCE,
        "source_state": _document("jobs.source_state"),
        "actions": f"(SELECT '[' || ifnull(group_concat({_ACTION}, ','), '') || ']' "
        "FROM actions WHERE actions.job_id = jobs.id)",
        "next_check_at": _instant("jobs.next_check_at"),
        "last_check_at": _instant("jobs.last_check_at"),
        "last_verdict": _text("jobs.last_verdict"),
        "last_data": _document("jobs.last_data"),
        "check_count": "jobs.check_count",
        "errors": "jobs.errors",
        "max_errors": _text("jobs.max_errors"),
        "strikes": "jobs.strikes",
        "event_id": _text("jobs.event_id"),
        "created_at": _instant("jobs.created_at"),
        "completed_at": _instant("jobs.completed_at"),
    }
)
"""A job as one JSON text: one decoder reads it whole, and it comes in one row.

For each row of its own apsw takes Python's lock anew, which waits while other threads work.
"""
JOB_VIEW: Final = _object(
    {
        "job": JOB,
        "secrets": "(SELECT json_group_object(role, json_array(secrets.id, secrets.name)) "
        "FROM job_secrets JOIN secrets ON secrets.id = secret_id WHERE job_id = jobs.id)",
        "receipt": "ifnull((SELECT receipt FROM deliveries "
        "WHERE event_id = jobs.event_id AND action = 'keboola'), 'null')",
    }
)
_job = msgspec.json.Decoder(Job)


def job(text: str) -> Job:
    """What `JOB` gives."""
    return _job.decode(text)


UPDATE_JOB: Final = (
    "UPDATE jobs SET name=?, status=?, status_reason=?, revision=?, interval_s=?, trigger_on=?, "
    "source_kind=?, source_doc=?, origin=?, next_check_at=?, last_check_at=?, last_verdict=?, "
    "last_data=?, check_count=?, errors=?, strikes=?, event_id=?, completed_at=?, max_errors=?, "
    "source_state=? WHERE id=?"
)


def job_values(value: Job) -> tuple[Any, ...]:
    """The values of `UPDATE_JOB` but its last."""
    return (
        value.name,
        value.status,
        value.status_reason,
        value.revision,
        value.interval_s,
        value.trigger_on,
        value.source.kind,
        to_json(value.source.doc),
        value.source.origin,
        to_ms(value.next_check_at),
        to_ms(value.last_check_at),
        value.last_verdict,
        to_json(value.last_data),
        value.check_count,
        value.errors,
        value.strikes,
        value.event_id,
        to_ms(value.completed_at),
        value.max_errors,
        to_json(value.source_state),
    )


SECRET_COLUMNS: Final = (
    "secrets.id, secrets.uid, secrets.name, secrets.type, secrets.sealed, secrets.updated_at"
)


def sealed_secret(row: Sequence[Any]) -> SealedSecret:
    """A row of `SECRET_COLUMNS`."""
    return SealedSecret(
        id=SecretId(row[0]),
        uid=row[1],
        name=row[2],
        type=SecretType(row[3]),
        sealed=row[4],
        updated_at=instant(row[5]),
    )


INSERT_LOG: Final = (
    "INSERT INTO logs (job_id, status, message, created_at, execution_time_ms, detail, "
    "secrets_opened, exit_code, peak_memory_bytes, stdout, stderr, script_output) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_NO_RUN: Final = (None,) * 5


def entry_values(job_id: JobId, entry: Entry, now: datetime) -> tuple[Any, ...]:
    """The values of `INSERT_LOG`."""
    opened = to_json(entry.opened) if entry.opened else None
    run = entry.execution
    ran: tuple[object, ...] = _NO_RUN
    if run is not None:
        output = to_json(run.output)
        ran = (run.exit_code, run.peak_memory_bytes, run.stdout, run.stderr, output)
    return (
        job_id,
        entry.status,
        entry.message,
        ms(now),
        entry.duration_ms,
        entry.detail,
        opened,
        *ran,
    )


DELIVERY_COLUMNS: Final = (
    "deliveries.id, deliveries.job_id, deliveries.event, deliveries.action, deliveries.state, "
    "deliveries.doubt, deliveries.tries, deliveries.attempt_count, deliveries.next_attempt_at, "
    "deliveries.created_at, deliveries.delivered_at, deliveries.first_sent_at, "
    "deliveries.receipt, deliveries.follow_up_at, deliveries.follow_ups"
)


def delivery(row: Sequence[Any]) -> Delivery:
    """A row of `DELIVERY_COLUMNS`."""
    return Delivery(
        id=DeliveryId(row[0]),
        job_id=JobId(row[1]),
        event=_event.decode(row[2]),
        action=row[3],
        state=DeliveryState(row[4]),
        doubt=Doubt(row[5]),
        tries=row[6],
        attempt_count=row[7],
        next_attempt_at=from_ms(row[8]),
        created_at=instant(row[9]),
        delivered_at=from_ms(row[10]),
        first_sent_at=from_ms(row[11]),
        receipt=None if row[12] is None else _receipt.decode(row[12]),
        follow_up_at=from_ms(row[13]),
        follow_ups=row[14],
    )


UPDATE_DELIVERY: Final = (
    "UPDATE deliveries SET state=?, doubt=?, tries=?, attempt_count=?, next_attempt_at=?, "
    "delivered_at=?, first_sent_at=?, receipt=?, follow_up_at=?, follow_ups=? WHERE id=?"
)


def delivery_values(value: Delivery) -> tuple[Any, ...]:
    """The values of `UPDATE_DELIVERY`."""
    return (
        value.state,
        value.doubt,
        value.tries,
        value.attempt_count,
        to_ms(value.next_attempt_at),
        to_ms(value.delivered_at),
        to_ms(value.first_sent_at),
        to_json(value.receipt),
        to_ms(value.follow_up_at),
        value.follow_ups,
        value.id,
    )


def like(text: str) -> str:
    """A pattern that finds `text` anywhere, with its wildcards taken literally."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def execution(row: Sequence[Any]) -> Execution:
    """The last five columns of a log entry."""
    return Execution(
        exit_code=row[0],
        peak_memory_bytes=row[1],
        stdout=row[2] or "",
        stderr=row[3] or "",
        output=from_json(row[4]),
    )


def opened(text: str | None) -> list[Document]:
    found: list[Document] = from_json(text) or []
    return found
