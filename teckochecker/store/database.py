"""Connections: one that writes, three that read, and transactions over them.

One writer means that no transaction ever meets another's lock. All connections are used by
many threads, one thread at a time: the writer under the single token of its lane, a reader
taken from a queue for the time of one transaction. Models are bound to no database, so a
query that forgot to say where it runs raises instead of using a wrong connection.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import apsw
import peewee
from playhouse.apsw_ext import APSWDatabase

from teckochecker.errors import FolderError, StoreBroken, StoreBusy, StoreError, StoreFull

READERS: Final = 3
_PRAGMAS: Final = (  # in this order: auto_vacuum after journal_mode=wal is silently ignored
    ("auto_vacuum", "incremental"),
    ("journal_mode", "wal"),
    ("synchronous", "full"),
    ("foreign_keys", 1),
    ("busy_timeout", 5000),
    ("cache_size", -4000),
    ("mmap_size", 0),
)
_READER_PRAGMAS: Final = (("query_only", 1), ("busy_timeout", 5000), ("cache_size", -2000))


class Database:
    """The connections of one SQLite file; use `write()` and `read()`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._writer: Any = APSWDatabase(str(path), pragmas=_PRAGMAS, thread_safe=False)
        self._readers: SimpleQueue[Any] = SimpleQueue()
        self._all_readers = [
            APSWDatabase(str(path), pragmas=_READER_PRAGMAS, thread_safe=False)
            for _ in range(READERS)
        ]
        for reader in self._all_readers:
            self._readers.put(reader)

    def close(self) -> None:
        for database in (*self._all_readers, self._writer):
            if not database.is_closed():
                database.close()

    @contextmanager
    def write(self) -> Iterator[Any]:
        """One `BEGIN IMMEDIATE` transaction; rolled back whole when the body raises."""
        with self._lock, translated(self.path), self._writer.atomic("IMMEDIATE"):
            yield self._writer

    @contextmanager
    def alone(self) -> Iterator[Any]:
        """The writer outside a transaction, for vacuuming and copies."""
        with self._lock, translated(self.path):
            yield self._writer

    @contextmanager
    def read(self) -> Iterator[Any]:
        """One short transaction on a reader: every query in it sees the same state."""
        reader = self._readers.get()
        try:
            with translated(self.path), reader.atomic("DEFERRED"):
                yield reader
        finally:
            self._readers.put(reader)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's faults in the product's kinds."""
    try:
        yield
    except (peewee.PeeweeException, apsw.Error) as error:
        raise _kind(error, path) from error


def _kind(error: Exception, path: Path) -> Exception:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, apsw.Error):
        cause = cause.__cause__ or cause.__context__  # peewee wraps once, and twice while opening
    if isinstance(cause, apsw.FullError):
        return StoreFull(f"The disk that holds {path} is full: free some space, work goes on then.")
    if isinstance(cause, apsw.BusyError | apsw.LockedError):
        return StoreBusy(f"The database {path} is locked by another program: close that program.")
    if isinstance(cause, apsw.CantOpenError | apsw.ReadOnlyError | apsw.PermissionsError):
        return FolderError(f"The database {path} can't be opened for writing: check its folder.")
    if isinstance(cause, apsw.IOError | apsw.CorruptError | apsw.NotADBError):
        return StoreBroken(
            f"The database {path} can't be used ({cause}): check the disk, or restore a backup."
        )
    return StoreError(f"The database refused a statement: {cause or error}")
