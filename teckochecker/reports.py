"""What the steps tell: masked texts for the database, log lines and metrics for people."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, TypeVar

import structlog

from teckochecker.app import App
from teckochecker.domain import (
    MAX_ANSWER_BYTES,
    SANDBOXED,
    Finding,
    Receipt,
    Sent,
    Verdict,
    replace,
)
from teckochecker.errors import (
    OutsideError,
)
from teckochecker.masking import Mask
from teckochecker.outbox import DeliveryChange
from teckochecker.store import CheckWork

log = structlog.stdlib.get_logger(__name__)
T = TypeVar("T")
R = TypeVar("R", bound=Receipt)

_MS: Final = timedelta(milliseconds=1)


def masked_finding(app: App, outcome: Finding | OutsideError) -> Finding:
    mask = app.redaction.mask
    if isinstance(outcome, OutsideError):
        return Finding(
            verdict=Verdict.ERROR,
            message=mask.text(str(outcome)),
            fault=outcome.fault,
            retry_after_s=outcome.retry_after_s,
            detail=mask.text(outcome.answer)[:MAX_ANSWER_BYTES] or None,
        )
    run = outcome.execution
    if run is not None:
        run = replace(
            run,
            stdout=mask.text(run.stdout),
            stderr=mask.text(run.stderr),
            output=mask.document(run.output),
        )
    return replace(
        outcome,
        execution=run,
        message=mask.text(outcome.message),
        data=mask.document(outcome.data),
        detail=outcome.detail and mask.text(outcome.detail)[:MAX_ANSWER_BYTES],
        warnings=tuple(mask.text(text) for text in outcome.warnings),
    )


def masked_outcome(app: App, outcome: T | OutsideError) -> T | OutsideError:
    mask = app.redaction.mask
    if isinstance(outcome, OutsideError):
        return OutsideError(
            mask.text(str(outcome)),
            outcome.fault,
            retry_after_s=outcome.retry_after_s,
            status_code=outcome.status_code,
            answer=mask.text(outcome.answer)[:MAX_ANSWER_BYTES],
            maybe_done=outcome.maybe_done,
        )
    if isinstance(outcome, Sent):
        receipt = _masked_receipt(mask, outcome.receipt)
        answer = mask.text(outcome.answer)[:MAX_ANSWER_BYTES]
        return replace(outcome, receipt=receipt, answer=answer)
    if isinstance(outcome, Receipt):
        return _masked_receipt(mask, outcome)
    return outcome


def _masked_receipt(mask: Mask, receipt: R) -> R:
    return replace(
        receipt,
        url=mask.document(receipt.url),
        status=mask.document(receipt.status),
        message=mask.document(receipt.message),
    )


def observe_check(
    app: App, work: CheckWork, finding: Finding, started_at: datetime, now: datetime
) -> None:
    kind, verdict = work.job.source.kind, finding.verdict.value
    due = work.job.next_check_at
    if due is not None:
        lag_s = max(0.0, (started_at - due).total_seconds())
        app.pulse.lags_s.append(lag_s)
        app.metrics.dispatch_lag.observe(lag_s)
    app.metrics.checks.labels(kind, verdict).inc()
    app.metrics.check_duration.labels(kind).observe((now - started_at).total_seconds())
    about: dict[str, str] = {}
    if kind == SANDBOXED:
        _observe_script(app, work, finding, (now - started_at).total_seconds())
        about["runtime"] = work.job.source.doc["script_runtime"]
    log.info(
        "job.checked",
        job_id=work.job.id,
        verdict=verdict,
        duration_ms=(now - started_at) // _MS,
        message=finding.message,
        **about,
    )


def _observe_script(app: App, work: CheckWork, finding: Finding, seconds: float) -> None:
    runtime = work.job.source.doc["script_runtime"]
    app.metrics.executions.labels(finding.verdict.value, runtime).inc()
    app.metrics.execution_duration.labels(runtime).observe(seconds)
    if finding.fault is not None:
        app.metrics.execution_errors.labels(finding.fault.value).inc()
    run = finding.execution
    if run is not None and run.startup_ms is not None:
        app.metrics.container_startup.observe(run.startup_ms / 1000)


def observe_attempt(app: App, change: DeliveryChange) -> None:
    delivery, attempt = change.delivery, change.attempt
    assert attempt is not None
    app.metrics.attempts.labels(delivery.action, attempt.outcome).inc()
    seconds = (attempt.duration_ms or 0) / 1000
    app.metrics.delivery_duration.labels(delivery.action).observe(seconds)
    if delivery.action == "webhook":
        app.metrics.webhook_calls.labels(str(attempt.status_code or "none")).inc()
        app.metrics.webhook_duration.observe(seconds)
    log.info(
        "delivery.attempted",
        job_id=delivery.job_id,
        delivery_id=delivery.id,
        event_id=delivery.event.id,
        action=delivery.action,
        state=delivery.state.value,
        status_code=attempt.status_code,
        message=attempt.message,
    )


def observe_follow_up(app: App, change: DeliveryChange) -> None:
    delivery = change.delivery
    receipt = delivery.receipt
    if receipt is None or not receipt.finished or delivery.follow_up_at is not None:
        return
    app.metrics.started_jobs.labels(delivery.action, receipt.status or "unknown").inc()
    log.info(
        "started_job.ended",
        job_id=delivery.job_id,
        delivery_id=delivery.id,
        started_job=receipt.id,
        status=receipt.status,
    )
