"""Between HTTP and the domain: strict JSON in, the API's documents out.

A body is decoded by the standard library's parser, the only one at hand that shows duplicate
keys; it is refused unless it is plain: an object, at most 32 levels deep, with numbers that
every JSON reader agrees on and text that can be stored and printed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from quart import Response, request

from teckochecker import lifecycle
from teckochecker.app import App
from teckochecker.domain import (
    Document,
    Job,
    JobId,
    Kind,
    LogRow,
    Page,
    Receipt,
)
from teckochecker.errors import FieldError, InvalidInput, JobNotFound, TeckoError
from teckochecker.store import DeliveryView, JobView, job_view
from teckochecker.validation import MAX_UNKNOWN

MAX_DEPTH: Final = 32
MAX_NUMBER: Final = 2**53  # beyond it, readers of JSON disagree
DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000
_REMEMBERED: Final = 1000  # documents of jobs,
_REMEMBERED_BYTES: Final = 4096  # but none longer than this: 8 MB in all with what they are of
_ID: Final = re.compile(r"[0-9]{1,19}")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_NO_WEBHOOK: Final = {  # a custom check shows these fields without one, too
    "webhook_url": None,
    "webhook_method": "POST",
    "webhook_headers": None,
    "webhook_query_params": None,
}
_encoder = msgspec.json.Encoder()


class NotJson(TeckoError):
    """A body of another media type."""

    code = 1100


async def document() -> Document:
    """The request's body as a JSON object."""
    media = (request.content_type or "").split(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        raise NotJson("The body must be JSON: send it with `Content-Type: application/json`.")
    return decode(await body())


async def optional_document() -> Document:
    """As `document`, for requests whose body may be left out."""
    return await document() if await body() else {}


async def body() -> bytes:
    """The request's body as it came."""
    found = await request.get_data()
    return found if isinstance(found, bytes) else found.encode()


def decode(body: bytes) -> Document:
    """A plain JSON object, or InvalidInput that says what is wrong with it."""
    try:
        found = json.loads(
            body.decode(),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_integer,
        )
    except RecursionError:
        raise InvalidInput(f"The body is nested deeper than {MAX_DEPTH} levels.") from None
    except UnicodeDecodeError:
        raise InvalidInput("The body isn't UTF-8.") from None
    except ValueError as error:
        raise InvalidInput(f"The body isn't valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidInput('The body must be a JSON object, like {"name": "value"}.')
    _refuse_odd(found, MAX_DEPTH)
    return found


def encode(document: object, status: int = 200) -> Response:
    return Response(_encoder.encode(document), status, content_type="application/json")


def wanted(text: str) -> int | str:
    """What a path names: an id when it is a number, else a name."""
    if _ID.fullmatch(text):
        return int(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        return ""  # no name can be blank, so this one isn't found
    return text


def query(*names: str) -> dict[str, str]:
    """The query's parameters; unknown and repeated ones are refused by name."""
    faults = []
    for name in request.args:
        if name not in names:
            known = ", ".join(names) or "none"
            faults.append(FieldError(name[:100], f"isn't a parameter here; known are {known}"))
        elif len(request.args.getlist(name)) > 1:
            faults.append(FieldError(name, "must not be given twice"))
    if faults:
        raise InvalidInput(f"{faults[0].field} {faults[0].message}", tuple(faults[:MAX_UNKNOWN]))
    return {name: request.args[name] for name in request.args}


def page(given: Mapping[str, str]) -> Page:
    return Page(
        limit=bounded(given, "limit", 1, MAX_LIMIT, DEFAULT_LIMIT),
        offset=bounded(given, "offset", 0, 2**53, 0),
    )


def paged(name: str, rows: Sequence[object], total: int, page: Page) -> dict[str, object]:
    return {name: rows, "total": total, "limit": page.limit, "offset": page.offset}


def job_documents(app: App) -> Callable[[str], msgspec.Raw]:
    """From a stored view's text to the job's document, encoded.

    Most jobs of a list are as they were at the last one: theirs aren't made anew. A document
    follows from the text alone, but for whether the job is being checked.
    """
    idle: dict[str, tuple[JobId, msgspec.Raw]] = {}

    def made(text: str) -> msgspec.Raw:
        view = job_view(text)
        checking = app.pulse.checking(view.job.id)
        document = _encoder.encode(_job_document(app, view, checking))
        if not checking and len(document) <= _REMEMBERED_BYTES:
            if len(idle) >= _REMEMBERED:
                idle.clear()
            idle[text] = (view.job.id, msgspec.Raw(document))
        return msgspec.Raw(document)

    def shown(text: str) -> msgspec.Raw:
        known = idle.get(text)
        return made(text) if known is None or app.pulse.checking(known[0]) else known[1]

    return shown


def job_document(app: App, view: JobView) -> dict[str, object]:
    """A job as the API shows it: its fields as they were given, and how it stands."""
    return _job_document(app, view, app.pulse.checking(view.job.id))


def _job_document(app: App, view: JobView, checking: bool) -> dict[str, object]:
    job = view.job
    source = app.sources[job.source.kind]
    document: dict[str, object] = {
        "id": job.id,
        "kind": job.kind,
        "name": job.name,
        "status": job.status,
        "phase": lifecycle.phase(job, checking=checking),
        "status_reason": job.status_reason,
        "poll_interval_seconds": job.interval_s,
        "trigger_on": job.trigger_on,
        **source.show(job.source.doc),
        **source.progress(job.source.doc, job.last_data, job.source_state),
        **({} if job.kind is Kind.POLLING else _NO_WEBHOOK),
    }
    if job.kind is Kind.CUSTOM_CHECK:
        document["max_consecutive_errors"] = job.max_errors
    for part in job.actions:
        document |= app.actions[part.kind].show(part.doc)
    for role, (secret_id, name) in _named(view):
        document |= {f"{role}_id": secret_id, f"{role}_name": name}
    document |= {
        "last_check_status": job.last_verdict,
        "last_check_data": job.last_data,
        "last_check_at": job.last_check_at,
        "next_check_at": job.next_check_at if job.next_check_at and _polls(job) else None,
        "created_at": job.created_at,
        "completed_at": job.completed_at,
        "keboola_job": view.receipt and _started(view.receipt),
    }
    return document


def stored_fields(view: JobView, app: App) -> Document:
    """A stored job in the fields that it was made of, for a change of some of them."""
    job = view.job
    fields: dict[str, object] = {
        "name": job.name,
        "poll_interval_seconds": job.interval_s,
        "trigger_on": job.trigger_on,
        **job.source.doc,
    }
    if job.kind is Kind.CUSTOM_CHECK:
        fields["max_consecutive_errors"] = job.max_errors
    for part in job.actions:
        fields |= part.doc
    return fields | {role: secret_id for role, (secret_id, _) in _named(view)}


def _named(view: JobView) -> list[tuple[str, tuple[int, str]]]:
    """The secrets that have a field of their own; others are mentioned within texts."""
    return [(role, secret) for role, secret in view.secrets.items() if ":" not in role]


def of_kind(view: JobView, kind: Kind) -> JobView:
    """`view`, unless the job is of the other kind: that one has a path of its own."""
    if view.job.kind is not kind:
        custom = view.job.kind is Kind.CUSTOM_CHECK
        what = "custom check" if custom else "polling job"
        path, command = ("custom-checks", "custom-check") if custom else ("jobs", "job")
        raise JobNotFound(
            f"Job {view.job.id} is a {what}: it is at /api/{path}/{view.job.id}, and told by "
            f"`teckochecker {command} show {view.job.id}`."
        )
    return view


def log_document(row: LogRow) -> dict[str, object]:
    run = row.execution
    return {
        "id": row.id,
        "job_id": row.job_id,
        "status": row.status,
        "message": row.message,
        "created_at": row.created_at,
        "execution_time_ms": row.execution_time_ms,
        "detail": row.detail,
        "secrets_opened": row.secrets_opened,
        "exit_code": run.exit_code,
        "peak_memory_bytes": run.peak_memory_bytes,
        "stdout": run.stdout,
        "stderr": run.stderr,
        "script_output": run.output,
    }


def delivery_document(view: DeliveryView) -> dict[str, object]:
    delivery = view.delivery
    return {
        "id": delivery.id,
        "job_id": delivery.job_id,
        "event_id": delivery.event.id,
        "event": delivery.event,
        "action": delivery.action,
        "state": delivery.state,
        "attempts": view.attempts,
        "next_attempt_at": delivery.next_attempt_at,
        "created_at": delivery.created_at,
        "delivered_at": delivery.delivered_at,
        "receipt": delivery.receipt,
    }


def _polls(job: Job) -> bool:
    return job.status == "active" and not job.delivering


def _started(receipt: Receipt) -> dict[str, object]:
    return {
        "id": receipt.id,
        "url": receipt.url,
        "status": receipt.status,
        "failed": receipt.failed,
        "message": receipt.message,
    }


def bounded(given: Mapping[str, str], name: str, low: int, high: int, default: int) -> int:
    """A whole number of the query, or `default` where it isn't given."""
    text = given.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,16}", text) or not low <= int(text) <= high:
        message = f"must be a whole number from {low} to {high}"
        raise InvalidInput(f"{name} {message}", (FieldError(name, message),))
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:100]!r} stands in it twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} isn't a JSON number")


def _integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_NUMBER:
        raise ValueError(f"the number {text[:20]} is beyond 2^53, where readers disagree")
    return int(text)


def _refuse_odd(value: object, depth: int) -> None:
    if depth < 0:
        raise InvalidInput(f"The body is nested deeper than {MAX_DEPTH} levels.")
    if isinstance(value, str):
        _refuse_odd_text(value)
    elif isinstance(value, float) and not abs(value) <= 1e300:
        raise InvalidInput("The body holds a number that is too large.")
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_odd_text(key)
            _refuse_odd(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _refuse_odd(item, depth - 1)


def _refuse_odd_text(text: str) -> None:
    if _CONTROL.search(text):
        raise InvalidInput("The body holds a text with control characters: leave them out.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput("The body holds half a surrogate pair: send whole characters.") from None
