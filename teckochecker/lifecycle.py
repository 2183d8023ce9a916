"""Every change of a job, as a function of what is and what happened.

Nothing here reads a clock, draws a random number or writes: `now` and `jitter` (0 to 1) are
values, and the answer is the new state with the log entries and deliveries that belong to it.
The store applies each answer in one transaction, so a job can't be half changed.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from teckochecker.domain import (
    ENDED,
    OPEN,
    TERMINAL,
    Document,
    Entry,
    Event,
    Finding,
    Job,
    JobDraft,
    Kind,
    Phase,
    SecretOpened,
    Status,
    TriggerOn,
    Value,
    Verdict,
    replace,
)
from teckochecker.errors import Fault, WrongState

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MAX_BACKOFF_S: Final = 3600
GRID_S: Final = 0.1  # takes a third off what a poll costs, measured at 33 polls a second
MAX_NAP_S: Final = 30.0  # a lost wake-up or a stepped clock heals itself within this
STRIKES: Final = 3  # faults in a row that no waiting will heal, until the job is paused
ENGINE_WAITS_S: Final = (1, 2, 4)  # before a container is tried again that couldn't be started
_SOURCE_SECRETS: Final = frozenset(
    {"openai_secret", "openai_secret_id", "script_git_secret", "script_git_secret_id"}
)
PERMANENT: Final = frozenset({Fault.CREDENTIALS, Fault.NOT_FOUND})
ACCOUNT_FAULTS: Final = frozenset({Fault.RATE_LIMITED, Fault.QUOTA})  # not of one job alone


class Change(Value, frozen=True, kw_only=True):
    """What became of a job: its new state, log entries, and an event to deliver to its actions."""

    job: Job
    entries: tuple[Entry, ...] = ()
    event: Event | None = None
    deliver_now: bool = False
    hold_until: datetime | None = None  # of every job that uses the same secrets


def phase(job: Job, *, checking: bool) -> Phase | None:
    """What an active job is doing; None for any other."""
    if job.status is not Status.ACTIVE:
        return None
    if job.delivering:
        return Phase.DELIVERING
    if checking:
        return Phase.CHECKING
    return Phase.AWAITING_SCRIPT if job.next_check_at is None else Phase.POLLING


def nap_s(next_due: datetime | None, now: datetime) -> float:
    """How long the scheduler may sleep: until the next due time, never longer than 30 s."""
    if next_due is None:
        return MAX_NAP_S
    return min(MAX_NAP_S, max(0.0, (next_due - now).total_seconds()))


def next_check(job: Job, finding: Finding, now: datetime, jitter: float) -> datetime:
    """The due time after a check that didn't end the job: never earlier than its interval."""
    wait_s: float = job.interval_s
    if finding.verdict is Verdict.ERROR and finding.fault not in PERMANENT | {Fault.ENGINE}:
        backoff_s = job.interval_s * 2.0 ** min(job.errors, 20)
        wait_s = max(wait_s, min(MAX_BACKOFF_S, backoff_s))
    if finding.fault is Fault.QUOTA:
        wait_s = max(wait_s, MAX_BACKOFF_S)
    wait_s = max(wait_s, finding.retry_after_s or 0.0)
    latest_s = min(1.0, job.interval_s / 100)
    grid_s = min(GRID_S, latest_s / 3)  # jitter must still lead from one slot to another
    return _on_grid(now + timedelta(seconds=wait_s + jitter * (latest_s - grid_s)), grid_s)


def _on_grid(due: datetime, grid_s: float) -> datetime:
    """The next multiple of `grid_s`: jobs that are due together are found by one look."""
    past = (due - EPOCH) % timedelta(seconds=grid_s)
    return due + timedelta(seconds=grid_s) - past if past else due


def held(due: datetime, held_until: datetime | None, jitter: float) -> datetime:
    """`due`, but not before a service wants to hear from this account again."""
    if held_until is None or due >= held_until:
        return due
    return held_until + timedelta(seconds=2.0 * jitter)


def held_back(change: Change, held_until: datetime | None) -> Change:
    """`change`, whose job isn't due before its account wants to be asked again."""
    due = change.job.next_check_at
    if due is None:
        return change
    return replace(change, job=replace(change.job, next_check_at=held(due, held_until, 0.0)))


def checked(
    job: Job,
    finding: Finding,
    *,
    revision: int,
    event_id: str,
    duration_ms: int,
    opened: tuple[SecretOpened, ...],
    held_until: datetime | None,
    now: datetime,
    jitter: float,
) -> Change:
    """A check of the source as it was at `revision` has come to an end."""
    entries = _findings_entries(finding, duration_ms, opened)
    hold = _hold_until(finding, now)
    if revision != job.revision or job.status in ENDED or job.delivering:
        stale = _annotated(entries, "stale, the job changed meanwhile")
        return Change(job=job, entries=stale, hold_until=hold)
    known = replace(
        job,
        last_check_at=now,
        last_verdict=finding.verdict,
        last_data=job.last_data if finding.data is None else finding.data,
        check_count=job.check_count + 1,
        source_state=job.source_state if finding.state is None else finding.state,
    )
    if job.status is Status.PAUSED:
        paused_now = replace(known, last_verdict=job.last_verdict, last_data=job.last_data)
        ignored = _annotated(entries, "not acted on, the job is paused")
        return Change(job=paused_now, entries=ignored, hold_until=hold)
    if finding.verdict in TERMINAL:
        return _ended(known, finding, entries, event_id, duration_ms, now)
    if _errs_too_often(known, finding):
        count = known.max_errors
        why = f"{count} errors in a row" if count != 1 else "max_consecutive_errors is 1"
        final = replace(finding, message=f"{finding.message} ({why})")
        return _ended(known, final, entries, event_id, duration_ms, now)
    change = _polling_on(known, finding, entries, held_until, now, jitter)
    return replace(change, hold_until=hold)


def script_given(
    job: Job, state: Document, held_until: datetime | None, now: datetime, message: str
) -> Change:
    """The source has got what it needs, such as an uploaded script: check at once."""
    _refuse_ended(job, "given a script")
    if job.delivering:
        raise WrongState(
            f"Job {job.name!r} is delivering: its check has ended. Create a new job to check again."
        )
    changed = replace(
        job,
        source_state=state,
        revision=job.revision + 1,
        errors=0,
        strikes=0,
        next_check_at=held(now, held_until, 0.0),
    )
    return Change(job=changed, entries=(Entry(status="script", message=message),))


def first_check(draft: JobDraft, state: Document | None, now: datetime) -> datetime | None:
    """When a job is checked first: at once, or None while it waits for its script."""
    waits = _came_from(draft.source.doc) == "upload" and state is None
    return None if waits else now


def _came_from(doc: Document) -> str | None:
    """How a source gets its script; None for one without."""
    found: str | None = doc.get("script_source_type")
    return found


def paused(job: Job, now: datetime) -> Change:
    if job.status is Status.PAUSED:
        return Change(job=job)
    _refuse_ended(job, "paused")
    changed = replace(job, status=Status.PAUSED, status_reason="paused by hand")
    return Change(job=changed, entries=(Entry(status="paused", message="Paused by hand."),))


def resumed(job: Job, held_until: datetime | None, now: datetime) -> Change:
    if job.status is Status.ACTIVE:
        return Change(job=job)
    _refuse_ended(job, "resumed")
    changed = replace(job, status=Status.ACTIVE, status_reason=None, errors=0, strikes=0)
    if not job.delivering and job.next_check_at is not None:
        changed = replace(changed, next_check_at=held(now, held_until, 0.0))
    return Change(job=changed, entries=(Entry(status="resumed", message="Resumed by hand."),))


def triggered(job: Job, held_until: datetime | None, now: datetime) -> Change:
    """Check now: overrules backoff, but not a time that the service asked us to wait."""
    if job.status is Status.PAUSED:
        raise WrongState(f"Job {job.name!r} is paused: resume it, which checks it at once.")
    _refuse_ended(job, "triggered")
    if job.delivering:
        entry = Entry(status="triggered", message="Delivery asked for by hand.")
        return Change(job=job, entries=(entry,), deliver_now=True)
    if job.next_check_at is None:
        raise WrongState(f"Job {job.name!r} waits for its script: upload it, which checks at once.")
    due = held(now, held_until, 0.0)
    message = "Check asked for by hand."
    if due > now:
        message += f" The service asked us to wait until {due:%Y-%m-%d %H:%M:%S} UTC."
    entry = Entry(status="triggered", message=message)
    return Change(job=replace(job, next_check_at=due), entries=(entry,))


def edited(
    job: Job, draft: JobDraft, given: frozenset[str], action_fields: frozenset[str], now: datetime
) -> Change:
    """The job as changed by a PUT of the fields `given`."""
    if job.status in ENDED or job.delivering:
        late = sorted(given - action_fields - {"name"})
        if late:
            state = job.status.value if job.status in ENDED else "delivering"
            raise WrongState(
                f"Job {job.name!r} is {state}: only its name and its actions can be changed, "
                f"not {', '.join(late)}. Create a new job to check something else."
            )
    changed = replace(
        job,
        name=draft.name,
        interval_s=draft.interval_s,
        trigger_on=draft.trigger_on,
        source=draft.source,
        actions=draft.actions,
        max_errors=draft.max_errors,
    )
    if draft.source != job.source or given & _SOURCE_SECRETS:
        changed = replace(changed, revision=job.revision + 1, errors=0, strikes=0)
    if draft.source != job.source and job.kind is Kind.POLLING:
        changed = replace(changed, last_data=None)
    if _came_from(draft.source.doc) != _came_from(job.source.doc):
        changed = replace(changed, source_state=None)  # a script of there is none of here
    if job.status in OPEN and not job.delivering:
        changed = replace(changed, next_check_at=_due_after_edit(job, changed, draft, now))
    names = ", ".join(sorted(given)) or "nothing"
    return Change(job=changed, entries=(Entry(status="changed", message=f"Changed: {names}."),))


def _refuse_ended(job: Job, verb: str) -> None:
    if job.status in ENDED:
        raise WrongState(
            f"Job {job.name!r} is {job.status} and can't be {verb}: create a new job, "
            f"or redeliver one of its deliveries."
        )


def _findings_entries(
    finding: Finding, duration_ms: int, opened: tuple[SecretOpened, ...]
) -> tuple[Entry, ...]:
    entry = Entry(
        status=finding.verdict.lower(),
        message=finding.message,
        duration_ms=duration_ms,
        detail=finding.detail,
        opened=opened,
        execution=finding.execution,
    )
    return (entry, *(Entry(status="warning", message=text) for text in finding.warnings))


def _annotated(entries: tuple[Entry, ...], why: str) -> tuple[Entry, ...]:
    first = entries[0]
    return (replace(first, message=f"{first.message} ({why})"), *entries[1:])


def _ended(
    job: Job,
    finding: Finding,
    entries: tuple[Entry, ...],
    event_id: str,
    duration_ms: int,
    now: datetime,
) -> Change:
    known = replace(job, errors=0, strikes=0, next_check_at=None)
    if job.actions and _triggers(job, finding.verdict):
        event = Event(
            id=event_id,
            job_id=job.id,
            job_name=job.name,
            verdict=finding.verdict,
            message=finding.message,
            data=known.last_data or {},
            occurred_at=now,
            execution_time_ms=duration_ms,
            job_kind=job.kind,
        )
        reason = finding.message if finding.verdict is Verdict.ERROR else None
        delivering = replace(known, event_id=event_id, status_reason=reason)
        return Change(job=delivering, entries=entries, event=event)
    told = job.kind is Kind.CUSTOM_CHECK and not job.actions  # whose verdict is all one wanted
    well = finding.verdict is Verdict.SUCCESS or (told and finding.verdict is Verdict.FAILED)
    status = Status.COMPLETED if well else Status.FAILED
    reason = None if status is Status.COMPLETED else finding.message
    ended = replace(known, status=status, status_reason=reason, completed_at=now)
    return Change(job=ended, entries=(*entries, *end_entry(job, ended)))


def _polling_on(
    job: Job,
    finding: Finding,
    entries: tuple[Entry, ...],
    held_until: datetime | None,
    now: datetime,
    jitter: float,
) -> Change:
    due = held(next_check(job, finding, now, jitter), held_until, jitter)
    error = finding.verdict is Verdict.ERROR
    strikes = job.strikes + 1 if error and finding.fault in PERMANENT else 0
    errors = 0 if not error else job.errors if finding.fault is Fault.ENGINE else job.errors + 1
    changed = replace(job, next_check_at=due, errors=errors, strikes=strikes)
    if strikes < STRIKES:
        return Change(job=changed, entries=entries)
    reason = f"{finding.message} ({STRIKES} times in a row; mend it, then resume the job)"
    stopped = replace(changed, status=Status.PAUSED, status_reason=reason)
    entry = Entry(status="paused", message=f"Paused: {reason}")
    return Change(job=stopped, entries=(*entries, entry))


def _triggers(job: Job, verdict: Verdict) -> bool:
    """Whether this end is told to the actions; a check that was given up is a bad end."""
    if verdict is Verdict.ERROR:
        return job.trigger_on is TriggerOn.TERMINAL
    return job.trigger_on.covers(verdict)


def _errs_too_often(job: Job, finding: Finding) -> bool:
    if finding.verdict is not Verdict.ERROR or finding.fault is Fault.ENGINE:
        return False
    return job.max_errors is not None and job.errors + 1 >= job.max_errors


def _hold_until(finding: Finding, now: datetime) -> datetime | None:
    """Until when the service doesn't want to hear from the account, whatever became of the job."""
    if finding.fault not in ACCOUNT_FAULTS or finding.retry_after_s is None:
        return None
    return now + timedelta(seconds=finding.retry_after_s)


def _due_after_edit(before: Job, changed: Job, draft: JobDraft, now: datetime) -> datetime | None:
    first = first_check(draft, changed.source_state, now)
    if first is None or before.next_check_at is None:
        return first
    if before.status is Status.PAUSED:
        return before.next_check_at  # who resumes it says when
    return first if changed.revision != before.revision else _rescheduled(before, draft, now)


def _rescheduled(job: Job, draft: JobDraft, now: datetime) -> datetime:
    """A changed interval counts from the last check on; an unchanged one changes nothing."""
    due = job.next_check_at or now
    if draft.interval_s == job.interval_s or job.last_check_at is None:
        return due
    return max(now, job.last_check_at + timedelta(seconds=draft.interval_s))


def end_entry(before: Job, after: Job) -> tuple[Entry, ...]:
    if after.status is before.status or after.status not in ENDED:
        return ()
    message = f"Job {after.status}."
    if after.status_reason:
        message = f"Job {after.status}: {after.status_reason}"
    return (Entry(status=after.status, message=message),)
