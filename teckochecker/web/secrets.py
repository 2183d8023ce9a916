"""`/api/admin/secrets`: what is stored of secrets, never their values."""

from __future__ import annotations

from functools import partial
from typing import Final

import trio
from quart import Blueprint, Response
from quart_schema import document_request, document_response, tag

from teckochecker.actions import Action
from teckochecker.app import App
from teckochecker.domain import Document, JobId, Secret, SecretInfo, SecretType
from teckochecker.errors import (
    Fault,
    FieldError,
    InvalidInput,
    KeboolaError,
    OpenAIError,
    OutsideError,
)
from teckochecker.lanes import Lane
from teckochecker.secret_fields import secret_draft, secret_value
from teckochecker.sources import Source
from teckochecker.validation import Fields
from teckochecker.vault import new_uid
from teckochecker.web import schemas, wire

TEST_TIMEOUT_S: Final = 30.0
_URL_FIELDS: Final = {
    SecretType.OPENAI: "openai_base_url",
    SecretType.KEBOOLA: "keboola_stack_url",
}
_ERRORS: Final = {SecretType.OPENAI: OpenAIError, SecretType.KEBOOLA: KeboolaError}


def secrets(app: App) -> Blueprint:
    routes = tag(["Secrets"])(Blueprint("secrets", __name__, url_prefix="/api/admin/secrets"))  # type: ignore[type-var]  # quart-schema takes blueprints too
    store = app.store.secrets

    @routes.post("")
    @document_request(schemas.NewSecret)
    @document_response(SecretInfo, 201)
    async def add() -> Response:
        """Store a secret; its value is sealed and never shown again."""
        draft, uid = secret_draft(await wire.document()), new_uid()
        value = Secret(draft.value)
        app.redaction.learn([value], app.now())
        sealed = app.vault.seal(uid, draft.type, value)
        write = partial(store.add, uid, draft.name, draft.type, sealed, app.now())
        return wire.encode(await app.lanes.run(Lane.STORE, write), 201)

    @routes.get("")
    @document_response(schemas.SecretList)
    async def all_() -> Response:
        """All secrets by name, with who uses them."""
        found = await app.lanes.run(Lane.READ, store.all)
        return wire.encode({"secrets": found, "total": len(found)})

    @routes.get("/<secret>")
    @document_response(SecretInfo)
    async def one(secret: str) -> Response:
        """One secret, by id or name."""
        read = partial(store.info, wire.wanted(secret))
        return wire.encode(await app.lanes.run(Lane.READ, read))

    @routes.put("/<secret>")
    @document_request(schemas.SecretValue)
    @document_response(SecretInfo)
    async def change(secret: str) -> Response:
        """Replace the value in place; jobs use it from their next check on."""
        wanted, given = wire.wanted(secret), await wire.document()
        info = await app.lanes.run(Lane.READ, partial(store.info, wanted))
        value = Secret(secret_value(given, info.type))
        app.redaction.learn([value], app.now())
        write = partial(
            store.set_value,
            info.id,
            lambda old: app.vault.seal(old.uid, old.type, value),
            app.now(),
        )
        return wire.encode(await app.lanes.run(Lane.STORE, write))

    @routes.delete("/<secret>")
    async def delete(secret: str) -> Response:
        """Delete a secret that no open job and no undelivered delivery uses."""
        await app.lanes.run(Lane.STORE, partial(store.delete, wire.wanted(secret)))
        return Response(b"", 204)

    @routes.post("/<secret>/test")
    @document_request(schemas.SecretTrial)
    @document_response(schemas.TrialResult)
    async def test(secret: str) -> Response:
        """Try the secret with a live call, where its type has one."""
        given = await wire.optional_document()
        info = await app.lanes.run(Lane.READ, partial(store.info, wire.wanted(secret)))
        tester = _tester(app, info)
        where = await _where(app, info, tester, given)
        valid, message = await _tried(app, info, tester, where)
        return wire.encode({"valid": valid, "message": message})

    return routes


def _tester(app: App, info: SecretInfo) -> Source | Action:
    parts: list[Source | Action] = [*app.sources.values(), *app.actions.values()]
    for part in parts:
        if part.tests is info.type:
            return part
    raise InvalidInput(f"Secret {info.name!r} is {info.type}: there is nothing to try it with.")


async def _where(app: App, info: SecretInfo, tester: Source | Action, given: Document) -> Document:
    """Where to send it: as asked for, else where the newest job sends it that is made for it."""
    fields, name = Fields(given), _URL_FIELDS[info.type]
    asked = fields.sent(name)
    url = tester.trial_url(fields) if asked else None
    fields.done("test of a secret")
    if asked:
        return {name: url}
    for use in reversed(info.used_by):
        read = partial(app.store.jobs.view, JobId(use.id))
        stored = wire.stored_fields(await app.lanes.run(Lane.READ, read), app)
        if stored.get(f"{info.type}_secret") == info.id:  # a header or a script may hold it, too
            return {name: stored[name]} if stored[name] else {}
    if info.type is SecretType.KEBOOLA:
        message = "is required: no job says which stack this token belongs to"
        raise InvalidInput(f"{name} {message}", (FieldError(name, message),))
    return {}


async def _tried(
    app: App, info: SecretInfo, tester: Source | Action, where: Document
) -> tuple[bool, str]:
    sealed = await app.lanes.run(Lane.READ, partial(app.store.secrets.sealed, info.id))

    def call() -> str:
        value = app.vault.open(sealed)
        app.redaction.learn([value], app.now())
        return tester.test(value, where, app.now())

    try:
        message = await app.lanes.run(Lane.NETWORK, call, timeout_s=TEST_TIMEOUT_S)
    except trio.TooSlowError as error:
        late = f"No answer within {TEST_TIMEOUT_S:.0f} s: try again later."
        raise _ERRORS[info.type](late, Fault.TRANSIENT) from error
    except OutsideError as error:
        said = app.redaction.mask.text(str(error))
        if error.fault is Fault.CREDENTIALS:
            return False, said
        raise _ERRORS[info.type](said, error.fault) from error
    await app.lanes.run(Lane.STORE, partial(app.store.secrets.used, info.id, app.now()))
    return True, app.redaction.mask.text(message)
