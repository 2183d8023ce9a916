"""What both views of jobs have in common: reading, verbs, logs and deliveries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from quart import Blueprint, Response
from quart_schema import document_querystring, document_response

from teckochecker import lifecycle, trials
from teckochecker.app import App
from teckochecker.domain import (
    MAX_NAME_CHARS,
    Document,
    Job,
    JobDraft,
    JobId,
    Kind,
    Page,
    Status,
)
from teckochecker.errors import FieldError, InvalidInput
from teckochecker.lanes import Lane
from teckochecker.store import JobFilter, JobView
from teckochecker.validation import Fields, Parsed
from teckochecker.web import schemas, wire

DETAIL_LOGS = 20
Change = lifecycle.Change
Listed = Callable[[str], msgspec.Raw]


@dataclass(frozen=True, slots=True)
class Documents:
    """The types of one view's documents, for the description."""

    one: type
    detail: type
    verb: type
    many: type
    query: type


def add_common(
    app: App, routes: Blueprint, kind: Kind, documents: Documents, listed: Listed
) -> None:
    """The routes that need nothing but the kind of job; `listed` makes what lists show."""

    async def verb(job: str, decide: Any, message: str) -> Response:
        now = app.now()
        wanted = await existing(app, job, kind)
        write = partial(
            app.store.jobs.change, wanted, lambda found, held: decide(found, held, now), now
        )
        view = await app.lanes.run(Lane.STORE, write)
        app.wake.poke()
        document = wire.job_document(app, view)
        return wire.encode(document | {"message": message, "job_id": view.job.id})

    @routes.get("")
    @document_querystring(documents.query)
    @document_response(documents.many)
    async def page() -> Response:
        """List jobs, newest first; `q` looks into names and batch ids."""
        given = wire.query("status", "q", "kind", "limit", "offset")
        wanted, which = wire.page(given), job_filter(given, kind)

        def read() -> Response:  # written out here too, so that the loop isn't kept by long lists
            found, total = app.store.jobs.page(which, wanted)
            return wire.encode(wire.paged("jobs", list(map(listed, found)), total, wanted))

        return await app.lanes.run(Lane.READ, read)

    @routes.get("/<job>")
    @document_response(documents.detail)
    async def one(job: str) -> Response:
        """One job, by id or name, with its newest log entries."""
        wanted = wire.wanted(job)

        def read() -> tuple[JobView, list[dict[str, object]]]:
            view = wire.of_kind(app.store.jobs.view(wanted), kind)
            rows, _ = app.store.jobs.logs(view.job.id, Page(limit=DETAIL_LOGS, offset=0))
            return view, [wire.log_document(row) for row in rows]

        view, logs = await app.lanes.run(Lane.READ, read)
        return wire.encode(wire.job_document(app, view) | {"logs": logs})

    @routes.delete("/<job>")
    async def delete(job: str) -> Response:
        """Delete a job, its log and its deliveries."""
        wanted = await existing(app, job, kind)
        gone = await app.lanes.run(Lane.STORE, partial(app.store.jobs.delete, wanted))
        app.pulse.end_check(gone)
        return Response(b"", 204)

    @routes.post("/<job>/pause")
    @document_response(documents.verb)
    async def pause(job: str) -> Response:
        """Stop checking and delivering until resumed."""
        return await verb(job, lambda found, _held, now: lifecycle.paused(found, now), "Job paused")

    @routes.post("/<job>/resume")
    @document_response(documents.verb)
    async def resume(job: str) -> Response:
        """Go on: checked at once, or the delivery goes on."""
        return await verb(job, lifecycle.resumed, "Job resumed")

    @routes.post("/<job>/trigger")
    @document_response(documents.verb)
    async def trigger(job: str) -> Response:
        """Check now, or try the waiting delivery now."""
        return await verb(job, lifecycle.triggered, "Job triggered")

    @routes.get("/<job>/logs")
    @document_querystring(schemas.LogQuery)
    @document_response(schemas.LogList)
    async def logs(job: str) -> Response:
        """A job's log, newest first; only entries with an id above `after`."""
        given = wire.query("limit", "offset", "after")
        wanted, after = wire.page(given), wire.bounded(given, "after", 0, 2**53, 0)
        job_id = await existing(app, job, kind)
        read = partial(app.store.jobs.logs, job_id, wanted, after)
        rows, total = await app.lanes.run(Lane.READ, read)
        shown = [wire.log_document(row) for row in rows]
        return wire.encode(wire.paged("logs", shown, total, wanted))

    @routes.get("/<job>/deliveries")
    @document_querystring(schemas.Paging)
    @document_response(schemas.DeliveryList)
    async def deliveries(job: str) -> Response:
        """A job's deliveries, newest first, each with every attempt."""
        wanted = wire.page(wire.query("limit", "offset"))
        job_id = await existing(app, job, kind)
        read = partial(app.store.deliveries.page, job_id, wanted)
        found, total = await app.lanes.run(Lane.READ, read)
        shown = [wire.delivery_document(view) for view in found]
        return wire.encode(wire.paged("deliveries", shown, total, wanted))

    @routes.post("/<job>/webhook/test")
    @document_response(schemas.WebhookTrial)
    async def webhook_test(job: str) -> Response:
        """Send the job's webhook a test event, marked as one; nothing else happens."""
        job_id = await existing(app, job, kind)
        return wire.encode(await trials.webhook(app, JobId(job_id)))


async def existing(app: App, job: str, kind: Kind) -> int:
    """The id of a job of this kind; JobNotFound says where one of the other kind is."""
    view = await app.lanes.run(Lane.READ, partial(app.store.jobs.view, wire.wanted(job)))
    return wire.of_kind(view, kind).job.id


def wanted_actions(app: App, fields: Fields) -> list[Callable[[Fields], Parsed]]:
    """The readers of those actions that a document has fields of."""
    return [one.parse for one in app.actions.values() if fields.wants(one.fields, one.main_field)]


def edited(app: App, job: Job, draft: JobDraft, given: Document, now: Any) -> Change:
    action_fields = frozenset[str]().union(*(action.fields for action in app.actions.values()))
    return lifecycle.edited(job, draft, frozenset(given), action_fields, now)


def job_filter(given: dict[str, str], kind: Kind) -> JobFilter:
    status, which = given.get("status"), given.get("kind", kind)
    if status is not None and status not in {one.value for one in Status}:
        message = f"must be one of {', '.join(Status)}"
        raise InvalidInput(f"status {message}", (FieldError("status", message),))
    if which not in ("all", kind):
        message = f"must be {kind} or all"
        raise InvalidInput(f"kind {message}", (FieldError("kind", message),))
    text = given.get("q") or None
    if text is not None and (len(text) > MAX_NAME_CHARS or not text.isprintable()):
        message = f"must have at most {MAX_NAME_CHARS} characters, none that can't be printed"
        raise InvalidInput(f"q {message}", (FieldError("q", message),))
    return JobFilter(
        kind=None if which == "all" else kind,
        status=Status(status) if status else None,
        text=text,
    )
