"""Puts a stored job into each state of its life, by the product's own decisions.

No scheduler runs: a check or an attempt "ends" here with the outcome that a test asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from teckochecker import lifecycle, outbox
from teckochecker.app import App
from teckochecker.domain import (
    DeliveryId,
    Finding,
    JobId,
    NotFoundYet,
    Page,
    Receipt,
    Sent,
    Undecided,
    Verdict,
    replace,
)
from teckochecker.errors import Fault, KeboolaError, OutsideError
from teckochecker.lifecycle import Change
from teckochecker.sources.openai import batch, judged

RECEIPT = Receipt(
    id="1001", url="https://queue.example/jobs/1001", status="created", finished=False
)
SENT = Sent(receipt=RECEIPT, status_code=201, answer='{"id": "1001"}')
REFUSED = KeboolaError("Keboola answered 400: no such configuration", Fault.REFUSED)
UNDECIDED = Undecided(message="Keboola doesn't show whether one of them is ours")


def finding(app: App, job_id: int, *words: str) -> Finding:
    """What a check finds when the job's batches are in these states."""
    doc = app.store.jobs.view(job_id).job.source.doc
    known = {
        id_: batch({"id": id_, "status": word, "created_at": 1_700_000_000}, id_)
        for id_, word in zip(doc["batch_ids"], words, strict=True)
    }
    return judged(doc, known)


def check(app: App, job_id: int, found: Finding) -> Change:
    """A check of the job has just ended."""
    decide = partial(
        lifecycle.checked,
        finding=found,
        revision=app.store.jobs.view(job_id).job.revision,
        event_id=f"evt_of_job_{job_id}",
        duration_ms=7,
        opened=(),
        now=app.now(),
        jitter=0.0,
    )
    return app.store.jobs.step(
        JobId(job_id), lambda job, held: decide(job, held_until=held), app.now()
    )


def deliver(app: App, job_id: int, outcome: Sent | NotFoundYet | Undecided | OutsideError) -> int:
    """An attempt of the job's delivery has begun and ended; the delivery's id."""
    delivery_id = _delivery_id(app, job_id)
    assert app.store.deliveries.begin(delivery_id, app.now()) is not None
    decide = partial(
        outbox.attempted,
        outcome=outcome,
        started_at=app.now(),
        duration_ms=11,
        waits_s=app.waits_s,
        opened=(),
        now=app.now(),
        jitter=0.5,
    )
    app.store.deliveries.finish(
        delivery_id, lambda found, job, others: decide(found, job, others=others), app.now()
    )
    return delivery_id


def _delivery_id(app: App, job_id: int) -> DeliveryId:
    views, _ = app.store.deliveries.page(job_id, Page(limit=1, offset=0))
    return views[0].delivery.id


def _succeeded(app: App, job_id: int) -> None:
    check(app, job_id, finding(app, job_id, "completed"))


def _checking(app: App, job_id: int) -> None:
    app.pulse.jobs[JobId(job_id)] = "http://somewhere:80"


def _awaiting_script(app: App, job_id: int) -> None:
    def decide(job: Any, _held: object) -> Change:
        return Change(job=replace(job, next_check_at=None))

    app.store.jobs.step(JobId(job_id), decide, app.now())


def _paused(app: App, job_id: int) -> None:
    app.store.jobs.step(JobId(job_id), lambda job, _: lifecycle.paused(job, app.now()), app.now())


def _paused_delivering(app: App, job_id: int) -> None:
    _succeeded(app, job_id)
    _paused(app, job_id)


def _completed(app: App, job_id: int) -> None:
    _succeeded(app, job_id)
    deliver(app, job_id, SENT)


def _failed(app: App, job_id: int) -> None:
    check(app, job_id, finding(app, job_id, "expired"))


def _failed_delivery(app: App, job_id: int) -> None:
    _succeeded(app, job_id)
    deliver(app, job_id, REFUSED)


def _unconfirmed(app: App, job_id: int) -> None:
    _succeeded(app, job_id)
    deliver(app, job_id, UNDECIDED)


def _polling(_app: App, _job_id: int) -> None:
    """As it was made."""


INTO: dict[str, Callable[[App, int], None]] = {
    "polling": _polling,
    "checking": _checking,
    "awaiting_script": _awaiting_script,
    "delivering": _succeeded,
    "paused": _paused,
    "paused delivering": _paused_delivering,
    "completed": _completed,
    "failed": _failed,
    "failed delivery": _failed_delivery,
    "unconfirmed delivery": _unconfirmed,
}
"""A way into each state, for a job of one batch that was just made."""

ERROR = Finding(verdict=Verdict.ERROR, message="OpenAI answered 500", fault=Fault.TRANSIENT)
