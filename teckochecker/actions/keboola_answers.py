"""What Keboola's Job Queue and Storage APIs answer, read as hostile input; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from teckochecker.domain import Receipt
from teckochecker.errors import Fault, HttpError, KeboolaError
from teckochecker.http import Reply, retry_after_s

EVENT_ID: Final = "teckochecker_event_id"  # the variable by which a started job is found again
_WEB: Final = re.compile("https?://", re.IGNORECASE)  # the page makes a link of it
_FAILED_STATES: Final = frozenset({"error", "terminated", "cancelled"})


def document(reply: Reply) -> dict[str, Any]:
    try:
        return reply.document()
    except HttpError as error:
        raise KeboolaError(str(error), error.fault) from error


def receipt(job: Mapping[str, Any]) -> Receipt:
    """Our receipt from a job of the queue; `isFinished` is the flag to trust."""
    job_id = job.get("id")
    if not isinstance(job_id, str | int) or not str(job_id) or len(str(job_id)) > 100:
        raise KeboolaError("the job has no id", Fault.MALFORMED)
    status, url, result = job.get("status"), job.get("url"), job.get("result")
    message = result.get("message") if isinstance(result, dict) else None
    return Receipt(
        id=str(job_id),
        url=url[:500] if isinstance(url, str) and _WEB.match(url) else None,
        status=status[:50] if isinstance(status, str) else None,
        finished=job.get("isFinished") is True,
        failed=status in _FAILED_STATES,
        message=message[:500] if isinstance(message, str) else None,
    )


def jobs(reply: Reply) -> list[dict[str, Any]]:
    try:
        found = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KeboolaError("Keboola's search answered without JSON.", Fault.MALFORMED) from error
    if not isinstance(found, list):
        raise KeboolaError("Keboola's search answered without a list.", Fault.MALFORMED)
    return [job for job in found if isinstance(job, dict)]


def event_id(job: Mapping[str, Any]) -> str | None:
    data = job.get("variableValuesData")
    values = data.get("values") if isinstance(data, dict) else None
    for one in values if isinstance(values, list) else ():
        if isinstance(one, dict) and one.get("name") == EVENT_ID:
            return str(one.get("value"))
    return None


def error_of(reply: Reply, now: datetime, *, started: bool = False) -> KeboolaError:
    """An answer that isn't a success; `exceptionId` is what Keboola's support asks for.

    After a request that starts something (`started`), a gateway's 502 or 504 leaves open
    whether it was carried out.
    """
    said, exception_id = _error_body(reply)
    where = f" (exceptionId {exception_id})" if exception_id else ""
    fault = _fault(reply.status_code)
    hint = "; check the secret with `secret test`" if fault is Fault.CREDENTIALS else ""
    said = said.rstrip(".") if hint else said
    return KeboolaError(
        f"Keboola answered {reply.status_code}: {said}{hint}{where}",
        fault,
        retry_after_s=retry_after_s(reply.headers.get("retry-after"), now),
        status_code=reply.status_code,
        answer=reply.text,
        maybe_done=started and reply.status_code in (502, 504),
    )


def _fault(status_code: int) -> Fault:
    if status_code in (401, 403):
        return Fault.CREDENTIALS
    if status_code == 404:
        return Fault.NOT_FOUND
    if status_code in (429, 503):
        return Fault.RATE_LIMITED
    if 400 <= status_code < 500 and status_code not in (408, 425):
        return Fault.REFUSED
    return Fault.TRANSIENT


def _error_body(reply: Reply) -> tuple[str, str | None]:
    try:
        document = reply.document()
    except HttpError:
        return reply.text[:200].strip() or "nothing", None
    said = document.get("error") or document.get("reason") or "no message"
    exception_id = document.get("exceptionId")
    return str(said)[:500], str(exception_id)[:100] if exception_id else None


def verified(token: Mapping[str, Any]) -> str:
    if token.get("isDisabled") or token.get("isExpired"):
        raise KeboolaError("The token is disabled or expired.", Fault.CREDENTIALS)
    if token.get("canCreateJobs") is False:
        raise KeboolaError("The token may not start jobs.", Fault.CREDENTIALS)
    owner = token.get("owner")
    project = owner.get("name") if isinstance(owner, dict) else None
    return f"Keboola accepts this token{f' for project {project}' if project else ''}."
