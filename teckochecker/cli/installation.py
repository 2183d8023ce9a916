"""The data of this machine's installation: who holds it, and holding it.

A daemon holds it while it runs, a command only as long as one request takes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from teckochecker.errors import AlreadyRunning, ConfigError, NotReachable
from teckochecker.lock import DataLock, Holder, holder

if TYPE_CHECKING:
    from teckochecker.app import App
    from teckochecker.config import Settings

SETTLE_S: Final = 10.0  # a daemon starts within a second, a command holds the data for less
_LOOK_EVERY_S: Final = 0.05


def settled(home: Path) -> Holder | None:
    """Who holds the data, once that is clear: a daemon that tells its address, or nobody.

    A holder without an address after 10 s hangs, or is busy with something long.
    """
    until = time.monotonic() + SETTLE_S
    while True:
        found = holder(home)
        if found is None or found.url is not None or time.monotonic() > until:
            return found
        time.sleep(_LOOK_EVERY_S)


def silent(home: Path, found: Holder) -> NotReachable:
    """The error for a holder that tells no address."""
    return NotReachable(
        f"Process {found.pid} holds the data in {home} and tells no address: wait until it has "
        f"started, or end it."
    )


@contextmanager
def held(home: Path) -> Iterator[None]:
    """The data held against every other process; AlreadyRunning when a daemon has it.

    Another command may have it for a moment, and is waited for.
    """
    lock = _lock(home)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def opened(settings: Settings) -> Iterator[App]:
    """The assembled program over held data, without scheduler and server."""
    _refuse_keyless(settings)
    with held(settings.home), assembled(settings) as app:
        yield app


@contextmanager
def assembled(settings: Settings) -> Iterator[App]:
    """As `opened`, for whoever holds the data already."""
    _refuse_keyless(settings)
    from teckochecker.app import assemble
    from teckochecker.telemetry import configure_logging

    app = assemble(settings)
    try:
        configure_logging(app.redaction, level="WARNING", file=None, stream=sys.stderr)
        yield app
    finally:
        app.close()


def open_all(app: App) -> int:
    """How many secrets there are; VaultError for the first that can't be opened."""
    found = app.store.secrets.all()
    for info in found:
        app.vault.open(app.store.secrets.sealed(info.id))
    return len(found)


def _refuse_keyless(settings: Settings) -> None:
    if not settings.secret_key.reveal():
        raise ConfigError(
            "SECRET_KEY is not set: run `teckochecker init` first, which makes a good one."
        )


def _lock(home: Path) -> DataLock:
    until = time.monotonic() + SETTLE_S
    while True:
        try:
            return DataLock(home)
        except AlreadyRunning:
            found = settled(home)
            if (found and found.url) or time.monotonic() > until:
                raise
