"""`daemon.lock`: who holds the data of an installation, and where it answers.

The lock is the operating system's (`flock`): it ends with its process, however that ends.
The text in the file, pid and address, counts only while the lock is held. `supervisor.lock`
is held in the same way by the parent that starts a detached daemon again.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teckochecker.errors import AlreadyRunning, FolderError

DAEMON: Final = "daemon.lock"
SUPERVISOR: Final = "supervisor.lock"
TRIES: Final = 10
TRY_EVERY_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds the lock; `url` is None until it answers."""

    pid: int
    url: str | None


class DataLock:
    """Held from construction to `release()`; AlreadyRunning when another process holds it."""

    def __init__(self, home: Path, name: str = DAEMON) -> None:
        self._path = home / name
        try:
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FolderError(
                f"The folder {home} can't be written ({error.strerror}): check its owner and "
                f"rights, or set TECKOCHECKER_HOME to another place."
            ) from error
        if not self._taken():
            os.close(self._file)
            raise AlreadyRunning(_running(holder(home) or holder(home, name)))
        self.tell(None)

    def _taken(self) -> bool:
        """Whether the lock is ours; who only looks at it holds it for an instant, too."""
        for _ in range(TRIES):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(TRY_EVERY_S)
            else:
                return True
        return False

    def tell(self, url: str | None) -> None:
        """Write who holds the lock, and where it answers."""
        text = json.dumps({"pid": os.getpid(), "url": url}).encode()
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text, 0)

    def fileno(self) -> int:
        return self._file

    def hand_on(self) -> None:
        """Leave the lock to the child that has inherited its descriptor."""
        os.close(self._file)

    def release(self) -> None:
        os.ftruncate(self._file, 0)
        os.close(self._file)


def holder(home: Path, name: str = DAEMON) -> Holder | None:
    """Who holds the lock now; None when nobody does."""
    try:
        file = os.open(home / name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _told(os.pread(file, 4096, 0))
    else:
        return None
    finally:
        os.close(file)


def _told(text: bytes) -> Holder:
    try:
        document = json.loads(text)
        return Holder(int(document["pid"]), document["url"])
    except (ValueError, KeyError, TypeError):
        return Holder(0, None)  # it holds the lock, and is just about to write who it is


def _running(found: Holder | None) -> str:
    who = f" (pid {found.pid}{f', {found.url}' if found.url else ''})" if found else ""
    return f"Another process holds this installation's data{who}: stop it first."
