"""The database: the only door to peewee and SQLite.

One public method is one transaction; methods take and give domain values and are called in
worker threads only. `Store` opens the file and migrates it; its parts hold the methods.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import apsw

from teckochecker.errors import FolderError
from teckochecker.store.agenda import Agenda, AgendaStore, Busy, DeliveryDue, Totals
from teckochecker.store.care import Care
from teckochecker.store.database import Database
from teckochecker.store.deliveries import Deliveries, DeliveryView, DeliveryWork
from teckochecker.store.history import Beat, Beats, Counts, History, News
from teckochecker.store.jobs import CheckWork, JobFilter, Jobs, JobView, job_view
from teckochecker.store.schema import migrate
from teckochecker.store.secrets import SealedRole, Secrets

__all__ = [
    "Agenda",
    "Beat",
    "Beats",
    "Busy",
    "CheckWork",
    "Counts",
    "DeliveryDue",
    "DeliveryView",
    "DeliveryWork",
    "JobFilter",
    "JobView",
    "News",
    "SealedRole",
    "Store",
    "Totals",
    "job_view",
    "sqlite_version",
]


class Store:
    """One open database; close it when done."""

    def __init__(self, path: Path, *, backups: Path) -> None:
        _refuse_folder(path)
        self._database = Database(path)
        with ExitStack() as undo:
            undo.callback(self._database.close)
            migrate(self._database, backups)
            undo.pop_all()
        self.jobs = Jobs(self._database)
        self.secrets = Secrets(self._database)
        self.deliveries = Deliveries(self._database)
        self.agenda = AgendaStore(self._database)
        self.care = Care(self._database)
        self.history = History(self._database)

    def close(self) -> None:
        self._database.close()


def sqlite_version() -> str:
    version: str = apsw.sqlite_lib_version()
    return version


def _refuse_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("ab"):
            pass
        path.chmod(0o600)
    except OSError as error:
        raise FolderError(
            f"The database {path} can't be written ({error.strerror}): check the folder's owner "
            f"and rights, or set DATABASE_URL to another place."
        ) from error
