"""Copies of a database file: made beside a running daemon, and examined before they are trusted.

They have connections of their own, so that a command can copy what a daemon holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import apsw

from teckochecker.domain import Value
from teckochecker.errors import StoreBroken
from teckochecker.store.database import translated

UNFINISHED: Final = ".new-"
_BUSY_MS: Final = 5000
_FAULTS_TOLD: Final = 3
_OUR_TABLES: Final = (
    "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('meta', 'jobs', 'tokens')"
)


class Facts(Value, frozen=True, kw_only=True):
    """What a sound database file says of itself; `tokens` are hashes."""

    schema: int
    meta: Mapping[str, str]
    jobs: int
    tokens: frozenset[bytes]


def copy(source: Path, target: Path) -> None:
    """A consistent copy for its owner alone: whole and durable under its name, or not there.

    It holds no lock that a writer would wait for (97 MB took 0.2 s beside a busy one).
    """
    part = target.with_name(UNFINISHED + target.name)
    part.unlink(missing_ok=True)
    try:
        with _opened(source, apsw.SQLITE_OPEN_READWRITE) as connection, translated(part):
            part.touch(mode=0o600)
            connection.execute("VACUUM INTO ?", (str(part),))
        sync(part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    sync(target.parent)


def examined(path: Path) -> Facts:
    """The facts of a copy that nobody writes to; StoreBroken when SQLite finds a fault in it."""
    uri = f"file:{quote(str(path))}?immutable=1"
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    with _opened(path, flags, uri) as connection:
        connection.execute("PRAGMA trusted_schema = 0; PRAGMA cell_size_check = 1")
        faults = [row[0] for row in connection.execute(f"PRAGMA integrity_check({_FAULTS_TOLD})")]
        if faults != ["ok"]:
            raise StoreBroken(f"The database {path} is damaged: {'; '.join(faults)}.")
        if connection.execute(_OUR_TABLES).get != 3:
            raise StoreBroken(f"{path} is no database of TeckoChecker.")
        return Facts(
            schema=connection.execute("PRAGMA user_version").get,
            meta=dict(connection.execute("SELECT key, value FROM meta").fetchall()),
            jobs=connection.execute("SELECT count(*) FROM jobs").get,
            tokens=frozenset(row[0] for row in connection.execute("SELECT hash FROM tokens")),
        )


def schema_of(path: Path) -> int:
    """The number of a database's schema; it may be in use."""
    with _opened(path, apsw.SQLITE_OPEN_READONLY) as connection:
        found: int = connection.execute("PRAGMA user_version").get
        return found


def settle(path: Path) -> None:
    """Bring the file and its log together; StoreBusy while another program reads or writes it."""
    with _opened(path, apsw.SQLITE_OPEN_READWRITE) as connection:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise apsw.BusyError("the log can't be emptied")


def prune(folder: Path, pattern: str, keep: int) -> None:
    """Remove all but the newest copies whose names match."""
    found = sorted(folder.glob(pattern), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for file in found[keep:]:
        file.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """What a file or folder holds reaches the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _opened(path: Path, flags: int, name: str | None = None) -> Iterator[Any]:
    with translated(path):
        connection = apsw.Connection(name or str(path), flags=flags)
        try:
            connection.set_busy_timeout(_BUSY_MS)
            yield connection
        finally:
            connection.close()
