"""Scripts as they come in: forms with an archive, or one text; stored before anything refers
to them, so that a job never names a script that isn't there."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from quart import request
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder

from teckochecker.app import App
from teckochecker.domain import Document
from teckochecker.errors import FieldError, FolderError, InvalidInput
from teckochecker.lanes import Lane
from teckochecker.scripts import archive, shelf
from teckochecker.scripts.shelf import Script
from teckochecker.web import wire
from teckochecker.web.guard import BODY_BYTES
from teckochecker.web.problems import TooLarge

ROOM_BYTES: Final = 256 * 1024 * 1024  # must stay free: an upload unpacks to 64 MiB
_SUFFIXES: Final = (".tgz", ".tar.gz")


class _Part(NamedTuple):
    """A part of a form; `filename` is None where none was sent."""

    name: str
    filename: str | None
    content: bytearray


def is_form() -> bool:
    return (request.content_type or "").lower().startswith("multipart/form-data")


async def form(app: App, text: str | None, file: str) -> tuple[Document, bytes | None]:
    """The JSON document of the part `text` ({} where None), and the archive of the part `file`."""
    boundary = parse_options_header(request.content_type)[1].get("boundary", "")
    read = partial(_parts, await wire.body(), boundary.encode("latin-1", "replace"))
    parts = await app.lanes.run(Lane.CARE, read)  # 10 MB would hold up everybody else here
    known = tuple(filter(None, (text, file)))
    for name in parts:
        if name not in known:
            raise _fault(name[:100], f"isn't a part of this form; known are {', '.join(known)}")
    if text is not None and text not in parts:
        raise _fault(text, "is required: send the job's fields in it, as JSON")
    document = {} if text is None else _document(parts[text])
    return document, _packed(parts[file]) if file in parts else None


def _parts(body: bytes, boundary: bytes) -> dict[str, _Part]:
    """The parts of a form by name; InvalidInput for what isn't a whole form.

    Quart's own reader fails at a part without a name, and mends bytes that aren't UTF-8.
    """
    decoder = MultipartDecoder(boundary)
    decoder.receive_data(body)
    decoder.receive_data(None)
    found: dict[str, _Part] = {}
    part = _Part("", None, bytearray())
    try:
        while not isinstance(event := decoder.next_event(), Epilogue):
            if isinstance(event, Field | File):
                filename = event.filename if isinstance(event, File) else None
                part = _Part(event.name or "?", filename, bytearray())
                if part.name in found:
                    raise _fault(part.name[:100], "must not be given twice")
                found[part.name] = part
            elif isinstance(event, Data):
                part.content.extend(event.data)
    except ValueError:
        raise InvalidInput(
            "The body isn't a form, or not a whole one: send it like `-F 'NAME=@FILE'`."
        ) from None
    return found


def _document(part: _Part) -> Document:
    if len(part.content) > BODY_BYTES:
        raise TooLarge(f"{part.name} is over {BODY_BYTES} bytes: send less.")
    return wire.decode(bytes(part.content))


def _packed(part: _Part) -> bytes:
    if part.filename is None:
        raise _fault(part.name, f"must be a file: send it like `-F '{part.name}=@script.tgz'`")
    if part.filename and not part.filename.lower().endswith(_SUFFIXES):
        raise _fault(
            part.name, "must be a .tgz or .tar.gz file: pack it with `tar czf script.tgz ...`"
        )
    if not part.content:
        raise _fault(part.name, "is empty")
    return bytes(part.content)


async def stored_archive(app: App, packed: bytes, entrypoint: str, field: str) -> Script:
    """An accepted upload on the shelf; InvalidInput names `field`."""
    folder = app.settings.scripts
    path = await app.lanes.run(Lane.CARE, partial(_spooled, folder, packed))
    try:
        return await app.lanes.archive(partial(archive.take, path, folder, entrypoint=entrypoint))
    except InvalidInput as error:
        raise _fault(field, str(error)) from error


async def stored_text(app: App, text: str, entrypoint: str) -> Script:
    """A script that is one text, on the shelf."""
    store = partial(archive.inline, text, app.settings.scripts, entrypoint=entrypoint)
    try:
        return await app.lanes.run(Lane.CARE, store)
    except InvalidInput as error:
        raise _fault("script", str(error)) from error


def _spooled(folder: Path, packed: bytes) -> Path:
    with shelf.storing(folder):
        free = shutil.disk_usage(folder).free
        if free < ROOM_BYTES:
            raise FolderError(
                f"Only {free >> 20} MiB are free in {folder}, and {ROOM_BYTES >> 20} must be left "
                f"for the database: make room."
            )
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=shelf.UNFINISHED)
        with os.fdopen(descriptor, "wb") as file:
            file.write(packed)
        return Path(name)


def _fault(field: str, message: str) -> InvalidInput:
    return InvalidInput(f"{field} {message}", (FieldError(field, message),))


def described(app: App, state: Document) -> dict[str, object]:
    """What is stored of a script: its files, and its text where it is one small text file."""
    try:
        files, text = shelf.listing(app.settings.scripts, state["sha256"])
    except FolderError:
        files, text = [], None
    return {
        "sha256": state["sha256"],
        "size_bytes": state["size_bytes"],
        "commit": state.get("commit"),
        "stored_at": state["stored_at"],
        "files": [{"path": path, "size_bytes": size} for path, size in files],
        "text": text,
    }
