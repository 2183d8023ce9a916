"""Every change of a delivery: attempts, waits, doubt, follow-ups.

Pure like `lifecycle`. A delivery is marked before the first byte leaves and settled by what
came back; what can't be known is `unconfirmed` and is never sent again by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from teckochecker.domain import (
    ENDED,
    SEARCHABLE,
    USED_UP,
    Attempt,
    Delivery,
    DeliveryState,
    Doubt,
    Entry,
    Event,
    Job,
    NotFoundYet,
    Receipt,
    SecretOpened,
    Sent,
    Status,
    Undecided,
    Value,
    Verdict,
    replace,
)
from teckochecker.errors import Fault, OutsideError, WrongState
from teckochecker.lifecycle import end_entry

LOOK_PAUSE_S: Final = 10.0  # between two looks for an earlier attempt: search indexes lag
FOLLOW_UP_WAITS_S: Final = (5, 10, 20)
FOLLOW_UP_WAIT_S: Final = 60
FOLLOW_UP_END: Final = timedelta(hours=48)
TAIL_S: Final = (300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
"""The long waits of a delivery after its quick ones: 5 min, 30 min, 2, 5, 10, 14, 20, 24 h."""


class DeliveryChange(Value, frozen=True, kw_only=True):
    """What became of a delivery and its job."""

    delivery: Delivery
    job: Job
    attempt: Attempt | None = None
    entries: tuple[Entry, ...] = ()


def delivery_waits_s(max_retries: int, retry_delay_s: int) -> tuple[int, ...]:
    """The waits between the attempts of one delivery, in seconds."""
    return (*(2**n for n in range(max_retries)), retry_delay_s, *TAIL_S)


def next_attempt(
    waits_s: Sequence[float], tries: int, retry_after_s: float | None, now: datetime, jitter: float
) -> datetime | None:
    """When to try again after `tries` attempts, or None when the schedule is used up.

    Each wait varies by 10 % either way; a longer `retry_after_s` replaces it.
    """
    if tries > len(waits_s):
        return None
    wait_s = waits_s[tries - 1] * (0.9 + 0.2 * jitter)
    return now + timedelta(seconds=max(wait_s, retry_after_s or 0.0))


def body(event: Event) -> bytes:
    """The event as receivers get it: made once, stored, and never changed."""
    return msgspec.json.encode(_told(event))


def trial_body(event: Event) -> bytes:
    """As `body`, marked as a test."""
    return msgspec.json.encode({**_told(event), "test": True})


def _told(event: Event) -> dict[str, object]:
    return {
        "job_id": event.job_id,
        "job_name": event.job_name,
        "check_status": event.verdict,
        "check_data": event.data,
        "check_message": event.message,
        "timestamp": event.occurred_at,
        "execution_time_ms": event.execution_time_ms,
        "event_id": event.id,
    }


def attempt_begun(delivery: Delivery, now: datetime) -> Delivery:
    """Marked before the first byte leaves: found so after a crash, its outcome is unknown."""
    return replace(
        delivery,
        state=DeliveryState.SENDING,
        tries=delivery.tries + 1,
        attempt_count=delivery.attempt_count + 1,
        first_sent_at=delivery.first_sent_at or now,
        next_attempt_at=None,
    )


def attempted(
    delivery: Delivery,
    job: Job,
    outcome: Sent | NotFoundYet | Undecided | OutsideError,
    *,
    started_at: datetime,
    duration_ms: int,
    waits_s: Sequence[float],
    opened: tuple[SecretOpened, ...],
    others: Sequence[DeliveryState],
    now: datetime,
    jitter: float,
    look_pause_s: float = LOOK_PAUSE_S,
) -> DeliveryChange:
    """An attempt that `attempt_begun` has marked has come to an end.

    `others` are the states of the job's other deliveries of the same event. An outcome of an
    attempt that is settled already changes nothing.
    """
    if delivery.state is not DeliveryState.SENDING:
        return DeliveryChange(delivery=delivery, job=job)
    attempt = _attempt(outcome, started_at, duration_ms)
    if isinstance(outcome, Sent):
        changed = _delivered(delivery, outcome, now)
    elif isinstance(outcome, NotFoundYet):
        due = now + timedelta(seconds=look_pause_s)
        changed = replace(
            delivery,
            state=DeliveryState.PENDING,
            doubt=Doubt.LOOK_AGAIN,
            tries=delivery.tries - 1,  # a look that found nothing sent nothing
            next_attempt_at=due,
        )
    elif isinstance(outcome, Undecided):
        changed = replace(delivery, state=DeliveryState.UNCONFIRMED)
    else:
        changed = _failed_attempt(delivery, outcome, waits_s, now, jitter)
    entry = _delivery_entry(changed, attempt, duration_ms, opened)
    why = attempt.message if changed.state in USED_UP else "see the job's other delivery."
    settled = settle(job, [changed.state, *others], why, now)
    return DeliveryChange(
        delivery=changed, job=settled, attempt=attempt, entries=(entry, *end_entry(job, settled))
    )


def settle(job: Job, states: Sequence[DeliveryState], why: str, now: datetime) -> Job:
    """The job as the states of all its deliveries make it.

    A receipt is a fact: it completes a job even when a pause landed during the attempt.
    """
    if all(state is DeliveryState.DELIVERED for state in states):
        given_up = job.last_verdict is Verdict.ERROR  # its check failed too often, and that is told
        return replace(
            job,
            status=Status.FAILED if given_up else Status.COMPLETED,
            status_reason=job.status_reason if given_up else None,
            completed_at=now,
            next_check_at=None,
        )
    if job.status in ENDED:
        return job
    if DeliveryState.UNCONFIRMED in states:
        reason = f"delivery unconfirmed: {why}"
    elif DeliveryState.FAILED in states:
        reason = f"delivery failed: {why}"
    else:
        return job
    return replace(job, status=Status.FAILED, status_reason=reason, completed_at=now)


def interrupted(delivery: Delivery, now: datetime) -> Delivery:
    """A delivery found `sending` at start: nobody knows whether it arrived."""
    return replace(
        delivery,
        state=DeliveryState.PENDING,
        doubt=_doubt(delivery),
        tries=max(0, delivery.tries - 1),  # being stopped is no failure of the other side
        next_attempt_at=now,
    )


def redelivered(delivery: Delivery, job: Job, now: datetime) -> DeliveryChange:
    """Send it again, by hand: a fresh schedule and the same event id.

    One that is still on its way and in doubt is looked for from the start, any other isn't.
    """
    if delivery.state is DeliveryState.SENDING:
        raise WrongState(f"Delivery {delivery.id} is being sent right now: look again in a minute.")
    in_doubt = delivery.state is DeliveryState.PENDING and delivery.doubt is not Doubt.NONE
    arrived = delivery.state is DeliveryState.DELIVERED  # a look mustn't find that one
    again = replace(
        delivery,
        state=DeliveryState.PENDING,
        doubt=Doubt.LOOK if in_doubt else Doubt.NONE,
        tries=0,
        next_attempt_at=now,
        first_sent_at=None if arrived else delivery.first_sent_at,
        delivered_at=None,
        receipt=None,
        follow_up_at=None,
        follow_ups=0,
    )
    if job.status is Status.PAUSED:
        raise WrongState(f"Job {job.name!r} is paused: resume it first.")
    reason = delivery.event.message if job.last_verdict is Verdict.ERROR else None
    active = replace(job, status=Status.ACTIVE, status_reason=reason, completed_at=None)
    entry = Entry(status="redeliver", message=f"Delivery {delivery.id} asked for again by hand.")
    return DeliveryChange(delivery=again, job=active, entries=(entry,))


def followed(
    delivery: Delivery, job: Job, news: Receipt | OutsideError, now: datetime
) -> DeliveryChange:
    """The started work was asked how it is; that never changes our own job's status."""
    if delivery.state is not DeliveryState.DELIVERED:  # redelivered while it was asked
        return DeliveryChange(delivery=delivery, job=job)
    follow_ups = delivery.follow_ups + 1
    begun = delivery.delivered_at or now
    if isinstance(news, OutsideError):
        final = news.fault in (Fault.CREDENTIALS, Fault.NOT_FOUND, Fault.REFUSED)
        receipt, entries = delivery.receipt, _follow_up_failure(news, final)
    else:
        final, receipt = news.finished, news
        entries = _follow_up_news(delivery.receipt, news)
    wait_s = (
        FOLLOW_UP_WAITS_S[follow_ups] if follow_ups < len(FOLLOW_UP_WAITS_S) else FOLLOW_UP_WAIT_S
    )
    told_s = news.retry_after_s if isinstance(news, OutsideError) else None
    due = now + timedelta(seconds=max(wait_s, told_s or 0.0))
    if final or due > begun + FOLLOW_UP_END:
        due = None  # type: ignore[assignment]
    changed = replace(delivery, receipt=receipt, follow_up_at=due, follow_ups=follow_ups)
    return DeliveryChange(delivery=changed, job=job, entries=entries)


def _attempt(
    outcome: Sent | NotFoundYet | Undecided | OutsideError, started_at: datetime, duration_ms: int
) -> Attempt:
    status_code, answer = None, ""
    if isinstance(outcome, Sent):
        found = outcome.found
        word = "found" if found else "delivered"
        message = "An earlier attempt had arrived." if found else "Delivered."
        status_code, answer = outcome.status_code, outcome.answer
    elif isinstance(outcome, OutsideError):
        word = "unknown" if outcome.maybe_done else "failed"
        message, status_code, answer = str(outcome), outcome.status_code, outcome.answer
    else:
        word = "looked" if isinstance(outcome, NotFoundYet) else "unconfirmed"
        message = outcome.message
    return Attempt(
        started_at=started_at,
        duration_ms=duration_ms,
        status_code=status_code,
        outcome=word,
        message=message,
        answer=answer,
    )


def _delivered(delivery: Delivery, sent: Sent, now: datetime) -> Delivery:
    follow_up_at = now + timedelta(seconds=FOLLOW_UP_WAITS_S[0]) if sent.follow_up else None
    return replace(
        delivery,
        state=DeliveryState.DELIVERED,
        doubt=Doubt.NONE,
        next_attempt_at=None,
        delivered_at=now,
        receipt=sent.receipt,
        follow_up_at=follow_up_at,
    )


def _failed_attempt(
    delivery: Delivery,
    error: OutsideError,
    waits_s: Sequence[float],
    now: datetime,
    jitter: float,
) -> Delivery:
    doubt = _doubt(delivery) if error.maybe_done else delivery.doubt
    final = error.fault in (Fault.REFUSED, Fault.CREDENTIALS, Fault.NOT_FOUND)
    due = next_attempt(waits_s, delivery.tries, error.retry_after_s, now, jitter)
    if due is not None and not final:
        return replace(delivery, state=DeliveryState.PENDING, doubt=doubt, next_attempt_at=due)
    state = DeliveryState.FAILED if doubt is Doubt.NONE else DeliveryState.UNCONFIRMED
    return replace(delivery, state=state, doubt=doubt, next_attempt_at=None)


def _doubt(delivery: Delivery) -> Doubt:
    """After an attempt of unknown outcome: who can't look sends again, under the same id."""
    return Doubt.LOOK if delivery.action in SEARCHABLE else Doubt.NONE


def _delivery_entry(
    delivery: Delivery, attempt: Attempt, duration_ms: int, opened: tuple[SecretOpened, ...]
) -> Entry:
    state = delivery.state
    status = "triggered" if state is DeliveryState.DELIVERED else f"delivery_{state}"
    message = f"{delivery.action}: {attempt.message}"
    if delivery.receipt and state is DeliveryState.DELIVERED:
        message += f" {delivery.receipt.url or delivery.receipt.id}"
    ended = message if message.endswith((".", "!", "?")) else f"{message}."
    if delivery.next_attempt_at:
        message = f"{ended} Tried again at {delivery.next_attempt_at:%Y-%m-%d %H:%M:%S} UTC."
    elif state in USED_UP:
        message = f"{ended} Mend the cause, then redeliver."
    return Entry(status=status, message=message, duration_ms=duration_ms, opened=opened)


def _follow_up_failure(error: OutsideError, final: bool) -> tuple[Entry, ...]:
    if not final:
        return ()
    message = f"The started job can't be followed any more: {error}"
    return (Entry(status="warning", message=message),)


def _follow_up_news(before: Receipt | None, news: Receipt) -> tuple[Entry, ...]:
    if before is not None and before.status == news.status:
        return ()
    message = f"Started job {news.id} is {news.status}."
    if news.message:
        message += f" {news.message}"
    return (Entry(status="follow_up_failed" if news.failed else "follow_up", message=message),)
