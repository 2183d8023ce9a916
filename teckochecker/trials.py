"""Trials of what a job would do: its webhook called with a test event.

Nothing of the job changes; a line of its log says so, and which secrets were opened.
"""

from __future__ import annotations

import uuid
from datetime import timedelta
from functools import partial
from typing import Final

from teckochecker import lifecycle, outbox
from teckochecker.actions import DeliveryContext
from teckochecker.app import App
from teckochecker.domain import Doubt, Entry, Event, Job, JobId, Sent, Verdict
from teckochecker.errors import InvalidInput, OutsideError, WebhookError
from teckochecker.lanes import Lane, checkpoint
from teckochecker.reports import masked_outcome
from teckochecker.steps import audit, of_roles, opened_secrets, outside, pool_key
from teckochecker.store import CheckWork

_MS: Final = timedelta(milliseconds=1)


async def webhook(app: App, job_id: JobId) -> dict[str, object]:
    """What the receiver answered to a test event; WebhookError when it refused or is away."""
    work = await app.lanes.run(Lane.READ, partial(app.store.jobs.work, job_id))
    part = next((one for one in work.job.actions if one.kind == "webhook"), None)
    if part is None:
        raise InvalidInput("The job has no webhook: give it a webhook_url first.")
    action = app.actions[part.kind]
    event = _event(app, work)
    roles = action.roles(part.doc)
    sealed = of_roles(work.secrets, roles)

    def send() -> object:
        now = app.now()
        context = DeliveryContext(
            now=now,
            secrets=opened_secrets(app, sealed, now),
            pool_key=pool_key(sealed),
            doubt=Doubt.NONE,
            body=outbox.trial_body(event),
            first_sent_at=now,
            checkpoint=checkpoint,
        )
        return action.deliver(part.doc, event, context)

    begun = app.now()
    timeout_s = action.timeout_s(part.doc)
    outcome = masked_outcome(app, await outside(app, Lane.DELIVERY, send, timeout_s, part.origin))
    entry = Entry(status="tested", message=_told(outcome), opened=audit(sealed, roles))
    log = partial(_logged, app, job_id, entry)
    await app.lanes.run(Lane.STORE, log)
    if isinstance(outcome, OutsideError):
        raise WebhookError(str(outcome), outcome.fault, status_code=outcome.status_code)
    assert isinstance(outcome, Sent)  # a webhook looks for nothing
    return {
        "message": _told(outcome),
        "job_id": job_id,
        "event_id": event.id,
        "status_code": outcome.status_code,
        "answer": outcome.answer,
        "duration_ms": (app.now() - begun) // _MS,
    }


def _told(outcome: object) -> str:
    return str(outcome) if isinstance(outcome, OutsideError) else "The webhook took the test event."


def _logged(app: App, job_id: JobId, entry: Entry) -> None:
    def decide(job: Job, _held: object) -> lifecycle.Change:
        return lifecycle.Change(job=job, entries=(entry,))

    app.store.jobs.step(job_id, decide, app.now())


def _event(app: App, work: CheckWork) -> Event:
    job = work.job
    return Event(
        id=f"evt_test_{uuid.uuid4().hex}",
        job_id=job.id,
        job_name=job.name,
        job_kind=job.kind,
        verdict=Verdict.SUCCESS,
        message="Test event: nothing has ended.",
        data=job.last_data or {},
        occurred_at=app.now(),
        execution_time_ms=0,
    )
