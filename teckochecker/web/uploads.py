"""Scripts as they come in: forms with an archive, or one text; stored before anything refers
to them, so that a job never names a script that isn't there."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

from quart import request
from werkzeug.datastructures import FileStorage

from teckochecker.app import App
from teckochecker.domain import Document
from teckochecker.errors import FieldError, FolderError, InvalidInput
from teckochecker.lanes import Lane
from teckochecker.scripts import archive, shelf
from teckochecker.scripts.shelf import Script
from teckochecker.web import wire

_SUFFIXES = (".tgz", ".tar.gz")


def is_form() -> bool:
    return (request.content_type or "").lower().startswith("multipart/form-data")


async def form(text: str | None, file: str) -> tuple[Document, bytes | None]:
    """The JSON document of the part `text` ({} where None), and the archive of the part `file`."""
    texts, files = await request.form, await request.files
    for name in (*texts, *files):
        if name not in (text, file):
            message = (
                f"isn't a part of this form; known are {', '.join(filter(None, (text, file)))}"
            )
            raise _fault(name[:100], message)
    if len(texts.getlist(text or "")) > 1 or len(files.getlist(file)) > 1:
        raise _fault(file, "must not be given twice")
    if text is not None and text not in texts:
        raise _fault(text, "is required: send the job's fields in it, as JSON")
    if file in texts:
        raise _fault(file, f"must be a file: send it like `-F '{file}=@script.tgz'`")
    document = {} if text is None else wire.decode(texts[text].encode(errors="surrogatepass"))
    return document, _packed(files[file], file) if file in files else None


def _packed(found: FileStorage, part: str) -> bytes:
    if found.filename and not found.filename.lower().endswith(_SUFFIXES):
        raise _fault(part, "must be a .tgz or .tar.gz file: pack it with `tar czf script.tgz ...`")
    data = found.stream.read()
    if not data:
        raise _fault(part, "is empty")
    return data


async def stored_archive(app: App, packed: bytes, entrypoint: str, field: str) -> Script:
    """An accepted upload on the shelf; InvalidInput names `field`."""
    folder = app.settings.scripts
    path = await app.lanes.run(Lane.CARE, partial(_spooled, folder, packed))
    try:
        accept = partial(archive.accept, path, folder, entrypoint=entrypoint)
        return await app.lanes.archive(accept)
    except InvalidInput as error:
        raise _fault(field, str(error)) from error
    finally:
        path.unlink(missing_ok=True)


async def stored_text(app: App, text: str, entrypoint: str) -> Script:
    """A script that is one text, on the shelf."""
    store = partial(archive.inline, text, app.settings.scripts, entrypoint=entrypoint)
    try:
        return await app.lanes.run(Lane.CARE, store)
    except InvalidInput as error:
        raise _fault("script", str(error)) from error


def _spooled(folder: Path, packed: bytes) -> Path:
    with shelf.storing(folder):
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
