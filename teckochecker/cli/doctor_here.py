"""What `doctor` looks at on this machine: folder, key, database, disk, clock, port, backups."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from teckochecker.cli import installation
from teckochecker.cli.client import health
from teckochecker.errors import ConfigError, TeckoError
from teckochecker.lock import Holder

if TYPE_CHECKING:
    from teckochecker.config import Settings

SOUND_SQLITE: Final = (3, 51, 3)  # before it, two connections can corrupt a WAL database
LITTLE_SPACE_BYTES: Final = 100 * 1024 * 1024
SOME_SPACE_BYTES: Final = 1024 * 1024 * 1024
SKEW_S: Final = 60.0
OLD_BACKUP_S: Final = 7 * 86400.0
_PRIVATE: Final = 0o077  # rights of others on what holds secrets

State = Literal["ok", "note", "warning", "bad"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, and what to do about it."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def folder(home: Path) -> Check:
    name = "folder"
    if not home.is_dir():
        return Check(name, "bad", f"{home} doesn't exist", "run `teckochecker init`")
    if home.stat().st_mode & _PRIVATE:
        return Check(name, "warning", f"{home} is open to other users", f"chmod 700 {home}")
    return Check(name, "ok", str(home))


def private(file: Path) -> Check:
    if not file.exists():
        remedy = "run `teckochecker init`, unless the environment gives what it would hold"
        return Check(file.name, "warning", f"{file} doesn't exist", remedy)
    if file.stat().st_mode & _PRIVATE:
        return Check(file.name, "bad", f"{file} is open to other users", f"chmod 600 {file}")
    return Check(file.name, "ok", f"{file}, for its owner only")


def daemon(running: Holder | None) -> Check:
    name = "daemon"
    if running is None:
        return Check(name, "warning", "none runs", "run `teckochecker start`")
    if running.url is None:
        detail = f"process {running.pid} holds the data and tells no address"
        return Check(name, "bad", detail, "wait until it has started, or end it")
    try:
        found = health(running.url).document()
    except TeckoError as error:
        return Check(name, "bad", str(error), "stop it and start it again; see its log")
    states: dict[str, State] = {"ok": "ok", "degraded": "warning"}
    detail = "; ".join([f"{found['status']} at {running.url}", *found["reasons"]])
    return Check(name, states.get(found["status"], "bad"), detail)


def key(settings: Settings) -> Check:
    from teckochecker.vault import refuse_weak_key

    try:
        refuse_weak_key(settings.secret_key.reveal())
    except ConfigError as error:
        return Check("key", "bad", str(error), "set SECRET_KEY to a good one")
    if settings.secret_key_old is not None:
        remedy = "start the daemon, which encrypts everything anew, then take it out"
        return Check("key", "note", "SECRET_KEY_OLD is still set", remedy)
    return Check("key", "ok", "SECRET_KEY is a strong one; keep a copy elsewhere")


def database(settings: Settings, running: Holder | None) -> Check:
    name, path = "database", settings.database
    if not path.exists():
        remedy = "run `teckochecker init`, or restore a backup"
        return Check(name, "bad", f"{path} doesn't exist", remedy)
    if running is not None:
        return Check(name, "ok", f"{path}, {_schema(path)}, opened by the daemon")
    try:
        with installation.opened(settings) as app:
            number = installation.open_all(app)
    except TeckoError as error:
        return Check(name, "bad", str(error), "mend this first: the daemon can't start")
    return Check(name, "ok", f"{path}, {_schema(path)}; SECRET_KEY opens all {number} secrets")


def sqlite() -> Check:
    from teckochecker.store import sqlite_version

    version = sqlite_version()
    if tuple(int(part) for part in version.split(".")[:3]) < SOUND_SQLITE:
        remedy = "install apsw 3.51.3 or later"
        return Check("SQLite", "bad", f"{version} can corrupt a database", remedy)
    return Check("SQLite", "ok", version)


def space(*folders: Path) -> Iterator[Check]:
    """One line for each disk that holds one of the folders."""
    disks: dict[int, Path] = {}
    for one in folders:
        there = one if one.is_dir() else Path("/")
        disks.setdefault(there.stat().st_dev, there)
    yield from map(_space, disks.values())


def _space(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    detail = f"{free // (1024 * 1024)} MB free on the disk of {folder}"
    remedy = "free some, before writing fails"
    if free < LITTLE_SPACE_BYTES:
        return Check("disk", "bad", detail, remedy)
    if free < SOME_SPACE_BYTES:
        return Check("disk", "warning", detail, remedy)
    return Check("disk", "ok", detail)


def clock(database: Path) -> Check:
    """A clock that was set back lets every job wait for the time that it knows."""
    behind_s = database.stat().st_mtime - time.time() if database.exists() else 0.0
    if behind_s > SKEW_S:
        detail = f"{behind_s:.0f} s behind the database's last change"
        return Check("clock", "bad", detail, "set the clock, best by NTP")
    return Check("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def port(settings: Settings, running: Holder | None) -> Check:
    where = f"{settings.api_host}:{settings.api_port}"
    if running is not None:
        return Check("port", "ok", "in use by the daemon")
    from teckochecker.daemon import listen

    try:
        listen(settings.api_host, settings.api_port).close()
    except TeckoError as error:
        return Check("port", "bad", str(error), "set API_PORT to a free one")
    return Check("port", "ok", f"{where} can be listened on")


def backups(home: Path, jobs: Sequence[Any]) -> Check:
    """How old the newest backup in the home is; those elsewhere aren't known."""
    from teckochecker.backup import SUFFIX

    name, remedy = "backups", "run `teckochecker backup create`, best every night"
    found = [file.stat().st_mtime for file in (home / "backups").glob(f"[!.]*{SUFFIX}")]
    if not found:
        state: State = "warning" if jobs else "note"
        return Check(name, state, f"none in {home / 'backups'}", remedy)
    age_s = time.time() - max(found)
    detail = f"the newest in {home / 'backups'} is {age_s / 86400:.1f} days old"
    if age_s > OLD_BACKUP_S:
        return Check(name, "warning", detail, remedy)
    return Check(name, "ok", detail)


def _schema(path: Path) -> str:
    from teckochecker.store.copies import schema_of
    from teckochecker.store.schema import MIGRATIONS

    try:
        return f"schema {schema_of(path)} of {len(MIGRATIONS)}"
    except TeckoError as error:
        return f"its schema can't be read ({error})"
