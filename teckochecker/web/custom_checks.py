"""`/api/custom-checks`: jobs whose source is a user's own script."""

from __future__ import annotations

from datetime import datetime
from functools import partial

from quart import Blueprint, Response, request
from quart_schema import document_request, document_response, tag

from teckochecker import lifecycle
from teckochecker.app import App
from teckochecker.domain import Document, Job, JobDraft, Kind, TriggerOn, replace
from teckochecker.errors import FieldError, InvalidInput
from teckochecker.lanes import Lane
from teckochecker.lifecycle import Change
from teckochecker.scripts.shelf import Script as Archive
from teckochecker.sources.script import stored
from teckochecker.sources.script_fields import SourceType, inline_text
from teckochecker.store import JobView
from teckochecker.validation import Fields, job_draft
from teckochecker.web import job_schemas, schemas, uploads, wire
from teckochecker.web.job_routes import (
    Documents,
    Listed,
    add_common,
    edited,
    existing,
    wanted_actions,
)

_DOCUMENTS = Documents(
    one=job_schemas.CustomCheckDocument,
    detail=job_schemas.CustomCheckDetail,
    verb=job_schemas.CustomCheckVerb,
    many=job_schemas.JobList,
    query=schemas.CustomCheckQuery,
)
_GIT_FIELDS = {
    "git_url": "script_git_url",
    "branch": "script_git_branch",
    "subfolder": "script_git_subfolder",
    "secret": "script_git_secret",
}


def custom_checks(app: App, listed: Listed) -> Blueprint:
    made = Blueprint("custom_checks", __name__, url_prefix="/api/custom-checks")
    routes = tag(["Custom checks"])(made)  # type: ignore[type-var]  # it takes blueprints too
    add_common(app, routes, Kind.CUSTOM_CHECK, _DOCUMENTS, listed)

    @routes.post("")
    @document_request(job_schemas.NewCustomCheck)
    @document_response(job_schemas.CustomCheckDocument, 201)
    async def add() -> Response:
        """Create a custom check; it runs at once, or waits for its script."""
        now, packed = app.now(), None
        if uploads.is_form():
            given, packed = await uploads.form(app, "config", "script")
        else:
            given = await wire.document()
        fields = Fields(given)
        if packed is not None:
            _refuse_archive(fields)
        draft = check_draft(app, fields)
        archive = await _archive(app, draft, inline_text(Fields(given)), packed)
        state = None if archive is None else stored(archive, now)
        due = lifecycle.first_check(draft, state, now)
        write = partial(app.store.jobs.add, draft, due, now, state)
        view = await app.lanes.run(Lane.STORE, write)
        app.wake.poke()
        return wire.encode(wire.job_document(app, view), 201)

    @routes.put("/<job>")
    @document_request(job_schemas.CustomCheckChange)
    @document_response(job_schemas.CustomCheckDocument)
    async def change(job: str) -> Response:
        """Change any of a custom check's fields; what isn't sent stays."""
        return wire.encode(wire.job_document(app, await changed(job, await wire.document())))

    async def changed(job: str, given: Document) -> JobView:
        now = app.now()
        read = partial(app.store.jobs.view, await existing(app, job, Kind.CUSTOM_CHECK))
        before = await app.lanes.run(Lane.READ, read)
        draft = check_draft(app, Fields(given, wire.stored_fields(before, app)))
        archive = await _archive(app, draft, inline_text(Fields(given)), None)
        state = None if archive is None else stored(archive, now)

        def decide(found: Job, new: JobDraft) -> Change:
            return _with_script(edited(app, found, new, given, now), state, now)

        write = partial(
            app.store.jobs.edit,
            before.job.id,
            lambda view: check_draft(app, Fields(given, wire.stored_fields(view, app))),
            decide,
            now,
        )
        view = await app.lanes.run(Lane.STORE, write)
        app.wake.poke()
        return view

    @routes.post("/<job>/script/upload")
    @document_request(schemas.Upload)
    @document_response(schemas.Uploaded)
    async def upload(job: str) -> Response:
        """Store a new script; the job is checked with it at once."""
        now = app.now()
        view = await _of_source(app, job, SourceType.UPLOAD)
        if not uploads.is_form():
            raise wire.NotJson("Send the archive as a form: `-F 'file=@script.tgz'`.")
        _, packed = await uploads.form(app, None, "file")
        if packed is None:
            message = "is required: send it like `-F 'file=@script.tgz'`"
            raise InvalidInput(f"file {message}", (FieldError("file", message),))
        entrypoint = view.job.source.doc["script_entrypoint"]
        archive = await uploads.stored_archive(app, packed, entrypoint, "file")
        message = f"Script {archive.sha256[:12]} uploaded, {archive.files} files."

        def decide(found: Job, held: datetime | None) -> Change:
            return lifecycle.script_given(found, stored(archive, now), held, now, message)

        write = partial(app.store.jobs.change, view.job.id, decide, now)
        await app.lanes.run(Lane.STORE, write)
        app.wake.poke()
        return wire.encode(
            {
                "message": "Script uploaded successfully",
                "path": f"scripts/{archive.sha256}.tar",
                "sha256": archive.sha256,
                "size_bytes": archive.size_bytes,
            }
        )

    @routes.post("/<job>/script/git")
    @document_request(schemas.GitSource)
    @document_response(schemas.GitConfigured)
    async def git(job: str) -> Response:
        """Name another repository, branch or folder; as JSON or in the query."""
        view = await _of_source(app, job, SourceType.GIT)
        given = wire.query(*_GIT_FIELDS) if request.args else await wire.document()
        given = {"branch": None, "subfolder": None, **given}
        unknown = [name for name in given if name not in _GIT_FIELDS]
        if unknown:
            message = f"isn't a field here; known are {', '.join(_GIT_FIELDS)}"
            raise InvalidInput(f"{unknown[0]} {message}", (FieldError(unknown[0], message),))
        if "git_url" not in given:
            raise InvalidInput("git_url is required", (FieldError("git_url", "is required"),))
        after = await changed(str(view.job.id), {_GIT_FIELDS[name]: given[name] for name in given})
        doc = after.job.source.doc
        return wire.encode(
            {
                "message": "Git source configured",
                "url": doc["script_git_url"],
                "branch": doc["script_git_branch"],
                "subfolder": doc["script_git_subfolder"],
            }
        )

    @routes.get("/<job>/script/info")
    @document_response(schemas.ScriptInfo)
    async def info(job: str) -> Response:
        """Where the script comes from, and what is stored of it."""
        job_id = await existing(app, job, Kind.CUSTOM_CHECK)
        view = await app.lanes.run(Lane.READ, partial(app.store.jobs.view, job_id))
        doc, state = view.job.source.doc, view.job.source_state
        metadata = None
        if state is not None:
            metadata = await app.lanes.run(Lane.CARE, partial(uploads.described, app, state))
        return wire.encode(
            {
                "job_id": job_id,
                "source_type": doc["script_source_type"],
                "git_url": doc["script_git_url"],
                "git_branch": doc["script_git_branch"],
                "git_subfolder": doc["script_git_subfolder"],
                "entrypoint": doc["script_entrypoint"],
                "file_path": None if state is None else f"scripts/{state['sha256']}.tar",
                "metadata": metadata,
            }
        )

    return routes


def check_draft(app: App, fields: Fields) -> JobDraft:
    return job_draft(
        fields,
        Kind.CUSTOM_CHECK,
        app.custom_rules,
        app.sources["script"].parse,
        wanted_actions(app, fields),
        trigger_on=TriggerOn.TERMINAL,
    )


def _refuse_archive(fields: Fields) -> None:
    """An archive beside the fields that say that the script comes otherwise."""
    if fields.sent("script"):
        fields.fault("script", "stands in the config and in the form: send one of them")
    if fields.sent("script_git_url"):
        fields.fault("script", "is not needed: the script comes from script_git_url")


async def _archive(
    app: App, draft: JobDraft, text: str | None, packed: bytes | None
) -> Archive | None:
    """The script that came along, stored; None where none did."""
    entrypoint = draft.source.doc["script_entrypoint"]
    if packed is not None:
        return await uploads.stored_archive(app, packed, entrypoint, "script")
    return None if text is None else await uploads.stored_text(app, text, entrypoint)


def _with_script(change: Change, state: Document | None, now: datetime) -> Change:
    if state is None:
        return change
    message = f"Script {state['sha256'][:12]} given as text."
    given = lifecycle.script_given(change.job, state, None, now, message)
    return replace(change, job=given.job, entries=(*change.entries, *given.entries))


async def _of_source(app: App, job: str, wanted: SourceType) -> JobView:
    job_id = await existing(app, job, Kind.CUSTOM_CHECK)
    view = await app.lanes.run(Lane.READ, partial(app.store.jobs.view, job_id))
    if view.job.source.doc["script_source_type"] != wanted:
        raise InvalidInput(
            f"Job {view.job.name!r} doesn't take its script by {wanted}: change its "
            f"script_source_type to {wanted} first."
        )
    return view
