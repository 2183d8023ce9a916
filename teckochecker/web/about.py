"""`/api/system`: what runs here, how it is set, and how much room it takes."""

from __future__ import annotations

import platform
import shutil
from contextlib import suppress
from pathlib import Path

from quart import Blueprint, Response
from quart_schema import document_response, tag

from teckochecker import __version__
from teckochecker.addresses import Allowed
from teckochecker.app import App
from teckochecker.config import SETTINGS, Settings
from teckochecker.domain import Secret
from teckochecker.lanes import Lane
from teckochecker.store import sqlite_version
from teckochecker.web import schemas, wire

_FIELDS = {  # of the settings whose field isn't the name in lower case
    "DATABASE_URL": "database",
    "DEFAULT_POLL_INTERVAL": "default_poll_interval_s",
    "MIN_POLL_INTERVAL": "min_poll_interval_s",
    "MAX_POLL_INTERVAL": "max_poll_interval_s",
    "RETRY_DELAY": "retry_delay_s",
    "DRAIN_SECONDS": "drain_s",
}


def about(app: App) -> Blueprint:
    routes = tag(["System"])(Blueprint("about", __name__))  # type: ignore[type-var]  # quart-schema takes blueprints too

    @routes.get("/api/system")
    @document_response(schemas.SystemDocument)
    async def system() -> Response:
        """Versions, settings without secrets, and the room on the disk."""
        return wire.encode(await app.lanes.run(Lane.CARE, lambda: _document(app)))

    return routes


def _document(app: App) -> dict[str, object]:
    settings = app.settings
    disk = shutil.disk_usage(settings.home)
    return {
        "version": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite_version(),
        "system": f"{platform.system()} {platform.release()}",
        "home": str(settings.home),
        "started_at": app.pulse.started_at,
        "disk": {
            "database_bytes": _size_bytes(settings.database),
            "scripts_bytes": _size_bytes(settings.scripts),
            "backups_bytes": _size_bytes(settings.home / "backups"),
            "free_bytes": disk.free,
            "total_bytes": disk.total,
        },
        "settings": _shown(settings),
    }


def _shown(settings: Settings) -> list[dict[str, object]]:
    """Each setting by its outside name; a secret one only says that it is there."""
    return [
        {"name": one.name, "value": _plain(_value(settings, one.name)), "help": one.help}
        for one in SETTINGS
    ]


def _value(settings: Settings, name: str) -> object:
    if name.startswith("DOCKER_"):
        return settings.docker.get(name)
    return getattr(settings, _FIELDS.get(name, name.lower()), None)


def _plain(value: object) -> str | int | None:
    match value:
        case None | int() | str():
            return value
        case Secret():
            return "***"
        case Allowed():
            entries = (*value.names, *value.networks)
            return ", ".join(sorted(_with_port(what, port) for what, port in entries))
        case tuple():
            return ", ".join(str(one) for one in value)
    return str(value)


def _with_port(what: object, port: int | None) -> str:
    return str(what) if port is None else f"{what}:{port}"


def _size_bytes(path: Path) -> int:
    """Of a file with what SQLite keeps beside it, or of a folder and all in it."""
    files = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.name}*")
    total = 0
    for file in files:
        with suppress(FileNotFoundError):  # it was deleted meanwhile
            total += file.stat().st_size
    return total
