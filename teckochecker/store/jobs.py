"""Stored jobs: the one way to change one is `change`, which decides inside the transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from teckochecker import outbox
from teckochecker.domain import (
    MAX_ID,
    OPEN,
    SANDBOXED,
    SEARCHABLE,
    Document,
    Entry,
    Job,
    JobDraft,
    JobId,
    Kind,
    LogRow,
    Page,
    Receipt,
    SecretId,
    Status,
    Value,
)
from teckochecker.errors import JobNotFound, NameTaken, WrongState
from teckochecker.lifecycle import Change, held_back
from teckochecker.store import models, rows, secrets
from teckochecker.store.database import Database

_INSERT_DELIVERY: Final = (
    "INSERT INTO deliveries (job_id, event_id, event, body, action, state, doubt, tries, "
    "attempt_count, next_attempt_at, created_at, follow_ups) "
    "VALUES (?, ?, ?, ?, ?, 'pending', 'none', 0, 0, ?, ?, 0)"
)
_HELD: Final = (
    "(SELECT max(held_until) FROM job_secrets JOIN secrets ON secrets.id = secret_id "
    "WHERE job_secrets.job_id = jobs.id)"
)
_HOLD: Final = (  # the others of the account come back spread over two seconds
    "UPDATE jobs SET next_check_at = ? + abs(random()) % 2000 "
    "WHERE status = 'active' AND next_check_at < ? AND id IN ("
    "SELECT job_id FROM job_secrets WHERE secret_id IN ({marks}))"
)

_LOGS: Final = (
    "SELECT id, job_id, status, message, created_at, execution_time_ms, detail, secrets_opened, "
    "exit_code, peak_memory_bytes, stdout, stderr, script_output "
    "FROM logs WHERE job_id = ? AND id > ? ORDER BY id DESC LIMIT ? OFFSET ?"
)
_CONTAINS: Final = (
    "(jobs.name LIKE ? ESCAPE '\\' OR EXISTS (SELECT 1 FROM "
    "json_each(jobs.source_doc, '$.batch_ids') WHERE value LIKE ? ESCAPE '\\'))"
)
_DELIVER_NOW: Final = (  # a look cut short begins anew: the pause between two is needed
    "UPDATE deliveries SET next_attempt_at = ?, doubt = replace(doubt, 'look_again', 'look') "
    "WHERE job_id = ? AND state = 'pending'"
)

_SELECT_VIEWS: Final = (  # JSON as we store it has no line ends within
    f"SELECT group_concat({rows.JOB_VIEW}, char(10) ORDER BY id DESC) FROM jobs"
)

Decide = Callable[[Job, datetime | None], Change]
"""From the job as it is, and the time until which its secrets are held back, to its change."""


class JobView(Value, frozen=True, kw_only=True):
    """A job and what is shown beside it: its secrets by role, and what it started in Keboola."""

    job: Job
    secrets: Mapping[str, tuple[SecretId, str]]
    receipt: Receipt | None


class CheckWork(Value, frozen=True, kw_only=True):
    """A job and its sealed secrets, by role."""

    job: Job
    secrets: tuple[secrets.SealedRole, ...]


job_view = msgspec.json.Decoder(JobView).decode
"""Reads one of the texts of `Jobs.page`."""


class JobFilter(Value, frozen=True, kw_only=True):
    """Which jobs a list shows; `text` is looked for in names and batch ids."""

    kind: Kind | None = None
    status: Status | None = None
    text: str | None = None


class Jobs:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        draft: JobDraft,
        due: datetime | None,
        now: datetime,
        source_state: Document | None = None,
    ) -> JobView:
        """Store a new job that is first checked at `due`."""
        with self._database.write() as db:
            refuse_taken(db, draft.name, None)
            found = secrets.resolve(db, draft.secrets, {})
            job_id = JobId(_insert(db, draft, source_state, now))
            secrets.link(db, job_id, found)
            _write_actions(db, job_id, draft)
            held = _held(db, job_id)
            first = max(due, held) if due and held else due
            models.Job.update(next_check_at=rows.to_ms(first)).where(
                models.Job.id == job_id
            ).execute(db)
            entry = Entry(status="created", message="Created.")
            db.execute_sql(rows.INSERT_LOG, rows.entry_values(job_id, entry, now))
            return _view(db, job_id)

    def view(self, wanted: int | str) -> JobView:
        with self._database.read() as db:
            return _view(db, id_of(db, wanted))

    def work(self, wanted: int | str) -> CheckWork:
        """A job with its sealed secrets."""
        with self._database.read() as db:
            job, _ = load(db, id_of(db, wanted))
            sealed = secrets.of_jobs(db, [job.id])
            return CheckWork(job=job, secrets=sealed.get(job.id, ()))

    def scripted(self) -> list[Job]:
        """All jobs whose source is a script."""
        with self._database.read() as db:
            cursor = db.execute_sql(
                f"SELECT {rows.JOB} FROM jobs WHERE source_kind = ?", (SANDBOXED,)
            )
            return [rows.job(text) for (text,) in cursor]

    def page(self, which: JobFilter, page: Page) -> tuple[list[str], int]:
        """Newest first, each as the JSON that `job_view` reads, and how many there are in all.

        The text of a job is the same as long as nothing of it changes.
        """
        where, values = _condition(which)
        with self._database.read() as db:
            total = db.execute_sql(f"SELECT count(*) FROM jobs WHERE {where}", values)
            found = _views(  # the ids first: sorting whole rows costs ten times as much
                db,
                f"id IN (SELECT id FROM jobs WHERE {where} ORDER BY id DESC LIMIT ? OFFSET ?)",
                (*values, page.limit, page.offset),
            )
            return found, total.fetchone()[0]

    def change(self, wanted: int | str, decide: Decide, now: datetime) -> JobView:
        """Load, decide, and write job, log and deliveries, all in one transaction."""
        with self._database.write() as db:
            job_id = id_of(db, wanted)
            self._apply(db, job_id, decide, now)
            return _view(db, job_id)

    def step(self, job_id: JobId, decide: Decide, now: datetime) -> Change:
        """`change` for the scheduler: by id, and without reading everything back."""
        with self._database.write() as db:
            return self._apply(db, job_id, decide, now)

    def edit(
        self,
        wanted: int | str,
        draft: Callable[[JobView], JobDraft],
        decide: Callable[[Job, JobDraft], Change],
        now: datetime,
    ) -> JobView:
        """A change that may also bring other actions and secrets."""
        with self._database.write() as db:
            job_id = id_of(db, wanted)
            view = _view(db, job_id)
            new = draft(view)
            _refuse_moved(db, view.job, new)
            if view.job.status in OPEN:
                refuse_taken(db, new.name, job_id)
            linked = {role: secret_id for role, (secret_id, _) in view.secrets.items()}
            secrets.link(db, job_id, secrets.resolve(db, new.secrets, linked))
            _write_actions(db, job_id, new)
            self._apply(db, job_id, lambda job, held: held_back(decide(job, new), held), now)
            return _view(db, job_id)

    def delete(self, wanted: int | str) -> JobId:
        with self._database.write() as db:
            job_id = id_of(db, wanted)
            db.execute_sql("DELETE FROM jobs WHERE id = ?", (job_id,))
            return job_id

    def logs(self, wanted: int | str, page: Page, after: int = 0) -> tuple[list[LogRow], int]:
        """Newest first; only entries with an id above `after`."""
        with self._database.read() as db:
            job_id = id_of(db, wanted)
            mine = (job_id, after)
            total = db.execute_sql("SELECT count(*) FROM logs WHERE job_id = ? AND id > ?", mine)
            cursor = db.execute_sql(_LOGS, (*mine, page.limit, page.offset))
            return [_log_row(row) for row in cursor], total.fetchone()[0]

    def _apply(self, db: Any, job_id: JobId, decide: Decide, now: datetime) -> Change:
        before, held_until = load(db, job_id)
        change = decide(before, held_until)
        if change.job != before:
            db.execute_sql(rows.UPDATE_JOB, (*rows.job_values(change.job), job_id))
        for entry in change.entries:
            db.execute_sql(rows.INSERT_LOG, rows.entry_values(job_id, entry, now))
            _mark_used(db, entry, now)
        if change.event:
            _write_event(db, change, now)
        if change.deliver_now:
            db.execute_sql(_DELIVER_NOW, (rows.ms(now), job_id))
        if change.hold_until:
            _hold(db, change, rows.ms(change.hold_until))
        return change


def load(db: Any, job_id: JobId) -> tuple[Job, datetime | None]:
    row = db.execute_sql(
        f"SELECT {rows.JOB}, {_HELD} FROM jobs WHERE id = ?",
        (job_id,),
    ).fetchone()
    if row is None:
        raise _missing(job_id)
    return rows.job(row[0]), rows.from_ms(row[1])


def id_of(db: Any, wanted: int | str) -> JobId:
    """A name addresses the job that hasn't ended, else the newest."""
    if isinstance(wanted, int):
        if not 0 < wanted <= MAX_ID:
            raise _missing(wanted)
        sql, value = "SELECT id FROM jobs WHERE id = ?", wanted
        row = db.execute_sql(sql, (value,)).fetchone()
    else:
        row = db.execute_sql(
            "SELECT id FROM jobs WHERE name = ? "
            "ORDER BY status IN ('active', 'paused') DESC, id DESC LIMIT 1",
            (wanted,),
        ).fetchone()
    if row is None:
        raise _missing(wanted)
    return JobId(row[0])


def _missing(wanted: int | str) -> JobNotFound:
    return JobNotFound(
        f"Job {wanted!r} doesn't exist: `teckochecker job list --kind all` shows those that do."
    )


def _view(db: Any, job_id: JobId) -> JobView:
    return job_view(_views(db, "id = ?", (job_id,))[0])


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _views(db: Any, condition: str, values: tuple[object, ...]) -> list[str]:
    (texts,) = db.execute_sql(f"{_SELECT_VIEWS} WHERE {condition}", values).fetchone()
    return texts.split("\n") if texts else []


def refuse_taken(db: Any, name: str, mine: JobId | None) -> None:
    """Names are unique among the jobs that haven't ended."""
    row = db.execute_sql(
        "SELECT id FROM jobs WHERE name = ? AND status IN ('active', 'paused') AND id <> ?",
        (name, mine or 0),
    ).fetchone()
    if row:
        raise NameTaken(
            f"Job {row[0]} that hasn't ended is named {name!r}: choose another name, "
            f"or delete that job."
        )


def _refuse_moved(db: Any, job: Job, new: JobDraft) -> None:
    """Where an attempt may have started something, it is looked for: that place must stay."""
    cursor = db.execute_sql(
        "SELECT action FROM deliveries WHERE event_id = ? "
        "AND (state = 'sending' OR state = 'pending' AND doubt <> 'none')",
        (job.event_id,),
    )
    doubtful = SEARCHABLE & {action for (action,) in cursor}
    if any(part.kind in doubtful and part not in new.actions for part in job.actions):
        raise WrongState(
            f"An attempt of job {job.id} may have started something where it points now, which is "
            f"being looked for: change that once `job deliveries {job.id}` shows how it ended."
        )


def _insert(db: Any, draft: JobDraft, state: Document | None, now: datetime) -> int:
    inserted: int = models.Job.insert(
        kind=draft.kind,
        name=draft.name,
        status=Status.ACTIVE,
        revision=1,
        interval_s=draft.interval_s,
        trigger_on=draft.trigger_on,
        source_kind=draft.source.kind,
        source_doc=rows.to_json(draft.source.doc),
        origin=draft.source.origin,
        check_count=0,
        errors=0,
        strikes=0,
        created_at=rows.ms(now),
        max_errors=draft.max_errors,
        source_state=rows.to_json(state),
    ).execute(db)
    return inserted


def _write_actions(db: Any, job_id: JobId, draft: JobDraft) -> None:
    models.Action.delete().where(models.Action.job_id == job_id).execute(db)
    for part in draft.actions:
        models.Action.insert(
            job_id=job_id, kind=part.kind, doc=rows.to_json(part.doc), origin=part.origin
        ).execute(db)


def _held(db: Any, job_id: JobId) -> datetime | None:
    return load(db, job_id)[1]


def _mark_used(db: Any, entry: Entry, now: datetime) -> None:
    """At most once a minute for each secret: it is shown to people, in minutes."""
    at = rows.ms(now)
    for one in entry.opened:
        db.execute_sql(
            "UPDATE secrets SET last_used_at = ? WHERE id = ? "
            "AND (last_used_at IS NULL OR last_used_at < ?)",
            (at, one.id, at - 60_000),
        )


def _write_event(db: Any, change: Change, now: datetime) -> None:
    event = change.event
    assert event is not None
    document, body = rows.to_json(event), outbox.body(event)
    for part in change.job.actions:
        db.execute_sql(
            _INSERT_DELIVERY,
            (event.job_id, event.id, document, body, part.kind, rows.ms(now), rows.ms(now)),
        )


def _hold(db: Any, change: Change, until: int) -> None:
    ids = tuple(one.id for entry in change.entries for one in entry.opened)
    if not ids:
        return
    marks = _marks(ids)
    db.execute_sql(
        f"UPDATE secrets SET held_until = max(ifnull(held_until, 0), ?) WHERE id IN ({marks})",
        (until, *ids),
    )
    db.execute_sql(_HOLD.format(marks=marks), (until, until, *ids))


def _condition(which: JobFilter) -> tuple[str, tuple[object, ...]]:
    """What a list is filtered by, as SQL and its values."""
    parts: list[tuple[str, tuple[object, ...]]] = []
    if which.kind:
        parts.append(("kind = ?", (which.kind,)))
    if which.status:
        parts.append(("status = ?", (which.status,)))
    if which.text:
        pattern = rows.like(which.text)
        parts.append((_CONTAINS, (pattern, pattern)))
    where = " AND ".join(sql for sql, _ in parts) or "1"
    return where, tuple(value for _, values in parts for value in values)


def _log_row(row: Sequence[Any]) -> LogRow:
    """A row of `_LOGS`."""
    return LogRow(
        id=row[0],
        job_id=JobId(row[1]),
        status=row[2],
        message=row[3],
        created_at=rows.instant(row[4]),
        execution_time_ms=row[5],
        detail=row[6],
        secrets_opened=rows.opened(row[7]),
        execution=rows.execution(row[8:13]),
    )
