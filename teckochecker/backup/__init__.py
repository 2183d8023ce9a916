"""Backups: database and scripts in one file, made beside a running daemon.

The sealed secrets are in it, the SECRET_KEY that opens them isn't. A backup is made of copies
that nobody writes to, and is read in full before a restore replaces anything.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from teckochecker import __version__
from teckochecker.backup import archive
from teckochecker.backup.archive import DATABASE, SUFFIX, Manifest, Member, Progress, manifest_of
from teckochecker.domain import Secret, Value
from teckochecker.errors import (
    ConfigError,
    Conflict,
    FolderError,
    NotFound,
    StoreBroken,
)
from teckochecker.store import copies
from teckochecker.store.copies import Facts
from teckochecker.store.schema import COPY_PREFIX, MIGRATIONS
from teckochecker.vault import Vault

__all__ = [
    "BEFORE_RESTORE",
    "BEFORE_UPGRADE",
    "PREFIX",
    "SUFFIX",
    "Facts",
    "Made",
    "Manifest",
    "Progress",
    "Restored",
    "Unpacked",
    "create",
    "manifest_of",
    "named",
    "refuse_unfit",
    "restore",
    "unpacked",
]

PREFIX: Final = "teckochecker-"
BEFORE_UPGRADE: Final = COPY_PREFIX
BEFORE_RESTORE: Final = "before-restore-"
_SQLITE: Final = b"SQLite format 3\0"
_STALE: Final = timedelta(days=1)  # what a run left that was killed so long ago


class Made(Value, frozen=True, kw_only=True):
    """A backup that was written; `damaged` are scripts left out, since they aren't what they were.

    Each is named by the SHA-256 that it should have.
    """

    path: Path
    size_bytes: int
    manifest: Manifest
    damaged: tuple[str, ...]


class Unpacked(Value, frozen=True, kw_only=True):
    """A backup's good content in `folder`; without a manifest it is a database alone."""

    folder: Path
    facts: Facts
    manifest: Manifest | None

    @property
    def scripts(self) -> int:
        return self.manifest.scripts if self.manifest else 0


class Restored(Value, frozen=True, kw_only=True):
    """What a restore did; `replaced` is the former database, None where there was none."""

    database: Path
    replaced: Path | None
    scripts: int


def create(home: Path, database: Path, target: Path, now: datetime, progress: Progress) -> Made:
    """Write a backup to `target`, which mustn't exist yet."""
    if target.exists():
        raise Conflict(f"{target} exists: name another file, or move that one away.")
    if not database.exists():
        raise NotFound(f"There is no database {database} to back up: run `teckochecker init`.")
    with _staging(home / "backups", now) as staging, _writing(target):
        progress("copying the database")
        _collect(home / "scripts", staging)
        copies.copy(database, staging / DATABASE)
        _collect(home / "scripts", staging)  # what has come since, and the copy may mention
        progress("checking the copy")
        facts = copies.examined(staging / DATABASE)
        members, damaged = _members(staging)
        manifest = Manifest(
            format=archive.FORMAT,
            version=__version__,
            schema=facts.schema,
            created_at=now,
            members=members,
        )
        archive.publish(manifest, staging, target, progress)
        size_bytes = target.stat().st_size
    return Made(path=target, size_bytes=size_bytes, manifest=manifest, damaged=damaged)


@contextmanager
def unpacked(path: Path, parent: Path, now: datetime, progress: Progress) -> Iterator[Unpacked]:
    """A backup, read in full and found good, in a folder within `parent` for as long as needed.

    A database alone, as upgrades and restores leave it in `backups`, is taken as well.
    FolderError says what is damaged.
    """
    if not path.is_file():
        raise NotFound(f"There is no backup {path}: `teckochecker backup list` shows those here.")
    with _staging(parent, now) as staging:
        yield _unpack(path, staging, progress)


def refuse_unfit(found: Unpacked, key: Secret, old_key: Secret | None) -> None:
    """ConfigError when this program, or this key, can't open the backup's database."""
    have, known = found.facts.schema, len(MIGRATIONS)
    if have > known:
        by = f"TeckoChecker {found.manifest.version}" if found.manifest else "a newer program"
        raise ConfigError(
            f"The backup has schema {have}, this program knows {known}: restore it with {by}."
        )
    meta = found.facts.meta
    if "salt" in meta:
        vault = Vault(key, salt=bytes.fromhex(meta["salt"]), old_key=old_key)
        vault.verify(bytes.fromhex(meta["key_check"]))


def restore(found: Unpacked, home: Path, database: Path, now: datetime) -> Restored:
    """Put a backup's content in place; the caller holds the data, and nobody has it open.

    The scripts come first, since more of them do no harm. The database then changes by one
    rename; the former one is kept in `backups`.
    """
    with _writing(database):
        number = _put_scripts(found.folder / "scripts", home / "scripts")
        replaced = _keep(database, home / "backups", now) if database.exists() else None
        for name in ("-wal", "-shm"):  # of the former one: it would be played into the new
            database.with_name(database.name + name).unlink(missing_ok=True)
        copies.sync(database.parent)
        (found.folder / DATABASE).replace(database)
        copies.sync(database.parent)
    return Restored(database=database, replaced=replaced, scripts=number)


def named(prefix: str, now: datetime, suffix: str) -> str:
    """A file's name that sorts by time."""
    return f"{prefix}{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03}Z{suffix}"


def _collect(shelf: Path, staging: Path) -> None:
    """Hold on to the shelf's scripts: linked, so that what is removed there stays here."""
    held = staging / "scripts"
    held.mkdir(mode=0o700, exist_ok=True)
    for file in shelf.glob("*.tar"):
        if archive.is_script(f"scripts/{file.name}") and not (held / file.name).exists():
            _linked(file, held / file.name)


def _linked(file: Path, target: Path) -> None:
    """The same content under another name; a file that has just gone gives none."""
    try:
        os.link(file, target)
    except FileNotFoundError:
        return
    except OSError:  # another file system, or one without links
        shutil.copy(file, target)


def _members(staging: Path) -> tuple[tuple[Member, ...], tuple[str, ...]]:
    """The database and the good scripts, and the names of the others."""
    members, damaged = [archive.member(staging, DATABASE)], []
    for file in sorted((staging / "scripts").iterdir()):
        script = archive.member(staging, f"scripts/{file.name}")
        if script.sha256 == file.stem:
            members.append(script)
        else:
            damaged.append(file.stem)
    return tuple(members), tuple(damaged)


def _unpack(path: Path, staging: Path, progress: Progress) -> Unpacked:
    with archive.reading(path), path.open("rb") as file:
        is_database = file.read(len(_SQLITE)) == _SQLITE
    try:
        if is_database:
            manifest = None
            _take(path, staging / DATABASE)
        else:
            manifest = archive.read(path, staging, progress)
        progress("checking the database")
        facts = copies.examined(staging / DATABASE)
    except StoreBroken as error:
        raise archive.damaged(path, "SQLite finds faults in its database") from error
    return Unpacked(folder=staging, facts=facts, manifest=manifest)


def _take(path: Path, target: Path) -> None:
    """A database that nobody writes to; its folder may be one that can't be written."""
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        copies.copy(path, target)
        return
    with _writing(target):
        shutil.copyfile(path, target)
        target.chmod(0o600)
        copies.sync(target)


def _put_scripts(source: Path, shelf: Path) -> int:
    """Every script of the backup lies on the shelf, durably; how many came with it."""
    files = sorted(source.iterdir()) if source.is_dir() else []
    if not files:
        return 0
    shelf.mkdir(mode=0o700, exist_ok=True)
    for file in files:
        part = shelf / f"{copies.UNFINISHED}{file.name}"
        shutil.copy(file, part)
        copies.sync(part)
        part.replace(shelf / file.name)
    copies.sync(shelf)
    return len(files)


def _keep(database: Path, backups: Path, now: datetime) -> Path:
    """The database under a second name; with its log, if it is too broken to take that in."""
    backups.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = backups / named(BEFORE_RESTORE, now, ".db")
    log = database.with_name(f"{database.name}-wal")
    kept_log = kept.with_name(f"{kept.name}-wal")
    if log.exists():  # copied first: SQLite removes the log of what it doesn't know
        shutil.copy(log, kept_log)
    try:
        copies.settle(database)
        kept_log.unlink(missing_ok=True)
    except StoreBroken:
        pass  # it is replaced for a reason
    _linked(database, kept)
    copies.sync(kept)
    copies.sync(backups)
    return kept


@contextmanager
def _staging(parent: Path, now: datetime) -> Iterator[Path]:
    """A private folder that is gone afterwards, and so is what killed runs left a day ago."""
    with _writing(parent):
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in parent.glob(f"{copies.UNFINISHED}*"):
            if old.is_dir() and old.stat().st_mtime < (now - _STALE).timestamp():
                shutil.rmtree(old, ignore_errors=True)
        folder = tempfile.TemporaryDirectory(dir=parent, prefix=copies.UNFINISHED)
    with folder as name:
        yield Path(name)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or target
        raise FolderError(
            f"{where} can't be written ({error.strerror or error}): check folder and disk."
        ) from error
