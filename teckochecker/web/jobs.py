"""`/api/jobs`: polling jobs."""

from __future__ import annotations

from functools import partial

from quart import Blueprint, Response
from quart_schema import document_request, document_response, tag

from teckochecker.app import App
from teckochecker.domain import JobDraft, Kind, TriggerOn
from teckochecker.lanes import Lane
from teckochecker.validation import Fields, job_draft
from teckochecker.web import job_schemas, schemas, wire
from teckochecker.web.job_routes import (
    Documents,
    Listed,
    add_common,
    edited,
    existing,
    wanted_actions,
)

_DOCUMENTS = Documents(
    one=job_schemas.JobDocument,
    detail=job_schemas.JobDetail,
    verb=job_schemas.JobVerb,
    many=job_schemas.JobList,
    query=schemas.JobQuery,
)


def jobs(app: App, listed: Listed) -> Blueprint:
    routes = tag(["Jobs"])(Blueprint("jobs", __name__, url_prefix="/api/jobs"))  # type: ignore[type-var]  # quart-schema takes blueprints too
    add_common(app, routes, Kind.POLLING, _DOCUMENTS, listed)

    @routes.post("")
    @document_request(job_schemas.NewJob)
    @document_response(job_schemas.JobDocument, 201)
    async def add() -> Response:
        """Create a polling job; its first check runs at once."""
        now = app.now()
        draft = polling_draft(app, Fields(await wire.document()))
        view = await app.lanes.run(Lane.STORE, partial(app.store.jobs.add, draft, now, now))
        app.wake.poke()
        return wire.encode(wire.job_document(app, view), 201)

    @routes.put("/<job>")
    @document_request(job_schemas.JobChange)
    @document_response(job_schemas.JobDocument)
    async def change(job: str) -> Response:
        """Change any of a job's fields; what isn't sent stays."""
        given, now = await wire.document(), app.now()
        wanted = await existing(app, job, Kind.POLLING)
        write = partial(
            app.store.jobs.edit,
            wanted,
            lambda view: polling_draft(app, Fields(given, wire.stored_fields(view, app))),
            lambda found, draft: edited(app, found, draft, given, now),
            now,
        )
        view = await app.lanes.run(Lane.STORE, write)
        app.wake.poke()
        return wire.encode(wire.job_document(app, view))

    return routes


def polling_draft(app: App, fields: Fields) -> JobDraft:
    actions = wanted_actions(app, fields)
    if not actions:
        message = "is required, or a webhook_url: a job must trigger something"
        fields.fault("keboola_stack_url", message)
    return job_draft(
        fields,
        Kind.POLLING,
        app.rules,
        app.sources["openai"].parse,
        actions,
        trigger_on=TriggerOn.SUCCESS,
    )
